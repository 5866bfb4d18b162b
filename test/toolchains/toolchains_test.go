// Licensed under the Apache License, Version 2.0; see LICENSE.

package toolchains_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/scaffold"
	"github.com/wasme-io/wasme-operator/internal/cli/toolchain"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/run"
	"github.com/wasme-io/wasme-operator/test/toolchains"
)

// installed are the languages whose compilers make test needs, each with the variables of
// another user's environment, who builds the same.
var installed = map[toolchain.Language]map[string]string{
	toolchain.Go:             {"GOFLAGS": "-gcflags=-N"},
	toolchain.Rust:           {"CARGO_HOME": "home/.cargo", "RUSTFLAGS": "-Copt-level=0"},
	toolchain.AssemblyScript: {"NODE_ENV": "production"},
}

func TestAProjectBuildsAtOnceAndItsFilterWorks(t *testing.T) {
	for language, other := range installed {
		t.Run(string(language), func(t *testing.T) {
			toolchains.Use(t)
			dir, wasm := build(t, language)
			for configuration, greeting := range map[string]string{"": "world", "goodbye": "goodbye"} {
				greets(t, dir, wasm, configuration, greeting)
			}
			t.Chdir(t.TempDir())
			for name, value := range other {
				t.Setenv(name, value)
			}
			_, again := build(t, language)
			if sha256.Sum256(wasm) != sha256.Sum256(again) {
				t.Errorf("a build in another folder gives other bytes: %d and %d", len(wasm), len(again))
			}
		})
	}
}

// build writes a project into a new folder and builds it.
func build(t *testing.T, language toolchain.Language) (dir string, wasm []byte) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "hello")
	if _, err := scaffold.Write(dir, language); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	wasm, err := toolchain.Build(t.Context(), language, dir, toolchain.Options{Log: &log})
	if err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	return dir, wasm
}

// greets checks that a filter passes a preflight with the project's own tests, and with
// one for the greeting.
func greets(t *testing.T, dir string, wasm []byte, configuration, greeting string) {
	t.Helper()
	const name = "preflight-tests.yaml"
	tests, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	filter := preflight.Filter{
		RootID: scaffold.RootID, KnownRootIDs: []string{scaffold.RootID}, Configuration: []byte(configuration),
		Tests: []module.Tests{{Name: name, Content: tests}, {Name: "greeting.yaml", Content: []byte(greetingTest(greeting))}},
	}
	verdict := run.Run(t.Context(), wasm, filter, preflight.DefaultLimits, nil)
	if verdict.Reason != wasmev1.ReasonPreflighted {
		t.Errorf("with the configuration %q: %s: %s; it logged %q", configuration, verdict.Reason, verdict.Message, verdict.Logs)
	}
}

func greetingTest(greeting string) string {
	return fmt.Sprintf(`test:
- name: greets
  response_headers:
    input: {header: [{key: ":status", value: "200"}]}
    result: {has_header: [{key: hello, value: %q}]}
`, greeting)
}

func TestWithoutALockFileOneIsWritten(t *testing.T) {
	for language, lock := range map[toolchain.Language]string{toolchain.Rust: "Cargo.lock", toolchain.AssemblyScript: "package-lock.json"} {
		t.Run(string(language), func(t *testing.T) {
			toolchains.Use(t)
			dir := t.TempDir()
			if _, err := scaffold.Write(dir, language); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, lock)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			breakSource(t, filepath.Join(dir, sources[language])) // what follows the lock file is of no interest
			var log bytes.Buffer
			if _, err := toolchain.Build(t.Context(), language, dir, toolchain.Options{Log: &log}); err == nil {
				t.Error("a broken project was built")
			}
			if _, err := os.Stat(path); err != nil || !strings.Contains(log.String(), lock+" is missing, and is written now: commit it") {
				t.Errorf("error %v; logged %s", err, &log)
			}
		})
	}
}

// sources are the filters in the projects.
var sources = map[toolchain.Language]string{
	toolchain.Go: "main.go", toolchain.Rust: "src/lib.rs", toolchain.AssemblyScript: "assembly/index.ts",
}

func TestTheCompilersOwnErrorsAreShown(t *testing.T) {
	for language, tc := range map[toolchain.Language]struct{ shown, failed string }{
		toolchain.Go:             {"main.go:", "go failed (exit status 1): see its output above"},
		toolchain.Rust:           {"--> src/lib.rs:", "cargo failed (exit status 101): see its output above"},
		toolchain.AssemblyScript: {"in assembly/index.ts(", "npm failed (exit status 1): see its output above"},
	} {
		t.Run(string(language), func(t *testing.T) {
			toolchains.Use(t)
			dir := t.TempDir()
			if _, err := scaffold.Write(dir, language); err != nil {
				t.Fatal(err)
			}
			breakSource(t, filepath.Join(dir, sources[language]))
			var log bytes.Buffer
			_, err := toolchain.Build(t.Context(), language, dir, toolchain.Options{Log: &log})
			if want := "building " + dir + ": " + tc.failed; err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
			if !strings.Contains(log.String(), tc.shown) {
				t.Errorf("logged %s", &log)
			}
		})
	}
}

// breakSource adds a line to a file that no language takes.
func breakSource(t *testing.T, path string) {
	t.Helper()
	source, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, append(source, "no such thing\n"...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TinyGo is in no package of Debian 12. What it compiles, Go compiles, too, with the
// functions that the SDK has for tests in the place of a proxy's.
func TestTheTinyGoProjectCompiles(t *testing.T) {
	toolchains.Use(t)
	dir := t.TempDir()
	if _, err := scaffold.Write(dir, toolchain.TinyGo); err != nil {
		t.Fatal(err)
	}
	vet := exec.CommandContext(t.Context(), "go", "vet", "-mod=readonly", ".")
	vet.Dir = dir
	if output, err := vet.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}
