package suite

import (
	"fmt"
	"io/fs"
	"path"
)

// FileReader returns the content of a file beside a test file. The path is relative to
// the test file's folder, has slashes, and does not lead out of the folder. It is up to
// the reader not to follow links, and not to read more than MaxFileBytes.
type FileReader func(path string) ([]byte, error)

// files are those that a test file references.
type files struct {
	read FileReader
	size int
}

func (f *files) content(name string) ([]byte, error) {
	clean := path.Clean(name)
	switch {
	case !fs.ValidPath(clean):
		return nil, fmt.Errorf("%s is not in the folder of the test file: move it there, and write the path from there", quote(name))
	case f.read == nil:
		return nil, fmt.Errorf("%s cannot be read, because the test file has no folder: write the text into the test file", quote(name))
	}
	content, err := f.read(clean)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", quote(name), err)
	}
	if len(content) > MaxFileBytes {
		return nil, fmt.Errorf("%s has %d bytes, more than %d: shorten it", quote(name), len(content), MaxFileBytes)
	}
	if f.size += len(content); f.size > MaxFilesBytes {
		return nil, fmt.Errorf("the files that the tests reference have more than %d bytes together: use shorter ones, or split the test file", MaxFilesBytes)
	}
	return content, nil
}
