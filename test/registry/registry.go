// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package registry is an OCI registry for tests: a real one
// (go-containerregistry's) behind a handler that asks for credentials, counts
// requests and fails on demand. Beside images it serves plain files. It listens
// on loopback only and keeps everything in memory.
package registry

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/wasme-io/wasme-operator/test/mesh/ports"
)

// Registry is one running registry. All methods may be called concurrently,
// save Down, Up and Close, which belong to one goroutine.
type Registry struct {
	content http.Handler // the registry itself: no credentials, no faults
	ports   ports.Pool   // holds the port while the registry is down
	address string
	tls     bool
	server  *httptest.Server // nil while down

	mu       sync.Mutex
	auth     auth
	fault    Fault
	requests map[request]int
	files    map[string][]byte
}

type request struct{ method, path string }

// Option sets up a Registry before it serves its first request.
type Option func(*Registry)

// WithTLS makes the registry serve https with a certificate that no system
// trusts; Certificate returns it.
func WithTLS() Option { return func(r *Registry) { r.tls = true } }

// Start serves an empty registry on a free loopback port. Close ends it.
func Start(options ...Option) (*Registry, error) {
	r := &Registry{
		content:  NewHandler(),
		requests: map[request]int{},
		files:    map[string][]byte{},
		auth:     auth{private: map[string][]string{}, tokens: map[string]string{}},
	}
	for _, option := range options {
		option(r)
	}
	port, err := r.ports.Port()
	if err != nil {
		return nil, err
	}
	r.address = fmt.Sprintf("127.0.0.1:%d", port)
	if err := r.Up(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// NewHandler returns a bare registry that keeps everything in memory and has no
// authentication: what a standalone process serves.
func NewHandler() http.Handler {
	return registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true))
}

// Host is the registry's host:port, which stays the same over Down and Up.
func (r *Registry) Host() string { return r.address }

// URL is the registry's address with its scheme and without a path.
func (r *Registry) URL() string {
	if r.tls {
		return "https://" + r.address
	}
	return "http://" + r.address
}

// Certificate is what the registry presents when it was made WithTLS, else nil.
// It is its own issuer.
func (r *Registry) Certificate() *x509.Certificate {
	if r.server == nil {
		return nil
	}
	return r.server.Certificate()
}

// Close ends the registry, cuts the connections that are open and gives its
// port back.
func (r *Registry) Close() {
	r.Down()
	r.ports.Release()
}

// Down makes the port refuse connections and cuts those that are open. The
// content stays, and the port remains reserved.
func (r *Registry) Down() {
	if r.server == nil {
		return
	}
	r.server.CloseClientConnections()
	r.server.Close()
	r.server = nil
}

// Up serves again, on the same port as before.
func (r *Registry) Up() error {
	if r.server != nil {
		return nil
	}
	listener, err := net.Listen("tcp", r.address)
	if err != nil {
		return fmt.Errorf("starting the registry: %w", err)
	}
	server := &httptest.Server{
		Listener: listener,
		Config: &http.Server{
			Handler:           r,
			ReadHeaderTimeout: 30 * time.Second,
			ErrorLog:          log.New(io.Discard, "", 0),
		},
	}
	if r.tls {
		server.StartTLS()
	} else {
		server.Start()
	}
	r.server = server
	return nil
}

// PutFile serves content at path (/filter.wasm), to anyone, in place of what was
// there, and returns its URL.
func (r *Registry) PutFile(path string, content []byte) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files[path] = content
	return r.URL() + path
}

// ServeHTTP counts the request, then lets the fault, the files, the check of
// credentials and the registry itself answer it, in this order.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.requests[request{req.Method, req.URL.Path}]++
	fault := r.fault
	file, isFile := r.files[req.URL.Path]
	r.mu.Unlock()

	handler := r.authenticate(r.content)
	if isFile {
		handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(file))
		})
	}
	if fault != nil {
		handler = fault(handler)
	}
	handler.ServeHTTP(w, req)
}

// Requests returns how often a method and path (/v2/<repository>/manifests/<tag>)
// were asked for since the start or the last ResetRequests. An empty method or
// path stands for any.
func (r *Registry) Requests(method, path string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	total := 0
	for asked, count := range r.requests {
		if (method == "" || method == asked.method) && (path == "" || path == asked.path) {
			total += count
		}
	}
	return total
}

// ResetRequests sets every count of Requests to 0.
func (r *Registry) ResetRequests() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.requests)
}

// Push stores an image or index under <repository>:<tag> or <repository>@<digest>
// and returns the full reference with this registry's host. It goes past
// credentials, faults and counters, so it also works while the registry is down.
func (r *Registry) Push(ctx context.Context, path string, content remote.Taggable) (string, error) {
	ref, err := name.ParseReference(r.address+"/"+path, name.Insecure)
	if err != nil {
		return "", fmt.Errorf("parsing the reference %q: %w", path, err)
	}
	if err := remote.Push(ref, content, remote.WithContext(ctx), remote.WithTransport(direct{r.content})); err != nil {
		return "", fmt.Errorf("pushing %s: %w", ref, err)
	}
	return ref.String(), nil
}

// Push stores an image or index under a full reference in a registry that asks
// for no credentials, over plain http.
func Push(ctx context.Context, reference string, content remote.Taggable) error {
	ref, err := name.ParseReference(reference, name.Insecure)
	if err != nil {
		return fmt.Errorf("parsing the reference %q: %w", reference, err)
	}
	if err := remote.Push(ref, content, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("pushing %s: %w", ref, err)
	}
	return nil
}

// direct answers requests from a handler without any connection.
type direct struct{ handler http.Handler }

func (d direct) RoundTrip(req *http.Request) (*http.Response, error) {
	inner := req.Clone(req.Context())
	if inner.Body == nil {
		inner.Body = http.NoBody
	}
	recorder := httptest.NewRecorder()
	d.handler.ServeHTTP(recorder, inner)
	response := recorder.Result()
	response.Request = req
	return response, nil
}
