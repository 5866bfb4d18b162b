package oci

import (
	"archive/tar"
	"fmt"
	"path"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// agentBytes is how far pilot-agent reads into a layer, and its largest module
// (ISTIO_WASM_MAX_BINARY_SIZE_BYTES, by default).
const agentBytes = 256 << 20

// agentLayer is the only media type that pilot-agent takes for a module itself.
const agentLayer = "application/vnd.module.wasm.content.layer.v1+wasm"

// How a layer is packed; empty when it is not.
const (
	packedGzip = "gzip"
	packedZstd = "zstd"
)

// extraction is how a module came out of its image, as far as another reader
// might find another one, or none.
type extraction struct {
	// digest is that of the layer that held it.
	digest v1.Hash
	// packing is how that layer was packed.
	packing string
	// itself says that the layer is the module and not an archive.
	itself bool
	// end is the number of bytes of the layer, unpacked if it is an archive, up to
	// the module's end.
	end int64
	// decoy says that pilot-agent, which takes the first entry of the archive with
	// the module's name in any folder, finds another one, or none.
	decoy bool
	// giant says that an earlier entry is larger than all that pilot-agent reads,
	// which makes room for it.
	giant bool
}

// pass notes an entry of the archive that is not the module.
func (e *extraction) pass(header *tar.Header) {
	e.decoy = e.decoy || isNamed(header)
	e.giant = e.giant || header.Size > agentBytes
}

// take returns what is known when an entry of the archive is the module.
func (e *extraction) take(header *tar.Header) extraction {
	taken := *e
	taken.decoy = e.decoy || !isNamed(header)
	return taken
}

// isNamed reports whether pilot-agent would take the entry for the module.
func isNamed(header *tar.Header) bool { return path.Base(header.Name) == pluginFile }

// agentRefuses says why pilot-agent would not take the module that came out of
// an image so, as a part of a sentence about the image; empty when it would. Its
// rules are those of Istio's pkg/wasm/imagefetcher.go: it reads the last layer as
// an archive if that has the one type for it, and else, unless the manifest is
// Docker's, looks for a module among exactly two layers. Where it would try
// another reading after a failure, that is a refusal here.
func agentRefuses(m *Manifest, taken extraction) string {
	last := m.Layers[len(m.Layers)-1]
	archiveType, docker := types.OCILayer, m.MediaType == types.DockerManifestSchema2
	if docker {
		archiveType = types.DockerLayer
	}
	switch {
	case m.ambiguous():
		return "it lists the same content under two media types"
	case last.MediaType == archiveType:
		return refusesArchive(last, taken)
	case docker || !taken.itself:
		return fmt.Sprintf("its last layer is not of the type %s", archiveType)
	}
	return refusesArtifact(m, taken)
}

func refusesArchive(last v1.Descriptor, taken extraction) string {
	switch {
	case taken.digest != last.Digest:
		return "its last layer is an archive, and the module is not in that one"
	case taken.packing != packedGzip:
		return "its last layer is not packed with gzip"
	case taken.decoy:
		return fmt.Sprintf("the first file named %s in its last layer is not the module", pluginFile)
	case taken.giant || taken.end > agentBytes:
		return fmt.Sprintf("its last layer has more than %d MiB up to the end of the module", agentBytes>>20)
	}
	return ""
}

func refusesArtifact(m *Manifest, taken extraction) string {
	isModule := func(layer v1.Descriptor) bool { return layer.MediaType == agentLayer }
	switch {
	case !slices.ContainsFunc(m.Layers, isModule):
		return "its module is not of the type " + agentLayer
	case len(m.Layers) != 2:
		return "it does not have exactly two layers, the runtime configuration and the module"
	case taken.packing != "":
		return "its module is packed with " + taken.packing
	case taken.end > agentBytes:
		return fmt.Sprintf("its module has more than %d MiB", agentBytes>>20)
	}
	return ""
}

// ambiguous reports whether the manifest lists a digest under two media types:
// go-containerregistry takes a layer's type from the first descriptor with its
// digest, the configuration's included.
func (m *Manifest) ambiguous() bool {
	typeOf := map[v1.Hash]types.MediaType{m.Config.Digest: m.Config.MediaType}
	for _, layer := range m.Layers {
		if known, listed := typeOf[layer.Digest]; listed && known != layer.MediaType {
			return true
		}
		typeOf[layer.Digest] = layer.MediaType
	}
	return false
}
