package toolchain

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const installRust = "install Rust from https://rustup.rs, then run rustup target add wasm32-wasip1"

var (
	cargoTool = tool{name: "cargo", install: installRust, without: []string{"RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"}}
	rustcTool = tool{name: "rustc", install: installRust}
)

// rustTargets are the names of the same target, the current one first: Rust 1.78 renamed
// it, and Rust 1.84 removed the old name.
var rustTargets = []string{"wasm32-wasip1", "wasm32-wasi"}

func buildRust(ctx context.Context, j *job) (string, error) {
	if _, err := cargoTool.path(); err != nil {
		return "", err
	}
	sysroot, err := j.outputOf(ctx, rustcTool, nil, "--print=sysroot")
	if err != nil {
		return "", err
	}
	target, err := rustTarget(sysroot)
	if err != nil {
		return "", err
	}
	home, err := j.cargoHome()
	if err != nil {
		return "", err
	}
	locked, err := j.hasCargoLock(ctx)
	if err != nil {
		return "", err
	}
	var messages bytes.Buffer
	if err := j.runTo(ctx, &messages, cargoTool, nil, cargoArguments(target, sysroot, home, locked)...); err != nil {
		return "", err
	}
	return cargoModule(&messages)
}

// hasCargoLock reports whether versions are pinned: in the project, or in the workspace
// that it is a member of.
func (j *job) hasCargoLock(ctx context.Context) (bool, error) {
	manifest, err := j.outputOf(ctx, cargoTool, nil, "locate-project", "--workspace", "--message-format=plain")
	if err != nil {
		return false, err
	}
	locked := exists(filepath.Join(filepath.Dir(manifest), "Cargo.lock"))
	if !locked {
		fmt.Fprintln(j.log, "Cargo.lock is missing, and is written now: commit it, so that each build takes the same versions")
	}
	return locked, nil
}

// cargoArguments are those of a build. The flags for rustc are added to build.rustflags of
// the project's own configuration (.cargo/config.toml). Flags for one target there replace
// them, as cargo has it.
func cargoArguments(target, sysroot, home string, locked bool) []string {
	args := []string{
		"build", "--release", "--target", target, "--message-format=json-render-diagnostics",
		"--config", "build.rustflags=" + remapped(sysroot, home),
	}
	if locked {
		args = append(args, "--locked")
	}
	return args
}

// remapped are flags for rustc, as a TOML array, that replace the folders of this machine
// in the places that a module reports when it panics.
func remapped(sysroot, home string) string {
	return "[" + strconv.Quote("--remap-path-prefix="+home+"=/cargo") + ", " + strconv.Quote("--remap-path-prefix="+sysroot+"=/rust") + "]"
}

// cargoHome is where cargo, which runs in the project, keeps the sources of packages.
func (j *job) cargoHome() (string, error) {
	switch home := os.Getenv("CARGO_HOME"); {
	case filepath.IsAbs(home):
		return home, nil
	case home != "":
		return filepath.Join(j.dir, home), nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".cargo"), err
}

// rustTarget returns the target that is installed.
func rustTarget(sysroot string) (string, error) {
	i := slices.IndexFunc(rustTargets, func(target string) bool {
		return exists(filepath.Join(sysroot, "lib", "rustlib", target, "lib"))
	})
	if i < 0 {
		return "", fmt.Errorf("the Rust target %s is not installed in %s: run rustup target add %[1]s, or on Debian install libstd-rust-dev-wasm32 and lld", rustTargets[0], sysroot)
	}
	return rustTargets[i], nil
}

// artifact is what cargo says about each thing that it has built; see "JSON messages"
// in the Cargo Book, "External tools".
type artifact struct {
	Reason string `json:"reason"`
	Target struct {
		Kind []string `json:"kind"`
	} `json:"target"`
	Filenames []string `json:"filenames"`
}

// cargoModule returns the path of the module among the messages of a build.
func cargoModule(messages io.Reader) (string, error) {
	var modules []string
	lines := bufio.NewScanner(messages)
	lines.Buffer(nil, 16<<20) // a line lists all features of a package
	for lines.Scan() {
		var a artifact
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			continue // what a build script or a wrapper prints
		}
		if a.Reason == "compiler-artifact" && (slices.Contains(a.Target.Kind, "cdylib") || slices.Contains(a.Target.Kind, "bin")) {
			modules = append(modules, onlyWasm(a.Filenames)...)
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("reading cargo's messages: %w", err)
	}
	switch len(modules) {
	case 0:
		return "", errors.New(`cargo has built no module: add crate-type = ["cdylib"] to [lib] in Cargo.toml`)
	case 1:
		return modules[0], nil
	}
	return "", fmt.Errorf("cargo has built %d modules (%s): build the folder of one package", len(modules), strings.Join(modules, ", "))
}

func onlyWasm(paths []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(path string) bool { return filepath.Ext(path) != wasmExtension })
}
