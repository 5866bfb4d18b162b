package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// state is what a user has asked of a FilterDeployment.
type state string

// The states.
const (
	good       state = "good"
	refused    state = "refused"     // by the preflight: no pod has it
	rolledBack state = "rolled back" // after pods have refused it
	suspended  state = "suspended"   // with a newer configuration that waits
)

// reported is what the status of a FilterDeployment says, of the newest spec.
type reported struct {
	Ready     string // True, False or Unknown; empty: not of the newest spec
	Reason    string
	Message   string
	Revision  string
	SHA256    string
	Workloads string // programmed/selected
	Pods      string // loaded/counted
	// Phase, From and To are those of the rollout; empty: there is none.
	Phase    wasmev1.RolloutPhase
	From, To string
	// Rejected is the revision that was rolled back, and RejectedAt when; empty: none was.
	Rejected   string
	RejectedAt time.Time
}

func (r reported) rejection() rejection { return rejection{r.Rejected, r.RejectedAt} }

// expectation is what it should say, and what pods should run then.
type expectation struct {
	Name  string
	State state
	// Refusal is the reason of Ready while a spec is refused.
	Refusal string
	// Newest is the number of the newest good configuration, and Proved that of the last
	// one that a quiet point has found everywhere.
	Newest, Proved int
	// SHA256 is that of the module that the image has, and Modules are those of all images since
	// the last quiet point.
	SHA256    string
	Modules   []string
	Workloads int
	// Rows is whether pods show the revision: those of a WasmPlugin do not.
	Rows bool
}

// observed is what one pod of the workloads runs.
type observed struct {
	Pod string
	// Dump are the plugins in its Envoy's own dump of its configuration.
	Dump []plugin
	// Hello are the values of the header hello in an answer.
	Hello []string
}

// plugin is a Wasm filter of one FilterDeployment, and the SHA-256 of the module that runs it.
// The revision is empty where the name has none.
type plugin struct{ Filter, Revision, SHA256 string }

// disagreements says in what the status, the expectation and the pods disagree.
func disagreements(want expectation, says reported, pods []observed) []string {
	var found []string
	running := 0
	for _, pod := range pods {
		if problem := podDisagrees(want, says, pod); problem != "" {
			found = append(found, problem)
			continue
		}
		running++
	}
	switch want.State {
	case good:
		found = append(found, goodDisagrees(want, says, running, len(pods))...)
	case refused:
		if says.Ready != "False" || says.Reason != want.Refusal {
			found = append(found, fmt.Sprintf("Ready is %q (%s: %s) and should be False (%s)", says.Ready, says.Reason, says.Message, want.Refusal))
		}
	case rolledBack:
		found = append(found, rolledBackDisagrees(says)...)
	case suspended:
		if says.Reason != wasmev1.ReasonSuspended {
			found = append(found, fmt.Sprintf("Ready has the reason %s while it is suspended", says.Reason))
		}
	}
	for i := range found {
		found[i] = want.Name + ": " + found[i]
	}
	return found
}

// goodDisagrees says in what the status disagrees with a spec that works, which so many of the
// pods run.
func goodDisagrees(want expectation, says reported, running, pods int) (found []string) {
	if says.Ready != "True" {
		found = append(found, fmt.Sprintf("Ready is %q (%s: %s), and %d of %d pods run what the spec asks for", says.Ready, says.Reason, says.Message, running, pods))
	}
	all, workloads := fmt.Sprintf("%d/%d", pods, pods), fmt.Sprintf("%d/%d", want.Workloads, want.Workloads)
	if says.Pods != all || says.Workloads != workloads {
		found = append(found, fmt.Sprintf("the status counts %s pods and %s workloads of %s and %s", says.Pods, says.Workloads, all, workloads))
	}
	if says.SHA256 != want.SHA256 {
		found = append(found, fmt.Sprintf("the status has the module %.12s, and the image %.12s", says.SHA256, want.SHA256))
	}
	return found
}

// rolledBackDisagrees says in what the status disagrees with a spec that pods refuse: its
// revision is rejected, and the last good one is in force.
func rolledBackDisagrees(says reported) (found []string) {
	if says.Ready != "False" || says.Reason != wasmev1.ReasonRolledBack {
		found = append(found, fmt.Sprintf("Ready is %q (%s: %s) with a revision that pods refuse", says.Ready, says.Reason, says.Message))
	}
	if says.Rejected == "" || says.Rejected != says.To || says.Revision != says.From || says.From == says.To {
		found = append(found, fmt.Sprintf("the status has revision %q after a rollout from %q to %q, and %q as rejected", says.Revision, says.From, says.To, says.Rejected))
	}
	return found
}

// podDisagrees says in what a pod does not run the revision of the status; empty for
// nothing. What is suspended in the middle of a rollout stays there, so its pods may
// run either revision.
func podDisagrees(want expectation, says reported, pod observed) string {
	var runs []plugin
	for _, p := range pod.Dump {
		if p.Filter == want.Name {
			runs = append(runs, p)
		}
	}
	if len(runs) != 1 && want.State != suspended {
		return fmt.Sprintf("%s has it %d times in its configuration dump: %v", pod.Pod, len(runs), runs)
	}
	for _, p := range runs {
		switch {
		case !slices.Contains(want.Modules, p.SHA256):
			return fmt.Sprintf("%s has the module %.12s in its configuration dump, which no image has had lately", pod.Pod, p.SHA256)
		case want.State == suspended:
		case want.Rows && p.Revision != says.Revision:
			return fmt.Sprintf("%s has revision %s in its configuration dump, and the status has %s", pod.Pod, p.Revision, says.Revision)
		case p.SHA256 != says.SHA256:
			return fmt.Sprintf("%s has the module %.12s in its configuration dump, and the status has %.12s", pod.Pod, p.SHA256, says.SHA256)
		}
	}
	number, found := numberOf(want.Name, pod.Hello)
	switch {
	case !found:
		return fmt.Sprintf("%s answers without it: %v", pod.Pod, pod.Hello)
	case want.State == good && number != want.Newest:
		return fmt.Sprintf("%s answers with configuration %d, and the spec has %d", pod.Pod, number, want.Newest)
	case number < want.Proved || number > want.Newest:
		return fmt.Sprintf("%s answers with configuration %d, which is not one of %d to %d", pod.Pod, number, want.Proved, want.Newest)
	}
	return ""
}

// foreign returns the filters in a dump that are not among those that the pod is to have.
func foreign(dump []plugin, has []string) []string {
	var found []string
	for _, p := range dump {
		if !slices.Contains(has, p.Filter) {
			found = append(found, p.Filter+"@"+p.Revision)
		}
	}
	return found
}

// sameOutput reports whether two states of an output have the same spec and labels, but for
// renewals of the fetch.
func sameOutput(a, b *unstructured.Unstructured) bool {
	return maps.Equal(a.GetLabels(), b.GetLabels()) &&
		equality.Semantic.DeepEqual(withoutRenewals(a.Object["spec"]), withoutRenewals(b.Object["spec"]))
}

// withoutRenewals leaves the variables of VMs out, of which the filters here have no others.
func withoutRenewals(value any) any {
	switch value := value.(type) {
	case map[string]any:
		kept := map[string]any{}
		for key, item := range value {
			if key != "environment_variables" {
				kept[key] = withoutRenewals(item)
			}
		}
		return kept
	case []any:
		kept := make([]any, 0, len(value))
		for _, item := range value {
			kept = append(kept, withoutRenewals(item))
		}
		return kept
	default:
		return value
	}
}

// configured returns a configuration with a number; numberOf finds it.
func configured(filter string, number int) string { return fmt.Sprintf("%s-%d", filter, number) }

// numberOf returns the number of a filter's configuration in values of the header hello. A
// filter that runs twice has none.
func numberOf(filter string, hello []string) (int, bool) {
	all := regexp.MustCompile(regexp.QuoteMeta(filter)+`-(\d+)`).FindAllStringSubmatch(strings.Join(hello, " "), -1)
	if len(all) != 1 {
		return 0, false
	}
	number, err := strconv.Atoi(all[0][1])
	return number, err == nil
}

// dump is what is read of Envoy's /config_dump: the filters that it has got by ECDS.
type dump struct {
	Configs []struct {
		Filters []struct {
			Filter struct {
				Config struct {
					Type  string `json:"@type"`
					Value struct {
						Name string `json:"name"`
						VM   struct {
							Code code `json:"code"`
						} `json:"vm_config"`
					} `json:"config"`
				} `json:"typed_config"`
			} `json:"ecds_filter"`
		} `json:"ecds_filters"`
	} `json:"configs"`
}

// code is where Envoy has a module from: a file that pilot-agent has fetched and named for the
// module's SHA-256.
type code struct {
	Local struct {
		Filename string `json:"filename"`
	} `json:"local"`
}

var moduleFile = regexp.MustCompile(`/([0-9a-f]{64})\.wasm$`)

const wasmType = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"

// An EnvoyFilter's plugin has a name of the operator's own, which says if it is in the staging slot
// or in canaries only; a WasmPlugin's has one of istiod's.
var (
	ownName    = regexp.MustCompile(`^wasm_filter\.[^/]+/[^/]+/([^/@]+)(?:/next|/canary)?@([0-9a-f]+)$`)
	pluginName = regexp.MustCompile(`^[^.]+\..*?-([a-z]+)\.[^.]+~istio-translated-wasmplugin$`)
)

// plugins reads the Wasm filters of the operator in Envoy's dump. A staging slot that is
// idle has no Wasm filter.
func plugins(content []byte) ([]plugin, error) {
	var d dump
	if err := json.Unmarshal(content, &d); err != nil {
		return nil, fmt.Errorf("reading Envoy's configuration dump: %w", err)
	}
	var found []plugin
	for _, config := range d.Configs {
		for _, filter := range config.Filters {
			c := filter.Filter.Config
			if c.Type != wasmType {
				continue
			}
			p, err := pluginOf(c.Value.Name)
			if err != nil {
				return nil, err
			}
			file := moduleFile.FindStringSubmatch(c.Value.VM.Code.Local.Filename)
			if file == nil {
				return nil, fmt.Errorf("the Wasm filter %s has its module from a file that is not named for it: %q", c.Value.Name, c.Value.VM.Code.Local.Filename)
			}
			p.SHA256 = file[1]
			found = append(found, p)
		}
	}
	return found, nil
}

func pluginOf(name string) (plugin, error) {
	if match := ownName.FindStringSubmatch(name); match != nil {
		return plugin{Filter: match[1], Revision: match[2]}, nil
	}
	if match := pluginName.FindStringSubmatch(name); match != nil {
		return plugin{Filter: match[1]}, nil
	}
	return plugin{}, fmt.Errorf("a Wasm filter is not one of the operator's: %s", name)
}
