package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/wasme-io/wasme-operator/internal/cli/image"
	"github.com/wasme-io/wasme-operator/internal/cli/store"
	"github.com/wasme-io/wasme-operator/internal/cli/toolchain"
	"github.com/wasme-io/wasme-operator/internal/module"
)

// runtimeConfigFile is wasme's file in a project.
const runtimeConfigFile = "runtime-config.json"

// testFiles are the names of a file with tests in a project, as in an image.
var testFiles = []string{"preflight-tests.textpb", "preflight-tests.yaml"}

// load returns the module that an argument IMAGE|DIR names: a .wasm file, the folder of a
// project, which is built, or an image of the local store or else of its registry.
func (a *app) load(ctx context.Context, arg string) (*image.Module, error) {
	info, err := os.Stat(arg)
	switch {
	case err == nil && info.IsDir():
		language, err := toolchain.Detect(arg)
		if err != nil {
			return nil, err
		}
		return a.build(ctx, language, arg)
	case err == nil:
		return a.build(ctx, toolchain.Precompiled, arg)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	found, err := a.findImage(ctx, arg)
	if err != nil {
		return nil, err
	}
	m, err := readImage(found)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", arg, err)
	}
	return m, nil
}

// findImage returns an image of the local store, or else of its registry.
func (a *app) findImage(ctx context.Context, arg string) (v1.Image, error) {
	ref, err := parseReference(arg)
	if err != nil {
		return nil, fmt.Errorf("there is no file %s, and %w", arg, err)
	}
	local, err := (&storeFlag{}).open()
	if err != nil {
		return nil, err
	}
	found, err := local.Get(ref)
	if !errors.Is(err, store.ErrNotFound) {
		return found, err
	}
	return (&registryFlags{app: a}).find(ctx, ref)
}

// build builds the project in a folder, or reads a .wasm file.
func (a *app) build(ctx context.Context, language toolchain.Language, path string) (*image.Module, error) {
	wasm, err := toolchain.Build(ctx, language, path, toolchain.Options{Log: a.ErrOut})
	if err != nil {
		return nil, err
	}
	return project(wasm, path)
}

// project returns a module with the runtime configuration and the tests of its project, as
// far as there are any. Path is the folder, or the .wasm file in it.
func project(wasm []byte, path string) (*image.Module, error) {
	m, dir := &image.Module{Wasm: wasm}, path
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		dir = filepath.Dir(path)
	}
	config, err := os.ReadFile(filepath.Join(dir, runtimeConfigFile))
	if err == nil {
		err = configure(m, config)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading %s: %w", filepath.Join(dir, runtimeConfigFile), err)
	}
	for _, name := range testFiles {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			m.Tests = &module.Tests{Name: name, Content: content}
			return m, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return m, nil
}
