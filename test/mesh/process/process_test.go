// Licensed under the Apache License, Version 2.0; see LICENSE.

package process_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wasme-io/wasme-operator/test/mesh/process"
)

func TestStopEndsAProcessThatIgnoresSIGTERM(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for SIGTERM to have no effect")
	}
	group := process.Group{Folder: t.TempDir()}
	ready := filepath.Join(group.Folder, "ready")
	p := start(t, group, process.Command{Name: "stubborn", Path: "/bin/sh", Args: []string{
		"-c", `trap "" TERM; touch "$0"; while :; do read line </dev/zero; done`, ready,
	}})
	err := p.WaitReady(context.Background(), time.Minute, func(context.Context) error {
		_, err := os.Stat(ready)
		return err
	})
	must(t, err)
	must(t, p.Stop())
	wantRunning(t, group)
}

func TestAnotherProcessEndsWhatIsOnRecord(t *testing.T) {
	group := process.Group{Folder: t.TempDir(), Detached: true}
	start(t, group, process.Command{Name: "one", Path: "/usr/bin/tail", Args: []string{"-f", "/dev/null"}})
	start(t, group, process.Command{Name: "two", Path: "/usr/bin/tail", Args: []string{"-f", "/dev/null"}, KillOnStop: true})
	wantRunning(t, group, "one", "two")
	must(t, process.Group{Folder: group.Folder}.StopAll())
	wantRunning(t, group)
	must(t, group.StopAll())
}

func TestPauseStopsAProcessUntilResume(t *testing.T) {
	group := process.Group{Folder: t.TempDir()}
	beats := filepath.Join(group.Folder, "beats")
	p := start(t, group, process.Command{Name: "beating", Path: "/bin/sh", KillOnStop: true, Args: []string{
		"-c", `while :; do echo >> "$0"; done`, beats,
	}})
	size := func() int64 {
		info, err := os.Stat(beats)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	grows := func(than int64) error {
		return p.WaitReady(context.Background(), time.Minute, func(context.Context) error {
			if size() > than {
				return nil
			}
			return errors.New("it does not grow")
		})
	}
	must(t, grows(0))
	must(t, p.Pause())
	paused := func(context.Context) error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
		if err == nil && !strings.Contains(string(stat), ") T ") {
			return errors.New("it runs")
		}
		return err
	}
	must(t, p.WaitReady(context.Background(), time.Minute, paused))
	must(t, p.Resume())
	must(t, grows(size()))
	must(t, p.Stop())
	must(t, p.Pause()) // of one that has ended
}

func TestAReusedPIDIsLeftAlone(t *testing.T) {
	group := process.Group{Folder: t.TempDir()}
	record, err := json.Marshal(map[string]any{"name": "old", "pid": os.Getpid(), "startTime": 1})
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(group.Folder, "run"), 0o700))
	must(t, os.WriteFile(filepath.Join(group.Folder, "run", "old.json"), record, 0o600))
	wantRunning(t, group)
	must(t, group.StopAll()) // it would have ended this test
}

func TestAFailedStartShowsTheLog(t *testing.T) {
	group := process.Group{Folder: t.TempDir()}
	p := start(t, group, process.Command{Name: "broken", Path: "/bin/sh", Args: []string{"-c", "echo the reason; read line; exit 3"}})
	err := p.WaitReady(context.Background(), time.Minute, func(context.Context) error { return errors.New("not yet") })
	for _, part := range []string{"broken", "the reason", "exit status 3"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q: %v", part, err)
		}
	}
}

func TestAProcessThatIsNotReadyInTimeIsToldFromOneThatEnded(t *testing.T) {
	group := process.Group{Folder: t.TempDir()}
	never := func(context.Context) error { return errors.New("not yet") }
	runs := start(t, group, process.Command{Name: "runs", Path: "/usr/bin/tail", Args: []string{"-f", "/dev/null"}})
	if err := runs.WaitReady(t.Context(), 10*time.Millisecond, never); !errors.Is(err, process.ErrNotReady) {
		t.Errorf("%v", err)
	}
	ended := start(t, group, process.Command{Name: "ends", Path: "/bin/true"})
	if err := ended.WaitReady(t.Context(), time.Minute, never); err == nil || errors.Is(err, process.ErrNotReady) {
		t.Errorf("%v", err)
	}
}

func start(t *testing.T, group process.Group, command process.Command) *process.Process {
	t.Helper()
	p, err := group.Start(command)
	must(t, err)
	t.Cleanup(func() { must(t, p.Kill()) })
	return p
}

func wantRunning(t *testing.T, group process.Group, want ...string) {
	t.Helper()
	running, err := group.Running()
	must(t, err)
	if strings.Join(running, " ") != strings.Join(want, " ") {
		t.Errorf("running: %v, not %v", running, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
