package migrate

import (
	"path"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// cacheFolder is where the DaemonSet of wasme 0.0.33 keeps modules on each node, and where
// sidecars mount them. A file has the digest of its module as name.
const cacheFolder = "/var/local/lib/wasme-cache"

// digest is a SHA-256 in hexadecimal digits.
var digest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// needsImage is the fix where only the user knows which image has the module.
const needsImage = "name the image with --image OBJECT=IMAGE"

// filter is a Wasm filter that an object asks for.
type filter struct {
	// plugin is the name of the plugin in proxies.
	plugin string
	// spec is the filter as far as the object says.
	spec wasmev1.FilterSpec
	// unknown says why the module is not known, and what to do; empty when it is.
	unknown string
	// cached says that the module is a file of wasme's cache.
	cached bool
	// client says that patchContext is Istio's CLIENT: outbound of sidecars, and all of gateways.
	client bool
	notes  []string
}

// from has the module come from an address: an image, or the module itself, with a digest
// that may be empty. Without a scheme, it is an image.
func (f *filter) from(address, sha256 string) {
	scheme, rest, found := strings.Cut(address, "://")
	switch {
	case address == "":
		f.unknown = "it does not say where the module comes from: " + needsImage
	case !found:
		f.spec.Image = pinned(address, sha256)
	case scheme == "oci":
		f.spec.Image = pinned(rest, sha256)
	case scheme == "file":
		f.file(rest)
	case scheme != "http" && scheme != "https":
		f.unknown = "the module comes from " + address + ", which the operator cannot fetch: " + needsImage
	case sha256 == "":
		f.unknown = "the module behind " + address + " can change: set its sha256 in the object, or " + needsImage
	default:
		f.spec.URL, f.spec.SHA256 = address, sha256
	}
}

// pinned returns an image by the digest of its manifest, if that is known: Istio's agent
// compares the sha256 of an image with it.
func pinned(image, sha256 string) string {
	reference, err := name.ParseReference(image)
	if err != nil || sha256 == "" {
		return image
	}
	return reference.Context().Name() + "@sha256:" + sha256
}

// file has the module come from a file of the proxy's container.
func (f *filter) file(file string) {
	f.cached = path.Dir(path.Clean(file)) == cacheFolder
	if base := path.Base(file); f.cached && digest.MatchString(base) {
		f.spec.SHA256 = base
	}
	f.unknown = "the module is the file " + file + " of the proxy: " + needsImage
}
