package oci

import (
	"bytes"
	"testing"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

func TestFindsTheTestsInAnImage(t *testing.T) {
	wasm := moduletest.Wasm("with tests")
	plugin := moduletest.File("plugin.wasm", wasm)
	tests := func(name, content string) any { return moduletest.File(name, []byte(content)) }
	wasmLayer := registry.Layer{MediaType: registry.CNCFLayer, Bytes: wasm}
	for name, c := range map[string]struct {
		layers []registry.Layer
		file   string
	}{
		"none":                     {moduletest.Layers(moduletest.Archive(plugin)), ""},
		"beside the plugin":        {moduletest.Layers(moduletest.Archive(plugin, tests("preflight-tests.yaml", "found"))), "preflight-tests.yaml"},
		"before the plugin":        {moduletest.Layers(moduletest.Archive(tests("./preflight-tests.textpb", "found"), plugin)), "preflight-tests.textpb"},
		"in an earlier layer":      {moduletest.Layers(moduletest.Archive(tests("preflight-tests.yaml", "found")), moduletest.Archive(plugin)), "preflight-tests.yaml"},
		"the later ones count":     {moduletest.Layers(moduletest.Archive(tests("preflight-tests.yaml", "old")), moduletest.Archive(plugin, tests("preflight-tests.yaml", "found"))), "preflight-tests.yaml"},
		"not in another folder":    {moduletest.Layers(moduletest.Archive(plugin, tests("src/preflight-tests.yaml", "other"))), ""},
		"not under another name":   {moduletest.Layers(moduletest.Archive(plugin, tests("tests.yaml", "other"))), ""},
		"a titled layer":           {[]registry.Layer{wasmLayer, {MediaType: "text/plain", Bytes: []byte("found"), Title: "preflight-tests.textpb"}}, "preflight-tests.textpb"},
		"a layer of another title": {[]registry.Layer{wasmLayer, {MediaType: "text/plain", Bytes: []byte("other"), Title: "README"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, contents, err := unpackImage(t, moduletest.ImageOf(t, c.layers...), module.DefaultLimits)
			moduletest.Must(t, err)
			switch {
			case c.file == "" && contents.Tests != nil:
				t.Errorf("found %+v", contents.Tests)
			case c.file != "" && (contents.Tests == nil || contents.Tests.Name != c.file || !bytes.Equal(contents.Tests.Content, []byte("found"))):
				t.Errorf("found %+v", contents.Tests)
			}
		})
	}
}

func TestRefusesTestsThatAreTooLarge(t *testing.T) {
	wasm := moduletest.Wasm("with tests")
	large := make([]byte, 256<<10+1)
	for name, layers := range map[string][]registry.Layer{
		"in an archive": moduletest.Layers(moduletest.Archive(moduletest.File("plugin.wasm", wasm), moduletest.File("preflight-tests.yaml", large))),
		"as a layer":    {{MediaType: registry.CNCFLayer, Bytes: wasm}, {MediaType: "text/plain", Bytes: large, Title: "preflight-tests.yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := unpackImage(t, moduletest.ImageOf(t, layers...), module.DefaultLimits)
			moduletest.WantError(t, err, wasmev1.ReasonTooLarge, "the image's preflight-tests.yaml has more than 262144 bytes")
		})
	}
}
