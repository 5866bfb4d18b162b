// Package build pins the version of Istio that tests run, and asks that
// version whether it accepts what the operator renders.
package build

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/schema/collections"
	"istio.io/istio/pkg/config/schema/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

const goldens = "../../../internal/render/testdata/*.out.yaml"

// standingWarning is what Istio says about every EnvoyFilter.
const standingWarning = "EnvoyFilter exposes internal implementation details"

// outputs are Istio's schemas of what the operator writes.
var outputs = map[string]resource.Schema{
	"EnvoyFilter":      collections.EnvoyFilter,
	"WasmPlugin":       collections.WasmPlugin,
	"TrafficExtension": collections.TrafficExtension,
}

func TestIstioAcceptsGoldens(t *testing.T) {
	paths, err := filepath.Glob(goldens)
	if err != nil {
		t.Fatal(err)
	}
	validated := map[string]int{}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			for _, object := range readObjects(t, path) {
				validated[object.GetKind()]++
				for _, problem := range validate(t, object) {
					t.Errorf("%s: %s", object.GetName(), problem)
				}
			}
		})
	}
	for kind := range outputs {
		if validated[kind] == 0 {
			t.Errorf("no %s in %s", kind, goldens)
		}
	}
}

// Each of these has passed a validation that looked less closely.
func TestIstioRefusesBrokenOutputs(t *testing.T) {
	for name, tc := range map[string]struct{ golden, text, broken string }{
		"unknown field of EnvoyFilter":      {"defaults", "workloadSelector:", "workloadSelektor:"},
		"unknown field of Envoy":            {"defaults", "root_id:", "root_idx:"},
		"unknown type of Envoy":             {"defaults", "filters.http.wasm.v3.Wasm", "filters.http.wasm.v3.Wasn"},
		"unknown patch context":             {"defaults", "context: SIDECAR_INBOUND", "context: SIDECAR_INWARD"},
		"unknown variable of a VM":          {"vm-env", "host_env_keys", "host_env_key"},
		"old name of an anchor":             {"position-after", "envoy.filters.http.cors", "envoy.cors"},
		"unknown field of WasmPlugin":       {"wasmplugin-inbound", "selector:", "workloadSelector:"},
		"unknown phase":                     {"wasmplugin-phase-authn", "AUTHN", "AUTHM"},
		"port out of range":                 {"wasmplugin-ports-inbound", "8080", "80800"},
		"digest that is none":               {"wasmplugin-inbound", "sha256: a6", "sha256: g6"},
		"unknown field of TrafficExtension": {"trafficextension-inbound", "pluginConfig:", "pluginKonfig:"},
		"unknown kind of targetRef":         {"trafficextension-targetref-service", "kind: Service", "kind: Pod"},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(filepath.Dir(goldens), tc.golden+".out.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			broken := strings.ReplaceAll(string(text), tc.text, tc.broken)
			if broken == string(text) {
				t.Fatalf("the golden has no %q", tc.text)
			}
			for _, object := range parseObjects(t, []byte(broken)) {
				if len(validate(t, object)) > 0 {
					return
				}
			}
			t.Error("accepted")
		})
	}
}

// validate returns what Istio's webhook finds wrong in object, its warnings
// included; unknown fields, which it drops, are refused.
func validate(t *testing.T, object *unstructured.Unstructured) []string {
	t.Helper()
	text, err := json.Marshal(object.Object["spec"])
	if err != nil {
		t.Fatal(err)
	}
	schema, known := outputs[object.GetKind()]
	if !known {
		t.Fatalf("%s %s is no output", object.GetKind(), object.GetName())
	}
	spec, err := schema.NewInstance()
	if err != nil {
		t.Fatal(err)
	}
	if err := config.ApplyJSONStrict(spec, string(text)); err != nil {
		return []string{err.Error()}
	}
	warning, err := schema.ValidateConfig(config.Config{
		Meta: config.Meta{
			GroupVersionKind: schema.GroupVersionKind(),
			Name:             object.GetName(),
			Namespace:        object.GetNamespace(),
		},
		Spec: spec,
	})
	var problems []string
	if err != nil {
		problems = append(problems, err.Error())
	}
	if warning != nil {
		for line := range strings.SplitSeq(warning.Error(), "\n") {
			if !strings.Contains(line, standingWarning) {
				problems = append(problems, line)
			}
		}
	}
	return problems
}

func readObjects(t *testing.T, path string) []*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return parseObjects(t, text)
}

func parseObjects(t *testing.T, text []byte) []*unstructured.Unstructured {
	t.Helper()
	var objects []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(&object.Object); errors.Is(err, io.EOF) {
			return objects
		} else if err != nil {
			t.Fatal(err)
		}
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
}
