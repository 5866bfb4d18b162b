package tap

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wasme-io/wasme-operator/internal/cli/traffic"
	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// piece returns a segment as Envoy writes it: requestHeaders and the like take "name=value,…", bodies
// take text, of which a * at the end says that there was more.
func piece(trace, kind, content string) string {
	value := ""
	switch {
	case kind == "":
		return fmt.Sprintf(`{"http_streamed_trace_segment": {"trace_id": %q}}`, trace)
	case strings.HasSuffix(kind, "chunk"):
		text, truncated := strings.CutSuffix(content, "*")
		value = fmt.Sprintf(`{"as_bytes": %q, "truncated": %v}`, base64.StdEncoding.EncodeToString([]byte(text)), truncated)
	default:
		var headers []string
		for line := range strings.SplitSeq(content, ",") {
			name, text, _ := strings.Cut(line, "=")
			headers = append(headers, fmt.Sprintf(`{"key": %q, "value": %q, "raw_value": ""}`, name, text))
		}
		value = fmt.Sprintf(`{"headers": [%s]}`, strings.Join(headers, ","))
	}
	return fmt.Sprintf(`{"http_streamed_trace_segment": {"trace_id": %q, %q: %s}}`, trace, kind, value)
}

const (
	rqh, rqb, rqt = "request_headers", "request_body_chunk", "request_trailers"
	rsh, rsb, rst = "response_headers", "response_body_chunk", "response_trailers"
)

// pieces returns the stream of a trace: each text is a kind of piece, a space, and its content.
func pieces(trace string, texts ...string) string {
	var all strings.Builder
	for _, text := range texts {
		kind, content, _ := strings.Cut(text, " ")
		all.WriteString(piece(trace, kind, content))
	}
	return all.String()
}

func assembled(t *testing.T, most int, stream string) (*assembler, Recording) {
	t.Helper()
	all, from, now := newAssembler(most), newReader(strings.NewReader(stream)), time.Unix(0, 0)
	for {
		s, err := from.next()
		if errors.Is(err, io.EOF) {
			return all, all.recording()
		}
		if err != nil {
			t.Fatal(err)
		}
		all.add(s, now)
		now = now.Add(time.Millisecond)
	}
}

func TestExchangesAreWhatClientAndApplicationSent(t *testing.T) {
	headers := func(pairs ...string) host.Headers {
		var all host.Headers
		for i := 0; i < len(pairs); i += 2 {
			all.Add(pairs[i], pairs[i+1])
		}
		return all
	}
	get, ok := headers(":method", "GET"), headers(":status", "200")
	bytes := func(texts ...string) [][]byte {
		var chunks [][]byte
		for _, text := range texts {
			chunks = append(chunks, []byte(text))
		}
		return chunks
	}
	for name, c := range map[string]struct {
		stream   []string
		request  traffic.Message
		response *traffic.Message
	}{
		"headers that a filter changes": {
			[]string{rqh + " :method=GET", rqh + " :method=GET,x-added=1", rsh + " :status=200", rsh + " :status=200,x-added=1"},
			traffic.Message{Headers: get}, &traffic.Message{Headers: ok},
		},
		"bodies that pass": {
			[]string{rqh + " :method=GET", rqh + " :method=GET", rqb + " a", rqb + " a", rqb + " a", rqb + " a", rsh + " :status=200", rsh + " :status=200", rsb + " b", rsb + " b"},
			traffic.Message{Headers: get, Body: bytes("a", "a")}, &traffic.Message{Headers: ok, Body: bytes("b")},
		},
		"bodies that a filter holds": {
			[]string{rqh + " :method=GET", rqb + " a", rqb + " b", rqh + " :method=GET", rqb + " ab", rsh + " :status=200", rsb + " c", rsb + " c", rsb + " cc", rsh + " :status=200"},
			traffic.Message{Headers: get, Body: bytes("a", "b")}, &traffic.Message{Headers: ok, Body: bytes("c", "c")},
		},
		"bodies that a filter changes": {
			[]string{rqh + " :method=GET", rqh + " :method=GET", rqb + " a", rqb + " A", rsh + " :status=200", rsh + " :status=200", rsb + " b"},
			traffic.Message{Headers: get, Body: bytes(""), Truncated: true}, &traffic.Message{Headers: ok, Body: bytes(""), Truncated: true},
		},
		"bodies that are not recorded": {
			[]string{rqh + " :method=GET", rqh + " :method=GET", rqb + " *", rqb + " *", rsh + " :status=200", rsh + " :status=200", rsb + " *", rsb + " *"},
			traffic.Message{Headers: get, Body: bytes(""), Truncated: true}, &traffic.Message{Headers: ok, Body: bytes(""), Truncated: true},
		},
		"a body that ends early": {
			[]string{rqh + " :method=GET", rqh + " :method=GET", rsh + " :status=200,content-length=9", rsh + " :status=200", rsb + " abc", rsb + " abc"},
			traffic.Message{Headers: get}, &traffic.Message{Headers: headers(":status", "200", "content-length", "9"), Body: bytes("abc"), Truncated: true},
		},
		"trailers that a filter changes": {
			[]string{rqh + " :method=GET", rqh + " :method=GET", rqt + " a=1", rqt + " a=2", rsh + " :status=200", rsh + " :status=200", rst + " b=1", rst + " b=2"},
			traffic.Message{Headers: get, Trailers: headers("a", "1")}, &traffic.Message{Headers: ok, Trailers: headers("b", "1")},
		},
		"a filter that answers": {
			[]string{rqh + " :method=GET", rqb + " a", "", rsh + " :status=403", rsh + " :status=403,x-added=1", rsb + " no", rsb + " no"},
			traffic.Message{Headers: get, Body: bytes("a")}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, got := assembled(t, 1, pieces("1", c.stream...))
			if len(got.Exchanges) != 1 || got.Unanswered != 0 {
				t.Fatalf("%+v", got)
			}
			if diff := cmp.Diff(c.request, got.Exchanges[0].Request); diff != "" {
				t.Errorf("the request: %s", diff)
			}
			if diff := cmp.Diff(c.response, got.Exchanges[0].Response); diff != "" {
				t.Errorf("the response: %s", diff)
			}
		})
	}
}

func TestStreamsAreToldApart(t *testing.T) {
	stream := pieces("1", rqh+" :path=/1") + pieces("2", rqh+" :path=/2", rqh+" :path=/2") + pieces("3", rqh+" :path=/3", rqh+" :path=/3") +
		pieces("2", rsh+" :status=200", rsh+" :status=200") + pieces("1", rqh+" :path=/1", rsh+" :status=404", rsh+" :status=404")
	_, got := assembled(t, 10, stream)
	var paths []string
	for _, e := range got.Exchanges {
		path, _ := e.Request.Headers.Get(":path")
		status, _ := e.Response.Headers.Get(":status")
		paths = append(paths, path+" "+status)
	}
	if diff := cmp.Diff([]string{"/1 404", "/2 200"}, paths); diff != "" || got.Unanswered != 1 {
		t.Errorf("%d unanswered, %s", got.Unanswered, diff)
	}
	if got.Exchanges[1].Started != time.Unix(0, int64(time.Millisecond)) || got.Exchanges[1].Duration != 4*time.Millisecond {
		t.Errorf("%v, %v", got.Exchanges[1].Started, got.Exchanges[1].Duration)
	}
}

func TestNothingBegins(t *testing.T) {
	whole := []string{rqh + " :method=GET", rqh + " :method=GET", rsh + " :status=200", rsh + " :status=200"}
	for name, stream := range map[string]string{
		"after the last of as many as are wanted": pieces("1", whole...) + pieces("2", whole...),
		"with what was under way before":          pieces("2", rsh+" :status=200", rsh+" :status=200", rsb+" a") + pieces("1", whole...),
		"with the CONNECT of an ambient mesh":     pieces("2", rqh+" :method=CONNECT", rqh+" :method=CONNECT") + pieces("1", whole...),
	} {
		t.Run(name, func(t *testing.T) {
			all, got := assembled(t, 1, stream)
			if len(got.Exchanges) != 1 || got.Unanswered != 0 || !all.full() {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestARecordingIsFullByItsBytes(t *testing.T) {
	all := newAssembler(traffic.MaxExchanges)
	chunk := &body{Bytes: make([]byte, traffic.MaxBodyBytes)}
	method := &headerMap{}
	count := 0
	for ; !all.full() && count < 1000; count++ {
		trace := fmt.Sprint(count)
		all.add(segment{Trace: trace, RequestHeaders: method}, time.Now())
		for range 3 { // of which two count
			all.add(segment{Trace: trace, RequestBody: chunk}, time.Now())
		}
	}
	if count != 17 || !all.recording().Full {
		t.Errorf("%d requests", count)
	}
}

func TestWhatIsNoPieceEndsTheStream(t *testing.T) {
	for name, c := range map[string]struct{ stream, want string }{
		"the end":             {"", "EOF"},
		"text":                {"An attached /tap admin stream already exists.", "invalid character"},
		"something else":      {`{"socket_streamed_trace_segment": {}}`, "the tap sends something else than pieces of HTTP"},
		"no base64":           {`{"http_streamed_trace_segment": {"request_body_chunk": {"as_bytes": "%"}}}`, "illegal base64"},
		"a piece without end": {`{"http_streamed_trace_segment": {"trace_id": "` + strings.Repeat("1", maxSegment), "a piece of the tap has more than 8 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := newReader(strings.NewReader(c.stream)).next(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, not %s", err, c.want)
			}
		})
	}
}

func FuzzAnyStreamIsAssembled(f *testing.F) {
	f.Add(pieces("1", rqh+" :method=GET", rqb+" a", rqh+" :method=GET", rqb+" a", rsh+" :status=200", rsb+" b*", rsb+" b*", rsh+" :status=200", rst+" c=d"))
	f.Add(pieces("1", rqh+" :method=GET", "", rsh+" :status=403", rsh+" :status=403"))
	f.Fuzz(func(_ *testing.T, stream string) {
		all, from := newAssembler(traffic.MaxExchanges), newReader(strings.NewReader(stream))
		for {
			s, err := from.next()
			if err != nil {
				break
			}
			all.add(s, time.Now())
		}
		all.recording()
	})
}
