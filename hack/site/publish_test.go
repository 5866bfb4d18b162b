// Package site tests how the site of the docs is published.
package site

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// run runs a command in a folder, and returns what it prints.
func run(t *testing.T, folder string, command ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), command[0], command[1:]...)
	c.Dir = folder
	c.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", command, err, out)
	}
	return string(out)
}

// built returns a clone in which the site of a version was built.
func built(t *testing.T, origin, version string) string {
	t.Helper()
	clone := filepath.Join(t.TempDir(), version)
	run(t, ".", "git", "clone", "--quiet", origin, clone)
	if err := os.MkdirAll(filepath.Join(clone, "dist", "site"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(clone, "dist", "site", "index.html"), []byte(version), 0o600); err != nil {
		t.Fatal(err)
	}
	return clone
}

// TestPublishLosesNoVersion has another version be published between the fetch and the push.
func TestPublishLosesNoVersion(t *testing.T) {
	publish, err := filepath.Abs("publish")
	if err != nil {
		t.Fatal(err)
	}
	origin := filepath.Join(t.TempDir(), "origin")
	run(t, ".", "git", "init", "--quiet", "--bare", origin)
	first, other, late := built(t, origin, "v1.0.0"), built(t, origin, "main"), built(t, origin, "v1.1.0")
	run(t, first, publish, "v1.0.0")

	hook := "#!/bin/sh\nset -e\nunset GIT_INDEX_FILE GIT_DIR\nrm \"$0\"\ncd '" + other + "'\n'" + publish + "' main\n"
	if err := os.WriteFile(filepath.Join(late, ".git", "hooks", "pre-push"), []byte(hook), 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, late, publish, "v1.1.0")

	for _, version := range []string{"main", "v1.0.0", "v1.1.0"} {
		if got := run(t, origin, "git", "show", "gh-pages:"+version+"/index.html"); got != version {
			t.Errorf("%s has %q", version, got)
		}
		if list := run(t, origin, "git", "show", "gh-pages:index.html"); !strings.Contains(list, `<a href="`+version+`/">`) {
			t.Errorf("%s is not in the list of versions:\n%s", version, list)
		}
	}
	if commits := strings.Count(run(t, origin, "git", "log", "--format=%H", "gh-pages"), "\n"); commits != 3 {
		t.Errorf("%d commits", commits)
	}
}
