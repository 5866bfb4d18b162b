package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

const (
	// leftOut is what a quote shows in place of something that it leaves out.
	leftOut = "…"
	// wildcard is what a source has in place of a value.
	wildcard = "%v"
	// fewest is the number of letters that a quote and its source must have in
	// common. With fewer, sources such as `%v is %v` would match nearly everything.
	fewest = 8
)

// clause is a part of a message: messages wrap each other, `doing this: that
// failed: fix it`, so a quote may take its clauses from several sources.
type clause struct {
	literal
	words []string
}

// clausesOf returns the clauses of texts, and what several of them make together.
func clausesOf(literals []literal) []clause {
	var clauses []clause
	for _, l := range literals {
		for _, r := range ranges(strings.ReplaceAll(l.text, "%%", "%")) {
			if letters(strings.ReplaceAll(r.text, wildcard, "")) >= fewest {
				clauses = append(clauses, clause{literal{l.place, r.text}, strings.Fields(r.text)})
			}
		}
	}
	return clauses
}

// clauseEnd ends a clause of a message.
var clauseEnd = regexp.MustCompile(`: |; |\. `)

// span is a run of clauses of a text, with the numbers of the first one and of the one after it.
type span struct {
	text        string
	first, last int
}

// ranges returns every run of clauses of a text. A clause that is only a value is in no longer run.
func ranges(text string) []span {
	starts, ends := []int{0}, []int{}
	for _, found := range clauseEnd.FindAllStringIndex(text, -1) {
		ends = append(ends, found[0])
		starts = append(starts, found[1])
	}
	ends = append(ends, len(text))
	var all []span
	for first := range starts {
		for last := first; last < len(ends); last++ {
			isValue := letters(strings.ReplaceAll(text[starts[last]:ends[last]], wildcard, "")) == 0
			if !isValue || last == first {
				all = append(all, span{strings.Trim(text[starts[first]:ends[last]], " .:;"), first, last + 1})
			}
			if isValue {
				break
			}
		}
	}
	return all
}

func letters(text string) int {
	count := 0
	for _, r := range text {
		if unicode.IsLetter(r) {
			count++
		}
	}
	return count
}

// unsaid returns the first part of a quote that no source has, or nothing.
func unsaid(quoted string, clauses []clause) string {
	pieces := strings.Split(quoted, leftOut)
	for i, piece := range pieces {
		if part := unsaidPiece(piece, i > 0, i < len(pieces)-1, clauses); part != "" {
			return part
		}
	}
	return ""
}

// unsaidPiece looks for sources of one clause after the other. A piece may be cut off at its ends.
func unsaidPiece(piece string, cutLeft, cutRight bool, clauses []clause) string {
	all := ranges(piece)
	end := 0
	for _, r := range all {
		end = max(end, r.last)
	}
	said := map[int]bool{0: true}
	for _, r := range all {
		isSaid := func(c clause) bool { return c.says(r.text, cutLeft && r.first == 0, cutRight && r.last == end) }
		if said[r.first] && (letters(r.text) == 0 || slices.ContainsFunc(clauses, isSaid)) {
			said[r.last] = true
		}
	}
	if said[end] || letters(piece) < fewest && (cutLeft || cutRight) {
		return ""
	}
	reached := slices.Max(slices.Collect(maps.Keys(said)))
	return all[slices.IndexFunc(all, func(r span) bool { return r.first == reached })].text
}

// says reports whether a text is what the clause makes with some values, or a
// part of that where the text is cut off.
func (c clause) says(text string, cutLeft, cutRight bool) bool {
	words := strings.Fields(text)
	for skipped := range c.words {
		if skipped > 0 && !cutLeft {
			return false
		}
		if common, ok := match(c.words[skipped:], words, cutRight); ok && common >= fewest {
			return true
		}
	}
	return false
}

// match returns the number of letters that a pattern has in common with a text
// that it matches. A wildcard stands for one word or more of one clause.
func match(pattern, text []string, cutRight bool) (int, bool) {
	switch {
	case len(text) == 0:
		return 0, len(pattern) == 0 || cutRight
	case len(pattern) == 0:
		return 0, false
	}
	before, after, isWildcard := strings.Cut(pattern[0], wildcard)
	if !isWildcard {
		common, ok := match(pattern[1:], text[1:], cutRight)
		return common + letters(pattern[0]), ok && pattern[0] == text[0]
	}
	if i := strings.LastIndex(after, wildcard); i >= 0 {
		after = after[i+len(wildcard):]
	}
	for n := 1; n <= len(text); n++ {
		value := strings.Join(text[:n], " ")
		if clauseEnd.MatchString(value) {
			break
		}
		if !strings.HasPrefix(value, before) || !strings.HasSuffix(value, after) {
			continue
		}
		if common, ok := match(pattern[1:], text[n:], cutRight); ok {
			return common, true
		}
	}
	return 0, false
}

// nearest returns the clause that has the most words in common with a text.
func nearest(text string, clauses []clause) clause {
	wanted := strings.Fields(text)
	var best clause
	bestShare := -1.0
	for _, c := range clauses {
		common := 0
		for _, word := range wanted {
			if slices.Contains(c.words, word) {
				common++
			}
		}
		if share := 2 * float64(common) / float64(len(wanted)+len(c.words)); share > bestShare {
			best, bestShare = c, share
		}
	}
	return best
}

// messages returns what a page quotes: the lines of its `log` blocks, and the
// code spans that are neither a command nor a setting.
func (p page) messages() []quote {
	found := p.lines("log")
	for _, span := range p.spans() {
		if strings.Contains(span.text, " ") && !command.MatchString(span.text) && !setting.MatchString(span.text) {
			found = append(found, span)
		}
	}
	return found
}

var (
	// command begins with a program, or with the method of a request.
	command = regexp.MustCompile(`^(bin/|\./|[A-Z]+=\S+ )?(cosign|docker|go|GET|git|helm|kubectl|make|manager|pilot-agent|wasme) `)
	// setting is a field or a label with its value, or a comparison of a metric.
	setting = regexp.MustCompile(`^[\w./-]+: \S+$|^[\w./-]+: ["[{].*$|^wasme_\S+ [=<>]+ \d+$`)
)

func TestQuotedMessagesAreThoseOfTheSources(t *testing.T) {
	clauses := clausesOf(append(productLiterals(t), foreignLiterals()...))
	quotes := 0
	for _, p := range writtenPages(t) {
		for _, q := range p.messages() {
			quotes++
			if part := unsaid(q.text, clauses); part != "" {
				near := nearest(part, clauses)
				t.Error(q.problem("nothing says %q\n\tquoted: %s\n\tnearest: %s\n\tat: %s", part, q.text, near.text, near.place))
			}
		}
	}
	if quotes == 0 {
		t.Error("no page quotes a message")
	}
}

func TestWrongQuotesAreFound(t *testing.T) {
	clauses := clausesOf([]literal{
		{"a.go:1", "A module is missing and cannot be pulled yet"},
		{"b.go:1", "looking up %v: %v"},
		{"b.go:2", "%v does not have it (status %v): check spec.filter.image, or push the image"},
		{"b.go:3", "%v: %v"},
		{"c.go:1", "%v should have at most %v items"},
		{"d.go:1", "RBAC: access denied"},
	})
	for quoted, want := range map[string]string{
		"A module is missing and cannot be pulled yet": "",
		"A module is missing … yet":                    "",
		"looking up ghcr.io/a:v2: ghcr.io does not have it (status 404): check spec.filter.image, or push the image.": "",
		"looking up ghcr.io/a:v2: …: check spec.filter.image, …":                                                      "",
		"A module is missing and cannot be had yet":                                                                   "A module is missing and cannot be had yet",
		"A module is missing":                                   "A module is missing",
		"A module was missing … yet":                            "A module was missing",
		"looking up ghcr.io/a:v2: ghcr.io lacks it":             "ghcr.io lacks it",
		"looking up ghcr.io/a:v2: … : check spec.filter.images": "check spec.filter.images",
	} {
		if got := unsaid(quoted, clauses); got != want {
			t.Errorf("%q: %q, not %q", quoted, got, want)
		}
	}
	if near := nearest("A module is missing and cannot be had yet", clauses); near.place != "a.go:1" {
		t.Errorf("the nearest is %+v", near)
	}
}

func TestMessagesOfAPageAreItsLogsAndSentencesInCode(t *testing.T) {
	p := parsePage("X.md", "`Reconciler error`, `kubectl get pods`, `track: canary`, `config: {a: 1}` and `Ready`\n\n```log\nfirst\nsecond\n```\n\n```yaml\na: b\n```\n")
	var got []string
	for _, q := range p.messages() {
		got = append(got, fmt.Sprintf("%d %s", q.line, q.text))
	}
	if want := []string{"4 first", "5 second", "1 Reconciler error"}; !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
}
