package host

import (
	"slices"
	"strconv"
	"strings"
)

// Drive is an exchange on its way through a stream. It does what Envoy's filter
// manager does for one filter: it holds what the filter stops, shows the filter what
// it has not seen, and turns local replies into responses.
type Drive struct {
	stream   *Stream
	exchange Exchange
	ways     [2]*held
	events   int
	// at is the way that is under way, and ended says that the stream is closed.
	at      int
	ended   bool
	outcome Outcome
}

// held is one way of an exchange.
type held struct {
	message  *Message
	event    int // of the message: headers, chunks, trailers
	headers  Headers
	trailers Headers
	buffer   []byte
	// holding is how the filter has stopped the way; goOn for not at all.
	holding action
	// bodyHeld says that the buffer is to go on, even an empty one.
	bodyHeld, trailersHeld, headersPassed bool
	arrived                               bool // all of the message
	out                                   *Message
	complete                              bool // all of the message has passed
}

// NewDrive begins an exchange. Its headers and bodies are copied.
func (vm *VM) NewDrive(plugin *Plugin, exchange Exchange) *Drive {
	d := &Drive{exchange: exchange, stream: vm.NewStream(plugin, exchange.Properties)}
	d.ways = [2]*held{{message: &d.exchange.Request}, {message: &d.exchange.Response}}
	return d
}

// Run passes the whole exchange and returns what became of it. A stream that is held
// up stays so: see Settle.
func (d *Drive) Run() Outcome {
	for d.Step() {
	}
	return d.Close()
}

// Step passes one more event, and reports whether the exchange may have another. What
// the filter holds up is no event.
func (d *Drive) Step() bool {
	d.Settle()
	if d.ended || d.stream.vm.failure != nil {
		d.fail()
		return false
	}
	if d.exchange.AbortAfter > 0 && d.events == d.exchange.AbortAfter {
		d.ended = true
		return false
	}
	h := d.ways[d.at]
	if h.arrived {
		if d.at == toClient || !h.complete {
			return false
		}
		d.at, h = toClient, d.ways[toClient]
	}
	d.events++
	d.feed(d.at, h)
	d.Settle()
	return !d.ended
}

// Waiting reports whether the filter holds the exchange up.
func (d *Drive) Waiting() bool {
	h := d.ways[d.at]
	return !d.ended && h.arrived && !h.complete
}

// feed passes the next event of a message.
func (d *Drive) feed(direction int, h *held) {
	m, event := h.message, h.event
	h.event++
	last := event == len(m.Body) && len(m.Trailers) == 0 || event > len(m.Body)
	h.arrived = last
	switch {
	case event == 0:
		h.headers = slices.Clone(m.Headers)
		d.headers(direction, h)
	case event <= len(m.Body):
		d.stream.ways[direction].received += len(m.Body[event-1])
		d.chunk(direction, h, slices.Clone(m.Body[event-1]), last)
	default:
		h.trailers = slices.Clone(m.Trailers)
		d.passTrailers(direction, h)
	}
}

func (d *Drive) headers(direction int, h *held) {
	h.holding = d.stream.onHeaders(direction, &h.headers, h.arrived)
	if h.holding == goOn {
		h.passHeaders()
	}
}

func (h *held) passHeaders() {
	if h.headersPassed {
		return
	}
	h.headersPassed = true
	h.out = &Message{Headers: h.headers}
	h.complete = h.arrived && !h.bodyHeld && len(h.trailers) == 0
}

func (h *held) passBody(data []byte, last bool) {
	h.out.Body = append(h.out.Body, data)
	h.complete = last
}

// chunk passes a part of a body, which the filter sees unless it has stopped all.
func (d *Drive) chunk(direction int, h *held, data []byte, last bool) {
	if h.holding == stopAll {
		h.buffer, h.bodyHeld = append(h.buffer, data...), true
		return
	}
	seen := &data
	if h.holding == stopAndBuffer {
		h.buffer = append(h.buffer, data...)
		seen = &h.buffer
	}
	buffered := seen == &h.buffer
	was := h.holding
	asked := d.stream.onBody(direction, seen, last)
	switch {
	case asked == goOn && was == goOn:
		h.passBody(*seen, last)
		return
	case asked == goOn:
		if !buffered {
			h.buffer = append(h.buffer, data...)
		}
		h.bodyHeld = true
		d.resume(direction, h)
		return
	case asked == stopNoBuffer:
		h.bodyHeld = h.bodyHeld || last
	case !buffered:
		h.buffer, h.bodyHeld = append(h.buffer, data...), true
	default:
		h.bodyHeld = true
	}
	h.holding = asked
	d.stream.ways[direction].body = new([]byte)
	if asked == stopAndBuffer {
		d.stream.ways[direction].body = &h.buffer
	}
}

func (d *Drive) passTrailers(direction int, h *held) {
	if h.holding == stopAll {
		h.trailersHeld = true
		return
	}
	was := h.holding
	if asked := d.stream.onTrailers(direction, &h.trailers); asked != goOn {
		h.trailersHeld = true
		if h.holding == goOn {
			h.holding = stopNoBuffer
		}
		return
	}
	h.trailersHeld = true
	if was != goOn {
		d.resume(direction, h)
		return
	}
	h.finish()
}

func (h *held) finish() {
	h.out.Trailers, h.complete = h.trailers, true
}

// resume passes what was held. After stopAll the filter sees body and trailers, which
// it has not seen yet.
func (d *Drive) resume(direction int, h *held) {
	unseen := h.holding == stopAll
	h.holding = goOn
	h.passHeaders()
	withTrailers := h.trailersHeld
	if h.bodyHeld {
		data := h.buffer
		h.buffer, h.bodyHeld = nil, false
		last := h.arrived && !withTrailers
		if unseen {
			d.chunk(direction, h, data, last)
		} else {
			h.passBody(data, last)
		}
	}
	switch {
	case !withTrailers:
	case unseen:
		h.trailersHeld = false
		d.passTrailers(direction, h)
	default:
		h.finish()
	}
}

// Settle does what the filter has asked for since the last event, also from another
// callback than the stream's own.
func (d *Drive) Settle() {
	for direction, w := range d.stream.ways {
		if !w.resumed {
			continue
		}
		w.resumed = false
		h := d.ways[direction]
		switch {
		case d.stream.stopped():
		case h.holding != goOn:
			d.resume(direction, h)
		case direction == toClient && h.event == 1 && len(h.message.Body) == 0:
			d.stream.vm.failure = failed(Trapped, headersCallbacks[toClient], "letting a response go on that it does not hold crashes the proxy")
		}
	}
	switch s := d.stream; {
	case d.ended:
	case s.vm.failure != nil:
		d.fail()
	case s.reset:
		d.ended, d.outcome.Reset = true, true
	case s.local != nil && d.outcome.LocalReply == nil:
		d.reply(s.local)
	}
}

// reply answers the client in the upstream's place. While the request is under way
// the reply passes the filter as a response does; later it replaces the response, or,
// once that has begun, resets the stream.
func (d *Drive) reply(local *LocalReply) {
	d.outcome.LocalReply = local
	d.stream.local = nil
	response := local.message(d.exchange.Request.Headers)
	switch h := d.ways[toClient]; {
	case h.headersPassed:
		d.ended, d.outcome.Reset = true, true
	case h.event > 0:
		d.ended = true
		h.out = response
	default:
		d.at = toClient
		h.message = response
		for !h.arrived && !d.ended && d.stream.vm.failure == nil {
			d.feed(toClient, h)
			d.stream.local = nil // a reply to a reply is not sent
			d.Settle()
		}
		d.ended = d.ended || h.complete
	}
}

// message returns the reply as Envoy sends it (prepareLocalReply).
func (r *LocalReply) message(request Headers) *Message {
	m := &Message{}
	if kind, _ := request.Get("content-type"); strings.HasPrefix(kind, "application/grpc") {
		m.Headers = Headers{{":status", "200"}, {"content-type", "application/grpc"}, {"grpc-status", strconv.Itoa(r.grpcStatus())}}
		if r.Body != "" {
			m.Headers.Add("grpc-message", r.Body)
		}
		for _, line := range r.Headers {
			m.Headers.append(line.Name, line.Value)
		}
		return m
	}
	m.Headers = Headers{{":status", strconv.Itoa(int(r.Status))}}
	for _, line := range r.Headers {
		m.Headers.append(line.Name, line.Value)
	}
	if r.Body == "" {
		return m
	}
	m.Headers.Set("content-length", strconv.Itoa(len(r.Body)))
	if _, typed := m.Headers.Get("content-type"); !typed {
		m.Headers.Add("content-type", "text/plain")
	}
	m.Body = [][]byte{[]byte(r.Body)}
	return m
}

// grpcStatus returns the gRPC status of a reply: its own, else that of the HTTP status
// (Envoy's Grpc::Utility::httpToGrpcStatus).
func (r *LocalReply) grpcStatus() int {
	if r.GRPCStatus >= 0 {
		return int(r.GRPCStatus)
	}
	codes := map[uint32]int{400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
	if code, found := codes[r.Status]; found {
		return code
	}
	return 2 // UNKNOWN
}

// fail ends the exchange as Envoy ends the streams of a VM that has failed: with 503
// while nothing of the response has passed, else with a reset.
func (d *Drive) fail() {
	if d.ended {
		return
	}
	d.ended = true
	if h := d.ways[toClient]; h.headersPassed {
		d.outcome.Reset = true
	} else {
		h.out = &Message{Headers: Headers{{":status", "503"}}}
	}
}

// Close ends the stream, wherever it is, and returns what became of the exchange.
func (d *Drive) Close() Outcome {
	d.outcome.Paused = d.Waiting()
	if d.stream.vm.failure == nil {
		d.stream.close()
	}
	d.outcome.Request, d.outcome.Response = d.ways[toUpstream].out, d.ways[toClient].out
	return d.outcome
}
