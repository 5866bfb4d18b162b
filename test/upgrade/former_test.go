// Package upgrade holds what becomes of filters and requests when one version of the operator
// replaces another, and what an installation leaves behind.
package upgrade

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
)

// formerSource is the source of a former version of the operator and its installation: a clone
// may have no history. `make former` writes it, and testdata/former.txt says which commit it is.
//
//go:embed testdata/former.tar.gz
var formerSource []byte

// unpackFormer writes the source of the former version into a folder.
func unpackFormer(folder string) error {
	unzipped, err := gzip.NewReader(bytes.NewReader(formerSource))
	if err != nil {
		return fmt.Errorf("reading the former source: %w", err)
	}
	archive := tar.NewReader(unzipped)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the former source: %w", err)
		}
		if err := unpackEntry(folder, header, archive); err != nil {
			return fmt.Errorf("unpacking the former source: %w", err)
		}
	}
}

func unpackEntry(folder string, header *tar.Header, content io.Reader) error {
	if header.Typeflag != tar.TypeReg {
		return nil
	}
	if !filepath.IsLocal(header.Name) {
		return fmt.Errorf("%s is outside of the folder", header.Name)
	}
	path := filepath.Join(folder, header.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	text, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// buildFormer builds the former version's manager from its source in a folder.
func buildFormer(ctx context.Context, folder string) (string, error) {
	target := filepath.Join(folder, "bin", "manager")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", target, "./cmd/manager")
	build.Dir = folder
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if err := binaries.Run(build); err != nil {
		return "", fmt.Errorf("building the former version: %w", err)
	}
	return target, nil
}
