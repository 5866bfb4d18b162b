package module_test

import (
	"bytes"
	"slices"
	"testing"

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
		broken  bool
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
		"an unknown kind":    {section: slices.Concat([]byte{1}, imported("x", 9, 0)), broken: true},
		"fewer than it says": {section: slices.Concat([]byte{2}, imported("x", function...)), broken: true},
		"too many":           {section: []byte{0xff, 0xff, 0x7f}, broken: true},
	} {
		wasm := moduletest.WithExports(moduletest.Export("proxy_abi_version_0_2_1"))
		if row.section != nil {
			wasm = slices.Concat(wasm[:8], moduletest.Section(2, row.section), wasm[8:])
		}
		got, err := module.ImportedFunctions(bytes.NewReader(wasm), int64(len(wasm)))
		if row.broken {
			moduletest.WantError(t, err, wasmev1.ReasonInvalidModule, "reading the module's imports")
			continue
		}
		if err != nil || !slices.Equal(got, row.want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestCapabilities(t *testing.T) {
	got := module.CapabilitiesOf([]string{"proxy_log", "proxy_record_metric", "proxy_grpc_stream", "proxy_increment_metric", "proxy_grpc_call"})
	if want := []wasmev1.Capability{wasmev1.CapabilityGRPCCalls, wasmev1.CapabilityMetrics}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
