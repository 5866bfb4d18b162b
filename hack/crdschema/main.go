// Command crdschema completes the generated CRDs given as its arguments with what
// controller-gen's markers cannot express:
//
//   - the schema of spec.filter.config: a value that is a string or an object has
//     no type of its own, and no rule can see it;
//   - bounds inside label selectors, whose type is Kubernetes' own;
//   - the rules that the renderer checks, too: their sentences come from
//     internal/rules, which a marker cannot refer to.
package main

import (
	"errors"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: crdschema CRD.yaml...")
		os.Exit(2)
	}
	for _, path := range os.Args[1:] {
		if err := complete(path); err != nil {
			fmt.Fprintln(os.Stderr, "crdschema:", err)
			os.Exit(1)
		}
	}
}

func complete(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var crd map[string]any
	if err := yaml.Unmarshal(text, &crd); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	kind, _, err := unstructured.NestedString(crd, "spec", "names", "kind")
	if err != nil {
		return err
	}
	if err := completeVersions(crd, completions[kind]); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	text, err = yaml.Marshal(crd)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append([]byte("---\n"), text...), 0o644)
}

// completions complete the schema of spec, by kind.
var completions = map[string]func(spec map[string]any) error{
	"FilterDeployment":    completeFilterDeployment,
	"ClusterFilterPolicy": completeClusterFilterPolicy,
}

func completeVersions(crd map[string]any, completeSpec func(map[string]any) error) error {
	if completeSpec == nil {
		return nil
	}
	versions, _, err := unstructured.NestedSlice(crd, "spec", "versions")
	if err != nil {
		return err
	}
	for _, version := range versions {
		version, ok := version.(map[string]any)
		if !ok {
			return errors.New("spec.versions has an entry that is not a version")
		}
		spec, err := property(version, "schema", "openAPIV3Schema", "properties", "spec")
		if err != nil {
			return err
		}
		if err := completeSpec(spec); err != nil {
			return err
		}
	}
	return unstructured.SetNestedSlice(crd, versions, "spec", "versions")
}

func completeFilterDeployment(spec map[string]any) error {
	filter, err := property(spec, "properties", "filter")
	if err != nil {
		return err
	}
	config, err := property(filter, "properties", "config")
	if err != nil {
		return err
	}
	id, err := property(filter, "properties", "id")
	if err != nil {
		return err
	}
	istio, err := property(spec, "properties", "deployment", "properties", "istio")
	if err != nil {
		return err
	}
	selector, err := property(istio, "properties", "selector")
	if err != nil {
		return err
	}
	setConfig(config)
	filter["not"] = map[string]any{"required": []any{"config", "configFrom"}}
	return errors.Join(
		addRules(spec, specLevel), addRules(filter, filterLevel), addRules(id, idLevel), addRules(istio, istioLevel),
		boundSelector(selector),
	)
}

func completeClusterFilterPolicy(spec map[string]any) error {
	selector, err := property(spec, "properties", "namespaceSelector")
	if err != nil {
		return err
	}
	return boundSelector(selector)
}

// property returns the schema at a path. What the caller writes into it becomes
// part of the CRD.
func property(schema map[string]any, path ...string) (map[string]any, error) {
	value, _, err := unstructured.NestedFieldNoCopy(schema, path...)
	if err != nil {
		return nil, err
	}
	found, ok := value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("there is no schema at %v", path)
	}
	return found, nil
}
