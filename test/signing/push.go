package signing

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/wasme-io/wasme-operator/test/registry"
)

// PushTag puts signatures under cosign's tag of an image.
func PushTag(ctx context.Context, r *registry.Registry, repository string, image v1.Hash, layers ...Layer) error {
	manifest := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, layer := range layers {
		next, err := mutate.Append(manifest, addendum(layer))
		if err != nil {
			return err
		}
		manifest = next
	}
	_, err := r.Push(ctx, fmt.Sprintf("%s:%s-%s.sig", repository, image.Algorithm, image.Hex), manifest)
	return err
}

func addendum(layer Layer) mutate.Addendum {
	return mutate.Addendum{Layer: static.NewLayer(layer.Content, layer.MediaType), Annotations: layer.Annotations}
}

// raw is a manifest as it is, for what ggcr does not write.
type raw struct {
	v1.Image
	content []byte
}

// RawManifest implements remote.Taggable.
func (r raw) RawManifest() ([]byte, error) { return r.content, nil }

// Digest is that of the content.
func (r raw) Digest() (v1.Hash, error) { return Layer{Content: r.content}.Descriptor().Digest, nil }

// Size is that of the content.
func (r raw) Size() (int64, error) { return int64(len(r.content)), nil }

// PushReferrer pushes a manifest that refers to an image and has a signature as its layer.
// It returns its descriptor, with the type that a list of referrers has.
func PushReferrer(ctx context.Context, r *registry.Registry, repository string, image v1.Descriptor, layer Layer) (v1.Descriptor, error) {
	blobs, err := mutate.Append(mutate.ConfigMediaType(empty.Image, "application/vnd.oci.empty.v1+json"), addendum(layer))
	if err != nil {
		return v1.Descriptor{}, err
	}
	manifest, err := blobs.Manifest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	manifest.MediaType, manifest.Subject = types.OCIManifestSchema1, &image
	text, err := json.Marshal(struct {
		*v1.Manifest
		ArtifactType string `json:"artifactType"`
	}{manifest, string(layer.MediaType)})
	if err != nil {
		return v1.Descriptor{}, err
	}
	pushed := raw{blobs, text}
	digest, err := pushed.Digest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	if _, err := r.Push(ctx, repository+"@"+digest.String(), pushed); err != nil {
		return v1.Descriptor{}, err
	}
	return v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: digest, Size: int64(len(text)), ArtifactType: string(layer.MediaType)}, nil
}

// index is an image index as it is.
type index struct {
	v1.ImageIndex
	content []byte
}

// RawManifest implements remote.Taggable.
func (i index) RawManifest() ([]byte, error) { return i.content, nil }

// MediaType implements remote.Taggable.
func (i index) MediaType() (types.MediaType, error) { return types.OCIImageIndex, nil }

// PushFallback lists manifests that refer to an image in an index under the fallback tag of
// the referrers, as clients do for registries that have no list. A descriptor may come
// without its type.
func PushFallback(ctx context.Context, r *registry.Registry, repository string, image v1.Hash, referrers ...v1.Descriptor) error {
	text, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: referrers})
	if err != nil {
		return err
	}
	_, err = r.Push(ctx, fmt.Sprintf("%s:%s-%s", repository, image.Algorithm, image.Hex), index{empty.Index, text})
	return err
}

// WithoutReferrers makes a registry one that does not list referrers.
func WithoutReferrers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if strings.Contains(request.URL.Path, "/referrers/") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		next.ServeHTTP(w, request)
	})
}
