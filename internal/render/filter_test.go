package render

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

func TestNewFilterNamesTheFieldThatIsWrong(t *testing.T) {
	for name, tc := range map[string]struct {
		spec wasmev1.FilterSpec
		want string
	}{
		"unknown patch context": {wasmev1.FilterSpec{RootID: "r", PatchContext: "sideways"}, `spec.filter.patchContext is "sideways"; use inbound, outbound, gateway or any`},
		"unknown fail strategy": {wasmev1.FilterSpec{RootID: "r", FailStrategy: "FailSometimes"}, `spec.filter.failStrategy is "FailSometimes"`},
		"number as config":      {wasmev1.FilterSpec{RootID: "r", Config: configuration(`7`)}, `spec.filter.config: the configuration must be a string`},
		"unknown Any":           {wasmev1.FilterSpec{RootID: "r", Config: configuration(`{"@type": "x/google.protobuf.Empty"}`)}, `"x/google.protobuf.Empty" is not accepted`},
		"no root id anywhere":   {wasmev1.FilterSpec{}, `set spec.filter.rootID`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewFilter(testOwner, tc.spec, wasmev1.ModuleStatus{SHA256: moduleDigest})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q in it", err, tc.want)
			}
		})
	}
}

func TestRevisionChangesWithAllThatAProxySees(t *testing.T) {
	base := Filter{ModuleSHA256: "a", RootID: "r", Configuration: []byte("c"), PatchContext: wasmev1.PatchContextInbound, FailStrategy: wasmev1.FailReload}
	changes := map[string]func(*Filter){
		"id":                  func(f *Filter) { f.ID = "i" },
		"module":              func(f *Filter) { f.ModuleSHA256 = "b" },
		"root id":             func(f *Filter) { f.RootID = "s" },
		"configuration":       func(f *Filter) { f.Configuration = []byte("d") },
		"no configuration":    func(f *Filter) { f.Configuration = nil },
		"empty configuration": func(f *Filter) { f.Configuration = []byte{} },
		"patch context":       func(f *Filter) { f.PatchContext = wasmev1.PatchContextAny },
		"fail strategy":       func(f *Filter) { f.FailStrategy = wasmev1.FailOpen },
	}
	seen := map[string]string{base.Revision(): "base"}
	for name, change := range changes {
		changed := base
		change(&changed)
		if other, taken := seen[changed.Revision()]; taken {
			t.Errorf("%s has the revision of %s", name, other)
		}
		seen[changed.Revision()] = name
	}
}

func TestECDSNameChangesOnlyWithThePlacement(t *testing.T) {
	base := Filter{ModuleSHA256: "a", PatchContext: wasmev1.PatchContextInbound, FailStrategy: wasmev1.FailReload}
	for name, tc := range map[string]struct {
		change func(*Filter)
		same   bool
	}{
		"module":                {func(f *Filter) { f.ModuleSHA256 = "b" }, true},
		"configuration":         {func(f *Filter) { f.Configuration = []byte("d") }, true},
		"strategy that denies":  {func(f *Filter) { f.FailStrategy = wasmev1.FailClosed }, true},
		"strategy that allows":  {func(f *Filter) { f.FailStrategy = wasmev1.FailOpen }, false},
		"another id":            {func(f *Filter) { f.ID = "i" }, false},
		"another patch context": {func(f *Filter) { f.PatchContext = wasmev1.PatchContextGateway }, false},
	} {
		t.Run(name, func(t *testing.T) {
			changed := base
			tc.change(&changed)
			if same := ecdsName(testOwner, details, base) == ecdsName(testOwner, details, changed); same != tc.same {
				t.Fatalf("same name: %v, want %v", same, tc.same)
			}
		})
	}
}

func TestHashedNameFitsAndTellsFilterDeploymentsApart(t *testing.T) {
	long := strings.Repeat("w", 250)
	a := HashedName(types.NamespacedName{Namespace: "ns", Name: "a"}, Workload{Kind: "Deployment", Name: long}, "id.ns")
	b := HashedName(types.NamespacedName{Namespace: "ns", Name: "b"}, Workload{Kind: "Deployment", Name: long}, "id.ns")
	if a == b {
		t.Error("two FilterDeployments get one name")
	}
	if len(a) != maxNameLength || !FitsName(a) || FitsName(Name(long, "id.ns")) {
		t.Errorf("lengths: hashed %d, usual %d", len(a), len(Name(long, "id.ns")))
	}
	if short := HashedName(testOwner, details, "x."); strings.Contains(short, ".-") {
		t.Errorf("%q is no valid name", short)
	}
}

func TestPluginNameHasNoDotBehindThePrefix(t *testing.T) {
	name := pluginName(types.NamespacedName{Namespace: "ns", Name: "a.b"}, Workload{Name: "w.x"}, Filter{})
	rest, found := strings.CutPrefix(name, "wasm_filter.")
	if !found || strings.Contains(rest, ".") || !strings.HasPrefix(rest, "ns/w_x/a_b@") {
		t.Fatal(name)
	}
}
