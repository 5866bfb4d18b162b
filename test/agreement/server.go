package agreement

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// server is an upstream in this process. It keeps what it gets, and answers.
type server struct {
	listener net.Listener
	// counted waits until Envoy has read so many bytes from this server since it started, and
	// returns how many it has read. Fewer than asked for mean that it has ended the request.
	counted func(ctx context.Context, bytes int) (int, error)
	answer  func(host.Message) response
	ctx     context.Context
	cancel  context.CancelFunc
	all     sync.WaitGroup

	mu       sync.Mutex
	requests []host.Message
	failed   error
	received int // bytes
	open     int // connections
	waiting  int // connections whose next bytes Envoy has not sent yet
}

// response is what a server answers.
type response struct {
	message host.Message
	// limit, unless negative, is the number of parts after which the server stops.
	limit int
	// done, unless nil, is closed when Envoy has read all that is sent.
	done chan struct{}
}

func listen() (net.Listener, int, error) {
	var config net.ListenConfig
	l, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, 0, fmt.Errorf("listening for Envoy: %w", err)
	}
	return l, l.Addr().(*net.TCPAddr).Port, nil
}

// serve serves until close is called.
func (s *server) serve() {
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.all.Go(func() {
		for {
			connection, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.all.Go(func() { s.connection(connection) })
		}
	})
}

func (s *server) close() error {
	s.cancel()
	err := s.listener.Close()
	s.all.Wait()
	return err
}

// connection answers the requests on a connection, one after the other.
func (s *server) connection(c net.Conn) {
	stop := context.AfterFunc(s.ctx, func() { _ = c.Close() }) // it ends the reads below
	defer stop()
	defer c.Close()
	s.count(0, 1, 0)
	defer s.count(0, -1, 0)
	r := reader{Reader: bufio.NewReader(input{c, s})}
	for {
		err := r.request()
		s.keep(r.message)
		if err != nil {
			return
		}
		answer := s.answer(r.message)
		if method, _ := r.message.Headers.Get(":method"); method == http.MethodHead {
			answer.message.Body, answer.message.Trailers = nil, nil
		}
		if err := s.respond(c, answer); err != nil {
			s.fail(err)
			return
		}
	}
}

// count adds to what the server knows about its connections.
func (s *server) count(received, open, waiting int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.received, s.open, s.waiting = s.received+received, s.open+open, s.waiting+waiting
}

// idle reports whether the server has read all that Envoy has sent, and has answered all
// whole requests in it.
func (s *server) idle(sent int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received == sent && s.waiting == s.open
}

// input is what a connection brings, counted.
type input struct {
	net.Conn
	server *server
}

// Read implements io.Reader.
func (i input) Read(p []byte) (int, error) {
	i.server.count(0, 0, 1)
	n, err := i.Conn.Read(p)
	i.server.count(n, 0, -1)
	return n, err
}

// keep keeps a request, or the beginning of one that was cut off.
func (s *server) keep(request host.Message) {
	if len(request.Headers) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, request)
}

// take returns what has come in since the last call, and an error that is not the end of a
// connection.
func (s *server) take() ([]host.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests, failed := s.requests, s.failed
	s.requests, s.failed = nil, nil
	return requests, failed
}

func (s *server) fail(err error) {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, context.Canceled) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err
}

// respond sends a response, each part when Envoy has read the one before.
func (s *server) respond(c net.Conn, r response) error {
	expected, err := s.counted(s.ctx, 0)
	if err != nil {
		return err
	}
	for i, part := range parts(r.message, statusLine(r.message)) {
		if i == r.limit {
			break
		}
		if _, err := c.Write(part); err != nil {
			return nil //nolint:nilerr // Envoy has ended the request: it shows in the outcome
		}
		expected += len(part)
		if read, err := s.counted(s.ctx, expected); err != nil || read < expected {
			return err
		}
	}
	if r.done != nil {
		close(r.done)
	}
	return nil
}
