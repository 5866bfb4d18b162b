package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// chartValue is a value of the Helm chart, as the comment above it in values.yaml describes it.
type chartValue struct {
	Path        string
	Description string
	// Default is YAML in one line; empty for a group of values.
	Default string
}

// readValues reads the values of a chart, in their order.
func readValues(path string) ([]chartValue, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s holds no values", path)
	}
	return valuesIn(document.Content[0], "")
}

// valuesIn returns the values of a map. A map with comments inside is a group of values, and
// one without is a value itself.
func valuesIn(group *yaml.Node, prefix string) ([]chartValue, error) {
	var values []chartValue
	for i := 0; i < len(group.Content); i += 2 {
		key, content := group.Content[i], group.Content[i+1]
		value := chartValue{Path: prefix + key.Value, Description: description(key.HeadComment)}
		if isGroup(content) {
			below, err := valuesIn(content, value.Path+".")
			if err != nil {
				return nil, err
			}
			if value.Description != "" {
				values = append(values, value)
			}
			values = append(values, below...)
			continue
		}
		if value.Description == "" {
			return nil, fmt.Errorf("%s has no comment", value.Path)
		}
		var err error
		if value.Default, err = inOneLine(content); err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	return values, nil
}

func isGroup(content *yaml.Node) bool {
	if content.Kind != yaml.MappingNode {
		return false
	}
	for i := 0; i < len(content.Content); i += 2 {
		if content.Content[i].HeadComment != "" {
			return true
		}
	}
	return false
}

// commentMark begins a line of a comment.
var commentMark = regexp.MustCompile(`(?m)^# ?`)

// description returns the last paragraph of a comment: what is above it is about the file.
func description(comment string) string {
	paragraphs := strings.Split(comment, "\n\n")
	text := commentMark.ReplaceAllString(paragraphs[len(paragraphs)-1], "")
	return strings.Join(strings.Fields(text), " ")
}

func inOneLine(content *yaml.Node) (string, error) {
	line := *content
	line.Style |= yaml.FlowStyle
	text, err := yaml.Marshal(&line)
	return strings.TrimSpace(string(text)), err
}
