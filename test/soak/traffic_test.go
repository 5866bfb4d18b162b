package main

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestAConnectionStaysUntilTheServerEndsIt(t *testing.T) {
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("hello", "staged-1")
		if connections.Load() == 2 {
			w.Header().Set("Connection", "close")
		}
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	c := &connection{address: strings.TrimPrefix(server.URL, "http://")}
	defer c.close()
	ask := func() (status int, hello []string) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		answer := c.ask(ctx)
		return answer.Status, answer.Hello
	}
	for range 3 {
		if status, hello := ask(); status != http.StatusOK || !slices.Equal(hello, []string{"staged-1"}) {
			t.Fatalf("%d %v", status, hello)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("three requests took %d connections", n)
	}

	server.CloseClientConnections()
	if status, _ := ask(); status != 0 {
		t.Errorf("a connection that was cut is not noticed: %d", status)
	}
	for range 2 { // the server ends the second connection
		if status, _ := ask(); status != http.StatusOK {
			t.Errorf("it does not connect again: %d", status)
		}
	}
	if n := connections.Load(); n != 3 {
		t.Errorf("%d connections, not 3", n)
	}
}

func TestAConnectionDoesNotWaitLongerThanAsked(t *testing.T) {
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-ended }))
	defer server.Close()
	defer close(ended)
	c := &connection{address: strings.TrimPrefix(server.URL, "http://")}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if answer := c.ask(ctx); answer.Status != 0 {
		t.Errorf("%v", answer)
	}
}
