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
	"syscall"
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
	go func() { ended <- runGroup(command, syscall.SIGINT, time.Second) }()
	await(t, func() bool { return present(filepath.Join(folder, "ready")) })
	cancel()
	select {
	case err := <-ended:
		return err
	case <-time.After(bound):
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
	err := interrupted(t, folder, `trap 'rm temporary; exit 0' INT; touch temporary; touch ready; while :; do sleep 0.01; done`)
	if err == nil {
		t.Error("an interrupted command is no success")
	}
	if present(filepath.Join(folder, "temporary")) {
		t.Error("the command could not clean up")
	}
}

func TestNothingIsLeftOfAnInterruptedCommand(t *testing.T) {
	folder := t.TempDir()
	if err := interrupted(t, folder, `trap '' INT; sleep 300 & echo $! > child; touch ready; wait`); err == nil {
		t.Error("an interrupted command is no success")
	}
	content, err := os.ReadFile(filepath.Join(folder, "child"))
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(string(bytes.TrimSpace(content)))
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return gone(child) })
}

// gone reports whether a process has ended; its parent may not have noticed yet.
func gone(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	_, state, _ := bytes.Cut(stat, []byte(") "))
	return err != nil || bytes.HasPrefix(state, []byte("Z"))
}
