package pull

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

// The registry of these images refuses connections.
const preloadedName = "127.0.0.1:1/filters/hello:v1"

func TestPreloadedImagesAreReadWithoutARegistry(t *testing.T) {
	wasm := moduletest.Wasm("preloaded")
	image := moduletest.FormOf(t, registry.WasmeArtifact, wasm, "root")
	child := "@" + moduletest.DigestOf(t, image)
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: image})
	ocis, containerds := "org.opencontainers.image.ref.name", "io.containerd.image.name"
	for name, c := range map[string]struct {
		folder, annotation, named, asked string
		index, found                     bool
	}{
		"by its name":                        {"", ocis, preloadedName, preloadedName, false, true},
		"by the name that containerd writes": {"", containerds, preloadedName, preloadedName, false, true},
		"in a subfolder":                     {"hello", ocis, preloadedName, preloadedName, false, true},
		"behind an index":                    {"", ocis, preloadedName, preloadedName, true, true},
		"by its digest":                      {"", ocis, preloadedName, "127.0.0.1:1/filters/hello" + child, false, true},
		"by the digest of an index's image":  {"", ocis, preloadedName, "127.0.0.1:1/filters/hello" + child, true, true},
		"not under another tag":              {"", ocis, preloadedName, "127.0.0.1:1/filters/hello:v2", false, false},
		"not in another repository":          {"", ocis, preloadedName, "127.0.0.1:1/other" + child, false, false},
		"not by a tag alone":                 {"", ocis, "v1", "127.0.0.1:1/library/v1:latest", false, false},
		"not two folders below":              {"a/b", ocis, preloadedName, preloadedName, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			annotations := map[string]string{c.annotation: c.named}
			if c.index {
				moduletest.Must(t, write(t, dir, c.folder).AppendIndex(index, layout.WithAnnotations(annotations)))
			} else {
				moduletest.Must(t, write(t, dir, c.folder).AppendImage(image, layout.WithAnnotations(annotations)))
			}
			client := preloading(t, dir)
			m, err := pullWith(t, client, Request{Image: c.asked})
			if client.Preloaded(Request{Image: c.asked}) != c.found {
				t.Errorf("preloaded: %t", !c.found)
			}
			if !c.found {
				want := "looking up " + c.asked + ": 127.0.0.1:1: the connection was refused; --preloaded-images does not have it either"
				if failure := module.AsError(err); failure == nil || failure.Reason != wasmev1.ReasonRegistryUnavailable || failure.Message != want {
					t.Errorf("%v, not %s", err, want)
				}
				return
			}
			moduletest.Must(t, err)
			wantModule(t, m, image, wasm)
		})
	}
}

func TestPreloadedImagesThatAreBroken(t *testing.T) {
	wasm := moduletest.Wasm("preloaded")
	image := moduletest.FormOf(t, registry.WasmeArtifact, wasm, "root")
	layer, manifest := moduletest.SHA256(wasm), strings.TrimPrefix(moduletest.DigestOf(t, image), "sha256:")
	blob := func(dir, hex string) string { return filepath.Join(dir, "blobs", "sha256", hex) }
	for name, c := range map[string]struct {
		damage          func(dir string) error
		reason, message string
	}{
		"another layer":    {func(dir string) error { return os.WriteFile(blob(dir, layer), wasm[:20], 0o600) }, wasmev1.ReasonDigestMismatch, "has a blob that is not sha256:" + layer},
		"another manifest": {func(dir string) error { return os.WriteFile(blob(dir, manifest), []byte("{}"), 0o600) }, wasmev1.ReasonDigestMismatch, "has a blob that is not sha256:" + manifest},
		"no layer":         {func(dir string) error { return os.Remove(blob(dir, layer)) }, wasmev1.ReasonImageNotFound, "has no readable blob sha256:" + layer},
		"a pipe": {func(dir string) error {
			_ = os.Remove(blob(dir, layer))
			return syscall.Mkfifo(blob(dir, layer), 0o600)
		}, wasmev1.ReasonImageNotFound, "has no readable blob"},
		"a link out of it":  {outside(layer, wasm), wasmev1.ReasonImageNotFound, "has no readable blob"},
		"a layer too large": {func(dir string) error { return os.Truncate(blob(dir, layer), 2<<20) }, wasmev1.ReasonTooLarge, "--max-layer-bytes"},
		"no JSON": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "index.json"), []byte("no JSON"), 0o600)
		}, wasmev1.ReasonRegistryUnavailable, "--preloaded-images does not have it either, as far as it can be read: index.json is not the index of an OCI image layout"},
		"a huge index": {func(dir string) error { return os.Truncate(filepath.Join(dir, "index.json"), 2<<20) }, wasmev1.ReasonRegistryUnavailable, "as far as it can be read"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			moduletest.Must(t, write(t, dir, "").AppendImage(image, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": preloadedName})))
			moduletest.Must(t, c.damage(dir))
			_, err := pullWith(t, preloading(t, dir), Request{Image: preloadedName})
			moduletest.WantError(t, err, c.reason, c.message)

			moduletest.Must(t, write(t, dir, "healthy").AppendImage(image, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "127.0.0.1:1/healthy:v1"})))
			m, err := pullWith(t, preloading(t, dir), Request{Image: "127.0.0.1:1/healthy:v1"})
			moduletest.Must(t, err)
			wantModule(t, m, image, wasm)
		})
	}
}

// outside replaces a blob by a link to the same content beside the folder.
func outside(hex string, content []byte) func(string) error {
	return func(dir string) error {
		elsewhere := filepath.Join(filepath.Dir(dir), "elsewhere")
		if err := os.WriteFile(elsewhere, content, 0o600); err != nil {
			return err
		}
		path := filepath.Join(dir, "blobs", "sha256", hex)
		if err := os.Remove(path); err != nil {
			return err
		}
		return os.Symlink(elsewhere, path)
	}
}

func TestPreloadedImagesBehindALink(t *testing.T) {
	dir := t.TempDir()
	image := moduletest.FormOf(t, registry.WasmeArtifact, moduletest.Wasm("preloaded"), "root")
	moduletest.Must(t, write(t, dir, ".hidden/v1").AppendImage(image, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": preloadedName})))
	moduletest.Must(t, os.Symlink(".hidden/v1", filepath.Join(dir, "hello")))
	if !preloading(t, dir).Preloaded(Request{Image: preloadedName}) {
		t.Error("not found")
	}
}

func TestAFolderOfPreloadedImagesThatIsGone(t *testing.T) {
	dir := t.TempDir()
	client := preloading(t, dir)
	moduletest.Must(t, os.RemoveAll(dir))
	_, err := pullWith(t, client, Request{Image: preloadedName})
	moduletest.WantError(t, err, wasmev1.ReasonRegistryUnavailable, "--preloaded-images does not have it either, as far as it can be read: readdirent ")
}

func TestAFolderOfPreloadedImagesMustExist(t *testing.T) {
	if _, err := OpenPreloaded(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "opening the preloaded images") {
		t.Errorf("%v", err)
	}
}

func write(t *testing.T, dir, folder string) layout.Path {
	t.Helper()
	path, err := layout.Write(filepath.Join(dir, folder), empty.Index)
	moduletest.Must(t, err)
	return path
}

func preloading(t *testing.T, dir string) *Client {
	t.Helper()
	preloaded, err := OpenPreloaded(dir)
	moduletest.Must(t, err)
	return NewClient(Options{Preloaded: preloaded, Limits: module.Limits{ManifestBytes: 1 << 20, LayerBytes: 1 << 20, ModuleBytes: 1 << 20, ArchiveEntries: 10}})
}
