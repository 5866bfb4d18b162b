package traffic

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// recorded returns an exchange with all that a recording can hold.
func recorded() Exchange {
	return Exchange{
		Started: time.Date(2026, 9, 7, 12, 0, 0, 0, time.UTC), Duration: 1500 * time.Microsecond,
		Request: Message{
			Headers: lines(":authority", "example.com", ":path", "/a?b=c%20d&e", ":method", "POST", ":scheme", "http", "x-two", "1", "x-two", "2", "x-latin", "caf\xe9"),
			Body:    [][]byte{[]byte("na"), {}, []byte("me=1")}, Trailers: lines("x-end", "yes"),
		},
		Response: &Message{
			Headers: lines(":status", "201", "content-type", "application/octet-stream", "location", "/b"),
			Body:    [][]byte{{0xff, 0x00}, []byte("<&>")}, Truncated: true, Trailers: lines("grpc-status", "0"),
		},
	}
}

// lines returns header lines of pairs of name and value.
func lines(pairs ...string) host.Headers {
	var headers host.Headers
	for i := 0; i < len(pairs); i += 2 {
		headers.Add(pairs[i], pairs[i+1])
	}
	return headers
}

func TestAFileKeepsWhatWasRecorded(t *testing.T) {
	answered, empty := recorded(), recorded()
	answered.Response = nil
	empty.Request.Body, empty.Request.Trailers = nil, nil
	empty.Response.Body, empty.Response.Truncated, empty.Response.Trailers = [][]byte{{}}, false, nil
	want := []Exchange{recorded(), answered, empty}
	var file bytes.Buffer
	if err := Write(&file, "1.2.3", want); err != nil {
		t.Fatal(err)
	}
	got, err := Read(&file)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
}

func TestAFileHasTheFieldsThatOtherToolsNeed(t *testing.T) {
	var file bytes.Buffer
	if err := Write(&file, "1.2.3", []Exchange{recorded()}); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		`"version": "1.2"`, `"name": "wasme"`, `"startedDateTime": "2026-09-07T12:00:00Z"`, `"time": 1.5`, `"method": "POST"`,
		`"url": "http://example.com/a?b=c%20d&e"`, `"value": "c d"`, `"cookies": []`, `"status": 201`, `"statusText": "Created"`,
		`"redirectURL": "/b"`, `"text": "name=1"`, `"encoding": "base64"`, `"cache": {}`, `"wait": 1.5`, `"headersSize": -1`,
	} {
		if !strings.Contains(file.String(), part) {
			t.Errorf("no %s in\n%s", part, file.String())
		}
	}
}

func TestAnArchiveOfABrowserIsRead(t *testing.T) {
	const file = `{"log": {"version": "1.2", "creator": {"name": "browser"}, "pages": [{"id": 1}], "entries": [{
		"startedDateTime": "2026-09-07T12:00:00.000+02:00", "time": 3,
		"request": {"method": "PUT", "url": "https://example.com:8443/a/b?c=d#e", "httpVersion": "HTTP/1.1", "cookies": [{"name": "x"}],
			"headers": [{"name": "Host", "value": "example.com:8443"}, {"name": "Accept", "value": "*/*"}],
			"postData": {"mimeType": "text/plain", "text": "hello"}},
		"response": {"status": 404, "headers": [{"name": "Server", "value": "x"}], "content": {"size": 2, "text": "aGk=", "encoding": "base64"}}
	}]}}`
	got, err := Read(strings.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	want := []Exchange{{
		Started: got[0].Started, Duration: 3 * time.Millisecond,
		Request: Message{
			Headers: lines(":authority", "example.com:8443", ":path", "/a/b?c=d", ":method", "PUT", ":scheme", "https", "accept", "*/*"),
			Body:    [][]byte{[]byte("hello")},
		},
		Response: &Message{Headers: lines(":status", "404", "server", "x"), Body: [][]byte{[]byte("hi")}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAFileThatIsNoArchiveIsRefused(t *testing.T) {
	entry := func(request, response string) string {
		return fmt.Sprintf(`{"log": {"entries": [{"request": %s, "response": %s}]}}`, request, response)
	}
	const request, response = `{"method": "GET", "url": "http://a/"}`, `{"status": 200}`
	for name, c := range map[string]struct{ file, want string }{
		"empty":                    {"", `there is no object that has the key "log"`},
		"text":                     {"GET / HTTP/1.1", `there is no object that has the key "log"`},
		"other JSON":               {`{"items": []}`, `it has no "log"`},
		"no entries":               {`{"log": {}}`, `it has no "entries"`},
		"entries that are no list": {`{"log": {"entries": {}}}`, "log.entries is not a list"},
		"cut off":                  {`{"log": {"entries": [`, "it ends early"},
		"a relative URL":           {entry(`{"method": "GET", "url": "/a"}`, response), "log.entries[0]: request: it has neither the header :path nor a method and an absolute URL"},
		"wrong base64":             {entry(request, `{"status": 200, "content": {"text": "%", "encoding": "base64"}}`), "response: the body is not base64"},
		"chunks too long":          {entry(request, `{"status": 200, "content": {"text": "a", "_chunks": [2]}}`), "response: _chunks are not the sizes of the body's parts"},
		"chunks too short":         {entry(request, `{"status": 200, "content": {"text": "ab", "_chunks": [1]}}`), "response: _chunks are not the sizes of the body's parts"},
		"a header in no base64":    {entry(`{"headers": [{"name": "a", "value": "%", "_base64": true}]}`, response), `request: the value of the header "a" is not base64`},
		"too many entries":         {`{"log": {"entries": [` + strings.Repeat(`{"request": `+request+`},`, MaxExchanges) + `{}]}}`, "it has more than 10000 entries: split it"},
		"too large an entry":       {entry(request, `{"status": 200, "content": {"text": "`+strings.Repeat("a", MaxEntryBytes)+`"}}`), "it has more than 4 MiB: remove it, or its bodies"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Read(strings.NewReader(c.file)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, not %s", err, c.want)
			}
		})
	}
}

// endless is a file without end.
type endless struct{}

// Read implements io.Reader.
func (endless) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte(" "), len(p))), nil }

func TestAFileThatIsTooLargeIsRefused(t *testing.T) {
	if _, err := Read(endless{}); err == nil || err.Error() != "the file is larger than 128 MiB: record less, or without --bodies" {
		t.Error(err)
	}
}

func FuzzWhatIsReadIsWrittenAndReadAgain(f *testing.F) {
	var file bytes.Buffer
	if err := Write(&file, "1", []Exchange{recorded()}); err != nil {
		f.Fatal(err)
	}
	f.Add(file.String())
	f.Add(`{"log": {"entries": [{"request": {"method": "GET", "url": "http://a/?b"}, "response": {"status": 200}}]}}`)
	f.Fuzz(func(t *testing.T, content string) {
		first, err := Read(strings.NewReader(content))
		if err != nil {
			return
		}
		var written bytes.Buffer
		if err := Write(&written, "1", first); err != nil {
			return // a date that JSON does not have
		}
		second, err := Read(&written)
		if err != nil || len(second) != len(first) {
			t.Fatalf("%v, %d exchanges of %d", err, len(second), len(first))
		}
		for i := range first {
			if diff := cmp.Diff(first[i].Request, second[i].Request); diff != "" {
				t.Error(diff)
			}
		}
	})
}
