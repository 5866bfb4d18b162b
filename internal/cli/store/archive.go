package store

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/wasme-io/wasme-operator/internal/module"
)

// pack writes the files of a layout as a tar archive, without times and owners: the same
// images give the same archive.
func pack(to io.Writer, folder string) error {
	archive := tar.NewWriter(to)
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		inside, _ := filepath.Rel(folder, path)
		if err != nil || entry.IsDir() || !layoutFiles.MatchString(filepath.ToSlash(inside)) {
			return err
		}
		return packFile(archive, filepath.ToSlash(inside), path)
	})
	return errors.Join(err, archive.Close())
}

func packFile(archive *tar.Writer, name, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(archive, file)
	return err
}

// layoutFiles are the files of an OCI image layout.
var layoutFiles = regexp.MustCompile(`^(oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})$`)

// maxArchived bounds the bytes that are unpacked.
const maxArchived = 4 << 30

// unpack writes the files of an archive that belong to an OCI image layout into a folder.
func unpack(from io.Reader, folder string) error {
	archive, left := tar.NewReader(from), int64(maxArchived)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		file := filepath.ToSlash(filepath.Clean(header.Name))
		if header.Typeflag != tar.TypeReg || !layoutFiles.MatchString(file) {
			continue
		}
		if file == indexFile && header.Size > maxDocument {
			return module.Bound{Bytes: maxDocument, What: "the archive's " + indexFile}.Exceeded()
		}
		if left -= header.Size; left < 0 {
			return module.Bound{Bytes: maxArchived, What: "the archive"}.Exceeded()
		}
		if err := unpackFile(archive, filepath.Join(folder, file)); err != nil {
			return err
		}
	}
}

func unpackFile(content io.Reader, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}
