package resolve

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

func TestLookupsAndPullsAreCountedByResult(t *testing.T) {
	r := moduletest.StartRegistry(t)
	wasm := moduletest.Wasm("counted")
	url := pull.Request{URL: r.PutFile("/filter.wasm", wasm), SHA256: moduletest.SHA256(wasm)}
	image := pull.Request{Image: moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("pulled"))), PlainHTTP: true}
	none := pull.Request{Image: r.Host() + "/none:v1", PlainHTTP: true}
	broken := pull.Request{Image: moduletest.Push(t, r, "broken:v1", moduletest.FormOf(t, registry.CompatOCI, []byte("no module"))), PlainHTTP: true}
	invalid := pull.Request{Image: "No Image"}
	f := startResolver(t, 4)
	before := counts(t)

	f.resolved(holder("url"), url)
	f.resolved(holder("image"), image)
	f.clock.Step(pollInterval)
	f.Resolve(holder("image"), image)
	f.settled(image)
	for name, req := range map[string]pull.Request{"none": none, "broken": broken, "invalid": invalid} {
		if err := f.failed(holder(name), req); err.Message == "" {
			t.Errorf("%s fails without a message", name)
		}
	}

	after := counts(t)
	for series, want := range map[string]float64{
		"lookups success": 3, "lookups ImageNotFound": 1, "lookups InvalidModule": 1, "lookups InvalidSpec": 1,
		"pulls success": 2, "pulls ImageNotFound": 0, "pulls InvalidModule": 1, "durations": 3,
	} {
		if got := after[series] - before[series]; got != want {
			t.Errorf("%s: %v, not %v", series, got, want)
		}
	}
	for series := range after {
		if _, found := before[series]; !found {
			t.Errorf("%s is not there from the start", series)
		}
	}
}

// counts returns the counters by short names and results.
func counts(t *testing.T) map[string]float64 {
	t.Helper()
	found := map[string]float64{}
	for name, metric := range map[string]prometheus.Collector{"lookups": lookupsTotal, "pulls": pullsTotal, "durations": pullSeconds} {
		for series, value := range moduletest.Gather(t, metric) {
			_, result, _ := strings.Cut(series, " ")
			found[strings.TrimSpace(name+" "+result)] = value
		}
	}
	return found
}
