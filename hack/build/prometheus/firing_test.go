package build

import (
	"math"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/template"
)

// firings are series in the notation of promtool, one value a minute, and the summaries
// of the alerts of that name that fire at the time.
var firings = []struct {
	alert, name, series string
	at                  time.Duration
	want                []string
}{
	{"WasmeFilterDeploymentNotReady", "after 15 minutes", `
		wasme_filterdeployment_ready{namespace="n", name="a", status="True", pod="x"} 0x20
		wasme_filterdeployment_ready{namespace="n", name="b", status="True", pod="x"} 1x20`,
		16 * time.Minute, []string{"FilterDeployment n/a is not Ready"}},
	{"WasmeFilterDeploymentNotReady", "although the leader changed", `
		wasme_filterdeployment_ready{namespace="n", name="a", status="True", pod="x"} 0x8 stale
		wasme_filterdeployment_ready{namespace="n", name="a", status="True", pod="y"} _x8 0x12`,
		16 * time.Minute, []string{"FilterDeployment n/a is not Ready"}},
	{"WasmeFilterDeploymentNotReady", "not after a while", `
		wasme_filterdeployment_ready{namespace="n", name="a", status="True"} 0x10 1 0x10`, 16 * time.Minute, nil},
	{"WasmeFilterDeploymentNotReady", "not while suspended or stalled", `
		wasme_filterdeployment_ready{namespace="n", name="a", status="True"} 0x20
		wasme_filterdeployment_suspended{namespace="n", name="a"} 1x20
		wasme_filterdeployment_ready{namespace="n", name="b", status="True"} 0x20
		wasme_filterdeployment_stalled{namespace="n", name="b"} 1x20`, 16 * time.Minute, nil},

	{"WasmeFilterDeploymentNotReady", "although pods keep starting", `
		wasme_filterdeployment_ready{namespace="n", name="a", status="True"} 0x20
		wasme_filterdeployment_pods{namespace="n", name="a"} 6x5 7x5 8x10
		wasme_filterdeployment_pods_loaded{namespace="n", name="a"} 6x6 7x5 8x9`,
		16 * time.Minute, []string{"FilterDeployment n/a is not Ready"}},

	{"WasmeFilterDeploymentStalled", "after 5 minutes", `
		wasme_filterdeployment_stalled{namespace="n", name="a"} 1x10
		wasme_filterdeployment_rollout_phase{namespace="n", name="a", phase="Complete"} 1x10`,
		6 * time.Minute, []string{"FilterDeployment n/a needs a change"}},
	{"WasmeFilterDeploymentStalled", "not when it was rolled back, or is suspended", `
		wasme_filterdeployment_stalled{namespace="n", name="a"} 1x10
		wasme_filterdeployment_rollout_phase{namespace="n", name="a", phase="RolledBack"} 1x10
		wasme_filterdeployment_stalled{namespace="n", name="b"} 1x10
		wasme_filterdeployment_suspended{namespace="n", name="b"} 1x10
		wasme_filterdeployment_stalled{namespace="n", name="c"} 0x10`, 6 * time.Minute, nil},

	{"WasmeFilterDeploymentRolledBack", "while the phase says so", `
		wasme_filterdeployment_rollout_phase{namespace="n", name="a", phase="RolledBack"} 1x10
		wasme_filterdeployment_rollout_phase{namespace="n", name="b", phase="Held"} 1x10`,
		2 * time.Minute, []string{"The rollout of FilterDeployment n/a failed (rolled back)", "The rollout of FilterDeployment n/b failed (held)"}},
	{"WasmeFilterDeploymentRolledBack", "not in other phases, or while suspended", `
		wasme_filterdeployment_rollout_phase{namespace="n", name="a", phase="RolledBack"} 1 stale
		wasme_filterdeployment_rollout_phase{namespace="n", name="a", phase="Progressing"} _ 1x10
		wasme_filterdeployment_rollout_phase{namespace="n", name="b", phase="RolledBack"} 1x10
		wasme_filterdeployment_suspended{namespace="n", name="b"} 1x10`, 2 * time.Minute, nil},

	{"WasmeFilterDeploymentContested", "after 10 minutes", `
		wasme_filterdeployment_contested{namespace="n", name="a"} 1x15`,
		11 * time.Minute, []string{"Something else changes FilterDeployment n/a or its outputs"}},
	{"WasmeFilterDeploymentContested", "not after one overwriting, or while suspended", `
		wasme_filterdeployment_contested{namespace="n", name="a"} 1x5 0x10
		wasme_filterdeployment_contested{namespace="n", name="b"} 1x15
		wasme_filterdeployment_suspended{namespace="n", name="b"} 1x15`, 11 * time.Minute, nil},

	{"WasmeFilterDeploymentPodsNotLoaded", "after 15 minutes", `
		wasme_filterdeployment_pods{namespace="n", name="a"} 6x20
		wasme_filterdeployment_pods_loaded{namespace="n", name="a"} 4x20
		wasme_filterdeployment_ready{namespace="n", name="a", status="True"} 0x20`,
		16 * time.Minute, []string{"2 pods of n/a do not run its filter"}},
	{"WasmeFilterDeploymentPodsNotLoaded", "not when it is Ready, or all run it", `
		wasme_filterdeployment_pods{namespace="n", name="a"} 6x20
		wasme_filterdeployment_pods_loaded{namespace="n", name="a"} 5x20
		wasme_filterdeployment_ready{namespace="n", name="a", status="True"} 1x20
		wasme_filterdeployment_pods{namespace="n", name="b"} 6x20
		wasme_filterdeployment_pods_loaded{namespace="n", name="b"} 6x20`, 16 * time.Minute, nil},

	{"WasmeOutputsRefused", "also between attempts that are 10 minutes apart", `
		wasme_output_writes_total{kind="EnvoyFilter", operation="create", result="OutputRefused"} 0x9 1x9 2x9 3x9`,
		29 * time.Minute, []string{"The API server refuses objects of kind EnvoyFilter"}},
	{"WasmeOutputsRefused", "not when it accepts the next attempt", `
		wasme_output_writes_total{kind="EnvoyFilter", operation="create", result="OutputRefused"} 0 1x40`, 16 * time.Minute, nil},
	{"WasmeOutputsRefused", "not for other failures, or long ago", `
		wasme_output_writes_total{kind="EnvoyFilter", operation="create", result="WriteFailed"} 0+1x40
		wasme_output_writes_total{kind="WasmPlugin", operation="create", result="OutputRefused"} 0x5 9x40`, 29 * time.Minute, nil},

	{"WasmeModuleServerErrors", "after 15 minutes", `
		wasme_module_server_requests_total{client="proxy", code="503"} 0+1x20`,
		16 * time.Minute, []string{"Proxies get 503 from the operator's module server"}},
	{"WasmeModuleServerErrors", "also between attempts that are 10 minutes apart", `
		wasme_module_server_requests_total{client="proxy", code="503"} 0x9 5x9 10x9 15x9`,
		39 * time.Minute, []string{"Proxies get 503 from the operator's module server"}},
	{"WasmeModuleServerErrors", "not when the next attempt gets the module", `
		wasme_module_server_requests_total{client="proxy", code="503"} 0 5x40`, 16 * time.Minute, nil},
	{"WasmeModuleServerErrors", "not for replicas, or other codes", `
		wasme_module_server_requests_total{client="replica", code="503"} 0+1x20
		wasme_module_server_requests_total{client="proxy", code="200"} 0+1x20
		wasme_module_server_requests_total{client="proxy", code="503"} 7x20`, 16 * time.Minute, nil},

	{"WasmeModuleServerSaturated", "when requests are refused", `
		wasme_module_server_refused_requests_total{pod="x"} 0x9 5x9 10x9 15x9
		wasme_module_server_refused_requests_total{pod="y"} 2x40`,
		39 * time.Minute, []string{"The module server of x is at its limit"}},
	{"WasmeModuleServerSaturated", "when connections are refused", `
		wasme_module_server_refused_connections_total{pod="x"} 0+3x20`,
		16 * time.Minute, []string{"The module server of x is at its limit"}},
	{"WasmeModuleServerSaturated", "not for a peak", `
		wasme_module_server_refused_requests_total{pod="x"} 0x5 200x40
		wasme_module_server_refused_connections_total{pod="x"} 5x40`, 21 * time.Minute, nil},

	{"WasmeModuleStoreFilling", "after half an hour", `
		wasme_module_store_needed_bytes{pod="x"} 90x40
		wasme_module_store_max_bytes{pod="x"} 100x40`,
		31 * time.Minute, []string{"90% of the module store of x is in use"}},
	{"WasmeModuleStoreFilling", "not for what can be evicted", `
		wasme_module_store_bytes{pod="x"} 100x40
		wasme_module_store_needed_bytes{pod="x"} 70x40
		wasme_module_store_max_bytes{pod="x"} 100x40`, 31 * time.Minute, nil},

	{"WasmeModuleStoreFull", "after 15 minutes", `
		wasme_module_store_refusals_total{pod="x"} 0 1x5 2x5 3x10`,
		17 * time.Minute, []string{"The module store of x has no room for a module"}},
	{"WasmeModuleStoreFull", "not for one refusal, or evictions", `
		wasme_module_store_evictions_total{pod="x"} 0+1x20
		wasme_module_store_refusals_total{pod="x"} 0 1x20`, 16 * time.Minute, nil},

	{"WasmeSidecarProbesFailing", "when more than half fail", `
		wasme_sidecar_probes_total{endpoint="envoy", result="success"} 0+4x30
		wasme_sidecar_probes_total{endpoint="envoy", result="timeout"} 0+6x30`,
		26 * time.Minute, []string{"The operator cannot read from sidecars what they run"}},
	{"WasmeSidecarProbesFailing", "not when fewer do, or agents", `
		wasme_sidecar_probes_total{endpoint="envoy", result="success"} 0+6x30
		wasme_sidecar_probes_total{endpoint="envoy", result="timeout"} 0+4x30
		wasme_sidecar_probes_total{endpoint="agent", result="timeout"} 0+9x30`, 26 * time.Minute, nil},

	{"WasmeTrustedRootStale", "after two days, although another replica has none", `
		wasme_trusted_root_fetched_timestamp_seconds{pod="x"} 60x2900
		wasme_trusted_root_fetched_timestamp_seconds{pod="y"} 0x2900`,
		48*time.Hour + 17*time.Minute, []string{"The operator cannot renew the trusted root of Sigstore"}},
	{"WasmeTrustedRootStale", "not when it is renewed, or none is needed", `
		wasme_trusted_root_fetched_timestamp_seconds{pod="x"} 60x1440 86400x1500
		wasme_trusted_root_fetched_timestamp_seconds{pod="y"} 0x2900`, 48*time.Hour + 17*time.Minute, nil},
	{"WasmeTrustedRootStale", "not before the first fetch", `
		wasme_trusted_root_fetched_timestamp_seconds{pod="x"} 0x2900`, 48*time.Hour + 17*time.Minute, nil},

	{"WasmeOperatorWithoutLeader", "when none leads", `
		leader_election_master_status{name="wasme-operator", pod="x"} 0x15
		leader_election_master_status{name="wasme-operator", pod="y"} 0x15`,
		11 * time.Minute, []string{"No replica of the operator leads"}},
	{"WasmeOperatorWithoutLeader", "when there is none", `
		leader_election_master_status{name="another"} 1x15`,
		11 * time.Minute, []string{"No replica of the operator leads"}},
	{"WasmeOperatorWithoutLeader", "not during a hand-over", `
		leader_election_master_status{name="wasme-operator", pod="x"} 1x5 stale
		leader_election_master_status{name="wasme-operator", pod="y"} 0x8 1x9`, 11 * time.Minute, nil},
}

// TestTheFirstOfSeveralAlertsFires has series of one FilterDeployment, and all alerts that fire after an hour.
func TestTheFirstOfSeveralAlertsFires(t *testing.T) {
	const (
		notReady = `
			wasme_filterdeployment_ready{namespace="n", name="a", status="True"} 0x60
			wasme_filterdeployment_suspended{namespace="n", name="a"} 0x60
			leader_election_master_status{name="wasme-operator"} 1x60`
		notLoaded = notReady + `
			wasme_filterdeployment_pods{namespace="n", name="a"} 6x60
			wasme_filterdeployment_pods_loaded{namespace="n", name="a"} 4x60`
		stalled = notLoaded + `
			wasme_filterdeployment_stalled{namespace="n", name="a"} 1x60`
		rolledBack = stalled + `
			wasme_filterdeployment_rollout_phase{namespace="n", name="a", phase="RolledBack"} 1x60`
	)
	for want, series := range map[string]string{
		"WasmeFilterDeploymentNotReady": notReady, "WasmeFilterDeploymentPodsNotLoaded": notLoaded,
		"WasmeFilterDeploymentStalled": stalled, "WasmeFilterDeploymentRolledBack": rolledBack,
	} {
		var fired []string
		for _, a := range readAlerts(t) {
			if len(a.firing(t, load(t, series), time.Hour)) > 0 {
				fired = append(fired, a.Alert)
			}
		}
		if !slices.Equal(fired, []string{want}) {
			t.Errorf("%v fire, not %s alone", fired, want)
		}
	}
}

func TestAlertsFire(t *testing.T) {
	fires, silent := map[string]bool{}, map[string]bool{}
	alerts := readAlerts(t)
	for _, row := range firings {
		t.Run(row.alert+" "+row.name, func(t *testing.T) {
			place := slices.IndexFunc(alerts, func(a alert) bool { return a.Alert == row.alert })
			if place < 0 {
				t.Fatal("there is no such alert")
			}
			if got := alerts[place].firing(t, load(t, row.series), row.at); !slices.Equal(got, row.want) {
				t.Errorf("%q, not %q", got, row.want)
			}
		})
		fires[row.alert] = fires[row.alert] || len(row.want) > 0
		silent[row.alert] = silent[row.alert] || len(row.want) == 0
	}
	for _, a := range alerts {
		if !fires[a.Alert] || !silent[a.Alert] {
			t.Errorf("%s has no row in which it fires, or none in which it does not", a.Alert)
		}
	}
}

// TestTheWindowHasAnAttempt compares the window of the alerts about refusals with the longest times between
// attempts, and has one attempt not be enough.
func TestTheWindowHasAnAttempt(t *testing.T) {
	window := regexp.MustCompile(`increase\([^\[]*\[(\w+)\]`)
	count := 0
	for _, a := range readAlerts(t) {
		for _, found := range window.FindAllStringSubmatch(a.Expr, -1) {
			count++
			back, wait := duration(t, found[1]), duration(t, a.For)
			if back < longestBackoff(t)+interval || wait <= back {
				t.Errorf("%s looks back for %s and waits for %s", a.Alert, back, wait)
			}
		}
	}
	if count == 0 {
		t.Error("no alert looks back")
	}
}

// longestBackoff is that of the operator, as its source has it.
func longestBackoff(t *testing.T) time.Duration {
	t.Helper()
	var longest time.Duration
	for file, pattern := range map[string]string{
		"internal/rollout/fetch.go":                `maxRenewal += (\d+) \* time\.Minute`,
		"controllers/filterdeployment/holdback.go": `refusalWaits += doubling\(time\.Second, (\d+)\*time\.Minute\)`,
	} {
		source, err := os.ReadFile("../../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(pattern).FindSubmatch(source)
		if found == nil {
			t.Fatalf("%s has no %s", file, pattern)
		}
		longest = max(longest, duration(t, string(found[1])+"m"))
	}
	return longest
}

func duration(t *testing.T, text string) time.Duration {
	t.Helper()
	parsed, err := model.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(parsed)
}

// firing returns the summaries of the alert's instances that fire, sorted. One fires when
// its expression has had it at each look for so long.
func (a alert) firing(t *testing.T, series storage.Queryable, at time.Duration) []string {
	t.Helper()
	begin, end := time.Unix(0, 0).Add(at-duration(t, a.For)), time.Unix(0, 0).Add(at)
	looks := int(end.Sub(begin)/interval) + 1
	var summaries []string
	for _, found := range evaluate(t, series, a.Expr, begin, end) {
		if len(found.Floats) == looks {
			summaries = append(summaries, a.summary(t, found.Metric, found.Floats[looks-1].F))
		}
	}
	slices.Sort(summaries)
	return summaries
}

// summary returns the summary as an alert has it, and expands the description, too.
func (a alert) summary(t *testing.T, of labels.Labels, value float64) string {
	t.Helper()
	expand := func(text string) string {
		data := template.AlertTemplateData(of.Map(), nil, "", promql.Sample{F: value})
		text = "{{ $labels := .Labels }}{{ $value := .Value }}" + text
		expanded, err := template.NewTemplateExpander(t.Context(), text, a.Alert, data, 0, nil, &url.URL{}, nil).Expand()
		if err != nil {
			t.Fatal(err)
		}
		return expanded
	}
	if description := expand(a.Annotations["description"]); strings.Contains(description, "{{") || strings.Contains(description, "no value") {
		t.Errorf("the description is %q", description)
	}
	return expand(a.Annotations["summary"])
}

// evaluate runs an expression at each interval from begin to end.
func evaluate(t *testing.T, series storage.Queryable, expr string, begin, end time.Time) promql.Matrix {
	t.Helper()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: math.MaxInt32, Timeout: time.Minute, LookbackDelta: 5 * time.Minute})
	defer engine.Close()
	query, err := engine.NewRangeQuery(t.Context(), series, nil, expr, begin, end, interval)
	if err != nil {
		t.Fatal(err)
	}
	defer query.Close()
	result := query.Exec(t.Context())
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	matrix, err := result.Matrix()
	if err != nil {
		t.Fatal(err)
	}
	return matrix
}
