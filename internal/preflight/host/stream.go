package host

import "time"

// The ways of a stream: requests go to the upstream, responses to the client.
const (
	toUpstream = iota
	toClient
)

// Stream is one request with its response, as the callbacks of a module see them.
type Stream struct {
	vm         *VM
	scope      *scope
	ways       [2]*way
	state      map[string]string // what proxy_set_property has set
	properties map[string][]byte

	// local is the reply that the module has sent in the upstream's place, and reset says
	// that it has cut the stream off.
	local *LocalReply
	reset bool
	// replied says that another local reply is ignored.
	replied bool
	// logging says that proxy_on_log runs, which sees the headers once more.
	logging bool
	logged  [2]*Headers
}

// way is one direction of a stream.
type way struct {
	// headers, body and trailers are what the module can read and change now; nil for none.
	headers, trailers *Headers
	body              *[]byte
	// seen are the headers, for the attributes, and received the bytes of the body.
	seen     *Headers
	received int
	// resumed says that the module has asked for the way to go on.
	resumed bool
}

// NewStream begins a stream of a plugin: proxy_on_context_create.
func (vm *VM) NewStream(plugin *Plugin, properties map[string][]byte) *Stream {
	s := &Stream{vm: vm, ways: [2]*way{{}, {}}, properties: properties}
	s.scope = vm.newScope(plugin, s, plugin.scope)
	vm.invoke(s.scope, "proxy_on_context_create", uint64(s.scope.id), uint64(plugin.scope.id))
	return s
}

// action is what a module wants of the part of a message that it was called with.
type action int

// The actions. Envoy takes a stopped iteration of headers as stopAll.
const (
	goOn action = iota
	// stopAll holds headers and all that follows, which the module sees once it goes on.
	stopAll
	// stopAndBuffer holds a body; the module sees all of it with each chunk.
	stopAndBuffer
	// stopAndWatermark holds a body; the module sees each chunk once.
	stopAndWatermark
	// stopNoBuffer drops a chunk.
	stopNoBuffer
)

// Values that callbacks return (proxy_wasm_common.h of proxy-wasm-cpp-host).
const (
	returnedContinue      = 0
	returnedEndStream     = 2
	returnedBuffer        = 1
	returnedWatermark     = 2
	lastReturnedOfHeaders = 4
)

var headersCallbacks = [2]string{"proxy_on_request_headers", "proxy_on_response_headers"}

// onHeaders calls the module with headers.
func (s *Stream) onHeaders(direction int, headers *Headers, endOfStream bool) action {
	w := s.ways[direction]
	w.headers, w.seen = headers, headers
	args := []uint64{uint64(s.scope.id), uint64(len(*headers))}
	if s.vm.program.ABI != abi010 {
		args = append(args, uint64(boolean(endOfStream)))
	}
	returned := s.invoke(headersCallbacks[direction], args...)
	if s.stopped() || returned != returnedContinue && returned != returnedEndStream {
		return stopAll
	}
	w.headers = nil
	return goOn
}

var bodyCallbacks = [2]string{"proxy_on_request_body", "proxy_on_response_body"}

// onBody calls the module with a body, or a part of one.
func (s *Stream) onBody(direction int, body *[]byte, endOfStream bool) action {
	w := s.ways[direction]
	w.body = body
	returned := s.invoke(bodyCallbacks[direction], uint64(s.scope.id), uint64(len(*body)), uint64(boolean(endOfStream)))
	switch {
	case s.stopped():
		return stopNoBuffer
	case returned == returnedContinue:
		w.body = nil
		return goOn
	case returned == returnedBuffer:
		return stopAndBuffer
	case returned == returnedWatermark:
		return stopAndWatermark
	}
	return stopNoBuffer
}

var trailersCallbacks = [2]string{"proxy_on_request_trailers", "proxy_on_response_trailers"}

// onTrailers calls the module with trailers.
func (s *Stream) onTrailers(direction int, trailers *Headers) action {
	w := s.ways[direction]
	w.trailers = trailers
	returned := s.invoke(trailersCallbacks[direction], uint64(s.scope.id), uint64(len(*trailers)))
	if s.stopped() || returned != returnedContinue {
		return stopAll
	}
	w.trailers = nil
	return goOn
}

func (s *Stream) invoke(callback string, args ...uint64) uint64 {
	return s.vm.invoke(s.scope, callback, args...)
}

// stopped reports whether nothing goes on after a callback.
func (s *Stream) stopped() bool { return s.vm.failure != nil || s.local != nil || s.reset }

// close ends the stream: proxy_on_log, proxy_on_done, proxy_on_delete.
func (s *Stream) close() {
	s.logging = true
	s.logged = [2]*Headers{s.ways[toUpstream].seen, s.ways[toClient].seen}
	id := uint64(s.scope.id)
	s.invoke("proxy_on_log", id)
	s.logging = false
	s.invoke("proxy_on_done", id)
	s.invoke("proxy_on_delete", id)
	delete(s.vm.contexts, s.scope.id)
}

func (c *call) sendLocalResponse() uint32 {
	texts, inBounds := c.texts(1, 3, 5)
	if !inBounds {
		return invalidMemoryAccess
	}
	s := c.vm.scope().stream
	switch {
	case s == nil || s.replied:
		return ok
	case s.logging:
		panic(crash{"proxy_send_local_response in proxy_on_log"})
	}
	s.replied = true
	s.local = &LocalReply{
		Status: c.word(0), Details: texts[0], Body: texts[1], Headers: unpackPairs(texts[2]),
		GRPCStatus: int32(c.word(7)), //nolint:gosec // -1 is none
	}
	return ok
}

// Streams that can go on or be closed (proxy_stream_type_t).
const (
	requestStream = iota
	responseStream
	downstreamStream
	upstreamStream
)

func (c *call) continueStream() uint32 {
	switch c.word(0) {
	case requestStream:
		return c.goOn(toUpstream)
	case responseStream:
		return c.goOn(toClient)
	case downstreamStream:
		return ok
	case upstreamStream:
		return unimplemented
	}
	return badArgument
}

// crash is the panic of a call that crashes Envoy itself, as it was seen to.
type crash struct{ call string }

// Error implements error: wazero makes it the cause of the trap.
func (c crash) Error() string { return c.call + " crashes the proxy" }

// goOn has a way go on once the callback has ended.
func (c *call) goOn(direction int) uint32 {
	if s := c.vm.scope().stream; s != nil {
		if direction == toClient && s.ways[toClient].seen == nil {
			panic(crash{"letting a response go on that has not begun"})
		}
		s.ways[direction].resumed = true
		request := s.ways[toUpstream]
		request.headers, request.body, request.trailers = nil, nil, nil
	}
	return ok
}

func (c *call) closeStream() uint32 {
	kind := c.word(0)
	if kind > upstreamStream {
		return badArgument
	}
	if s := c.vm.scope().stream; s != nil && kind < downstreamStream {
		s.reset = true
	}
	return ok
}

func (c *call) setTickPeriod() uint32 {
	c.vm.scope().root.tick = time.Duration(c.word(0)) * time.Millisecond
	return ok
}
