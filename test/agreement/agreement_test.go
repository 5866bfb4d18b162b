package agreement_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
	"github.com/wasme-io/wasme-operator/test/agreement"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/filters/foreign"
)

// pairs returns headers from names and values.
func pairs(words ...string) host.Headers {
	var headers host.Headers
	for i := 0; i < len(words); i += 2 {
		headers.Add(words[i], words[i+1])
	}
	return headers
}

func get(further ...string) host.Message {
	return host.Message{Headers: append(pairs(":method", "GET", ":path", "/", ":authority", "test", "x-forwarded-proto", "http"), pairs(further...)...)}
}

func post(headers host.Headers, trailers host.Headers, chunks ...string) host.Message {
	m := host.Message{Headers: append(pairs(":method", "POST", ":path", "/", ":authority", "test", "x-forwarded-proto", "http"), headers...), Trailers: trailers}
	for _, chunk := range chunks {
		m.Body = append(m.Body, []byte(chunk))
	}
	return m
}

func answer(status string, further ...string) host.Message {
	return host.Message{Headers: append(pairs(":status", status), pairs(further...)...)}
}

// build returns a module of package filters.
func build(t *testing.T, name string) []byte {
	t.Helper()
	module, err := filters.Build(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return module
}

func start(t *testing.T, setup agreement.Setup) *agreement.Envoy {
	t.Helper()
	setup.Log = t.Output()
	e, err := agreement.Start(t.Context(), setup)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func send(t *testing.T, e *agreement.Envoy, exchange host.Exchange) agreement.Seen {
	t.Helper()
	seen, err := e.Send(t.Context(), exchange)
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got)\n%s", what, diff)
	}
}

func TestAHeaderIsAdded(t *testing.T) {
	e := start(t, agreement.Setup{Module: build(t, filters.Hello), RootID: filters.RootID, Configuration: "everybody"})
	seen := send(t, e, host.Exchange{Request: get("x-twice", "1", "x-twice", "2"), Response: answer("200", "x-up", "yes")})
	expect(t, "request", seen.Request.Headers, get("x-twice", "1", "x-twice", "2").Headers)
	expect(t, "response", seen.Response.Headers, answer("200", "x-up", "yes", "hello", "everybody").Headers)
	expect(t, "details", seen.Details, "via_upstream")
}

func TestBodiesAndTrailersPass(t *testing.T) {
	e := start(t, agreement.Setup{Module: build(t, filters.Hello), RootID: filters.RootID})
	request := post(pairs("x-name", "value"), pairs("x-end", "request"), "one", "two")
	response := answer("201")
	response.Body, response.Trailers = [][]byte{[]byte("three"), []byte("four")}, pairs("x-end", "response")
	for range 2 {
		seen := send(t, e, host.Exchange{Request: request, Response: response})
		expect(t, "request body", string(seen.Request.Content()), "onetwo")
		expect(t, "request trailers", seen.Request.Trailers, request.Trailers)
		expect(t, "response body", string(seen.Response.Content()), "threefour")
		expect(t, "response trailers", seen.Response.Trailers, response.Trailers)
	}
}

func TestEachChunkIsACallback(t *testing.T) {
	e := start(t, agreement.Setup{Module: probe(t), Configuration: "request_body return 0"})
	seen := send(t, e, host.Exchange{Request: post(nil, nil, "a", "bc", "def", ""), Response: answer("200")})
	var sizes []string
	for _, line := range seen.Lines {
		if strings.HasPrefix(line.Text, "request_body") {
			sizes = append(sizes, strings.TrimPrefix(line.Text, "request_body 2 "))
		}
	}
	expect(t, "callbacks", sizes, []string{"1 0", "2 0", "3 0", "0 1"})
}

func TestAFilterAnswers(t *testing.T) {
	e := start(t, agreement.Setup{Module: probe(t)})
	seen := send(t, e, host.Exchange{
		Request:  get("x-probe", "request_headers send_local_response 418 because short x-own=yes -1;request_headers return 1"),
		Response: answer("200"),
	})
	if seen.Request != nil {
		t.Errorf("the upstream got %v", seen.Request)
	}
	if seen.LocalReply == nil {
		t.Fatalf("no reply of the filter: %+v", seen)
	}
	expect(t, "status", seen.LocalReply.Status, uint32(418))
	expect(t, "details", seen.LocalReply.Details, "because")
	expect(t, "body", seen.LocalReply.Body, "short")
}

func TestAHeldRequestIsPaused(t *testing.T) {
	e := start(t, agreement.Setup{Module: probe(t)})
	for range 2 {
		seen := send(t, e, host.Exchange{Request: get("x-probe", "request_headers return 1"), Response: answer("200")})
		expect(t, "paused", seen.Paused, true)
		expect(t, "reset", seen.Reset, false)
	}
}

func TestAClientGoesAway(t *testing.T) {
	e := start(t, agreement.Setup{Module: probe(t)})
	response := answer("200")
	response.Body = [][]byte{[]byte("one"), []byte("two"), nil}
	for after := 1; after <= 6; after++ {
		seen := send(t, e, host.Exchange{Request: post(nil, nil, "a", ""), Response: response, AbortAfter: after})
		expect(t, "flags", seen.Flags, "DC")
		if last := seen.Lines[len(seen.Lines)-1]; !strings.HasPrefix(last.Text, "delete") {
			t.Errorf("after %d parts the last callback was %s", after, last.Text)
		}
	}
}

func TestATrapEndsTheVM(t *testing.T) {
	e := start(t, agreement.Setup{Module: build(t, filters.Trap), RootID: filters.RootID})
	seen := send(t, e, host.Exchange{Request: get("x-crash", "now"), Response: answer("200")})
	expect(t, "response", seen.Response.Headers, answer("503").Headers)
	if seen.LocalReply != nil || len(seen.Reasons) == 0 || !strings.Contains(seen.Reasons[0], "proxy_on_request_headers failed") {
		t.Errorf("reply %v, reasons %q", seen.LocalReply, seen.Reasons)
	}
}

func TestARefusedConfigurationIsAnError(t *testing.T) {
	_, err := agreement.Start(t.Context(), agreement.Setup{
		Module: build(t, filters.Hello), RootID: filters.RootID, Configuration: filters.RefusedConfiguration,
	})
	var refused *agreement.Refused
	if !errors.As(err, &refused) {
		t.Fatalf("got %v", err)
	}
	expect(t, "lines", refused.Lines, []host.Line{{Level: host.Error, Text: "configuration refused: it says so itself"}})
}

func probe(t *testing.T) []byte {
	t.Helper()
	module, err := foreign.Build(t.Context(), foreign.Probe)
	if err != nil {
		t.Fatal(err)
	}
	return module
}
