package render

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingapi "istio.io/api/networking/v1alpha3"
	extensions "istio.io/client-go/pkg/apis/extensions/v1alpha1"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

const (
	moduleDigest   = "a6e01e05341b5eb81d802e09aa8efe12890b5e0513877c31183e2b91da786637"
	manifestDigest = "sha256:0c8d7ab7cbf8b1ae3b3a9a3dbd2a7d8e5f1c2b3a4d5e6f708192a3b4c5d6e7f8"
)

var (
	testMesh = Mesh{
		ClusterID:       "Kubernetes",
		RootNamespace:   "istio-system",
		ModuleServerURL: "http://wasme-modules.wasme-system.svc.cluster.local",
	}
	testOwner = types.NamespacedName{Namespace: "bookinfo", Name: "bookinfo-custom-filter"}
	details   = workload.Target{Kind: "Deployment", Namespace: "bookinfo", Name: "details-v1", Selector: map[string]string{"app": "details", "version": "v1"}}
	gateway   = workload.Target{Kind: "Gateway", Namespace: "bookinfo", Name: "details-v1"}
	service   = workload.Target{Kind: "Service", Namespace: "bookinfo", Name: "details"}
	// ingress is the workload that gateways were before the Gateway API.
	ingress = workload.Target{Kind: "Deployment", Namespace: "istio-system", Name: "istio-ingressgateway", Selector: map[string]string{"istio": "ingressgateway"}}
)

// goldenCase is a filter and a target, to be rendered as output.
type goldenCase struct {
	owner        types.NamespacedName
	filter       wasmev1.FilterSpec
	distribution wasmev1.Distribution
	rootIDs      []string
	target       workload.Target
	renewal      string
	// slot says that there is a staging slot, and staged is what is in it; nil for nothing.
	// With alone, there is nothing but the slot, with the filter in it.
	slot, alone bool
	staged      *wasmev1.FilterSpec
	// canaries are the pods that run what is staged.
	canaries []string
}

// variants are changes of a case, by the name that they give it.
type variants map[string]func(*goldenCase)

func baseCase() goldenCase {
	return goldenCase{
		owner:  testOwner,
		filter: wasmev1.FilterSpec{Image: "ghcr.io/acme/add-header:v1", RootID: "add_header_root_id", Config: configuration(`"world"`)},
		target: details,
	}
}

// goldenCases are the cases of each output, by the names of their files.
func goldenCases() map[wasmev1.Output]map[string]goldenCase {
	extension := variants{}
	maps.Copy(extension, placeVariants())
	maps.Copy(extension, extensionVariants())
	envoyFilter := variants{}
	maps.Copy(envoyFilter, contentVariants())
	maps.Copy(envoyFilter, targetVariants())
	maps.Copy(envoyFilter, placeVariants())
	maps.Copy(envoyFilter, envoyFilterVariants())
	object := baseCase()
	object.filter.Config = configuration(`{"tracking_header": "X-Request-Id", "paths": ["/a", {"b": null}], "ratio": 0.1, "on": true}`)
	return map[wasmev1.Output]map[string]goldenCase{
		wasmev1.OutputEnvoyFilter:      casesOf("", baseCase(), envoyFilter),
		wasmev1.OutputWasmPlugin:       casesOf("wasmplugin-", object, extension),
		wasmev1.OutputTrafficExtension: casesOf("trafficextension-", object, extension),
	}
}

func casesOf(prefix string, base goldenCase, changes variants) map[string]goldenCase {
	cases := map[string]goldenCase{}
	for name, change := range changes {
		c := base
		change(&c)
		cases[prefix+strings.ToLower(name)] = c
	}
	return cases
}

// contentVariants holds every combination of patch context and fail strategy,
// and every form of configuration once.
func contentVariants() variants {
	all := variants{}
	for context := range contexts {
		for strategy := range failurePolicies {
			all[string(context)+"-"+string(strategy)] = func(c *goldenCase) {
				c.filter.PatchContext, c.filter.FailStrategy = context, strategy
			}
		}
	}
	all["defaults"] = func(c *goldenCase) {
		c.filter = wasmev1.FilterSpec{}
		c.rootIDs = []string{"from_the_image", "another"}
	}
	for name, config := range map[string]string{
		"config-any-string":   `{"@type": "` + wasmev1.StringValueType + `", "value": "world"}`,
		"config-any-bytes":    `{"@type": "` + wasmev1.BytesValueType + `", "value": "/wAB"}`,
		"config-any-struct":   `{"@type": "` + wasmev1.StructType + `", "value": {"tracking_header": "X-Request-Id"}}`,
		"config-object":       `{"limit": 9007199254740993, "paths": ["/a", "/b"], "on": true}`,
		"config-empty-string": `""`,
	} {
		all[name] = func(c *goldenCase) { c.filter.Config = configuration(config) }
	}
	return all
}

// targetVariants holds every kind of target and length of names.
func targetVariants() variants {
	return variants{
		"daemonset":   func(c *goldenCase) { c.target.Kind = "DaemonSet" },
		"statefulset": func(c *goldenCase) { c.target.Kind = "StatefulSet" },
		"dots-in-names": func(c *goldenCase) {
			c.owner.Name = "add.header"
			c.target.Name = "details.v1"
		},
		"root-namespace": func(c *goldenCase) {
			c.owner.Namespace = testMesh.RootNamespace
			c.filter.PatchContext = wasmev1.PatchContextGateway
			c.target = ingress
		},
		"targetref-gateway-root-namespace": func(c *goldenCase) {
			c.owner.Namespace = testMesh.RootNamespace
			c.filter.PatchContext = wasmev1.PatchContextGateway
			c.target = gateway
			c.target.Namespace = testMesh.RootNamespace
		},
		"targetref-waypoint": func(c *goldenCase) { c.target = gateway },
		"targetref-waypoint-name-override": func(c *goldenCase) {
			c.target = gateway
			c.target.Proxies = workload.Proxies{Deployment: "details-waypoint"}
		},
	}
}

// placeVariants are the places that every output knows, and the VM.
func placeVariants() variants {
	all := variants{
		"targetref-gateway": func(c *goldenCase) {
			c.filter.PatchContext = wasmev1.PatchContextGateway
			c.target = gateway
		},
		"targetref-gateway-ports": func(c *goldenCase) {
			c.filter.PatchContext, c.filter.Ports = wasmev1.PatchContextGateway, []int32{8080}
			c.target = gateway
		},
		"selector-of-some-labels": func(c *goldenCase) { c.target.Selector = map[string]string{"app": "details"} },
		"priority-10":             func(c *goldenCase) { c.filter.Priority = new(int32(10)) },
		"priority-minus-10":       func(c *goldenCase) { c.filter.Priority = new(int32(-10)) },
		"vm-env": func(c *goldenCase) {
			c.filter.VM = &wasmev1.VMSpec{Env: []wasmev1.EnvVar{
				{Name: "TOKEN", ValueFrom: &wasmev1.EnvVarSource{Host: &wasmev1.HostVariable{}}},
				{Name: "EMPTY", Value: new("")},
				{Name: "COLOUR", Value: new("blue")},
			}}
		},
		"registry": func(c *goldenCase) { c.distribution = wasmev1.DistributionRegistry },
		"registry-docker-hub": func(c *goldenCase) {
			c.filter.Image = "acme/add-header@" + manifestDigest
			c.distribution = wasmev1.DistributionRegistry
		},
	}
	for _, context := range []wasmev1.PatchContext{wasmev1.PatchContextInbound, wasmev1.PatchContextOutbound, wasmev1.PatchContextGateway} {
		all["ports-"+string(context)] = func(c *goldenCase) {
			c.filter.PatchContext, c.filter.Ports = context, []int32{9090, 8080}
		}
	}
	return all
}

// envoyFilterVariants are what only an EnvoyFilter can say.
func envoyFilterVariants() variants {
	all := variants{
		"renewal":           func(c *goldenCase) { c.renewal = "2" },
		"staging-slot-idle": func(c *goldenCase) { c.slot = true },
		"staging-slot": func(c *goldenCase) {
			c.slot, c.staged = true, c.filter.DeepCopy()
			c.staged.Config = configuration(`"staged"`)
		},
		"staging-slot-alone": func(c *goldenCase) { c.alone, c.renewal = true, "1" },
		"canary": func(c *goldenCase) {
			c.slot, c.staged = true, c.filter.DeepCopy()
			c.staged.Config, c.canaries = configuration(`"staged"`), []string{"details-v1-5d8-abcde", "details-v1-5d8-fghij"}
		},
		"canary-alone": func(c *goldenCase) { c.alone, c.canaries = true, []string{"details-v1-5d8-abcde"} },
		"canary-ports": func(c *goldenCase) {
			c.filter.Ports = []int32{9080, 9081}
			c.slot, c.staged, c.canaries = true, c.filter.DeepCopy(), []string{"details-v1-5d8-abcde"}
			c.staged.FailStrategy = wasmev1.FailOpen
		},
		"staging-slot-ports": func(c *goldenCase) {
			c.filter.Ports = []int32{9080, 9081}
			c.slot, c.staged = true, c.filter.DeepCopy()
			c.staged.FailStrategy = wasmev1.FailOpen
		},
		"selector-without-labels": func(c *goldenCase) { c.target.Selector = nil },
		"renewal-vm-env": func(c *goldenCase) {
			c.renewal = "2"
			c.filter.VM = &wasmev1.VMSpec{Env: []wasmev1.EnvVar{{Name: "TOKEN", ValueFrom: &wasmev1.EnvVarSource{Host: &wasmev1.HostVariable{}}}}}
		},
	}
	for name, position := range map[string]wasmev1.Position{
		"first":  {First: true},
		"before": {Before: "envoy.filters.http.ext_authz"},
		"after":  {After: "envoy.filters.http.cors"},
	} {
		all["position-"+name] = func(c *goldenCase) { c.filter.Position = &position }
		all["position-"+name+"-priority"] = func(c *goldenCase) {
			c.filter.Position, c.filter.Priority = &position, new(int32(7))
		}
	}
	all["position-first-ports"] = func(c *goldenCase) {
		c.filter.Position, c.filter.Ports = &wasmev1.Position{First: true}, []int32{8080}
	}
	return all
}

// extensionVariants are of WasmPlugin and TrafficExtension.
func extensionVariants() variants {
	all := variants{
		"defaults": func(c *goldenCase) {
			c.filter = wasmev1.FilterSpec{}
			c.rootIDs = []string{"from_the_image", "another"}
		},
		"targetref-service":  func(c *goldenCase) { c.target = service },
		"targetref-waypoint": func(c *goldenCase) { c.target = gateway },
		"registry-pull-secret": func(c *goldenCase) {
			c.filter.ImagePullOptions = &wasmev1.ImagePullOptions{PullSecret: "my-secret"}
			c.distribution = wasmev1.DistributionRegistry
		},
	}
	for context := range contexts {
		all[string(context)] = func(c *goldenCase) { c.filter.PatchContext = context }
	}
	for strategy := range failurePolicies {
		all[string(strategy)] = func(c *goldenCase) { c.filter.FailStrategy = strategy }
	}
	for _, phase := range []wasmev1.Phase{wasmev1.PhaseAuthn, wasmev1.PhaseAuthz, wasmev1.PhaseStats} {
		all["phase-"+string(phase)] = func(c *goldenCase) { c.filter.Position = &wasmev1.Position{Phase: phase} }
	}
	return all
}

func configuration(text string) *wasmev1.Configuration {
	return &wasmev1.Configuration{Raw: json.RawMessage(text)}
}

// renderCase is the object as it is written to the cluster.
func renderCase(t *testing.T, output wasmev1.Output, c goldenCase) any {
	t.Helper()
	filter := filterOf(t, c)
	object := metav1.ObjectMeta{Namespace: c.owner.Namespace, Name: Name(c.target, filter.ID)}
	switch output {
	case wasmev1.OutputEnvoyFilter:
		spec, err := envoyFilterOf(t, c, filter)
		if err != nil {
			t.Fatal(err)
		}
		out := &networking.EnvoyFilter{TypeMeta: metav1.TypeMeta{APIVersion: "networking.istio.io/v1alpha3", Kind: "EnvoyFilter"}, ObjectMeta: object}
		spec.DeepCopyInto(&out.Spec)
		return out
	case wasmev1.OutputWasmPlugin:
		spec, err := WasmPlugin(testMesh, filter, c.target)
		if err != nil {
			t.Fatal(err)
		}
		out := &extensions.WasmPlugin{TypeMeta: metav1.TypeMeta{APIVersion: "extensions.istio.io/v1alpha1", Kind: "WasmPlugin"}, ObjectMeta: object}
		spec.DeepCopyInto(&out.Spec)
		return out
	default:
		spec, err := TrafficExtension(testMesh, filter, c.target)
		if err != nil {
			t.Fatal(err)
		}
		out := &extensions.TrafficExtension{TypeMeta: metav1.TypeMeta{APIVersion: "extensions.istio.io/v1alpha1", Kind: "TrafficExtension"}, ObjectMeta: object}
		spec.DeepCopyInto(&out.Spec)
		return out
	}
}

func envoyFilterOf(t *testing.T, c goldenCase, filter Filter) (*networkingapi.EnvoyFilter, error) {
	t.Helper()
	if c.alone {
		spec, err := StagingEnvoyFilter(testMesh, c.owner, filter, c.target, c.renewal)
		if err == nil && c.canaries != nil {
			err = AddCanary(spec, testMesh, c.owner, nil, c.target, filter, c.canaries)
		}
		return spec, err
	}
	spec, err := EnvoyFilter(testMesh, c.owner, filter, c.target, c.renewal)
	if err == nil && c.slot {
		err = AddStagingSlot(spec, testMesh, c.owner, filter, c.target, stagedOf(t, c), "")
	}
	if err == nil && c.canaries != nil {
		err = AddCanary(spec, testMesh, c.owner, &filter, c.target, *stagedOf(t, c), c.canaries)
	}
	return spec, err
}

// stagedOf returns the filter in the staging slot.
func stagedOf(t *testing.T, c goldenCase) *Filter {
	t.Helper()
	if c.staged == nil {
		return nil
	}
	c.filter = *c.staged
	return new(filterOf(t, c))
}

func filterOf(t *testing.T, c goldenCase) Filter {
	t.Helper()
	resolved := wasmev1.ModuleStatus{SHA256: moduleDigest, ManifestDigest: manifestDigest, RootIDs: c.rootIDs}
	filter, err := NewFilter(c.owner, c.filter, c.distribution, resolved)
	if err != nil {
		t.Fatal(err)
	}
	return filter
}

// TestGoldens compares with testdata; -update rewrites it. Istio's own
// validation reads the same files (hack/build/istio).
func TestGoldens(t *testing.T) {
	want := map[string]bool{}
	for output, cases := range goldenCases() {
		for name, c := range cases {
			file := filepath.Join("testdata", name+".out.yaml")
			want[file] = true
			t.Run(name, func(t *testing.T) {
				got, err := yaml.Marshal(renderCase(t, output, c))
				if err != nil {
					t.Fatal(err)
				}
				compareGolden(t, file, string(got))
			})
		}
	}
	files, err := filepath.Glob("testdata/*.out.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !want[file] {
			t.Errorf("%s belongs to no case; delete it", file)
		}
	}
}

func compareGolden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; run the test with -update", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", file, diff)
	}
}
