package suite

import (
	"maps"
	"net/textproto"
	"slices"
	"strings"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// headerMap is headers with one line for each name, by the name in lower case.
type headerMap map[string]headerLine

// headerLine is all lines of a name.
type headerLine struct {
	name   string // as it was spelled first
	values []string
}

// value returns the values as one (RFC 9110, 5.3).
func (l headerLine) value() string { return strings.Join(l.values, ", ") }

// add adds a value to a line, or replaces the line's while that is empty.
func (m headerMap) add(name, value string) {
	key := strings.ToLower(name)
	line, found := m[key]
	if !found {
		line.name = name
	}
	if len(line.values) == 1 && line.values[0] == "" {
		line.values = nil
	}
	line.values = append(line.values, value)
	m[key] = line
}

// get returns the value of a header, and whether it is there.
func (m headerMap) get(name string) (string, bool) {
	line, found := m[strings.ToLower(name)]
	return line.value(), found
}

// lines returns the headers as a proxy has them: names are in lower case. They are
// sorted by name.
func (m headerMap) lines() host.Headers {
	lines := host.Headers{}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, host.Header{Name: key, Value: m[key].value()})
	}
	return lines
}

// after returns what has become of the headers. Names keep their spelling.
func (m headerMap) after(lines host.Headers) headerMap {
	now := headerMap{}
	for _, line := range lines {
		name := line.Name
		if before, found := m[strings.ToLower(name)]; found {
			name = before.name
		}
		now.add(name, line.Value)
	}
	return now
}

// ofReply returns the headers of a reply: the last line of a name counts.
func ofReply(lines host.Headers) headerMap {
	m := headerMap{}
	for _, line := range lines {
		m[strings.ToLower(line.Name)] = headerLine{line.Name, []string{line.Value}}
	}
	return m
}

// texts returns a text such as "name: value" for each header and each spelling.
func (m headerMap) texts() []string {
	var texts []string
	for _, line := range m.lines() {
		spellings := []string{line.Name, textproto.CanonicalMIMEHeaderKey(line.Name), m[line.Name].name}
		slices.Sort(spellings)
		for _, name := range slices.Compact(spellings) {
			texts = append(texts, name+": "+line.Value)
		}
	}
	return texts
}
