package suite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// standIn is a stand-in for a plugin on the real host. It logs each callback with its
// arguments, passes everything on, and does what its headers and bodies say:
//
//	x-reply: 403     reply with this status
//	x-hold: 1        hold the headers
//	x-add: Name=v    add a header
//	x-remove: name   remove a header
//	x-trap: 1        fail
//	REPLY, TRAP, LONG in a chunk
//
// It turns other chunks into upper case.
type standIn struct {
	logs                             []string
	properties                       map[string][]byte
	failInit, failClose, failDestroy error
}

var errTrap = errors.New("the module trapped: unreachable")

func (s *standIn) log(format string, args ...any) {
	s.logs = append(s.logs, fmt.Sprintf(format, args...))
}

func (s *standIn) Logs() []string {
	logs := s.logs
	s.logs = nil
	return logs
}

func (s *standIn) NewStream(properties map[string][]byte) (Stream, error) {
	s.properties = properties
	s.log("stream begins with %s", properties["a.b"])
	return standInStream{s}, s.failInit
}

func (s *standIn) Close() error { return s.failDestroy }

type standInStream struct{ plugin *standIn }

func (s standInStream) RequestHeaders(h *host.Headers, endOfStream bool) (Phase, error) {
	return s.headers("request", h, endOfStream)
}

func (s standInStream) ResponseHeaders(h *host.Headers, endOfStream bool) (Phase, error) {
	return s.headers("response", h, endOfStream)
}

func (s standInStream) RequestBody(chunk []byte, endOfStream bool) (Phase, error) {
	return s.body("request", chunk, endOfStream)
}

func (s standInStream) ResponseBody(chunk []byte, endOfStream bool) (Phase, error) {
	return s.body("response", chunk, endOfStream)
}

func (s standInStream) Close() error {
	s.plugin.log("stream ends")
	return s.plugin.failClose
}

func (s standInStream) headers(of string, h *host.Headers, endOfStream bool) (Phase, error) {
	s.plugin.log("%s headers, %d lines, end %t", of, len(*h), endOfStream)
	if _, trap := h.Get("x-trap"); trap {
		return Phase{}, errTrap
	}
	if status, replies := h.Get("x-reply"); replies {
		return Phase{Immediate: reply(status)}, nil
	}
	if line, adds := h.Get("x-add"); adds {
		name, value, _ := strings.Cut(line, "=")
		h.Add(name, value)
	}
	if name, removes := h.Get("x-remove"); removes {
		h.Remove(name)
	}
	_, holds := h.Get("x-hold")
	return Phase{Continue: !holds}, nil
}

func (s standInStream) body(of string, chunk []byte, endOfStream bool) (Phase, error) {
	s.plugin.log("%s chunk %q, end %t", of, chunk, endOfStream)
	switch string(chunk) {
	case "TRAP":
		return Phase{}, errTrap
	case "LONG":
		return Phase{Body: make([]byte, MaxBodyBytes+1)}, nil
	case "REPLY":
		return Phase{Body: chunk, Immediate: reply("403")}, nil
	}
	return Phase{Body: bytes.ToUpper(chunk)}, nil
}

func reply(status string) *host.LocalReply {
	r := &host.LocalReply{Body: "denied", Details: "why", GRPCStatus: 7, Headers: host.Headers{{Name: "Retry-After", Value: "1"}, {Name: "retry-after", Value: "2"}}}
	_, _ = fmt.Sscan(status, &r.Status)
	return r
}

// start starts a stand-in.
func (s *standIn) start(context.Context) (Plugin, error) {
	s.log("plugin starts")
	return s, nil
}

func TestRun(t *testing.T) {
	for name, c := range map[string]struct {
		test string
		want []string // nil when the test passes
	}{
		"no phases":                     {``, nil},
		"has_header":                    {`request_headers { input { header { key: "A" value: "b" } } result { has_header { key: "a" value: "b" } } }`, nil},
		"has_header, another value":     {`request_headers { input { header { key: "A" value: "b" } } result { has_header { key: "a" value: "B" } } }`, []string{`request_headers: expected header "a" with the value "B", found the value "b"`}},
		"has_header, missing":           {`request_headers { result { has_header { key: "a" } } }`, []string{`request_headers: expected header "a" with the value "", found no such header`}},
		"has_header, several lines":     {`request_headers { input { header { key: "X-Add" value: "x-add=2" } } result { has_header { key: "x-add" value: "x-add=2, 2" } } }`, nil},
		"input, several lines":          {`request_headers { input { header { key: "A" value: "1" } header { key: "a" value: "2" } } result { has_header { key: "a" value: "1, 2" } log { exact: "request headers, 1 lines, end false" } } }`, nil},
		"no_header":                     {`response_headers { input { header { key: "A" value: "b" } header { key: "x-remove" value: "a" } } result { no_header { key: "a" } } }`, nil},
		"no_header, there":              {`response_headers { input { header { key: "A" value: "b" } } result { no_header { key: "a" value: "c" } } }`, []string{`response_headers: expected no header "a", found the value "b"`}},
		"headers, lower case":           {`request_headers { input { header { key: "My-HEADER" value: "b" } } result { headers { exact: "my-header: b" } } }`, nil},
		"headers, canonical":            {`request_headers { input { header { key: "x-add" value: "Set-Cookie=a" } } result { headers { regex: "Set-Cookie: [a-z]" } } }`, nil},
		"headers, as spelled":           {`request_headers { input { header { key: "My-HEADER" value: "b" } } result { headers { exact: "My-HEADER: b" } } }`, nil},
		"headers, another":              {`request_headers { input { header { key: "a" value: "b" } } result { headers { exact: "a: c" } } }`, []string{`request_headers: expected a header line that is "a: c", found "A: b", "a: b"`}},
		"headers, inverted":             {`request_headers { input { header { key: ":path" value: "/" } } result { headers { regex: ":pa.*" invert: true } headers { regex: ":pa" invert: true } } }`, []string{`request_headers: expected no header line that matches ":pa.*", found ":path: /"`}},
		"body of headers":               {`request_headers { result { body { exact: "" } } }`, nil},
		"a reply":                       {`request_headers { input { header { key: "x-reply" value: "403" } } result { immediate { http_status: 403 grpc_status: 7 details: "why" } body { exact: "denied" } has_header { key: "retry-after" value: "2" } no_header { key: "x-reply" } } }`, nil},
		"a reply, any":                  {`response_headers { input { header { key: "x-reply" value: "403" } } result { immediate {} } }`, nil},
		"a reply, another":              {`request_headers { input { header { key: "x-reply" value: "403" } } result { immediate { http_status: 200 grpc_status: 0 details: "" } } }`, []string{"request_headers: expected HTTP status 200, found 403", "request_headers: expected gRPC status 0, found 7", `request_headers: expected details "", found "why"`}},
		"a reply, not expected":         {`request_headers { input { header { key: "x-reply" value: "403" } } }`, []string{"request_headers: expected no immediate reply, found one with HTTP status 403"}},
		"no reply":                      {`request_headers { result { immediate { http_status: 403 } } }`, []string{"request_headers: expected an immediate reply, found none"}},
		"no reply, held":                {`request_headers { input { header { key: "x-hold" } } result { immediate {} } }`, []string{"request_headers: expected an immediate reply, found none"}},
		"held":                          {`request_headers { input { header { key: "x-hold" } } }`, []string{"request_headers: expected that the headers go on, found that the plugin holds them"}},
		"phases after a reply":          {`request_headers { input { header { key: "x-reply" value: "403" } } result { immediate {} } } request_body { input { content: "a" } result { body { exact: "" } log { regex: ".*" invert: true } } } response_headers { input { header { key: "a" } } result { no_header { key: "a" } } } stream_destroy { log { exact: "stream ends" } }`, nil},
		"expected after a reply":        {`request_headers { input { header { key: "x-reply" value: "403" } } result { immediate {} } } response_headers { input { header { key: "a" } } result { has_header { key: "a" } } }`, []string{`response_headers: expected header "a" with the value "", found no such header`}},
		"a body":                        {`request_body { input { content: "abc" } result { body { exact: "ABC" } log { exact: "request chunk \"abc\", end true" } } }`, nil},
		"a body, another":               {`response_body { input { content: "abc" } result { body { regex: "AB" } } }`, []string{`response_body: expected a body that matches "AB", found "ABC"`}},
		"each body ends the stream":     {`request_body { input { content: "a" } result { log { regex: ".*end true" } } } request_body { input { content: "b" } result { log { regex: ".*end true" } } }`, nil},
		"chunks":                        {`num_chunks: 2 request_body { input { content: "abcde" } result { body { exact: "ABCDE" } } }`, nil},
		"logs of the last chunk":        {`chunk_size: 2 request_body { input { content: "abcde" } result { log { exact: "request chunk \"e\", end true" } log { regex: ".*end false" invert: true } } }`, nil},
		"a reply in a body":             {`request_body { input { content: "REPLY" } result { immediate { http_status: 403 } body { exact: "denied" } has_header { key: "retry-after" value: "2" } } }`, nil},
		"a reply in a body, ignored":    {`request_body { input { content: "REPLY" } result { body { exact: "REPLY" } no_header { key: "retry-after" } } } request_body { input { content: "a" } result { body { exact: "" } } }`, nil},
		"a reply in a chunk":            {`chunk_size: 5 request_body { input { content: "firstREPLYother" } result { body { exact: "FIRSTREPLY" } log { regex: "(?s).*" invert: true } } }`, nil},
		"a reply in the last chunk":     {`chunk_size: 5 request_body { input { content: "firstREPLY" } result { log { regex: ".*REPLY.*" } } }`, nil},
		"no reply in a body":            {`request_body { result { immediate {} } }`, []string{"request_body: expected an immediate reply, found none"}},
		"logs of the lifecycle":         {`plugin_init { log { exact: "plugin starts" } log { regex: "stream.*" invert: true } } stream_init { log { exact: "stream begins with " } } stream_destroy { log { exact: "stream ends" } }`, nil},
		"no logs of the lifecycle":      {`plugin_init { log { exact: "a" } } stream_init { log { exact: "b" } } stream_destroy { log { exact: "c" } }`, []string{`plugin_init: expected a log line that is "a", found "plugin starts"`, `stream_init: expected a log line that is "b", found "stream begins with "`, `stream_destroy: expected a log line that is "c", found "stream ends"`}},
		"logs of another phase":         {`request_headers { result { log { regex: "stream.*" } } }`, []string{`request_headers: expected a log line that matches "stream.*", found "request headers, 0 lines, end false"`}},
		"properties":                    {`properties { path: "a.b" value: "first" } properties { path: "a.b" value: "second" } stream_init { log { exact: "stream begins with first" } }`, nil},
		"a trap in headers":             {`request_headers { input { header { key: "x-trap" } } } response_headers { result { has_header { key: "a" } } } stream_destroy { log { exact: "a" } }`, []string{"request_headers: expected that the plugin goes on, found the module trapped: unreachable"}},
		"a trap in a body":              {`response_body { input { content: "TRAP" } }`, []string{"response_body: expected that the plugin goes on, found the module trapped: unreachable"}},
		"a body that grows":             {`request_body { input { content: "LONG" } }`, []string{"request_body: expected that the plugin goes on, found a body of more than 16777216 bytes"}},
		"a regex for the whole text":    {`request_body { input { content: "ab" } result { body { regex: "A|AB" } body { regex: "A*?B" } body { regex: "B" invert: true } body { regex: "(?i)\\Qab" } } }`, nil},
		"a regex and lines":             {`request_body { input { content: "a\nb" } result { body { regex: "A.B" invert: true } body { regex: "(?s)A.B" } body { regex: "(?m)^A$" invert: true } } }`, nil},
		"a long body, cut in a message": {`request_body { input { content: "` + strings.Repeat("a", 300) + `" } result { body { exact: "" } } }`, []string{`request_body: expected a body that is "", found "` + strings.Repeat("A", 200) + `"… (300 bytes)`}},
	} {
		t.Run(name, func(t *testing.T) {
			suite, err := Parse("a.textpb", []byte(`test { name: "t" `+c.test+` }`), nil)
			if err != nil {
				t.Fatal(err)
			}
			results := Run(t.Context(), new(standIn).start, suite)
			if len(results) != 1 || results[0].Name != "t" || results[0].Passed() != (c.want == nil) {
				t.Errorf("%+v", results)
			}
			wantFailures(t, results[0], c.want)
		})
	}
}

func TestRunStartsAnewForEachTest(t *testing.T) {
	suite, err := Parse("a.yaml", []byte(`test: [{name: a, request_headers: {}}, {name: b, benchmark: true, plugin_init: {log: [{exact: plugin starts}]}}, {name: b}]`), nil)
	if err != nil {
		t.Fatal(err)
	}
	starts := 0
	results := Run(t.Context(), func(ctx context.Context) (Plugin, error) {
		if starts++; starts == 3 {
			return nil, errors.New("the module refused its configuration")
		}
		return new(standIn).start(ctx)
	}, suite)
	if len(results) != 3 {
		t.Fatalf("%+v", results)
	}
	wantFailures(t, results[0], nil)
	wantFailures(t, results[1], nil)
	wantFailures(t, results[2], []string{"plugin_init: expected that the plugin starts, found the module refused its configuration"})
}

func TestRunReportsFailuresOfTheLifecycle(t *testing.T) {
	suite, err := Parse("a.yaml", []byte(`test: [{name: a, request_headers: {input: {header: [{key: x-trap}]}}}]`), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		plugin *standIn
		want   string
	}{
		"the stream": {&standIn{failInit: errTrap}, "stream_init: expected that the plugin goes on, found the module trapped: unreachable"},
		"once only":  {&standIn{failDestroy: errors.New("the VM has failed")}, "request_headers: expected that the plugin goes on, found the module trapped: unreachable"},
	} {
		t.Run(name, func(t *testing.T) {
			wantFailures(t, Run(t.Context(), c.plugin.start, suite)[0], []string{c.want})
		})
	}
	t.Run("the end of the stream", func(t *testing.T) {
		suite.Tests[0].phases = nil
		plugin := &standIn{failClose: errTrap}
		wantFailures(t, Run(t.Context(), plugin.start, suite)[0], []string{"stream_destroy: expected that the plugin goes on, found the module trapped: unreachable"})
	})
	t.Run("the end", func(t *testing.T) {
		suite.Tests[0].phases = nil
		plugin := &standIn{failDestroy: errTrap}
		wantFailures(t, Run(t.Context(), plugin.start, suite)[0], []string{"plugin_destroy: expected that the plugin ends, found the module trapped: unreachable"})
	})
}

func TestRunStopsWithItsContext(t *testing.T) {
	suite, err := Parse("a.yaml", []byte(`test: [{name: a}]`), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	results := Run(ctx, new(standIn).start, suite)
	wantFailures(t, results[0], []string{"plugin_init: expected that the test runs, found that there was no time left: context canceled"})
}

func TestRunKeepsTheFirstFailures(t *testing.T) {
	phase := `request_body { result {` + strings.Repeat(`log { exact: "a" }`, MaxFailures-1) + `} }`
	suite, err := Parse("a.textpb", []byte(`test { name: "t" `+phase+phase+` request_body { input { content: "TRAP" } } }`), nil)
	if err != nil {
		t.Fatal(err)
	}
	failures := Run(t.Context(), new(standIn).start, suite)[0].Failures
	if len(failures) != MaxFailures+1 || failures[MaxFailures].Found != errTrap.Error() {
		t.Errorf("%d failures: %v", len(failures), failures)
	}
}

func TestQuoteAllShowsTheLastTexts(t *testing.T) {
	texts := strings.Split("a b c d e f g h i j k l", " ")
	if got, want := quoteAll(texts), `"c", "d", "e", "f", "g", "h", "i", "j", "k", "l", and 2 before`; got != want {
		t.Errorf("%s, not %s", got, want)
	}
	if got := quoteAll(nil); got != "none" {
		t.Error(got)
	}
}

func wantFailures(t *testing.T, result Result, want []string) {
	t.Helper()
	var got []string
	for _, failure := range result.Failures {
		got = append(got, failure.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
}
