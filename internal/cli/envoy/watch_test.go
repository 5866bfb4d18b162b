package envoy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// quiet is long enough to see that a change is not noticed: several times settleTime.
const quiet = 5 * settleTime

// watched starts to watch a path; a change is one on the channel.
func watched(t *testing.T, path string) <-chan struct{} {
	t.Helper()
	w, err := NewWatcher(path)
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	changes, ended := make(chan struct{}, 100), make(chan error)
	go func() { ended <- w.Run(ctx, func() { changes <- struct{}{} }) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the watcher ended with %v", err)
		}
		must(t, w.Close())
	})
	return changes
}

func wantChange(t *testing.T, changes <-chan struct{}) {
	t.Helper()
	select {
	case <-changes:
	case <-time.After(30 * time.Second):
		t.Fatal("the change was not noticed")
	}
}

func wantNone(t *testing.T, changes <-chan struct{}) {
	t.Helper()
	select {
	case <-changes:
		t.Fatal("a change was noticed")
	case <-time.After(quiet):
	}
}

func write(t *testing.T, content string, path ...string) {
	t.Helper()
	file := filepath.Join(path...)
	must(t, os.MkdirAll(filepath.Dir(file), 0o700))
	must(t, os.WriteFile(file, []byte(content), 0o600))
}

func TestWatcherSeesAProjectsFiles(t *testing.T) {
	project := t.TempDir()
	write(t, "1", project, "main.go")
	write(t, "1", project, "target", "out")
	write(t, "1", project, ".git", "index")
	changes := watched(t, project)
	write(t, "2", project, "main.go")
	wantChange(t, changes)
	write(t, "2", project, "target", "out")
	write(t, "1", project, "build", "release.wasm")
	write(t, "2", project, ".git", "index")
	write(t, "2", project, "main.go") // the same again
	wantNone(t, changes)
	write(t, "1", project, "src", "deep", "lib.rs")
	wantChange(t, changes)
	write(t, "2", project, "src", "deep", "lib.rs")
	wantChange(t, changes)
	must(t, os.RemoveAll(filepath.Join(project, "src")))
	wantChange(t, changes)
}

func TestWatcherSeesAFileThatIsReplaced(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "filter.wasm")
	write(t, "1", file)
	changes := watched(t, file)
	write(t, "2", folder, "new")
	wantNone(t, changes)
	must(t, os.Rename(filepath.Join(folder, "new"), file))
	wantChange(t, changes)
	must(t, os.Remove(file))
	wantNone(t, changes)
	write(t, "3", file)
	wantChange(t, changes)
}

func TestWatcherNeedsAPath(t *testing.T) {
	if _, err := NewWatcher(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a path that does not exist is watched")
	}
}
