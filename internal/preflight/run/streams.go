package run

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// stream is a synthetic stream, with words that say what it is.
type stream struct {
	name     string
	exchange host.Exchange
}

// properties are attributes of every synthetic stream, with addresses of documentation
// (RFC 5737).
var properties = map[string][]byte{
	"source.address":      []byte("192.0.2.10:40000"),
	"source.port":         {0x40, 0x9c, 0, 0, 0, 0, 0, 0},
	"destination.address": []byte("192.0.2.20:8080"),
	"destination.port":    {0x90, 0x1f, 0, 0, 0, 0, 0, 0},
	"connection_id":       {1, 0, 0, 0, 0, 0, 0, 0},
	"connection.id":       {1, 0, 0, 0, 0, 0, 0, 0},
	"connection.mtls":     {0},
	"listener_direction":  {1, 0, 0, 0, 0, 0, 0, 0},
	"route_name":          []byte("default"),
	"cluster_name":        []byte("inbound|8080||"),
}

// bodies are those of requests and responses: none, and others in their chunks. Bodies of
// HTTP/1.1 end with an empty chunk.
var bodies = []struct {
	name, kind string
	chunks     [][]byte
}{
	{"no body", "", nil},
	{"an empty body", "text/plain", [][]byte{{}}},
	{"a JSON body", "application/json", [][]byte{[]byte(`{"name":"preflight","items":[1,2,3],"nested":{"ok":true}}`), {}}},
	{"a JSON body in chunks", "application/json", [][]byte{[]byte(`{"name":`), []byte(`"preflight"`), []byte(`}`), {}}},
	{"a body that is not valid JSON", "application/json", [][]byte{[]byte(`{"name":`), {}}},
	{"a form", "application/x-www-form-urlencoded", [][]byte{[]byte("name=preflight&item=1"), {}}},
	{"64 KiB of bytes", "application/octet-stream", [][]byte{bytes.Repeat([]byte{0, 0xff, 'a', 0x80}, 8<<10), bytes.Repeat([]byte{0x0a}, 32<<10), {}}},
}

var methods = []string{"GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"}

var statuses = []string{"200", "204", "301", "304", "400", "401", "404", "429", "500", "503"}

// paths are of requests: the usual, one with a query, one that is long.
var paths = []string{"/", "/api/v1/items?id=1&name=a%20b", "/index.html", "/" + strings.Repeat("long/", 400)}

// count is the number of synthetic streams before each is passed again.
var count = len(methods) * len(bodies) * 3

// synthetic returns the stream with that number: every method with every body and each of
// three shapes, responses of all kinds in turn.
func synthetic(i int) stream {
	method := methods[i%len(methods)]
	body := bodies[i/len(methods)%len(bodies)]
	shape := i / (len(methods) * len(bodies)) % 3
	if method == "GET" || method == "HEAD" || method == "CONNECT" {
		body = bodies[0]
	}
	answer := bodies[(i+i/7)%len(bodies)]
	status := statuses[i%len(statuses)]
	if status == "204" || status == "304" || method == "HEAD" {
		answer = bodies[0]
	}
	e := host.Exchange{Request: request(i, method), Response: response(status), Properties: properties}
	e.Request.Body, e.Response.Body = body.chunks, answer.chunks
	setType(&e.Request, body.kind)
	setType(&e.Response, answer.kind)
	name := fmt.Sprintf("%s with %s, answered with %s and %s", method, body.name, status, answer.name)
	switch shape {
	case 1:
		if len(body.chunks) > 0 {
			e.Request.Trailers = host.Headers{{Name: "x-checksum", Value: "1"}}
			name += ", with trailers"
		}
		if len(answer.chunks) > 0 {
			e.Response.Trailers = host.Headers{{Name: "grpc-status", Value: "0"}}
		}
	case 2:
		e.AbortAfter = 1 + i%4
		name += fmt.Sprintf(", aborted after %d parts", e.AbortAfter)
	}
	return stream{name, e}
}

func setType(m *host.Message, kind string) {
	if kind != "" {
		m.Headers.Add("content-type", kind)
	}
}

// request returns a request without a body. Its ids are few, so that a cache by one of
// them fills.
func request(i int, method string) host.Message {
	return host.Message{Headers: host.Headers{
		{Name: ":method", Value: method},
		{Name: ":path", Value: paths[i%len(paths)]},
		{Name: ":authority", Value: "preflight.example"},
		{Name: ":scheme", Value: "http"},
		{Name: "user-agent", Value: "preflight"},
		{Name: "accept", Value: "*/*"},
		{Name: "x-request-id", Value: fmt.Sprintf("00000000-0000-4000-8000-%012d", i%64)},
		{Name: "x-forwarded-for", Value: "192.0.2.10"},
		{Name: "cookie", Value: "session=preflight; theme=dark"},
		{Name: "authorization", Value: "Bearer cHJlZmxpZ2h0"},
	}}
}

func response(status string) host.Message {
	return host.Message{Headers: host.Headers{
		{Name: ":status", Value: status},
		{Name: "server", Value: "preflight"},
		{Name: "set-cookie", Value: "a=1"},
		{Name: "set-cookie", Value: "b=2"},
	}}
}

// hostile returns streams that a client or an upstream may send, though few do.
func hostile() []stream {
	plain := func() host.Exchange {
		return host.Exchange{Request: request(0, "GET"), Response: response("200"), Properties: properties}
	}
	made := make([]stream, 0, 5)
	add := func(name string, change func(*host.Exchange)) {
		e := plain()
		change(&e)
		made = append(made, stream{name, e})
	}
	add("a request header that is not UTF-8", func(e *host.Exchange) { e.Request.Headers.Add("x-latin", "caf\xe9") })
	add("a response header that is not UTF-8", func(e *host.Exchange) { e.Response.Headers.Add("x-latin", "caf\xe9") })
	add("a request with few headers", func(e *host.Exchange) { e.Request.Headers = slices.Clone(e.Request.Headers[:4]) })
	add("an authorization header without content", func(e *host.Exchange) { e.Request.Headers.Set("authorization", "") })
	add("a request body that is not UTF-8", func(e *host.Exchange) {
		e.Request.Headers.Set(":method", "POST")
		e.Request.Body = [][]byte{{0xff, 0xfe, 0x80}, {}}
	})
	return made
}
