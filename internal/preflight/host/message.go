package host

import (
	"slices"
	"strings"
)

// Header is one line of a header map. Names are in lower case; those that begin
// with a colon are the pseudo headers of HTTP/2 (:method, :path, :status …).
type Header struct{ Name, Value string }

// Headers are header lines in the order in which Envoy has them. A name can occur
// more than once.
type Headers []Header

// Message is a request or a response.
type Message struct {
	Headers Headers
	// Body has the chunks in which the body arrives. A body of HTTP/1.1 ends with an
	// empty chunk, because Envoy learns of its end after its last byte.
	Body [][]byte
	// Trailers end the message; none when empty.
	Trailers Headers
}

// Exchange is what the client and the upstream of one stream send.
type Exchange struct {
	Request  Message
	Response Message
	// Properties are attributes of the stream that proxy_get_property returns, by their
	// path with dots, such as source.address, in the form that Envoy gives them: text as
	// it is, numbers in 8 bytes little-endian, a bool in one.
	Properties map[string][]byte
	// AbortAfter, unless zero, is the number of events (headers, chunks, trailers, of the
	// request and then of the response) after which the client goes away.
	AbortAfter int
}

// Outcome is what became of an exchange.
type Outcome struct {
	// Request is what the upstream got; nil when nothing reached it.
	Request *Message
	// Response is what the client got; nil when nothing reached it.
	Response *Message
	// LocalReply is the reply that the filter sent instead of the upstream's; nil for none.
	LocalReply *LocalReply
	// Reset says that the filter, or a trap, cut the stream off.
	Reset bool
	// Paused says that the filter held the stream up until it was given up.
	Paused bool
}

// LocalReply is what a filter asked for with proxy_send_local_response.
type LocalReply struct {
	Status     uint32
	Details    string
	Body       string
	Headers    Headers
	GRPCStatus int32
}

// Get returns the first value of a header, and whether there is one. Names are
// compared without regard to case.
func (h Headers) Get(name string) (string, bool) {
	name = strings.ToLower(name)
	for _, line := range h {
		if line.Name == name {
			return line.Value, true
		}
	}
	return "", false
}

// Add appends a line.
func (h *Headers) Add(name, value string) {
	*h = append(*h, Header{strings.ToLower(name), value})
}

// Set removes the lines of a name and appends one: a pseudo header behind the others of
// its kind, another header at the end.
func (h *Headers) Set(name, value string) {
	h.Remove(name)
	h.insert(Header{strings.ToLower(name), value})
}

func (h *Headers) insert(line Header) {
	if !strings.HasPrefix(line.Name, ":") {
		*h = append(*h, line)
		return
	}
	pseudo := 0
	for pseudo < len(*h) && strings.HasPrefix((*h)[pseudo].Name, ":") {
		pseudo++
	}
	*h = slices.Insert(*h, pseudo, line)
}

// Remove removes all lines of a name.
func (h *Headers) Remove(name string) {
	name = strings.ToLower(name)
	kept := (*h)[:0]
	for _, line := range *h {
		if line.Name != name {
			kept = append(kept, line)
		}
	}
	*h = kept
}

// Size returns the number of bytes of all names and values.
func (h Headers) Size() int {
	size := 0
	for _, line := range h {
		size += len(line.Name) + len(line.Value)
	}
	return size
}

// Content returns the whole body.
func (m *Message) Content() []byte {
	var content []byte
	for _, chunk := range m.Body {
		content = append(content, chunk...)
	}
	return content
}
