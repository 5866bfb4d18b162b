//go:build unix

package envoy

import (
	"os"
	"syscall"
)

// A signal that fails is for a group that has ended.

func interrupt(leader *os.Process) { _ = syscall.Kill(-leader.Pid, syscall.SIGTERM) }

func kill(leader *os.Process) { _ = syscall.Kill(-leader.Pid, syscall.SIGKILL) }
