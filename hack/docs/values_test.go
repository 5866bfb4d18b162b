package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestValuesHaveTheirComments(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []chartValue
	}{
		"value":              {"# What it\n# does.\na: 1", []chartValue{{"a", "What it does.", "1"}}},
		"after the file's":   {"# The file.\n\n# It.\na: x", []chartValue{{"a", "It.", "x"}}},
		"empty ones":         {"# It.\na: \"\"\n# B.\nb: null\n# C.\nc: []", []chartValue{{"a", "It.", `""`}, {"b", "B.", "null"}, {"c", "C.", "[]"}}},
		"map":                {"# It.\na:\n  b: 1\n  c:\n    d: x", []chartValue{{"a", "It.", "{b: 1, c: {d: x}}"}}},
		"group":              {"a:\n  # It.\n  b: true", []chartValue{{"a.b", "It.", "true"}}},
		"group with comment": {"# All.\na:\n  # It.\n  b: true", []chartValue{{"a", "All.", ""}, {"a.b", "It.", "true"}}},
		"no comment":         {"a: 1", nil},
		"none in a group":    {"a:\n  # It.\n  b: 1\n  c: 2", nil},
		"no map":             {"[a]", nil},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "values.yaml")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := readValues(path)
			if !slices.Equal(got, c.want) || (err != nil) != (c.want == nil) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}
