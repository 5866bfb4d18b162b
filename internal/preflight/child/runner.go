package child

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/run"
)

// Runner runs modules in child processes.
type Runner struct {
	// Command is what starts a child: the operator's own executable with Name. Its first
	// element is a path.
	Command []string
	Limits  preflight.Limits
}

const (
	// grace is how long a child has beside the time of the module.
	grace = 2 * time.Second
	// maxVerdict bounds what a child may write, and maxComplaint what it may complain.
	maxVerdict   = 64 << 10
	maxComplaint = 8 << 10
)

// Run runs the module of size bytes that file holds. The error is one of the operator: a
// child that could not be started, or that failed by itself.
func (r *Runner) Run(ctx context.Context, file *os.File, size int64, filter preflight.Filter) (preflight.Verdict, error) {
	input, err := json.Marshal(Input{Filter: filter, Limits: r.Limits, ModuleBytes: size})
	if err != nil {
		return preflight.Verdict{}, fmt.Errorf("writing what to run: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, r.Limits.Time+grace)
	defer cancel()
	notes, err := newNotes()
	if err != nil {
		return preflight.Verdict{}, err
	}
	defer notes.Close()
	ran := r.start(ctx, []*os.File{file, notes}, input)
	written := ran.out.kept.Bytes()
	switch {
	case ran.out.full:
		return preflight.Verdict{}, errors.New("the child wrote too much")
	case ran.err == nil:
		return parse(written)
	case ran.late, errors.Is(ctx.Err(), context.DeadlineExceeded), ran.signal == syscall.SIGXCPU:
		return r.killed(notes, written), nil
	case ctx.Err() != nil:
		return preflight.Verdict{}, ctx.Err()
	case strings.Contains(ran.complaint.kept.String(), "out of memory"), strings.Contains(ran.complaint.kept.String(), "cannot allocate memory"):
		return preflight.Verdict{
			Reason:  wasmev1.ReasonNotRun,
			Message: fmt.Sprintf("the operator cannot run the module, but proxies may: compiling it takes more than %d MiB of memory", compilingBytes>>20),
		}, nil
	}
	return preflight.Verdict{}, fmt.Errorf("the child failed: %w: %s", ran.err, firstLine(ran.complaint.kept.String()))
}

// killed returns the verdict on a module whose child was killed.
func (r *Runner) killed(file io.ReaderAt, written []byte) preflight.Verdict {
	notes := make(run.Notes, run.NotesBytes)
	_, _ = file.ReadAt(notes, 0) // a child that took them away has said nothing
	var passed *preflight.Verdict
	if v, err := parse(written); err == nil {
		passed = &v
	}
	if v := run.Killed(notes, passed, run.Time(r.Limits)); v != nil {
		return *v
	}
	return preflight.Verdict{
		Reason:  wasmev1.ReasonTimedOut,
		Message: fmt.Sprintf("the module could not be compiled in %v: make it smaller, or raise the operator's --preflight-timeout", r.Limits.Time),
	}
}

// newNotes returns memory for notes, as a file that the child gets.
func newNotes() (*os.File, error) {
	fd, err := unix.MemfdCreate("notes", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making the notes: %w", err)
	}
	file := os.NewFile(uintptr(fd), "notes")
	if err := file.Truncate(run.NotesBytes); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// errLate ends a child whose module has had its time.
var errLate = errors.New("the time of the module is over")

// result is what came of a child.
type result struct {
	out, complaint bounded
	err            error
	signal         syscall.Signal
	late           bool // the time of its module was over
}

// start runs a child until it ends, at the latest when the time of its module is over. It
// stays in one thread: the kernel kills the child when the thread that started it ends.
func (r *Runner) start(ctx context.Context, files []*os.File, input []byte) *result {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	kill := func() { cancel(nil) }
	compiled := func() { time.AfterFunc(run.Time(r.Limits), func() { cancel(errLate) }) }
	ran := &result{out: bounded{limit: maxVerdict, begun: compiled, exceeded: kill}, complaint: bounded{limit: maxComplaint, begun: func() {}, exceeded: func() {}}}
	command := exec.CommandContext(ctx, r.Command[0], r.Command[1:]...)
	command.Env = []string{"GOTRACEBACK=none"}
	command.Stdin, command.Stdout, command.Stderr = bytes.NewReader(input), &ran.out, &ran.complaint
	command.ExtraFiles = files
	command.WaitDelay = grace
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	ran.err = command.Run()
	ran.late = errors.Is(context.Cause(ctx), errLate)
	if command.ProcessState == nil {
		return ran
	}
	if status, ok := command.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		ran.signal = status.Signal()
	}
	return ran
}

// bounded keeps the first bytes that are written to it. It calls begun for the first, and
// exceeded for more than its limit.
type bounded struct {
	kept            bytes.Buffer // no embedded field: it would be read into without a bound
	limit           int
	full            bool
	begun, exceeded func()
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	if b.kept.Len() == 0 {
		b.begun()
	}
	room := b.limit - b.kept.Len()
	b.kept.Write(p[:min(len(p), room)])
	if len(p) > room {
		b.full = true
		b.exceeded()
	}
	return len(p), nil
}

// Bounds of what a verdict may say.
const (
	maxMessage      = 2 << 10
	maxLine         = 1 << 10
	maxLines        = 32
	maxCapabilities = 32
)

// parse returns the last whole verdict that a child wrote, once it is known to be one.
func parse(written []byte) (preflight.Verdict, error) {
	var v preflight.Verdict
	decoder := json.NewDecoder(bytes.NewReader(written))
	decoder.DisallowUnknownFields()
	for next := (preflight.Verdict{}); decoder.Decode(&next) == nil; next = (preflight.Verdict{}) {
		v = next
	}
	if v.Reason == "" {
		return preflight.Verdict{}, errors.New("the child wrote no verdict")
	}
	tooLong := func(line string) bool { return len(line) > maxLine }
	switch {
	case !slices.Contains(preflight.Reasons, v.Reason), v.Message == "", len(v.Message) > maxMessage,
		len(v.Logs) > maxLines, slices.ContainsFunc(v.Logs, tooLong), len(v.Warnings) > maxLines, slices.ContainsFunc(v.Warnings, tooLong):
		return preflight.Verdict{}, errors.New("the child wrote an invalid verdict")
	}
	if c := v.Cost; c != nil && (c.Compile < 0 || c.Stream < 0 || c.MemoryBytes < 0 || c.StreamedMemoryBytes < 0 || c.ProxyMemoryBytes < 0 || c.Streams < 0 ||
		len(c.Capabilities) > maxCapabilities || slices.ContainsFunc(c.Capabilities, tooLong)) {
		return preflight.Verdict{}, errors.New("the child wrote an invalid cost")
	}
	return v, nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
