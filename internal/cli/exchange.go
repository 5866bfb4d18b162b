package cli

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/wasme-io/wasme-operator/internal/cli/envoy"
)

// shownBody is how many bytes of a body are shown.
const shownBody = 4 << 10

// framing are headers about how a message is sent, which no filter decides.
var framing = []string{"connection", "content-length", "transfer-encoding"}

// showExchange prints a request, and what a filter did to it and to its response: lines that
// it added begin with +, and those that it removed with -.
func showExchange(to io.Writer, x envoy.Exchange) error {
	w := &textWriter{to: to}
	w.line("%s %s: %s", x.Sent.Method, printable(x.Sent.Path), outcome(x))
	switch {
	case x.Arrived != nil:
		w.line("  the upstream got")
		showHeaders(w, &x.Sent, *x.Arrived)
		showBody(w, &x.Sent, *x.Arrived)
	case x.OwnUpstream && x.Failure == "" && x.Broken == nil:
		w.line("  the filter answered itself")
	}
	if x.Answer.Status != 0 {
		w.line("  the client got")
		showHeaders(w, x.Answered, x.Answer)
		showBody(w, x.Answered, x.Answer)
	}
	for _, logged := range x.Lines {
		if text := strings.TrimSpace(logged.Text); text != "" {
			w.line("  log %s: %s", logged.Level, printable(text))
		}
	}
	return w.err
}

// outcome says in a line what became of a request.
func outcome(x envoy.Exchange) string {
	status := "no answer"
	if x.Answer.Status != 0 {
		status = strconv.Itoa(x.Answer.Status)
	}
	switch {
	case x.Failure != "":
		return fmt.Sprintf("%s, because the filter failed: %s", status, printable(x.Failure))
	case x.Broken != nil:
		return fmt.Sprintf("%s: %v", status, x.Broken)
	}
	return status
}

// showHeaders prints the headers of a message, with what the filter changed since before,
// which is nil when that is not known.
func showHeaders(w *textWriter, before *envoy.Message, after envoy.Message) {
	if before == nil {
		before = &after
	}
	for _, line := range changes(headerLines(*before), headerLines(after)) {
		w.line("    %s", printable(line))
	}
}

// showBody prints a body: text as far as it is short.
func showBody(w *textWriter, before *envoy.Message, after envoy.Message) {
	changed := ""
	if before != nil && !bytes.Equal(before.Body, after.Body) {
		changed = fmt.Sprintf(", changed from %d bytes", len(before.Body))
	}
	if len(after.Body) == 0 && changed == "" {
		return
	}
	w.line("    body: %d bytes%s", len(after.Body), changed)
	if !utf8.Valid(after.Body) {
		return
	}
	text := strings.ToValidUTF8(string(after.Body[:min(len(after.Body), shownBody)]), "")
	for line := range strings.Lines(text) {
		w.line("      %s", printable(strings.TrimRight(line, "\r\n")))
	}
	if more := len(after.Body) - shownBody; more > 0 {
		w.line("      … %d more bytes", more)
	}
}

// headerLines returns the headers of a message in the order of their names, after those that
// Envoy has for its first line.
func headerLines(m envoy.Message) []string {
	var all []string
	if m.Method != "" {
		all = append(all, ":method: "+m.Method, ":path: "+m.Path)
	}
	if m.Status != 0 {
		all = append(all, ":status: "+strconv.Itoa(m.Status))
	}
	for _, name := range slices.Sorted(maps.Keys(m.Header)) {
		lower := strings.ToLower(name)
		for _, value := range m.Header[name] {
			if !slices.Contains(framing, lower) {
				all = append(all, lower+": "+value)
			}
		}
	}
	return all
}

// changes returns the lines of both, each with a mark: + when only the second has it, - when
// only the first has it. Changes come first.
func changes(before, after []string) []string {
	left := slices.Clone(after)
	var removed, added, same []string
	for _, line := range before {
		if i := slices.Index(left, line); i >= 0 {
			left = slices.Delete(left, i, i+1)
			same = append(same, "  "+line)
		} else {
			removed = append(removed, "- "+line)
		}
	}
	for _, line := range left {
		added = append(added, "+ "+line)
	}
	return slices.Concat(removed, added, same)
}

// printable returns a text whose control characters a terminal does not obey.
func printable(text string) string {
	var out strings.Builder
	for _, r := range text {
		switch {
		case r == '\n' || r == '\t' || !unicode.IsControl(r):
			out.WriteRune(r)
		default:
			fmt.Fprintf(&out, "\\x%02x", r)
		}
	}
	return out.String()
}
