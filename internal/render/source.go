package render

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
)

// digestAlgorithm begins the digests of manifests that proxies can check.
const digestAlgorithm = "sha256:"

// moduleSource is where pilot-agent fetches the module, and the digest by which
// it knows it: that of the bytes for HTTP, that of the manifest for an image.
func moduleSource(mesh Mesh, filter Filter) (url, sha256 string) {
	if image := filter.Registry.Image; image != "" {
		_, digest, _ := strings.Cut(image, "@"+digestAlgorithm)
		return "oci://" + image, digest
	}
	return strings.TrimRight(mesh.ModuleServerURL, "/") + module.Path(filter.ModuleSHA256), filter.ModuleSHA256
}

// registry pins the image to the manifest that was resolved: an index would
// give each proxy its child's digest, and a tag moves.
func registry(spec wasmev1.FilterSpec, resolved wasmev1.ModuleStatus) (Registry, error) {
	if spec.Image == "" {
		return Registry{}, errNoImage
	}
	if !strings.HasPrefix(resolved.ManifestDigest, digestAlgorithm) {
		return Registry{}, fmt.Errorf("spec.deployment.istio.distribution: proxies check sha256 digests only, and the image's manifest has %q; use Served", resolved.ManifestDigest)
	}
	reference, err := name.ParseReference(spec.Image)
	if err != nil {
		return Registry{}, fmt.Errorf("spec.filter.image: %w", err)
	}
	return Registry{Image: reference.Context().Name() + "@" + resolved.ManifestDigest, PullSecret: pullSecret(spec)}, nil
}

var errNoImage = errors.New("spec.deployment.istio.distribution is Registry, and proxies pull nothing but images: name one in spec.filter.image, or use Served")

func pullSecret(spec wasmev1.FilterSpec) string {
	if spec.ImagePullOptions == nil {
		return ""
	}
	return spec.ImagePullOptions.PullSecret
}
