package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// conditionsFile is the file of the API package that holds the constants.
const conditionsFile = "conditions.go"

// condition is a type of condition with its reasons.
type condition struct {
	Type, Meaning string
	Reasons       []reason
}

type reason struct{ Name, Meaning string }

// constant is a string constant with its comment.
type constant struct{ name, value, comment string }

func readConditions(folder string) ([]condition, error) {
	path := filepath.Join(folder, conditionsFile)
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	conditions, err := group(constantsOf(file))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return conditions, nil
}

// constantsOf returns the string constants of a file, in their order.
func constantsOf(file *ast.File) []constant {
	var found []constant
	for _, declaration := range file.Decls {
		constants, ok := declaration.(*ast.GenDecl)
		if !ok || constants.Tok != token.CONST {
			continue
		}
		for _, spec := range constants.Specs {
			spec := spec.(*ast.ValueSpec)
			if value, ok := stringValue(spec); ok {
				found = append(found, constant{spec.Names[0].Name, value, spec.Doc.Text()})
			}
		}
	}
	return found
}

func stringValue(spec *ast.ValueSpec) (string, bool) {
	if len(spec.Names) != 1 || len(spec.Values) != 1 {
		return "", false
	}
	literal, ok := spec.Values[0].(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return "", false
	}
	value, err := strconv.Unquote(literal.Value)
	return value, err == nil
}

// group puts the reasons under their conditions. The comment of a reason ends
// with its condition in parentheses. Without that, the reason belongs to the
// condition of the reason before it.
func group(constants []constant) ([]condition, error) {
	var conditions []condition
	place := -1
	for _, c := range constants {
		switch {
		case c.comment == "":
			return nil, fmt.Errorf("%s has no comment", c.name)
		case strings.HasPrefix(c.name, "Condition"):
			conditions = append(conditions, condition{Type: c.value, Meaning: meaning(c)})
		case strings.HasPrefix(c.name, "Reason"):
			text := meaning(c)
			if named := namedCondition(conditions, text); named >= 0 {
				place = named
				text = strings.TrimSuffix(text, " ("+conditions[place].Type+").") + "."
			}
			if place < 0 {
				return nil, fmt.Errorf("the comment of %s names no condition", c.name)
			}
			conditions[place].Reasons = append(conditions[place].Reasons, reason{c.value, text})
		}
	}
	if len(conditions) == 0 {
		return nil, errors.New("no condition is declared")
	}
	return conditions, nil
}

func namedCondition(conditions []condition, text string) int {
	return slices.IndexFunc(conditions, func(c condition) bool { return strings.HasSuffix(text, " ("+c.Type+").") })
}

// meaning returns a constant's comment as a sentence of its own: `Name: it is so.`
// becomes `It is so.`, and in `Name is so.` the value replaces the name.
func meaning(c constant) string {
	text := strings.Join(strings.Fields(c.comment), " ")
	if after, found := strings.CutPrefix(text, c.name+": "); found {
		return capitalised(after)
	}
	if after, found := strings.CutPrefix(text, c.name+" "); found {
		return "`" + c.value + "` " + after
	}
	return text
}

// capitalised begins a sentence with a capital letter, unless it begins with an identifier.
func capitalised(text string) string {
	word, _, _ := strings.Cut(text, " ")
	isWord := strings.IndexFunc(word, func(r rune) bool { return !unicode.IsLower(r) && r != ',' }) < 0
	if !isWord {
		return text
	}
	first, size := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(first)) + text[size:]
}
