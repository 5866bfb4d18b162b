package oci

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"io"
	"path"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
)

// The files of a compat image: an ordinary image that is built FROM scratch.
const (
	pluginFile        = "plugin.wasm"
	runtimeConfigFile = "runtime-config.json"
)

// zstdWindow is the largest window of a zstd stream: 32 MiB is what the best
// level of common image builders makes.
const zstdWindow = 32 << 20

// unpackers is the number of layers that are unpacked at once: it bounds the
// memory of decompression. Unpacking reads from disk, so no registry delays it.
const unpackers = 2

// Unpacker takes modules out of images, within limits.
type Unpacker struct {
	limits module.Limits
	slots  chan struct{}
}

// NewUnpacker returns an Unpacker with limits for each image.
func NewUnpacker(limits module.Limits) *Unpacker {
	return &Unpacker{limits: limits, slots: make(chan struct{}, unpackers)}
}

// Blob is a layer or a configuration that was brought onto disk.
type Blob interface {
	io.ReaderAt
	// Size returns the number of bytes.
	Size() int64
	// Discard removes the blob.
	Discard()
}

// Contents is what an image says of its module.
type Contents struct {
	// RootIDs are the root ids of the runtime configuration.
	RootIDs []string
	// RuntimeConfig is the runtime configuration as the image has it; nil for none.
	RuntimeConfig []byte
	// Tests are those for the module; nil for none.
	Tests *module.Tests
	// AgentRefuses is that of module.Module.
	AgentRefuses string
}

// Unpack writes the module in the image m to out. It calls fetch for the blobs
// that it needs, one at a time, and discards each. The error is a *module.Error
// with the reason InvalidImage or TooLarge, or what fetch and out return.
func (u *Unpacker) Unpack(m *Manifest, fetch func(v1.Descriptor) (Blob, error), out io.Writer) (Contents, error) {
	one := &unpacking{limits: u.limits, slots: u.slots, fetch: fetch, out: out}
	if err := one.unpack(m); err != nil {
		return Contents{}, err
	}
	return Contents{RootIDs: one.rootIDs, RuntimeConfig: one.runtimeConfig, Tests: one.tests, AgentRefuses: agentRefuses(m, one.taken)}, nil
}

// unpacking is the work on one image. The limits hold for all of its layers together.
type unpacking struct {
	limits module.Limits
	slots  chan struct{}
	fetch  func(v1.Descriptor) (Blob, error)
	out    io.Writer

	packedBytes, unpackedBytes int64
	entries                    int
	found, configured          bool
	rootIDs                    []string
	runtimeConfig              []byte
	tests                      *module.Tests
	// layer is the one that is being read; taken is the one that held the module.
	layer, taken extraction
}

// unpack writes the module to out and reads the root ids.
func (u *unpacking) unpack(m *Manifest) error {
	layer, err := m.wasmLayer()
	if err != nil {
		return err
	}
	if layer != nil {
		return u.unpackArtifact(m, *layer)
	}
	return u.unpackImage(m)
}

// unpackArtifact reads an image whose layer is the module itself.
func (u *unpacking) unpackArtifact(m *Manifest, layer v1.Descriptor) error {
	if config := m.runtimeConfig(); config != nil {
		if err := u.read(*config, u.readConfig); err != nil {
			return err
		}
	}
	if tests, name := m.testLayer(); tests != nil {
		if err := u.read(*tests, func(r io.Reader) error { return u.readTests(name, r) }); err != nil {
			return err
		}
	}
	return u.read(layer, func(r io.Reader) error {
		return u.decompressed(r, func(r io.Reader) error {
			u.taken = u.layer
			u.taken.itself = true
			return copyWithin(u.out, r, u.limits.Module())
		})
	})
}

// unpackImage looks for plugin.wasm in the layers of an ordinary image, from
// the last to the first, as later layers replace files of earlier ones; then
// for runtime-config.json and tests in those that are left and small.
func (u *unpacking) unpackImage(m *Manifest) error {
	for _, layer := range slices.Backward(m.Layers) {
		small := layer.Size <= maxRuntimeConfigBytes
		if foreign(layer) || u.found && (u.configured && u.tests != nil || !small) {
			continue
		}
		if err := u.read(layer, u.unpackLayer); err != nil {
			return err
		}
	}
	if !u.found {
		return module.Terminal(wasmev1.ReasonInvalidImage, "the image holds no Wasm module: neither a layer of the type application/wasm, nor a file /%s: build it FROM scratch with COPY %s, or push it as a Wasm artifact", pluginFile, pluginFile)
	}
	return nil
}

// read brings a blob onto disk and passes its content to use, while it holds
// one of the slots.
func (u *unpacking) read(desc v1.Descriptor, use func(io.Reader) error) error {
	bound := u.limits.Layers()
	if desc.Size > bound.Bytes-u.packedBytes {
		return bound.Exceeded()
	}
	blob, err := u.fetch(desc)
	if err != nil {
		return err
	}
	defer blob.Discard()
	if u.packedBytes += blob.Size(); u.packedBytes > bound.Bytes {
		return bound.Exceeded()
	}
	u.slots <- struct{}{}
	defer func() { <-u.slots }()
	u.layer = extraction{digest: desc.Digest, end: blob.Size()}
	return use(io.NewSectionReader(blob, 0, blob.Size()))
}

// unpackLayer reads a tar archive, packed or not.
func (u *unpacking) unpackLayer(r io.Reader) error {
	return u.decompressed(r, func(r io.Reader) error {
		bounded := &unpackedReader{inner: r, unpacking: u}
		return layerError(u.readArchive(tar.NewReader(bounded)))
	})
}

func (u *unpacking) readArchive(archive *tar.Reader) error {
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if u.entries++; u.entries > u.limits.ArchiveEntries {
			return module.Terminal(wasmev1.ReasonTooLarge, "the image's layers: more than %d files: build the image FROM scratch, or raise the operator's --max-archive-entries", u.limits.ArchiveEntries)
		}
		if err := u.readEntry(header, archive); err != nil {
			return err
		}
		u.layer.pass(header)
	}
}

// readEntry reads the files that matter, at the root of the archive; a layer nearer
// to the end of the image has been read before.
func (u *unpacking) readEntry(header *tar.Header, content io.Reader) error {
	if header.Typeflag != tar.TypeReg {
		return nil
	}
	switch name := path.Clean("/" + header.Name); {
	case name == "/"+pluginFile && !u.found:
		u.found, u.taken = true, u.layer.take(header)
		err := copyWithin(u.out, content, u.limits.Module())
		u.taken.end = u.unpackedBytes
		return err
	case name == "/"+runtimeConfigFile && !u.configured:
		return u.readConfig(content)
	case testFile(name) != "" && u.tests == nil:
		return u.readTests(testFile(name), content)
	}
	return nil
}

func (u *unpacking) readConfig(r io.Reader) error {
	var data bytes.Buffer
	if err := copyWithin(&data, r, module.Bound{Bytes: maxRuntimeConfigBytes, What: "the image's runtime configuration"}); err != nil {
		return err
	}
	ids, err := ParseRootIDs(data.Bytes())
	u.configured, u.rootIDs, u.runtimeConfig = err == nil, ids, data.Bytes()
	return err
}

// copyWithin copies until the end, or fails beyond the bound.
func copyWithin(to io.Writer, from io.Reader, b module.Bound) error {
	n, err := io.Copy(to, io.LimitReader(from, b.Bytes+1))
	if err == nil && n > b.Bytes {
		return b.Exceeded()
	}
	return err
}

// decompressed passes the content of r to use, unpacked from gzip or zstd where
// its first bytes ask for that; media types are not always right.
func (u *unpacking) decompressed(r io.Reader, use func(io.Reader) error) error {
	buffered := bufio.NewReader(r)
	magic, _ := buffered.Peek(4)
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		u.layer.packing = packedGzip
		unpacked, err := gzip.NewReader(buffered)
		if err != nil {
			return layerError(err)
		}
		return layerError(use(unpacked))
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		u.layer.packing = packedZstd
		unpacked, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return layerError(err)
		}
		defer unpacked.Close()
		return layerError(use(unpacked))
	}
	return layerError(use(buffered))
}

// layerError returns an error of ours as it is; any other says that the content
// cannot be unpacked.
func layerError(err error) error {
	if err == nil || module.AsError(err) != nil {
		return err
	}
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return module.Terminal(wasmev1.ReasonTooLarge, "unpacking a layer of the image: its zstd window has more than %d bytes: build the image with another compression", zstdWindow)
	}
	return module.Terminal(wasmev1.ReasonInvalidImage, "unpacking a layer of the image: it is neither a tar archive nor a Wasm module, nor one of them packed with gzip or zstd: build the image again")
}

// unpackedReader counts what comes out of the image's layers.
type unpackedReader struct {
	inner     io.Reader
	unpacking *unpacking
}

func (r *unpackedReader) Read(p []byte) (int, error) {
	n, err := r.inner.Read(p)
	r.unpacking.unpackedBytes += int64(n)
	if bound := r.unpacking.limits.Layers(); r.unpacking.unpackedBytes > bound.Bytes {
		return 0, bound.Exceeded()
	}
	return n, err
}
