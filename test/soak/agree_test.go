package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

func TestDisagreements(t *testing.T) {
	asked := expectation{Name: "staged", State: good, Newest: 5, Proved: 3, SHA256: "abc", Modules: []string{"abc", "def"}, Workloads: 1, Rows: true}
	ready := reported{Ready: "True", Reason: "Ready", Revision: "r5", SHA256: "abc", Workloads: "1/1", Pods: "1/1"}
	runs := func(revision string, number int) []observed {
		return []observed{{Pod: "app-0", Dump: []plugin{{"staged", revision, "abc"}}, Hello: []string{fmt.Sprintf(`{"value":"staged-%d"}`, number)}}}
	}
	dumps := func(plugins ...plugin) []observed {
		return []observed{{Pod: "app-0", Dump: plugins, Hello: []string{"staged-5"}}}
	}
	with := func(s state) expectation { e := asked; e.State, e.Refusal = s, wasmev1.ReasonMissingImport; return e }
	says := func(change func(*reported)) reported { r := ready; change(&r); return r }
	failed := func(reason string) reported {
		return says(func(r *reported) { r.Ready, r.Reason = "False", reason })
	}
	back := func(revision, rejected, from, to string) reported {
		r := failed(wasmev1.ReasonRolledBack)
		r.Revision, r.Rejected, r.From, r.To = revision, rejected, from, to
		return r
	}
	plugged := asked
	plugged.Rows = false
	for name, test := range map[string]struct {
		want expectation
		says reported
		pods []observed
		// found is a part of each disagreement.
		found []string
	}{
		"none":                                   {asked, ready, runs("r5", 5), nil},
		"Ready, and a pod runs another revision": {asked, ready, runs("r4", 5), []string{"has revision r4 in its configuration dump, and the status has r5"}},
		"Ready, and a pod answers with an older one":    {asked, ready, runs("r5", 4), []string{"answers with configuration 4, and the spec has 5"}},
		"Ready, and a pod does not have it":             {asked, ready, []observed{{Pod: "app-0", Hello: []string{"staged-5"}}}, []string{"0 times"}},
		"Ready, and a pod has it twice":                 {asked, ready, dumps(plugin{"staged", "r4", "abc"}, plugin{"staged", "r5", "abc"}), []string{"2 times"}},
		"Ready, and a pod has a former module":          {asked, ready, dumps(plugin{"staged", "r5", "def"}), []string{"has the module def in its configuration dump, and the status has abc"}},
		"Ready, and a pod of a WasmPlugin has one":      {plugged, ready, dumps(plugin{"staged", "", "def"}), []string{"has the module def in its configuration dump, and the status has abc"}},
		"Ready, and a pod has a module of long ago":     {asked, ready, dumps(plugin{"staged", "r5", "old"}), []string{"has the module old in its configuration dump, which no image has had lately"}},
		"Ready, and a pod answers unfiltered":           {asked, ready, []observed{{Pod: "app-0", Dump: []plugin{{"staged", "r5", "abc"}}}}, []string{"answers without it"}},
		"not Ready, and all pods run it":                {asked, failed("Loading"), runs("r5", 5), []string{`Ready is "False" (Loading: ), and 1 of 1 pods run what the spec asks for`}},
		"no status of the newest spec":                  {asked, says(func(r *reported) { r.Ready = "" }), runs("r5", 5), []string{`Ready is ""`}},
		"a wrong count of pods":                         {asked, says(func(r *reported) { r.Pods = "2/2" }), runs("r5", 5), []string{"counts 2/2 pods"}},
		"a wrong count of workloads":                    {asked, says(func(r *reported) { r.Workloads = "1/2" }), runs("r5", 5), []string{"1/2 workloads"}},
		"another module than that of the image":         {asked, says(func(r *reported) { r.SHA256 = "def" }), dumps(plugin{"staged", "r5", "def"}), []string{"has the module def, and the image abc"}},
		"refused, and the last good one runs":           {with(refused), failed(wasmev1.ReasonMissingImport), runs("r5", 4), nil},
		"refused, and Ready":                            {with(refused), ready, runs("r5", 4), []string{"should be False (MissingImport)"}},
		"refused for another reason":                    {with(refused), failed(wasmev1.ReasonConfigurationRefused), runs("r5", 4), []string{"should be False (MissingImport)"}},
		"refused, and an older one than the proved one": {with(refused), failed(wasmev1.ReasonMissingImport), runs("r5", 2), []string{"configuration 2, which is not one of 3 to 5"}},
		"rolled back, and the last good one runs":       {with(rolledBack), back("r5", "r6", "r5", "r6"), runs("r5", 5), nil},
		"refused by pods, and not rolled back":          {with(rolledBack), failed("Loading"), runs("r5", 5), []string{"with a revision that pods refuse", `and "" as rejected`}},
		"rolled back, and another one is rejected":      {with(rolledBack), back("r5", "r4", "r5", "r6"), runs("r5", 5), []string{`"r4" as rejected`}},
		"rolled back, and the refused one is in force":  {with(rolledBack), back("r6", "r6", "r5", "r6"), runs("r6", 5), []string{`has revision "r6" after a rollout from "r5"`}},
		"rolled back, and a pod has the refused one":    {with(rolledBack), back("r5", "r6", "r5", "r6"), runs("r6", 5), []string{"has revision r6 in its configuration dump"}},
		"suspended": {with(suspended), says(func(r *reported) { r.Reason = "Suspended" }), runs("r4", 4), nil},
		"suspended, and the status does not say so": {with(suspended), ready, runs("r4", 4), []string{"Ready has the reason Ready while it is suspended"}},
		"suspended in the middle of a rollout": {
			with(suspended), says(func(r *reported) { r.Reason = "Suspended" }), dumps(plugin{"staged", "r4", "def"}, plugin{"staged", "r5", "abc"}), nil,
		},
		"suspended, with a module of long ago": {
			with(suspended), says(func(r *reported) { r.Reason = "Suspended" }), dumps(plugin{"staged", "r4", "old"}), []string{"no image has had lately"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := disagreements(test.want, test.says, test.pods)
			if len(got) != len(test.found) {
				t.Fatalf("%q", got)
			}
			for i, part := range test.found {
				if !strings.Contains(got[i], part) {
					t.Errorf("%q does not say %q", got[i], part)
				}
			}
		})
	}
}

const (
	oneModule     = "a6e01e05341b5eb81d802e09aa8efe12890b5e0513877c31183e2b91da786637"
	anotherModule = "5e9b1f1c6e3a3f0bb0d1c5ed7c5a7f8d0cb4c8f0f1d2b6a9e8d7c6b5a4938271"
)

// envoyDump is an excerpt of what Envoy 1.40 serves at /config_dump for a pod with the output of
// an EnvoyFilter, whose staging slot is idle, and of a WasmPlugin.
const envoyDump = `{"configs": [
 {"@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump", "bootstrap": {}},
 {"@type": "type.googleapis.com/envoy.admin.v3.EcdsConfigDump", "ecds_filters": [
  {"version_info": "1", "ecds_filter": {"@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig", "name": "soak/staged/deployment/staged-0/1",
   "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm", "config": {"name": "wasm_filter.soak/staged-0/staged@9f3c2a1b",
    "vm_config": {"runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": "/var/lib/istio/data/3c0f/` + oneModule + `.wasm"}}}}}}},
  {"version_info": "1", "ecds_filter": {"name": "soak/staged/deployment/staged-0/1/next",
   "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"}}},
  {"version_info": "1", "ecds_filter": {"name": "extenstions.istio.io/wasmplugin/soak.plugged-plugin.soak",
   "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm", "config": {"name": "soak.plugged-plugin.soak~istio-translated-wasmplugin",
    "vm_config": {"runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": "/var/lib/istio/data/77aa/` + anotherModule + `.wasm"}}}}}}}
 ]}]}`

func TestPlugins(t *testing.T) {
	got, err := plugins([]byte(envoyDump))
	if want := []plugin{{"staged", "9f3c2a1b", oneModule}, {"plugin", "", anotherModule}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, suffix := range []string{"/next", "/canary"} {
		if got, err := plugins([]byte(strings.ReplaceAll(envoyDump, "staged@", "staged"+suffix+"@"))); err != nil || got[0].Filter != "staged" {
			t.Errorf("%s: %v, %v", suffix, got, err)
		}
	}
	for name, dump := range map[string]string{
		"a filter with another name":             strings.ReplaceAll(envoyDump, "wasm_filter.soak", "another"),
		"a module that is not named for its sum": strings.ReplaceAll(envoyDump, oneModule, "module"),
		"a module that is still to be fetched":   strings.ReplaceAll(envoyDump, `"local"`, `"remote"`),
	} {
		if _, err := plugins([]byte(dump)); err == nil {
			t.Errorf("%s is overlooked", name)
		}
	}
	if _, err := plugins(nil); err == nil {
		t.Error("no answer is taken for a dump")
	}
}

func TestSameOutput(t *testing.T) {
	output := func(change func(labels, spec, vm map[string]any)) *unstructured.Unstructured {
		vm := map[string]any{"runtime": "v8"}
		labels, spec := map[string]any{"owner": "staged"}, map[string]any{"configPatches": []any{map[string]any{"vm_config": vm}, "second"}}
		change(labels, spec, vm)
		return &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"labels": labels, "resourceVersion": "1"}, "spec": spec}}
	}
	before := output(func(_, _, _ map[string]any) {})
	for name, test := range map[string]struct {
		change func(labels, spec, vm map[string]any)
		want   bool
	}{
		"nothing":         {func(_, _, _ map[string]any) {}, true},
		"a renewal":       {func(_, _, vm map[string]any) { vm["environment_variables"] = map[string]any{"key_values": "2"} }, true},
		"another module":  {func(_, _, vm map[string]any) { vm["code"] = "other" }, false},
		"a label less":    {func(labels, _, _ map[string]any) { delete(labels, "owner") }, false},
		"a patch less":    {func(_, spec, _ map[string]any) { spec["configPatches"] = spec["configPatches"].([]any)[:1] }, false},
		"no patch at all": {func(_, spec, _ map[string]any) { spec["configPatches"] = []any{} }, false},
	} {
		if got := sameOutput(before, output(test.change)); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestForeign(t *testing.T) {
	dump := []plugin{{"staged", "1", oneModule}, {"canary", "2", oneModule}}
	if got := foreign(dump, []string{"staged"}); !slices.Equal(got, []string{"canary@2"}) {
		t.Errorf("%v", got)
	}
	if got := foreign(dump[:1], []string{"staged"}); got != nil {
		t.Errorf("%v", got)
	}
}

func TestNumberOf(t *testing.T) {
	for _, test := range []struct {
		hello []string
		want  int
		found bool
	}{
		{[]string{"staged-12"}, 12, true},
		{[]string{`{"value":"staged-7"}`, "other-1"}, 7, true},
		{nil, 0, false},
		{[]string{"world"}, 0, false},
		{[]string{"staged-1", "staged-1"}, 0, false}, // it ran twice
	} {
		if got, found := numberOf("staged", test.hello); got != test.want || found != test.found {
			t.Errorf("%v: %d, %t", test.hello, got, found)
		}
	}
}

func TestJudge(t *testing.T) {
	staged := map[string]bounds{"staged": func() (int, int) { return 3, 5 }}
	for _, test := range []struct {
		status int
		hello  []string
		want   symptom
	}{
		{200, []string{"staged-3"}, ""},
		{200, []string{"staged-5"}, ""},
		{200, []string{"staged-2"}, outdated},
		{200, []string{"staged-6"}, outdated},
		{200, nil, unfiltered},
		{403, nil, denied},
		{500, nil, broken},
		{503, nil, broken},
		{0, nil, noAnswer},
		{200, []string{"staged-4", "canary-1"}, misplaced},
		{200, []string{"staged-4", "edited"}, misplaced},
	} {
		if got, _ := judge(test.status, test.hello, staged); got != test.want {
			t.Errorf("%d %v: %q, not %q", test.status, test.hello, got, test.want)
		}
	}
	for hello, want := range map[string]symptom{"": "", "staged-4": misplaced} {
		if got, _ := judge(200, strings.Fields(hello), nil); got != want {
			t.Errorf("%q: %q, not %q, where no filter is to be", hello, got, want)
		}
	}
}
