package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
)

// wasmeConfigType is the media type of wasme's runtime configuration, as
// config and as layer of its artifacts.
const wasmeConfigType = "application/vnd.module.wasm.config.v1+json"

const (
	// maxLayers is what Docker takes as its bound.
	maxLayers = 127
	// maxManifests is far more than there are platforms, with an attestation for each.
	maxManifests = 1000
)

// Manifest is what the operator needs of an image manifest or of an index, of
// OCI or of Docker. Its content says which one it is: media types are missing
// or wrong often enough.
type Manifest struct {
	MediaType types.MediaType `json:"mediaType"`
	Config    v1.Descriptor   `json:"config"`
	Layers    layerList       `json:"layers"`
	Manifests manifestList    `json:"manifests"`
}

// layerList has at most maxLayers.
type layerList []v1.Descriptor

// UnmarshalJSON implements json.Unmarshaler.
func (l *layerList) UnmarshalJSON(data []byte) (err error) {
	*l, err = decodeList(data, maxLayers, "layers")
	return err
}

// manifestList has at most maxManifests.
type manifestList []v1.Descriptor

// UnmarshalJSON implements json.Unmarshaler.
func (l *manifestList) UnmarshalJSON(data []byte) (err error) {
	*l, err = decodeList(data, maxManifests, "manifests")
	return err
}

// decodeList decodes a list and fails beyond its limit: three bytes of JSON make
// a descriptor that takes 150 in memory.
func decodeList(data []byte, limit int, what string) ([]v1.Descriptor, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	switch start, err := decoder.Token(); {
	case err != nil || start == nil:
		return nil, err
	case start != json.Delim('['):
		return nil, errors.New("not a list")
	}
	var list []v1.Descriptor
	for decoder.More() {
		if len(list) == limit {
			return nil, module.Terminal(wasmev1.ReasonInvalidImage, "the image's manifest lists more than %d %s: push an image with fewer", limit, what)
		}
		var desc v1.Descriptor
		if err := decoder.Decode(&desc); err != nil {
			return nil, err
		}
		list = append(list, desc)
	}
	return list, nil
}

// ParseManifest returns the manifest or index in data. It has either layers or
// images, and not too many. The error is a *module.Error with the reason
// InvalidImage.
func ParseManifest(data []byte) (*Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		if tooLong := module.AsError(err); tooLong != nil {
			return nil, tooLong
		}
		return nil, module.Terminal(wasmev1.ReasonInvalidImage, "the image's manifest is not the JSON of an OCI or Docker manifest: push the image again")
	}
	switch {
	case len(m.Layers) > 0 && len(m.Manifests) > 0:
		return nil, module.Terminal(wasmev1.ReasonInvalidImage, "the image's manifest is an index and an image in one: push the image again")
	case len(m.Layers) == 0 && len(m.Manifests) == 0:
		return nil, module.Terminal(wasmev1.ReasonInvalidImage, "the image has no layers: push an image that holds a Wasm module")
	}
	return &m, nil
}

// IsIndex reports whether m lists images and not layers.
func (m *Manifest) IsIndex() bool { return len(m.Manifests) > 0 }

// Child returns the image of an index that holds the module: one for the
// architecture wasm, else for linux/amd64, else the first.
func (m *Manifest) Child() (v1.Descriptor, error) {
	best, rank := v1.Descriptor{}, -1
	for _, desc := range m.Manifests {
		if r := rankChild(desc); r > rank {
			best, rank = desc, r
		}
	}
	if rank < 0 {
		return v1.Descriptor{}, module.Terminal(wasmev1.ReasonInvalidImage, "the image's index holds attestations only: push an image that holds a Wasm module")
	}
	return best, nil
}

// rankChild ranks an image of an index; -1 is for what is no image. Attestations are
// marked by an annotation (BuildKit's "attestation storage").
func rankChild(desc v1.Descriptor) int {
	_, attestation := desc.Annotations["vnd.docker.reference.type"]
	switch p := desc.Platform; {
	case attestation:
		return -1
	case p == nil:
		return 0
	case p.Architecture == "wasm":
		return 2
	case p.OS == "linux" && p.Architecture == "amd64":
		return 1
	}
	return 0
}

// wasmLayer returns the layer that is the module itself, as in wasme's and the
// CNCF's artifacts; nil when the image is no artifact.
func (m *Manifest) wasmLayer() (*v1.Descriptor, error) {
	var found *v1.Descriptor
	for i, layer := range m.Layers {
		if !isWasm(layer) {
			continue
		}
		if found != nil {
			return nil, module.Terminal(wasmev1.ReasonInvalidImage, "the image has several layers that are Wasm modules: push one module per image")
		}
		found = &m.Layers[i]
	}
	return found, nil
}

// isWasm reports whether a layer is a module by its media type: application/wasm
// (CNCF), application/vnd.module.wasm.content.layer.v1+wasm (wasme) or
// application/vnd.wasm.content.layer.v1+wasm (the CNCF's first form).
func isWasm(desc v1.Descriptor) bool {
	mediaType := string(desc.MediaType)
	return mediaType == "application/wasm" || strings.HasSuffix(mediaType, "+wasm")
}

// runtimeConfig returns the blob that is wasme's runtime configuration, as
// config or as layer; nil when there is none.
func (m *Manifest) runtimeConfig() *v1.Descriptor {
	if m.Config.MediaType == wasmeConfigType {
		return &m.Config
	}
	for i, layer := range m.Layers {
		if layer.MediaType == wasmeConfigType {
			return &m.Layers[i]
		}
	}
	return nil
}

// foreign reports whether a layer is stored elsewhere, at addresses that the
// image names; those are not followed.
func foreign(desc v1.Descriptor) bool {
	return len(desc.URLs) > 0 || !desc.MediaType.IsDistributable()
}
