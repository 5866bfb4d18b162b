package traffic

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// facts are what a module made of an exchange: fields such as "response header server" with
// their values. The lines of one header are one value, in their order; the order of
// different headers says nothing.
type facts map[string]string

// The fields that are no headers.
const (
	verdict      = "verdict"
	theRequest   = "request"
	theResponse  = "response"
	localReply   = "local reply"
	lineBreak    = "\n"
	passedOn     = "passed on"
	bodySuffix   = " body"
	callOut      = "call-out "
	notRequested = "did not reach the application"
)

func (f facts) addOutcome(o host.Outcome, failure *host.Failure) {
	f[verdict] = verdictOf(o, failure)
	f[theRequest] = notRequested
	if o.Request != nil {
		f[theRequest] = passedOn
		f.addMessage(theRequest, o.Request)
	}
	if o.Response != nil {
		f.addMessage(theResponse, o.Response)
	}
	if reply := o.LocalReply; reply != nil {
		f[localReply] = fmt.Sprintf("%d %s", reply.Status, reply.Details)
	}
}

func verdictOf(o host.Outcome, failure *host.Failure) string {
	switch {
	case failure != nil:
		return "the module crashed: " + failure.Error()
	case o.Reset:
		return "the stream was cut off"
	case o.Paused:
		return "the stream was held and never went on"
	case o.LocalReply != nil:
		return "the filter answered"
	}
	return passedOn
}

func (f facts) addMessage(of string, m *host.Message) {
	f.addLines(of+" header ", m.Headers)
	f.addLines(of+" trailer ", m.Trailers)
	if content := m.Content(); len(content) > 0 {
		f[of+bodySuffix] = string(content)
	}
}

func (f facts) addLines(prefix string, lines host.Headers) {
	for _, line := range lines {
		value := line.Value
		if first, found := f[prefix+line.Name]; found {
			value = first + lineBreak + value
		}
		f[prefix+line.Name] = value
	}
}

// addCall adds a call-out under its number in the exchange.
func (f facts) addCall(made *host.Call) {
	number := 1
	for f[callOut+strconv.Itoa(number)] != "" {
		number++
	}
	headers := slices.Clone(made.Request.Headers)
	slices.SortStableFunc(headers, func(a, b host.Header) int { return strings.Compare(a.Name, b.Name) })
	f[callOut+strconv.Itoa(number)] = fmt.Sprintf("%s %s %v %s", made.Cluster, made.Method, headers, bytes.Join(made.Request.Body, nil))
}

// differing returns the fields in which two results differ. Where one request did not reach
// the application, nothing else of the request is compared.
func differing(a, b facts) []string {
	var fields []string
	for field := range a {
		if value, found := b[field]; !found || value != a[field] {
			fields = append(fields, field)
		}
	}
	for field := range b {
		if _, found := a[field]; !found {
			fields = append(fields, field)
		}
	}
	if a[theRequest] != b[theRequest] {
		fields = slices.DeleteFunc(fields, func(field string) bool { return strings.HasPrefix(field, theRequest+" ") })
	}
	return fields
}

// comparison gathers the differences of a replay.
type comparison struct {
	found map[string]*differences // by field
	// chance are the fields that differ between two runs of one module.
	chance map[string]bool
}

// differences are those in one field.
type differences struct {
	exchanges map[int]bool
	kept      []Difference
}

func newComparison() *comparison {
	return &comparison{found: map[string]*differences{}, chance: map[string]bool{}}
}

// add compares what came of an exchange: results are those of two modules, two of each.
func (c *comparison) add(number int, target string, results [2][2]facts) {
	for _, twins := range results {
		for _, field := range differing(twins[0], twins[1]) {
			c.chance[field] = true
		}
	}
	before, after := results[0][0], results[1][0]
	for _, field := range differing(before, after) {
		of := c.found[field]
		if of == nil {
			of = &differences{exchanges: map[int]bool{}}
			c.found[field] = of
		}
		of.exchanges[number] = true
		if len(of.kept) < MaxDifferences {
			of.kept = append(of.kept, newDifference(number, target, field, before, after))
		}
	}
}

func newDifference(number int, target, field string, before, after facts) Difference {
	d := Difference{Exchange: number + 1, Request: target, Field: field}
	a, inBefore := before[field]
	b, inAfter := after[field]
	from := 0
	if strings.HasSuffix(field, bodySuffix) {
		from = commonStart(a, b)
	}
	d.Before, d.After = shown(a, inBefore, from), shown(b, inAfter, from)
	return d
}

// report returns the differences that are not chance, in the order of the exchanges.
func (c *comparison) report(exchanges []Exchange, notes []string) Report {
	r := Report{Exchanges: len(exchanges)}
	differ := map[int]bool{}
	total := 0
	for field, of := range c.found {
		if c.chance[field] {
			continue
		}
		maps.Copy(differ, of.exchanges)
		total += len(of.exchanges)
		r.Differences = append(r.Differences, of.kept...)
	}
	slices.SortFunc(r.Differences, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(a.Exchange, b.Exchange), strings.Compare(a.Field, b.Field))
	})
	r.Differences = r.Differences[:min(len(r.Differences), MaxDifferences)]
	r.Differing, r.More = len(differ), total-len(r.Differences)
	r.Notes = append(notesOn(exchanges), notes...)
	if len(c.chance) > 0 {
		ignored := slices.Sorted(maps.Keys(c.chance))
		r.Notes = append(r.Notes, "not compared, because it differs between two runs of one module: "+strings.Join(ignored, ", "))
	}
	return r
}

// notesOn returns what a recording lacks.
func notesOn(exchanges []Exchange) []string {
	var answered, truncated, redacted int
	for _, e := range exchanges {
		if e.Response == nil {
			answered++
		}
		if e.Request.Truncated || e.Response != nil && e.Response.Truncated {
			truncated++
		}
		if slices.ContainsFunc(e.Request.Headers, func(line host.Header) bool { return line.Value == Redacted }) {
			redacted++
		}
	}
	var notes []string
	for _, note := range []struct {
		count int
		text  string
	}{
		{answered, "have no response of the application, because a filter had answered: theirs is an empty 200"},
		{truncated, "lack bodies, or parts of them: record with --bodies if the filter reads them"},
		{redacted, "have " + Redacted + " in the place of credentials: record with --with-credentials if the filter reads them"},
	} {
		if note.count > 0 {
			notes = append(notes, fmt.Sprintf("%d of %d requests %s", note.count, len(exchanges), note.text))
		}
	}
	return notes
}
