// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package foreign builds proxy-wasm modules that are written with the SDKs that
// users have: in Rust, AssemblyScript and Go, and in C with none. They do what
// the well-known examples of those SDKs do, so that a host that runs them runs
// most of what is out there.
//
// A language is a folder here, and a module is a folder in it. Toolchains are
// those of Debian 12, and Go and npm; what a build needs is downloaded once.
package foreign

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
)

// Language is what a module is written in; its modules are in the folder of this name.
type Language string

// The languages.
const (
	C              Language = "c"
	Rust           Language = "rust"
	AssemblyScript Language = "assemblyscript"
	// Go is standard Go with proxy-wasm-go-sdk. Its folder is a Go module of its own.
	Go Language = "go"
)

// Module is one that Build knows.
type Module struct {
	// Name is the language and the folder of the module in it, such as "c/probe".
	Name     string
	Language Language
	// RootID is the root id that the module answers to; empty when it takes any.
	RootID string
	// Configuration is one that the module accepts, and Refused are some that it refuses.
	Configuration string
	Refused       []string
	// Does says what the module does.
	Does string
}

// toolchain builds the modules of one language.
type toolchain struct {
	// versions returns words that change when the tools do. It fails when one is missing.
	versions func(context.Context) ([]string, error)
	// build builds the module in the subfolder of the language's folder to target.
	build func(ctx context.Context, folder, module, target string) error
}

var toolchains = map[Language]toolchain{
	C:              {cVersions, buildC},
	Rust:           {rustVersions, buildRust},
	AssemblyScript: {assemblyScriptVersions, buildAssemblyScript},
	Go:             {goVersions, buildGo},
}

// Find returns the module of a name.
func Find(name string) (Module, error) {
	i := slices.IndexFunc(All, func(m Module) bool { return m.Name == name })
	if i < 0 {
		return Module{}, fmt.Errorf("no module %s in package foreign", name)
	}
	return All[i], nil
}

// Build returns the bytes of a module. It builds them once for the same sources
// and tools, and keeps them in the folder of package binaries.
func Build(ctx context.Context, name string) ([]byte, error) {
	m, err := Find(name)
	if err != nil {
		return nil, err
	}
	content, err := m.build(ctx)
	if err != nil {
		return nil, fmt.Errorf("building the module %s: %w", name, err)
	}
	return content, nil
}

func (m Module) build(ctx context.Context) ([]byte, error) {
	root, err := binaries.RepositoryRoot()
	if err != nil {
		return nil, err
	}
	folder := filepath.Join(root, "test", "filters", "foreign", string(m.Language))
	versions, err := toolchains[m.Language].versions(ctx)
	if err != nil {
		return nil, err
	}
	sources, err := filesOf(folder)
	if err != nil {
		return nil, err
	}
	key, err := binaries.KeyOf(sources, append(versions, m.Name)...)
	if err != nil {
		return nil, err
	}
	path, err := binaries.Cached(ctx, io.Discard, "module.wasm", key, "building "+m.Name, func(target string) error {
		return toolchains[m.Language].build(ctx, folder, strings.TrimPrefix(m.Name, string(m.Language)+"/"), target)
	})
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// filesOf returns all files of a folder, in the order of their paths.
func filesOf(folder string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the sources: %w", err)
	}
	return files, nil
}

func present(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
