package render

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

const moduleDigest = "a6e01e05341b5eb81d802e09aa8efe12890b5e0513877c31183e2b91da786637"

var (
	testMesh = Mesh{
		ClusterID:       "Kubernetes",
		RootNamespace:   "istio-system",
		ModuleServerURL: "http://wasme-modules.wasme-system.svc.cluster.local",
	}
	testOwner = types.NamespacedName{Namespace: "bookinfo", Name: "bookinfo-custom-filter"}
	details   = Workload{Kind: "Deployment", Namespace: "bookinfo", Name: "details-v1", PodLabels: map[string]string{"app": "details", "version": "v1"}}
)

type goldenCase struct {
	owner    types.NamespacedName
	filter   wasmev1.FilterSpec
	rootIDs  []string
	workload Workload
}

// goldenCases holds every combination of patch context and fail strategy, then
// every form of configuration, kind of workload and length of names once.
func goldenCases() map[string]goldenCase {
	base := goldenCase{
		owner:    testOwner,
		filter:   wasmev1.FilterSpec{RootID: "add_header_root_id", Config: configuration(`"world"`)},
		workload: details,
	}
	cases := map[string]goldenCase{}
	add := func(name string, change func(*goldenCase)) {
		c := base
		change(&c)
		cases[name] = c
	}
	for context := range contexts {
		for strategy := range failurePolicies {
			add(string(context)+"-"+string(strategy), func(c *goldenCase) {
				c.filter.PatchContext, c.filter.FailStrategy = context, strategy
			})
		}
	}
	add("defaults", func(c *goldenCase) {
		c.filter = wasmev1.FilterSpec{}
		c.rootIDs = []string{"from_the_image", "another"}
	})
	add("config-any-string", func(c *goldenCase) {
		c.filter.Config = configuration(`{"@type": "` + wasmev1.StringValueType + `", "value": "world"}`)
	})
	add("config-any-bytes", func(c *goldenCase) {
		c.filter.Config = configuration(`{"@type": "` + wasmev1.BytesValueType + `", "value": "/wAB"}`)
	})
	add("config-any-struct", func(c *goldenCase) {
		c.filter.Config = configuration(`{"@type": "` + wasmev1.StructType + `", "value": {"tracking_header": "X-Request-Id"}}`)
	})
	add("config-object", func(c *goldenCase) {
		c.filter.Config = configuration(`{"limit": 9007199254740993, "paths": ["/a", "/b"], "on": true}`)
	})
	add("config-empty-string", func(c *goldenCase) { c.filter.Config = configuration(`""`) })
	add("daemonset", func(c *goldenCase) { c.workload.Kind = "DaemonSet" })
	add("statefulset", func(c *goldenCase) { c.workload.Kind = "StatefulSet" })
	add("dots-in-names", func(c *goldenCase) {
		c.owner.Name = "add.header"
		c.workload.Name = "details.v1"
	})
	add("root-namespace", func(c *goldenCase) {
		c.owner.Namespace = testMesh.RootNamespace
		c.filter.PatchContext = wasmev1.PatchContextGateway
		c.workload = Workload{Kind: "Deployment", Namespace: testMesh.RootNamespace, Name: "istio-ingressgateway", PodLabels: map[string]string{"istio": "ingressgateway"}}
	})
	return cases
}

func configuration(text string) *wasmev1.Configuration {
	return &wasmev1.Configuration{Raw: json.RawMessage(text)}
}

func renderCase(t *testing.T, c goldenCase) *networking.EnvoyFilter {
	t.Helper()
	filter, err := NewFilter(c.owner, c.filter, wasmev1.ModuleStatus{SHA256: moduleDigest, RootIDs: c.rootIDs})
	if err != nil {
		t.Fatal(err)
	}
	spec, err := EnvoyFilter(testMesh, c.owner, filter, c.workload)
	if err != nil {
		t.Fatal(err)
	}
	out := &networking.EnvoyFilter{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.istio.io/v1alpha3", Kind: "EnvoyFilter"},
		ObjectMeta: metav1.ObjectMeta{Namespace: c.owner.Namespace, Name: Name(c.workload.Name, filter.ID)},
	}
	spec.DeepCopyInto(&out.Spec)
	return out
}

// TestEnvoyFilterGoldens compares with testdata; -update rewrites it. Istio's own
// validation reads the same files (hack/build/istio).
func TestEnvoyFilterGoldens(t *testing.T) {
	want := map[string]bool{}
	for name, c := range goldenCases() {
		file := filepath.Join("testdata", strings.ToLower(name)+".out.yaml")
		want[file] = true
		t.Run(name, func(t *testing.T) {
			got, err := yaml.Marshal(renderCase(t, c))
			if err != nil {
				t.Fatal(err)
			}
			compareGolden(t, file, string(got))
		})
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

func TestEnvoyFilterRefusesAWorkloadWithoutTemplateLabels(t *testing.T) {
	workload := details
	workload.PodLabels = nil
	_, err := EnvoyFilter(testMesh, testOwner, Filter{}, workload)
	if err == nil || !strings.Contains(err.Error(), "the pod template of Deployment details-v1 has no labels") {
		t.Fatalf("got %v", err)
	}
}
