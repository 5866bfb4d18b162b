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
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

const goldens = "../../../internal/render/testdata/*.out.yaml"

// standingWarning is what Istio says about every EnvoyFilter.
const standingWarning = "EnvoyFilter exposes internal implementation details"

func TestIstioAcceptsGoldens(t *testing.T) {
	paths, err := filepath.Glob(goldens)
	if err != nil {
		t.Fatal(err)
	}
	validated := 0
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			for _, object := range readObjects(t, path) {
				if object.GetKind() != "EnvoyFilter" {
					continue
				}
				validated++
				for _, problem := range validate(t, object) {
					t.Errorf("%s: %s", object.GetName(), problem)
				}
			}
		})
	}
	if validated == 0 {
		t.Errorf("no EnvoyFilter in %s", goldens)
	}
}

// Each of these has passed a validation that looked less closely.
func TestIstioRefusesBrokenEnvoyFilters(t *testing.T) {
	for name, change := range map[string][2]string{
		"unknown field of EnvoyFilter": {"workloadSelector:", "workloadSelektor:"},
		"unknown field of Envoy":       {"root_id:", "root_idx:"},
		"unknown type of Envoy":        {"filters.http.wasm.v3.Wasm", "filters.http.wasm.v3.Wasn"},
		"unknown patch context":        {"context: SIDECAR_INBOUND", "context: SIDECAR_INWARD"},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(filepath.Dir(goldens), "defaults.out.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			broken := strings.ReplaceAll(string(text), change[0], change[1])
			if broken == string(text) {
				t.Fatalf("the golden has no %q", change[0])
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
	spec, err := collections.EnvoyFilter.NewInstance()
	if err != nil {
		t.Fatal(err)
	}
	if err := config.ApplyJSONStrict(spec, string(text)); err != nil {
		return []string{err.Error()}
	}
	warning, err := collections.EnvoyFilter.ValidateConfig(config.Config{
		Meta: config.Meta{
			GroupVersionKind: collections.EnvoyFilter.GroupVersionKind(),
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
