// Licensed under the Apache License, Version 2.0; see LICENSE.

package binaries

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// interruptGrace is how long an interrupted command may take to end.
	interruptGrace = 5 * time.Second
	// reapBound bounds the wait for killed processes to be gone. They end at once,
	// but the system may take its time to forget them.
	reapBound = time.Second
)

// Run runs a command that exec.CommandContext made. Its error contains what the
// command printed. When the context is done, the command and the processes that
// it started are interrupted, and killed if that does not end them. Temporary
// files of all of them are removed: an interrupted `go build` would leave its own.
func Run(command *exec.Cmd) error {
	temporary, err := os.MkdirTemp(os.Getenv("GOTMPDIR"), "build-")
	if err != nil {
		return fmt.Errorf("making a folder for temporary files: %w", err)
	}
	defer os.RemoveAll(temporary)
	command.Env = append(command.Environ(), "TMPDIR="+temporary, "GOTMPDIR="+temporary)
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := runGroup(command, syscall.SIGINT, interruptGrace); err != nil {
		return fmt.Errorf("running %s: %w\n%s", strings.Join(command.Args, " "), err, output.Bytes())
	}
	return nil
}

// runGroup runs a command in a process group of its own. When the command's
// context is done, the group gets the signal; whatever is left of it after the
// grace period is killed. The terminal's own Ctrl-C does not reach the group.
func runGroup(command *exec.Cmd, signal syscall.Signal, grace time.Duration) error {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	interrupted := false
	command.Cancel = func() error {
		interrupted = true
		return syscall.Kill(-command.Process.Pid, signal)
	}
	command.WaitDelay = grace
	err := command.Run()
	if interrupted {
		endGroup(command.Process.Pid)
	}
	return err
}

// endGroup kills what is left of a process group, and waits until it is gone.
func endGroup(group int) {
	_ = wait.PollUntilContextTimeout(context.Background(), time.Millisecond, reapBound, true, func(context.Context) (bool, error) {
		return errors.Is(syscall.Kill(-group, syscall.SIGKILL), syscall.ESRCH), nil
	})
}
