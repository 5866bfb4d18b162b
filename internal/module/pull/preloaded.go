package pull

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/oci"
)

// Annotations of an image in a layout's index that hold its whole name, such as
// registry.example.com/filters/hello:v1. The first is containerd's, and that of
// docker save; the second is OCI's, in which some tools write a tag only.
var nameAnnotations = []string{"io.containerd.image.name", "org.opencontainers.image.ref.name"}

// maxLayouts bounds the subfolders that are looked into.
const maxLayouts = 1000

// Preloaded are images in a folder: an OCI image layout, or several in its subfolders.
// The folder is read anew each time, so images may be added.
type Preloaded struct{ root *os.Root }

// OpenPreloaded opens a folder with images. Nothing outside of it is ever read, whatever
// its symbolic links say.
func OpenPreloaded(dir string) (*Preloaded, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the preloaded images: %w", err)
	}
	return &Preloaded{root}, nil
}

// preloadedImage is an image that was found in a layout.
type preloadedImage struct {
	images *Preloaded
	limits module.Limits
	// folder is that of the layout.
	folder string
	digest v1.Hash
}

// find returns the image of a reference; nil when no layout has it. The error is about a
// layout that could not be read, or the folder of all, in which the image might be.
func (p *Preloaded) find(ref name.Reference, limits module.Limits) (*preloadedImage, error) {
	folders, unreadable := p.folders()
	for _, folder := range folders {
		found, err := p.findIn(folder, ref, limits)
		if found != nil {
			return found, nil
		}
		if err != nil && unreadable == nil {
			unreadable = err
		}
	}
	return nil, unreadable
}

// folders returns where layouts may be: the folder itself, and its subfolders. The error is
// about subfolders that are left out.
func (p *Preloaded) folders() ([]string, error) {
	folders := []string{"."}
	top, err := p.root.Open(".")
	if err != nil {
		return folders, err
	}
	defer top.Close()
	names, err := top.Readdirnames(maxLayouts)
	if errors.Is(err, io.EOF) {
		err = nil // it is empty
	}
	names = slices.DeleteFunc(names, p.isFile)
	slices.Sort(names)
	return append(folders, names...), err
}

// isFile reports whether a name is that of a file, so that no layout can be there. A
// symbolic link counts as what it points to.
func (p *Preloaded) isFile(name string) bool {
	info, err := p.root.Stat(name)
	return err == nil && !info.IsDir()
}

// findIn looks into one layout. A folder without an index is none.
func (p *Preloaded) findIn(folder string, ref name.Reference, limits module.Limits) (*preloadedImage, error) {
	data, err := p.read(path.Join(folder, "index.json"), limits.Manifest())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var index oci.Manifest
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("%s is not the index of an OCI image layout", path.Join(folder, "index.json"))
	}
	for _, desc := range index.Manifests {
		found := &preloadedImage{images: p, limits: limits, folder: folder, digest: desc.Digest}
		if named, is := nameOf(desc); is && found.answers(named, ref) {
			return found, nil
		}
	}
	return nil, nil
}

// nameOf returns the whole name of an image in an index.
func nameOf(desc v1.Descriptor) (name.Reference, bool) {
	for _, annotation := range nameAnnotations {
		if named, err := name.ParseReference(desc.Annotations[annotation], name.StrictValidation); err == nil {
			return named, true
		}
	}
	return nil, false
}

// answers reports whether the image with this name is the one of a reference. A digest is that of the
// image, or of one in its index: revisions have that one.
func (i *preloadedImage) answers(named, ref name.Reference) bool {
	if named.Name() == ref.Name() {
		return true
	}
	pinned, byDigest := ref.(name.Digest)
	if !byDigest || named.Context().Name() != ref.Context().Name() {
		return false
	}
	digest, err := v1.NewHash(pinned.DigestStr())
	if err != nil {
		return false
	}
	if digest != i.digest && !i.lists(digest) {
		return false
	}
	i.digest = digest
	return true
}

func (i *preloadedImage) lists(digest v1.Hash) bool {
	data, err := i.manifest(i.digest)
	if err != nil {
		return false
	}
	index, err := oci.ParseManifest(data)
	return err == nil && slices.ContainsFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Digest == digest })
}

// manifest returns a manifest or index of the layout.
func (i *preloadedImage) manifest(digest v1.Hash) ([]byte, error) {
	blob, err := i.blob(v1.Descriptor{Digest: digest})
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	bound := i.limits.Manifest()
	return io.ReadAll(&boundedBody{ReadCloser: blob, left: bound.Bytes, bound: bound})
}

// blob opens a blob of the layout. Reading it fails at its end when it does not have its
// digest.
func (i *preloadedImage) blob(desc v1.Descriptor) (io.ReadCloser, error) {
	if desc.Digest.Algorithm != "sha256" || !module.IsSHA256(desc.Digest.Hex) {
		return nil, module.Terminal(wasmev1.ReasonInvalidImage, "the image's digest is not a sha256: push the image with sha256 digests")
	}
	file, err := i.images.open(path.Join(i.folder, "blobs", "sha256", desc.Digest.Hex))
	if err != nil {
		return nil, module.Temporary(wasmev1.ReasonImageNotFound, "the folder %s of --preloaded-images has no readable blob %s: copy the image there again", i.folder, desc.Digest)
	}
	bound := i.limits.Layers()
	checked := &checkedBlob{ReadCloser: file, hash: sha256.New(), digest: desc.Digest, folder: i.folder}
	return &boundedBody{ReadCloser: checked, left: bound.Bytes, bound: bound}, nil
}

func (p *Preloaded) read(file string, bound module.Bound) ([]byte, error) {
	opened, err := p.open(file)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	data, err := io.ReadAll(io.LimitReader(opened, bound.Bytes+1))
	if err == nil && int64(len(data)) > bound.Bytes {
		err = bound.Exceeded()
	}
	return data, err
}

// open opens a regular file: a pipe would block.
func (p *Preloaded) open(file string) (*os.File, error) {
	info, err := p.root.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", file)
	}
	return p.root.Open(file)
}

// checkedBlob fails at its end when it does not have its digest.
type checkedBlob struct {
	io.ReadCloser
	hash   hash.Hash
	digest v1.Hash
	folder string
}

func (b *checkedBlob) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.hash.Write(p[:n])
	if err == io.EOF && hex.EncodeToString(b.hash.Sum(nil)) != b.digest.Hex {
		return n, module.Temporary(wasmev1.ReasonDigestMismatch, "the folder %s of --preloaded-images has a blob that is not %s: copy the image there again", b.folder, b.digest)
	}
	return n, err
}
