package toolchain_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wasme-io/wasme-operator/internal/cli/toolchain"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

// project returns a folder with files.
func project(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// filter is a module that proxies take.
func filter() string { return string(moduletest.Assembly{}.Assemble()) }

func TestDetect(t *testing.T) {
	for name, tc := range map[string]struct {
		files []string
		want  toolchain.Language
		fail  string
	}{
		"Go":                           {[]string{"go.mod", "main.go"}, toolchain.Go, ""},
		"Go with a Makefile":           {[]string{"go.mod", "Makefile", "filter.wasm"}, toolchain.Go, ""},
		"Rust":                         {[]string{"Cargo.toml", "src/lib.rs"}, toolchain.Rust, ""},
		"Rust with Bazel":              {[]string{"Cargo.toml", "BUILD", "WORKSPACE"}, toolchain.Rust, ""},
		"AssemblyScript":               {[]string{"package.json", "asconfig.json"}, toolchain.AssemblyScript, ""},
		"AssemblyScript as wasme's":    {[]string{"package.json", "assembly/index.ts"}, toolchain.AssemblyScript, ""},
		"C++ with Bazel":               {[]string{"WORKSPACE", "BUILD", "filter.cc"}, toolchain.CPP, ""},
		"C++ with make":                {[]string{"Makefile"}, toolchain.CPP, ""},
		"C++ without anything":         {[]string{"filter.cpp"}, toolchain.CPP, ""},
		"a module":                     {[]string{"README.md", "filter.wasm"}, toolchain.Precompiled, ""},
		"two languages":                {[]string{"go.mod", "Cargo.toml"}, "", "it has go.mod and Cargo.toml: name one of go, rust"},
		"nothing":                      {nil, "", "it has neither go.mod, Cargo.toml, "},
		"a folder that is no manifest": {[]string{"notes.txt"}, "", "wasme init writes one"},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{}
			for _, file := range tc.files {
				files[file] = ""
			}
			got, err := toolchain.Detect(project(t, files))
			check(t, string(got), err, string(tc.want), tc.fail)
		})
	}
}

// check checks a result and the words of an error.
func check(t *testing.T, got string, err error, want, fail string) {
	t.Helper()
	if got != want || (fail == "") != (err == nil) {
		t.Errorf("got %q, error %v", got, err)
	}
	if err != nil && !strings.Contains(err.Error(), fail) {
		t.Errorf("got %v, want %s", err, fail)
	}
}

func TestDetectTellsTinyGoByItsSDK(t *testing.T) {
	dir := project(t, map[string]string{"go.mod": "module x\n\nrequire github.com/tetratelabs/proxy-wasm-go-sdk v0.24.0\n"})
	got, err := toolchain.Detect(dir)
	check(t, string(got), err, "tinygo", "")
	got, err = toolchain.Detect(project(t, map[string]string{"go.mod": "require ("}))
	check(t, string(got), err, "", "go.mod:1")
}

func TestDetectOfFiles(t *testing.T) {
	dir := project(t, map[string]string{"filter.wasm": "", "main.go": ""})
	got, err := toolchain.Detect(filepath.Join(dir, "filter.wasm"))
	check(t, string(got), err, "precompiled", "")
	got, err = toolchain.Detect(filepath.Join(dir, "main.go"))
	check(t, string(got), err, "", "it is neither a folder nor a *.wasm file: name one of them")
	got, err = toolchain.Detect(filepath.Join(dir, "none"))
	check(t, string(got), err, "", "no such file or directory")
}

func TestParse(t *testing.T) {
	for _, name := range toolchain.Names() {
		got, err := toolchain.Parse(name)
		check(t, string(got), err, name, "")
	}
	got, err := toolchain.Parse("c++")
	check(t, string(got), err, "", `"c++" is not a language that filters can be written in: use one of go, tinygo, rust, assemblyscript, cpp`)
}

func TestAMissingToolIsNamedWithHowToGetIt(t *testing.T) {
	for name, tc := range map[string]struct {
		language toolchain.Language
		files    map[string]string
		want     string
	}{
		"go":             {toolchain.Go, nil, "go is not installed: install Go 1.24 or later from https://go.dev/dl"},
		"tinygo":         {toolchain.TinyGo, nil, "go is not installed: install Go 1.24 or later from https://go.dev/dl"},
		"rust":           {toolchain.Rust, nil, "cargo is not installed: install Rust from https://rustup.rs, then run rustup target add wasm32-wasip1"},
		"assemblyscript": {toolchain.AssemblyScript, nil, "node is not installed: install Node.js with npm from https://nodejs.org"},
		"bazel":          {toolchain.CPP, map[string]string{"MODULE.bazel": ""}, "bazel is not installed: install Bazelisk from https://bazel.build/install/bazelisk"},
		"make":           {toolchain.CPP, map[string]string{"Makefile": ""}, "make is not installed: install make with the package manager of your system"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := project(t, tc.files)
			t.Setenv("PATH", t.TempDir())
			_, err := toolchain.Build(t.Context(), tc.language, dir, toolchain.Options{})
			want := "building " + dir + ": " + tc.want
			if err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

func TestTinyGoIsNamedWhereOnlyGoIsInstalled(t *testing.T) {
	t.Setenv("PATH", project(t, map[string]string{"go": "#!/bin/sh\n"}))
	_, err := toolchain.Build(t.Context(), toolchain.TinyGo, t.TempDir(), toolchain.Options{})
	check(t, "", err, "", "tinygo is not installed: install TinyGo 0.32 or later from https://tinygo.org/getting-started/install")
}

func TestWhatIsNoProject(t *testing.T) {
	file := filepath.Join(project(t, map[string]string{"main.go": ""}), "main.go")
	for name, tc := range map[string]struct {
		language   toolchain.Language
		path, want string
	}{
		"an unknown language":          {"perl", t.TempDir(), `"perl" is not a language`},
		"a folder that is not there":   {toolchain.Go, "/none", "no such file or directory: name the folder of a project"},
		"a source file":                {toolchain.Go, file, "it is neither a folder nor a *.wasm file: name one of them"},
		"C++ without a build file":     {toolchain.CPP, t.TempDir(), "it has neither MODULE.bazel nor WORKSPACE nor a Makefile"},
		"AssemblyScript without npm's": {toolchain.AssemblyScript, t.TempDir(), "package.json: no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PATH", project(t, map[string]string{"node": "#!/bin/sh\n", "npm": "#!/bin/sh\n"}))
			_, err := toolchain.Build(t.Context(), tc.language, tc.path, toolchain.Options{})
			check(t, "", err, "", tc.want)
		})
	}
}

func TestPackageJSONSaysHowToBuild(t *testing.T) {
	t.Setenv("PATH", project(t, map[string]string{"node": "#!/bin/sh\n", "npm": "#!/bin/sh\n"}))
	for content, want := range map[string]string{
		`{}`:                            "package.json has no script asbuild: add one that runs asc with --binaryFile build/optimized.wasm",
		`{`:                             "reading package.json: ",
		`{"scripts":{"asbuild":"asc"}}`: "npm run asbuild has not written build/optimized.wasm or build/release.wasm: set the compiler's --binaryFile",
	} {
		dir := project(t, map[string]string{"package.json": content, "build/optimized.wasm": filter()})
		_, err := toolchain.Build(t.Context(), toolchain.AssemblyScript, dir, toolchain.Options{})
		check(t, "", err, "", want)
	}
}

func TestPrecompiled(t *testing.T) {
	one := project(t, map[string]string{"filter.wasm": filter(), "README.md": ""})
	for name, tc := range map[string]struct {
		path, want, fail string
	}{
		"a module":              {filepath.Join(one, "filter.wasm"), filter(), ""},
		"a folder with one":     {one, filter(), ""},
		"a folder with two":     {project(t, map[string]string{"a.wasm": "", "b.wasm": ""}), "", "it has 2 modules (a.wasm, b.wasm): name one of them"},
		"a folder with none":    {project(t, map[string]string{"a.txt": ""}), "", "it has no file *.wasm: name the module itself"},
		"what is no Wasm":       {project(t, map[string]string{"a.wasm": "#!/bin/sh"}), "", "a.wasm is not a filter: "},
		"what is no filter":     {project(t, map[string]string{"a.wasm": "\x00asm\x01\x00\x00\x00"}), "", "a.wasm is not a filter: "},
		"what is not there":     {"/none.wasm", "", "no such file or directory"},
		"what is another thing": {filepath.Join(one, "README.md"), "", "it is neither a folder nor a *.wasm file: name one of them"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := toolchain.Build(t.Context(), toolchain.Precompiled, tc.path, toolchain.Options{})
			check(t, string(got), err, tc.want, tc.fail)
		})
	}
}

func TestMakeBuildsTheTargetFilter(t *testing.T) {
	dir := project(t, map[string]string{
		"Makefile": "filter.wasm: built.bin\n\t@echo compiling >&2\n\tcp $< $@\n", "built.bin": filter(),
	})
	var log bytes.Buffer
	got, err := toolchain.Build(t.Context(), toolchain.CPP, dir, toolchain.Options{Log: &log})
	check(t, string(got), err, filter(), "")
	if got := log.String(); got != "compiling\ncp built.bin filter.wasm\n" {
		t.Errorf("logged %q", got)
	}
}

func TestWhatTheCompilerSaysIsPassedThrough(t *testing.T) {
	for recipe, want := range map[string]string{
		"@echo filter.cc:3: error: no such thing >&2; exit 3": "make failed (exit status 2): see its output above",
		"@true": "make filter.wasm has not written filter.wasm: let the rule write it beside the Makefile",
	} {
		dir := project(t, map[string]string{"Makefile": "filter.wasm:\n\t" + recipe + "\n"})
		var log bytes.Buffer
		_, err := toolchain.Build(t.Context(), toolchain.CPP, dir, toolchain.Options{Log: &log})
		check(t, "", err, "", want)
		if strings.Contains(recipe, "error") && !strings.HasPrefix(log.String(), "filter.cc:3: error: no such thing\n") {
			t.Errorf("logged %q", log.String())
		}
	}
}

// patience is how long something may take that happens at once on a machine with nothing to do.
const patience = time.Minute

func TestTheCompilerEndsWithAllItHasStarted(t *testing.T) {
	dir := project(t, map[string]string{"Makefile": "filter.wasm:\n\t@sleep 3600 & echo $$! > child.new; mv child.new child; wait\n"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := toolchain.Build(ctx, toolchain.CPP, dir, toolchain.Options{})
		done <- err
	}()
	child := waitForPID(t, filepath.Join(dir, "child"))
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	waitFor(t, "the end of a process that the compiler started", func() bool { return ended(child) })
}

// ended reports whether a process runs no more. Init may not have collected it yet.
func ended(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
	}
	return strings.Contains(string(status), ") Z ")
}

func waitForPID(t *testing.T, path string) int {
	t.Helper()
	var pid int
	waitFor(t, "the compiler's start", func() bool {
		content, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(content)))
		return err == nil
	})
	return pid
}

func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for timeout := time.After(patience); !condition(); {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waiting for %s: timed out", what)
		}
	}
}
