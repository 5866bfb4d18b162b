// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package service replaces a Kubernetes Service in a mesh without nodes: an
// address whose connections go to its endpoints in turn. Like kube-proxy it
// does not notice that an endpoint is dead until SetEndpoints leaves it out.
package service

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Service forwards TCP connections. All methods may be called concurrently.
type Service struct {
	listener net.Listener

	mu        sync.Mutex
	endpoints []string
	next      int
	hold      *Hold
}

// Start listens at an address (host:port) and forwards to the endpoints (host:port).
func Start(address string, endpoints ...string) (*Service, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("starting a service: %w", err)
	}
	s := &Service{listener: listener, endpoints: endpoints}
	go s.serve()
	return s, nil
}

// URL is the service's address as http URL.
func (s *Service) URL() string { return "http://" + s.listener.Addr().String() }

// Stop refuses new connections; open ones stay.
func (s *Service) Stop() error { return s.listener.Close() }

// SetEndpoints has new connections go to these endpoints in turn, to the first
// one first.
func (s *Service) SetEndpoints(endpoints ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoints, s.next = endpoints, 0
}

// Hold is a place in the answers of endpoints at which they stop.
type Hold struct {
	// Reached receives the endpoint of each connection that is held there.
	Reached <-chan string

	reached chan string
	after   int64
	end     sync.Once
	ended   chan struct{}
	cut     bool // set before ended closes
}

// maxHeld is the number of connections that a Hold tells of.
const maxHeld = 100

// Hold has each new connection stop once that many bytes came from its
// endpoint and one more is there, until Release or Cut.
func (s *Service) Hold(after int64) *Hold {
	reached := make(chan string, maxHeld)
	h := &Hold{Reached: reached, reached: reached, after: after, ended: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = h
	return h
}

// Release lets the held connections continue, and holds no more.
func (h *Hold) Release() { h.end.Do(func() { close(h.ended) }) }

// Cut closes those that are held, as when an endpoint dies with all that was
// on its way, and holds no more.
func (h *Hold) Cut() {
	h.end.Do(func() {
		h.cut = true
		close(h.ended)
	})
}

// pass waits at the place and reports whether the connection continues.
func (h *Hold) pass(endpoint string) bool {
	select {
	case <-h.ended:
		return true
	default:
	}
	select {
	case h.reached <- endpoint:
	case <-h.ended:
	}
	<-h.ended
	return !h.cut
}

func (s *Service) serve() {
	for {
		client, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			go s.connect(client)
		}
	}
}

// connect joins a client with the endpoint whose turn it is, until either of
// them closes.
func (s *Service) connect(client net.Conn) {
	defer client.Close()
	endpoint, hold := s.pick()
	server, err := net.Dial("tcp", endpoint)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, client)
		_ = server.Close() // the client is gone: there is no one to answer
	}()
	answer(client, server, endpoint, hold)
}

func (s *Service) pick() (endpoint string, hold *Hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.endpoints) == 0 {
		return "", nil
	}
	endpoint = s.endpoints[s.next%len(s.endpoints)]
	s.next++
	return endpoint, s.hold
}

// answer forwards what the endpoint sends, with a halt where it is held.
func answer(client io.Writer, server io.Reader, endpoint string, hold *Hold) {
	if hold != nil {
		if _, err := io.CopyN(client, server, hold.after); err != nil {
			return
		}
		one := make([]byte, 1)
		if _, err := io.ReadFull(server, one); err != nil {
			return
		}
		if !hold.pass(endpoint) {
			return
		}
		if _, err := client.Write(one); err != nil {
			return
		}
	}
	_, _ = io.Copy(client, server) // either side may end it
}
