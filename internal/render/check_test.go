package render

import (
	"errors"
	"maps"
	"os"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/version"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/rules"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// Parts of deployment.istio.
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

// refusedByRule are specs that the schema refuses, too, with the rule.
var refusedByRule = map[string]struct {
	filter, istio string
	rule          *rules.Rule
}{
	"id with two dots":       {"id: a..b", "", rules.InvalidID},
	"id in capitals":         {"id: MyFilter", "", rules.InvalidID},
	"no source":              {"image: ''", "", rules.NotOneSource},
	"two sources":            {"image: i, configMap: {name: c, key: k}", "", rules.NotOneSource},
	"three sources":          {"image: i, url: 'http://h/m', configMap: {name: c, key: k}", "", rules.NotOneSource},
	"url without digest":     {"url: 'http://h/m'", "", rules.URLWithoutDigest},
	"ports of all traffic":   {"patchContext: any, ports: [80]", "", rules.PortsOfAllTraffic},
	"Registry without image": {"configMap: {name: c, key: k}", "distribution: Registry", rules.RegistryWithoutImage},

	"phase in an EnvoyFilter":            {"position: {phase: Authn}", "", rules.PhaseInEnvoyFilter},
	"Service in an EnvoyFilter":          {"patchContext: inbound", toService, rules.ServiceInEnvoyFilter},
	"all traffic of a Gateway":           {"patchContext: any", toGateway, rules.AllTrafficInEnvoyFilter},
	"Registry and several secrets":       {"imagePullOptions: {pullSecrets: [{name: s}, {name: t}]}", "distribution: Registry, " + asWasmPlugin, rules.SeveralPullSecrets},
	"Registry, EnvoyFilter and a list":   {"imagePullOptions: {pullSecrets: [{name: s}]}", "distribution: Registry", rules.PullSecretInEnvoyFilter},
	"Registry, EnvoyFilter and a secret": {"imagePullOptions: {pullSecret: s}", "distribution: Registry", rules.PullSecretInEnvoyFilter},
	"one Service among Gateways": {
		"patchContext: gateway", "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}, {kind: Service, name: s}]",
		rules.GatewayTrafficOfService,
	},
	"outbound traffic of a targetRef": {"patchContext: outbound", toGateway + ", " + asWasmPlugin, rules.OutboundOfTargetRef},
	"gateway traffic of a Service":    {"patchContext: gateway", toService + ", " + asWasmPlugin, rules.GatewayTrafficOfService},
	"ports of a waypoint":             {"patchContext: inbound, ports: [80]", toGateway + ", " + asWasmPlugin, rules.PortsOfWaypoint},
	"first in a WasmPlugin":           {"position: {first: true}", asWasmPlugin, rules.PositionWithoutPhase},
	"before in a TrafficExtension":    {"position: {before: x}", asTrafficExtension, rules.PositionWithoutPhase},
	"after in a WasmPlugin":           {"position: {after: x}", asWasmPlugin, rules.PositionWithoutPhase},
}

// refused are specs that the schema cannot refuse, or refuses in its own words.
var refused = map[string]struct{ filter, istio, want string }{
	"bad config":                          {"config: 7", "", "spec.filter.config:"},
	"unknown output":                      {"id: i", "output: Envoy", `spec.deployment.istio.output is "Envoy": use EnvoyFilter, WasmPlugin or TrafficExtension`},
	"string in a WasmPlugin":              {"config: world", asWasmPlugin, "spec.filter.config: a WasmPlugin cannot carry a configuration that is not a JSON object: write it as one, or set spec.deployment.istio.output to EnvoyFilter"},
	"bytes in a TrafficExtension":         {"config: {'@type': " + wasmev1.BytesValueType + ", value: /wAB}", asTrafficExtension, "spec.filter.config: a TrafficExtension cannot carry a configuration that is not a JSON object"},
	"string that is a list":               {"config: '[1]'", asWasmPlugin, "not a JSON object"},
	"string that is null":                 {"config: 'null'", asWasmPlugin, "not a JSON object"},
	"string that goes on after an object": {"config: '{\"a\": 1} {}'", asWasmPlugin, "not a JSON object"},
	"empty object":                        {"config: {}", asWasmPlugin, "cannot carry an empty object: leave config out"},
	"integer beyond 2^53":                 {"config: '{\"a\": [{\"b\": 9007199254740993}]}'", asWasmPlugin, "cannot carry the number 9007199254740993, which 64-bit floating point rounds"},
	"number out of range":                 {"config: '{\"a\": 1e999}'", asWasmPlugin, "cannot carry the number 1e999"},
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
			err := Check(parseSpec(t, tc.filter, tc.istio))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q in it", err, tc.want)
			}
		})
	}
}

func TestCheckRefusesWhatBreaksARule(t *testing.T) {
	for name, tc := range refusedByRule {
		t.Run(name, func(t *testing.T) {
			if err := Check(parseSpec(t, tc.filter, tc.istio)); !errors.Is(err, tc.rule) {
				t.Fatalf("got %v, want %v", err, tc.rule)
			}
		})
	}
}

// The same problem has the same words, whether the API server finds it in a new
// object or the renderer in a stored one.
func TestEveryRuleIsInTheSchemaAndInTheRenderer(t *testing.T) {
	checked := map[*rules.Rule]bool{}
	for _, tc := range refusedByRule {
		checked[tc.rule] = true
	}
	messages := schemaMessages(t)
	for _, rule := range rules.All() {
		if !checked[rule] {
			t.Errorf("no spec here breaks the rule %q", rule)
		}
		if !messages[rule.Error()] {
			t.Errorf("the schema has no rule %q", rule)
		}
	}
}

// schemaMessages returns the messages of the CRD's rules, each with the path of
// its field.
func schemaMessages(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("../../config/crd/bases/wasme.io_filterdeployments.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(text, &crd); err != nil {
		t.Fatal(err)
	}
	spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	messages := map[string]bool{}
	for path, schema := range map[string]apiextensionsv1.JSONSchemaProps{
		"spec":                  spec,
		"spec.filter":           spec.Properties["filter"],
		"spec.filter.id":        spec.Properties["filter"].Properties["id"],
		"spec.deployment.istio": spec.Properties["deployment"].Properties["istio"],
	} {
		for _, rule := range schema.XValidations {
			messages[path+rule.FieldPath+": "+rule.Message] = true
		}
	}
	return messages
}

// A stored revision, or a spec that was never checked, comes this way.
func TestRenderingRefusesWhatTheOutputCannotCarry(t *testing.T) {
	cases := maps.Clone(refused)
	for name, tc := range refusedByRule {
		cases[name] = struct{ filter, istio, want string }{tc.filter, tc.istio, tc.rule.Error()}
	}
	for _, onlyChecked := range []string{"Registry and several secrets", "id with two dots", "id in capitals", "no source", "two sources", "three sources", "url without digest", "bad config", "unknown output", "Registry without image"} {
		delete(cases, onlyChecked)
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := renderSpec(t, parseSpec(t, tc.filter, tc.istio))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q in it", err, tc.want)
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
	targets := []workload.Target{details}
	for i, reference := range istio.TargetRefs {
		if i == 0 {
			targets = nil
		}
		targets = append(targets, workload.Target{Kind: reference.Kind, Namespace: testOwner.Namespace, Name: reference.Name})
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

func TestAWaypointThatWouldNotStartGetsNoPluginOfAnotherNamespace(t *testing.T) {
	filter := Filter{PatchContext: wasmev1.PatchContextInbound}
	for _, row := range []struct {
		name, namespace, istio string
		refused                bool
	}{
		{"too old", "mesh", "1.30.2", true},
		{"much too old", "mesh", "1.27.0", true},
		{"new enough", "mesh", "1.30.3", false},
		{"newer", "mesh", "1.31.0", false},
		{"not known", "mesh", "", false},
		{"old, in the Service's namespace", service.Namespace, "1.27.0", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			target := service
			target.Proxies.Gateway = types.NamespacedName{Namespace: row.namespace, Name: "waypoint"}
			if row.istio != "" {
				target.Proxies.Istio = version.MustParseGeneric(row.istio)
			}
			_, plugin := WasmPlugin(testMesh, filter, target)
			_, extension := TrafficExtension(testMesh, filter, target)
			for _, err := range []error{plugin, extension} {
				if !row.refused && err != nil || row.refused && (err == nil || !strings.Contains(err.Error(), "the waypoint of Service details, mesh/waypoint, runs Istio "+row.istio)) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

func TestAnEnvoyFilterRefusesAGatewayWhoseNameIsNoLabel(t *testing.T) {
	target := gateway
	target.Name = strings.Repeat("g", 64)
	for _, traffic := range []wasmev1.PatchContext{wasmev1.PatchContextGateway, wasmev1.PatchContextInbound} {
		_, err := EnvoyFilter(testMesh, testOwner, Filter{PatchContext: traffic, FailStrategy: wasmev1.FailReload}, target, "")
		if err == nil || !strings.Contains(err.Error(), "choose a name of at most 63 characters") {
			t.Errorf("%s: %v", traffic, err)
		}
	}
}

func TestAWorkloadWhoseSelectorHasNoLabels(t *testing.T) {
	workload := details
	workload.Selector = nil
	filter := Filter{PatchContext: wasmev1.PatchContextInbound}
	envoyFilter, err := EnvoyFilter(testMesh, testOwner, filter, workload, "")
	if err != nil || envoyFilter.WorkloadSelector != nil {
		t.Errorf("got %v, %v, want an EnvoyFilter that only its OWNER limits", envoyFilter, err)
	}
	_, plugin := WasmPlugin(testMesh, filter, workload)
	_, extension := TrafficExtension(testMesh, filter, workload)
	for kind, err := range map[string]error{"WasmPlugin": plugin, "TrafficExtension": extension} {
		want := "the selector of Deployment details-v1 has no matchLabels, so a " + kind + " cannot select its pods: set spec.deployment.istio.output to EnvoyFilter"
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
