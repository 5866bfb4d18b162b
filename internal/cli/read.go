package cli

import (
	"bytes"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/wasme-io/wasme-operator/internal/cli/image"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/oci"
)

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
