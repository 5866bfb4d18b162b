package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/wasme-io/wasme-operator/internal/cli/image"
	"github.com/wasme-io/wasme-operator/internal/cli/store"
	"github.com/wasme-io/wasme-operator/internal/cli/toolchain"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/oci"
)

// runtimeConfigFile is wasme's file in a project.
const runtimeConfigFile = "runtime-config.json"

// sources are where the commands that run a module find an image.
type sources struct {
	app      *app
	stores   *storeFlag
	registry *registryFlags
}

// newSources adds the flags for the local store and the registry to a command, and completes
// its arguments.
func newSources(a *app, c *cobra.Command) *sources {
	s := &sources{app: a, stores: newStoreFlag(c), registry: newReachFlags(a, c)}
	c.ValidArgsFunction = completeImages(s.stores, true)
	return s
}

// load returns the module that an argument IMAGE|DIR names: a .wasm file, the folder of a
// project, which is built, or an image of the local store or else of its registry.
func (s *sources) load(ctx context.Context, arg string) (*image.Module, error) {
	m, _, err := s.loadImage(ctx, arg)
	return m, err
}

// loadImage is load, with the image; nil where there is none.
func (s *sources) loadImage(ctx context.Context, arg string) (*image.Module, v1.Image, error) {
	if _, err := os.Stat(arg); !errors.Is(err, fs.ErrNotExist) {
		m, err := s.build(ctx, arg)
		return m, nil, err
	}
	found, err := s.findImage(ctx, arg)
	if err != nil {
		return nil, nil, err
	}
	m, err := readImage(found)
	if err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", arg, err)
	}
	return m, found, nil
}

// build builds the project in a folder, or reads a .wasm file.
func (s *sources) build(ctx context.Context, path string) (*image.Module, error) {
	language, err := toolchain.Detect(path)
	if err != nil {
		return nil, err
	}
	wasm, err := toolchain.Build(ctx, language, path, toolchain.Options{Log: s.app.ErrOut})
	if err != nil {
		return nil, err
	}
	return project(wasm, path)
}

// findImage returns an image of the local store, or else of its registry.
func (s *sources) findImage(ctx context.Context, arg string) (v1.Image, error) {
	ref, err := s.registry.reference(arg)
	if err != nil {
		return nil, fmt.Errorf("there is no file %s, and %w", arg, err)
	}
	local, err := s.stores.open()
	if err != nil {
		return nil, err
	}
	found, err := local.Get(ref)
	if !errors.Is(err, store.ErrNotFound) {
		return found, err
	}
	return s.registry.find(ctx, ref)
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
	for _, name := range oci.TestFiles {
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

// readImage takes the module out of an image, within the operator's limits. The error says what
// is wrong with the image; it is a *module.Error, or what reading the layers returned.
func readImage(from v1.Image) (*image.Module, error) {
	raw, err := from.RawManifest()
	if err != nil {
		return nil, err
	}
	manifest, err := oci.ParseManifest(raw)
	if err != nil {
		return nil, err
	}
	var wasm bytes.Buffer
	contents, err := oci.NewUnpacker(module.DefaultLimits).Unpack(manifest, func(d v1.Descriptor) (oci.Blob, error) {
		return readBlob(from, d)
	}, &wasm)
	if err != nil {
		return nil, err
	}
	return &image.Module{Wasm: wasm.Bytes(), RuntimeConfig: contents.RuntimeConfig, RootIDs: contents.RootIDs, Tests: contents.Tests}, nil
}

// memory is a layer in memory.
type memory struct{ *bytes.Reader }

// Discard implements oci.Blob.
func (memory) Discard() {}

// readBlob reads a layer or the configuration of an image; the caller has bounded its size.
func readBlob(from v1.Image, d v1.Descriptor) (oci.Blob, error) {
	if manifest, err := from.Manifest(); err == nil && manifest.Config.Digest == d.Digest {
		config, err := from.RawConfigFile()
		return memory{bytes.NewReader(config)}, err
	}
	layer, err := from.LayerByDigest(d.Digest)
	if err != nil {
		return nil, err
	}
	content, err := layer.Compressed()
	if err != nil {
		return nil, err
	}
	defer content.Close()
	read, err := io.ReadAll(io.LimitReader(content, d.Size+1))
	if err != nil {
		return nil, fmt.Errorf("reading layer %s: %w", d.Digest, err)
	}
	return memory{bytes.NewReader(read)}, nil
}

// configure sets the runtime configuration of a module, and with it its root ids.
func configure(m *image.Module, content []byte) error {
	if err := image.CheckRuntimeConfig(content); err != nil {
		return err
	}
	rootIDs, err := oci.ParseRootIDs(content)
	if err != nil {
		return err
	}
	m.RuntimeConfig, m.RootIDs = content, rootIDs
	return nil
}
