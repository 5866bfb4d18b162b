// Licensed under the Apache License, Version 2.0; see LICENSE.

package binaries

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// interruptGrace is how long an interrupted command may take to clean up.
const interruptGrace = 10 * time.Second

// Run runs a command that exec.CommandContext made. Its error contains what the
// command printed. When the context is done, the command and the processes that
// it has started are interrupted, so that they remove their temporary files, and
// killed if they take too long.
func Run(command *exec.Cmd) error {
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
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) // usually nothing is left to kill
	}
	return err
}
