// Command crdschema completes the generated CRD given as its argument with
// the schema of spec.filter.config, which controller-gen's markers cannot
// express: a value that is a string or an object has no type of its own.
package main

import (
	"errors"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: crdschema CRD.yaml")
		os.Exit(2)
	}
	if err := complete(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "crdschema:", err)
		os.Exit(1)
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
	if err := setConfigSchema(crd); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	text, err = yaml.Marshal(crd)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append([]byte("---\n"), text...), 0o644)
}

// setConfigSchema puts the schema of a configuration into each version,
// keeping the generated description.
func setConfigSchema(crd map[string]any) error {
	field := []string{
		"schema", "openAPIV3Schema", "properties", "spec", "properties", "filter", "properties", "config",
	}
	versions, _, err := unstructured.NestedSlice(crd, "spec", "versions")
	if err != nil {
		return err
	}
	for _, version := range versions {
		version, ok := version.(map[string]any)
		if !ok {
			return errors.New("spec.versions holds something that is no version")
		}
		description, found, err := unstructured.NestedString(version, append(field, "description")...)
		if err != nil || !found {
			return fmt.Errorf("spec.filter.config has no description: %w", err)
		}
		schema := configSchema()
		schema["description"] = description
		if err := unstructured.SetNestedMap(version, schema, field...); err != nil {
			return err
		}
	}
	return unstructured.SetNestedSlice(crd, versions, "spec", "versions")
}

// configSchema accepts a string, an object and the known forms of
// google.protobuf.Any. A structural schema has no "one of these types", so it
// refuses the others one by one: the bounds that contradict each other refuse
// every number and every array, and no boolean passes the enum under not.
func configSchema() map[string]any {
	return map[string]any{
		"x-kubernetes-preserve-unknown-fields": true,
		"maxLength":                            int64(wasmev1.MaxConfigurationBytes),
		"not":                                  map[string]any{"enum": []any{true, false}},
		"minimum":                              int64(1),
		"maximum":                              int64(0),
		"minItems":                             int64(1),
		"maxItems":                             int64(0),
		"properties": map[string]any{
			"@type": map[string]any{
				"description": "@type makes the object a google.protobuf.Any and says what its field `value` is.",
				"type":        "string",
				"enum": []any{
					wasmev1.StringValueType, wasmev1.BytesValueType, wasmev1.StructType,
				},
			},
		},
	}
}
