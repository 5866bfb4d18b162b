package cli_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/creack/pty"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/wasme-io/wasme-operator/internal/cli"
	"github.com/wasme-io/wasme-operator/internal/cli/toolchain"
)

func TestInitPrintsWhatItHasWritten(t *testing.T) {
	t.Chdir(t.TempDir())
	got := wasme(t, "init", "hello", "--language", "rust", "--platform", "istio")
	const files = "hello/.gitignore\nhello/Cargo.lock\nhello/Cargo.toml\nhello/README.md\nhello/preflight-tests.yaml\nhello/runtime-config.json\nhello/src/lib.rs\n"
	const next = "\nA filter in Rust. Next:\n  wasme test hello\n  wasme run hello --watch\nhello/README.md says how to build, push and deploy it.\n"
	if got != (ran{files, next, 0}) {
		t.Errorf("%+v", got)
	}
}

func TestInitWithoutATerminal(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want toolchain.Language
		code int
		says string
	}{
		"a language":              {[]string{"--language=cpp"}, toolchain.CPP, 0, "A filter in C++."},
		"no language":             {nil, "", 2, "set --language to one of go, tinygo, rust, assemblyscript, cpp, or --disable-prompt for go"},
		"defaults":                {[]string{"--disable-prompt"}, toolchain.Go, 0, "A filter in Go."},
		"a language, no prompt":   {[]string{"--disable-prompt", "--language=tinygo"}, toolchain.TinyGo, 0, "A filter in TinyGo."},
		"an unknown language":     {[]string{"--language=perl"}, "", 2, `--language: "perl" is not a language that filters can be written in: use one of go, `},
		"the former platform":     {[]string{"--language=go", "--platform=gloo"}, "", 2, `--platform: "gloo" is not supported: use istio`},
		"a version of a platform": {[]string{"--language=go", "--platform-version=1.9.x"}, toolchain.Go, 0, "note: --platform-version has no effect"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			got := wasme(t, append([]string{"init", "hello"}, tc.args...)...)
			if got.code != tc.code || !strings.Contains(got.err, tc.says) {
				t.Errorf("%+v", got)
			}
			checkProject(t, tc.want)
		})
	}
}

// checkProject checks that the folder hello has a project in a language; empty: that it
// was not made.
func checkProject(t *testing.T, want toolchain.Language) {
	t.Helper()
	_, err := os.Stat("hello")
	if want == "" {
		if err == nil {
			t.Error("a project was written")
		}
		return
	}
	got, err := toolchain.Detect("hello")
	if err != nil || got != want {
		t.Errorf("the project is in %s, error %v", got, err)
	}
}

func TestInitLeavesAFolderWithFilesAsItIs(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("notes", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got := wasme(t, "init", ".", "--language=go")
	if got.code != 1 || got.err != "Error: writing a project to .: the folder is not empty (it has notes): name a new one\n" {
		t.Errorf("%+v", got)
	}
}

func TestInitAsksOnATerminal(t *testing.T) {
	const menu = "Which language is the filter to be in?\n  1  Go\n  2  TinyGo\n  3  Rust\n  4  AssemblyScript\n  5  C++\nNumber [1]: "
	for name, tc := range map[string]struct {
		typed string
		want  toolchain.Language
		says  string
	}{
		"a number":           {"3\n", toolchain.Rust, menu},
		"a name":             {"AssemblyScript\n", toolchain.AssemblyScript, menu},
		"nothing":            {"\n", toolchain.Go, menu},
		"what there is not":  {"6\nperl\n 5 \n", toolchain.CPP, menu + "There is no \"6\".\nNumber [1]: There is no \"perl\".\nNumber [1]: "},
		"the end of a file":  {"\x04", "", menu + "Error: no language was chosen: choose one, or set --language\n"},
		"zero is no default": {"0\n1\n", toolchain.Go, "There is no \"0\".\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			person, terminal := openTerminal(t)
			if _, err := io.WriteString(person, tc.typed); err != nil {
				t.Fatal(err)
			}
			var errOut bytes.Buffer
			code := cli.Run(t.Context(), []string{"init", "hello"}, genericiooptions.IOStreams{In: terminal, Out: io.Discard, ErrOut: &errOut})
			if !strings.Contains(errOut.String(), tc.says) || (code == 0) != (tc.want != "") {
				t.Errorf("code %d\n%s", code, &errOut)
			}
			checkProject(t, tc.want)
		})
	}
}

func TestTheMenuFitsATerminalOfFortyColumns(t *testing.T) {
	t.Chdir(t.TempDir())
	person, terminal := openTerminal(t)
	if _, err := io.WriteString(person, "\n"); err != nil {
		t.Fatal(err)
	}
	var errOut bytes.Buffer
	cli.Run(t.Context(), []string{"init", "hello"}, genericiooptions.IOStreams{In: terminal, Out: io.Discard, ErrOut: &errOut})
	menu, _, _ := strings.Cut(errOut.String(), "Number")
	for line := range strings.SplitSeq(menu, "\n") {
		if len(line) > 40 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
}

func TestTheMenuEndsWithAnInterruption(t *testing.T) {
	t.Chdir(t.TempDir())
	_, terminal := openTerminal(t)
	ctx, interrupt := context.WithCancel(t.Context())
	// The question is there: now nobody answers it.
	asked := whenWritten(func() { interrupt() })
	code := cli.Run(ctx, []string{"init", "hello"}, genericiooptions.IOStreams{In: terminal, Out: io.Discard, ErrOut: asked})
	if code != 130 {
		t.Errorf("code %d", code)
	}
	checkProject(t, "")
}

// whenWritten calls a function for each write.
type whenWritten func()

func (f whenWritten) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

// openTerminal returns the two ends of a pseudo terminal.
func openTerminal(t *testing.T) (person, terminal *os.File) {
	t.Helper()
	person, terminal, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = person.Close(), terminal.Close() })
	return person, terminal
}
