package module

import (
	"encoding/json"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// wasmeConfigType is the media type of wasme's runtime configuration, as
// config and as layer of its artifacts.
const wasmeConfigType = "application/vnd.module.wasm.config.v1+json"

const (
	maxIndexDepth = 3
	// maxLayers is what Docker takes as its bound.
	maxLayers = 127
)

// manifest is what image manifests and indexes, of OCI and of Docker, have in
// common here. Which one it is shows in its content: media types are missing
// or wrong often enough.
type manifest struct {
	Config    v1.Descriptor   `json:"config"`
	Layers    []v1.Descriptor `json:"layers"`
	Manifests []v1.Descriptor `json:"manifests"`
}

func parseManifest(data []byte) (*manifest, error) {
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, refused(wasmev1.ReasonInvalidImage, "the image's manifest is not the JSON of an OCI or Docker manifest: push the image again")
	}
	switch {
	case len(m.Layers) > 0 && len(m.Manifests) > 0:
		return nil, refused(wasmev1.ReasonInvalidImage, "the image's manifest is an index and an image in one: push the image again")
	case len(m.Layers) == 0 && len(m.Manifests) == 0:
		return nil, refused(wasmev1.ReasonInvalidImage, "the image has no layers: push an image that holds a Wasm module")
	case len(m.Layers) > maxLayers:
		return nil, refused(wasmev1.ReasonInvalidImage, "the image has %d layers, at most %d are read: build it FROM scratch", len(m.Layers), maxLayers)
	}
	return &m, nil
}

// child picks the image of an index that holds the module: one for the
// architecture wasm, else for linux/amd64, else the first.
func (m *manifest) child() (v1.Descriptor, error) {
	best, rank := v1.Descriptor{}, -1
	for _, desc := range m.Manifests {
		if r := rankChild(desc); r > rank {
			best, rank = desc, r
		}
	}
	if rank < 0 {
		return v1.Descriptor{}, refused(wasmev1.ReasonInvalidImage, "the image's index holds attestations only: push an image that holds a Wasm module")
	}
	return best, nil
}

// rankChild orders the images of an index; -1 is none at all. Attestations are
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

// wasmLayer returns the layer that is the module itself: that of wasme's and
// of CNCF's artifacts. Nil: the image is no artifact.
func (m *manifest) wasmLayer() (*v1.Descriptor, error) {
	var found *v1.Descriptor
	for i, layer := range m.Layers {
		if !isWasm(layer) {
			continue
		}
		if found != nil {
			return nil, refused(wasmev1.ReasonInvalidImage, "the image has several layers that are Wasm modules: push one module an image")
		}
		found = &m.Layers[i]
	}
	return found, nil
}

// isWasm covers application/wasm (CNCF), application/vnd.module.wasm.content.layer.v1+wasm
// (wasme) and application/vnd.wasm.content.layer.v1+wasm (CNCF's first form).
func isWasm(desc v1.Descriptor) bool {
	mediaType := string(desc.MediaType)
	return mediaType == "application/wasm" || strings.HasSuffix(mediaType, "+wasm")
}

// runtimeConfig returns the blob that is wasme's runtime configuration, as
// config or as layer; nil when there is none.
func (m *manifest) runtimeConfig() *v1.Descriptor {
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

// foreign layers lie elsewhere, at addresses that the image names; those are
// not followed.
func foreign(desc v1.Descriptor) bool {
	return len(desc.URLs) > 0 || !desc.MediaType.IsDistributable()
}
