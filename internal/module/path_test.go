package module_test

import (
	"strings"
	"testing"

	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

// Proxies keep the path for as long as they run the module, so it is written out here.
func TestPath(t *testing.T) {
	sum := moduletest.SHA256("a module")
	path := module.Path(sum)
	if path != "/modules/sha256/"+sum+".wasm" {
		t.Error(path)
	}
	if got, ok := module.ParsePath(path); got != sum || !ok {
		t.Errorf("%q, %v", got, ok)
	}
}

func TestParsePathRefuses(t *testing.T) {
	sum := moduletest.SHA256("a module")
	for name, path := range map[string]string{
		"nothing":             "",
		"the root":            "/",
		"a digest alone":      sum,
		"no digest":           "/modules/sha256/.wasm",
		"a short digest":      module.Path(sum[1:]),
		"a long digest":       module.Path(sum + "0"),
		"upper case":          module.Path(strings.ToUpper(strings.Repeat("ab", 32))),
		"another character":   module.Path(sum[1:] + "g"),
		"one in the middle":   module.Path(sum[:31] + "-" + sum[32:]),
		"no prefix":           sum + ".wasm",
		"no suffix":           "/modules/sha256/" + sum,
		"another suffix":      "/modules/sha256/" + sum + ".WASM",
		"more behind":         module.Path(sum) + "/",
		"a line more":         module.Path(sum) + "\n",
		"more in front":       "/x" + module.Path(sum),
		"another algorithm":   "/modules/sha512/" + sum + ".wasm",
		"traversal":           "/modules/sha256/../../etc/passwd",
		"traversal in digest": module.Path(strings.Repeat("../", 21) + "a"),
	} {
		if got, ok := module.ParsePath(path); got != "" || ok {
			t.Errorf("%s: %q, %v", name, got, ok)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	sum := moduletest.SHA256("a module")
	for _, seed := range []string{module.Path(sum), "/modules/sha256/.wasm", module.Path(sum[1:]), "/modules/sha256/%2e%2e.wasm"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		sum, ok := module.ParsePath(path)
		if ok && (module.Path(sum) != path || !module.IsSHA256(sum)) || !ok && sum != "" {
			t.Errorf("%q gives %q, %v", path, sum, ok)
		}
	})
}
