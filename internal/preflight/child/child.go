// Package child runs run.Run in a process of its own: compiling a hostile module
// takes seconds and hundreds of MiB and cannot be interrupted, and nobody has proved that
// a module cannot break out of wazero.
//
// Runner (runner.go) is the operator's side, Main the child's. The child is the same
// executable with the subcommand Name. It gets the filter and the limits as JSON on its
// standard input, the module as file descriptor 3, and as file descriptor 4 memory that it
// shares with the operator, for run.Notes. It has no environment. It bounds its address
// space and its CPU time, reads its input, gives up all system calls but those that
// computing takes (confine.go), and runs the module. To its standard output it writes an
// empty line once the module is compiled, and verdicts as JSON, of which the last counts.
// The operator bounds what it reads from the child, believes none of it without a check,
// and kills the child when its time is over; then the notes say what did not return. The
// kernel kills the child when the operator dies.
package child

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/run"
)

// Name is the subcommand.
const Name = "preflight"

// moduleFD is the file descriptor of the module, notesFD that of the notes.
const (
	moduleFD = 3
	notesFD  = 4
)

// Input is what the child is to run.
type Input struct {
	Filter preflight.Filter
	Limits preflight.Limits
	// ModuleBytes is the size of the module.
	ModuleBytes int64
}

// maxInput bounds the filter and the limits as JSON: a configuration has at most 1 MiB.
const maxInput = 4 << 20

// Main runs the module that the process was given and writes what it finds to out. The
// error is one of the process, not of the module.
func Main(in io.Reader, out io.Writer) error {
	var input Input
	if err := json.NewDecoder(io.LimitReader(in, maxInput)).Decode(&input); err != nil {
		return fmt.Errorf("reading what to run: %w", err)
	}
	wasm := make([]byte, input.ModuleBytes)
	if _, err := io.ReadFull(os.NewFile(moduleFD, "module"), wasm); err != nil {
		return fmt.Errorf("reading the module: %w", err)
	}
	notes, err := unix.Mmap(notesFD, 0, run.NotesBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping the notes: %w", err)
	}
	if err := limit(input.Limits); err != nil {
		return err
	}
	if err := confine(); err != nil {
		return fmt.Errorf("giving up system calls: %w", err)
	}
	debug.SetGCPercent(gcPercent)
	var failed error
	say := func(text []byte, err error) {
		if err == nil {
			_, err = out.Write(append(text, '\n'))
		}
		failed = errors.Join(failed, err)
	}
	say(json.Marshal(run.Run(context.Background(), wasm, input.Filter, input.Limits, &run.Watch{
		Notes:    notes,
		Compiled: func() { say(nil, nil) },
		Passed:   func(v preflight.Verdict) { say(json.Marshal(v)) },
	})))
	return failed
}

// gcPercent keeps the child's memory down, which counts within the operator's own limit.
const gcPercent = 50
