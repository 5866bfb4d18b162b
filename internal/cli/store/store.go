// Package store keeps images on this machine: an OCI image layout
// (https://github.com/opencontainers/image-spec/blob/main/image-layout.md) whose index names
// each image by its whole reference, and says when it was put there.
//
// Blobs are written under another name first, then the index is replaced at once, and then
// blobs go that no image has any more: a process that is killed leaves a store that works.
// Processes change the index in turns, through a file lock. Blobs that were used within the
// last hour stay, because another process may read them, or be about to name them.
package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/wasme-io/wasme-operator/internal/cli/image"
)

const (
	// refAnnotation is the name of an image in an index (OCI image specification,
	// annotations), and updatedAnnotation when it was put there (RFC 3339).
	refAnnotation     = "org.opencontainers.image.ref.name"
	updatedAnnotation = "io.wasme.updated"

	indexFile = "index.json"
	lockFile  = ".lock"
	// lockPoll is how often a process looks whether another has given the store back, and
	// lockTime how long it waits for that before it opens the store.
	lockPoll = 50 * time.Millisecond
	lockTime = 10 * time.Second
	// unusedTime is how long a blob stays after it was used last.
	unusedTime = time.Hour
	// maxDocument is the largest index, manifest or configuration, in bytes.
	maxDocument = 4 << 20
)

// ErrNotFound says that the store has no image of that name.
var ErrNotFound = errors.New("not in the local store")

// Store is a folder with images.
type Store struct {
	dir  layout.Path
	lock *flock.Flock
}

// Entry is an image of the store under one of its names.
type Entry struct {
	// Reference is the whole name, such as registry.example.com/filters/hello:v1.
	Reference string
	// Digest is that of the manifest.
	Digest v1.Hash
	// SizeBytes is the size of the layers and the configuration.
	SizeBytes int64
	// Updated is when the image got its name here; zero when another tool put it there.
	Updated time.Time
}

// Open opens the store in a folder, and makes it when there is none.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	s := &Store{dir: layout.Path(dir), lock: flock.New(filepath.Join(dir, lockFile))}
	if _, err := os.Stat(s.path(indexFile)); err == nil {
		return s, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lockTime)
	defer cancel()
	return s, s.change(ctx, s.create)
}

func (s *Store) path(names ...string) string {
	return filepath.Join(append([]string{string(s.dir)}, names...)...)
}

// create writes what makes a folder a layout, unless another process has.
func (s *Store) create(index *v1.IndexManifest) error {
	if len(index.Manifests) > 0 {
		return nil
	}
	_, err := layout.Write(string(s.dir), empty.Index)
	return err
}

// Dir returns the folder.
func (s *Store) Dir() string { return string(s.dir) }

// List returns all images, in the order of their names. With an error, it returns those that
// are not damaged.
func (s *Store) List() ([]Entry, error) {
	index, err := s.index()
	if err != nil {
		return nil, err
	}
	var entries []Entry
	var broken []error
	for _, d := range index.Manifests {
		reference := d.Annotations[refAnnotation]
		if reference == "" {
			continue // another tool's, without a name
		}
		manifest, err := s.manifest(d.Digest)
		if err != nil {
			broken = append(broken, damaged(reference, err))
			continue
		}
		updated, _ := time.Parse(time.RFC3339, d.Annotations[updatedAnnotation])
		entries = append(entries, Entry{Reference: reference, Digest: d.Digest, SizeBytes: image.Size(manifest), Updated: updated})
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Reference, b.Reference) })
	return entries, errors.Join(broken...)
}

// manifest reads the manifest of an image.
func (s *Store) manifest(digest v1.Hash) (*v1.Manifest, error) {
	content, err := s.document(digest)
	if err != nil {
		return nil, err
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(content))
	if err == nil && manifest.Config.Digest.Hex == "" {
		err = fmt.Errorf("%s is not the manifest of an image", digest)
	}
	return manifest, err
}

// document reads a blob that is JSON.
func (s *Store) document(digest v1.Hash) ([]byte, error) {
	path := s.path("blobs", digest.Algorithm, digest.Hex)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxDocument {
		return nil, fmt.Errorf("%s has more than %d bytes", digest, maxDocument)
	}
	return os.ReadFile(path)
}

func damaged(reference string, err error) error {
	return fmt.Errorf("the local store is damaged at %s: %w: pull or build the image again", reference, err)
}

// Get returns the image of a name. All of its blobs have the digests that its manifest says.
// The error is ErrNotFound, or says what is damaged.
func (s *Store) Get(ref name.Reference) (v1.Image, error) {
	index, err := s.index()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(index.Manifests, func(d v1.Descriptor) bool { return names(d, ref) })
	if i < 0 {
		return nil, fmt.Errorf("%s is %w", ref.Name(), ErrNotFound)
	}
	found, err := s.image(index.Manifests[i].Digest)
	if err != nil {
		return nil, damaged(ref.Name(), err)
	}
	return found, nil
}

// image returns the image of a manifest, once all of its blobs are what they are to be.
func (s *Store) image(digest v1.Hash) (v1.Image, error) {
	manifest, err := s.manifest(digest)
	if err != nil {
		return nil, err
	}
	if _, err := s.document(manifest.Config.Digest); err != nil {
		return nil, err
	}
	for _, blob := range blobsOf(digest, manifest) {
		if err := s.check(blob); err != nil {
			return nil, err
		}
		s.use(blob)
	}
	return s.dir.Image(digest)
}

// use keeps a blob from being swept for a while.
func (s *Store) use(digest v1.Hash) {
	now := time.Now()
	_ = os.Chtimes(s.path("blobs", digest.Algorithm, digest.Hex), now, now) // a store may be read-only
}

// names reports whether an entry of the index is what a reference names: by its tag, or by
// its repository and digest.
func names(d v1.Descriptor, ref name.Reference) bool {
	known := d.Annotations[refAnnotation]
	if digest, ok := ref.(name.Digest); ok {
		repository, _, _ := strings.Cut(known, "@")
		if tag, err := name.NewTag(repository, name.StrictValidation); err == nil {
			repository = tag.Context().Name()
		}
		return d.Digest.String() == digest.DigestStr() && repository == ref.Context().Name()
	}
	return known == ref.Name()
}

// blobsOf returns the digests of all blobs of an image.
func blobsOf(digest v1.Hash, manifest *v1.Manifest) []v1.Hash {
	blobs := []v1.Hash{digest, manifest.Config.Digest}
	for _, layer := range manifest.Layers {
		blobs = append(blobs, layer.Digest)
	}
	return blobs
}

// check compares a blob with its digest.
func (s *Store) check(digest v1.Hash) error {
	file, err := os.Open(s.path("blobs", digest.Algorithm, digest.Hex))
	if err != nil {
		return err
	}
	defer file.Close()
	found, _, err := v1.SHA256(file)
	if err == nil && found != digest {
		err = fmt.Errorf("the blob %s has the digest %s", digest, found)
	}
	return err
}

// Put keeps an image under a name, which another image may have had. It reads the layers
// that the store lacks.
func (s *Store) Put(ctx context.Context, ref name.Reference, image v1.Image) error {
	return s.put(ctx, image, map[string]string{refAnnotation: ref.Name(), updatedAnnotation: time.Now().UTC().Format(time.RFC3339)})
}

func (s *Store) put(ctx context.Context, image v1.Image, annotations map[string]string) error {
	if err := s.write(image); err != nil {
		return err
	}
	return s.change(ctx, func(index *v1.IndexManifest) error {
		d, err := partial.Descriptor(image)
		if err != nil {
			return err
		}
		d.Annotations = annotations
		index.Manifests = slices.DeleteFunc(index.Manifests, func(known v1.Descriptor) bool {
			return known.Annotations[refAnnotation] == annotations[refAnnotation]
		})
		index.Manifests = append(index.Manifests, *d)
		return nil
	})
}

// write writes the blobs of an image that the store lacks, or that are damaged: the manifest
// last.
func (s *Store) write(image v1.Image) error {
	if err := os.MkdirAll(s.path("blobs", "sha256"), 0o755); err != nil {
		return err
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return err
		}
		if err := s.writeBlob(digest, layer.Compressed); err != nil {
			return fmt.Errorf("storing layer %s: %w", digest, err)
		}
	}
	for _, read := range []func() ([]byte, error){image.RawConfigFile, image.RawManifest} {
		content, err := read()
		if err != nil {
			return err
		}
		digest, _, err := v1.SHA256(bytes.NewReader(content))
		if err != nil {
			return err
		}
		if err := s.writeBlob(digest, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }); err != nil {
			return err
		}
	}
	return nil
}

// writeBlob writes what open returns, unless the store has it. It gets its name once it is
// whole.
func (s *Store) writeBlob(digest v1.Hash, open func() (io.ReadCloser, error)) error {
	if s.check(digest) == nil {
		s.use(digest)
		return nil
	}
	content, err := open()
	if err != nil {
		return err
	}
	defer content.Close()
	file, err := os.CreateTemp(s.path("blobs", "sha256"), ".writing-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	found, _, err := v1.SHA256(io.TeeReader(content, file))
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if found != digest {
		return fmt.Errorf("the content has the digest %s instead of %s: pull it again", found, digest)
	}
	return os.Rename(file.Name(), s.path("blobs", "sha256", digest.Hex))
}

// change changes the index while no other process does.
func (s *Store) change(ctx context.Context, do func(*v1.IndexManifest) error) error {
	if _, err := s.lock.TryLockContext(ctx, lockPoll); err != nil {
		return fmt.Errorf("waiting for another process that uses the store in %s: %w", s.dir, err)
	}
	defer func() { _ = s.lock.Unlock() }() // it ends with the process
	index, err := s.index()
	if errors.Is(err, os.ErrNotExist) {
		index, err = &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}, nil
	}
	if err != nil {
		return err
	}
	if err := do(index); err != nil {
		return err
	}
	if err := s.replaceIndex(index); err != nil {
		return err
	}
	s.sweep(index)
	return nil
}

func (s *Store) index() (*v1.IndexManifest, error) {
	file, err := os.Open(s.path(indexFile))
	if err != nil {
		return nil, fmt.Errorf("reading the store: %w", err)
	}
	defer file.Close()
	index, err := v1.ParseIndexManifest(file)
	if err != nil {
		return nil, fmt.Errorf("reading the store: %s is not an index of images: %w: move the folder away", s.path(indexFile), err)
	}
	return index, nil
}

func (s *Store) replaceIndex(index *v1.IndexManifest) error {
	content, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(string(s.dir), indexFile)
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if err := writeAndClose(file, content); err != nil {
		return err
	}
	return os.Rename(file.Name(), s.path(indexFile))
}

func writeAndClose(file *os.File, content []byte) error {
	_, err := file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// sweep removes what no image has any more, and what processes left that were killed, once it
// was not used for a while. It is done again after the next change.
func (s *Store) sweep(index *v1.IndexManifest) {
	used := map[string]bool{}
	for _, d := range index.Manifests {
		manifest, err := s.manifest(d.Digest)
		if err != nil {
			return // an index that another tool put there, or damage, which Get finds
		}
		for _, blob := range blobsOf(d.Digest, manifest) {
			used[blob.Hex] = true
		}
	}
	entries, err := os.ReadDir(s.path("blobs", "sha256"))
	if err != nil {
		return
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && !used[entry.Name()] && time.Since(info.ModTime()) > unusedTime {
			_ = os.Remove(s.path("blobs", "sha256", entry.Name())) // the next sweep finds it again
		}
	}
}

// Save writes images with their names as an archive: an OCI image layout as tar, in which
// only what they need is.
func (s *Store) Save(ctx context.Context, to io.Writer, refs ...name.Reference) error {
	folder, err := os.MkdirTemp("", "wasme-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	part, err := Open(folder)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		image, err := s.Get(ref)
		if err != nil {
			return err
		}
		if err := part.put(ctx, image, map[string]string{refAnnotation: ref.Name()}); err != nil {
			return err
		}
	}
	return pack(to, folder)
}

// Load puts the images of an archive that Save, or another tool, wrote into the store, and
// returns their names. Images of the archive without a whole name are refused.
func (s *Store) Load(ctx context.Context, from io.Reader) ([]name.Reference, error) {
	folder, err := os.MkdirTemp("", "wasme-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	if err := unpack(from, folder); err != nil {
		return nil, fmt.Errorf("reading the archive: %w", err)
	}
	return s.loadAll(ctx, &Store{dir: layout.Path(folder)})
}

func (s *Store) loadAll(ctx context.Context, part *Store) ([]name.Reference, error) {
	index, err := part.index()
	if err != nil {
		return nil, errors.New("the archive is not an OCI image layout: save one with wasme save")
	}
	var refs []name.Reference
	for _, d := range index.Manifests {
		ref, err := name.ParseReference(d.Annotations[refAnnotation], name.StrictValidation)
		if err != nil {
			return refs, fmt.Errorf("the image %s in the archive has no name like registry.example.com/filters/hello:v1: annotate it with %s", d.Digest, refAnnotation)
		}
		image, err := part.Get(ref)
		if err != nil {
			return refs, err
		}
		if err := s.Put(ctx, ref, image); err != nil {
			return refs, err
		}
		refs = append(refs, ref)
	}
	return refs, nil
}
