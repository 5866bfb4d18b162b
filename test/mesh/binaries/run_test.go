// Licensed under the Apache License, Version 2.0; see LICENSE.

package binaries

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

const bound = 10 * time.Second

func TestAFailureShowsWhatTheCommandPrinted(t *testing.T) {
	err := Run(exec.CommandContext(t.Context(), "/bin/sh", "-c", "echo to stdout; echo to stderr >&2; exit 3"))
	if err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Fatalf("got %v", err)
	}
	for _, printed := range []string{"to stdout", "to stderr"} {
		if !strings.Contains(err.Error(), printed) {
			t.Errorf("the error lacks %q: %v", printed, err)
		}
	}
}

// interrupted runs a script that writes a file ready, and interrupts it then.
func interrupted(t *testing.T, folder, script string) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	command := exec.CommandContext(ctx, "/bin/sh", "-c", script)
	command.Dir = folder
	ended := make(chan error, 1)
	go func() { ended <- Run(command) }()
	await(t, func() bool { return present(filepath.Join(folder, "ready")) })
	cancel()
	select {
	case err := <-ended:
		return err
	case <-time.After(2 * interruptGrace):
		return errors.New("it has not ended")
	}
}

func await(t *testing.T, done func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, bound, true, func(context.Context) (bool, error) { return done(), nil })
	if err != nil {
		t.Fatal(err)
	}
}

func TestAnInterruptedCommandMayCleanUp(t *testing.T) {
	folder := t.TempDir()
	err := interrupted(t, folder, `trap 'rm own; exit 0' INT; touch own; touch ready; while :; do sleep 0.01; done`)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if present(filepath.Join(folder, "own")) {
		t.Error("the command could not clean up")
	}
}

func TestNothingIsLeftOfAnInterruptedCommand(t *testing.T) {
	folder := t.TempDir()
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	t.Setenv("GOTMPDIR", "")
	// The child ignores the interrupt, and has none of the command's output open.
	err := interrupted(t, folder,
		`mktemp -d > made; (trap '' INT; exec sleep 300 > /dev/null 2>&1) & echo $! > child; touch ready; wait`)
	if err == nil {
		t.Error("an interrupted command is no success")
	}
	child, err := strconv.Atoi(read(t, folder, "child"))
	if err != nil {
		t.Fatal(err)
	}
	if !gone(child) {
		t.Error("a process that the command started is still running")
	}
	made := read(t, folder, "made")
	if !strings.HasPrefix(made, temporary) {
		t.Errorf("the temporary folder %s is not in %s", made, temporary)
	}
	left, err := os.ReadDir(temporary)
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v %v", left, err)
	}
}

func read(t *testing.T, folder, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(content))
}

// gone reports whether a process has ended; its parent may not have noticed yet.
func gone(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	_, state, _ := bytes.Cut(stat, []byte(") "))
	return err != nil || bytes.HasPrefix(state, []byte("Z"))
}
