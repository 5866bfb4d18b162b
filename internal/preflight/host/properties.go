package host

import (
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
)

func (c *call) setProperty() uint32 {
	texts, inBounds := c.texts(0, 2)
	s := c.vm.scope().stream
	switch {
	case !inBounds:
		return invalidMemoryAccess
	case s == nil:
		return notFound
	}
	if s.state == nil {
		s.state = map[string]string{}
	}
	s.state[texts[0]] = texts[1]
	return ok
}

func (c *call) getProperty() uint32 {
	path, inBounds := c.text(0)
	if !inBounds {
		return invalidMemoryAccess
	}
	parts := strings.Split(strings.TrimSuffix(path, "\x00"), "\x00")
	if len(parts) == 1 && slices.Contains(messages, parts[0]) {
		return serializationFailed
	}
	value, found := c.property(parts)
	if !found {
		return notFound
	}
	return c.give(value, 2)
}

// messages are the attributes that are no value themselves.
var messages = []string{"", "request", "response", "filter_state"}

// property returns an attribute (envoyproxy.io: "Attributes", and context.cc of its
// Wasm extension).
func (c *call) property(path []string) (string, bool) {
	s := c.vm.scope()
	if s.plugin != nil && len(path) == 1 {
		switch path[0] {
		case "plugin_name":
			return s.plugin.Name, true
		case "plugin_root_id":
			return s.plugin.RootID, true
		case "plugin_vm_id":
			return c.vm.options.VMID, true
		}
	}
	if s.stream == nil {
		return c.unknown(path)
	}
	if value, set := s.stream.state[strings.TrimPrefix(strings.Join(path, "."), "filter_state.wasm.")]; set {
		return value, true
	}
	if value, given := s.stream.properties[strings.Join(path, ".")]; given {
		return string(value), true
	}
	switch way := s.stream.ways; path[0] {
	case "request":
		if value, found := way[toUpstream].attribute(path[1:], s.stream.logging); found || way[toUpstream].seen != nil {
			return value, found
		}
	case "response":
		if value, found := way[toClient].attribute(path[1:], s.stream.logging); found || way[toClient].seen != nil {
			return value, found
		}
	}
	return c.unknown(path)
}

// known are the first parts of the attributes that a proxy may have. Of others it has
// none, unless a filter has set one.
var known = []string{
	"metadata", "request", "response", "connection", "upstream", "node", "source", "destination", "listener_direction",
	"listener_metadata", "cluster_name", "cluster_metadata", "route_name", "route_metadata", "upstream_host_metadata", "connection_id",
	"filter_state", "upstream_filter_state", "xds", "upstream_peer", "downstream_peer",
}

// unknown notes an attribute that a proxy may have, and the host has not.
func (c *call) unknown(path []string) (string, bool) {
	for _, first := range known {
		if path[0] == first {
			c.vm.ask("property " + strings.Join(path, "."))
		}
	}
	return "", false
}

// attribute returns an attribute of a request or response. Those that are headers are
// there while the module can read the headers.
func (w *way) attribute(path []string, logging bool) (string, bool) {
	if w.seen == nil || len(path) == 0 {
		return "", false
	}
	if len(path) == 1 && path[0] == "size" {
		return number(uint64(w.received)), true //nolint:gosec // not negative
	}
	if w.headers == nil && !logging {
		return "", false
	}
	if path[0] == "headers" && len(path) == 2 {
		return w.seen.joined(path[1])
	}
	if len(path) != 1 {
		return "", false
	}
	header := map[string]string{
		"path": ":path", "host": ":authority", "method": ":method", "scheme": ":scheme", "id": "x-request-id", "referer": "referer", "useragent": "user-agent",
	}
	switch path[0] {
	case "url_path":
		target, found := w.seen.Get(":path")
		target, _, _ = strings.Cut(target, "?")
		return target, found
	case "query":
		target, found := w.seen.Get(":path")
		_, query, _ := strings.Cut(target, "?")
		return query, found
	case "protocol":
		return "HTTP/1.1", true
	case "code":
		text, _ := w.seen.Get(":status")
		code, err := strconv.ParseUint(text, 10, 64)
		return number(code), err == nil
	}
	if header[path[0]] == "" {
		return "", false
	}
	return w.seen.Get(header[path[0]])
}

// joined returns all values of a header, with commas between them.
func (h Headers) joined(name string) (string, bool) {
	var values []string
	for _, line := range h {
		if line.Name == strings.ToLower(name) {
			values = append(values, line.Value)
		}
	}
	return strings.Join(values, ","), values != nil
}

// number returns a number as Envoy serializes it: 8 bytes, little-endian.
func number(value uint64) string {
	return string(binary.LittleEndian.AppendUint64(nil, value))
}
