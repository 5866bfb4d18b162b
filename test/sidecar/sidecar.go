// Package sidecar replaces the sidecars of more pods than a machine can
// run: one server answers at every address of 127.0.0.0/8, of which each pod has
// one, with the pages that a real Envoy and a real pilot-agent once gave.
package sidecar

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
)

const (
	// recordedPlugin is the plugin in Envoy's page of one EnvoyFilter.
	recordedPlugin = "bookinfo/details-v1/greeting@14643ae8"
	// untaggedPlugin is the same plugin where Envoy shows it in the names of its
	// metrics.
	untaggedPlugin = "wasm_filter_bookinfo_details_v1_greeting_14643ae8"
	// envoyFilterPrefix begins the plugin names of EnvoyFilters.
	envoyFilterPrefix = "wasm_filter."
)

// Server is the Envoys or the pilot-agents of all pods, at one port. Its methods
// may be called concurrently.
type Server struct {
	server *httptest.Server

	mu sync.Mutex
	// others answers for the pods that have no answer of their own.
	others   http.HandlerFunc
	answers  map[netip.Addr]http.HandlerFunc
	requests map[netip.Addr]int
}

// Start starts a server on which all pods answer in the same way. Close ends it.
func Start(answer http.HandlerFunc) (*Server, error) {
	s := &Server{others: answer, answers: map[netip.Addr]http.HandlerFunc{}, requests: map[netip.Addr]int{}}
	listener, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		return nil, fmt.Errorf("starting sidecars: %w", err)
	}
	s.server = &httptest.Server{Listener: listener, Config: &http.Server{Handler: s}}
	s.server.Start()
	return s, nil
}

// Close ends the server and cuts the connections that are open.
func (s *Server) Close() {
	s.server.CloseClientConnections()
	s.server.Close()
}

// Port returns the port at which pods are asked.
func (s *Server) Port() uint16 {
	return s.server.Listener.Addr().(*net.TCPAddr).AddrPort().Port()
}

// Answer has these pods answer in this way from now on.
func (s *Server) Answer(answer http.HandlerFunc, pods ...netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, pod := range pods {
		s.answers[pod] = answer
	}
}

// AnswerElse has all pods that got no answer of their own answer in this way
// from now on.
func (s *Server) AnswerElse(answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.others = answer
}

// Requests returns how often a pod was asked since the last ResetRequests.
func (s *Server) Requests(pod netip.Addr) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[pod]
}

// AllRequests returns the sum of Requests, and the number of pods that were
// asked at least once.
func (s *Server) AllRequests() (requests, pods int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.requests {
		requests += n
	}
	return requests, len(s.requests)
}

// ResetRequests sets every count of Requests to 0.
func (s *Server) ResetRequests() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.requests)
}

// ServeHTTP counts a request and answers it as its pod does.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	pod := PodOf(r)
	s.mu.Lock()
	s.requests[pod]++
	answer, own := s.answers[pod]
	if !own {
		answer = s.others
	}
	s.mu.Unlock()
	answer(w, r)
}

// PodOf returns the address that a request was sent to.
func PodOf(r *http.Request) netip.Addr {
	return r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr).AddrPort().Addr().Unmap()
}

// Page answers with a page of metrics.
func Page(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
		_, _ = io.WriteString(w, text) // the client is gone: there is no one to tell
	}
}

// Silence accepts a request and never answers it.
func Silence(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// EnvoyPage returns what an Envoy shows that runs the plugin; empty for none. An
// EnvoyFilter's plugin is in a label, and that of another output in the names of
// the metrics.
func EnvoyPage(plugin string) (string, error) {
	if plugin == "" {
		return Recorded("envoy-empty")
	}
	if label, found := strings.CutPrefix(plugin, envoyFilterPrefix); found {
		page, err := Recorded("envoy-loaded")
		return strings.ReplaceAll(page, recordedPlugin, label), err
	}
	page, err := Recorded("envoy-untagged")
	name := strings.NewReplacer(".", "_", "-", "_").Replace(plugin)
	return strings.ReplaceAll(page, untaggedPlugin, name), err
}

// Recorded returns a page that a real Envoy or pilot-agent gave: the file of
// that name in internal/dataplane/testdata.
func Recorded(name string) (string, error) {
	root, err := binaries.RepositoryRoot()
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(root, "internal", "dataplane", "testdata", name+".txt"))
	if err != nil {
		return "", fmt.Errorf("reading a sidecar's page: %w", err)
	}
	return string(text), nil
}
