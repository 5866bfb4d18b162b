package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Form is a way in which a module lies in an image.
type Form string

// The forms.
const (
	// Wasme is the form of solo-io's wasme: the configuration of the image is the runtime
	// configuration, and the layers are that again, the module, and tests.
	Wasme Form = "wasme"
	// Compat is an ordinary OCI image with /plugin.wasm
	// (https://github.com/solo-io/wasm/blob/master/spec/spec-compat.md).
	Compat Form = "compat"
	// CNCF is the Wasm OCI artifact of the CNCF's TAG Runtime: one layer, which is the module.
	// Istio's pilot-agent does not take it by itself; the operator does.
	CNCF Form = "cncf"
)

// Forms are all forms, the default first.
var Forms = []Form{Wasme, Compat, CNCF}

// ParseForm returns the form of a name.
func ParseForm(name string) (Form, error) {
	var names []string
	for _, form := range Forms {
		if string(form) == name {
			return form, nil
		}
		names = append(names, string(form))
	}
	return "", fmt.Errorf("the form %q is not known: use one of %s", name, strings.Join(names, ", "))
}

// The media types of artifacts, as wasme and the CNCF's TAG Runtime define them.
const (
	WasmeConfig types.MediaType = "application/vnd.module.wasm.config.v1+json"
	WasmeLayer  types.MediaType = "application/vnd.module.wasm.content.layer.v1+wasm"
	CNCFConfig  types.MediaType = "application/vnd.wasm.config.v0+json"
	CNCFLayer   types.MediaType = "application/wasm"
	testsLayer  types.MediaType = "application/yaml"
)

// The annotations of artifacts: a layer's file, and what runs the module.
const (
	titleAnnotation      = "org.opencontainers.image.title"
	runtimeAnnotation    = "module.wasm.runtime/type"
	abiVersionAnnotation = "module.wasm.runtime/abi_version"
)

// The files in images.
const (
	moduleTitle       = "filter.wasm"
	pluginFile        = "plugin.wasm"
	runtimeConfigFile = "runtime-config.json"
)

// Write puts a module into an image of a form. The form CNCF has no place for a runtime
// configuration and tests.
func Write(form Form, m *Module) (v1.Image, error) {
	switch form {
	case Compat:
		return writeCompat(m)
	case CNCF:
		return writeCNCF(m)
	default:
		return writeWasme(m)
	}
}

func writeWasme(m *Module) (v1.Image, error) {
	config := m.RuntimeConfig
	if config == nil {
		config = NewRuntimeConfig(m.RootIDs...)
	}
	rc, err := parseRuntimeConfig(config)
	if err != nil {
		return nil, err
	}
	annotations := map[string]string{runtimeAnnotation: rc.Type, abiVersionAnnotation: strings.Join(rc.ABIVersions, ",")}
	layers := []Layer{
		{MediaType: WasmeConfig, Bytes: config, Title: runtimeConfigFile},
		{MediaType: WasmeLayer, Bytes: m.Wasm, Title: moduleTitle},
	}
	if m.Tests != nil {
		layers = append(layers, Layer{MediaType: testsLayer, Bytes: m.Tests.Content, Title: m.Tests.Name})
	}
	return Artifact(WasmeConfig, config, annotations, layers...)
}

func writeCNCF(m *Module) (v1.Image, error) {
	config, err := json.Marshal(map[string]any{
		"created": "1970-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip1",
		"layerDigests": []string{digestOf(m.Wasm).String()},
	})
	if err != nil {
		return nil, err
	}
	return Artifact(CNCFConfig, config, nil, Layer{MediaType: CNCFLayer, Bytes: m.Wasm, Title: moduleTitle})
}

func writeCompat(m *Module) (v1.Image, error) {
	archive, err := Pack(m)
	if err != nil {
		return nil, err
	}
	opener := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }
	layer, err := tarball.LayerFromOpener(opener, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("packing the layer: %w", err)
	}
	return mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layer)
}

// Pack returns the archive that is the layer of an image of the form Compat.
func Pack(m *Module) ([]byte, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	add := func(name string, content []byte) error {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			return err
		}
		_, err := w.Write(content)
		return err
	}
	if err := add(pluginFile, m.Wasm); err != nil {
		return nil, err
	}
	if m.RuntimeConfig != nil {
		if err := add(runtimeConfigFile, m.RuntimeConfig); err != nil {
			return nil, err
		}
	}
	if m.Tests != nil {
		if err := add(m.Tests.Name, m.Tests.Content); err != nil {
			return nil, err
		}
	}
	return archive.Bytes(), w.Close()
}

// Layer is a layer of an artifact, which is a file.
type Layer struct {
	MediaType types.MediaType
	Bytes     []byte
	// Title is the name of the file; may be empty.
	Title string
}

// Artifact returns an image of layers that are files, with a configuration of any media
// type.
func Artifact(configType types.MediaType, config []byte, annotations map[string]string, layers ...Layer) (v1.Image, error) {
	a := &artifact{config: static.NewLayer(config, configType)}
	a.manifest = v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        describe(a.config),
		Annotations:   annotations,
	}
	for _, layer := range layers {
		raw := static.NewLayer(layer.Bytes, layer.MediaType)
		d := describe(raw)
		if layer.Title != "" {
			d.Annotations = map[string]string{titleAnnotation: layer.Title}
		}
		a.layers = append(a.layers, raw)
		a.manifest.Layers = append(a.manifest.Layers, d)
	}
	return partial.CompressedToImage(a)
}

// artifact is an image with a configuration of any kind.
type artifact struct {
	config   v1.Layer
	manifest v1.Manifest
	layers   []v1.Layer
}

// RawConfigFile implements partial.CompressedImageCore.
func (a *artifact) RawConfigFile() ([]byte, error) {
	content, err := a.config.Compressed()
	if err != nil {
		return nil, err
	}
	defer content.Close()
	return io.ReadAll(content)
}

// MediaType implements partial.CompressedImageCore.
func (a *artifact) MediaType() (types.MediaType, error) { return a.manifest.MediaType, nil }

// RawManifest implements partial.CompressedImageCore.
func (a *artifact) RawManifest() ([]byte, error) { return json.Marshal(a.manifest) }

// LayerByDigest implements partial.CompressedImageCore.
func (a *artifact) LayerByDigest(digest v1.Hash) (partial.CompressedLayer, error) {
	for i, layer := range a.manifest.Layers {
		if layer.Digest == digest {
			return a.layers[i], nil
		}
	}
	if a.manifest.Config.Digest == digest {
		return a.config, nil
	}
	return nil, fmt.Errorf("no layer %s", digest)
}

// describe returns the descriptor of bytes in memory, which always have a digest and a size.
func describe(layer v1.Layer) v1.Descriptor {
	d, err := partial.Descriptor(layer)
	if err != nil {
		panic(err)
	}
	return *d
}

func digestOf(content []byte) v1.Hash {
	return describe(static.NewLayer(content, types.OCILayer)).Digest
}
