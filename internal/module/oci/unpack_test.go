package oci

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

func TestUnpacksImagesOfAnyMake(t *testing.T) {
	wasm := moduletest.Wasm("other makes")
	plugin, config := moduletest.File("plugin.wasm", wasm), moduletest.File("runtime-config.json", moduletest.RuntimeConfig("root"))
	for name, c := range map[string]struct {
		layers []registry.Layer
		roots  []string
	}{
		"plain tar":                  {moduletest.Layers(moduletest.Archive(plugin)), nil},
		"a path with a dot":          {moduletest.Layers(moduletest.Archive(moduletest.File("./plugin.wasm", wasm))), nil},
		"an absolute path":           {moduletest.Layers(moduletest.Archive(moduletest.File("/plugin.wasm", wasm))), nil},
		"config before":              {moduletest.Layers(moduletest.Archive(config, plugin)), []string{"root"}},
		"config in an earlier layer": {moduletest.Layers(moduletest.Archive(config), moduletest.Archive(plugin)), []string{"root"}},
		"config in a later layer":    {moduletest.Layers(moduletest.Archive(plugin), moduletest.Archive(config)), []string{"root"}},
		"the later config counts":    {moduletest.Layers(moduletest.Archive(moduletest.File("runtime-config.json", moduletest.RuntimeConfig("old")), plugin), moduletest.Archive(config)), []string{"root"}},
		"the later plugin counts":    {moduletest.Layers(moduletest.Archive(moduletest.File("plugin.wasm", []byte("old"))), moduletest.Archive(plugin)), nil},
		"not the last layer":         {moduletest.Layers(moduletest.Archive(plugin), moduletest.Archive(moduletest.File("etc/passwd", nil))), nil},
		"other files":                {moduletest.Layers(moduletest.Archive(moduletest.File("usr/plugin.wasm", []byte("x")), tar.Header{Name: "plugin.wasm", Typeflag: tar.TypeDir}, plugin)), nil},
		"artifact, gzip":             {[]registry.Layer{{MediaType: registry.CNCFLayer, Bytes: moduletest.Gzip(wasm)}}, nil},
		"artifact, zstd":             {[]registry.Layer{{MediaType: registry.CNCFLayer, Bytes: moduletest.Zstd(wasm)}}, nil},
		"artifact, first CNCF form":  {[]registry.Layer{{MediaType: "application/vnd.wasm.content.layer.v1+wasm", Bytes: wasm}}, nil},
		"artifact, config in layers": {[]registry.Layer{{MediaType: registry.WasmeConfig, Bytes: moduletest.RuntimeConfig("root")}, {MediaType: registry.WasmeLayer, Bytes: wasm}}, []string{"root"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, contents, err := unpackImage(t, moduletest.ImageOf(t, c.layers...), module.DefaultLimits)
			moduletest.Must(t, err)
			if !bytes.Equal(got, wasm) {
				t.Errorf("%q is not the module", got)
			}
			if !slices.Equal(contents.RootIDs, c.roots) {
				t.Errorf("root ids %v, not %v", contents.RootIDs, c.roots)
			}
		})
	}
}

func TestRefusesBadImages(t *testing.T) {
	wasm := moduletest.Wasm("bad images")
	const invalidImage = wasmev1.ReasonInvalidImage
	for name, c := range map[string]struct {
		image           v1.Image
		reason, message string
	}{
		"no module":                {moduletest.ImageOf(t, moduletest.Layers(moduletest.Archive(moduletest.File("etc/passwd", nil)))...), invalidImage, "holds no Wasm module"},
		"no layers":                {moduletest.ImageOf(t), invalidImage, "has no layers"},
		"plugin.wasm is a link":    {moduletest.ImageOf(t, moduletest.Layers(moduletest.Archive(tar.Header{Name: "plugin.wasm", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}))...), invalidImage, "holds no Wasm module"},
		"a layer that is no tar":   {moduletest.ImageOf(t, moduletest.Layers([]byte(strings.Repeat("text", 1000)))...), invalidImage, "neither a tar archive nor a Wasm module"},
		"a truncated archive":      {moduletest.ImageOf(t, moduletest.Layers(moduletest.Archive(moduletest.File("plugin.wasm", wasm))[:520])...), invalidImage, "unpacking a layer"},
		"a truncated gzip":         {moduletest.ImageOf(t, moduletest.Layers(moduletest.Gzip(moduletest.Archive(moduletest.File("plugin.wasm", wasm)))[:40])...), invalidImage, "unpacking a layer"},
		"two modules":              {moduletest.ImageOf(t, registry.Layer{MediaType: registry.CNCFLayer, Bytes: wasm}, registry.Layer{MediaType: registry.CNCFLayer, Bytes: wasm}), invalidImage, "several layers"},
		"a config that is no JSON": {moduletest.ImageOf(t, moduletest.Layers(moduletest.Archive(moduletest.File("runtime-config.json", []byte("root")), moduletest.File("plugin.wasm", wasm)))...), invalidImage, "runtime configuration"},
		"too large a config":       {moduletest.ImageOf(t, moduletest.Layers(moduletest.Archive(moduletest.File("runtime-config.json", make([]byte, 70<<10)), moduletest.File("plugin.wasm", wasm)))...), wasmev1.ReasonTooLarge, "runtime configuration"},
		"too many root ids":        {moduletest.ImageOf(t, moduletest.Layers(moduletest.Archive(moduletest.File("runtime-config.json", moduletest.RuntimeConfig(strings.Split(strings.Repeat("x", 65), "")...)), moduletest.File("plugin.wasm", wasm)))...), wasmev1.ReasonTooLarge, "65 root ids"},
		"too many layers":          {moduletest.ImageOf(t, slices.Repeat(moduletest.Layers([]byte("x")), 128)...), invalidImage, "more than 127 layers"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := unpackImage(t, c.image, module.DefaultLimits)
			moduletest.WantError(t, err, c.reason, c.message)
			if e := module.AsError(err); e == nil || !e.Terminal {
				t.Error("not terminal")
			}
		})
	}
}

// The hostile images unpack to 10 GB; they are built of repeated members, as
// gzip and zstd streams may be.
func TestRefusesWhatPassesTheLimits(t *testing.T) {
	wasm := moduletest.Wasm("limits")
	zeros := make([]byte, 10<<20)
	huge := tar.Header{Name: "plugin.wasm", Size: 10 << 30, Mode: 0o600}
	other := tar.Header{Name: "other", Size: 10 << 30, Mode: 0o600}
	for name, c := range map[string]struct {
		image   v1.Image
		limits  func(*module.Limits)
		message string
	}{
		"gzip bomb, module":         {moduletest.ImageOf(t, moduletest.Layers(moduletest.Bomb(moduletest.Gzip, moduletest.Header(huge), zeros))...), nil, "--max-module-bytes"},
		"zstd bomb, module":         {moduletest.ImageOf(t, moduletest.Layers(moduletest.Bomb(moduletest.Zstd, moduletest.Header(huge), zeros))...), nil, "--max-module-bytes"},
		"gzip bomb, another file":   {moduletest.ImageOf(t, moduletest.Layers(moduletest.Bomb(moduletest.Gzip, moduletest.Header(other), zeros))...), nil, "--max-layer-bytes"},
		"zstd bomb, another file":   {moduletest.ImageOf(t, moduletest.Layers(moduletest.Bomb(moduletest.Zstd, moduletest.Header(other), zeros))...), nil, "--max-layer-bytes"},
		"gzip bomb, artifact":       {moduletest.ImageOf(t, registry.Layer{MediaType: registry.CNCFLayer, Bytes: moduletest.Bomb(moduletest.Gzip, wasm, zeros)}), nil, "--max-module-bytes"},
		"10 million entries":        {moduletest.ImageOf(t, moduletest.Layers(moduletest.Bomb(moduletest.Gzip, nil, bytes.Repeat(moduletest.Header(tar.Header{Name: "x"}), 10_000)))...), nil, "--max-archive-entries"},
		"entries, over layers":      {moduletest.ImageOf(t, moduletest.Layers(moduletest.Archive(moduletest.File("plugin.wasm", wasm), moduletest.File("a", nil)), moduletest.Archive(moduletest.File("b", nil), moduletest.File("c", nil)))...), func(l *module.Limits) { l.ArchiveEntries = 3 }, "--max-archive-entries"},
		"layers together":           {moduletest.ImageOf(t, moduletest.Layers(moduletest.Archive(moduletest.File("plugin.wasm", wasm)), moduletest.Archive(moduletest.File("b", nil)))...), func(l *module.Limits) { l.LayerBytes = 3000 }, "--max-layer-bytes"},
		"a module":                  {moduletest.FormOf(t, registry.CNCFArtifact, wasm), func(l *module.Limits) { l.ModuleBytes = 10 }, "--max-module-bytes"},
		"a layer":                   {moduletest.FormOf(t, registry.CNCFArtifact, wasm), func(l *module.Limits) { l.LayerBytes = 10 }, "--max-layer-bytes"},
		"a zstd window":             {moduletest.ImageOf(t, moduletest.Layers(moduletest.ZstdWindow(64<<20))...), nil, "zstd window"},
		"unpacked, though not sent": {moduletest.ImageOf(t, moduletest.Layers(moduletest.Gzip(moduletest.Archive(moduletest.File("b", make([]byte, 9000)))))...), func(l *module.Limits) { l.LayerBytes = 8000 }, "--max-layer-bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			limits := module.DefaultLimits
			if c.limits != nil {
				c.limits(&limits)
			}
			_, _, err := unpackImage(t, c.image, limits)
			moduletest.WantError(t, err, wasmev1.ReasonTooLarge, c.message)
		})
	}
}

// Archives that are small unpacked, and large as they are sent: only the sum of
// what is sent shows that they are too large.
func TestLayersCountTogetherAsTheyAreSent(t *testing.T) {
	layer := func(name string) []byte {
		return slices.Concat(moduletest.Gzip(moduletest.Archive(moduletest.File(name, []byte(name)))), bytes.Repeat(moduletest.Gzip(nil), 1000))
	}
	first, second, third := layer("a"), layer("b"), layer("c")
	sum := int64(len(first) + len(second) + len(third))
	image := moduletest.ImageOf(t, moduletest.Layers(first, second, third)...)
	for name, undersized := range map[string]bool{"by the manifest, before they are fetched": false, "by their bytes": true} {
		for limit, want := range map[int64]string{sum: wasmev1.ReasonInvalidImage, sum - 1: wasmev1.ReasonTooLarge} {
			t.Run(fmt.Sprint(name, " ", limit-sum), func(t *testing.T) {
				m, blobs := inMemory(t, image)
				for i := range m.Layers {
					if undersized {
						m.Layers[i].Size = 0
					}
				}
				limits := module.DefaultLimits
				limits.LayerBytes = limit
				from := &shelf{blobs: blobs}
				_, err := NewUnpacker(limits).Unpack(m, from.fetch, io.Discard)
				moduletest.WantError(t, err, want, "the image")
				if tooLarge := limit < sum; (from.fetched == 2) != (tooLarge && !undersized) || from.taken != 0 {
					t.Errorf("%d layers are fetched, %d are not discarded", from.fetched, from.taken)
				}
			})
		}
	}
}

func FuzzUnpack(f *testing.F) {
	wasm := moduletest.Wasm("seed")
	whole := moduletest.Archive(moduletest.File("runtime-config.json", moduletest.RuntimeConfig("root")), moduletest.File("plugin.wasm", wasm))
	for _, seed := range [][]byte{wasm, whole, moduletest.Gzip(whole), moduletest.Zstd(whole), moduletest.Gzip(wasm)} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, data []byte, artifact bool) {
		layer := layerOf(types.OCILayer, data).descriptor()
		if artifact {
			layer.MediaType = registry.CNCFLayer
		}
		var out bytes.Buffer
		limits := module.Limits{LayerBytes: 64 << 10, ModuleBytes: 32 << 10, ArchiveEntries: 20}
		_, err := unpack(t, &Manifest{Layers: []v1.Descriptor{layer}}, map[string][]byte{layer.Digest.String(): data}, limits, &out)
		if err != nil && module.AsError(err) == nil {
			t.Errorf("not classified: %v", err)
		}
		if out.Len() > 33<<10 {
			t.Errorf("%d bytes came out", out.Len())
		}
	})
}

// unpackImage unpacks an image from memory.
func unpackImage(t *testing.T, image v1.Image, limits module.Limits) ([]byte, Contents, error) {
	t.Helper()
	text, err := image.RawManifest()
	moduletest.Must(t, err)
	if _, err := ParseManifest(text); err != nil {
		return nil, Contents{}, err
	}
	m, blobs := inMemory(t, image)
	var out bytes.Buffer
	contents, err := unpack(t, m, blobs, limits, &out)
	return out.Bytes(), contents, err
}

// inMemory returns the manifest of an image, and its blobs by their digests.
func inMemory(t *testing.T, image v1.Image) (*Manifest, map[string][]byte) {
	t.Helper()
	text, err := image.RawManifest()
	moduletest.Must(t, err)
	m, err := ParseManifest(text)
	moduletest.Must(t, err)
	blobs := map[string][]byte{}
	config, err := image.RawConfigFile()
	moduletest.Must(t, err)
	blobs["sha256:"+moduletest.SHA256(config)] = config
	layers, err := image.Layers()
	moduletest.Must(t, err)
	for _, layer := range layers {
		digest, err := layer.Digest()
		moduletest.Must(t, err)
		packed, err := layer.Compressed()
		moduletest.Must(t, err)
		blobs[digest.String()], err = io.ReadAll(packed)
		moduletest.Must(t, err)
	}
	return m, blobs
}

// unpack unpacks an image and checks that all blobs are discarded and no slot is kept.
func unpack(t *testing.T, m *Manifest, blobs map[string][]byte, limits module.Limits, out io.Writer) (Contents, error) {
	t.Helper()
	u := NewUnpacker(limits)
	from := &shelf{blobs: blobs}
	contents, err := u.Unpack(m, from.fetch, out)
	if from.taken != 0 || len(u.slots) != 0 {
		t.Errorf("%d blobs are not discarded, %d slots are kept", from.taken, len(u.slots))
	}
	return contents, err
}

// shelf has blobs by their digests, and counts those that are fetched, and those
// of them that are not discarded.
type shelf struct {
	blobs          map[string][]byte
	fetched, taken int
}

func (s *shelf) fetch(desc v1.Descriptor) (Blob, error) {
	content, has := s.blobs[desc.Digest.String()]
	if !has {
		return nil, fmt.Errorf("no blob %s", desc.Digest)
	}
	s.fetched++
	s.taken++
	return memoryBlob{bytes.NewReader(content), s}, nil
}

type memoryBlob struct {
	*bytes.Reader
	from *shelf
}

func (b memoryBlob) Discard() { b.from.taken-- }
