// Command docs writes the references in docs/ from their sources:
//
//	api.md         from the schema of the FilterDeployment's CRD, with links to the examples of examples.md
//	api-….md       from those of the others
//	conditions.md  from the constants of api/v1 and their comments
//	flags.md       from the manager's help, which it reads from its standard input
//	host-functions.md  from the table of the preflight's host
//	values.md      from the values of the Helm chart and their comments
//
// The prose around them is in the templates beside this file. The tests of this
// package hold the pages that people write to the same sources: CONTRIBUTING.md
// says how.
package main

import (
	"bytes"
	"embed"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// width is the length of the longest line, if its words can be wrapped.
const width = 110

//go:embed *.tmpl
var templates embed.FS

func main() {
	if len(os.Args) < 5 {
		fmt.Fprintln(os.Stderr, "usage: manager --help 2>&1 | docs API-PACKAGE VALUES.yaml OUTPUT-FOLDER CRD.yaml...")
		os.Exit(2)
	}
	if err := write(os.Stdin, os.Args[1], os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		fmt.Fprintln(os.Stderr, "docs:", err)
		os.Exit(1)
	}
}

func write(help io.Reader, apiFolder, valuesPath, out string, crdPaths []string) error {
	for _, path := range crdPaths {
		if err := writeAPI(path, out); err != nil {
			return err
		}
	}
	conditions, err := readConditions(apiFolder)
	if err != nil {
		return err
	}
	helpText, err := io.ReadAll(help)
	if err != nil {
		return fmt.Errorf("reading the manager's help: %w", err)
	}
	flags, err := readFlags(string(helpText))
	if err != nil {
		return err
	}
	values, err := readValues(valuesPath)
	if err != nil {
		return err
	}
	for page, content := range map[string]any{"conditions.md": conditions, "flags.md": flags, "host-functions.md": readHostFunctions(), "values.md": values} {
		text, err := fill(page, content)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(out, page), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// writeAPI writes the reference of a kind. That of the FilterDeployment is api.md.
func writeAPI(crdPath, out string) error {
	api, err := readResource(crdPath)
	if err != nil {
		return err
	}
	page := "api-" + api.CRD.Spec.Names.Plural + ".md"
	if api.CRD.Spec.Names.Kind == "FilterDeployment" {
		page = "api.md"
		if err := api.linkExamples(filepath.Join(out, "examples.md")); err != nil {
			return err
		}
	}
	text, err := fill("api.md", api)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, page), text, 0o644)
}

// fill returns the text of a page.
func fill(page string, content any) ([]byte, error) {
	name := page + ".tmpl"
	parsed, err := template.New(name).Funcs(template.FuncMap{"wrap": wrap, "size": size, "entry": describeFunction}).ParseFS(templates, name)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := parsed.Execute(&text, content); err != nil {
		return nil, fmt.Errorf("writing %s: %w", page, err)
	}
	return text.Bytes(), nil
}

// wrap breaks a text into lines, and indents those after the first.
func wrap(indent int, text string) string {
	var out strings.Builder
	column := 0
	for i, word := range strings.Fields(text) {
		length := len([]rune(word))
		switch {
		case i == 0:
		case column+1+length > width:
			out.WriteString("\n" + strings.Repeat(" ", indent))
			column = indent
		default:
			out.WriteString(" ")
			column++
		}
		out.WriteString(word)
		column += length
	}
	return out.String()
}
