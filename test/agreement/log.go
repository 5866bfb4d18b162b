package agreement

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// mark begins each record of Envoy's log: no text of a module that tests run has it.
const mark = "\x1e\x1e"

// logFormat is mark, level, logger, text (spdlog's "Custom formatting").
const logFormat = mark + "%l %n %v"

// log is the log of an Envoy, read bit by bit.
type log struct {
	path  string
	setup *Setup
	read  int
}

// levels are spdlog's names of levels.
var levels = map[string]host.Level{
	"trace": host.Trace, "debug": host.Debug, "info": host.Info, "warning": host.Warn, "error": host.Error, "critical": host.Critical,
}

// take returns what is new in the log: the lines of the module, and the errors that Envoy
// and its Wasm runtime report.
func (l *log) take() (lines []host.Line, reasons []string, err error) {
	content, err := os.ReadFile(l.path)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the log of Envoy: %w", err)
	}
	fresh := string(content[l.read:])
	l.read = len(content)
	for record := range strings.SplitSeq(fresh, mark) {
		level, rest, _ := strings.Cut(record, " ")
		_, message, _ := strings.Cut(strings.TrimSuffix(rest, "\n"), " ")
		if text, own := l.text(message); own {
			lines = append(lines, host.Line{Level: levels[level], Text: text})
		} else if level == "error" || level == "critical" {
			reasons = append(reasons, message)
		}
	}
	return lines, reasons, nil
}

// text returns what a module logged, and whether it is the module's. Envoy puts names before
// it: of a stream, all of them, and of contexts that begin before a plugin, fewer
// (PluginBase::makeLogPrefix, ContextBase::makeRootLogPrefix).
func (l *log) text(message string) (string, bool) {
	names := slices.DeleteFunc([]string{PluginName, l.setup.RootID, l.setup.VMID}, func(name string) bool { return name == "" })
	for first := range len(names) + 1 {
		prefix := strings.Join(append([]string{"wasm log"}, names[first:]...), " ")
		if text, own := strings.CutPrefix(message, prefix+": "); own {
			return text, true
		}
	}
	return "", false
}
