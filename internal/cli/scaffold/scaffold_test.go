package scaffold_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/wasme-io/wasme-operator/internal/cli/scaffold"
	"github.com/wasme-io/wasme-operator/internal/cli/toolchain"
	"github.com/wasme-io/wasme-operator/internal/preflight/suite"
)

// sharedFiles are in each project.
var sharedFiles = []string{".gitignore", "README.md", "preflight-tests.yaml", "runtime-config.json"}

func TestFilesOfProjects(t *testing.T) {
	for language, own := range map[toolchain.Language][]string{
		toolchain.Go:             {"go.mod", "go.sum", "main.go"},
		toolchain.TinyGo:         {"go.mod", "go.sum", "main.go"},
		toolchain.Rust:           {"Cargo.lock", "Cargo.toml", "src/lib.rs"},
		toolchain.AssemblyScript: {"assembly/index.ts", "package-lock.json", "package.json"},
		toolchain.CPP:            {".bazelrc", ".bazelversion", "BUILD.bazel", "MODULE.bazel", "filter.cc"},
	} {
		t.Run(string(language), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "my-filter")
			got, err := scaffold.Write(dir, language)
			if err != nil {
				t.Fatal(err)
			}
			want := slices.Sorted(slices.Values(slices.Concat(sharedFiles, own)))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			for _, name := range got {
				checkFile(t, filepath.Join(dir, name))
			}
			detected, err := toolchain.Detect(dir)
			if err != nil || detected != language {
				t.Errorf("detected as %s, error %v", detected, err)
			}
		})
	}
}

// checkFile checks that a file has text, and nothing of a template.
func checkFile(t *testing.T, path string) {
	t.Helper()
	content := read(t, path)
	if strings.Contains(content, "<%") || strings.Contains(content, "%>") || !strings.HasSuffix(content, "\n") {
		t.Errorf("%s:\n%s", path, content)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestProjectsSayWhatIsInThem(t *testing.T) {
	for _, language := range toolchain.Languages {
		t.Run(string(language), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "greeter")
			if _, err := scaffold.Write(dir, language); err != nil {
				t.Fatal(err)
			}
			readme := read(t, filepath.Join(dir, "README.md"))
			for _, want := range []string{
				"# greeter\n", "wasme build " + string(language) + " .", "wasme test .", "wasme run . --watch", "wasme push $IMAGE",
				"wasme deploy istio $IMAGE --id greeter", scaffold.RootID, scaffold.Title(language),
			} {
				if !strings.Contains(readme, want) {
					t.Errorf("README.md lacks %q", want)
				}
			}
			const config = "{\n  \"type\": \"envoy_proxy\",\n  \"abiVersions\": [\"v0-4689a30309abf31aee9ae36e73d34b1bb182685f\", \"v0.2.1\"],\n  \"config\": {\n    \"rootIds\": [\"add_header_root_id\"]\n  }\n}\n"
			if diff := cmp.Diff(config, read(t, filepath.Join(dir, "runtime-config.json"))); diff != "" {
				t.Errorf("runtime-config.json (-want +got)\n%s", diff)
			}
			tests, err := suite.Parse("preflight-tests.yaml", []byte(read(t, filepath.Join(dir, "preflight-tests.yaml"))), nil)
			if err != nil || len(tests.Tests) != 2 {
				t.Errorf("the tests: %v, error %v", tests, err)
			}
		})
	}
}

func TestTheSourcesOfSDKsWithRootIDsRegisterIt(t *testing.T) {
	for language, source := range map[toolchain.Language]string{toolchain.AssemblyScript: "assembly/index.ts", toolchain.CPP: "filter.cc"} {
		dir := t.TempDir()
		if _, err := scaffold.Write(dir, language); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(read(t, filepath.Join(dir, source)), `"`+scaffold.RootID+`"`) {
			t.Errorf("%s does not register the root id", source)
		}
	}
}

func TestNames(t *testing.T) {
	for given, want := range map[string]string{
		"hello":        "hello",
		"My Filter":    "my-filter",
		"  a__b..c  ":  "a-b-c",
		"2nd":          "filter-2nd",
		"…":            "filter",
		"Grüße":        "gr-e",
		`"); drop(); `: "drop",
	} {
		dir := filepath.Join(t.TempDir(), given)
		if _, err := scaffold.Write(dir, toolchain.Go); err != nil {
			t.Fatal(err)
		}
		if got := read(t, filepath.Join(dir, "go.mod")); !strings.HasPrefix(got, "module "+want+"\n") {
			t.Errorf("%q became %q", given, strings.SplitN(got, "\n", 2)[0])
		}
	}
}

func TestTheFolderGivesTheName(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("from-here", 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir("from-here")
	if _, err := scaffold.Write(".", toolchain.Go); err != nil {
		t.Fatal(err)
	}
	if got := read(t, "go.mod"); !strings.HasPrefix(got, "module from-here\n") {
		t.Errorf("go.mod begins with %s", got)
	}
}

func TestAFolderWithAnythingInItStaysAsItIs(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".env"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := scaffold.Write(dir, toolchain.Go)
	want := "writing a project to " + dir + ": the folder is not empty (it has .env): name a new one"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder has %v, error %v", entries, err)
	}
}

func TestWhatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		dir      string
		language toolchain.Language
		want     string
	}{
		"an unknown language":    {"new", "perl", `writing a project to new: "perl" is not a language that filters can be written in: use one of go, tinygo, rust, assemblyscript, cpp`},
		"no language":            {"new", "", `"" is not a language`},
		"a module that is there": {"new", toolchain.Precompiled, `"precompiled" is not a language`},
		"a file in its place":    {file, toolchain.Go, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			_, err := scaffold.Write(tc.dir, tc.language)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
			if _, err := os.Stat("new"); err == nil {
				t.Error("the folder was made")
			}
		})
	}
}
