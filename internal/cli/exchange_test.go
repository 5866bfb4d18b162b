package cli

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/wasme-io/wasme-operator/internal/cli/envoy"
)

func TestExchangesShowWhatTheFilterDid(t *testing.T) {
	get := envoy.Message{Method: "GET", Path: "/", Header: http.Header{"Host": {"here"}, "X-Secret": {"1"}}}
	ok := envoy.Message{Status: 200, Header: http.Header{"Content-Length": {"3"}}, Body: []byte("one")}
	for name, row := range map[string]struct {
		exchange envoy.Exchange
		want     string
	}{
		"changes": {envoy.Exchange{
			Sent: get, OwnUpstream: true,
			Arrived:  &envoy.Message{Method: "POST", Path: "/", Header: http.Header{"Host": {"here"}, "X-Added": {"a", "b"}}, Body: []byte("new")},
			Answered: &ok,
			Answer:   envoy.Message{Status: 200, Header: http.Header{"Hello": {"\x1b[1m"}, "Transfer-Encoding": {"chunked"}}, Body: []byte("\xff")},
			Lines:    []envoy.Record{{Level: "info", Text: "seen\n"}, {Level: "info", Text: "\n"}},
		}, `GET /: 200
  the upstream got
    - :method: GET
    - x-secret: 1
    + :method: POST
    + x-added: a
    + x-added: b
      :path: /
      host: here
    body: 3 bytes, changed from 0 bytes
      new
  the client got
    + hello: \x1b[1m
      :status: 200
    body: 1 bytes, changed from 3 bytes
  log info: seen
`},
		"its own answer": {envoy.Exchange{Sent: get, OwnUpstream: true, Answer: envoy.Message{Status: 403}}, `GET /: 403
  the filter answered itself
  the client got
      :status: 403
`},
		"another upstream": {envoy.Exchange{Sent: get, Answer: ok}, `GET /: 200
  the client got
      :status: 200
    body: 3 bytes
      one
`},
		"a failure": {envoy.Exchange{Sent: get, OwnUpstream: true, Failure: "trap", Answer: envoy.Message{Status: 503}}, `GET /: 503, because the filter failed: trap
  the client got
      :status: 503
`},
		"no answer": {envoy.Exchange{Sent: get, OwnUpstream: true, Broken: errors.New("EOF")}, "GET /: no answer: EOF\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := showExchange(&got, row.exchange); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(row.want, got.String()); diff != "" {
				t.Errorf("it shows (-want +got):\n%s", diff)
			}
		})
	}
}

func TestALongBodyIsCut(t *testing.T) {
	var got bytes.Buffer
	body := []byte(strings.Repeat("é", shownBody))
	if err := showExchange(&got, envoy.Exchange{Answer: envoy.Message{Status: 200, Body: body}}); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(got.String(), "é\n      … 4096 more bytes\n") {
		t.Errorf("it ends with %q", got.String()[got.Len()-60:])
	}
}
