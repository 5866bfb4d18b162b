package module

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wasme-io/wasme-operator/test/registry"
)

func TestLookupsAndPullsAreCountedByResult(t *testing.T) {
	r := startRegistry(t)
	wasm := testModule("counted")
	url := Request{URL: r.PutFile("/filter.wasm", wasm), SHA256: sumOf(string(wasm))}
	image := Request{Image: push(t, r, "filter:v1", formOf(t, registry.CompatOCI, testModule("pulled"))), PlainHTTP: true}
	none := Request{Image: r.Host() + "/none:v1", PlainHTTP: true}
	broken := Request{Image: push(t, r, "broken:v1", formOf(t, registry.CompatOCI, []byte("no module"))), PlainHTTP: true}
	invalid := Request{Image: "No Image"}
	f := startResolver(t, 4)
	before := counts(t)

	f.resolved(holder("url"), url)
	if got := counts(t)["bytes"] - before["bytes"]; got != float64(len(wasm)) {
		t.Errorf("%v bytes were pulled, not the %d of the module", got, len(wasm))
	}
	f.resolved(holder("image"), image)
	f.clock.Step(pollInterval)
	f.Resolve(holder("image"), image)
	f.settled(image)
	for name, req := range map[string]Request{"none": none, "broken": broken, "invalid": invalid} {
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

func TestTheStoreTellsItsSizeAndBound(t *testing.T) {
	store := openStore(t, t.TempDir(), 1<<20)
	wasm := testModule("kept")
	if _, err := store.keep(wasm, DefaultLimits); err != nil {
		t.Fatal(err)
	}
	got := gather(t, store)
	if got["wasme_module_store_bytes"] != float64(len(wasm)) || got["wasme_module_store_max_bytes"] != 1<<20 {
		t.Errorf("%v", got)
	}
}

// counts are the counters by result, by short names.
func counts(t *testing.T) map[string]float64 {
	t.Helper()
	found := map[string]float64{}
	for name, metric := range map[string]prometheus.Collector{"lookups": lookupsTotal, "pulls": pullsTotal, "bytes": pulledBytesTotal, "durations": pullSeconds} {
		for series, value := range gather(t, metric) {
			_, result, _ := strings.Cut(series, " ")
			found[strings.TrimSpace(name+" "+result)] = value
		}
	}
	return found
}

// gather gives a collector's values, and the counts of histograms, by name and result.
func gather(t *testing.T, collector prometheus.Collector) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collector)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			series := family.GetName()
			for _, label := range metric.GetLabel() {
				series += " " + label.GetValue()
			}
			found[series] = metric.GetGauge().GetValue() + metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount())
		}
	}
	return found
}
