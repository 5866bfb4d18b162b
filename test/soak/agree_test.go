package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestDisagreements(t *testing.T) {
	asked := expectation{Name: "staged", State: good, Newest: 5, Proved: 3, SHA256: "abc", Workloads: 1, Rows: true}
	ready := reported{Ready: "True", Reason: "Ready", Revision: "r5", SHA256: "abc", Workloads: "1/1", Pods: "1/1"}
	runs := func(revision string, number int) []observed {
		return []observed{{Pod: "app-0", Dump: []plugin{{"staged", revision}}, Hello: []string{fmt.Sprintf(`{"value":"staged-%d"}`, number)}}}
	}
	with := func(s state) expectation { e := asked; e.State = s; return e }
	says := func(change func(*reported)) reported { r := ready; change(&r); return r }
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
		"Ready, and a pod has it twice":                 {asked, ready, []observed{{Pod: "app-0", Dump: []plugin{{"staged", "r4"}, {"staged", "r5"}}}}, []string{"2 times"}},
		"Ready, and a pod answers unfiltered":           {asked, ready, []observed{{Pod: "app-0", Dump: []plugin{{"staged", "r5"}}}}, []string{"answers without it"}},
		"not Ready, and all pods run it":                {asked, says(func(r *reported) { r.Ready = "False"; r.Reason = "Loading" }), runs("r5", 5), []string{`Ready is "False" (Loading: ), and 1 of 1 pods run what the spec asks for`}},
		"no status of the newest spec":                  {asked, says(func(r *reported) { r.Ready = "" }), runs("r5", 5), []string{`Ready is ""`}},
		"a wrong count of pods":                         {asked, says(func(r *reported) { r.Pods = "2/2" }), runs("r5", 5), []string{"counts 2/2 pods"}},
		"a wrong count of workloads":                    {asked, says(func(r *reported) { r.Workloads = "1/2" }), runs("r5", 5), []string{"1/2 workloads"}},
		"another module than that of the image":         {asked, says(func(r *reported) { r.SHA256 = "older" }), runs("r5", 5), []string{"has the module older, and the image abc"}},
		"refused, and the last good one runs":           {with(refused), says(func(r *reported) { r.Ready = "False" }), runs("r5", 4), nil},
		"refused, and Ready":                            {with(refused), ready, runs("r5", 4), []string{"with a spec that cannot work"}},
		"refused, and an older one than the proved one": {with(refused), says(func(r *reported) { r.Ready = "False" }), runs("r5", 2), []string{"configuration 2, which is not one of 3 to 5"}},
		"suspended": {with(suspended), says(func(r *reported) { r.Reason = "Suspended" }), runs("r4", 4), nil},
		"suspended, and the status does not say so": {with(suspended), ready, runs("r4", 4), []string{"Ready has the reason Ready while it is suspended"}},
		"suspended in the middle of a rollout": {
			with(suspended), says(func(r *reported) { r.Reason = "Suspended" }),
			[]observed{{Pod: "app-0", Dump: []plugin{{"staged", "r4"}, {"staged", "r5"}}, Hello: []string{"staged-4"}}}, nil,
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

// envoyDump is an excerpt of what Envoy 1.40 serves at /config_dump for a pod with the output of
// an EnvoyFilter, whose staging slot is idle, and of a WasmPlugin.
const envoyDump = `{"configs": [
 {"@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump", "bootstrap": {}},
 {"@type": "type.googleapis.com/envoy.admin.v3.EcdsConfigDump", "ecds_filters": [
  {"version_info": "1", "ecds_filter": {"@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig", "name": "soak/staged/deployment/staged-0/1",
   "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm", "config": {"name": "wasm_filter.soak/staged-0/staged@9f3c2a1b"}}}},
  {"version_info": "1", "ecds_filter": {"name": "soak/staged/deployment/staged-0/1/next",
   "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"}}},
  {"version_info": "1", "ecds_filter": {"name": "extenstions.istio.io/wasmplugin/soak.plugged-plugin.soak",
   "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm", "config": {"name": "soak.plugged-plugin.soak~istio-translated-wasmplugin"}}}}
 ]}]}`

func TestPlugins(t *testing.T) {
	got, err := plugins([]byte(envoyDump))
	if want := []plugin{{"staged", "9f3c2a1b"}, {"plugin", ""}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := plugins([]byte(strings.ReplaceAll(envoyDump, "wasm_filter.soak", "another"))); err == nil {
		t.Error("a filter with another name is overlooked")
	}
	if _, err := plugins(nil); err == nil {
		t.Error("no answer is taken for a dump")
	}
}

func TestForeign(t *testing.T) {
	dump := []plugin{{"staged", "1"}, {"canary", "2"}}
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
	} {
		if got, _ := judge(test.status, test.hello, staged); got != test.want {
			t.Errorf("%d %v: %q, not %q", test.status, test.hello, got, test.want)
		}
	}
	if got, _ := judge(200, nil, nil); got != "" {
		t.Errorf("%q where no filter is to be", got)
	}
}
