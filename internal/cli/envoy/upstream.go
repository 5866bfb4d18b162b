package envoy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	// maxBody is the largest body that the echo takes, and as much of a body as is shown.
	maxBody = 4 << 20
	// headerBound is how long Envoy may take to send the headers of a request.
	headerBound = 30 * time.Second
)

// Message is a request or a response.
type Message struct {
	// Method and Path are those of a request.
	Method, Path string
	// Status is that of a response.
	Status int
	// Header has the host of a request, too.
	Header http.Header
	// Body is the first 4 MiB.
	Body []byte
}

// passage is a request with its response, as an upstream sees them.
type passage struct{ request, response Message }

// upstream is what Envoy sends requests to: a server in this process, which answers with the
// request itself, or forwards it.
type upstream struct {
	server   *http.Server
	listener net.Listener
	next     http.Handler

	mu       sync.Mutex
	watching bool
	last     *passage // of those since watching began
}

// startUpstream starts an upstream that forwards to a URL, or echoes when there is none.
func startUpstream(forwardTo *url.URL) (*upstream, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("starting the upstream: %w", err)
	}
	u := &upstream{listener: listener, next: http.HandlerFunc(echo)}
	if forwardTo != nil {
		u.next = &httputil.ReverseProxy{
			Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(forwardTo) },
			ErrorHandler: unreachable,
		}
	}
	u.server = &http.Server{Handler: u, ReadHeaderTimeout: headerBound}
	go func() { _ = u.server.Serve(listener) }() // it ends with close
	return u, nil
}

func (u *upstream) port() int { return u.listener.Addr().(*net.TCPAddr).Port }

func (u *upstream) close() error { return u.server.Close() }

func unreachable(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, "wasme: the upstream of --upstream does not answer: "+err.Error(), http.StatusBadGateway)
}

// watch keeps the exchanges from now on.
func (u *upstream) watch() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.watching, u.last = true, nil
}

// seen returns the last exchange since watch, nil for none, and keeps no more of them.
func (u *upstream) seen() *passage {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.watching = false
	return u.last
}

// ServeHTTP answers a request, and keeps it while somebody watches.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	watching := u.watching
	u.mu.Unlock()
	if !watching {
		u.next.ServeHTTP(w, r)
		return
	}
	seen := &passage{request: Message{Method: r.Method, Path: r.URL.RequestURI(), Header: received(r)}}
	var body bounded
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.TeeReader(r.Body, &body), r.Body}
	recorder := &recorder{ResponseWriter: w, message: &seen.response}
	u.next.ServeHTTP(recorder, r)
	seen.request.Body, seen.response.Body = body.Bytes(), recorder.body.Bytes()
	u.mu.Lock()
	u.last = seen
	u.mu.Unlock()
}

// received returns the headers of a request with its host.
func received(r *http.Request) http.Header {
	header := r.Header.Clone()
	header.Set("Host", r.Host)
	return header
}

// echoed is what the echo answers.
type echoed struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	// Headers has names in lower case, as Envoy has them.
	Headers map[string][]string `json:"headers"`
	// Body is a body that is text, and BodyBase64 one that is not.
	Body       string `json:"body,omitempty"`
	BodyBase64 []byte `json:"bodyBase64,omitempty"`
}

// echo answers with the request as it arrived.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, fmt.Sprintf("wasme: reading the request's body of at most %d bytes: %v", maxBody, err), http.StatusRequestEntityTooLarge)
		return
	}
	answer := echoed{Method: r.Method, Path: r.URL.RequestURI(), Headers: map[string][]string{}}
	for name, values := range maps.All(received(r)) {
		answer.Headers[strings.ToLower(name)] = values
	}
	if utf8.Valid(body) {
		answer.Body = string(body)
	} else {
		answer.BodyBase64 = body
	}
	content, err := json.MarshalIndent(answer, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	content = append(content, '\n')
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	_, _ = w.Write(content) // Envoy has gone away if this fails
}

// recorder keeps what a handler answers.
type recorder struct {
	http.ResponseWriter
	message *Message
	body    bounded
}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	header := r.Header()
	if header.Get("Date") == "" {
		// The server would add it, unseen by the recorder.
		header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	}
	if status >= http.StatusOK {
		r.message.Status, r.message.Header = status, header.Clone()
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(content []byte) (int, error) {
	if r.message.Status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	_, _ = r.body.Write(content) // it never fails
	return r.ResponseWriter.Write(content)
}

// Unwrap has http.ResponseController flush.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// bounded is a buffer that ignores what is beyond maxBody.
type bounded struct{ bytes.Buffer }

// Write implements io.Writer.
func (b *bounded) Write(content []byte) (int, error) {
	b.Buffer.Write(content[:min(len(content), maxBody-b.Len())])
	return len(content), nil
}
