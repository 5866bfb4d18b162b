package suite

import (
	"fmt"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
	"github.com/wasme-io/wasme-operator/internal/preflight/suite/schema"
)

// expectation is what is expected of a phase.
type expectation struct {
	hasHeaders          []host.Header
	noHeaders           []string
	headers, body, logs []matcher
	immediate           *schema.Expectation_Immediate // nil when none is expected
}

// outcome is what has become of a phase.
type outcome struct {
	headers headerMap
	body    string
	logs    []string
	reply   *host.LocalReply
	// held says that headers did not go on.
	held bool
}

// check returns what is not as expected.
func (e expectation) check(p phase, o outcome) []Failure {
	failures := checks{phase: p.name}
	failures.headerValues(e, o.headers)
	failures.matchers("header line", e.headers, o.headers.texts())
	failures.matchers("body", e.body, []string{o.body})
	switch {
	case e.immediate != nil:
		failures.reply(e.immediate, o.reply)
	case p.chunks == nil:
		failures.noReply(o)
	}
	failures.matchers("log line", e.logs, o.logs)
	return failures.found
}

// checkLogs returns which log lines are not as expected.
func checkLogs(phase string, expected []matcher, logs []string) []Failure {
	failures := checks{phase: phase}
	failures.matchers("log line", expected, logs)
	return failures.found
}

// checks collects the first failures of a phase.
type checks struct {
	phase string
	found []Failure
}

func (c *checks) fail(expected, found string) {
	if len(c.found) < MaxFailures {
		c.found = append(c.found, Failure{Phase: c.phase, Expected: expected, Found: found})
	}
}

func (c *checks) headerValues(e expectation, headers headerMap) {
	for _, want := range e.hasHeaders {
		expected := fmt.Sprintf("header %s with the value %s", quote(want.Name), quote(want.Value))
		switch value, found := headers.get(want.Name); {
		case !found:
			c.fail(expected, "no such header")
		case value != want.Value:
			c.fail(expected, "the value "+quote(value))
		}
	}
	for _, name := range e.noHeaders {
		if value, found := headers.get(name); found {
			c.fail("no header "+quote(name), "the value "+quote(value))
		}
	}
}

func (c *checks) matchers(noun string, matchers []matcher, texts []string) {
	for _, m := range matchers {
		if !m.accepts(texts) {
			c.fail(m.expected(noun), quoteAll(texts))
		}
	}
}

func (c *checks) noReply(o outcome) {
	switch {
	case o.reply != nil:
		c.fail("no immediate reply", fmt.Sprintf("one with HTTP status %d", o.reply.Status))
	case o.held:
		c.fail("that the headers go on", "that the plugin holds them")
	}
}

func (c *checks) reply(want *schema.Expectation_Immediate, got *host.LocalReply) {
	if got == nil {
		c.fail("an immediate reply", "none")
		return
	}
	if want.HttpStatus != nil && want.GetHttpStatus() != got.Status {
		c.fail(fmt.Sprintf("HTTP status %d", want.GetHttpStatus()), fmt.Sprint(got.Status))
	}
	if want.GrpcStatus != nil && int64(want.GetGrpcStatus()) != int64(got.GRPCStatus) {
		c.fail(fmt.Sprintf("gRPC status %d", want.GetGrpcStatus()), fmt.Sprint(got.GRPCStatus))
	}
	if want.Details != nil && want.GetDetails() != got.Details {
		c.fail("details "+quote(want.GetDetails()), quote(got.Details))
	}
}
