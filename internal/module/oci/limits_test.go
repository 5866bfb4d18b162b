package oci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
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

// What has exactly the size of a limit passes, and a byte more does not.
func TestLimitsAreInclusive(t *testing.T) {
	wasm := moduletest.Wasm("a module")
	archive := moduletest.Archive(moduletest.File("a", nil), moduletest.File("plugin.wasm", wasm))
	artifact := []registry.Layer{{MediaType: registry.CNCFLayer, Bytes: wasm}}
	for name, c := range map[string]struct {
		layers []registry.Layer
		limit  func(*module.Limits, int)
		least  int
		flag   string
	}{
		"module in an archive":  {moduletest.Layers(archive), func(l *module.Limits, n int) { l.ModuleBytes = int64(n) }, len(wasm), "--max-module-bytes"},
		"module by itself":      {artifact, func(l *module.Limits, n int) { l.ModuleBytes = int64(n) }, len(wasm), "--max-module-bytes"},
		"module that is packed": {[]registry.Layer{{MediaType: registry.CNCFLayer, Bytes: moduletest.Gzip(wasm)}}, func(l *module.Limits, n int) { l.ModuleBytes = int64(n) }, len(wasm), "--max-module-bytes"},
		"layer":                 {artifact, func(l *module.Limits, n int) { l.LayerBytes = int64(n) }, len(wasm), "--max-layer-bytes"},
		"archive":               {moduletest.Layers(archive), func(l *module.Limits, n int) { l.LayerBytes = int64(n) }, len(archive), "--max-layer-bytes"},
		"packed archive":        {moduletest.Layers(moduletest.Gzip(archive)), func(l *module.Limits, n int) { l.LayerBytes = int64(n) }, len(archive), "--max-layer-bytes"},
		"files":                 {moduletest.Layers(archive), func(l *module.Limits, n int) { l.ArchiveEntries = n }, 2, "--max-archive-entries"},
	} {
		t.Run(name, func(t *testing.T) {
			limits := module.DefaultLimits
			c.limit(&limits, c.least)
			got, _, err := unpackImage(t, moduletest.ImageOf(t, c.layers...), limits)
			moduletest.Must(t, err)
			if !bytes.Equal(got, wasm) {
				t.Errorf("%q is not the module", got)
			}
			c.limit(&limits, c.least-1)
			_, _, err = unpackImage(t, moduletest.ImageOf(t, c.layers...), limits)
			moduletest.WantError(t, err, wasmev1.ReasonTooLarge, c.flag)
		})
	}
}

func TestRootIDs(t *testing.T) {
	many := slices.Repeat([]string{"x"}, 64)
	for name, c := range map[string]struct {
		config          string
		want            []string
		reason, message string
	}{
		"two":                {string(moduletest.RuntimeConfig("a", "b")), []string{"a", "b"}, "", ""},
		"an empty one":       {string(moduletest.RuntimeConfig("")), []string{""}, "", ""},
		"none":               {`{"config":{"rootIds":[]}}`, nil, "", ""},
		"nothing about them": {`{}`, nil, "", ""},
		"as many as may be":  {string(moduletest.RuntimeConfig(many...)), many, "", ""},
		"one more":           {string(moduletest.RuntimeConfig(append(many, "x")...)), nil, wasmev1.ReasonTooLarge, "it lists 65 root ids, at most 64 can be used"},
		"as long as may be":  {string(moduletest.RuntimeConfig(strings.Repeat("x", 256))), []string{strings.Repeat("x", 256)}, "", ""},
		"longer by a byte":   {string(moduletest.RuntimeConfig(strings.Repeat("x", 257))), nil, wasmev1.ReasonTooLarge, "a root id has 257 bytes, at most 256 can be used"},
		"numbers":            {`{"config":{"rootIds":[1]}}`, nil, wasmev1.ReasonInvalidImage, "is not the JSON that wasme writes"},
		"no JSON":            {`root`, nil, wasmev1.ReasonInvalidImage, "is not the JSON that wasme writes"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseRootIDs([]byte(c.config))
			moduletest.WantError(t, err, c.reason, c.message)
			if !slices.Equal(got, c.want) {
				t.Errorf("%q, not %q", got, c.want)
			}
		})
	}
}

func TestWhereTheRuntimeConfigurationIsLookedFor(t *testing.T) {
	wasm := moduletest.Wasm("a module")
	config := moduletest.File("runtime-config.json", moduletest.RuntimeConfig("root"))
	plugin := moduletest.File("plugin.wasm", wasm)
	// padded is an archive of that size with the configuration.
	padded := func(size int) []byte {
		archive := moduletest.Archive(config)
		return append(archive, make([]byte, size-len(archive))...)
	}
	whole := func(size int) []byte {
		text := moduletest.RuntimeConfig("root")
		return append(text, bytes.Repeat([]byte(" "), size-len(text))...)
	}
	raw := registry.Layer{MediaType: registry.WasmeLayer, Bytes: wasm}
	for name, c := range map[string]struct {
		layers  []registry.Layer
		roots   []string
		message string
	}{
		"a small layer before":         {moduletest.Layers(padded(64<<10), moduletest.Archive(plugin)), []string{"root"}, ""},
		"a layer that is not small":    {moduletest.Layers(padded(64<<10+512), moduletest.Archive(plugin)), nil, ""},
		"a layer behind, of any size":  {moduletest.Layers(moduletest.Archive(plugin), padded(64<<10+512)), []string{"root"}, ""},
		"as large as may be":           {moduletest.Layers(moduletest.Archive(moduletest.File("runtime-config.json", whole(64<<10)), plugin)), []string{"root"}, ""},
		"larger by a byte":             {moduletest.Layers(moduletest.Archive(moduletest.File("runtime-config.json", whole(64<<10+1)), plugin)), nil, "the image's runtime configuration has more than 65536 bytes"},
		"beside the module":            {[]registry.Layer{raw, {MediaType: registry.WasmeConfig, Bytes: whole(64 << 10)}}, []string{"root"}, ""},
		"beside the module, too large": {[]registry.Layer{{MediaType: registry.WasmeConfig, Bytes: whole(64<<10 + 1)}, raw}, nil, "the image's runtime configuration has more than 65536 bytes"},
		"in a folder":                  {moduletest.Layers(moduletest.Archive(moduletest.File("etc/runtime-config.json", whole(100)), plugin)), nil, ""},
		"a folder":                     {moduletest.Layers(moduletest.Archive(tar.Header{Name: "runtime-config.json", Typeflag: tar.TypeDir}, plugin)), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, contents, err := unpackImage(t, moduletest.ImageOf(t, c.layers...), module.DefaultLimits)
			moduletest.WantError(t, err, wasmev1.ReasonTooLarge, c.message)
			if !slices.Equal(contents.RootIDs, c.roots) {
				t.Errorf("%q, not %q", contents.RootIDs, c.roots)
			}
		})
	}
}

func TestForeignLayersAreNotRead(t *testing.T) {
	wasm := moduletest.Wasm("a module")
	plugin := layerOf(types.OCILayer, moduletest.Gzip(moduletest.Archive(moduletest.File("plugin.wasm", wasm))))
	elsewhere := plugin.descriptor()
	elsewhere.URLs = []string{"https://evil.example/"}
	restricted := plugin.descriptor()
	restricted.MediaType = types.OCIRestrictedLayer
	for name, layer := range map[string]v1.Descriptor{"with a URL": elsewhere, "by its type": restricted} {
		t.Run(name, func(t *testing.T) {
			_, err := unpack(t, &Manifest{Layers: []v1.Descriptor{layer}}, nil, module.DefaultLimits, io.Discard)
			moduletest.WantError(t, err, wasmev1.ReasonInvalidImage, "the image holds no Wasm module")
		})
	}
}

func TestErrorsOfOthersArePassedOn(t *testing.T) {
	layer := layerOf(registry.CNCFLayer, moduletest.Wasm("a module"))
	own := module.Temporary(wasmev1.ReasonStoreUnavailable, "the disk is full")
	m := &Manifest{Layers: []v1.Descriptor{layer.descriptor()}}
	_, err := unpack(t, m, map[string][]byte{layer.descriptor().Digest.String(): layer.content}, module.DefaultLimits, failingWriter{own})
	moduletest.WantError(t, err, wasmev1.ReasonStoreUnavailable, "the disk is full")
	failed := errors.New("failed")
	_, err = NewUnpacker(module.DefaultLimits).Unpack(m, func(v1.Descriptor) (Blob, error) { return nil, failed }, io.Discard)
	if !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
}

type failingWriter struct{ err error }

func (f failingWriter) Write([]byte) (int, error) { return 0, f.err }

func TestParseManifestRefuses(t *testing.T) {
	for name, c := range map[string]struct{ text, message string }{
		"an index and an image": {`{"layers":[{}],"manifests":[{}]}`, "an index and an image in one"},
		"nothing":               {`{}`, "the image has no layers"},
		"null":                  {`null`, "the image has no layers"},
		"empty lists":           {`{"layers":[],"manifests":[]}`, "the image has no layers"},
		"a list":                {`[]`, "not the JSON of an OCI or Docker manifest"},
		"no JSON":               {`<html>`, "not the JSON of an OCI or Docker manifest"},
		"a layer of text":       {`{"layers":["x"]}`, "not the JSON of an OCI or Docker manifest"},
		"layers of text":        {`{"layers":"x"}`, "not the JSON of an OCI or Docker manifest"},
	} {
		_, err := ParseManifest([]byte(c.text))
		moduletest.WantError(t, err, wasmev1.ReasonInvalidImage, c.message)
		if e := module.AsError(err); e == nil || !e.Terminal {
			t.Errorf("%s: not terminal", name)
		}
	}
}

func TestAnIndexOfAttestationsHasNoChild(t *testing.T) {
	m := Manifest{Manifests: []v1.Descriptor{{Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest"}}}}
	_, err := m.Child()
	moduletest.WantError(t, err, wasmev1.ReasonInvalidImage, "attestations only")
}

func TestIsIndex(t *testing.T) {
	for text, want := range map[string]bool{`{"manifests":[{}]}`: true, `{"layers":[{}]}`: false} {
		m, err := ParseManifest([]byte(text))
		moduletest.Must(t, err)
		if m.IsIndex() != want {
			t.Errorf("%s: %v", text, m.IsIndex())
		}
	}
}

func TestALayerListIsNoObject(t *testing.T) {
	var list layerList
	if err := json.Unmarshal([]byte(`{}`), &list); err == nil {
		t.Errorf("%v", list)
	}
}
