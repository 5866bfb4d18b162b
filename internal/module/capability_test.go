package module_test

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

// imported returns an import of a name, with the kind and the type behind it.
func imported(name string, kind ...byte) []byte {
	return slices.Concat(moduletest.Name("env"), moduletest.Name(name), kind)
}

func TestImportedFunctions(t *testing.T) {
	function := []byte{0, 1}
	for name, row := range map[string]struct {
		section []byte
		want    []string
		broken  string
	}{
		"none": {},
		"functions": {
			section: slices.Concat([]byte{2}, imported("proxy_log", function...), imported("proxy_http_call", function...)),
			want:    []string{"proxy_log", "proxy_http_call"},
		},
		"among other imports": {
			section: slices.Concat([]byte{7}, imported("table", 1, 0x70, 0, 1), imported("memory", 2, 1, 1, 2), imported("a", function...), imported("memory", 2, 0, 1),
				imported("global", 3, 0x7f, 0), imported("tag", 4, 0, 0), imported("b", function...)),
			want: []string{"a", "b"},
		},
		"of every type": {
			section: slices.Concat([]byte{9}, imported("t", 1, 0x6f, 1, 0, 0x80, 1), imported("shared", 2, 3, 1, 2), imported("i64", 3, 0x7e, 1), imported("f32", 3, 0x7d, 1),
				imported("f64", 3, 0x7c, 1), imported("v128", 3, 0x7b, 1), imported("funcref", 3, 0x70, 1), imported("externref", 3, 0x6f, 1), imported("a", function...)),
			want: []string{"a"},
		},
		"an unknown kind":                {section: slices.Concat([]byte{1}, imported("x", 9, 0)), broken: "of an unknown kind"},
		"fewer than it says":             {section: slices.Concat([]byte{2}, imported("x", function...)), broken: "EOF"},
		"more than it says":              {section: slices.Concat([]byte{1}, imported("x", function...), imported("y", function...)), broken: "there are bytes left"},
		"too many":                       {section: []byte{0xff, 0xff, 0x7f}, broken: "too many imports"},
		"no number":                      {section: []byte{}, broken: "EOF"},
		"a function behind a table":      {section: behindATable(), broken: "a table's type is 0x63"},
		"a table that is not nullable":   {section: slices.Concat([]byte{1}, imported("t", 1, 0x64, 0x70, 0, 1)), broken: "a table's type is 0x64"},
		"a table of its own type":        {section: slices.Concat([]byte{1}, imported("t", 1, 0x63, 0, 0, 1)), broken: "a table's type is 0x63"},
		"a table with its first content": {section: slices.Concat([]byte{1}, imported("t", 1, 0x40, 0, 0x70, 0, 1)), broken: "a table's type is 0x40"},
		"a table of numbers":             {section: slices.Concat([]byte{1}, imported("t", 1, 0x7f, 0, 1)), broken: "a table's type is 0x7f"},
		"a memory of 64 bits":            {section: slices.Concat([]byte{1}, imported("m", 2, 4, 1)), broken: "a flag of limits is 0x4"},
		"a memory with a page size":      {section: slices.Concat([]byte{1}, imported("m", 2, 8, 1, 0)), broken: "a flag of limits is 0x8"},
		"a global that is a reference":   {section: slices.Concat([]byte{1}, imported("g", 3, 0x63, 0x70, 0)), broken: "a global's type is 0x63"},
		"a global of a later type":       {section: slices.Concat([]byte{1}, imported("g", 3, 0x69, 0)), broken: "a global's type is 0x69"},
		"a global that is shared":        {section: slices.Concat([]byte{1}, imported("g", 3, 0x7f, 2)), broken: "a global's mutability is 0x2"},
		"a tag with an attribute":        {section: slices.Concat([]byte{1}, imported("t", 4, 1, 0)), broken: "a tag's attribute is 0x1"},
	} {
		wasm := moduletest.WithExports(moduletest.Export("proxy_abi_version_0_2_1"))
		if row.section != nil {
			wasm = slices.Concat(wasm[:8], moduletest.Section(2, row.section), wasm[8:])
		}
		t.Run(name, func(t *testing.T) {
			got, err := module.ImportedFunctions(bytes.NewReader(wasm), int64(len(wasm)))
			moduletest.WantError(t, err, wasmev1.ReasonInvalidModule, row.broken)
			if err == nil && !slices.Equal(got, row.want) {
				t.Errorf("%v, not %v", got, row.want)
			}
		})
	}
}

// behindATable returns an import section with a function that a reader misses who takes the
// table's type for one byte: it takes the table's minimum for the length of a name, in which
// the function is, and reads its other imports from the name of the last one.
func behindATable() []byte {
	hidden := imported("proxy_send_local_response", 0, 1)
	seen := slices.Concat(moduletest.Name("x"), []byte("\x03ab"), moduletest.Name("e"), moduletest.Name("y"), []byte("\x03cd"))
	last := imported(string(seen), 2, 0, 1)
	name := len(hidden) + len(moduletest.Name("env")) + 1
	return slices.Concat([]byte{3}, imported("t", 1, 0x63, 0x70, 0, byte(name)), hidden, last)
}

func TestImportsInASecondSection(t *testing.T) {
	one := moduletest.Section(2, slices.Concat([]byte{1}, imported("a", 0, 1)))
	wasm := sections(one, one)
	_, err := module.ImportedFunctions(bytes.NewReader(wasm), int64(len(wasm)))
	moduletest.WantError(t, err, wasmev1.ReasonInvalidModule, "section 2 is unknown, repeated or out of order")
}

// FuzzImportedFunctions compares with an engine that reads more types.
func FuzzImportedFunctions(f *testing.F) {
	types := moduletest.Section(1, slices.Concat([]byte{2, 0x60, 0, 0, 0x60, 8}, bytes.Repeat([]byte{0x7f}, 8), []byte{1, 0x7f}))
	for _, imports := range [][]byte{
		slices.Concat([]byte{1}, imported("proxy_log", 0, 0)),
		slices.Concat([]byte{4}, imported("t", 1, 0x6f, 1, 0, 1), imported("g", 3, 0x7e, 1), imported("tag", 4, 0, 0), imported("proxy_log", 0, 0)),
		behindATable(),
	} {
		f.Add(sections(types, moduletest.Section(2, imports)))
	}
	features := api.CoreFeaturesV2 | experimental.CoreFeaturesThreads | experimental.CoreFeaturesTailCall |
		experimental.CoreFeaturesExtendedConst | experimental.CoreFeaturesExceptionHandling | experimental.CoreFeaturesTypedFunctionReferences
	engine := wazero.NewRuntimeWithConfig(f.Context(), wazero.NewRuntimeConfigInterpreter().WithCoreFeatures(features))
	f.Cleanup(func() { _ = engine.Close(context.Background()) }) // memory only
	f.Fuzz(func(t *testing.T, wasm []byte) {
		compiled, err := engine.CompileModule(t.Context(), wasm)
		if err != nil {
			t.Skip("no engine runs it")
		}
		defer compiled.Close(t.Context())
		got, err := module.ImportedFunctions(bytes.NewReader(wasm), int64(len(wasm)))
		if err != nil {
			if module.AsError(err) == nil {
				t.Errorf("not classified: %v", err)
			}
			return
		}
		var want []string
		for _, function := range compiled.ImportedFunctions() {
			_, name, _ := function.Import()
			want = append(want, name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q, but the engine imports %q", got, want)
		}
	})
}

func TestCapabilities(t *testing.T) {
	got := module.CapabilitiesOf([]string{"proxy_log", "proxy_record_metric", "proxy_grpc_stream", "proxy_increment_metric", "proxy_grpc_call"})
	if want := []wasmev1.Capability{wasmev1.CapabilityGRPCCalls, wasmev1.CapabilityMetrics}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
