// Licensed under the Apache License, Version 2.0; see LICENSE.

package binaries

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/version"
)

func TestAVersionFitsWithinTheMinorVersionsOfItsProgram(t *testing.T) {
	for _, row := range []struct {
		program  Program
		pinned   string
		fit      []string
		unfit    []string
		sentence string
	}{
		{
			program: Etcd, pinned: "v3.6.8",
			fit: []string{"3.6.8", "3.6.0", "3.6.12", "3.5.0", "3.5.21"}, unfit: []string{"3.4.37", "3.7.0", "4.6.8", "2.6.8"},
			sentence: "3.5 to 3.6",
		},
		{
			program: APIServer, pinned: "v1.37.1",
			fit: []string{"v1.37.0", "v1.37.9", "v1.37.0-rc.1", "v1.37.2-gke.100"}, unfit: []string{"v1.36.9", "v1.38.0", "v2.37.1", "v0.37.1"},
			sentence: "1.37",
		},
		{
			program: Kubectl, pinned: "v1.37.1",
			fit: []string{"v1.36.0", "v1.37.1", "v1.38.4"}, unfit: []string{"v1.35.9", "v1.39.0", "v2.37.0"},
			sentence: "1.36 to 1.38",
		},
	} {
		t.Run(row.program.Name, func(t *testing.T) {
			pinned := version.MustParseGeneric(row.pinned)
			for _, fit := range row.fit {
				if !row.program.installed.fits(version.MustParseGeneric(fit), pinned) {
					t.Errorf("%s does not fit %s", fit, pinned)
				}
			}
			for _, unfit := range row.unfit {
				if row.program.installed.fits(version.MustParseGeneric(unfit), pinned) {
					t.Errorf("%s fits %s", unfit, pinned)
				}
			}
			if got := row.program.installed.fitting(pinned); got != row.sentence {
				t.Errorf("got %q, want %q", got, row.sentence)
			}
		})
	}
}

// machine has two folders of installed programs: KUBEBUILDER_ASSETS and the PATH.
type machine struct {
	t            *testing.T
	assets, path string
}

func newMachine(t *testing.T) machine {
	t.Helper()
	m := machine{t: t, assets: t.TempDir(), path: t.TempDir()}
	t.Setenv("KUBEBUILDER_ASSETS", m.assets)
	t.Setenv("PATH", m.path)
	return m
}

// install writes a program that is a shell script.
func (m machine) install(folder, name, script string) string {
	m.t.Helper()
	path := filepath.Join(folder, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// choice returns the installed program that is chosen, and why, with names of
// the folders instead of their paths.
func (m machine) choice(program Program) (path string, notes []string) {
	m.t.Helper()
	path, notes, err := program.Installed(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	for i := range notes {
		notes[i] = strings.NewReplacer(m.assets, "ASSETS", m.path, "PATH").Replace(notes[i])
	}
	return path, notes
}

// printVersion returns a script that prints a version of the program, some minor
// versions off the pinned one, and that version.
func printVersion(t *testing.T, program Program, minors int) (script, printed string) {
	t.Helper()
	_, required, err := program.pinned()
	if err != nil {
		t.Fatal(err)
	}
	pinned := version.MustParseGeneric(required)
	printed = version.MustParseGeneric("v1.2.3").WithMajor(pinned.Major()).WithMinor(uint(int(pinned.Minor()) + minors)).String()
	return `echo "$0 is asked with $*" >&2; echo noise; echo '` + program.installed.prefix + "v" + printed + `'`, printed
}

func TestAProgramInTheAssetsComesBeforeThePath(t *testing.T) {
	m := newMachine(t)
	for _, program := range []Program{Etcd, APIServer, Kubectl} {
		script, printed := printVersion(t, program, 0)
		want := m.install(m.assets, program.Name, script)
		m.install(m.path, program.Name, "exit 1")
		path, notes := m.choice(program)
		if path != want {
			t.Errorf("got %q, want %q", path, want)
		}
		if diff := cmp.Diff([]string{"using ASSETS/" + program.Name + ", version " + printed}, notes); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
}

func TestAProgramOnThePathIsUsedWhenThatInTheAssetsDoesNotFit(t *testing.T) {
	m := newMachine(t)
	old, oldVersion := printVersion(t, Kubectl, -2)
	fitting, fittingVersion := printVersion(t, Kubectl, -1)
	m.install(m.assets, "kubectl", old)
	want := m.install(m.path, "kubectl", fitting)
	path, notes := m.choice(Kubectl)
	if path != want {
		t.Errorf("got %q, want %q", path, want)
	}
	_, required, err := Kubectl.pinned()
	if err != nil {
		t.Fatal(err)
	}
	needed := Kubectl.installed.fitting(version.MustParseGeneric(required))
	if diff := cmp.Diff([]string{
		"not using ASSETS/kubectl: its version is " + oldVersion + ", but " + needed + " is needed",
		"using PATH/kubectl, version " + fittingVersion,
	}, notes); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestAProgramThatDoesNotTellItsVersionIsNotUsed(t *testing.T) {
	for name, row := range map[string]struct{ script, why string }{
		"fails":              {"echo 'no such flag' >&2; exit 2", "`etcd --version` failed: exit status 2: no such flag"},
		"hangs":              {"while :; do :; done & wait", "`etcd --version` did not answer within 3s"},
		"is another program": {"echo 'etcd is a hen'", "`etcd --version` printed no version"},
		"has no version":     {"echo 'etcd Version: unknown'", `could not parse "unknown" as version`},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.install(m.path, "etcd", row.script)
			path, notes := m.choice(Etcd)
			if path != "" {
				t.Errorf("%s is used", path)
			}
			if diff := cmp.Diff([]string{"not using PATH/etcd: " + row.why}, notes); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestAFileThatIsNoProgramIsNotUsed(t *testing.T) {
	m := newMachine(t)
	if err := os.WriteFile(filepath.Join(m.assets, "etcd"), []byte("\x7fELF"), 0o700); err != nil {
		t.Fatal(err)
	}
	path, notes := m.choice(Etcd)
	if path != "" || len(notes) != 1 || !strings.Contains(notes[0], "exec format error") {
		t.Errorf("path %q, notes %q", path, notes)
	}
}

func TestNothingIsSaidOfWhatIsNotInstalled(t *testing.T) {
	m := newMachine(t)
	if path, notes := m.choice(Etcd); path != "" || len(notes) > 0 {
		t.Errorf("path %q, notes %q", path, notes)
	}
}

func TestIstioIsNeverTakenFromTheMachine(t *testing.T) {
	m := newMachine(t)
	m.install(m.path, "pilot-discovery", "echo 1.31.0")
	if path, notes := m.choice(Istiod); path != "" || len(notes) > 0 {
		t.Errorf("path %q, notes %q", path, notes)
	}
}

func TestASourceDecidesOnce(t *testing.T) {
	m := newMachine(t)
	script, printed := printVersion(t, Kubectl, 0)
	want := m.install(m.path, "kubectl", script+`; echo >> "$0.asked"`)
	var log bytes.Buffer
	source := Source{Log: &log, Installed: true}
	for range 2 {
		path, err := source.Path(t.Context(), Kubectl)
		if err != nil || path != want {
			t.Fatalf("path %q, error %v", path, err)
		}
	}
	if asked, err := os.ReadFile(want + ".asked"); err != nil || len(asked) != 1 {
		t.Errorf("asked %d times, error %v", len(asked), err)
	}
	if diff := cmp.Diff("   using "+want+", version "+printed+"\n", log.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// pretendBuilt puts a file in the place of a program's pinned build, in a cache
// of the test's own, and returns its path.
func pretendBuilt(t *testing.T, program Program) string {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	a, err := program.artifact()
	if err != nil {
		t.Fatal(err)
	}
	path, err := a.path()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestASourceForTestsUsesThePinnedBuild(t *testing.T) {
	m := newMachine(t)
	script, _ := printVersion(t, Kubectl, 0)
	m.install(m.path, "kubectl", script)
	built := pretendBuilt(t, Kubectl)
	var log bytes.Buffer
	source := Source{Log: &log}
	if path, err := source.Path(t.Context(), Kubectl); err != nil || path != built || log.Len() > 0 {
		t.Errorf("path %q, error %v, log %q", path, err, log.String())
	}
}

func TestASourceUsesThePinnedBuildWhenNothingInstalledFits(t *testing.T) {
	m := newMachine(t)
	m.install(m.path, "kubectl", "exit 1")
	built := pretendBuilt(t, Kubectl)
	var log bytes.Buffer
	source := Source{Log: &log, Installed: true}
	if path, err := source.Path(t.Context(), Kubectl); err != nil || path != built {
		t.Errorf("path %q, error %v", path, err)
	}
	if !strings.Contains(log.String(), "not using") {
		t.Errorf("log %q", log.String())
	}
}

func TestOnlyWhatIsNeitherInstalledNorBuiltIsMissing(t *testing.T) {
	m := newMachine(t)
	script, _ := printVersion(t, APIServer, 0)
	m.install(m.path, "kube-apiserver", script)
	pretendBuilt(t, Istiod)
	source := Source{Log: &bytes.Buffer{}, Installed: true}
	rows, takes, err := source.missing(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names [][]string
	for _, row := range rows {
		var inRow []string
		for _, program := range row {
			inRow = append(inRow, program.Name)
		}
		names = append(names, inRow)
	}
	if diff := cmp.Diff([][]string{{"kube-controller-manager", "kubectl"}, {"pilot-agent"}, {"etcd"}}, names); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	// Without a build of kube-apiserver, kube-controller-manager takes as long as that.
	if want := APIServer.Takes + Kubectl.Takes + PilotAgent.Takes + Etcd.Takes; takes != want {
		t.Errorf("takes %s, want %s", takes, want)
	}
}

func TestAChoiceEndsWithItsContext(t *testing.T) {
	m := newMachine(t)
	m.install(m.path, "etcd", "while :; do :; done")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Etcd.Installed(ctx); err == nil {
		t.Error("no error")
	}
}
