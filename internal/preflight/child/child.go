// Package child runs run.Run in a process of its own: compiling a hostile module
// takes seconds and hundreds of MiB and cannot be interrupted, and nobody has proved that
// a module cannot break out of wazero.
//
// Runner (runner.go) is the operator's side, Main the child's. The child is the same
// executable with the subcommand Name. It gets the filter and the limits as JSON on its
// standard input, and the module as file descriptor 3. It has no environment. It bounds
// its address space and its CPU time, reads its input, gives up all system calls but those
// that computing takes (confine.go), runs the module, and writes the verdict as JSON to its
// standard output. The operator bounds what it reads from the child, believes none of it
// without a check, and kills the child at the deadline. The kernel kills it when the
// operator dies.
package child

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/run"
)

// Name is the subcommand.
const Name = "preflight"

// moduleFD is the file descriptor of the module.
const moduleFD = 3

// Input is what the child is to run.
type Input struct {
	Filter preflight.Filter
	Limits preflight.Limits
	// ModuleBytes is the size of the module.
	ModuleBytes int64
}

// maxInput bounds the filter and the limits as JSON: a configuration has at most 1 MiB.
const maxInput = 4 << 20

// Main runs the module that the process was given and writes the verdict to out. The
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
	if err := limit(input.Limits); err != nil {
		return err
	}
	if err := confine(); err != nil {
		return fmt.Errorf("giving up system calls: %w", err)
	}
	debug.SetGCPercent(gcPercent)
	return json.NewEncoder(out).Encode(run.Run(context.Background(), wasm, input.Filter, input.Limits))
}

// gcPercent keeps the child's memory down, which counts within the operator's own limit.
const gcPercent = 50
