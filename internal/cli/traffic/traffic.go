// Package traffic records requests with their responses as tests for filters, and replays
// them.
//
//	traffic.go  what is recorded of a request
//	har.go      the file: HTTP Archive 1.2, which browsers and proxies write, too
//	redact.go   takes credentials out
//	replay.go   passes recorded requests through two modules
//	compare.go  finds where the two differ
//	report.go   says it
//	tap/        records the requests of a pod in a mesh
//
// A recording holds what a filter sees: requests as they come from clients, and responses
// as they come from the application. So it can be replayed through any filter.
package traffic

import (
	"time"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// The limits of a recording.
const (
	// MaxExchanges is the number of requests.
	MaxExchanges = 10_000
	// MaxBodyBytes is what is kept of a body.
	MaxBodyBytes = 1 << 20
	// MaxFileBytes is the largest file that is read, and MaxEntryBytes the largest entry in
	// it: two bodies, and headers.
	MaxFileBytes  = 128 << 20
	MaxEntryBytes = 4 << 20
)

// Exchange is a request with its response.
type Exchange struct {
	// Started is when the request came, and Duration the time until the response began.
	Started  time.Time
	Duration time.Duration
	Request  Message
	// Response is what the application answered; nil when a filter answered in its place.
	Response *Message
}

// Message is a request or a response.
type Message struct {
	// Headers are the header lines as Envoy has them, pseudo headers of HTTP/2 included.
	Headers host.Headers
	// Body has the chunks in which the body came; nil for a message without one.
	Body [][]byte
	// Truncated says that the body had more than is in Body.
	Truncated bool
	// Trailers end the message; none when empty.
	Trailers host.Headers
}

// Target returns the method and the path of a request.
func (m Message) Target() string {
	method, _ := m.Headers.Get(":method")
	path, _ := m.Headers.Get(":path")
	return method + " " + path
}
