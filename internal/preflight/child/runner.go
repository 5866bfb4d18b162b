package child

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/preflight"
)

// Runner runs modules in child processes.
type Runner struct {
	// Command is what starts a child: the operator's own executable with Name. Its first
	// element is a path.
	Command []string
	Limits  preflight.Limits
}

const (
	// grace is how long after its deadline a child is killed: it tells by itself what did
	// not return, unless it was compiling.
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
	ran := r.start(ctx, cancel, file, input)
	switch {
	case ran.out.full:
		return preflight.Verdict{}, errors.New("the child wrote too much")
	case ran.err == nil:
		return parse(ran.out.kept.Bytes())
	case errors.Is(ctx.Err(), context.DeadlineExceeded), ran.signal == syscall.SIGXCPU:
		return preflight.Verdict{
			Reason:  wasmev1.ReasonTimedOut,
			Message: fmt.Sprintf("the module could not be compiled and run in %v: make it smaller, or raise the operator's --preflight-timeout", r.Limits.Time),
		}, nil
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

// result is what came of a child.
type result struct {
	out, complaint bounded
	err            error
	signal         syscall.Signal
}

// start runs a child until it ends. It stays in one thread: the kernel kills the child
// when the thread that started it ends.
func (r *Runner) start(ctx context.Context, cancel func(), file *os.File, input []byte) *result {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ran := &result{out: bounded{limit: maxVerdict, exceeded: cancel}, complaint: bounded{limit: maxComplaint, exceeded: func() {}}}
	command := exec.CommandContext(ctx, r.Command[0], r.Command[1:]...)
	command.Env = []string{"GOTRACEBACK=none"}
	command.Stdin, command.Stdout, command.Stderr = bytes.NewReader(input), &ran.out, &ran.complaint
	command.ExtraFiles = []*os.File{file}
	command.WaitDelay = grace
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	ran.err = command.Run()
	if command.ProcessState == nil {
		return ran
	}
	if status, ok := command.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		ran.signal = status.Signal()
	}
	return ran
}

// bounded keeps the first bytes that are written to it, and calls exceeded for more.
type bounded struct {
	kept     bytes.Buffer // no embedded field: it would be read into without a bound
	limit    int
	full     bool
	exceeded func()
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
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

// parse returns the verdict that a child wrote, once it is known to be one.
func parse(written []byte) (preflight.Verdict, error) {
	var v preflight.Verdict
	decoder := json.NewDecoder(bytes.NewReader(written))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&v); err != nil {
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
