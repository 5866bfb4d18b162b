package moduletest

import (
	"context"
	"net/http"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/wasme-io/wasme-operator/test/registry"
)

// FormOf returns an image that holds a module in that form.
func FormOf(t *testing.T, form registry.Form, wasm []byte, rootIDs ...string) v1.Image {
	t.Helper()
	image, err := registry.Image(form, registry.Module{Bytes: wasm, RootIDs: rootIDs})
	Must(t, err)
	return image
}

// ImageOf returns an image of these layers.
func ImageOf(t *testing.T, layers ...registry.Layer) v1.Image {
	t.Helper()
	image, err := registry.Artifact(types.OCIConfigJSON, []byte("{}"), nil, layers...)
	Must(t, err)
	return image
}

// Layers returns layers of ordinary OCI images.
func Layers(contents ...[]byte) []registry.Layer {
	var made []registry.Layer
	for _, content := range contents {
		made = append(made, registry.Layer{MediaType: types.OCILayer, Bytes: content})
	}
	return made
}

// DigestOf returns the digest of an image or index, sha256:<64 hex>.
func DigestOf(t *testing.T, image remote.Taggable) string {
	t.Helper()
	digest, err := registry.Digest(image)
	Must(t, err)
	return digest
}

// StartRegistry starts a registry for the time of the test.
func StartRegistry(t *testing.T, options ...registry.Option) *registry.Registry {
	t.Helper()
	r, err := registry.Start(options...)
	Must(t, err)
	t.Cleanup(r.Close)
	return r
}

// Push pushes an image or index and returns its reference.
func Push(t *testing.T, r *registry.Registry, path string, content remote.Taggable) string {
	t.Helper()
	ref, err := r.Push(context.Background(), path, content)
	Must(t, err)
	return ref
}

// WantRequests checks how many requests a registry had; an empty method or path
// stands for all.
func WantRequests(t *testing.T, r *registry.Registry, method, path string, want int) {
	t.Helper()
	if got := r.Requests(method, path); got != want {
		t.Errorf("%d requests %s %s, not %d", got, method, path, want)
	}
}

// OnHEAD has requests with the method HEAD answered by with.
func OnHEAD(with func(http.ResponseWriter)) registry.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodHead {
				with(w)
				return
			}
			next.ServeHTTP(w, req)
		})
	}
}
