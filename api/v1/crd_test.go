package v1_test

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// exceptions are findings that are not ours to fix, by path and rule.
var exceptions = map[string]string{
	"apiVersion: no maxLength, enum or format": "every object's, from apimachinery",
	"kind: no maxLength, enum or format":       "every object's, from apimachinery",
	"metadata: no description":                 "the API server puts its own schema there",
	"spec.filter.config: no type":              "a string or an object; hack/crdschema has its schema",
	"status.conditions[].observedGeneration: an optional number needs a pointer or a default": "metav1.Condition's",
}

// The API server holds what this schema lets pass, and everything after it
// trusts the bounds: so each field has one, and says what it is for.
func TestCRDBoundsAndDescribesEveryField(t *testing.T) {
	crd := readCRD(t)
	if crd.Spec.PreserveUnknownFields {
		t.Error("spec.preserveUnknownFields must be false")
	}
	used := map[string]bool{}
	for _, version := range crd.Spec.Versions {
		walk("", version.Schema.OpenAPIV3Schema, reflect.TypeFor[wasmev1.FilterDeployment](), func(path, problem string) {
			finding := path + ": " + problem
			if _, ok := exceptions[finding]; ok {
				used[finding] = true
				return
			}
			t.Error(finding)
		})
	}
	for finding := range exceptions {
		if !used[finding] {
			t.Errorf("exception %q is not needed any more", finding)
		}
	}
}

// The same walk must find what it is there to find.
func TestCRDWalkFindsUnboundedFields(t *testing.T) {
	type example struct {
		Text  string            `json:"text"`
		List  []string          `json:"list"`
		Map   map[string]string `json:"map"`
		Count int32             `json:"count"`
	}
	schema := &apiextensionsv1.JSONSchemaProps{
		Type: "object",
		Properties: map[string]apiextensionsv1.JSONSchemaProps{
			"text":  {Type: "string"},
			"list":  {Type: "array", Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &apiextensionsv1.JSONSchemaProps{Type: "string"}}},
			"map":   {Type: "object", AdditionalProperties: &apiextensionsv1.JSONSchemaPropsOrBool{Schema: &apiextensionsv1.JSONSchemaProps{Type: "string"}}},
			"count": {Type: "integer", XValidations: apiextensionsv1.ValidationRules{{Rule: "self > 0"}}},
		},
	}
	found := map[string]bool{}
	walk("", schema, reflect.TypeFor[example](), func(path, problem string) { found[path+": "+problem] = true })
	for _, want := range []string{
		"text: no description",
		"text: no maxLength, enum or format",
		"list: no maxItems",
		"list[]: no maxLength, enum or format",
		"map: no maxProperties",
		"map{}: no maxLength, enum or format",
		"count: an optional number needs a pointer or a default",
		"count: a rule without message",
	} {
		if !found[want] {
			t.Errorf("not found: %s", want)
		}
	}
}

func readCRD(t *testing.T) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	text, err := os.ReadFile("../../config/crd/bases/wasme.io_filterdeployments.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(text, &crd); err != nil {
		t.Fatal(err)
	}
	return &crd
}

// walk reports each fault of schema, which describes goType, and of the
// schemas inside it.
func walk(path string, schema *apiextensionsv1.JSONSchemaProps, goType reflect.Type, report func(path, problem string)) {
	checkBounds(path, schema, report)
	for _, rule := range schema.XValidations {
		if rule.Message == "" && rule.MessageExpression == "" {
			report(path, "a rule without message")
		}
	}
	goType = dereferenced(goType)
	for name, property := range schema.Properties {
		child := strings.TrimPrefix(path+"."+name, ".")
		if property.Description == "" {
			report(child, "no description")
		}
		field := fieldByJSONName(goType, name)
		optional := !slices.Contains(schema.Required, name)
		if optional && isNumber(&property) && property.Default == nil && (field == nil || field.Kind() != reflect.Pointer) {
			report(child, "an optional number needs a pointer or a default")
		}
		walk(child, &property, field, report)
	}
	if schema.Items != nil {
		walk(path+"[]", schema.Items.Schema, element(goType), report)
	}
	if schema.AdditionalProperties != nil {
		walk(path+"{}", schema.AdditionalProperties.Schema, element(goType), report)
	}
}

func checkBounds(path string, schema *apiextensionsv1.JSONSchemaProps, report func(path, problem string)) {
	switch schema.Type {
	case "":
		report(path, "no type")
	case "string":
		if schema.MaxLength == nil && len(schema.Enum) == 0 && schema.Format == "" {
			report(path, "no maxLength, enum or format")
		}
	case "array":
		if schema.MaxItems == nil {
			report(path, "no maxItems")
		}
	case "object":
		if schema.AdditionalProperties != nil && schema.MaxProperties == nil {
			report(path, "no maxProperties")
		}
	}
}

func isNumber(schema *apiextensionsv1.JSONSchemaProps) bool {
	return schema.Type == "integer" || schema.Type == "number"
}

func dereferenced(goType reflect.Type) reflect.Type {
	if goType != nil && goType.Kind() == reflect.Pointer {
		return goType.Elem()
	}
	return goType
}

// element is the type of the elements of a list or map, nil for other types.
func element(goType reflect.Type) reflect.Type {
	if goType == nil || (goType.Kind() != reflect.Slice && goType.Kind() != reflect.Map) {
		return nil
	}
	return goType.Elem()
}

// fieldByJSONName is the type of the field that JSON calls name, nil when
// there is none.
func fieldByJSONName(goType reflect.Type, name string) reflect.Type {
	if goType == nil || goType.Kind() != reflect.Struct {
		return nil
	}
	for _, field := range reflect.VisibleFields(goType) {
		if tag, _, _ := strings.Cut(field.Tag.Get("json"), ","); tag == name {
			return field.Type
		}
	}
	return nil
}
