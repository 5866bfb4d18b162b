package module

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/wasme-io/wasme-operator/test/registry"
)

var update = flag.Bool("update", false, "rewrite the images in testdata")

// agentImages is where the images lie that hack/build/istio shows to Istio's
// own fetcher, to see whether it agrees.
const agentImages = "testdata/agent"

func TestWhichFormsTheAgentTakes(t *testing.T) {
	r := startRegistry(t)
	wasm := testModule("forms")
	want := map[registry.Form]string{
		registry.WasmeArtifact: "",
		registry.CompatOCI:     "",
		registry.CompatDocker:  "",
		registry.CompatOCIZstd: "its last layer is not of the type application/vnd.oci.image.layer.v1.tar+gzip",
		registry.CNCFArtifact:  "its module is not of the type application/vnd.module.wasm.content.layer.v1+wasm",
	}
	for _, form := range registry.Forms() {
		t.Run(string(form), func(t *testing.T) {
			why, listed := want[form]
			if !listed {
				t.Fatal("what the agent makes of it?")
			}
			for _, roots := range [][]string{nil, {"root"}} {
				m, err := pull(t, PullerOptions{Limits: DefaultLimits}, Request{Image: push(t, r, "filter:v1", registry.Index(formOf(t, form, wasm, roots...))), PlainHTTP: true})
				must(t, err)
				if m.AgentRefuses != why {
					t.Errorf("%q, not %q", m.AgentRefuses, why)
				}
			}
		})
	}
}

// What the agent refuses is remembered with the image.
func TestARestartRemembersWhatTheAgentRefuses(t *testing.T) {
	r := startRegistry(t)
	req := Request{Image: push(t, r, "filter:v1", formOf(t, registry.CNCFArtifact, testModule("remembered"))), PlainHTTP: true}
	f := startResolver(t, 1)
	before := f.resolved(holder("a"), req).AgentRefuses
	after := startResolverOn(t, f.store.dir, 1).resolved(holder("a"), req).AgentRefuses
	if before == "" || after != before {
		t.Errorf("%q, then %q", before, after)
	}
}

// agentImage is an image with what this package makes of it.
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
		must(t, os.RemoveAll(agentImages))
		must(t, os.MkdirAll(agentImages, 0o755))
	}
	for name, image := range made {
		t.Run(name, func(t *testing.T) {
			m := image.pull(t)
			if m.AgentRefuses != image.Refuses {
				t.Errorf("%q, not %q", m.AgentRefuses, image.Refuses)
			}
			image.SHA256 = m.SHA256
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
		must(t, err)
		must(t, os.WriteFile(path, append(text, '\n'), 0o644))
	}
	text, err := os.ReadFile(path)
	must(t, err)
	var golden agentImage
	must(t, json.Unmarshal(text, &golden))
	m := golden.pull(t)
	if got := [...]string{golden.SHA256, golden.Refuses, m.SHA256, m.AgentRefuses}; got != [...]string{image.SHA256, image.Refuses, image.SHA256, image.Refuses} {
		t.Errorf("%q: make golden", got)
	}
}

// madeAgentImages are images that this package reads, with what it makes of
// them; some are made so that another reader finds another module.
func madeAgentImages(t *testing.T) map[string]agentImage {
	t.Helper()
	wasm, decoy := testModule("module"), testModule("decoy")
	plugin := file("plugin.wasm", wasm)
	raw := layerOf(agentLayer, wasm)
	config := layerOf(registry.WasmeConfig, rootConfig("root"))
	gzip := func(files ...any) agentBlob { return layerOf(types.OCILayer, gzipped(archive(files...))) }
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
		"compat with a config":          agentImageOf("", config, "", gzip(file("runtime-config.json", rootConfig("root")), plugin)),
		"compat of two layers":          agentImageOf("", config, "", gzip(file("plugin.wasm", decoy)), gzip(plugin)),
		"compat by another path":        agentImageOf("", config, "", gzip(file("./plugin.wasm", wasm))),
		"compat after other files":      agentImageOf("", config, "", gzip(file("etc/passwd", nil), file("plugin.wasm.old", decoy), plugin)),
		"compat twice in one layer":     agentImageOf("", config, "", gzip(plugin, file("plugin.wasm", decoy))),
		"compat not in the last layer":  agentImageOf("", config, elsewhere, gzip(plugin), gzip(file("etc/passwd", nil))),
		"compat plain":                  agentImageOf("", config, noGzip, layerOf(types.OCILayer, archive(plugin))),
		"compat zstd as gzip":           agentImageOf("", config, noGzip, layerOf(types.OCILayer, zstandard(archive(plugin)))),
		"compat zstd":                   agentImageOf("", config, noArchive, layerOf(types.OCILayerZStd, zstandard(archive(plugin)))),
		"compat untyped":                agentImageOf("", config, noArchive, layerOf("", gzipped(archive(plugin)))),
		"compat with a docker layer":    agentImageOf(types.OCIManifestSchema1, config, noArchive, layerOf(types.DockerLayer, gzipped(archive(plugin)))),
		"decoy in a folder":             agentImageOf("", config, notFirst, gzip(file("usr/plugin.wasm", decoy), plugin)),
		"decoy that is a folder":        agentImageOf("", config, notFirst, gzip(tar.Header{Name: "plugin.wasm/", Typeflag: tar.TypeDir}, plugin)),
		"decoy that is a link":          agentImageOf("", config, notFirst, gzip(tar.Header{Name: "plugin.wasm", Typeflag: tar.TypeSymlink, Linkname: "x"}, plugin)),
		"decoy by another name":         agentImageOf("", config, notFirst, gzip(file("plugin.wasm/.", wasm), file("usr/plugin.wasm", decoy))),
		"decoy in an archive beside":    agentImageOf("", config, elsewhere, raw, gzip(file("plugin.wasm", decoy))),
		"decoy that is the config":      agentImageOf("", layerOf(agentLayer, decoy), ambiguous, layerOf(types.OCILayer, decoy), raw),
		"decoy under two types":         agentImageOf("", config, ambiguous, layerOf("text/plain", wasm), raw),
		"giant entry":                   agentImageOf("", config, "its last layer has more than 256 MiB up to the end of the module", layerOf(types.OCILayer, gzipped(sparse(1<<55, plugin)))),
		"docker":                        agentImageOf(types.DockerManifestSchema2, config, "", layerOf(types.DockerLayer, gzipped(archive(plugin)))),
		"docker with an OCI layer":      agentImageOf(types.DockerManifestSchema2, config, noDocker, gzip(plugin)),
		"docker plain":                  agentImageOf(types.DockerManifestSchema2, config, noGzip, layerOf(types.DockerLayer, archive(plugin))),
		"docker with an artifact":       agentImageOf(types.DockerManifestSchema2, config, noDocker, config, raw),
		"artifact":                      agentImageOf(types.OCIManifestSchema1, config, "", config, raw),
		"artifact the other way round":  agentImageOf("", config, "", raw, config),
		"artifact with any second":      agentImageOf("", config, "", layerOf("text/plain", []byte("readme")), raw),
		"artifact of one layer":         agentImageOf("", config, twoLayers, raw),
		"artifact of three layers":      agentImageOf("", config, twoLayers, config, raw, layerOf("text/plain", []byte("readme"))),
		"artifact packed with gzip":     agentImageOf("", config, "its module is packed with gzip", config, layerOf(agentLayer, gzipped(wasm))),
		"artifact packed with zstd":     agentImageOf("", config, "its module is packed with zstd", config, layerOf(agentLayer, zstandard(wasm))),
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
			m     manifest
			taken extraction
		}{
			{manifest{Layers: []v1.Descriptor{last}}, extraction{digest: last.Digest, packing: packedGzip, end: end}},
			{manifest{Layers: []v1.Descriptor{{}, raw}}, extraction{digest: raw.Digest, itself: true, end: end}},
		} {
			if got := agentRefuses(&c.m, c.taken); strings.Contains(got, message) != refused {
				t.Errorf("%d bytes: %q", end, got)
			}
		}
	}
}

func TestWhereAModuleEnds(t *testing.T) {
	wasm := testModule("end")
	files := archive(file("before", make([]byte, 5000)), file("plugin.wasm", wasm), file("after", nil))
	for name, c := range map[string]struct {
		mediaType types.MediaType
		content   []byte
		end       int
	}{
		"in an archive": {types.OCILayer, gzipped(files), bytes.Index(files, wasm) + len(wasm)},
		"by itself":     {agentLayer, wasm, len(wasm)},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, t.TempDir(), 1<<20)
			out, err := s.create()
			must(t, err)
			defer out.discard()
			u := &unpacker{limits: DefaultLimits, out: out, slots: make(chan struct{}, 1), fetch: func(v1.Descriptor) (*tempFile, error) {
				blob, err := s.create()
				must(t, err)
				_, err = blob.Write(c.content)
				return blob, err
			}}
			must(t, u.unpack(&manifest{Layers: []v1.Descriptor{{MediaType: c.mediaType}}}))
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
	return v1.Descriptor{MediaType: b.mediaType, Size: int64(len(b.content)), Digest: v1.Hash{Algorithm: "sha256", Hex: sumOf(string(b.content))}}
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

// pull pulls the image from a registry that has nothing else.
func (image agentImage) pull(t *testing.T) Module {
	t.Helper()
	server := httptest.NewServer(image)
	defer server.Close()
	reference := fmt.Sprintf("%s/filter@sha256:%s", strings.TrimPrefix(server.URL, "http://"), sumOf(image.Manifest))
	m, err := pull(t, PullerOptions{Limits: DefaultLimits}, Request{Image: reference, PlainHTTP: true})
	must(t, err)
	return m
}

func (image agentImage) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	digest := filepath.Base(req.URL.Path)
	switch blob, isBlob := image.Blobs[digest]; {
	case req.URL.Path == "/v2/":
	case digest == "sha256:"+sumOf(image.Manifest):
		w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
		w.Header().Set("Docker-Content-Digest", digest)
		_, _ = io.WriteString(w, image.Manifest) // the client may refuse it
	case isBlob:
		_, _ = w.Write(blob)
	default:
		http.NotFound(w, req)
	}
}

// sparse is an archive with an entry of that size, all of it a hole, and files
// after it. The writer of archive/tar does not write those.
func sparse(size int64, files ...any) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	ok(w.WriteHeader(&tar.Header{Name: "hole", Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: map[string]string{
		"XXX.sparse.major": "0", "XXX.sparse.minor": "1", "XXX.sparse.numblocks": "0", "XXX.sparse.map": "", "XXX.sparse.size": fmt.Sprint(size),
	}}))
	ok(w.Flush())
	return append(bytes.ReplaceAll(out.Bytes(), []byte("XXX.sparse"), []byte("GNU.sparse")), archive(files...)...)
}

func TestASparseFileIsWhatItSays(t *testing.T) {
	header, err := tar.NewReader(bytes.NewReader(sparse(1 << 55))).Next()
	must(t, err)
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
