package filters

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"time"
)

// Server serves modules by their digests, as the operator does. Its methods may
// be called concurrently.
type Server struct {
	// URL is where it serves.
	URL string

	server *httptest.Server
	mu     sync.Mutex
	held   map[string][]byte
}

// StartServer starts a server that has no modules. Close ends it.
func StartServer() *Server {
	s := &Server{held: map[string][]byte{}}
	s.server = httptest.NewServer(s)
	s.URL = s.server.URL
	return s
}

// Close ends the server.
func (s *Server) Close() { s.server.Close() }

// Serve has the server serve a module from now on, and returns its SHA-256 in
// hexadecimal.
func (s *Server) Serve(module []byte) string {
	digest := SHA256(module)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[digest] = module
	return digest
}

// ServeHTTP answers with the module whose SHA-256 is the last element of the
// path, with .wasm behind it.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	s.mu.Lock()
	content, found := s.held[strings.TrimSuffix(name, ".wasm")]
	s.mu.Unlock()
	if !found {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(content))
}

// SHA256 returns a module's SHA-256 in hexadecimal.
func SHA256(module []byte) string {
	sum := sha256.Sum256(module)
	return hex.EncodeToString(sum[:])
}
