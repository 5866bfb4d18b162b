package main

import (
	"os"
	"path/filepath"
	"testing"
)

// The module whose mutants are tested: its test looks at one of two statements.
var module = map[string]string{
	"go.mod": "module example.com/p\n\ngo 1.26\n",
	"p.go":   "package p\n\nvar a, b int\n\nfunc f() {\n\ta++\n\tb++\n}\n\nfunc g() string { return \"a\" + name() }\n\nfunc name() string { return \"b\" }\n",
	"p_test.go": "package p\n\nimport \"testing\"\n\nfunc TestP(t *testing.T) {\n\tif f(); a != 1 || g() != \"ab\" {\n" +
		"\t\tt.Errorf(\"got %d\", a)\n\t}\n}\n",
}

func TestWhatTestsNotice(t *testing.T) {
	dir := t.TempDir()
	for name, text := range module {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pkg := goPackage{Dir: dir, ImportPath: "example.com/p", GoFiles: []string{"p.go"}}
	got, err := mutatePackage(t.Context(), pkg, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// a++ is noticed, b++ is not, and one string cannot be subtracted from another.
	if want := (counts{killed: 1, survived: 1, notViable: 1}); got != want {
		t.Errorf("got %s; want %s", got, want)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "p.go")); err != nil || string(text) != module["p.go"] {
		t.Errorf("the file has changed: %q, %v", text, err)
	}
}

func TestTestsThatFailWithoutAMutantAreAnError(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": module["go.mod"], "p.go": "package p\n\nfunc f() {}\n", "p_test.go": module["p_test.go"]} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pkg := goPackage{Dir: dir, ImportPath: "example.com/p", GoFiles: []string{"p.go"}}
	if got, err := mutatePackage(t.Context(), pkg, t.TempDir()); err == nil {
		t.Errorf("got %s", got)
	}
}
