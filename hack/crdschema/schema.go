package main

import (
	"maps"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// setConfig accepts a string, an object and the known forms of
// google.protobuf.Any. A structural schema has no "one of these types", so it
// refuses the others one by one: the bounds that contradict each other refuse
// every number and every array, and no boolean passes the enum under not. The
// generated description stays.
func setConfig(config map[string]any) {
	maps.DeleteFunc(config, func(key string, _ any) bool { return key != "description" })
	maps.Copy(config, map[string]any{
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
	})
}

const (
	// maxSelectorTerms bounds each map and list of a selector, as labels are.
	maxSelectorTerms = int64(64)
	maxLabelValue    = int64(63)
	// maxLabelKey is that of a prefix of 253, a slash and a name of 63 characters.
	maxLabelKey = int64(317)

	labelKey   = `^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`
	labelValue = `^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$`
)

// boundSelector bounds a metav1.LabelSelector.
func boundSelector(selector map[string]any) error {
	value := map[string]any{"maxLength": maxLabelValue, "pattern": labelValue}
	for _, part := range []struct {
		path   []string
		bounds map[string]any
	}{
		{[]string{"properties", "matchLabels"}, map[string]any{"maxProperties": maxSelectorTerms}},
		{[]string{"properties", "matchLabels", "additionalProperties"}, value},
		{[]string{"properties", "matchExpressions"}, map[string]any{"maxItems": maxSelectorTerms}},
		{[]string{"properties", "matchExpressions", "items", "properties", "key"}, map[string]any{"maxLength": maxLabelKey, "pattern": labelKey}},
		{[]string{"properties", "matchExpressions", "items", "properties", "operator"}, map[string]any{"enum": []any{"In", "NotIn", "Exists", "DoesNotExist"}}},
		{[]string{"properties", "matchExpressions", "items", "properties", "values"}, map[string]any{"maxItems": maxSelectorTerms}},
		{[]string{"properties", "matchExpressions", "items", "properties", "values", "items"}, value},
	} {
		schema, err := property(selector, part.path...)
		if err != nil {
			return err
		}
		maps.Copy(schema, part.bounds)
	}
	return nil
}
