// Licensed under the Apache License, Version 2.0; see LICENSE.

package registry

import (
	"bytes"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/wasme-io/wasme-operator/internal/cli/image"
	"github.com/wasme-io/wasme-operator/internal/module"
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

// The media types of Wasm artifacts.
const (
	WasmeConfig = image.WasmeConfig
	WasmeLayer  = image.WasmeLayer
	CNCFConfig  = image.CNCFConfig
	CNCFLayer   = image.CNCFLayer
)

// Layer is a layer of an artifact.
type Layer = image.Layer

// Artifact makes an image of raw layers and a config of any media type.
func Artifact(configType types.MediaType, config []byte, annotations map[string]string, layers ...Layer) (v1.Image, error) {
	return image.Artifact(configType, config, annotations, layers...)
}

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
func Image(form Form, content Module) (v1.Image, error) {
	m := &image.Module{Wasm: content.Bytes, RootIDs: content.RootIDs}
	if len(content.RootIDs) > 0 {
		m.RuntimeConfig = image.NewRuntimeConfig(content.RootIDs...)
	}
	if len(content.Tests) > 0 {
		m.Tests = &module.Tests{Name: TestsName, Content: content.Tests}
	}
	switch form {
	case WasmeArtifact:
		return image.Write(image.Wasme, m)
	case CNCFArtifact:
		return image.Write(image.CNCF, m)
	case CompatOCI, CompatDocker, CompatOCIZstd:
		archive, err := image.Pack(m)
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
func Index(of v1.Image) v1.ImageIndex {
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add:        of,
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
	made, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, manifestType), configType), layer)
	if err != nil {
		return nil, fmt.Errorf("adding the layer: %w", err)
	}
	return made, nil
}
