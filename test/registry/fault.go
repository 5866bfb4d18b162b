// Licensed under the Apache License, Version 2.0; see LICENSE.

package registry

import (
	"fmt"
	"net/http"
	"strings"
)

// Fault is in front of the registry and answers in its place, or lets next
// answer. Faults are ordinary middleware: tests may bring their own.
type Fault func(next http.Handler) http.Handler

// Inject puts a fault in front of the registry, in place of the one before.
// A connection that is refused is Down's matter.
func (r *Registry) Inject(fault Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = fault
}

// Heal takes away the fault that Inject put in place.
func (r *Registry) Heal() { r.Inject(nil) }

// Status answers every request with this code and a body that must never
// reach a user.
func Status(code int) Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, SecretBody, code)
		})
	}
}

// Limit answers every request with status 429 and this header Retry-After; empty for none.
func Limit(retryAfter string) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if retryAfter != "" {
				w.Header().Set("Retry-After", retryAfter)
			}
			Status(http.StatusTooManyRequests)(next).ServeHTTP(w, req)
		})
	}
}

// SecretBody is what a failing registry says in its body: tests look for it
// where no remote body may appear.
const SecretBody = "remote-body-never-to-be-shown"

// Hold keeps every request waiting until release is closed, the client goes
// away or the registry goes down; those released are answered as usual.
func Hold(release <-chan struct{}) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			select {
			case <-release:
				next.ServeHTTP(w, req)
			case <-req.Context().Done():
			}
		})
	}
}

// StallBlobs sends the first bytes of each blob, and the others once release is
// closed.
func StallBlobs(after int, release <-chan struct{}) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") {
				w = &stalling{ResponseWriter: w, left: after, release: release, request: req}
			}
			next.ServeHTTP(w, req)
		})
	}
}

type stalling struct {
	http.ResponseWriter
	left    int
	release <-chan struct{}
	request *http.Request
}

// Write stalls where left bytes were written.
func (s *stalling) Write(p []byte) (int, error) {
	if len(p) <= s.left {
		s.left -= len(p)
		return s.ResponseWriter.Write(p)
	}
	n, err := s.ResponseWriter.Write(p[:s.left])
	if err != nil {
		return n, err
	}
	s.left = 0
	if err := http.NewResponseController(s.ResponseWriter).Flush(); err != nil {
		return n, fmt.Errorf("stalling: %w", err)
	}
	select {
	case <-s.release:
	case <-s.request.Context().Done():
		return n, s.request.Context().Err()
	}
	rest, err := s.ResponseWriter.Write(p[n:])
	return n + rest, err
}

// Redirect sends requests for blobs to the same path at another address
// (scheme://host[:port]), as registries with a storage behind them do.
func Redirect(base string) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, "/blobs/") {
				http.Redirect(w, req, base+req.URL.RequestURI(), http.StatusTemporaryRedirect)
				return
			}
			next.ServeHTTP(w, req)
		})
	}
}

// WrongBytes answers GET requests for a digest (sha256:...), a blob's or a
// manifest's, with other bytes.
func WrongBytes(digest string, content []byte) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodGet && strings.HasSuffix(req.URL.Path, "/"+digest) {
				_, _ = w.Write(content) // the client is gone: there is no one to tell
				return
			}
			next.ServeHTTP(w, req)
		})
	}
}
