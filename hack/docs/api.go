package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// resource holds what the API reference shows of a CRD.
type resource struct {
	CRD     apiextensionsv1.CustomResourceDefinition
	Version apiextensionsv1.CustomResourceDefinitionVersion
	// Spec has the spec and its fields, Status the fields of the status. The fields
	// of an object follow it.
	Spec, Status []field
}

// field is one field of a resource.
type field struct {
	// Path leads to the field: `[]` is any item of a list, `<key>` any key of a map.
	Path string
	// Facts are its type, whether it is required, its default and its bounds.
	Facts string
	// Pattern is the regular expression that a string has to match.
	Pattern string
	// Paragraphs are its description.
	Paragraphs []string
	// Rules are the messages of the other checks.
	Rules []string
	// Example is the first example that sets the field; nil for fields of the status.
	Example *example
}

func readResource(path string) (resource, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return resource{}, err
	}
	var read resource
	if err := yaml.UnmarshalStrict(text, &read.CRD); err != nil {
		return resource{}, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(read.CRD.Spec.Versions) != 1 {
		return resource{}, fmt.Errorf("%s has %d versions; the reference shows one", path, len(read.CRD.Spec.Versions))
	}
	read.Version = read.CRD.Spec.Versions[0]
	root := read.Version.Schema.OpenAPIV3Schema
	spec := root.Properties["spec"]
	read.Spec = append([]field{newField("spec", spec, true)}, fieldsOf("spec", spec)...)
	read.Status = fieldsOf("status", root.Properties["status"])
	return read, nil
}

// fieldsOf returns the fields under a path, ordered by name.
func fieldsOf(path string, schema apiextensionsv1.JSONSchemaProps) []field {
	var fields []field
	for _, name := range slices.Sorted(maps.Keys(schema.Properties)) {
		property := schema.Properties[name]
		below := path + "." + name
		fields = append(fields, newField(below, property, slices.Contains(schema.Required, name)))
		fields = append(fields, fieldsOf(below, property)...)
	}
	if items := itemsOf(schema); items != nil {
		fields = append(fields, fieldsOf(path+"[]", *items)...)
	}
	if values := valuesOf(schema); values != nil {
		fields = append(fields, fieldsOf(path+".<key>", *values)...)
	}
	return fields
}

func newField(path string, schema apiextensionsv1.JSONSchemaProps, required bool) field {
	made := field{Path: path, Facts: facts(schema, required), Pattern: schema.Pattern}
	for paragraph := range strings.SplitSeq(schema.Description, "\n\n") {
		made.Paragraphs = append(made.Paragraphs, paragraph)
	}
	for _, rule := range schema.XValidations {
		made.Rules = append(made.Rules, ruleText(rule))
	}
	return made
}

// ruleText returns the message of a rule, after the field that the API server
// names with it, if that is not the one with the rule.
func ruleText(rule apiextensionsv1.ValidationRule) string {
	if rule.FieldPath == "" {
		return rule.Message
	}
	return "`" + strings.TrimPrefix(rule.FieldPath, ".") + "`: " + rule.Message
}

func itemsOf(schema apiextensionsv1.JSONSchemaProps) *apiextensionsv1.JSONSchemaProps {
	if schema.Items == nil {
		return nil
	}
	return schema.Items.Schema
}

func valuesOf(schema apiextensionsv1.JSONSchemaProps) *apiextensionsv1.JSONSchemaProps {
	if schema.AdditionalProperties == nil {
		return nil
	}
	return schema.AdditionalProperties.Schema
}

// facts returns what the schema says about a field besides its description, in one line.
func facts(schema apiextensionsv1.JSONSchemaProps, required bool) string {
	all := []string{typeOf(schema)}
	if required {
		all = append(all, "required")
	}
	if schema.Default != nil {
		all = append(all, "default "+code(*schema.Default))
	}
	all = append(all, limits(schema)...)
	if len(schema.XListMapKeys) > 0 {
		all = append(all, "one item for each `"+strings.Join(schema.XListMapKeys, "`, `")+"`")
	}
	for _, each := range []*apiextensionsv1.JSONSchemaProps{itemsOf(schema), valuesOf(schema)} {
		if each != nil && len(limits(*each)) > 0 {
			all = append(all, "each "+strings.Join(limits(*each), ", "))
		}
	}
	return strings.Join(all, " · ")
}

func typeOf(schema apiextensionsv1.JSONSchemaProps) string {
	switch {
	case schema.Type == "":
		return strings.Join(acceptedTypes(schema), " or ")
	case itemsOf(schema) != nil:
		return "list of " + plural(typeOf(*itemsOf(schema)))
	case valuesOf(schema) != nil:
		return "map of " + plural(typeOf(*valuesOf(schema)))
	case schema.Format != "":
		return schema.Type + " (" + schema.Format + ")"
	}
	return schema.Type
}

// plural returns the plural of a type, with its format behind it.
func plural(name string) string {
	word, format, _ := strings.Cut(name, " ")
	return strings.TrimSpace(word + "s " + format)
}

// acceptedTypes returns the types that a schema without type accepts. Such a
// schema refuses a type by bounds that contradict each other, and booleans one by one.
func acceptedTypes(schema apiextensionsv1.JSONSchemaProps) []string {
	accepted := []string{"string", "object"}
	if !excludes(schema.Minimum, schema.Maximum) {
		accepted = append(accepted, "number")
	}
	if !excludes(schema.MinItems, schema.MaxItems) {
		accepted = append(accepted, "list")
	}
	if schema.Not == nil || len(schema.Not.Enum) < 2 {
		accepted = append(accepted, "boolean")
	}
	return accepted
}

func excludes[N int64 | float64](least, most *N) bool {
	return least != nil && most != nil && *least > *most
}

// limits returns the values or the sizes that a schema allows.
func limits(schema apiextensionsv1.JSONSchemaProps) []string {
	if len(schema.Enum) > 0 {
		var values []string
		for _, value := range schema.Enum {
			values = append(values, code(value))
		}
		return []string{"one of " + strings.Join(values, ", ")}
	}
	var all []string
	add := func(limit string) {
		if limit != "" {
			all = append(all, limit)
		}
	}
	add(between(schema.MinLength, schema.MaxLength, " characters"))
	add(between(schema.Minimum, schema.Maximum, ""))
	add(between(schema.MinItems, schema.MaxItems, " items"))
	add(between(schema.MinProperties, schema.MaxProperties, " entries"))
	return all
}

// between returns bounds as text. It returns nothing if there are none, or if they contradict each other.
func between[N int64 | float64](least, most *N, unit string) string {
	switch {
	case excludes(least, most) || least == nil && most == nil:
		return ""
	case least == nil:
		return fmt.Sprintf("at most %v%s", *most, unit)
	case most == nil:
		return fmt.Sprintf("at least %v%s", *least, unit)
	}
	return fmt.Sprintf("%v to %v%s", *least, *most, unit)
}

// code returns a JSON value as code, and a string without its quotes.
func code(value apiextensionsv1.JSON) string {
	var text string
	if json.Unmarshal(value.Raw, &text) != nil {
		text = string(value.Raw)
	}
	return "`" + text + "`"
}
