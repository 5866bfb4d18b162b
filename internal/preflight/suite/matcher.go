package suite

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
)

// matcher expects that one of several texts is, or matches, what it has, or that none
// does.
type matcher struct {
	none  bool
	exact string
	regex *regexp.Regexp // nil for an exact matcher; prefers the longest match
}

// accepts reports whether the texts are as expected.
func (m matcher) accepts(texts []string) bool {
	return slices.ContainsFunc(texts, m.matches) != m.none
}

func (m matcher) matches(text string) bool {
	if m.regex == nil {
		return text == m.exact
	}
	// The longest of the leftmost matches is the whole text if any match is.
	match := m.regex.FindStringIndex(text)
	return match != nil && match[0] == 0 && match[1] == len(text)
}

// expected returns what the matcher wants, with the word for what the texts are.
func (m matcher) expected(noun string) string {
	article := "a "
	if m.none {
		article = "no "
	}
	if m.regex != nil {
		return article + noun + " that matches " + quote(m.regex.String())
	}
	return article + noun + " that is " + quote(m.exact)
}

// compile returns a regular expression, and adds its size to that of the others of the
// file.
func compile(pattern string, size *int) (*regexp.Regexp, error) {
	if len(pattern) > MaxRegexBytes {
		return nil, fmt.Errorf("the expression has %d bytes, more than %d: shorten it", len(pattern), MaxRegexBytes)
	}
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("%w: write an RE2 expression", err)
	}
	if *size += sizeOf(parsed); *size > MaxRegexSize {
		return nil, errors.New("the regular expressions of the file are too large: use fewer repetitions and classes, or split the file")
	}
	regex, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	regex.Longest()
	return regex, nil
}

// sizeOf returns about how many instructions an expression compiles to.
func sizeOf(re *syntax.Regexp) int {
	size := 1 + len(re.Rune)
	for _, sub := range re.Sub {
		size += sizeOf(sub)
	}
	if re.Op == syntax.OpRepeat {
		size *= max(re.Min+1, re.Max)
	}
	return size
}

// maxQuoted is how much of a text, and how many texts, messages show.
const (
	maxQuotedBytes = 200
	maxQuotedTexts = 10
)

// quote returns a text for a message, cut when it is long.
func quote(text string) string {
	if len(text) <= maxQuotedBytes {
		return strconv.Quote(text)
	}
	return fmt.Sprintf("%q… (%d bytes)", text[:maxQuotedBytes], len(text))
}

// quoteAll returns texts for a message, the last ones when there are many.
func quoteAll(texts []string) string {
	if len(texts) == 0 {
		return "none"
	}
	shown := texts[max(0, len(texts)-maxQuotedTexts):]
	var quoted []string
	for _, text := range shown {
		quoted = append(quoted, quote(text))
	}
	list := strings.Join(quoted, ", ")
	if hidden := len(texts) - len(shown); hidden > 0 {
		return fmt.Sprintf("%s, and %d before", list, hidden)
	}
	return list
}
