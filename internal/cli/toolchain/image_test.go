package toolchain_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wasme-io/wasme-operator/internal/cli/toolchain"
)

// engine puts a program called docker on the PATH, in place of the real one, which the
// tests' machine does not have. It knows the folder that is mounted as /build_output, and
// keeps the arguments of its calls in a file, which is returned.
func engine(t *testing.T, run string) string {
	t.Helper()
	calls := filepath.Join(t.TempDir(), "calls")
	dir := project(t, map[string]string{"docker": `#!/bin/sh
echo "$@" >> ` + calls + `
test "$1" = run || exit 0
for argument; do
	case $argument in
	*,target=/build_output) out=${argument#type=bind,source=}; out=${out%,target=*} ;;
	esac
done
` + run})
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	return calls
}

func TestBuildInImageReturnsWhatTheContainerHasWritten(t *testing.T) {
	dir := project(t, map[string]string{"module": filter()})
	calls := engine(t, "echo compiling\ncp module $out/filter.wasm")
	var log strings.Builder
	got, err := toolchain.BuildInImage(t.Context(), "golang:1.26", toolchain.Go, dir, toolchain.Options{Log: &log})
	check(t, string(got), err, filter(), "")
	if log.String() != "compiling\n" {
		t.Errorf("logged %q", log.String())
	}
	called, err := os.ReadFile(calls)
	if err != nil || !strings.Contains(string(called), "source="+dir+",target=/src/workspace") || strings.Count(string(called), "\n") != 1 {
		t.Errorf("calls: %s, error %v", called, err)
	}
}

func TestWhatAnImageDoesNotBuild(t *testing.T) {
	for name, tc := range map[string]struct {
		run      string
		language toolchain.Language
		want     string
	}{
		"no output":       {"true", toolchain.Go, "the image builder has not written /build_output/filter.wasm: use an image with a compiler for go"},
		"no compiler":     {"exit 127", toolchain.Go, "docker failed (exit status 127): see its output above"},
		"what is no Wasm": {"echo no > $out/filter.wasm", toolchain.Go, "filter.wasm is not a filter: "},
		"precompiled":     {"true", toolchain.Precompiled, "a builder image cannot build precompiled: leave out --image"},
	} {
		t.Run(name, func(t *testing.T) {
			engine(t, tc.run)
			_, err := toolchain.BuildInImage(t.Context(), "builder", tc.language, t.TempDir(), toolchain.Options{})
			check(t, "", err, "", tc.want)
		})
	}
}

func TestWithoutAnEngineThereIsNoImage(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := toolchain.BuildInImage(t.Context(), "golang", toolchain.Go, t.TempDir(), toolchain.Options{})
	check(t, "", err, "", "neither docker nor podman is installed: install one of them, or leave out --image to build with the compilers on this machine")
}

func TestTheContainerIsRemovedWhenTheBuildIsEnded(t *testing.T) {
	dir := t.TempDir()
	calls := engine(t, "echo $$ > pid.new; mv pid.new pid; sleep 3600")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := toolchain.BuildInImage(ctx, "golang", toolchain.Go, dir, toolchain.Options{})
		done <- err
	}()
	waitForPID(t, filepath.Join(dir, "pid"))
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	called, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(called)), "\n")
	_, name, _ := strings.Cut(lines[0], "--name ")
	name, _, _ = strings.Cut(name, " ")
	if len(lines) != 2 || lines[1] != "rm --force "+name {
		t.Errorf("calls: %s", called)
	}
}
