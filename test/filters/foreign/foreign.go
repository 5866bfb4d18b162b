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
	"crypto/sha256"
	"encoding/hex"
	"fmt"
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
	key, err := keyOf(folder, append(versions, m.Name))
	if err != nil {
		return nil, err
	}
	path, err := once(key, "module.wasm", func(target string) error {
		return toolchains[m.Language].build(ctx, folder, strings.TrimPrefix(m.Name, string(m.Language)+"/"), target)
	})
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// keyOf hashes words and all files of a folder.
func keyOf(folder string, words []string) (string, error) {
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		words = append(words, strings.TrimPrefix(path, folder), string(content))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("hashing the sources: %w", err)
	}
	return hashOf(words), nil
}

func hashOf(words []string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", words))
	return hex.EncodeToString(sum[:])[:16]
}

// once returns the path of a file or folder that is made once under a key. produce gets
// another path first, and the rename makes the result appear whole. Two processes may
// make it at the same time; they make the same.
func once(key, name string, produce func(target string) error) (string, error) {
	kept, err := binaries.Folder()
	if err != nil {
		return "", err
	}
	path := filepath.Join(kept, key, name)
	if present(path) {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("preparing the cache: %w", err)
	}
	aside, err := os.MkdirTemp(filepath.Dir(path), "new-")
	if err != nil {
		return "", fmt.Errorf("preparing the cache: %w", err)
	}
	defer os.RemoveAll(aside)
	if err := produce(filepath.Join(aside, name)); err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(aside, name), path); err != nil && !present(path) {
		return "", fmt.Errorf("keeping what was built: %w", err)
	}
	return path, nil
}

func present(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
