package chain

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

var proxy = Proxy{
	Target: workload.Target{
		Kind: "Deployment", Namespace: "bookinfo", Name: "details-v1",
		Selector: map[string]string{"app": "details"}, PodLabels: map[string]string{"app": "details", "version": "v1"},
	},
	RootNamespace: "istio-system",
}

// object returns one that is older the smaller its age is.
func object(kind wasmev1.Output, namespace, name string, age int, spec string) istio.Output {
	o := istio.Kinds[kind].New()
	o.SetNamespace(namespace)
	o.SetName(name)
	o.SetCreationTimestamp(metav1.NewTime(time.Unix(int64(age), 0)))
	raw, err := yaml.YAMLToJSON([]byte(spec))
	if err != nil {
		panic(err)
	}
	o.Content().Raw = raw
	return o
}

// wasmIn is an EnvoyFilter that puts a Wasm filter into chains.
func wasmIn(name, context, operation, anchor, more string) istio.Output {
	return object(wasmev1.OutputEnvoyFilter, "bookinfo", name, 1, fmt.Sprintf(`
%s
configPatches:
- applyTo: HTTP_FILTER
  match: {context: %s, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: %q}}}}}
  patch:
    operation: %s
    value:
      name: %s
      typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm, config: {name: plugin}}
`, more, context, anchor, operation, name))
}

// wasmPlugin is a WasmPlugin of the workload's namespace.
func wasmPlugin(name string, age int, spec string) istio.Output {
	return object(wasmev1.OutputWasmPlugin, "bookinfo", name, age, spec)
}

// labelled returns the names of objects in the order of their filters.
func labelled(filters []Filter) []string {
	var all []string
	for _, f := range filters {
		all = append(all, f.Label())
	}
	return all
}

func TestExpectedOrder(t *testing.T) {
	const router = "envoy.filters.http.router"
	for _, row := range []struct {
		name    string
		traffic Traffic
		objects []istio.Output
		want    []string
	}{
		{"of phases, priorities and ages", Inbound, []istio.Output{
			wasmPlugin("last", 1, `{}`), wasmPlugin("zero", 9, `{priority: 0}`), wasmPlugin("high", 2, `{priority: 10}`),
			wasmPlugin("stats", 3, `{phase: STATS}`), wasmPlugin("authz", 4, `{phase: AUTHZ}`),
			wasmPlugin("authn-young", 6, `{phase: AUTHN}`), wasmPlugin("authn-old", 5, `{phase: AUTHN}`),
		}, []string{"authn-old", "authn-young", "authz", "stats", "high", "zero", "last"}},
		{"of EnvoyFilters by priority, before the router", Inbound, []istio.Output{
			wasmIn("second", "SIDECAR_INBOUND", "INSERT_BEFORE", router, "priority: 5"),
			wasmIn("first", "SIDECAR_INBOUND", "INSERT_BEFORE", router, "priority: -5"),
			wasmPlugin("plugin", 1, `{}`),
		}, []string{"plugin", "first", "second"}},
		{"of what is first and after", Inbound, []istio.Output{
			wasmIn("one", "ANY", "INSERT_FIRST", "", ""), wasmIn("two", "ANY", "INSERT_FIRST", "", "priority: 1"),
			wasmIn("after", "ANY", "INSERT_AFTER", "envoy.filters.http.cors", ""),
			wasmIn("before", "ANY", "INSERT_BEFORE", "envoy.filters.http.rbac", ""),
		}, []string{"two", "one", "before", "after"}},
		{"without what has no neighbour", Inbound, []istio.Output{wasmIn("lost", "ANY", "INSERT_AFTER", "envoy.filters.http.unknown", "")}, nil},
		{"without what only changes others", Inbound, []istio.Output{wasmIn("merge", "ANY", "MERGE", router, "")}, nil},
		{"beside another Wasm filter", Inbound, []istio.Output{
			wasmIn("a", "ANY", "INSERT_BEFORE", router, ""), wasmIn("b", "ANY", "INSERT_BEFORE", "a", "priority: 1"),
		}, []string{"b", "a"}},
		{"of outbound requests", Outbound, []istio.Output{
			wasmIn("in", "SIDECAR_INBOUND", "INSERT_BEFORE", router, ""), wasmIn("out", "SIDECAR_OUTBOUND", "INSERT_BEFORE", router, ""),
			wasmPlugin("server", 1, `{match: [{mode: SERVER}]}`), wasmPlugin("client", 1, `{match: [{mode: CLIENT}]}`),
			wasmPlugin("both", 2, `{match: [{mode: CLIENT_AND_SERVER}]}`), wasmPlugin("any", 3, `{match: [{ports: [{number: 80}]}]}`),
		}, []string{"client", "both", "any", "out"}},
		{"of a gateway", Gateway, []istio.Output{wasmIn("gw", "GATEWAY", "INSERT_BEFORE", router, ""), wasmIn("in", "SIDECAR_INBOUND", "INSERT_BEFORE", router, "")}, []string{"gw"}},
		{"of what selects the workload, by labels that all its pods have", Inbound, []istio.Output{
			wasmIn("mine", "ANY", "INSERT_BEFORE", router, "workloadSelector: {labels: {app: details}}"),
			wasmIn("others", "ANY", "INSERT_BEFORE", router, "workloadSelector: {labels: {app: ratings}}"),
			wasmPlugin("plugin", 1, `{selector: {matchLabels: {version: v1}}}`), wasmPlugin("other-plugin", 1, `{selector: {matchLabels: {version: v2}}}`),
			wasmPlugin("of-a-gateway", 1, `{targetRefs: [{kind: Gateway, name: a}]}`),
		}, []string{"plugin", "mine"}},
		{"of the root namespace and no third one", Inbound, []istio.Output{
			object(wasmev1.OutputWasmPlugin, "istio-system", "everywhere", 1, `{}`), object(wasmev1.OutputWasmPlugin, "other", "elsewhere", 1, `{}`),
		}, []string{"everywhere"}},
		{"of TrafficExtensions with Wasm", Inbound, []istio.Output{
			object(wasmev1.OutputTrafficExtension, "bookinfo", "wasm", 1, `{wasm: {url: a}}`), object(wasmev1.OutputTrafficExtension, "bookinfo", "lua", 1, `{lua: {}}`),
		}, []string{"wasm"}},
		{"of what there is beside Wasm", Inbound, []istio.Output{object(wasmev1.OutputEnvoyFilter, "bookinfo", "lua", 1, `{configPatches: [{applyTo: HTTP_FILTER, match: {}, patch: {operation: INSERT_FIRST, value: {name: lua}}}]}`)}, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			NewWithT(t).Expect(labelled(Expected(row.objects, proxy, row.traffic))).To(Equal(row.want))
		})
	}
}

// rendered reads a golden file of internal/render.
func rendered(t *testing.T, name string) istio.Output {
	t.Helper()
	g := NewWithT(t)
	text, err := os.ReadFile("../../render/testdata/" + name + ".out.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	var content struct {
		Metadata metav1.ObjectMeta
		Kind     wasmev1.Output
	}
	g.Expect(yaml.Unmarshal(text, &content)).To(Succeed())
	o := istio.Kinds[content.Kind].New()
	g.Expect(yaml.Unmarshal(text, o)).To(Succeed())
	o.SetAnnotations(map[string]string{ownership.OwnerAnnotation: "bookinfo-custom-filter", revision.HashAnnotation: "baf56083"})
	return o
}

func TestTargetRefs(t *testing.T) {
	g := NewWithT(t)
	objects := []istio.Output{
		wasmPlugin("mine", 1, `{targetRefs: [{kind: Gateway, name: a, group: gateway.networking.k8s.io}]}`), wasmPlugin("others", 1, `{targetRefs: [{kind: Gateway, name: b}]}`),
		wasmIn("filter", "ANY", "INSERT_FIRST", "", "targetRefs: [{kind: Gateway, name: a}]"),
	}
	waypoint := proxy
	waypoint.Target.PodLabels = map[string]string{workload.GatewayLabel: "a"}
	g.Expect(labelled(Expected(objects, waypoint, Inbound))).To(Equal([]string{"filter", "mine"}))
	g.Expect(Expected(objects, proxy, Inbound)).To(BeEmpty())
}

func TestWhatTheOperatorRenders(t *testing.T) {
	from := Origin{"FilterDeployment", "bookinfo", "bookinfo-custom-filter"}
	for _, row := range []struct {
		file string
		want []Filter
	}{
		{"inbound-failreload", []Filter{{From: from, Revision: "baf56083", Place: "before the router"}}},
		{"position-first-ports", []Filter{{From: from, Place: "first"}}},
		{"position-after", []Filter{{From: from, Place: "after cors"}}},
		{"staging-slot-idle", []Filter{{From: from, Place: "before the router"}}},
		{"staging-slot", []Filter{{From: from, Place: "before the router"}, {From: from, Place: "before the router", Tried: true}}},
		{"canary", []Filter{{From: from, Place: "before the router"}, {From: from, Place: "before the router", Tried: true}}},
		{"trafficextension-inbound", []Filter{{From: from, Revision: "baf56083", Place: "before the router"}}},
	} {
		t.Run(row.file, func(t *testing.T) {
			g := NewWithT(t)
			got := Expected([]istio.Output{rendered(t, row.file)}, proxy, Inbound)
			g.Expect(got).To(HaveLen(len(row.want)))
			for i, f := range got {
				g.Expect(f.Revision).To(MatchRegexp("^[0-9a-f]{8}$"))
				g.Expect(f.Name).NotTo(BeEmpty())
				f.Name = ""
				if row.want[i].Revision == "" {
					f.Revision = ""
				}
				g.Expect(f).To(Equal(row.want[i]))
			}
		})
	}
	t.Run("is nothing for another workload with these labels", func(t *testing.T) {
		other := proxy
		other.Target.Name = "details-v2"
		NewWithT(t).Expect(Expected([]istio.Output{rendered(t, "inbound-failreload")}, other, Inbound)).To(BeEmpty())
	})
}

// dump is what Envoy answers: listeners with HTTP filters, and what it was sent beside.
const listeners = `{"configs": [
 {"name": "virtualInbound", "active_state": {"listener": {"name": "virtualInbound", "traffic_direction": "INBOUND", "filter_chains": [
  {"filters": [{"typed_config": {"http_filters": [
   {"name": "istio_authn"},
   {"name": "extensions.istio.io/trafficextension/bookinfo.auth~istio-translated-wasmplugin", "config_discovery": {"type_urls": ["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"]}},
   {"name": "bookinfo/hello/Deployment/details-v1/3a457a6d", "config_discovery": {"type_urls": ["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"]}},
   {"name": "bookinfo/hello/Deployment/details-v1/3a457a6d/next", "disabled": true, "config_discovery": {"type_urls": ["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"]}}
  ]}}]},
  {"filters": [{"typed_config": {}}]}
 ], "default_filter_chain": {"filters": [{"typed_config": {"http_filters": [{"name": "own", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"}}]}}]}}}},
 {"active_state": {"listener": {"name": "0.0.0.0_80", "traffic_direction": "OUTBOUND", "filter_chains": [{"filters": [{"typed_config": {"http_filters": [
   {"name": "bookinfo/out/Deployment/details-v1/3a457a6d", "config_discovery": {"type_urls": ["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"]}},
   {"name": "bookinfo/late/Deployment/details-v1/3a457a6d", "config_discovery": {"type_urls": ["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"]}}
 ]}}]}]}}},
 {"name": "warming"}
]}`

const extensions = `{"configs": [
 {"ecds_filter": {"name": "bookinfo/hello/Deployment/details-v1/3a457a6d", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm", "config": {"name": "wasm_filter.bookinfo/details-v1/hello@1165a7e6"}}}},
 {"ecds_filter": {"name": "bookinfo/hello/Deployment/details-v1/3a457a6d/next", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"}}},
 {"ecds_filter": {"name": "extensions.istio.io/trafficextension/bookinfo.auth~istio-translated-wasmplugin", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm", "config": {"name": "bookinfo.auth"}}}},
 {"ecds_filter": {"name": "bookinfo/out/Deployment/details-v1/3a457a6d", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": {}}}}
]}`

func TestRunning(t *testing.T) {
	g := NewWithT(t)
	chains, err := Running(strings.NewReader(listeners), strings.NewReader(extensions), false)
	g.Expect(err).NotTo(HaveOccurred())
	labels := map[Traffic][][]string{}
	for traffic, all := range chains {
		for _, filters := range all {
			labels[traffic] = append(labels[traffic], labelled(filters))
		}
	}
	g.Expect(labels).To(Equal(map[Traffic][][]string{
		Inbound:  {{"auth", "hello@1165a7e6"}, {"own"}},
		Outbound: {{"out (not fetched)", "late (not accepted yet)"}},
	}))
	g.Expect(chains[Inbound][0][0].From).To(Equal(Origin{"WasmPlugin", "bookinfo", "auth"}))
	ofGateway, err := Running(strings.NewReader(listeners), strings.NewReader(extensions), true)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(ofGateway[Gateway]).To(HaveLen(3))
	for _, broken := range []string{"", "<html>", `{"configs": [1]}`} {
		_, err = Running(strings.NewReader(listeners), strings.NewReader(broken), false)
		g.Expect(err).To(MatchError(HavePrefix("reading the configuration of a proxy: ")))
	}
}

func TestSame(t *testing.T) {
	f := func(name, revision string) Filter { return Filter{Name: name, Revision: revision} }
	expected := []Filter{f("a", ""), f("b", "11"), f("extensions.istio.io/wasmplugin/n.p", "22")}
	late := f("b", "11")
	late.Missing = "not fetched"
	for _, row := range []struct {
		name    string
		running [][]Filter
		want    bool
	}{
		{"is one chain with all, whatever version of Istio names them", [][]Filter{{f("a", ""), f("b", "11"), f("extensions.istio.io/trafficextension/n.p~istio-translated-wasmplugin", "")}}, true},
		{"are chains that have all together", [][]Filter{{f("a", ""), f("b", "11")}, {f("a", ""), expected[2]}}, true},
		{"is no chain without one", [][]Filter{{f("a", ""), f("b", "11")}}, false},
		{"is no chain in another order", [][]Filter{{f("b", "11"), f("a", ""), expected[2]}}, false},
		{"is no chain with another revision", [][]Filter{{f("a", ""), f("b", "12"), expected[2]}}, false},
		{"is no chain with more", [][]Filter{{f("a", ""), f("b", "11"), expected[2], f("c", "")}}, false},
		{"is no chain with what was not fetched", [][]Filter{{f("a", ""), late, expected[2]}}, false},
		{"is not nothing", nil, false},
	} {
		t.Run(row.name, func(t *testing.T) { NewWithT(t).Expect(Same(expected, row.running)).To(Equal(row.want)) })
	}
	NewWithT(t).Expect(Same(nil, nil)).To(BeTrue())
}

func TestAttribute(t *testing.T) {
	expected := []Filter{{Name: "own", From: Origin{"EnvoyFilter", "n", "mine"}}}
	got := Attribute([]Filter{{Name: "own", From: Origin{Kind: "EnvoyFilter"}}, {Name: "other", From: Origin{Kind: "EnvoyFilter"}}}, expected)
	NewWithT(t).Expect(labelled(got)).To(Equal([]string{"mine", "other"}))
}
