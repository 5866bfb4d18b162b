package cli

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wasme-io/wasme-operator/internal/cli/envoy"
	"github.com/wasme-io/wasme-operator/internal/preflight/host"
	"github.com/wasme-io/wasme-operator/internal/preflight/run"
)

// requestFlags are requests to send through a filter.
type requestFlags struct {
	requests, headers []string
	data              string
	status            string
	responseHeaders   []string
	responseData      string
}

func newRequestFlags(c *cobra.Command) *requestFlags {
	r := &requestFlags{}
	flags := c.Flags()
	flags.StringArrayVar(&r.requests, "request", nil, `request to pass through the filter, such as "GET /headers"; can be repeated`)
	flags.StringArrayVarP(&r.headers, "header", "H", nil, `header of the requests, such as "x-user: me"; can be repeated`)
	flags.StringVarP(&r.data, "data", "d", "", "body of the requests; @FILE reads it from a file")
	flags.StringVar(&r.status, "response", defaultStatus, "status with which the upstream answers")
	flags.StringArrayVar(&r.responseHeaders, "response-header", nil, "header of the upstream's responses; can be repeated")
	flags.StringVar(&r.responseData, "response-data", "", "body of the upstream's responses; @FILE reads it from a file")
	return r
}

// defaultStatus is that of the upstream's responses unless --response is set.
const defaultStatus = "200"

// detailed reports whether there are details of the requests or of their responses.
func (r *requestFlags) detailed() bool {
	return len(r.headers)+len(r.responseHeaders) > 0 || r.data+r.responseData != "" || r.status != defaultStatus
}

// exchanges returns the requests with what the upstream answers.
func (r *requestFlags) exchanges() ([]host.Exchange, error) {
	var made []host.Exchange
	for _, text := range r.requests {
		method, path, ok := strings.Cut(text, " ")
		if !ok || !strings.HasPrefix(path, "/") {
			return nil, notARequest(text)
		}
		e := host.Exchange{Request: run.Request(method, path), Response: run.Response(r.status)}
		if err := complete(&e.Request, r.headers, r.data); err != nil {
			return nil, err
		}
		if err := complete(&e.Response, r.responseHeaders, r.responseData); err != nil {
			return nil, err
		}
		made = append(made, e)
	}
	return made, nil
}

// notARequest returns the error about a request without a method or a path.
func notARequest(text string) error {
	return misused("the request %q has no method or no path: write it as \"METHOD PATH\", such as \"GET /headers\"", text)
}

// complete gives a message headers and a body.
func complete(m *host.Message, headers []string, data string) error {
	for _, text := range headers {
		name, value, ok := strings.Cut(text, ":")
		if !ok {
			return misused("the header %q has no value: write it as \"NAME: VALUE\"", text)
		}
		m.Headers.Set(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	body := []byte(data)
	if file, ok := strings.CutPrefix(data, "@"); ok {
		var err error
		if body, err = os.ReadFile(file); err != nil {
			return fmt.Errorf("reading a body: %w", err)
		}
	}
	if len(body) > 0 {
		m.Body = [][]byte{body, {}}
	}
	return nil
}

// tried is what became of a request.
type tried struct {
	Name string `json:"name"`
	// Sent is what the client and the upstream sent; Upstream and Client are what reached
	// them, nil for nothing.
	Sent     sent     `json:"sent"`
	Upstream *message `json:"upstream"`
	Client   *message `json:"client"`
	// Answered says that the filter answered itself; Paused that it never let the stream go on.
	Answered    bool     `json:"answered,omitempty"`
	Paused      bool     `json:"paused,omitempty"`
	Failure     string   `json:"failure,omitempty"`
	Logs        []string `json:"logs,omitempty"`
	MemoryBytes uint64   `json:"memoryBytes"`

	exchange envoy.Exchange
}

type sent struct {
	Request  message `json:"request"`
	Response message `json:"response"`
}

// message is a request or a response.
type message struct {
	Headers []string `json:"headers"`
	Body    string   `json:"body,omitempty"`
}

func messageOf(m *host.Message) *message {
	if m == nil {
		return nil
	}
	shown := &message{Body: string(m.Content())}
	for _, line := range m.Headers {
		shown.Headers = append(shown.Headers, line.Name+": "+line.Value)
	}
	return shown
}

// levelOf returns the level of a line, as Envoy's log names it.
func levelOf(line host.Line) string {
	return []string{"trace", "debug", "info", "warning", "error", "critical"}[min(line.Level, host.Critical)]
}

func triedAs(t run.Tried) tried {
	method, _ := t.Sent.Request.Headers.Get(":method")
	path, _ := t.Sent.Request.Headers.Get(":path")
	x := tried{
		Name: method + " " + path, Sent: sent{*messageOf(&t.Sent.Request), *messageOf(&t.Sent.Response)},
		Upstream: messageOf(t.Outcome.Request), Client: messageOf(t.Outcome.Response),
		Answered: t.Outcome.LocalReply != nil, Paused: t.Outcome.Paused, MemoryBytes: t.MemoryBytes, exchange: shown(t),
	}
	for _, line := range t.Logs {
		x.Logs = append(x.Logs, levelOf(line)+": "+strings.TrimRight(line.Text, "\n"))
	}
	if t.Failure != nil {
		x.Failure = t.Failure.Error()
	}
	return x
}

// shown returns a request in the form in which wasme run shows one, too.
func shown(t run.Tried) envoy.Exchange {
	x := envoy.Exchange{Sent: envoyMessage(&t.Sent.Request), OwnUpstream: true}
	if t.Outcome.Request != nil {
		arrived, answered := envoyMessage(t.Outcome.Request), envoyMessage(&t.Sent.Response)
		x.Arrived, x.Answered = &arrived, &answered
	}
	if t.Outcome.Response != nil {
		x.Answer = envoyMessage(t.Outcome.Response)
	}
	for _, line := range t.Logs {
		x.Lines = append(x.Lines, envoy.Record{Level: levelOf(line), Text: line.Text, Own: true})
	}
	switch {
	case t.Failure != nil:
		x.Failure = t.Failure.Error()
	case t.Outcome.Paused:
		x.Broken = errors.New("the filter never lets it go on")
	}
	return x
}

func envoyMessage(m *host.Message) envoy.Message {
	shown := envoy.Message{Header: http.Header{}, Body: m.Content()}
	for _, line := range m.Headers {
		switch line.Name {
		case ":method":
			shown.Method = line.Value
		case ":path":
			shown.Path = line.Value
		case ":status":
			shown.Status, _ = strconv.Atoi(line.Value) // zero for what is no status
		default:
			shown.Header.Add(line.Name, line.Value)
		}
	}
	return shown
}
