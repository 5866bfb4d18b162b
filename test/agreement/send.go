package agreement

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// Seen is what a real Envoy made of an exchange.
type Seen struct {
	host.Outcome
	// Lines are what the module logged.
	Lines []host.Line
	// Reasons are errors that Envoy and its Wasm runtime logged, such as a trap.
	Reasons []string
	// Details and Flags are Envoy's %RESPONSE_CODE_DETAILS% and %RESPONSE_FLAGS%.
	Details, Flags string
	// Callouts are the requests to the cluster Callouts.
	Callouts []host.Message
}

// client is the downstream side of one exchange.
type client struct {
	connection *net.TCPConn
	reader     reader
	ended      chan struct{} // closed when the response, or the connection, has ended
	err        error         // set before that
}

// Crashed is the error of an exchange that ended Envoy itself.
type Crashed struct {
	// Lines are what the module logged before.
	Lines []host.Line
}

// Error implements error.
func (c *Crashed) Error() string { return "Envoy has crashed" }

// Send passes an exchange through Envoy. Its properties are Envoy's own. The upstream
// answers when it has the whole request. An error says that Envoy could not be asked, or has
// crashed, which is a *Crashed: what a module does wrong is in what it returns.
func (e *Envoy) Send(ctx context.Context, exchange host.Exchange) (Seen, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	seen, err := e.send(ctx, exchange)
	if err == nil {
		return seen, nil
	}
	crashed := wait.PollUntilContextTimeout(ctx, pollInterval, crashBound, true, func(context.Context) (bool, error) { return e.process.Ended(), nil })
	if crashed != nil {
		return seen, err
	}
	lines, _, err := e.log.take()
	return Seen{}, errors.Join(&Crashed{Lines: lines}, err)
}

// crashBound bounds the time from the end of Envoy's connections to that of its process.
const crashBound = 2 * time.Second

func (e *Envoy) send(ctx context.Context, exchange host.Exchange) (Seen, error) {
	request := parts(exchange.Request, requestLines(exchange.Request))
	answer := response{message: exchange.Response, limit: -1, done: make(chan struct{})}
	abort, whole := exchange.AbortAfter > 0, true
	if abort {
		answer.limit = max(0, exchange.AbortAfter-len(request))
		whole = exchange.AbortAfter >= len(request)
		request = request[:min(len(request), exchange.AbortAfter)]
	}
	e.response.Store(&answer)
	c, err := e.dial(ctx, exchange.Request)
	if err != nil {
		return Seen{}, err
	}
	defer c.connection.Close()
	if err := e.sendAll(ctx, c, request); err != nil {
		return Seen{}, err
	}
	paused := false
	if whole {
		if paused, err = e.await(ctx, c, abort); err != nil {
			return Seen{}, err
		}
	}
	return e.collect(ctx, c, exchange, paused)
}

func (e *Envoy) dial(ctx context.Context, request host.Message) (*client, error) {
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", e.places.listener))
	if err != nil {
		return nil, fmt.Errorf("connecting to Envoy: %w", err)
	}
	method, _ := request.Headers.Get(":method")
	c := &client{
		connection: connection.(*net.TCPConn), ended: make(chan struct{}),
		reader: reader{Reader: bufio.NewReader(connection), bodyless: method == http.MethodHead},
	}
	go func() {
		c.err = c.reader.response()
		close(c.ended)
	}()
	return c, nil
}

func (c *client) hasEnded() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// sendAll sends the parts of a request, each when Envoy has read the one before and the
// module's calls are answered.
func (e *Envoy) sendAll(ctx context.Context, c *client, request [][]byte) error {
	before, err := e.look(ctx)
	if err != nil {
		return err
	}
	expected := before[downstream+"cx_rx_bytes_total"]
	for _, part := range request {
		if _, err := c.connection.Write(part); err != nil {
			return nil //nolint:nilerr // Envoy has cut the stream off: the reader sees it, too
		}
		expected += len(part)
		err := e.until(ctx, "has read a part of the request", func(seen stats) bool {
			return seen[downstream+"cx_rx_bytes_total"] >= expected || c.hasEnded()
		})
		if err != nil {
			return err
		}
		if err := e.settle(ctx); err != nil {
			return err
		}
	}
	return nil
}

// await waits until the exchange has ended, or the part of it after which the client goes
// away, and reports whether it is held up instead.
func (e *Envoy) await(ctx context.Context, c *client, abort bool) (paused bool, err error) {
	var last stats
	var since time.Time
	err = wait.PollUntilContextTimeout(ctx, pollInterval, bound+e.setup.Patience, true, func(ctx context.Context) (bool, error) {
		if c.hasEnded() || abort && answered(e.response.Load()) {
			return true, nil
		}
		if err := e.pass(ctx); err != nil {
			return false, err
		}
		now, err := e.look(ctx)
		if err != nil {
			return false, err
		}
		if !maps.Equal(now, last) || !e.quiet(now) {
			last, since = now, time.Now()
			return false, nil
		}
		if now[downstream+"rq_active"] == 0 {
			return true, nil // a response whose end HTTP/1.1 does not show
		}
		paused = time.Since(since) >= e.setup.Patience
		return paused, nil
	})
	if err != nil {
		return false, fmt.Errorf("waiting for the end of an exchange: %w", err)
	}
	return paused, e.pass(ctx)
}

// answered reports whether the upstream has sent all that it is to send.
func answered(r *response) bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// collect ends the client's side, and gathers what the stream has left behind.
func (e *Envoy) collect(ctx context.Context, c *client, exchange host.Exchange, paused bool) (Seen, error) {
	// Envoy closes its side then, and what it has sent before can still be read. On a
	// connection that it has closed already these calls fail.
	_ = c.connection.SetReadDeadline(time.Now().Add(bound))
	_ = c.connection.CloseWrite()
	<-c.ended
	seen := Seen{Outcome: host.Outcome{Paused: paused, Reset: !paused && exchange.AbortAfter == 0 && c.err != nil}}
	if err := e.access(ctx, &seen); err != nil {
		return seen, err
	}
	if err := e.pass(ctx); err != nil {
		return seen, err
	}
	var err, upstreamErr, calloutErr error
	var requests []host.Message
	requests, upstreamErr = e.upstream.take()
	seen.Callouts, calloutErr = e.callouts.take()
	seen.Lines, seen.Reasons, err = e.log.take()
	if len(requests) > 0 {
		seen.Request = normalised(requests[0], exchange.Request)
	}
	if len(c.reader.message.Headers) > 0 {
		seen.Response = normalised(c.reader.message, exchange.Response)
	}
	seen.LocalReply = localReply(seen)
	return seen, errors.Join(err, upstreamErr, calloutErr)
}

// access waits for the line of the stream in the access log.
func (e *Envoy) access(ctx context.Context, seen *Seen) error {
	var lines []string
	err := wait.PollUntilContextTimeout(ctx, pollInterval, bound, true, func(context.Context) (bool, error) {
		content, err := os.ReadFile(e.places.accesses)
		lines = strings.Split(string(content), "\n")
		return len(lines)-1 > e.accesses, err
	})
	if err != nil {
		return fmt.Errorf("waiting for the access log: %w", err)
	}
	seen.Details, seen.Flags, _ = strings.Cut(lines[e.accesses], "\t")
	e.accesses++
	return nil
}

// added are the headers that HTTP/1.1 needs, and that Envoy adds whatever a filter does.
var added = []string{"connection", "content-length", "date", "transfer-encoding", "x-forwarded-proto"}

// normalised returns a message as the filter left it: without the headers that Envoy has
// added, unless the message that was sent had such a header itself.
func normalised(got, sent host.Message) *host.Message {
	var kept host.Headers
	for _, line := range got.Headers {
		if _, own := sent.Headers.Get(line.Name); own || !slices.Contains(added, line.Name) {
			kept = append(kept, line)
		}
	}
	got.Headers = kept
	return &got
}

// envoysOwn are the details of responses that do not come from a filter: those of the
// upstream, and those of Envoy about the stream or about a filter that failed.
var envoysOwn = []string{"via_upstream", "wasm_fail_stream", "downstream_", "upstream_", "http1.", "route_not_found", "filter_removed_"}

// localReply returns the reply that the filter sent, as the client got it; nil when it sent
// none. The client does not see a gRPC status, except in answers to gRPC requests.
func localReply(seen Seen) *host.LocalReply {
	if seen.Response == nil || seen.Reset || slices.ContainsFunc(envoysOwn, func(prefix string) bool { return strings.HasPrefix(seen.Details, prefix) }) {
		return nil
	}
	reply := &host.LocalReply{Details: seen.Details, Body: string(seen.Response.Content()), GRPCStatus: -1}
	for _, line := range seen.Response.Headers {
		if line.Name != ":status" {
			reply.Headers = append(reply.Headers, line)
			continue
		}
		_, err := fmt.Sscan(line.Value, &reply.Status)
		if err != nil {
			return nil
		}
	}
	return reply
}
