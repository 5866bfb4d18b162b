// Licensed under the Apache License, Version 2.0; see LICENSE.

package foreign

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
)

var (
	clang  = tool{"clang", "clang"}
	lld    = tool{"wasm-ld", "lld"}
	cargo  = tool{"cargo", "cargo"}
	rustc  = tool{"rustc", "rustc"}
	node   = tool{"node", "nodejs"}
	npm    = tool{"npm", "npm"}
	golang = tool{"go", "golang-go"}
)

func cVersions(ctx context.Context) ([]string, error) { return versionsOf(ctx, clang, lld) }

// buildC needs no C library: the modules bring the little that they need.
func buildC(ctx context.Context, folder, module, target string) error {
	sources, err := filepath.Glob(filepath.Join(folder, module, "*.c"))
	if err != nil {
		return err
	}
	arguments := []string{
		"--target=wasm32", "-Oz", "-nostdlib", "-fno-builtin", "-Wall", "-Wextra", "-Werror",
		"-Wl,--no-entry", "-Wl,--strip-all", "-o", target,
	}
	return clang.run(ctx, folder, nil, append(arguments, sources...)...)
}

// rustTarget is the target that Debian has: newer compilers call it wasm32-wasip1.
const rustTarget = "wasm32-wasi"

func rustVersions(ctx context.Context) ([]string, error) {
	versions, err := versionsOf(ctx, cargo, rustc, lld)
	if err != nil {
		return nil, err
	}
	folder, err := rustc.version(ctx, "--print=sysroot")
	if err != nil {
		return nil, err
	}
	if !present(filepath.Join(folder, "lib", "rustlib", rustTarget)) {
		return nil, missing("Rust's target "+rustTarget, "libstd-rust-dev-wasm32")
	}
	return versions, nil
}

// buildRust builds a package of the workspace in folder. Debian's cargo would clone the
// whole index of crates, and a compiler that allows what is unstable reads single entries.
func buildRust(ctx context.Context, folder, module, target string) error {
	compiler, err := rustc.path()
	if err != nil {
		return err
	}
	built, err := shared("rust-target")
	if err != nil {
		return err
	}
	environment := []string{"RUSTC=" + compiler, "RUSTC_BOOTSTRAP=1", "CARGO_TARGET_DIR=" + built, "RUSTFLAGS="}
	err = cargo.run(ctx, folder, environment, "-Z", "sparse-registry", "build", "--release", "--locked", "--target", rustTarget, "--package", module)
	if err != nil {
		return err
	}
	return copyFile(filepath.Join(built, rustTarget, "release", strings.ReplaceAll(module, "-", "_")+".wasm"), target)
}

// shared returns a folder that builds share.
func shared(name string) (string, error) {
	kept, err := binaries.Folder()
	return filepath.Join(kept, name), err
}

func copyFile(source, target string) error {
	content, err := os.ReadFile(source)
	if err != nil {
		return fmt.Errorf("copying a file: %w", err)
	}
	return os.WriteFile(target, content, 0o600)
}

// assemblyScriptVersions has no version of the compiler, which package-lock.json pins.
func assemblyScriptVersions(ctx context.Context) ([]string, error) {
	return versionsOf(ctx, node, npm)
}

// buildAssemblyScript compiles where the packages are: their modules import each other by
// paths below node_modules.
func buildAssemblyScript(ctx context.Context, folder, module, target string) error {
	installed, err := installPackages(ctx, folder)
	if err != nil {
		return err
	}
	return node.run(ctx, folder, nil, filepath.Join(installed, "node_modules", "assemblyscript", "bin", "asc"),
		module+"/index.ts", "--binaryFile", target, "--path", filepath.Join(installed, "node_modules"),
		"--use", "abort=abort_proc_exit", "--optimize")
}

// installPackages returns the folder with the packages of package-lock.json.
func installPackages(ctx context.Context, folder string) (string, error) {
	pins := []string{filepath.Join(folder, "package.json"), filepath.Join(folder, "package-lock.json")}
	key, err := binaries.KeyOf(pins)
	if err != nil {
		return "", err
	}
	return binaries.Cached(ctx, io.Discard, "packages", key, "installing the packages of AssemblyScript", func(target string) error {
		if err := os.Mkdir(target, 0o755); err != nil {
			return err
		}
		for _, pin := range pins {
			if err := copyFile(pin, filepath.Join(target, filepath.Base(pin))); err != nil {
				return err
			}
		}
		return npm.run(ctx, target, nil, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	})
}

func goVersions(ctx context.Context) ([]string, error) {
	version, err := golang.version(ctx, "version")
	return []string{version}, err
}

func buildGo(ctx context.Context, folder, module, target string) error {
	environment := []string{"GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off"}
	return golang.run(ctx, folder, environment, "build", "-buildmode=c-shared", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w", "-o", target, "./"+module)
}
