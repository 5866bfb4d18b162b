package store

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"golang.org/x/sync/errgroup"

	"github.com/wasme-io/wasme-operator/internal/cli/image"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

const hello = "registry.example.com/filters/hello:v1"

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	moduletest.Must(t, err)
	return s
}

func reference(t *testing.T, text string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(text, name.StrictValidation)
	moduletest.Must(t, err)
	return ref
}

func imageOf(t *testing.T, text string) v1.Image {
	t.Helper()
	made, err := image.Write(image.Wasme, &image.Module{Wasm: moduletest.Wasm(text), RootIDs: []string{"root"}})
	moduletest.Must(t, err)
	return made
}

// blobs returns the names of the files with blobs.
func blobs(t *testing.T, s *Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.path("blobs", "sha256"))
	moduletest.Must(t, err)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func TestAnImageIsKeptUnderItsName(t *testing.T) {
	s, made := open(t, t.TempDir()), imageOf(t, "a")
	ref := reference(t, hello)
	moduletest.Must(t, s.Put(t.Context(), ref, made))
	again := open(t, s.Dir())
	found, err := again.Get(ref)
	moduletest.Must(t, err)
	want, got := moduletest.DigestOf(t, made), moduletest.DigestOf(t, found)
	if got != want {
		t.Errorf("%s, not %s", got, want)
	}
	byDigest, err := again.Get(reference(t, "registry.example.com/filters/hello@"+want))
	if err != nil || moduletest.DigestOf(t, byDigest) != want {
		t.Errorf("by its digest: %v", err)
	}
	entries, err := again.List()
	moduletest.Must(t, err)
	if len(entries) != 1 || entries[0].Reference != hello || entries[0].Digest.String() != want || entries[0].Updated.IsZero() || entries[0].SizeBytes < int64(len(moduletest.Wasm("a"))) {
		t.Errorf("%+v", entries)
	}
	_, err = again.Get(reference(t, "registry.example.com/filters/other:v1"))
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("another name: %v", err)
	}
}

func TestANameThatMovesLeavesNothingBehind(t *testing.T) {
	s := open(t, t.TempDir())
	moduletest.Must(t, s.Put(t.Context(), reference(t, hello), imageOf(t, "a")))
	moduletest.Must(t, s.Put(t.Context(), reference(t, "registry.example.com/filters/hello:v2"), imageOf(t, "b")))
	moduletest.Must(t, os.WriteFile(s.path("blobs", "sha256", ".writing-1"), []byte("of a process that was killed"), 0o600))
	before := blobs(t, s)
	moduletest.Must(t, s.Put(t.Context(), reference(t, hello), imageOf(t, "b")))
	if after := blobs(t, s); !slices.Equal(after, before) {
		t.Errorf("what was used just now went: %q became %q", before, after)
	}
	long := time.Now().Add(-2 * unusedTime)
	for _, blob := range before {
		moduletest.Must(t, os.Chtimes(s.path("blobs", "sha256", blob), long, long))
	}
	moduletest.Must(t, s.Put(t.Context(), reference(t, hello), imageOf(t, "b")))
	after := blobs(t, s)
	if len(after) >= len(before)-1 || slices.ContainsFunc(after, func(file string) bool { return strings.HasPrefix(file, ".") }) {
		t.Errorf("%q became %q", before, after)
	}
	for _, tag := range []string{"v1", "v2"} {
		if _, err := s.Get(reference(t, "registry.example.com/filters/hello:"+tag)); err != nil {
			t.Error(err)
		}
	}
}

func TestDamageIsFoundAndRepaired(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"a blob that was cut short": func(path string) error { return os.Truncate(path, 3) },
		"a blob that is lost":       os.Remove,
		"another content":           func(path string) error { return os.WriteFile(path, []byte("other"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			s, made := open(t, t.TempDir()), imageOf(t, "a")
			ref := reference(t, hello)
			moduletest.Must(t, s.Put(t.Context(), ref, made))
			for _, blob := range blobs(t, s) {
				path := s.path("blobs", "sha256", blob)
				moduletest.Must(t, os.Chmod(path, 0o600))
				moduletest.Must(t, damage(path))
				if _, err := s.Get(ref); err == nil || !strings.Contains(err.Error(), "the local store is damaged at "+hello) {
					t.Fatalf("%s: %v", blob, err)
				}
				moduletest.Must(t, s.Put(t.Context(), ref, made))
				if _, err := s.Get(ref); err != nil {
					t.Fatalf("%s: %v", blob, err)
				}
			}
		})
	}
}

// broken is an image whose layers end with an error.
type broken struct{ v1.Image }

type brokenLayer struct{ v1.Layer }

var errCut = errors.New("the connection was cut")

func (b broken) Layers() ([]v1.Layer, error) {
	layers, err := b.Image.Layers()
	for i := range layers {
		layers[i] = brokenLayer{layers[i]}
	}
	return layers, err
}

func (b brokenLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(strings.NewReader("{"), failing{})), nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errCut }

func TestAnInterruptedPullLeavesTheStoreAsItWas(t *testing.T) {
	s := open(t, t.TempDir())
	ref := reference(t, hello)
	moduletest.Must(t, s.Put(t.Context(), ref, imageOf(t, "a")))
	if err := s.Put(t.Context(), ref, broken{imageOf(t, "b")}); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	found, err := s.Get(ref)
	if err != nil || moduletest.DigestOf(t, found) != moduletest.DigestOf(t, imageOf(t, "a")) {
		t.Error(err)
	}
	moduletest.Must(t, s.Put(t.Context(), ref, imageOf(t, "b")))
}

func TestAnIndexThatCannotBeReplacedCostsNoImage(t *testing.T) {
	s := open(t, t.TempDir())
	ref := reference(t, hello)
	moduletest.Must(t, s.Put(t.Context(), ref, imageOf(t, "a")))
	long := time.Now().Add(-2 * unusedTime)
	for _, blob := range blobs(t, s) {
		moduletest.Must(t, os.Chtimes(s.path("blobs", "sha256", blob), long, long))
	}
	moduletest.Must(t, os.Rename(s.path(indexFile), s.path("kept")))
	moduletest.Must(t, os.WriteFile(s.path(indexFile), []byte(`{"schemaVersion":2}`), 0o600))
	err := s.change(t.Context(), func(*v1.IndexManifest) error {
		return errors.Join(os.Remove(s.path(indexFile)), os.Mkdir(s.path(indexFile), 0o700)) // which no file can replace
	})
	if err == nil {
		t.Fatal("the index was replaced")
	}
	moduletest.Must(t, os.Remove(s.path(indexFile)))
	moduletest.Must(t, os.Rename(s.path("kept"), s.path(indexFile)))
	if _, err := s.Get(ref); err != nil {
		t.Error(err)
	}
}

func TestAnotherToolsIndexKeepsItsImages(t *testing.T) {
	s := open(t, t.TempDir())
	moduletest.Must(t, s.Put(t.Context(), reference(t, hello), imageOf(t, "a")))
	moduletest.Must(t, s.dir.AppendIndex(mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: imageOf(t, "b")})))
	long := time.Now().Add(-2 * unusedTime)
	before := blobs(t, s)
	for _, blob := range before {
		moduletest.Must(t, os.Chtimes(s.path("blobs", "sha256", blob), long, long))
	}
	moduletest.Must(t, s.Put(t.Context(), reference(t, hello), imageOf(t, "a")))
	if after := blobs(t, s); !slices.Equal(after, before) {
		t.Errorf("%q became %q", before, after)
	}
}

func TestStoresOfOneFolderTakeTurns(t *testing.T) {
	dir := t.TempDir()
	var group errgroup.Group
	for process := range 4 {
		group.Go(func() error {
			s, err := Open(dir)
			for i := 0; err == nil && i < 8; i++ {
				ref, _ := name.ParseReference(fmt.Sprintf("registry.example.com/filters/%d:%d", process, i))
				err = s.Put(t.Context(), ref, imageOf(t, fmt.Sprint(process, i)))
			}
			return err
		})
	}
	moduletest.Must(t, group.Wait())
	entries, err := open(t, dir).List()
	if err != nil || len(entries) != 32 {
		t.Errorf("%d images, %v", len(entries), err)
	}
}

func TestABrokenIndexIsNamed(t *testing.T) {
	s := open(t, t.TempDir())
	moduletest.Must(t, os.WriteFile(s.path(indexFile), []byte("no JSON"), 0o600))
	if _, err := s.List(); err == nil || !strings.Contains(err.Error(), "index.json is not an index of images") {
		t.Error(err)
	}
}

func TestImagesTravelInAnArchive(t *testing.T) {
	from, to := open(t, t.TempDir()), open(t, t.TempDir())
	refs := []name.Reference{reference(t, hello), reference(t, "registry.example.com/filters/other:v2")}
	for _, ref := range refs {
		moduletest.Must(t, from.Put(t.Context(), ref, imageOf(t, ref.Name())))
	}
	var archive, again bytes.Buffer
	moduletest.Must(t, from.Save(t.Context(), &archive, refs...))
	moduletest.Must(t, from.Save(t.Context(), &again, refs...))
	if !bytes.Equal(archive.Bytes(), again.Bytes()) {
		t.Error("the same images gave two archives")
	}
	loaded, err := to.Load(t.Context(), &archive)
	if err != nil || len(loaded) != 2 {
		t.Fatalf("%v, %v", loaded, err)
	}
	for _, ref := range refs {
		found, err := to.Get(ref)
		if err != nil || moduletest.DigestOf(t, found) != moduletest.DigestOf(t, imageOf(t, ref.Name())) {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	archiveOf := func(files map[string]string) []byte {
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		for file, content := range files {
			moduletest.Must(t, w.WriteHeader(&tar.Header{Name: file, Mode: 0o644, Size: int64(len(content))}))
			_, err := w.Write([]byte(content))
			moduletest.Must(t, err)
		}
		moduletest.Must(t, w.Close())
		return archive.Bytes()
	}
	const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	entry := func(annotations string) string {
		return `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":0,"digest":"` + digest + `","annotations":{` + annotations + `}}]}`
	}
	for name, c := range map[string]struct {
		archive []byte
		message string
	}{
		"no archive":              {[]byte(strings.Repeat("no archive", 100)), "reading the archive"},
		"an archive of something": {archiveOf(map[string]string{"README": "hello"}), "is not an OCI image layout"},
		"an image without a name": {archiveOf(map[string]string{"index.json": entry("")}), "has no name like registry.example.com/filters/hello:v1"},
		"an image without blobs":  {archiveOf(map[string]string{"index.json": entry(`"org.opencontainers.image.ref.name":"` + hello + `"`)}), "damaged at " + hello},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			if _, err := s.Load(t.Context(), bytes.NewReader(c.archive)); err == nil || !strings.Contains(err.Error(), c.message) {
				t.Error(err)
			}
		})
	}
}

func TestAnArchiveDoesNotLeaveItsFolder(t *testing.T) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, file := range []string{"../outside", "/outside", "blobs/sha256/../../../outside"} {
		moduletest.Must(t, w.WriteHeader(&tar.Header{Name: file, Mode: 0o644, Size: 1}))
		_, err := w.Write([]byte("x"))
		moduletest.Must(t, err)
	}
	moduletest.Must(t, w.WriteHeader(&tar.Header{Name: "index.json", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}))
	moduletest.Must(t, w.Close())
	parent := t.TempDir()
	folder := filepath.Join(parent, "inside")
	moduletest.Must(t, os.Mkdir(folder, 0o700))
	moduletest.Must(t, unpack(&archive, folder))
	moduletest.WantFiles(t, parent)
}
