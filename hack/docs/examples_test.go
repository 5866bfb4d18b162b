package main

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// languages are those of fenced blocks: commands with what they print, messages
// and log lines (which are held to the sources), YAML, scripts, queries (which
// hack/build/prometheus parses), and drawings.
var languages = []string{"console", "log", "yaml", "sh", "promql", "text"}

func TestBlocksSayWhatTheyHold(t *testing.T) {
	for _, p := range writtenPages(t) {
		for _, block := range p.blocks() {
			if !slices.Contains(languages, block.language) {
				t.Error(block.problem("the block is of the language %q, which is none of %v", block.language, languages))
			}
		}
	}
}

// heredoc is YAML within commands.
var heredoc = regexp.MustCompile(`(?s)<<'YAML'\n(.*?)\nYAML\n`)

// brokenYAML returns why a block holds YAML that an API server would refuse.
func (q quote) brokenYAML() []string {
	documents := []string{q.text}
	if q.language == "console" {
		documents = nil
		for _, found := range heredoc.FindAllStringSubmatch(q.text, -1) {
			documents = append(documents, found[1])
		}
	}
	var problems []string
	for _, document := range documents {
		var kind metav1.TypeMeta
		err := yaml.Unmarshal([]byte(document), &kind)
		if err == nil && kind.Kind == "FilterDeployment" {
			err = yaml.UnmarshalStrict([]byte(document), &wasmev1.FilterDeployment{})
		}
		if err != nil {
			problems = append(problems, q.problem("%v", err))
		}
	}
	return problems
}

func TestYAMLIsWhatTheAPITakes(t *testing.T) {
	for _, p := range writtenPages(t) {
		for _, block := range p.blocks() {
			if block.language == "yaml" || block.language == "console" {
				report(t, block.brokenYAML())
			}
		}
	}
	for _, wrong := range []quote{
		{text: "a: b: c", language: "yaml"},
		{text: "kind: FilterDeployment\nspec: {filters: {}}", language: "yaml"},
		{text: "$ kubectl apply -f - <<'YAML'\nkind: FilterDeployment\nspec: {filters: {}}\nYAML\n", language: "console"},
	} {
		if len(wrong.brokenYAML()) == 0 {
			t.Errorf("%q is accepted", wrong.text)
		}
	}
}

// otherTables are the third columns of pods and of Deployments.
var otherTables = []string{"STATUS", "UP-TO-DATE"}

// wrongColumns returns a problem for each table of FilterDeployments that kubectl would not print so.
func (p page) wrongColumns(plain, wide []string) []string {
	var problems []string
	for _, line := range p.lines("console") {
		got := strings.Fields(line.text)
		isTable := len(got) > 2 && got[0] == "NAME" && got[1] == "READY" && !slices.Contains(otherTables, got[2])
		if isTable && !slices.Equal(got, plain) && !slices.Equal(got, wide) {
			problems = append(problems, line.problem("kubectl prints the columns %v, with -o wide %v", plain, wide))
		}
	}
	return problems
}

func TestTablesHaveTheColumnsOfKubectl(t *testing.T) {
	resource, err := readResource(filepath.Join(root, crdPath))
	if err != nil {
		t.Fatal(err)
	}
	plain, wide := []string{"NAME"}, []string{"NAME"}
	for _, column := range resource.Version.AdditionalPrinterColumns {
		wide = append(wide, column.Name)
		if column.Priority == 0 {
			plain = append(plain, column.Name)
		}
	}
	for _, p := range writtenPages(t) {
		report(t, p.wrongColumns(plain, wide))
	}
	wrong := parsePage("X.md", fmt.Sprintf("```console\n%s\n%s\nNAME READY LOADS IMAGE AGE\nNAME READY STATUS AGE\n```\n", strings.Join(plain, "  "), strings.Join(wide, " ")))
	if problems := wrong.wrongColumns(plain, wide); len(problems) != 1 {
		t.Errorf("%q", problems)
	}
}
