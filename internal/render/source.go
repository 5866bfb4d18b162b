package render

import (
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/rules"
)

// digestAlgorithm is the prefix of the digests that proxies can check.
const digestAlgorithm = "sha256:"

// moduleSource returns the URL from which pilot-agent fetches the module, and the
// digest that it checks: the digest of the bytes for HTTP, and that of the manifest
// for an image.
func moduleSource(mesh Mesh, filter Filter) (url, sha256 string) {
	if image := filter.Registry.Image; image != "" {
		_, digest, _ := strings.Cut(image, "@"+digestAlgorithm)
		return "oci://" + image, digest
	}
	return strings.TrimRight(mesh.ModuleServerURL, "/") + module.Path(filter.ModuleSHA256), filter.ModuleSHA256
}

// registry pins the image to the manifest that was resolved. With an index, a proxy
// would see the digest of one of its manifests, and a tag can move.
func registry(spec wasmev1.FilterSpec, resolved wasmev1.ModuleStatus) (Registry, error) {
	if spec.Image == "" {
		return Registry{}, rules.RegistryWithoutImage
	}
	if !strings.HasPrefix(resolved.ManifestDigest, digestAlgorithm) {
		return Registry{}, fmt.Errorf("spec.deployment.istio.distribution: proxies can check sha256 digests only, and the image's manifest has %q: set distribution to Served", resolved.ManifestDigest)
	}
	reference, err := name.ParseReference(spec.Image)
	if err != nil {
		return Registry{}, fmt.Errorf("spec.filter.image: %w", err)
	}
	return Registry{Image: reference.Context().Name() + "@" + resolved.ManifestDigest, PullSecret: pullSecret(spec)}, nil
}

// pullSecret returns the Secret that proxies pull with; empty for none.
func pullSecret(spec wasmev1.FilterSpec) string {
	if names := spec.ImagePullOptions.SecretNames(); len(names) > 0 {
		return names[0]
	}
	return ""
}
