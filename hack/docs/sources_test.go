package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// literal is a text in a source: a string literal, or several that are added.
// What they are added to, and each verb of fmt, is the wildcard `%v`.
type literal struct {
	place, text string
}

// productFolders hold the code that users meet.
var productFolders = []string{"api", "cmd", "controllers", "internal"}

// productLiterals returns the texts of the product's code and of its CRD.
func productLiterals(t *testing.T) []literal {
	t.Helper()
	var found []literal
	for _, folder := range productFolders {
		for _, path := range filesUnder(t, folder, ".go") {
			found = append(found, literalsOf(t, filepath.Join(root, path), path)...)
		}
	}
	resource, err := readResource(filepath.Join(root, crdPath))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(resource.Spec, resource.Status...) {
		for _, rule := range f.Rules {
			found = append(found, literal{crdPath, rule})
		}
	}
	return found
}

func literalsOf(t *testing.T, path, name string) []literal {
	t.Helper()
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return literalsIn(files, file, name)
}

func literalsIn(files *token.FileSet, file *ast.File, name string) []literal {
	var found []literal
	ast.Inspect(file, func(node ast.Node) bool {
		var text string
		switch node := node.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.BinaryExpr:
			if node.Op != token.ADD || !strings.Contains(textOf(node), "%v") && textOf(node) == "" {
				return true
			}
			text = textOf(node)
		case *ast.BasicLit:
			text = textOf(node)
		default:
			return true
		}
		if strings.Trim(text, "%v") != "" {
			place := fmt.Sprintf("%s:%d", name, files.Position(node.Pos()).Line)
			found = append(found, literal{place, verb.ReplaceAllString(text, "%v")})
		}
		// The parts of a sum may be quoted alone.
		return true
	})
	return found
}

// textOf returns the text of an expression of strings; what is not known here becomes a wildcard.
func textOf(expression ast.Expr) string {
	switch e := expression.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			text, _ := strconv.Unquote(e.Value)
			return text
		}
		return ""
	case *ast.BinaryExpr:
		return textOf(e.X) + textOf(e.Y)
	case *ast.ParenExpr:
		return textOf(e.X)
	}
	return "%v"
}

// verb is a verb of fmt; `%%` is not one.
var verb = regexp.MustCompile(`%[-+# 0]*[\d*]*(\.[\d*]+)?(\[\d+\])?[a-zA-Z]`)

// strange are the messages of other programs that the pages quote.
var strange = []struct {
	// from is a folder of this repository whose go.mod pins the module.
	from, module string
	// folder and text are where the module says it.
	folder, text string
}{
	{".", "sigs.k8s.io/controller-runtime", "pkg/manager", "leader election lost"},
	{".", "sigs.k8s.io/controller-runtime", "pkg/internal/controller", "Reconciler error"},
	{".", "k8s.io/kube-openapi", "pkg/validation/errors", "%v should be less than or equal to %v"},
	{".", "k8s.io/kube-openapi", "pkg/validation/errors", "%v should have at most %v items"},
	{"hack/build/istio", "istio.io/istio", "pilot/pkg/xds", "ADS:%v: ACK ERROR %v %v:%v"},
	{"hack/build/istio", "istio.io/istio", "pkg/wasm", "error in converting the wasm config to local: %v. applying %v RBAC filter"},
	{"hack/build/istio", "istio.io/istio", "pkg/wasm", "cannot fetch Wasm module %v: %v"},
	{"hack/build/istio", "istio.io/istio", "pkg/wasm", "wasm module download failed after %v attempts, last error: %v"},
}

// envoyMessages are in Envoy's C++, which no test reads.
var envoyMessages = []string{
	"RBAC: access denied",
	"gRPC config for %v rejected: %v",
	"Unable to create Wasm plugin %v",
}

// networkErrors are those of Go's net, net/http and of the kernel, which agents report.
var networkErrors = []string{
	"dial tcp %v: connect: connection refused", "connection refused", "i/o timeout", "connection reset by peer", "no such host", "unexpected EOF", "context deadline exceeded",
}

// foreignLiterals returns what other programs say.
func foreignLiterals() []literal {
	var found []literal
	for _, s := range strange {
		found = append(found, literal{s.module + "/" + s.folder, s.text})
	}
	for _, text := range append(envoyMessages, networkErrors...) {
		found = append(found, literal{"another program", text})
	}
	return found
}

func TestOtherProgramsStillSayWhatIsQuotedOfThem(t *testing.T) {
	said := map[string]map[string]bool{}
	for _, s := range strange {
		folder := filepath.Join(moduleFolder(t, s.from, s.module), s.folder)
		if said[folder] == nil {
			said[folder] = textsUnder(t, folder)
		}
		if !said[folder][s.text] {
			t.Errorf("%s/%s does not say %q any more", s.module, s.folder, s.text)
		}
	}
}

func textsUnder(t *testing.T, folder string) map[string]bool {
	t.Helper()
	texts := map[string]bool{}
	err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			for _, l := range literalsOf(t, path, path) {
				texts[l.text] = true
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

// moduleFolder returns where the sources of a module are, and downloads them where they are missing.
func moduleFolder(t *testing.T, from, module string) string {
	t.Helper()
	download := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", module)
	download.Dir = filepath.Join(root, from)
	output, err := download.Output()
	if err != nil {
		t.Fatalf("looking for the sources of %s: %v\n%s", module, err, output)
	}
	var found struct{ Dir string }
	if err := json.Unmarshal(output, &found); err != nil {
		t.Fatal(err)
	}
	return found.Dir
}

func TestLiteralsAreRead(t *testing.T) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, "x.go", `package x
import "fmt"
var a = fmt.Errorf("reading %q: %w", 1, nil)
var b = "add " + what + ", or " +
	"leave it"
var c = 1 + 2
`, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, l := range literalsIn(files, file, "x.go") {
		got[l.text] = l.place
	}
	for text, place := range map[string]string{"reading %v: %v": "x.go:3", "add %v, or leave it": "x.go:4"} {
		if got[text] != place {
			t.Errorf("%q is at %q, not at %q: %v", text, got[text], place, got)
		}
	}
	if _, found := got["fmt"]; found {
		t.Error("an import is not a message")
	}
}
