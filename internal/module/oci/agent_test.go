package oci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

var update = flag.Bool("update", false, "rewrite the images in testdata")

// agentImages is the folder of the images that hack/build/istio gives to Istio's
// own fetcher, to check that it agrees.
const agentImages = "testdata/agent"

// agentImage is an image, and what this package finds in it.
type agentImage struct {
	// Refuses is Module.AgentRefuses.
	Refuses string `json:"refuses"`
	// SHA256 is the digest of the module, 64 hex.
	SHA256 string `json:"sha256"`
	// Manifest is the text of the manifest.
	Manifest string `json:"manifest"`
	// Blobs are the contents by their digests, sha256:<64 hex>.
	Blobs map[string][]byte `json:"blobs"`
}

func TestWhatTheAgentRefuses(t *testing.T) {
	made := madeAgentImages(t)
	if *update {
		moduletest.Must(t, os.RemoveAll(agentImages))
		moduletest.Must(t, os.MkdirAll(agentImages, 0o755))
	}
	for name, image := range made {
		t.Run(name, func(t *testing.T) {
			sum, refuses := image.unpacked(t)
			if refuses != image.Refuses {
				t.Errorf("%q, not %q", refuses, image.Refuses)
			}
			image.SHA256 = sum
			image.wantGolden(t, filepath.Join(agentImages, strings.ReplaceAll(name, " ", "-")+".json"))
		})
	}
	if files, err := os.ReadDir(agentImages); err != nil || len(files) != len(made) {
		t.Errorf("%d images in %s, not %d (%v): make golden", len(files), agentImages, len(made), err)
	}
}

// wantGolden checks that the file says of its image what is said of this one.
// The bytes may differ: they are a compression library's.
func (image agentImage) wantGolden(t *testing.T, path string) {
	t.Helper()
	if *update {
		text, err := json.MarshalIndent(image, "", "  ")
		moduletest.Must(t, err)
		moduletest.Must(t, os.WriteFile(path, append(text, '\n'), 0o644))
	}
	text, err := os.ReadFile(path)
	moduletest.Must(t, err)
	var golden agentImage
	moduletest.Must(t, json.Unmarshal(text, &golden))
	sum, refuses := golden.unpacked(t)
	if got := [...]string{golden.SHA256, golden.Refuses, sum, refuses}; got != [...]string{image.SHA256, image.Refuses, image.SHA256, image.Refuses} {
		t.Errorf("%q: make golden", got)
	}
}

// madeAgentImages returns images that this package reads, and whether the agent
// refuses them; in some, another reader finds another module.
func madeAgentImages(t *testing.T) map[string]agentImage {
	t.Helper()
	wasm, decoy := moduletest.Wasm("module"), moduletest.Wasm("decoy")
	plugin := moduletest.File("plugin.wasm", wasm)
	raw := layerOf(agentLayer, wasm)
	config := layerOf(registry.WasmeConfig, moduletest.RuntimeConfig("root"))
	gzip := func(files ...any) agentBlob {
		return layerOf(types.OCILayer, moduletest.Gzip(moduletest.Archive(files...)))
	}
	const (
		noArchive  = "its last layer is not of the type application/vnd.oci.image.layer.v1.tar+gzip"
		noDocker   = "its last layer is not of the type application/vnd.docker.image.rootfs.diff.tar.gzip"
		noArtifact = "its module is not of the type application/vnd.module.wasm.content.layer.v1+wasm"
		elsewhere  = "its last layer is an archive, and the module is not in that one"
		noGzip     = "its last layer is not packed with gzip"
		notFirst   = "the first file named plugin.wasm in its last layer is not the module"
		ambiguous  = "it lists the same content under two media types"
		twoLayers  = "it does not have exactly two layers, the runtime configuration and the module"
	)
	return map[string]agentImage{
		"compat":                        agentImageOf(types.OCIManifestSchema1, config, "", gzip(plugin)),
		"compat without a media type":   agentImageOf("", config, "", gzip(plugin)),
		"compat with a config":          agentImageOf("", config, "", gzip(moduletest.File("runtime-config.json", moduletest.RuntimeConfig("root")), plugin)),
		"compat of two layers":          agentImageOf("", config, "", gzip(moduletest.File("plugin.wasm", decoy)), gzip(plugin)),
		"compat by another path":        agentImageOf("", config, "", gzip(moduletest.File("./plugin.wasm", wasm))),
		"compat after other files":      agentImageOf("", config, "", gzip(moduletest.File("etc/passwd", nil), moduletest.File("plugin.wasm.old", decoy), plugin)),
		"compat twice in one layer":     agentImageOf("", config, "", gzip(plugin, moduletest.File("plugin.wasm", decoy))),
		"compat not in the last layer":  agentImageOf("", config, elsewhere, gzip(plugin), gzip(moduletest.File("etc/passwd", nil))),
		"compat plain":                  agentImageOf("", config, noGzip, layerOf(types.OCILayer, moduletest.Archive(plugin))),
		"compat zstd as gzip":           agentImageOf("", config, noGzip, layerOf(types.OCILayer, moduletest.Zstd(moduletest.Archive(plugin)))),
		"compat zstd":                   agentImageOf("", config, noArchive, layerOf(types.OCILayerZStd, moduletest.Zstd(moduletest.Archive(plugin)))),
		"compat untyped":                agentImageOf("", config, noArchive, layerOf("", moduletest.Gzip(moduletest.Archive(plugin)))),
		"compat with a docker layer":    agentImageOf(types.OCIManifestSchema1, config, noArchive, layerOf(types.DockerLayer, moduletest.Gzip(moduletest.Archive(plugin)))),
		"decoy in a folder":             agentImageOf("", config, notFirst, gzip(moduletest.File("usr/plugin.wasm", decoy), plugin)),
		"decoy that is a folder":        agentImageOf("", config, notFirst, gzip(tar.Header{Name: "plugin.wasm/", Typeflag: tar.TypeDir}, plugin)),
		"decoy that is a link":          agentImageOf("", config, notFirst, gzip(tar.Header{Name: "plugin.wasm", Typeflag: tar.TypeSymlink, Linkname: "x"}, plugin)),
		"decoy by another name":         agentImageOf("", config, notFirst, gzip(moduletest.File("plugin.wasm/.", wasm), moduletest.File("usr/plugin.wasm", decoy))),
		"decoy in an archive beside":    agentImageOf("", config, elsewhere, raw, gzip(moduletest.File("plugin.wasm", decoy))),
		"decoy that is the config":      agentImageOf("", layerOf(agentLayer, decoy), ambiguous, layerOf(types.OCILayer, decoy), raw),
		"decoy under two types":         agentImageOf("", config, ambiguous, layerOf("text/plain", wasm), raw),
		"giant entry":                   agentImageOf("", config, "its last layer has more than 256 MiB up to the end of the module", layerOf(types.OCILayer, moduletest.Gzip(sparse(1<<55, plugin)))),
		"docker":                        agentImageOf(types.DockerManifestSchema2, config, "", layerOf(types.DockerLayer, moduletest.Gzip(moduletest.Archive(plugin)))),
		"docker with an OCI layer":      agentImageOf(types.DockerManifestSchema2, config, noDocker, gzip(plugin)),
		"docker plain":                  agentImageOf(types.DockerManifestSchema2, config, noGzip, layerOf(types.DockerLayer, moduletest.Archive(plugin))),
		"docker with an artifact":       agentImageOf(types.DockerManifestSchema2, config, noDocker, config, raw),
		"artifact":                      agentImageOf(types.OCIManifestSchema1, config, "", config, raw),
		"artifact the other way round":  agentImageOf("", config, "", raw, config),
		"artifact with any second":      agentImageOf("", config, "", layerOf("text/plain", []byte("readme")), raw),
		"artifact of one layer":         agentImageOf("", config, twoLayers, raw),
		"artifact of three layers":      agentImageOf("", config, twoLayers, config, raw, layerOf("text/plain", []byte("readme"))),
		"artifact packed with gzip":     agentImageOf("", config, "its module is packed with gzip", config, layerOf(agentLayer, moduletest.Gzip(wasm))),
		"artifact packed with zstd":     agentImageOf("", config, "its module is packed with zstd", config, layerOf(agentLayer, moduletest.Zstd(wasm))),
		"artifact of the CNCF":          agentImageOf("", config, noArtifact, layerOf(registry.CNCFLayer, wasm)),
		"artifact of the CNCF of two":   agentImageOf("", config, noArtifact, config, layerOf(registry.CNCFLayer, wasm)),
		"artifact of the CNCF at first": agentImageOf("", config, noArtifact, config, layerOf("application/vnd.wasm.content.layer.v1+wasm", wasm)),
	}
}

// Modules of more than 256 MiB are left to the rules alone.
func TestTheAgentReads256MiB(t *testing.T) {
	const message = "more than 256 MiB"
	last := v1.Descriptor{MediaType: types.OCILayer, Digest: v1.Hash{Algorithm: "sha256", Hex: "a"}}
	raw := v1.Descriptor{MediaType: agentLayer, Digest: v1.Hash{Algorithm: "sha256", Hex: "b"}}
	for end, refused := range map[int64]bool{agentBytes: false, agentBytes + 1: true} {
		for _, c := range []struct {
			m     Manifest
			taken extraction
		}{
			{Manifest{Layers: []v1.Descriptor{last}}, extraction{digest: last.Digest, packing: packedGzip, end: end}},
			{Manifest{Layers: []v1.Descriptor{{}, raw}}, extraction{digest: raw.Digest, itself: true, end: end}},
		} {
			if got := agentRefuses(&c.m, c.taken); strings.Contains(got, message) != refused {
				t.Errorf("%d bytes: %q", end, got)
			}
		}
	}
}

func TestAnEntryOf256MiBIsNoGiant(t *testing.T) {
	for size, giant := range map[int64]bool{agentBytes: false, agentBytes + 1: true} {
		var e extraction
		if e.pass(&tar.Header{Name: "hole", Size: size}); e.giant != giant {
			t.Errorf("%d bytes: %v", size, e.giant)
		}
	}
}

func TestWhereAModuleEnds(t *testing.T) {
	wasm := moduletest.Wasm("end")
	files := moduletest.Archive(moduletest.File("before", make([]byte, 5000)), moduletest.File("plugin.wasm", wasm), moduletest.File("after", nil))
	for name, c := range map[string]struct {
		mediaType types.MediaType
		content   []byte
		end       int
	}{
		"in an archive": {types.OCILayer, moduletest.Gzip(files), bytes.Index(files, wasm) + len(wasm)},
		"by itself":     {agentLayer, wasm, len(wasm)},
	} {
		t.Run(name, func(t *testing.T) {
			layer := layerOf(c.mediaType, c.content).descriptor()
			blobs := &shelf{blobs: map[string][]byte{layer.Digest.String(): c.content}}
			u := &unpacking{limits: module.DefaultLimits, out: io.Discard, slots: make(chan struct{}, 1), fetch: blobs.fetch}
			moduletest.Must(t, u.unpack(&Manifest{Layers: []v1.Descriptor{layer}}))
			if u.taken.end != int64(c.end) {
				t.Errorf("%d, not %d", u.taken.end, c.end)
			}
		})
	}
}

type agentBlob struct {
	mediaType types.MediaType
	content   []byte
}

func layerOf(mediaType types.MediaType, content []byte) agentBlob {
	return agentBlob{mediaType, content}
}

func (b agentBlob) descriptor() v1.Descriptor {
	return v1.Descriptor{MediaType: b.mediaType, Size: int64(len(b.content)), Digest: v1.Hash{Algorithm: "sha256", Hex: moduletest.SHA256(string(b.content))}}
}

func agentImageOf(mediaType types.MediaType, config agentBlob, refuses string, layers ...agentBlob) agentImage {
	image := agentImage{Refuses: refuses, Blobs: map[string][]byte{}}
	made := v1.Manifest{SchemaVersion: 2, MediaType: mediaType, Config: config.descriptor()}
	for _, blob := range append(slices.Clone(layers), config) {
		image.Blobs[blob.descriptor().Digest.String()] = blob.content
	}
	for _, layer := range layers {
		made.Layers = append(made.Layers, layer.descriptor())
	}
	text, err := json.Marshal(made)
	ok(err)
	image.Manifest = string(text)
	return image
}

// unpacked returns the digest of the module in the image, and Contents.AgentRefuses.
func (image agentImage) unpacked(t *testing.T) (sha256, refuses string) {
	t.Helper()
	m, err := ParseManifest([]byte(image.Manifest))
	moduletest.Must(t, err)
	var out bytes.Buffer
	got, err := unpack(t, m, image.Blobs, module.DefaultLimits, &out)
	moduletest.Must(t, err)
	if _, err := module.Inspect(bytes.NewReader(out.Bytes()), int64(out.Len())); err != nil {
		t.Errorf("what came out is no module: %v", err)
	}
	return moduletest.SHA256(out.Bytes()), got.AgentRefuses
}

// sparse returns an archive with an entry of that size, all of it a hole, and files
// after it. The writer of archive/tar does not write those.
func sparse(size int64, files ...any) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	ok(w.WriteHeader(&tar.Header{Name: "hole", Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: map[string]string{
		"XXX.sparse.major": "0", "XXX.sparse.minor": "1", "XXX.sparse.numblocks": "0", "XXX.sparse.map": "", "XXX.sparse.size": fmt.Sprint(size),
	}}))
	ok(w.Flush())
	return append(bytes.ReplaceAll(out.Bytes(), []byte("XXX.sparse"), []byte("GNU.sparse")), moduletest.Archive(files...)...)
}

func TestASparseFileHasTheSizeInItsHeader(t *testing.T) {
	header, err := tar.NewReader(bytes.NewReader(sparse(1 << 55))).Next()
	moduletest.Must(t, err)
	if header.Size != 1<<55 {
		t.Errorf("%d bytes", header.Size)
	}
}

func TestAgentImagesAreDistinct(t *testing.T) {
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(madeAgentImages(t))) {
		image := madeAgentImages(t)[name]
		if other, twice := seen[image.Manifest]; twice {
			t.Errorf("%s is %s", name, other)
		}
		seen[image.Manifest] = name
	}
}

func ok(err error) {
	if err != nil {
		panic(err)
	}
}
