package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const logsPage = "docs/logs.md"

// errorKey is what logr's Error calls its error.
const errorKey = "error"

// logMethods are those of a logr.Logger, with the number of arguments before the keys.
var logMethods = map[string]int{"Info": 1, "Error": 2, "WithValues": 0}

// camelCase is the form of keys.
var camelCase = regexp.MustCompile(`^[a-z]+([A-Z][a-z]+)*$`)

// objectKeys are the keys of objects of the API server.
var objectKeys = []string{"controllerRevision", "deployment", "output"}

// isReference reports whether a value is a reference of klog to an object.
func isReference(value ast.Expr) bool {
	call, ok := value.(*ast.CallExpr)
	if !ok {
		return false
	}
	name := selectorOf(call.Fun)
	return name == "klog.KObj" || name == "klog.KRef"
}

// selectorOf returns `package.Name` of a function of another package.
func selectorOf(function ast.Expr) string {
	selector, ok := function.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	if from, ok := selector.X.(*ast.Ident); ok {
		return from.Name + "." + selector.Sel.Name
	}
	return ""
}

// logKeys returns the keys of a file's calls of a logger, and what is wrong with them.
func logKeys(files *token.FileSet, file *ast.File) (keys, problems []string) {
	ast.Inspect(file, func(node ast.Node) bool {
		call, ok := node.(*ast.CallExpr)
		if !ok || !isLogger(call.Fun) {
			return true
		}
		method := call.Fun.(*ast.SelectorExpr).Sel.Name
		if method == "Error" {
			keys = append(keys, errorKey)
		}
		problem := func(format string, args ...any) {
			problems = append(problems, fmt.Sprintf("%s: ", files.Position(call.Pos()))+fmt.Sprintf(format, args...))
		}
		pairs := call.Args[min(logMethods[method], len(call.Args)):]
		if len(pairs)%2 != 0 {
			problem("a key has no value")
			return true
		}
		for i := 0; i < len(pairs); i += 2 {
			_, isLiteral := pairs[i].(*ast.BasicLit)
			key := textOf(pairs[i])
			if !isLiteral || !camelCase.MatchString(key) {
				problem("a key is not a literal in camelCase")
				continue
			}
			if slices.Contains(objectKeys, key) != isReference(pairs[i+1]) {
				problem("the value of %s: references of klog are for %v, and for them only", key, objectKeys)
			}
			keys = append(keys, key)
		}
		return true
	})
	return keys, problems
}

// isLogger reports whether a function is a method of a logger: of log.FromContext(…),
// of log.Log, or of what V returns of them.
func isLogger(function ast.Expr) bool {
	selector, ok := function.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	if _, logs := logMethods[selector.Sel.Name]; !logs {
		return false
	}
	for receiver := selector.X; ; {
		switch e := receiver.(type) {
		case *ast.CallExpr:
			receiver = e.Fun
		case *ast.SelectorExpr:
			receiver = e.X
		case *ast.Ident:
			return e.Name == "log" || e.Name == "logger" || e.Name == "klog"
		default:
			return false
		}
	}
}

// documentedKeys returns the keys in the first table of the page.
func documentedKeys(t *testing.T) []string {
	t.Helper()
	own, _, found := strings.Cut(read(t, filepath.Join(root, logsPage)), "Kubernetes' libraries add others.")
	if !found {
		t.Fatal(logsPage + " does not say where the operator's own keys end")
	}
	var keys []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-zA-Z]+)` \\| ").FindAllStringSubmatch(own, -1) {
		keys = append(keys, row[1])
	}
	return keys
}

func TestKeysOfLogsAreThoseOfTheirPage(t *testing.T) {
	used := map[string]bool{}
	for _, folder := range []string{"cmd", "controllers", "internal"} {
		for _, path := range filesUnder(t, folder, ".go") {
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, filepath.Join(root, path), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			keys, problems := logKeys(files, file)
			report(t, problems)
			for _, key := range keys {
				used[key] = true
			}
		}
	}
	documented := documentedKeys(t)
	if got := slices.Sorted(maps.Keys(used)); !slices.Equal(got, documented) || len(got) == 0 {
		t.Errorf("%s has the keys %v, and the sources have %v", logsPage, documented, got)
	}
}

func TestKeysOfLogsAreFound(t *testing.T) {
	for text, want := range map[string]string{
		`log.FromContext(ctx).Info("m", "digest", d, "reason", r)`: "[digest reason] []",
		`log.FromContext(ctx).V(1).Error(err, "m", "image", i)`:    "[error image] []",
		`log.Log.WithValues("kind", k)`:                            "[kind] []",
		`http.Error(w, "m", 404)`:                                  "[] []",
		`err.Error()`:                                              "[] []",
		`log.Log.Info("m", "Deployment", d)`:                       "[] [x.go:2:1: a key is not a literal in camelCase]",
		`log.Log.Info("m", key, d)`:                                "[] [x.go:2:1: a key is not a literal in camelCase]",
		`log.Log.Info("m", "output", klog.KRef(n, m))`:             "[output] []",
		`log.Log.Info("m", "output", o.String())`:                  "[output] [x.go:2:1: the value of output: references of klog are for [controllerRevision deployment output], and for them only]",
		`log.Log.Info("m", "kind")`:                                "[] [x.go:2:1: a key has no value]",
	} {
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, "x.go", "package x; func f() {\n"+text+"\n}", 0)
		if err != nil {
			t.Fatal(err)
		}
		keys, problems := logKeys(files, file)
		if got := fmt.Sprint(keys, " ", problems); strings.ReplaceAll(got, "  ", " ") != want {
			t.Errorf("%s: %s, not %s", text, got, want)
		}
	}
}
