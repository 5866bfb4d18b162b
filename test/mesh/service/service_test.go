// Licensed under the Apache License, Version 2.0; see LICENSE.

package service_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/wasme-io/wasme-operator/test/mesh/service"
)

func TestConnectionsGoToTheEndpointsInTurnDeadOrNot(t *testing.T) {
	one, two := endpoint(t, "one"), endpoint(t, "two")
	s := start(t, address(one), address(two))
	one.Close()
	for _, want := range []string{"", "two", "", "two"} {
		if got := ask(s); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	s.SetEndpoints(address(two))
	for range 2 {
		if got := ask(s); got != "two" {
			t.Errorf("%q once the dead one is out", got)
		}
	}
	s.SetEndpoints()
	if got := ask(s); got != "" {
		t.Errorf("%q without endpoints", got)
	}
}

func TestAHeldAnswerGoesOnOrIsCut(t *testing.T) {
	long := strings.Repeat("long", 1000)
	one := endpoint(t, long)
	s := start(t, address(one))
	for name, c := range map[string]struct {
		end  func(*service.Hold)
		want string
	}{
		"released": {(*service.Hold).Release, long},
		"cut":      {(*service.Hold).Cut, ""},
	} {
		t.Run(name, func(t *testing.T) {
			hold := s.Hold(1000)
			answer := make(chan string)
			go func() { answer <- ask(s) }()
			if got := <-hold.Reached; got != address(one) {
				t.Errorf("held at %s", got)
			}
			c.end(hold)
			if got := <-answer; got != c.want {
				t.Errorf("an answer of %d bytes, not %d", len(got), len(c.want))
			}
			if got := ask(s); got != long {
				t.Errorf("an answer of %d bytes after that", len(got))
			}
		})
	}
}

func endpoint(t *testing.T, answer string) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, answer) // the client may be gone
	}))
	t.Cleanup(server.Close)
	return server
}

func address(of *httptest.Server) string { return of.Listener.Addr().String() }

func start(t *testing.T, endpoints ...string) *service.Service {
	t.Helper()
	s, err := service.Start("127.0.0.1:0", endpoints...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// ask is the whole answer to a request over a connection of its own, or nothing.
func ask(s *service.Service) string {
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Get(s.URL())
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return ""
	}
	return string(body)
}
