package render

import (
	"maps"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// what an output cannot carry, as a spec would ask for it.
const (
	asWasmPlugin       = "output: WasmPlugin"
	asTrafficExtension = "output: TrafficExtension"
	toGateway          = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}]"
	toService          = "targetRefs: [{kind: Service, name: s}]"
)

func parseSpec(t *testing.T, filter, istio string) wasmev1.FilterDeploymentSpec {
	t.Helper()
	if !strings.Contains(filter, "url:") && !strings.Contains(filter, "configMap:") && !strings.Contains(filter, "image:") {
		filter += ", image: i"
	}
	text := "{filter: {rootID: r, " + filter + "}, deployment: {istio: {" + istio + "}}}"
	var spec wasmev1.FilterDeploymentSpec
	if err := yaml.UnmarshalStrict([]byte(text), &spec); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return spec
}

var accepted = map[string][2]string{
	"nothing":                         {"id: i", ""},
	"url with digest":                 {"url: 'http://h/m', sha256: '" + moduleDigest + "'", ""},
	"configMap":                       {"configMap: {name: c, key: k}", ""},
	"everything in an EnvoyFilter":    {"config: world, priority: 7, position: {before: x}, ports: [80], vm: {env: [{name: A, value: b}]}", "output: EnvoyFilter"},
	"any":                             {"patchContext: any", ""},
	"Gateway in an EnvoyFilter":       {"patchContext: gateway, ports: [80]", toGateway},
	"waypoint by its Gateway":         {"config: {a: b}", toGateway + ", " + asWasmPlugin},
	"waypoint of a Service":           {"config: {a: b}, patchContext: any", toService + ", " + asTrafficExtension},
	"phase":                           {"position: {phase: Stats}", asWasmPlugin},
	"ports of a gateway":              {"patchContext: gateway, ports: [80]", toGateway + ", " + asTrafficExtension},
	"object":                          {`config: {a: [1, 0.1, 1e21, -2.5e-3, 9007199254740992, null, {b: "9007199254740993"}]}`, asWasmPlugin},
	"Struct":                          {"config: {'@type': " + wasmev1.StructType + ", value: {a: b}}", asTrafficExtension},
	"empty string":                    {"config: ''", asWasmPlugin},
	"string that is an object":        {`config: '{"a": 1}'`, asWasmPlugin},
	"Registry":                        {"image: ghcr.io/a/b:v1", "distribution: Registry"},
	"Registry with a secret":          {"image: ghcr.io/a/b:v1, imagePullOptions: {pullSecret: s}", "distribution: Registry, " + asWasmPlugin},
	"Served with a secret":            {"image: ghcr.io/a/b:v1, imagePullOptions: {pullSecret: s}", "distribution: Served"},
	"a configuration from elsewhere":  {"configFrom: {configMapKeyRef: {name: c, key: k}}", asWasmPlugin},
	"kind in odd letters, and labels": {"config: world", "kind: dEpLoYmEnT, labels: {a: b}"},
}

var refused = map[string][3]string{
	"no source":              {"image: ''", "", "exactly one of spec.filter.image, spec.filter.url and spec.filter.configMap"},
	"two sources":            {"image: i, configMap: {name: c, key: k}", "", "exactly one of spec.filter.image"},
	"url without digest":     {"url: 'http://h/m'", "", "spec.filter.url needs spec.filter.sha256"},
	"bad config":             {"config: 7", "", "spec.filter.config:"},
	"unknown output":         {"id: i", "output: Envoy", "spec.deployment.istio.output"},
	"ports of all traffic":   {"patchContext: any, ports: [80]", "", "spec.filter.ports"},
	"Registry without image": {"configMap: {name: c, key: k}", "distribution: Registry", "name one in spec.filter.image"},

	"phase in an EnvoyFilter":             {"position: {phase: Authn}", "", "spec.filter.position.phase: an EnvoyFilter has no phases"},
	"Service in an EnvoyFilter":           {"patchContext: inbound", toService, "spec.deployment.istio.targetRefs: the proxy of Service s is a waypoint"},
	"waypoint in an EnvoyFilter":          {"patchContext: inbound", toGateway, "spec.deployment.istio.targetRefs: an EnvoyFilter reaches gateways"},
	"all traffic of a Gateway":            {"patchContext: any", toGateway, "set spec.filter.patchContext to gateway"},
	"Registry, EnvoyFilter and a secret":  {"imagePullOptions: {pullSecret: s}", "distribution: Registry", "spec.filter.imagePullOptions.pullSecret"},
	"one Service among Gateways":          {"patchContext: gateway", "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}, {kind: Service, name: s}]", "Service s"},
	"outbound traffic of a targetRef":     {"patchContext: outbound", toGateway + ", " + asWasmPlugin, "spec.filter.patchContext: what spec.deployment.istio.targetRefs name has no outbound traffic"},
	"gateway traffic of a Service":        {"patchContext: gateway", toService + ", " + asWasmPlugin, "spec.filter.patchContext: the proxy of Service s is a waypoint"},
	"ports of a waypoint":                 {"patchContext: inbound, ports: [80]", toGateway + ", " + asWasmPlugin, "spec.filter.ports: waypoints cannot tell ports apart"},
	"first in a WasmPlugin":               {"position: {first: true}", asWasmPlugin, "spec.filter.position: a WasmPlugin has no place but phases"},
	"before in a TrafficExtension":        {"position: {before: x}", asTrafficExtension, "spec.filter.position: a TrafficExtension has no place but phases"},
	"after in a WasmPlugin":               {"position: {after: x}", asWasmPlugin, "spec.filter.position"},
	"string in a WasmPlugin":              {"config: world", asWasmPlugin, "spec.filter.config: a WasmPlugin cannot carry it: it is no JSON object"},
	"bytes in a TrafficExtension":         {"config: {'@type': " + wasmev1.BytesValueType + ", value: /wAB}", asTrafficExtension, "spec.filter.config: a TrafficExtension cannot carry it"},
	"string that is a list":               {"config: '[1]'", asWasmPlugin, "it is no JSON object"},
	"string that is null":                 {"config: 'null'", asWasmPlugin, "it is no JSON object"},
	"string that goes on after an object": {"config: '{\"a\": 1} {}'", asWasmPlugin, "it is no JSON object"},
	"empty object":                        {"config: {}", asWasmPlugin, "of an empty object the module would see nothing"},
	"integer beyond 2^53":                 {"config: '{\"a\": [{\"b\": 9007199254740993}]}'", asWasmPlugin, "9007199254740993 is none"},
	"number out of range":                 {"config: '{\"a\": 1e999}'", asWasmPlugin, "1e999 is none"},
}

func TestCheckAcceptsWhatTheOutputCanCarry(t *testing.T) {
	for name, tc := range accepted {
		t.Run(name, func(t *testing.T) {
			if err := Check(parseSpec(t, tc[0], tc[1])); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestCheckRefusesWhatTheOutputCannotCarry(t *testing.T) {
	for name, tc := range refused {
		t.Run(name, func(t *testing.T) {
			err := Check(parseSpec(t, tc[0], tc[1]))
			if err == nil || !strings.Contains(err.Error(), tc[2]) {
				t.Fatalf("got %v, want %q in it", err, tc[2])
			}
		})
	}
}

// A revision of before, or one whose spec was never checked, comes this way.
func TestRenderingRefusesWhatTheOutputCannotCarry(t *testing.T) {
	cases := maps.Clone(refused)
	for _, checkedEarlier := range []string{"no source", "two sources", "url without digest", "bad config", "unknown output", "Registry without image"} {
		delete(cases, checkedEarlier)
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := renderSpec(t, parseSpec(t, tc[0], tc[1]))
			if err == nil || !strings.Contains(err.Error(), tc[2]) {
				t.Fatalf("got %v, want %q in it", err, tc[2])
			}
		})
	}
}

// renderSpec renders a spec for each of its targets and returns the first error.
func renderSpec(t *testing.T, spec wasmev1.FilterDeploymentSpec) error {
	t.Helper()
	istio := spec.Deployment.Istio
	filter, err := NewFilter(testOwner, spec.Filter, istio.Distribution, wasmev1.ModuleStatus{SHA256: moduleDigest, ManifestDigest: manifestDigest})
	if err != nil {
		t.Fatal(err)
	}
	targets := []Target{details}
	for i, reference := range istio.TargetRefs {
		if i == 0 {
			targets = nil
		}
		targets = append(targets, Target{Kind: reference.Kind, Namespace: testOwner.Namespace, Name: reference.Name})
	}
	for _, target := range targets {
		switch istio.Output {
		case wasmev1.OutputWasmPlugin:
			_, err = WasmPlugin(testMesh, filter, target)
		case wasmev1.OutputTrafficExtension:
			_, err = TrafficExtension(testMesh, filter, target)
		default:
			_, err = EnvoyFilter(testMesh, testOwner, filter, target, "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func TestOutputsRefuseAWorkloadWithoutTemplateLabels(t *testing.T) {
	workload := details
	workload.PodLabels = nil
	filter := Filter{PatchContext: wasmev1.PatchContextInbound}
	_, envoyFilter := EnvoyFilter(testMesh, testOwner, filter, workload, "")
	_, plugin := WasmPlugin(testMesh, filter, workload)
	for _, err := range []error{envoyFilter, plugin} {
		if err == nil || !strings.Contains(err.Error(), "the pod template of Deployment details-v1 has no labels") {
			t.Errorf("got %v", err)
		}
	}
}
