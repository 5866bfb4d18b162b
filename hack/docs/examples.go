package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// example is a section of the page of examples.
type example struct {
	Title string
	// fields are the paths of the fields that its FilterDeployments set.
	fields map[string]bool
}

// Anchor returns the anchor of the section.
func (e example) Anchor() string { return anchorOf(e.Title) }

// anchorOf returns the anchor that GitHub gives a heading.
func anchorOf(heading string) string {
	return strings.ReplaceAll(strings.ToLower(notInAnchors.ReplaceAllString(heading, "")), " ", "-")
}

var (
	// notInAnchors is what GitHub leaves out of a heading's anchor.
	notInAnchors = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	yamlBlock    = regexp.MustCompile("(?sm)^```yaml\n(.*?)^```$")
)

// linkExamples gives each field of the spec its first example. It returns an error when a field has none.
func (r *resource) linkExamples(path string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	examples, err := readExamples(string(page), *r.Version.Schema.OpenAPIV3Schema)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	for i := range r.Spec {
		f := &r.Spec[i]
		for _, e := range examples {
			if e.fields[f.Path] && f.Example == nil {
				f.Example = &e
			}
		}
		if f.Example == nil {
			return fmt.Errorf("%s has no example of %s: add one", path, f.Path)
		}
	}
	return nil
}

// readExamples returns the sections of a page with the fields that their manifests set.
func readExamples(page string, schema apiextensionsv1.JSONSchemaProps) ([]example, error) {
	var examples []example
	for _, section := range strings.Split(page, "\n## ")[1:] {
		title, body, _ := strings.Cut(section, "\n")
		found := example{Title: title, fields: map[string]bool{}}
		for _, block := range yamlBlock.FindAllStringSubmatch(body, -1) {
			for document := range strings.SplitSeq(block[1], "\n---\n") {
				var manifest map[string]any
				if err := yaml.Unmarshal([]byte(document), &manifest); err != nil {
					return nil, fmt.Errorf("%q: %w", title, err)
				}
				if manifest["kind"] == "FilterDeployment" {
					found.add("spec", manifest["spec"], schema.Properties["spec"])
				}
			}
		}
		examples = append(examples, found)
	}
	return examples, nil
}

// add notes the field at a path, and those that its value sets.
func (e example) add(path string, value any, schema apiextensionsv1.JSONSchemaProps) {
	e.fields[path] = true
	switch value := value.(type) {
	case map[string]any:
		for name, below := range value {
			if property, known := schema.Properties[name]; known {
				e.add(path+"."+name, below, property)
			} else if values := valuesOf(schema); values != nil {
				e.add(path+".<key>", below, *values)
			}
		}
	case []any:
		for _, item := range value {
			if items := itemsOf(schema); items != nil {
				e.add(path+"[]", item, *items)
			}
		}
	}
}
