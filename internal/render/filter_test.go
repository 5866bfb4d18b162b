package render

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

func TestNewFilterNamesTheFieldThatIsWrong(t *testing.T) {
	fromConfigMap := &wasmev1.ConfigurationSource{ConfigMapKeyRef: wasmev1.ConfigMapKey{Name: "c", Key: "k"}}
	for name, tc := range map[string]struct {
		spec wasmev1.FilterSpec
		want string
	}{
		"unknown patch context":  {wasmev1.FilterSpec{RootID: "r", PatchContext: "sideways"}, `spec.filter.patchContext is "sideways": use inbound, outbound, gateway or any`},
		"unknown fail strategy":  {wasmev1.FilterSpec{RootID: "r", FailStrategy: "FailSometimes"}, `spec.filter.failStrategy is "FailSometimes"`},
		"number as config":       {wasmev1.FilterSpec{RootID: "r", Config: configuration(`7`)}, `spec.filter.config: the configuration has none of the accepted forms: use a string`},
		"unknown Any":            {wasmev1.FilterSpec{RootID: "r", Config: configuration(`{"@type": "x/google.protobuf.Empty"}`)}, `"x/google.protobuf.Empty" is not accepted`},
		"no root id anywhere":    {wasmev1.FilterSpec{}, `set spec.filter.rootID`},
		"another module":         {wasmev1.FilterSpec{RootID: "r", SHA256: strings.Repeat("0", 64)}, moduleDigest + ": fix spec.filter.sha256"},
		"configuration not read": {wasmev1.FilterSpec{RootID: "r", ConfigFrom: fromConfigMap}, `spec.filter.configFrom has not been read`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewFilter(testOwner, tc.spec, wasmev1.DistributionServed, wasmev1.ModuleStatus{SHA256: moduleDigest})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q in it", err, tc.want)
			}
		})
	}
}

func TestNewFilterPinsAnImageOfTheRegistry(t *testing.T) {
	for name, tc := range map[string]struct{ image, digest, want, err string }{
		"tag":           {"ghcr.io/acme/add-header:v1", manifestDigest, "ghcr.io/acme/add-header@" + manifestDigest, ""},
		"digest":        {"ghcr.io/acme/add-header@sha256:" + strings.Repeat("0", 64), manifestDigest, "ghcr.io/acme/add-header@" + manifestDigest, ""},
		"port":          {"localhost:5000/add-header", manifestDigest, "localhost:5000/add-header@" + manifestDigest, ""},
		"Docker Hub":    {"acme/add-header:v1", manifestDigest, "index.docker.io/acme/add-header@" + manifestDigest, ""},
		"no image":      {"", "", "", "spec.deployment.istio.distribution: proxies can pull images only: set spec.filter.image"},
		"other digest":  {"ghcr.io/acme/add-header:v1", "sha512:00", "", "proxies can check sha256 digests only"},
		"bad reference": {"ghcr.io/acme/add header", manifestDigest, "", "spec.filter.image:"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := wasmev1.FilterSpec{Image: tc.image, RootID: "r"}
			filter, err := NewFilter(testOwner, spec, wasmev1.DistributionRegistry, wasmev1.ModuleStatus{SHA256: moduleDigest, ManifestDigest: tc.digest})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got %v, want %q in it", err, tc.err)
				}
				return
			}
			if err != nil || filter.Registry.Image != tc.want {
				t.Fatalf("got %q, %v; want %q", filter.Registry.Image, err, tc.want)
			}
		})
	}
}

func TestADigestMismatchCanBeTold(t *testing.T) {
	spec := wasmev1.FilterSpec{RootID: "r", SHA256: strings.Repeat("0", 64)}
	_, err := NewFilter(testOwner, spec, wasmev1.DistributionServed, wasmev1.ModuleStatus{SHA256: moduleDigest})
	if !errors.Is(err, ErrDigestMismatch) {
		t.Fatal(err)
	}
}

func TestConfigurationFromElsewhereReachesTheModuleAsItIs(t *testing.T) {
	for name, content := range map[string][]byte{
		"text":       []byte("a: <b>\n\"c\"\u2028"),
		"nothing":    {},
		"JSON":       []byte(`{"b": 1.50, "a": 2}`),
		"no UTF-8":   {0xff, 0x00, 0x01},
		"with zeros": []byte("a\x00b"),
	} {
		t.Run(name, func(t *testing.T) {
			spec := WithConfiguration(wasmev1.FilterSpec{RootID: "r", ConfigFrom: &wasmev1.ConfigurationSource{}}, content)
			filter, err := NewFilter(testOwner, spec, wasmev1.DistributionServed, wasmev1.ModuleStatus{SHA256: moduleDigest})
			if err != nil || !slices.Equal(filter.Configuration, content) {
				t.Fatalf("got %q, %v", filter.Configuration, err)
			}
		})
	}
}

// What was emitted before a release must be found again after it: a name that
// changes with the operator would bring every filter to every proxy anew.
func TestNamesStayWhatTheyWereBeforeFieldsWereAdded(t *testing.T) {
	for name, tc := range map[string]struct {
		spec           wasmev1.FilterSpec
		revision, ecds string
	}{
		"string": {
			wasmev1.FilterSpec{Image: "ghcr.io/acme/add-header:v1", RootID: "add_header_root_id", Config: configuration(`"world"`)},
			"baf56083", "bookinfo/bookinfo-custom-filter/Deployment/details-v1/3a457a6d",
		},
		"all fields": {
			wasmev1.FilterSpec{
				ID: "my-filter", Image: "ghcr.io/acme/add-header:v1", RootID: "r",
				PatchContext: wasmev1.PatchContextGateway, FailStrategy: wasmev1.FailOpen,
				ImagePullOptions: &wasmev1.ImagePullOptions{PullSecret: "s", PlainHTTP: true},
			},
			"db3d76e0", "bookinfo/bookinfo-custom-filter/Deployment/details-v1/081dde92",
		},
		"object": {
			wasmev1.FilterSpec{Image: "i", RootID: "r", PatchContext: wasmev1.PatchContextAny, FailStrategy: wasmev1.FailClosed, Config: configuration(`{"a":1}`)},
			"50a262d4", "bookinfo/bookinfo-custom-filter/Deployment/details-v1/6864a62c",
		},
		"new fields that say nothing": {
			wasmev1.FilterSpec{
				Image: "ghcr.io/acme/add-header:v1", RootID: "add_header_root_id", Config: configuration(`"world"`),
				Priority: new(int32(0)), Ports: []int32{}, VM: &wasmev1.VMSpec{}, SHA256: moduleDigest,
			},
			"baf56083", "bookinfo/bookinfo-custom-filter/Deployment/details-v1/3a457a6d",
		},
	} {
		t.Run(name, func(t *testing.T) {
			filter, err := NewFilter(testOwner, tc.spec, wasmev1.DistributionServed, wasmev1.ModuleStatus{SHA256: moduleDigest, RootIDs: []string{"x"}})
			if err != nil {
				t.Fatal(err)
			}
			if got := filter.Revision(); got != tc.revision {
				t.Errorf("revision %s, not %s", got, tc.revision)
			}
			if got := ecdsName(testOwner, details, filter); got != tc.ecds {
				t.Errorf("ECDS name %s, not %s", got, tc.ecds)
			}
		})
	}
	if got := HashedName(testOwner, details, "hello.bookinfo"); got != "details-v1-hello.bookinfo-5eb601a2" {
		t.Errorf("hashed name %s", got)
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
		"priority":            func(f *Filter) { f.Place.Priority = 1 },
		"negative priority":   func(f *Filter) { f.Place.Priority = -1 },
		"position":            func(f *Filter) { f.Place.Position.First = true },
		"position before":     func(f *Filter) { f.Place.Position.Before = "x" },
		"position after":      func(f *Filter) { f.Place.Position.After = "x" },
		"phase":               func(f *Filter) { f.Place.Position.Phase = wasmev1.PhaseAuthn },
		"ports":               func(f *Filter) { f.Place.Ports = []uint32{80} },
		"variable":            func(f *Filter) { f.Env = []wasmev1.EnvVar{{Name: "A", Value: new("")}} },
		"value of a variable": func(f *Filter) { f.Env = []wasmev1.EnvVar{{Name: "A", Value: new("b")}} },
		"variable from host": func(f *Filter) {
			f.Env = []wasmev1.EnvVar{{Name: "A", ValueFrom: &wasmev1.EnvVarSource{Host: &wasmev1.HostVariable{}}}}
		},
		"registry":    func(f *Filter) { f.Registry.Image = "x@y" },
		"pull secret": func(f *Filter) { f.Registry.PullSecret = "s" },
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

func TestRevisionIsTheSameInWhateverOrderThingsStand(t *testing.T) {
	revision := func(ports []int32, env ...wasmev1.EnvVar) string {
		spec := wasmev1.FilterSpec{RootID: "r", Ports: ports, VM: &wasmev1.VMSpec{Env: env}}
		filter, err := NewFilter(testOwner, spec, wasmev1.DistributionServed, wasmev1.ModuleStatus{SHA256: moduleDigest})
		if err != nil {
			t.Fatal(err)
		}
		return filter.Revision()
	}
	a, b := wasmev1.EnvVar{Name: "A", Value: new("1")}, wasmev1.EnvVar{Name: "B", ValueFrom: &wasmev1.EnvVarSource{Host: &wasmev1.HostVariable{}}}
	if revision([]int32{80, 443}, a, b) != revision([]int32{443, 80}, b, a) {
		t.Error("the order of ports or variables changes the revision")
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
		"variable":              {func(f *Filter) { f.Env = []wasmev1.EnvVar{{Name: "A", Value: new("")}} }, true},
		"registry":              {func(f *Filter) { f.Registry.Image = "x@y" }, true},
		"strategy that allows":  {func(f *Filter) { f.FailStrategy = wasmev1.FailOpen }, false},
		"another id":            {func(f *Filter) { f.ID = "i" }, false},
		"another patch context": {func(f *Filter) { f.PatchContext = wasmev1.PatchContextGateway }, false},
		"priority":              {func(f *Filter) { f.Place.Priority = 1 }, false},
		"position":              {func(f *Filter) { f.Place.Position.First = true }, false},
		"ports":                 {func(f *Filter) { f.Place.Ports = []uint32{80} }, false},
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

func TestRenewalChangesNoName(t *testing.T) {
	filter := filterOf(t, baseCase())
	names := func(renewal string) string {
		rendered, err := EnvoyFilter(testMesh, testOwner, filter, details, renewal)
		if err != nil {
			t.Fatal(err)
		}
		config := rendered.ConfigPatches[0].Patch.Value.AsMap()
		plugin := config["typed_config"].(map[string]any)["config"].(map[string]any)
		return config["name"].(string) + plugin["name"].(string)
	}
	if names("") != names("1") || names("1") != names("2") {
		t.Error("a renewal changes a name")
	}
}

func TestEveryTargetHasANameOfItsOwn(t *testing.T) {
	keys, names, ecds := map[string]bool{}, map[string]bool{}, map[string]bool{}
	kinds := []string{"Deployment", "Gateway", "Service"}
	for _, kind := range kinds {
		target := workload.Target{Kind: kind, Namespace: "ns", Name: "same"}
		keys[target.Key()] = true
		names[Name(target, "f")] = true
		ecds[ecdsName(testOwner, target, Filter{})] = true
	}
	if len(keys) != len(kinds) || len(names) != len(kinds) || len(ecds) != len(kinds) {
		t.Errorf("%v\n%v\n%v", keys, names, ecds)
	}
	if !keys["same"] || !keys["Gateway/same"] || !names["gateway.same-f"] {
		t.Errorf("%v\n%v", keys, names)
	}
}

func TestHashedNameFitsAndTellsFilterDeploymentsApart(t *testing.T) {
	long := workload.Target{Kind: "Deployment", Name: strings.Repeat("w", 250)}
	a := HashedName(types.NamespacedName{Namespace: "ns", Name: "a"}, long, "id.ns")
	b := HashedName(types.NamespacedName{Namespace: "ns", Name: "b"}, long, "id.ns")
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
	name := PluginName(types.NamespacedName{Namespace: "ns", Name: "a.b"}, workload.Target{Name: "w.x"}, Filter{}.Revision())
	rest, found := strings.CutPrefix(name, "wasm_filter.")
	if !found || strings.Contains(rest, ".") || !strings.HasPrefix(rest, "ns/w_x/a_b@") {
		t.Fatal(name)
	}
}

// A name must be one that an API server accepts, whatever it is made of.
func FuzzNames(f *testing.F) {
	f.Add("details-v1", "bookinfo-custom-filter.bookinfo", "Deployment", "ns", "a")
	f.Add(strings.Repeat("w", 253), strings.Repeat("i", 253), "Gateway", "ns", "a.b")
	f.Add(strings.Repeat("w.", 126)+"w", "x", "Service", "ns", "a")
	f.Add(strings.Repeat("w", 240)+".--"+strings.Repeat("w", 10), "x.y", "StatefulSet", "ns", "b")
	f.Fuzz(func(t *testing.T, name, id, kind, namespace, owner string) {
		for _, name := range []string{name, id, owner} {
			if len(validation.IsDNS1123Subdomain(name)) > 0 {
				t.Skip()
			}
		}
		if len(validation.IsDNS1123Label(namespace)) > 0 || !slices.Contains([]string{"Deployment", "DaemonSet", "StatefulSet", "Gateway", "Service"}, kind) {
			t.Skip()
		}
		target, by := workload.Target{Kind: kind, Namespace: namespace, Name: name}, types.NamespacedName{Namespace: namespace, Name: owner}
		usual, hashed := Name(target, id), HashedName(by, target, id)
		for _, name := range []string{usual, hashed} {
			if problems := validation.IsDNS1123Subdomain(name); FitsName(name) && len(problems) > 0 {
				t.Errorf("%q: %v", name, problems)
			}
		}
		if !FitsName(hashed) {
			t.Errorf("%d characters: %q", len(hashed), hashed)
		}
		if problems := validation.IsValidLabelValue(LabelHash(usual)); len(problems) > 0 {
			t.Errorf("%q: %v", LabelHash(usual), problems)
		}
		if plugin := PluginName(by, target, Filter{}.Revision()); strings.Count(plugin, ".") != 1 || strings.Count(plugin, "@") != 1 {
			t.Errorf("%q", plugin)
		}
	})
}
