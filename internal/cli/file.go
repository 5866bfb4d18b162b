package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// atomicFile is a file that is there as a whole, or not at all.
type atomicFile struct {
	*os.File
	path string
}

// newAtomicFile begins a file beside its path, so that it is known early whether it can be
// written. Only its owner can read it.
func newAtomicFile(path string) (*atomicFile, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "write", Path: path, Err: errors.New("it is not a file: name another one")}
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", path, err)
	}
	return &atomicFile{file, path}, nil
}

// commit puts the file into its place, where it replaces another one.
func (f *atomicFile) commit() error {
	err := errors.Join(f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), f.path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", f.path, err)
	}
	return nil
}

// discard removes what was not put into its place.
func (f *atomicFile) discard() {
	_ = f.Close()           // perhaps it is closed
	_ = os.Remove(f.Name()) // perhaps it is in its place
}
