package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

func TestFacts(t *testing.T) {
	for name, c := range map[string]struct {
		schema   string
		required bool
		want     string
	}{
		"string":           {"{type: string, minLength: 1, maxLength: 5}", true, "string · required · 1 to 5 characters"},
		"format":           {"{type: integer, format: int64, minimum: 0}", false, "integer (int64) · at least 0"},
		"default":          {"{type: string, default: a, enum: [a, b], maxLength: 16}", false, "string · default `a` · one of `a`, `b`"},
		"list":             {"{type: array, maxItems: 2, items: {type: string, maxLength: 3}}", false, "list of strings · at most 2 items · each at most 3 characters"},
		"list of a format": {"{type: array, items: {type: integer, format: int32}}", false, "list of integers (int32)"},
		"list by key":      {"{type: array, items: {type: object}, x-kubernetes-list-map-keys: [type]}", false, "list of objects · one item for each `type`"},
		"map":              {"{type: object, maxProperties: 4, additionalProperties: {type: string}}", false, "map of strings · at most 4 entries"},
		"several types":    {"{minimum: 1, maximum: 0, minItems: 1, maxItems: 0, maxLength: 9, not: {enum: [true, false]}}", false, "string or object · at most 9 characters"},
		"any type":         {"{x-kubernetes-preserve-unknown-fields: true}", false, "string or object or number or list or boolean"},
		"default object":   {"{type: object, default: {}}", false, "object · default `{}`"},
	} {
		t.Run(name, func(t *testing.T) {
			var schema apiextensionsv1.JSONSchemaProps
			if err := yaml.UnmarshalStrict([]byte(c.schema), &schema); err != nil {
				t.Fatal(err)
			}
			if got := facts(schema, c.required); got != c.want {
				t.Errorf("%s\nnot %s", got, c.want)
			}
		})
	}
}

func TestRulesNameTheirField(t *testing.T) {
	var schema apiextensionsv1.JSONSchemaProps
	text := `{x-kubernetes-validations: [{rule: r, message: one of a and b}, {rule: r, message: a needs b, fieldPath: .x.a}]}`
	if err := yaml.UnmarshalStrict([]byte(text), &schema); err != nil {
		t.Fatal(err)
	}
	if got, want := newField("spec", schema, true).Rules, []string{"one of a and b", "`x.a`: a needs b"}; !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
}

func TestFieldsIncludeThoseOfItemsAndValues(t *testing.T) {
	var schema apiextensionsv1.JSONSchemaProps
	text := `{properties: {b: {type: array, items: {properties: {x: {}}}}, a: {additionalProperties: {properties: {z: {}}}}}}`
	if err := yaml.UnmarshalStrict([]byte(text), &schema); err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range fieldsOf("spec", schema) {
		paths = append(paths, f.Path)
	}
	if want := []string{"spec.a", "spec.a.<key>.z", "spec.b", "spec.b[].x"}; !slices.Equal(paths, want) {
		t.Errorf("%v, not %v", paths, want)
	}
}

func TestReasonsBelongToTheConditionInTheirComments(t *testing.T) {
	got, err := group([]constant{
		{"ConditionA", "A", "ConditionA sums up."},
		{"ConditionB", "B", "ConditionB: it is so."},
		{"ReasonX", "X", "ReasonX: it works\n(B)."},
		{"ReasonY", "Y", "ReasonY: some.field is wrong."},
		{"ReasonZ", "Z", "ReasonZ: all is well (A)."},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []condition{
		{"A", "`A` sums up.", []reason{{"Z", "All is well."}}},
		{"B", "It is so.", []reason{{"X", "It works."}, {"Y", "some.field is wrong."}}},
	}
	if !slices.EqualFunc(got, want, func(a, b condition) bool {
		return a.Type == b.Type && a.Meaning == b.Meaning && slices.Equal(a.Reasons, b.Reasons)
	}) {
		t.Errorf("%+v", got)
	}
}

func TestGroupRejectsConstantsThatItCannotShow(t *testing.T) {
	for name, constants := range map[string][]constant{
		"no comment":         {{"ConditionA", "A", ""}},
		"no condition":       {{"ConditionA", "A", "ConditionA: a."}, {"ReasonX", "X", "ReasonX: x."}},
		"nothing to be read": {},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := group(constants); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestWrapKeepsLinesShort(t *testing.T) {
	text := strings.Repeat("wörter ", 40)
	for i, line := range strings.Split(wrap(2, text), "\n") {
		if len([]rune(line)) > width || i > 0 && !strings.HasPrefix(line, "  wörter") {
			t.Errorf("%q", line)
		}
	}
}

func TestFieldsLinkToTheirFirstExample(t *testing.T) {
	var read resource
	read.Version.Schema = &apiextensionsv1.CustomResourceValidation{}
	schema := `{properties: {spec: {properties: {
		a: {type: array, items: {properties: {x: {}}}}, b: {additionalProperties: {properties: {z: {}}}}, c: {}}}}}`
	if err := yaml.UnmarshalStrict([]byte(schema), &read.Version.Schema.OpenAPIV3Schema); err != nil {
		t.Fatal(err)
	}
	read.Spec = fieldsOf("spec", read.Version.Schema.OpenAPIV3Schema.Properties["spec"])
	block := func(manifests string) string { return "```yaml\n" + manifests + "```\n" }
	page := "# Examples\n\n## One `a`!\n\n" + block("kind: FilterDeployment\nspec: {a: [{x: 1}]}\n---\nkind: ConfigMap\nspec: {c: 1}\n") +
		"\n## Two\n\n" + block("kind: FilterDeployment\nspec: {a: [], b: {k: {z: 1}}}\n")
	path := filepath.Join(t.TempDir(), "examples.md")

	write := func(page string) error {
		if err := os.WriteFile(path, []byte(page), 0o600); err != nil {
			t.Fatal(err)
		}
		return read.linkExamples(path)
	}
	if err := write(page); err == nil || !strings.HasSuffix(err.Error(), "has no example of spec.c: add one") {
		t.Error(err)
	}
	if err := write(page + "\n## Three\n\n" + block("kind: FilterDeployment\nspec: {c: 1}\n")); err != nil {
		t.Error(err)
	}
	want := map[string]string{"spec.a": "one-a", "spec.a[].x": "one-a", "spec.b": "two", "spec.b.<key>.z": "two", "spec.c": "three"}
	for _, f := range read.Spec {
		if f.Example == nil || f.Example.Anchor() != want[f.Path] {
			t.Errorf("%s: %+v", f.Path, f.Example)
		}
	}
}
