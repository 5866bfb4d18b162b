package envoy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settleTime is how long files must stay as they are: editors write them in several steps.
const settleTime = 100 * time.Millisecond

// built are folders of a project that compilers and package managers write.
var built = map[string]bool{"build": true, "node_modules": true, "target": true}

// Watcher sees when a file, or the files in a folder and below it, have another content. It
// leaves out hidden folders, and those that compilers and package managers fill.
type Watcher struct {
	path   string
	folder bool
	events *fsnotify.Watcher
	last   [sha256.Size]byte
}

// NewWatcher returns one that sees changes from now on. Close must be called.
func NewWatcher(path string) (_ *Watcher, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("watching for changes: %w", err)
	}
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watching for changes: %w", err)
	}
	w := &Watcher{path: filepath.Clean(path), folder: info.IsDir(), events: events}
	if w.folder {
		err = w.add(w.path)
	} else {
		// A file that is replaced is another one, of which only its folder has news.
		err = events.Add(filepath.Dir(w.path))
	}
	if err == nil {
		w.last, err = w.fingerprint()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watching %s for changes: %w", path, err), events.Close())
	}
	return w, nil
}

// Close ends the watching.
func (w *Watcher) Close() error { return w.events.Close() }

// Run calls changed after each change, and returns when ctx ends. What changes during a call
// leads to another one. A changed that writes the same files again and again is not called
// again and again, because contents count.
func (w *Watcher) Run(ctx context.Context, changed func()) error {
	settled := time.NewTimer(settleTime)
	defer settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event := <-w.events.Events:
			if err := w.follow(event); err != nil {
				return err
			}
			if w.folder || filepath.Clean(event.Name) == w.path {
				settled.Reset(settleTime)
			}
		case err := <-w.events.Errors:
			// Some changes were lost, so look at everything.
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return fmt.Errorf("watching %s for changes: %w", w.path, err)
			}
			settled.Reset(settleTime)
		case <-settled.C:
			w.compare(changed)
		}
	}
}

// follow watches a folder that was made.
func (w *Watcher) follow(event fsnotify.Event) error {
	if !w.folder || !event.Has(fsnotify.Create) {
		return nil
	}
	info, err := os.Lstat(event.Name)
	if err != nil || !info.IsDir() || ignored(info.Name()) {
		return nil //nolint:nilerr // what has gone again is none to watch
	}
	if err := w.add(event.Name); err != nil {
		return fmt.Errorf("watching %s for changes: %w", event.Name, err)
	}
	return nil
}

// compare calls changed if the content is another one. Files that go away while they are read
// lead to another event.
func (w *Watcher) compare(changed func()) {
	if now, err := w.fingerprint(); err == nil && now != w.last {
		w.last = now
		changed()
	}
}

// add watches a folder and those below it.
func (w *Watcher) add(folder string) error {
	return w.walk(folder, func(path string, entry fs.DirEntry) error {
		if !entry.IsDir() {
			return nil
		}
		return w.events.Add(path)
	})
}

// fingerprint returns a hash of all files, with their names.
func (w *Watcher) fingerprint() ([sha256.Size]byte, error) {
	var all strings.Builder
	err := w.walk(w.path, func(path string, entry fs.DirEntry) error {
		if !entry.Type().IsRegular() && path != w.path || entry.IsDir() {
			return nil
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(&all, "%q %x\n", path, sha256.Sum256(content))
		return err
	})
	return sha256.Sum256([]byte(all.String())), err
}

// walk visits what is watched at a path.
func (w *Watcher) walk(root string, visit func(path string, entry fs.DirEntry) error) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != w.path {
			return nil // it has just gone
		}
		if err != nil {
			return err
		}
		if entry.IsDir() && path != w.path && ignored(entry.Name()) {
			return filepath.SkipDir
		}
		return visit(path, entry)
	})
}

func ignored(folder string) bool { return strings.HasPrefix(folder, ".") || built[folder] }
