// Licensed under the Apache License, Version 2.0; see LICENSE.

package foreign

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
)

// tool is a program of a toolchain.
type tool struct {
	name string
	// pkg is the package of Debian 12 that has it.
	pkg string
}

// system is where Debian's packages put programs.
const system = "/usr/bin"

// path returns where the tool is: Debian's or else the first on the PATH; for Go, the first
// on the PATH. A rustup on the PATH has no target wasm32, and Debian's Go is too old.
func (t tool) path() (string, error) {
	if path := filepath.Join(system, t.name); t != golang && present(path) {
		return path, nil
	}
	path, err := exec.LookPath(t.name)
	if err != nil {
		return "", missing(t.name, t.pkg)
	}
	return path, nil
}

func missing(what, pkg string) error {
	return fmt.Errorf("%s is missing: install the package %s of Debian 12", what, pkg)
}

// version returns what the tool prints about its version.
func (t tool) version(ctx context.Context, argument string) (string, error) {
	path, err := t.path()
	if err != nil {
		return "", err
	}
	output, err := exec.CommandContext(ctx, path, argument).Output()
	if err != nil {
		return "", fmt.Errorf("asking %s for its version: %w", path, err)
	}
	return strings.TrimSpace(string(output)), nil
}

// versionsOf returns the versions of tools that know --version.
func versionsOf(ctx context.Context, tools ...tool) ([]string, error) {
	var versions []string
	for _, t := range tools {
		version, err := t.version(ctx, "--version")
		if err != nil {
			return nil, err
		}
		versions = append(versions, version)
	}
	return versions, nil
}

// run runs a tool in a folder with further variables in its environment.
func (t tool) run(ctx context.Context, folder string, environment []string, arguments ...string) error {
	path, err := t.path()
	if err != nil {
		return err
	}
	command := exec.CommandContext(ctx, path, arguments...)
	command.Dir = folder
	command.Env = append(os.Environ(), environment...)
	return binaries.Run(command)
}
