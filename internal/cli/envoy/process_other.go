//go:build !unix

package envoy

import (
	"os"
	"syscall"
)

func attributes() *syscall.SysProcAttr { return nil }

// Killing a process fails when it has ended.

func interrupt(process *os.Process) { _ = process.Kill() }

func kill(process *os.Process) { _ = process.Kill() }
