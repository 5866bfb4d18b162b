package host

import "slices"

// Header maps (specification, proxy_header_map_type_t).
const (
	requestHeaders = iota
	requestTrailers
	responseHeaders
	responseTrailers
	grpcInitialMetadata
	grpcTrailingMetadata
	httpCallHeaders
	httpCallTrailers
	maxHeaderMap = httpCallTrailers
)

// mutable returns a header map that the module may change now; nil for none.
func (c *call) mutable(kind uint32) *Headers {
	s := c.vm.scope().stream
	if s == nil {
		return nil
	}
	switch kind {
	case requestHeaders:
		return s.ways[toUpstream].headers
	case requestTrailers:
		return s.ways[toUpstream].trailers
	case responseHeaders:
		return s.ways[toClient].headers
	case responseTrailers:
		return s.ways[toClient].trailers
	}
	return nil
}

// readable returns a header map that the module may read now; nil for none.
func (c *call) readable(kind uint32) *Headers {
	s := c.vm.scope().stream
	switch {
	case s != nil && s.logging && kind == requestHeaders:
		return s.logged[toUpstream]
	case s != nil && s.logging && kind == responseHeaders:
		return s.logged[toClient]
	case kind <= responseTrailers:
		return c.mutable(kind)
	case kind > maxHeaderMap:
		return nil
	case kind == grpcInitialMetadata:
		return c.vm.grpcIn.initial
	case kind == grpcTrailingMetadata:
		return c.vm.grpcIn.trailing
	case c.vm.response == nil:
		return nil
	case kind == httpCallHeaders:
		return &c.vm.response.Headers
	case len(c.vm.response.Trailers) == 0:
		return nil
	default:
		return &c.vm.response.Trailers
	}
}

// checkMap returns what is wrong with a call about a header map; ok for nothing.
func checkMap(headers *Headers, inBounds bool) uint32 {
	switch {
	case !inBounds:
		return invalidMemoryAccess
	case headers == nil:
		return badArgument
	}
	return ok
}

func (c *call) getHeader() uint32 {
	name, inBounds := c.text(1)
	headers := c.readable(c.word(0))
	if wrong := checkMap(headers, inBounds); wrong != ok {
		return wrong
	}
	value, found := headers.Get(name)
	if !found && c.vm.program.ABI != abi010 {
		return notFound
	}
	return c.give(value, 3)
}

func (c *call) getHeaders() uint32 {
	if c.word(0) > maxHeaderMap {
		return badArgument
	}
	headers := c.readable(c.word(0))
	if headers == nil || len(*headers) == 0 {
		return c.give("", 1)
	}
	return c.give(packPairs(*headers), 1)
}

func (c *call) headersSize() uint32 {
	headers := c.mutable(c.word(0))
	if headers == nil {
		return badArgument
	}
	return stored(c.vm.writeU32(c.word(1), uint32(headers.Size()))) //nolint:gosec // bounded by what a module has sent
}

// change has one header line changed, whose name is at argument 1.
func (c *call) change(values []int, change func(headers *Headers, texts []string)) uint32 {
	texts, inBounds := c.texts(append([]int{1}, values...)...)
	headers := c.mutable(c.word(0))
	if wrong := checkMap(headers, inBounds); wrong != ok {
		return wrong
	}
	change(headers, texts)
	return ok
}

func (c *call) addHeader() uint32 {
	return c.change([]int{3}, func(headers *Headers, texts []string) { headers.append(texts[0], texts[1]) })
}

func (c *call) replaceHeader() uint32 {
	return c.change([]int{3}, func(headers *Headers, texts []string) { headers.Set(texts[0], texts[1]) })
}

func (c *call) removeHeader() uint32 {
	return c.change(nil, func(headers *Headers, texts []string) { headers.Remove(texts[0]) })
}

func (c *call) setHeaders() uint32 {
	return c.change(nil, func(headers *Headers, texts []string) {
		*headers = nil
		for _, line := range unpackPairs(texts[0]) {
			headers.append(line.Name, line.Value)
		}
	})
}

// inline are the headers of which Envoy keeps one line: a value that is added comes
// behind a comma (its inline headers, envoy/http/header_map.h).
var inline = []string{
	":authority", ":method", ":path", ":protocol", ":scheme", ":status", "accept", "accept-encoding", "authorization", "cache-control",
	"connection", "content-length", "content-type", "date", "expect", "grpc-message", "grpc-status", "grpc-timeout", "keep-alive",
	"location", "origin", "proxy-connection", "referer", "server", "te", "transfer-encoding", "upgrade", "user-agent", "via",
	"x-client-trace-id", "x-forwarded-client-cert", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto",
	"x-request-id",
}

// append adds a line as Envoy does.
func (h *Headers) append(name, value string) {
	var line Headers
	line.Add(name, value)
	place := slices.IndexFunc(*h, func(known Header) bool { return known.Name == line[0].Name })
	if place >= 0 && slices.Contains(inline, line[0].Name) {
		(*h)[place].Value += "," + value
		return
	}
	h.insert(line[0])
}
