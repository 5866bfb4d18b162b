package serve

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestCheckFindsTheModuleServer(t *testing.T) {
	modules, _ := storeWith(t, "a module")
	if err := Check(t.Context(), start(t, modules)); err != nil {
		t.Error(err)
	}
}

func TestCheckWaitsForTheModuleServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 1)
	refusing := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "not yet", http.StatusServiceUnavailable)
		select {
		case asked <- struct{}{}:
		default:
		}
	})}
	ended := make(chan error, 1)
	go func() { ended <- refusing.Serve(listener) }()
	checked := make(chan error, 1)
	go func() { checked <- Check(t.Context(), "http://"+listener.Addr().String()) }()

	<-asked
	if err := refusing.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		t.Fatal(err)
	}
	modules, _ := storeWith(t, "a module")
	server, err := New(listener.Addr().String(), modules, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	go func() { ended <- server.Start(ctx) }()
	if err := <-checked; err != nil {
		t.Error(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestCheckSaysWhyNothingAnswers(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	for url, want := range map[string]string{
		other.URL:             "something else answers there, with status 404",
		"http://127.0.0.1:1":  "connection refused",
		"gopher://127.0.0.1/": "unsupported protocol scheme",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := Check(ctx, url); err == nil || !strings.Contains(err.Error(), "the module server does not answer at "+url) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", url, err)
		}
		cancel()
	}
}
