package pull

import (
	"testing"

	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

func TestCountsTheBytesOfModulesAndLayers(t *testing.T) {
	r := moduletest.StartRegistry(t)
	wasm := moduletest.Wasm("counted")
	const series = "wasme_module_pulled_bytes_total"
	count := func() float64 { return moduletest.Gather(t, pulledBytesTotal)[series] }

	before := count()
	_, err := fetch(t, NewClient(Options{Limits: module.DefaultLimits}), Request{URL: r.PutFile("/filter.wasm", wasm), SHA256: moduletest.SHA256(wasm)})
	moduletest.Must(t, err)
	if got := count() - before; got != float64(len(wasm)) {
		t.Errorf("%v bytes were pulled from a URL, not the %d of the module", got, len(wasm))
	}
	before = count()
	image := moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CNCFArtifact, wasm))
	_, err = pull(t, Options{Limits: module.DefaultLimits}, Request{Image: image, PlainHTTP: true})
	moduletest.Must(t, err)
	if got := count() - before; got != float64(len(wasm)) {
		t.Errorf("%v bytes were pulled from a registry, not the %d of the layer", got, len(wasm))
	}
}
