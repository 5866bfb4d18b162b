package toolchain

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWhichGoIsTooOld(t *testing.T) {
	for version, want := range map[string]bool{
		"go1.21": true, "go1.23.12": true, "go1.24": false, "go1.24.0": false, "go1.26.8": false, "go2.0": false,
		"go1.24rc1": false, "devel go1.27-0123456": false, "": false,
	} {
		if got := tooOld(version); got != want {
			t.Errorf("%q: %t", version, got)
		}
	}
}

func TestTheRustTargetIsTheOneThatIsInstalled(t *testing.T) {
	for name, tc := range map[string]struct {
		installed  []string
		want, fail string
	}{
		"today's":     {[]string{"x86_64-unknown-linux-gnu", "wasm32-wasip1"}, "wasm32-wasip1", ""},
		"the old one": {[]string{"wasm32-wasi"}, "wasm32-wasi", ""},
		"both":        {[]string{"wasm32-wasi", "wasm32-wasip1"}, "wasm32-wasip1", ""},
		"another":     {[]string{"wasm32-unknown-unknown"}, "", "run rustup target add wasm32-wasip1, or on Debian install libstd-rust-dev-wasm32"},
		"none":        {nil, "", "the Rust target wasm32-wasip1 is not installed in "},
	} {
		t.Run(name, func(t *testing.T) {
			sysroot := t.TempDir()
			for _, target := range tc.installed {
				if err := os.MkdirAll(filepath.Join(sysroot, "lib", "rustlib", target, "lib"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			got, err := rustTarget(sysroot)
			if got != tc.want || (tc.fail == "") != (err == nil) {
				t.Errorf("%q, error %v", got, err)
			}
			if err != nil && !strings.Contains(err.Error(), tc.fail) {
				t.Errorf("got %v, want %s", err, tc.fail)
			}
		})
	}
}

func TestArgumentsOfCargo(t *testing.T) {
	want := []string{
		"build", "--release", "--target", "wasm32-wasip1", "--message-format=json-render-diagnostics",
		"--config", `build.rustflags=["--remap-path-prefix=/home/a \"b\"/.cargo=/cargo", "--remap-path-prefix=/opt/rust=/rust"]`,
	}
	if diff := cmp.Diff(want, cargoArguments("wasm32-wasip1", "/opt/rust", `/home/a "b"/.cargo`, false)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(append(want, "--locked"), cargoArguments("wasm32-wasip1", "/opt/rust", `/home/a "b"/.cargo`, true)); diff != "" {
		t.Errorf("with a lock file (-want +got)\n%s", diff)
	}
}

func TestTheModuleAmongCargosMessages(t *testing.T) {
	const (
		library = `{"reason":"compiler-artifact","target":{"kind":["lib"]},"filenames":["/t/liblog.rlib","/t/odd.wasm"]}`
		script  = `{"reason":"compiler-artifact","target":{"kind":["custom-build"]},"filenames":["/t/build.wasm"]}`
		cdylib  = `{"reason":"compiler-artifact","target":{"kind":["cdylib","rlib"]},"filenames":["/t/libfilter.rlib","/t/filter.wasm"]}`
		bin     = `{"reason":"compiler-artifact","target":{"kind":["bin"]},"filenames":["/t/tool.wasm"]}`
		other   = `{"reason":"build-finished","success":true}`
	)
	for name, tc := range map[string]struct {
		lines      []string
		want, fail string
	}{
		"a library and its packages":  {[]string{library, script, "printed by a wrapper", cdylib, other}, "/t/filter.wasm", ""},
		"a program":                   {[]string{bin, other}, "/t/tool.wasm", ""},
		"a library for other crates":  {[]string{library, other}, "", `add crate-type = ["cdylib"] to [lib] in Cargo.toml`},
		"a workspace of two":          {[]string{cdylib, bin}, "", "cargo has built 2 modules (/t/filter.wasm, /t/tool.wasm): build the folder of one package"},
		"nothing":                     {nil, "", "cargo has built no module"},
		"a line longer than a buffer": {[]string{`{"x":"` + strings.Repeat("x", 1<<20) + `"}`, cdylib}, "/t/filter.wasm", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := cargoModule(strings.NewReader(strings.Join(tc.lines, "\n")))
			if got != tc.want || (tc.fail == "") != (err == nil) {
				t.Errorf("%q, error %v", got, err)
			}
			if err != nil && !strings.Contains(err.Error(), tc.fail) {
				t.Errorf("got %v, want %s", err, tc.fail)
			}
		})
	}
}

func TestPackagesAreInstalledWhenTheLockFileIsNewer(t *testing.T) {
	dir := t.TempDir()
	installed, lock := filepath.Join(dir, "installed"), filepath.Join(dir, "lock")
	now := time.Unix(1_700_000_000, 0)
	write := func(path string, at time.Time) {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	write(lock, now)
	if newer(installed, lock) {
		t.Error("what was never installed is newer")
	}
	write(installed, now.Add(time.Second))
	if !newer(installed, lock) {
		t.Error("what was just installed is not newer")
	}
	write(lock, now.Add(2*time.Second))
	if newer(installed, lock) {
		t.Error("what was installed before the lock file was changed is newer")
	}
}

func TestContainersSeeTheProjectOnly(t *testing.T) {
	c := container{
		engine: "docker", name: "wasme-build-x", image: "golang:1.26", language: Go,
		sources: "/home/me/a:b", output: "/tmp/out", owner: "1000:1000",
	}
	want := []string{
		"run", "--rm", "--name", "wasme-build-x",
		"--mount", "type=bind,source=/home/me/a:b,target=/src/workspace",
		"--mount", "type=bind,source=/tmp/out,target=/build_output",
		"--workdir", "/src/workspace", "--security-opt", "label=disable",
		"--env", "BUILD_TOOL=go", "--env", "OUT=/build_output/filter.wasm", "--env", "HOME=/tmp", "--env", "USER=wasme",
		"--user", "1000:1000",
		"golang:1.26", "sh", "-c",
		"GOOS=wasip1 GOARCH=wasm CGO_ENABLED=0 go build -buildmode=c-shared -trimpath -buildvcs=false -ldflags=-buildid= -o $OUT .",
	}
	if diff := cmp.Diff(want, c.arguments()); diff != "" {
		t.Errorf("docker (-want +got)\n%s", diff)
	}
	c.engine = "podman"
	user := slices.Index(want, "--user")
	want = slices.Replace(want, user, user+2, "--userns=keep-id")
	if diff := cmp.Diff(want, c.arguments()); diff != "" {
		t.Errorf("podman (-want +got)\n%s", diff)
	}
}

func TestEveryLanguageHasARecipeForImages(t *testing.T) {
	for _, l := range Languages {
		if r := recipes[l]; r.tool == "" || !strings.Contains(r.script, "$OUT") {
			t.Errorf("%s: %+v", l, r)
		}
	}
}

func TestATemporaryFolderIsRemoved(t *testing.T) {
	dir, temp := t.TempDir(), t.TempDir()
	_, err := produce(dir, Options{TempDir: temp, Log: io.Discard}, func(j *job) (string, error) {
		if filepath.Dir(j.temp) != temp {
			t.Errorf("files go to %s", j.temp)
		}
		return j.output(), os.WriteFile(j.output(), []byte("no module"), 0o600)
	})
	if err == nil || !strings.Contains(err.Error(), "building "+dir+": filter.wasm is not a filter: ") {
		t.Errorf("got %v", err)
	}
	left, err := os.ReadDir(temp)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, error %v", left, err)
	}
}
