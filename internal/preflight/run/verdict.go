package run

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// verdictOf returns the verdict on a module that could not be compiled or linked.
func verdictOf(f *host.Failure) preflight.Verdict {
	reason, fix := wasmev1.ReasonNotRun, ""
	switch f.Kind {
	case host.Invalid:
		reason, fix = wasmev1.ReasonInvalidModule, ": build the module again"
	case host.MissingImport:
		reason, fix = wasmev1.ReasonMissingImport, ": build it with an SDK for proxy-wasm, and without what needs files or sockets"
	case host.MissingExport:
		reason, fix = wasmev1.ReasonMissingExport, ": build it with an SDK for proxy-wasm"
	default:
		return preflight.Verdict{Reason: reason, Message: "the operator cannot run the module, but proxies may: " + f.Message}
	}
	return preflight.Verdict{Reason: reason, Message: f.Message + fix}
}

// failed returns the verdict on a failure, whose reason is the given one unless the
// failure's kind has its own. When says what the module was doing.
func (r *run) failed(reason string, f *host.Failure, when string) *preflight.Verdict {
	v := &preflight.Verdict{Reason: reason}
	switch f.Kind {
	case host.TimedOut:
		v.Reason = wasmev1.ReasonTimedOut
		v.Message = timedOut(f, when, r.time)
	case host.MemoryExceeded:
		v.Reason = wasmev1.ReasonMemoryExceeded
		v.Message = fmt.Sprintf("the module asked for more than %d MiB of memory %s", r.limits.MemoryBytes>>20, in(f, when))
		if f.Callback == "" {
			v.Message = f.Message
		}
		v.Message += ": make it use less, or raise the operator's --preflight-memory-bytes"
	case host.Refused:
		v.Message = refusal(reason, when)
	case host.Unsupported:
		return new(verdictOf(f))
	default:
		v.Message = fmt.Sprintf("the module crashed %s: %s%s: %s", in(f, when), f.Message, where(f), fixFor(reason))
	}
	return v
}

func timedOut(f *host.Failure, when string, after time.Duration) string {
	return fmt.Sprintf("the module did not return %s, in %v: fix the loop, or what takes so long", in(f, when), after)
}

// undecided takes a refusal back when the module had asked for what only a proxy knows.
func undecided(v *preflight.Verdict, unknown string) {
	if unknown == "" || !v.Refused() || v.Reason == wasmev1.ReasonTestsFailed {
		return
	}
	v.Reason = wasmev1.ReasonUndecided
	v.Message += "; it had asked for what only a proxy knows: " + unknown
}

// fixFor says what to do about a crash.
func fixFor(reason string) string {
	if reason == wasmev1.ReasonUnknownRootID {
		return "set spec.filter.rootID to one that it knows"
	}
	return "fix the module"
}

func refusal(reason, when string) string {
	switch reason {
	case wasmev1.ReasonUnknownRootID:
		return "the module does not start " + when + ": " + fixFor(reason)
	case wasmev1.ReasonStartFailed:
		return "the module refused to start: fix what its last log lines say"
	}
	return "the module refused its configuration " + when + ": fix spec.filter.config"
}

// in says in which callback something happened, and when.
func in(f *host.Failure, when string) string {
	if f.Callback == "" {
		return when
	}
	return "in " + f.Callback + " " + when
}

// shown is the number of functions of a stack in a message.
const shown = 3

// where says in which functions of the module something happened; empty where it has no
// names.
func where(f *host.Failure) string {
	var named []string
	for _, function := range f.Functions {
		if !strings.HasPrefix(function, "$") && len(named) < shown {
			named = append(named, function)
		}
	}
	if len(named) == 0 {
		return ""
	}
	return ", in " + strings.Join(named, " from ")
}

const (
	// lines and lineLength bound what is kept of what a module logs.
	lines      = 5
	lineLength = 200
)

// logs keeps the last lines that a module logged, the oldest first.
type logs struct {
	kept []string
	// partial says that the last line goes on.
	partial bool
	notes   Notes
	// also gets each line as it was logged; nil for nobody.
	also func(host.Line)
}

func (l *logs) add(line host.Line) {
	text := clean(line.Text)
	switch last := len(l.kept) - 1; {
	case l.partial && last >= 0:
		l.kept[last] = cut(l.kept[last] + text)
	case text != "":
		l.kept = append(l.kept, cut(text))
		if len(l.kept) > lines {
			l.kept = l.kept[1:]
		}
	}
	l.partial = line.Partial
	l.notes.logged(l.kept)
	if l.also != nil {
		l.also(line)
	}
}

// clean makes text of what a module wrote: one line, without control characters.
func clean(text string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
		return text // most lines, at a tenth of the cost
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

func cut(text string) string { return cutTo(text, lineLength) }

// cutTo shortens text to a number of characters.
func cutTo(text string, length int) string {
	runes := []rune(text)
	if len(runes) <= length {
		return text
	}
	return string(runes[:length-1]) + "…"
}
