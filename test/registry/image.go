// Licensed under the Apache License, Version 2.0; see LICENSE.

package registry

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Form is a way in which a Wasm module lies in a registry.
type Form string

// The forms in use.
const (
	// WasmeArtifact is what `wasme push` makes: a JSON config and two raw layers,
	// that config again and the module.
	WasmeArtifact Form = "wasme artifact"
	// CompatOCI is an ordinary OCI image, FROM scratch with /plugin.wasm.
	CompatOCI Form = "compat OCI"
	// CompatDocker is the same with Docker's schema 2 media types.
	CompatDocker Form = "compat Docker"
	// CompatOCIZstd is CompatOCI with a zstd layer instead of gzip.
	CompatOCIZstd Form = "compat OCI zstd"
	// CNCFArtifact is the CNCF Wasm OCI artifact: one raw layer, application/wasm.
	CNCFArtifact Form = "CNCF artifact"
)

// Forms lists every Form; any of them may also stand behind an index.
func Forms() []Form {
	return []Form{WasmeArtifact, CompatOCI, CompatDocker, CompatOCIZstd, CNCFArtifact}
}

// The media types of Wasm artifacts, as wasme and the CNCF's TAG Runtime define them.
const (
	WasmeConfig types.MediaType = "application/vnd.module.wasm.config.v1+json"
	WasmeLayer  types.MediaType = "application/vnd.module.wasm.content.layer.v1+wasm"
	CNCFConfig  types.MediaType = "application/vnd.wasm.config.v0+json"
	CNCFLayer   types.MediaType = "application/wasm"
)

// The keys that an artifact's manifest and layers carry.
const (
	titleAnnotation      = "org.opencontainers.image.title"
	runtimeAnnotation    = "module.wasm.runtime/type"
	abiVersionAnnotation = "module.wasm.runtime/abi_version"
	abiVersion           = "v0-097b7f2e4cc1fb490cc1943d0d633655ac3c522f"
)

// Module is a Wasm module with what an image says about it.
type Module struct {
	// Bytes of the .wasm file; tests also put other things there.
	Bytes []byte
	// RootIDs go into the runtime config of the forms that have one; empty: no
	// runtime config in the compat forms, an empty list in the wasme artifact.
	RootIDs []string
	// Tests is a file with tests, TestsName, beside the module; empty: none.
	Tests []byte
}

// TestsName is the name of the file with tests in an image.
const TestsName = "preflight-tests.yaml"

// Image puts a module into an image of the given form.
func Image(form Form, module Module) (v1.Image, error) {
	switch form {
	case WasmeArtifact:
		return wasmeArtifact(module)
	case CNCFArtifact:
		return cncfArtifact(module)
	case CompatOCI, CompatDocker, CompatOCIZstd:
		archive, err := compatArchive(module)
		if err != nil {
			return nil, err
		}
		return CompatImage(form, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil })
	default:
		return nil, fmt.Errorf("building an image: no form %q", form)
	}
}

// Index puts an image behind an image index, as its only entry, for platform
// wasip1/wasm.
func Index(image v1.Image) v1.ImageIndex {
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add:        image,
		Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "wasip1", Architecture: "wasm"}},
	})
}

// Digest returns the digest of an image's or index's manifest, sha256:<hex>.
func Digest(content remote.Taggable) (string, error) {
	manifest, err := content.RawManifest()
	if err != nil {
		return "", fmt.Errorf("reading the manifest: %w", err)
	}
	digest, _, err := v1.SHA256(bytes.NewReader(manifest))
	if err != nil {
		return "", fmt.Errorf("digesting the manifest: %w", err)
	}
	return digest.String(), nil
}

// CompatImage makes an image of one of the compat forms whose only layer is
// the (uncompressed) tar archive that open returns. It is read more than once
// and never held in memory, so hostile archives may be large.
func CompatImage(form Form, open func() (io.ReadCloser, error)) (v1.Image, error) {
	manifestType, configType, layerType := types.OCIManifestSchema1, types.OCIConfigJSON, types.OCILayer
	packing := compression.GZip
	switch form {
	case CompatDocker:
		manifestType, configType, layerType = types.DockerManifestSchema2, types.DockerConfigJSON, types.DockerLayer
	case CompatOCIZstd:
		layerType, packing = types.OCILayerZStd, compression.ZStd
	case CompatOCI:
	default:
		return nil, fmt.Errorf("building an image from an archive: %q is no compat form", form)
	}
	layer, err := tarball.LayerFromOpener(open, tarball.WithCompression(packing), tarball.WithMediaType(layerType))
	if err != nil {
		return nil, fmt.Errorf("packing the layer: %w", err)
	}
	image, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, manifestType), configType), layer)
	if err != nil {
		return nil, fmt.Errorf("adding the layer: %w", err)
	}
	return image, nil
}

// Artifact makes an image of raw layers and a config of any media type.
func Artifact(configType types.MediaType, config []byte, annotations map[string]string, layers ...Layer) (v1.Image, error) {
	a := &artifact{config: config}
	a.manifest = v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        descriptor(static.NewLayer(config, configType)),
		Annotations:   annotations,
	}
	for _, layer := range layers {
		raw := static.NewLayer(layer.Bytes, layer.MediaType)
		d := descriptor(raw)
		if layer.Title != "" {
			d.Annotations = map[string]string{titleAnnotation: layer.Title}
		}
		a.layers = append(a.layers, raw)
		a.manifest.Layers = append(a.manifest.Layers, d)
	}
	return partial.CompressedToImage(a)
}

// Layer is a raw layer of an artifact.
type Layer struct {
	MediaType types.MediaType
	Bytes     []byte
	// Title is the file's name, kept as an annotation; may be empty.
	Title string
}

func wasmeArtifact(module Module) (v1.Image, error) {
	config, err := runtimeConfig(module)
	if err != nil {
		return nil, err
	}
	annotations := map[string]string{runtimeAnnotation: "envoy_proxy", abiVersionAnnotation: abiVersion}
	layers := []Layer{
		{MediaType: WasmeConfig, Bytes: config, Title: "runtime-config.json"},
		{MediaType: WasmeLayer, Bytes: module.Bytes, Title: "filter.wasm"},
	}
	if len(module.Tests) > 0 {
		layers = append(layers, Layer{MediaType: "application/yaml", Bytes: module.Tests, Title: TestsName})
	}
	return Artifact(WasmeConfig, config, annotations, layers...)
}

func cncfArtifact(module Module) (v1.Image, error) {
	digest, _, err := v1.SHA256(bytes.NewReader(module.Bytes))
	if err != nil {
		return nil, fmt.Errorf("digesting the module: %w", err)
	}
	config, err := json.Marshal(map[string]any{
		"created": "1970-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip1",
		"layerDigests": []string{digest.String()},
	})
	if err != nil {
		return nil, fmt.Errorf("writing the config: %w", err)
	}
	return Artifact(CNCFConfig, config, nil, Layer{MediaType: CNCFLayer, Bytes: module.Bytes, Title: "filter.wasm"})
}

// runtimeConfig is wasme's runtime-config.json.
func runtimeConfig(module Module) ([]byte, error) {
	rootIDs := module.RootIDs
	if rootIDs == nil {
		rootIDs = []string{}
	}
	config, err := json.Marshal(map[string]any{
		"type":        "envoy_proxy",
		"abiVersions": []string{abiVersion},
		"config":      map[string]any{"rootIds": rootIDs},
	})
	if err != nil {
		return nil, fmt.Errorf("writing the runtime config: %w", err)
	}
	return config, nil
}

// compatArchive is the layer of a compat image, uncompressed.
func compatArchive(module Module) ([]byte, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := addFile(w, "plugin.wasm", module.Bytes); err != nil {
		return nil, err
	}
	if len(module.RootIDs) > 0 {
		config, err := runtimeConfig(module)
		if err != nil {
			return nil, err
		}
		if err := addFile(w, "runtime-config.json", config); err != nil {
			return nil, err
		}
	}
	if len(module.Tests) > 0 {
		if err := addFile(w, TestsName, module.Tests); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("closing the archive: %w", err)
	}
	return archive.Bytes(), nil
}

func addFile(w *tar.Writer, name string, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		return fmt.Errorf("adding %s to the archive: %w", name, err)
	}
	if _, err := w.Write(content); err != nil {
		return fmt.Errorf("adding %s to the archive: %w", name, err)
	}
	return nil
}

// artifact is an image with a config of any kind.
type artifact struct {
	config   []byte
	manifest v1.Manifest
	layers   []v1.Layer
}

func (a *artifact) RawConfigFile() ([]byte, error)      { return a.config, nil }
func (a *artifact) MediaType() (types.MediaType, error) { return a.manifest.MediaType, nil }
func (a *artifact) RawManifest() ([]byte, error)        { return json.Marshal(a.manifest) }
func (a *artifact) LayerByDigest(digest v1.Hash) (partial.CompressedLayer, error) {
	for i, layer := range a.manifest.Layers {
		if layer.Digest == digest {
			return a.layers[i], nil
		}
	}
	if a.manifest.Config.Digest == digest {
		return static.NewLayer(a.config, a.manifest.Config.MediaType), nil
	}
	return nil, fmt.Errorf("no layer %s", digest)
}

// descriptor describes a static layer, whose methods never fail.
func descriptor(layer v1.Layer) v1.Descriptor {
	d, err := partial.Descriptor(layer)
	if err != nil {
		panic(err) // bytes in memory always have a digest and a size
	}
	return *d
}
