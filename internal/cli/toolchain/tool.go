package toolchain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// tool is a program that a build needs.
type tool struct {
	name string
	// install says how to get it, as what to do.
	install string
	// without are variables of the user's environment that would change what it makes.
	without []string
}

// path returns where the tool is.
func (t tool) path() (string, error) {
	path, err := exec.LookPath(t.name)
	if err != nil {
		return "", fmt.Errorf("%s is not installed: %s", t.name, t.install)
	}
	return path, nil
}

// environment is the user's, but for what the tool must not see.
func (t tool) environment() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains(t.without, name)
	})
}

// run runs a tool in the project, with further variables in its environment. What it
// prints goes to the log.
func (j *job) run(ctx context.Context, t tool, env []string, args ...string) error {
	return j.runTo(ctx, j.log, t, env, args...)
}

// outputOf returns what a tool prints to its standard output.
func (j *job) outputOf(ctx context.Context, t tool, env []string, args ...string) (string, error) {
	var out bytes.Buffer
	err := j.runTo(ctx, &out, t, env, args...)
	return strings.TrimSpace(out.String()), err
}

// stragglers is how long a tool that was ended can keep its output open.
const stragglers = 5 * time.Second

func (j *job) runTo(ctx context.Context, out io.Writer, t tool, env []string, args ...string) error {
	path, err := t.path()
	if err != nil {
		return err
	}
	c := exec.CommandContext(ctx, path, args...)
	c.Dir = j.dir
	c.Env = append(t.environment(), env...)
	c.Stdout, c.Stderr = out, j.log
	c.WaitDelay = stragglers
	endTogether(c)
	err = c.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if exit, failed := errors.AsType[*exec.ExitError](err); failed {
		return fmt.Errorf("%s failed (%s): see its output above", t.name, exit.ProcessState)
	}
	return err
}

// endTogether has a command end with all processes that it has started. Compilers start
// others, which would go on working, and a Ctrl-C on the terminal would reach only some.
func endTogether(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
}
