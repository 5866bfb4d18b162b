package tap

import (
	"bytes"
	"slices"
	"strconv"
	"time"

	"github.com/wasme-io/wasme-operator/internal/cli/traffic"
	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// assembler makes exchanges of segments. A stream passes both taps, so that each piece
// comes twice, unless a filter between them answers, holds or changes it; what comes first
// is always what is wanted: requests as they come from the client, responses as they come
// from the application.
type assembler struct {
	max    int
	bytes  int
	begun  []*exchange // in the order in which they began
	traces map[string]*exchange
	// closed says that no exchange begins any more.
	closed bool
}

// exchange is one that is under way.
type exchange struct {
	traffic.Exchange
	request, response way
}

// way is a request or a response, as both taps have seen it.
type way struct {
	headers  host.Headers
	seen     int // how often headers came
	chunks   []body
	trailers host.Headers
	size     int // of the chunks
	cut      bool
}

const (
	// maxBytes is the size of all that both taps have seen after which a recording ends: in a
	// file that is less than traffic.MaxFileBytes.
	maxBytes = 32 << 20
	// lineBytes is what a header line takes in a file beside its name and value.
	lineBytes = 64
)

func newAssembler(most int) *assembler {
	return &assembler{max: most, traces: map[string]*exchange{}}
}

// full reports whether nothing more may begin.
func (a *assembler) full() bool { return len(a.begun) >= a.max || a.bytes > maxBytes }

// add adds a segment that came now, and reports whether it belongs to an exchange.
func (a *assembler) add(s segment, now time.Time) bool {
	e := a.traces[s.Trace]
	if e == nil {
		if e = a.begin(s, now); e == nil {
			return false
		}
	}
	a.bytes += e.add(s, now)
	return true
}

// begin begins an exchange, with the headers of its request. What was under way before is
// left out, and so is the CONNECT that carries the requests of ambient meshes, which are
// exchanges of their own.
func (a *assembler) begin(s segment, now time.Time) *exchange {
	if a.closed || a.full() || s.RequestHeaders == nil {
		return nil
	}
	if method, _ := s.RequestHeaders.lines().Get(":method"); method == "CONNECT" {
		return nil
	}
	e := &exchange{Exchange: traffic.Exchange{Started: now}}
	a.begun = append(a.begun, e)
	a.traces[s.Trace] = e
	return e
}

// add adds a segment and returns how many bytes it takes.
func (e *exchange) add(s segment, now time.Time) int {
	if s.ResponseHeaders != nil && e.response.seen == 0 {
		e.Duration = now.Sub(e.Started)
	}
	return e.request.add(s.RequestHeaders, s.RequestBody, s.RequestTrailers) + e.response.add(s.ResponseHeaders, s.ResponseBody, s.ResponseTrailers)
}

func (w *way) add(headers *headerMap, chunk *body, trailers *headerMap) int {
	switch {
	case headers != nil:
		w.seen++
		if w.seen == 1 {
			w.headers = headers.lines()
			return sizeOf(w.headers)
		}
	case chunk != nil:
		// Both taps together see at most twice what is kept.
		if w.size+len(chunk.Bytes) > 2*traffic.MaxBodyBytes {
			w.cut = true
			return 0
		}
		w.size += len(chunk.Bytes)
		w.chunks = append(w.chunks, *chunk)
		return len(chunk.Bytes)
	case trailers != nil && w.trailers == nil:
		w.trailers = trailers.lines()
		return sizeOf(w.trailers)
	}
	return 0
}

func sizeOf(lines host.Headers) int { return lines.Size() + lineBytes*len(lines) }

// unanswered is the number of exchanges whose response has not reached the client.
func (a *assembler) unanswered() int {
	count := 0
	for _, e := range a.begun {
		if !e.answered() {
			count++
		}
	}
	return count
}

// answered reports whether a response has passed both taps. A tap tells of a response
// whatever became of the request.
func (e *exchange) answered() bool { return e.response.seen > 1 }

// recording returns the exchanges that were answered.
func (a *assembler) recording() Recording {
	r := Recording{Unanswered: a.unanswered(), Full: a.bytes > maxBytes}
	for _, e := range a.begun {
		if e.answered() {
			r.Exchanges = append(r.Exchanges, e.whole())
		}
	}
	return r
}

// whole returns the exchange. A request that did not reach the last tap was answered by a
// filter between the two.
func (e *exchange) whole() traffic.Exchange {
	reached := e.request.seen > 1
	e.Request = e.request.message(reached)
	if reached {
		e.Response = new(e.response.message(true))
	}
	return e.Exchange
}

// message returns what the first tap on the way has seen.
func (w *way) message(both bool) traffic.Message {
	m := traffic.Message{Headers: w.headers, Trailers: w.trailers}
	chunks, known := w.chunks, true
	if both {
		chunks, known = firstSeen(w.chunks)
	}
	m.Truncated = w.cut || !known
	for _, chunk := range chunks {
		m.Body = append(m.Body, chunk.Bytes)
		m.Truncated = m.Truncated || chunk.Truncated
	}
	if m.Truncated && m.Body == nil {
		m.Body = [][]byte{{}}
	}
	m.Truncated = m.Truncated || short(m)
	return m
}

// short reports whether a body ended before its length.
func short(m traffic.Message) bool {
	text, _ := m.Headers.Get("content-length")
	length, err := strconv.Atoi(text)
	return err == nil && m.Body != nil && len(bytes.Join(m.Body, nil)) < length
}

// firstSeen returns those chunks that the first of two taps has seen. Pieces do not say
// which tap they are from, but a filter between the two does one of two things: it passes
// each chunk on, which then comes twice in a row; or it holds the body, which comes once
// more as a whole after its last chunk. It is not known what a filter that changes the body
// got.
func firstSeen(chunks []body) (first []body, known bool) {
	if passed := everySecond(chunks); passed != nil || len(chunks) == 0 {
		return passed, true
	}
	last := len(chunks) - 1
	if held := chunks[:last]; sameContent(held, chunks[last]) {
		return held, true
	}
	return nil, false
}

// everySecond returns one chunk of each two in a row that are the same; nil when they are
// not.
func everySecond(chunks []body) []body {
	var passed []body
	for pair := range slices.Chunk(chunks, 2) {
		if len(pair) < 2 || pair[0].Truncated != pair[1].Truncated || !bytes.Equal(pair[0].Bytes, pair[1].Bytes) {
			return nil
		}
		passed = append(passed, pair[0])
	}
	return passed
}

// sameContent reports whether chunks are, together, the content of another, as far as that
// is known.
func sameContent(chunks []body, whole body) bool {
	var content []byte
	truncated := false
	for _, chunk := range chunks {
		content = append(content, chunk.Bytes...)
		truncated = truncated || chunk.Truncated
	}
	if truncated || whole.Truncated {
		return len(chunks) > 0 && (bytes.HasPrefix(content, whole.Bytes) || bytes.HasPrefix(whole.Bytes, content))
	}
	return len(chunks) > 0 && bytes.Equal(content, whole.Bytes)
}
