package run

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// Watch is how another process watches a run, which kills it when its time is over:
// code that can be interrupted is slow.
type Watch struct {
	// Notes are shared with the process that watches.
	Notes Notes
	// Compiled is called when the module is compiled and its time begins.
	Compiled func()
	// Passed is called with the verdict on a good module, before the run shows what clients
	// and upstreams could do to it.
	Passed func(preflight.Verdict)
}

// Notes say what a run is doing, in memory that survives it: a run that was killed cannot
// tell what did not return. There are NotesBytes of them, zero at first; nil keeps nothing.
// Texts end with a zero byte.
type Notes []byte

// The parts of Notes, each from its offset to the next one's.
const (
	callbackAt = 0
	whenAt     = 64
	streamAt   = 320 // its number and its name, when it is one of many
	unknownAt  = 576
	logsAt     = 4096
	// NotesBytes is the length of Notes.
	NotesBytes = 16 << 10
)

func (n Notes) put(at, end int, text string) {
	if n == nil {
		return
	}
	used := copy(n[at:end-1], text)
	n[at+used] = 0
}

func (n Notes) get(at, end int) string {
	text, _, _ := bytes.Cut(n[at:end], []byte{0})
	return string(text)
}

func (n Notes) calling(callback string) { n.put(callbackAt, whenAt, callback) }

func (n Notes) doing(when string) {
	n.put(streamAt+4, unknownAt, "")
	n.put(whenAt, streamAt, when)
}

// passing notes the stream with a number, from 1.
func (n Notes) passing(number int, name string) {
	if n == nil {
		return
	}
	binary.LittleEndian.PutUint32(n[streamAt:], uint32(number)) //nolint:gosec // far fewer
	n.put(streamAt+4, unknownAt, name)
}

func (n Notes) asked(unknown []string) { n.put(unknownAt, logsAt, strings.Join(unknown, ", ")) }

func (n Notes) logged(kept []string) { n.put(logsAt, NotesBytes, strings.Join(kept, "\n")) }

// when says what the run was doing; empty before it did anything.
func (n Notes) when() string {
	if name := n.get(streamAt+4, unknownAt); name != "" {
		return inStream(int(binary.LittleEndian.Uint32(n[streamAt:])), name)
	}
	return n.get(whenAt, streamAt)
}

func inStream(number int, name string) string {
	return fmt.Sprintf("in stream %d (%s)", number, name)
}

// Killed returns the verdict on a run that was killed after its time. Passed is the verdict
// that it had told before; nil when it had told none. Nothing is believed of notes but
// text. The result is nil when the module was not even compiled.
func Killed(notes Notes, passed *preflight.Verdict, after time.Duration) *preflight.Verdict {
	when := clean(notes.when())
	switch {
	case when == "":
		return nil
	case passed != nil:
		if slices.ContainsFunc(hostile(), func(s stream) bool { return s.name == when }) {
			passed.Warnings = append(passed.Warnings, when)
		}
		return passed
	}
	f := &host.Failure{Kind: host.TimedOut, Callback: clean(notes.get(callbackAt, whenAt))}
	v := &preflight.Verdict{Reason: wasmev1.ReasonTimedOut, Message: timedOut(f, when, after)}
	var logs logs
	for line := range strings.SplitSeq(notes.get(logsAt, NotesBytes), "\n") {
		logs.add(host.Line{Text: line})
	}
	v.Logs = logs.kept
	undecided(v, clean(notes.get(unknownAt, logsAt)))
	return v
}
