// Package serve is the HTTP server that sidecars fetch modules from.
//
// How pilot-agent reads an answer decides what this server may say. It takes 404
// and 429 as final, and denies every request of its pod from then on; after 503
// it tries again, for about 8 s. So a well-formed digest is answered with its
// module or with 503, after a moment in which the module may still come.
//
// Every replica serves (server.go), what it holds and what is retained in its
// store; package peers spreads modules among replicas. metrics.go counts.
package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/store"
)

const (
	// holdTime is how long a request waits for its module: well within the
	// 15 s that pilot-agent gives each of its attempts.
	holdTime = 2 * time.Second
	// maxHeld is the number of requests that wait at once for modules that are
	// retained, and as many for others, whose digests anyone can make up. More get
	// 503 at once.
	maxHeld = 2048
	// writeProgress is how long a client may take for one piece of a module,
	// and writeTotal for all of it. pilot-agent itself gives up after 20 s, and
	// another replica after 30 s.
	writeProgress = 5 * time.Second
	writeTotal    = 30 * time.Second
	// shutdownTime is how long running responses may take when the server stops.
	shutdownTime = 10 * time.Second

	headerTimeout  = 5 * time.Second
	requestTimeout = 30 * time.Second
	// idleTimeout is short, since a sidecar fetches a module once.
	idleTimeout    = 5 * time.Second
	maxHeaderBytes = 16 << 10
)

// PeerHeader, with the value PeerValue, marks a request of another replica:
// what is not here is answered with 503 at once.
const (
	PeerHeader = "Wasme-Peer"
	PeerValue  = "true"
)

// Server serves the modules of a store, on every replica.
type Server struct {
	store    *store.Store
	listener net.Listener
	// retained and others are the slots of requests that wait, for modules that
	// are retained and for others.
	retained, others *semaphore.Weighted
	transfers        *transfers
	// missed is called with a digest that is retained and not here.
	missed func(sha256 string)
	// hold is how long a request waits, progress how long a client has for one piece of
	// a module, and grace how long a response may take when the server stops: holdTime,
	// writeProgress and shutdownTime, except in tests.
	hold, progress, grace time.Duration
}

// New listens on address (host:port; port 0 picks a free one) and returns a
// server for the modules that the store has and that are retained. It calls missed,
// which must not block, with a digest that is retained, asked for, and not here.
func New(address string, modules *store.Store, missed func(sha256 string)) (*Server, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for sidecars (--module-server-bind-address): %w", err)
	}
	return &Server{
		store:     modules,
		listener:  limited(listener),
		transfers: newTransfers(),
		missed:    missed,
		retained:  semaphore.NewWeighted(maxHeld),
		others:    semaphore.NewWeighted(maxHeld),
		hold:      holdTime,
		progress:  writeProgress,
		grace:     shutdownTime,
	}, nil
}

// Addr returns the address that the server listens on, as host:port.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Start serves until ctx ends, then lets running responses end, for at most
// shutdownTime.
func (s *Server) Start(ctx context.Context) error {
	server := &http.Server{
		Handler:           instrumented(s),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(s.listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving modules: %w", err)
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.grace)
	defer cancel()
	return errors.Join(server.Shutdown(stopping), server.Close())
}

// ServeHTTP answers GET and HEAD for the path of a module.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	patient := newPatientWriter(w, r, s.progress)
	sha256, ok := module.ParsePath(r.URL.Path)
	switch {
	case !ok:
		http.Error(patient, noModule, http.StatusNotFound)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(patient, "modules are read-only", http.StatusMethodNotAllowed)
	default:
		s.serveModule(patient, r, sha256)
	}
}

func (s *Server) serveModule(w http.ResponseWriter, r *http.Request, sha256 string) {
	file, err := s.open(r, sha256)
	if err != nil {
		unavailable(w, err)
		return
	}
	defer file.Close()
	if r.Method == http.MethodGet {
		leave, err := s.transfers.enter(r.Context(), clientOf(r))
		if err != nil {
			unavailable(w, err)
			return
		}
		defer leave()
	}
	header := w.Header()
	header.Set("Content-Type", "application/wasm")
	header.Set("Cache-Control", "public, max-age=31536000, immutable")
	header.Set("ETag", `"sha256:`+sha256+`"`)
	http.ServeContent(w, r, "", file.ModTime, file)
}

// unavailable has a client try again. It closes the connection, on which an agent would
// send all of its attempts to this replica.
func unavailable(w http.ResponseWriter, err error) {
	if errors.Is(err, errBusy) || errors.Is(err, errHeld) {
		refusedRequestsTotal.Inc()
	}
	w.Header().Set("Retry-After", "1")
	w.Header().Set("Connection", "close")
	http.Error(w, err.Error(), http.StatusServiceUnavailable)
}

// open opens the module, at once or, for sidecars, while the request is held.
func (s *Server) open(r *http.Request, sha256 string) (*store.File, error) {
	file, err := s.store.OpenRetained(sha256)
	if err == nil || isPeer(r) {
		return file, err
	}
	slots := s.retained
	if errors.Is(err, store.ErrNotRetained) {
		slots = s.others
	} else {
		s.missed(sha256)
	}
	if !slots.TryAcquire(1) {
		return nil, errHeld
	}
	defer slots.Release(1)
	ctx, cancel := context.WithTimeout(r.Context(), s.hold)
	defer cancel()
	return s.store.Await(ctx, sha256)
}

// isPeer reports whether another replica asks. Anyone can say so, and gets less for it.
func isPeer(r *http.Request) bool { return r.Header.Get(PeerHeader) == PeerValue }

// patientWriter gives a client time as long as it keeps reading, up to a total.
// Deadlines outlive a request on its connection, so each request sets its own.
type patientWriter struct {
	http.ResponseWriter
	deadlines *http.ResponseController
	progress  time.Duration
	end       time.Time
	// head says that net/http sends nothing of what is written.
	head bool
}

func newPatientWriter(w http.ResponseWriter, r *http.Request, progress time.Duration) *patientWriter {
	p := &patientWriter{w, http.NewResponseController(w), progress, time.Now().Add(writeTotal), r.Method == http.MethodHead}
	// Connections of net/http take deadlines; Write reports the error of others.
	_ = p.deadlines.SetWriteDeadline(p.end)
	return p
}

// Write writes one piece, for which the client has the time of w.progress.
func (w *patientWriter) Write(p []byte) (int, error) {
	deadline := time.Now().Add(w.progress)
	if deadline.After(w.end) {
		deadline = w.end
	}
	if err := w.deadlines.SetWriteDeadline(deadline); err != nil {
		return 0, fmt.Errorf("setting a deadline for the client: %w", err)
	}
	n, err := w.ResponseWriter.Write(p)
	if !w.head {
		sentBytesTotal.Add(float64(n))
	}
	return n, err
}
