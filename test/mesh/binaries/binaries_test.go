// Licensed under the Apache License, Version 2.0; see LICENSE.

package binaries

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

// syncLog is a log for several writers.
type syncLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *syncLog) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(text)
}

func (l *syncLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestConcurrentCallsProvideAnArtifactOnce(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	var log syncLog
	var times atomic.Int32
	group, ctx := errgroup.WithContext(t.Context())
	for range 5 {
		group.Go(func() error {
			path, err := Cached(ctx, &log, "tool", "key", "building a tool", func(target string) error {
				times.Add(1)
				return os.WriteFile(target, []byte("whole"), 0o600)
			})
			if err != nil {
				return err
			}
			content, err := os.ReadFile(path)
			if err == nil && string(content) != "whole" {
				err = errors.New("it is not whole")
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if times.Load() != 1 {
		t.Errorf("provided %d times", times.Load())
	}
	if got := strings.Count(log.String(), "building a tool"); got != 2 { // the beginning and the end
		t.Errorf("the log says %d times what is built:\n%s", got, log.String())
	}
}

func TestAnArtifactIsExecutable(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	path, err := Cached(t.Context(), &syncLog{}, "tool", "key", "building a tool", func(target string) error {
		return os.WriteFile(target, nil, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
}

func TestNothingIsLeftOfAFailureAndTheNextCallTriesAgain(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	fail := func(target string) error {
		return errors.Join(os.WriteFile(target, []byte("half"), 0o600), errors.New("no disk"))
	}
	_, err := Cached(t.Context(), &syncLog{}, "tool", "key", "building a tool", fail)
	if err == nil || err.Error() != "building a tool: no disk" {
		t.Errorf("got %v", err)
	}
	left, err := filepath.Glob(filepath.Join(cache, "wasme-operator", "bin", "key", "tool*"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{filepath.Join(cache, "wasme-operator", "bin", "key", "tool.lock")}, left); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if _, err := Cached(t.Context(), &syncLog{}, "tool", "key", "building a tool", func(target string) error {
		return os.WriteFile(target, nil, 0o600)
	}); err != nil {
		t.Error(err)
	}
}

func TestAProcessWaitsForAnotherOneThatProvidesTheSame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), &syncLog{}, "a tool", path)
	if err != nil {
		t.Fatal(err)
	}
	var log syncLog
	ended := make(chan error, 1)
	go func() {
		second, err := lock(t.Context(), &log, "a tool", path)
		if err == nil {
			second()
		}
		ended <- err
	}()
	await(t, func() bool {
		return strings.Contains(log.String(), "waiting for another process that provides a tool\n")
	})
	unlock()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAWaitForAnotherProcessEndsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), &syncLog{}, "a tool", path)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lock(ctx, &syncLog{}, "a tool", path); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestFurtherBuildsRunInOrderUntilOneFails(t *testing.T) {
	var log syncLog
	var ran []string
	build := func(name string, err error) Build {
		return Build{Title: "compiling " + name, Run: func(context.Context) error {
			ran = append(ran, name)
			return err
		}}
	}
	source := Source{Log: &log}
	err := source.runAll(t.Context(), semaphore.NewWeighted(1), []Build{build("one", nil), build("two", errors.New("no disk")), build("three", nil)})
	if err == nil || err.Error() != "compiling two: no disk" {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff([]string{"one", "two"}, ran); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := strings.Count(log.String(), "compiling "); got != 3 || strings.Contains(log.String(), "three") {
		t.Errorf("the log does not say that one ended and two began:\n%s", log.String())
	}
}

func TestABuildWaitsForItsTurn(t *testing.T) {
	cores := semaphore.NewWeighted(1)
	ran := false
	build := func() error {
		ran = true
		if cores.TryAcquire(1) {
			t.Error("another build could run beside it")
		}
		return errors.New("no disk")
	}
	if err := cores.Acquire(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := withCores(ended, cores, build); !errors.Is(err, context.Canceled) || ran {
		t.Errorf("ran: %t, error: %v", ran, err)
	}
	cores.Release(1)
	if err := withCores(t.Context(), cores, build); err == nil || err.Error() != "no disk" || !ran {
		t.Errorf("ran: %t, error: %v", ran, err)
	}
	if !cores.TryAcquire(1) {
		t.Error("the cores were not given back")
	}
}

func TestOwnSaysWhatDoesNotCompile(t *testing.T) {
	err := Own(t.Context(), "./no/such/package", filepath.Join(t.TempDir(), "target"))
	if err == nil || !strings.Contains(err.Error(), "./no/such/package") {
		t.Errorf("got %v", err)
	}
}
