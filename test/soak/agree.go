package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// state is what a user has asked of a FilterDeployment.
type state string

// The states.
const (
	good      state = "good"
	refused   state = "refused"   // by the preflight, or as no module at all
	suspended state = "suspended" // with a newer configuration that waits
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
}

// expectation is what it should say, and what pods should run then.
type expectation struct {
	Name  string
	State state
	// Newest is the number of the newest good configuration, and Proved that of the last
	// one that a quiet point has found everywhere.
	Newest, Proved int
	// SHA256 is that of the module that the image has.
	SHA256    string
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

// plugin is a Wasm filter of one FilterDeployment. The revision is empty where the name
// has none.
type plugin struct{ Filter, Revision string }

// disagreements says in what the status, the expectation and the pods disagree.
func disagreements(want expectation, says reported, pods []observed) []string {
	var found []string
	complain := func(format string, args ...any) {
		found = append(found, want.Name+": "+fmt.Sprintf(format, args...))
	}
	running := 0
	for _, pod := range pods {
		if problem := podDisagrees(want, says, pod); problem != "" {
			complain("%s", problem)
			continue
		}
		running++
	}
	switch want.State {
	case good:
		all := fmt.Sprintf("%d/%d", len(pods), len(pods))
		workloads := fmt.Sprintf("%d/%d", want.Workloads, want.Workloads)
		if says.Ready != "True" {
			complain("Ready is %q (%s: %s), and %d of %d pods run what the spec asks for", says.Ready, says.Reason, says.Message, running, len(pods))
		}
		if says.Pods != all || says.Workloads != workloads {
			complain("the status counts %s pods and %s workloads of %s and %s", says.Pods, says.Workloads, all, workloads)
		}
		if says.SHA256 != want.SHA256 {
			complain("the status has the module %.12s, and the image %.12s", says.SHA256, want.SHA256)
		}
	case refused:
		if says.Ready != "False" {
			complain("Ready is %q (%s: %s) with a spec that cannot work", says.Ready, says.Reason, says.Message)
		}
	case suspended:
		if says.Reason != "Suspended" {
			complain("Ready has the reason %s while it is suspended", says.Reason)
		}
	}
	return found
}

// podDisagrees says in what a pod does not run the revision of the status; empty for
// nothing. What is suspended in the middle of a rollout stays there, so its pods may
// run either revision.
func podDisagrees(want expectation, says reported, pod observed) string {
	var revisions []string
	for _, p := range pod.Dump {
		if p.Filter == want.Name {
			revisions = append(revisions, p.Revision)
		}
	}
	if len(revisions) != 1 && want.State != suspended {
		return fmt.Sprintf("%s has it %d times in its configuration dump: %v", pod.Pod, len(revisions), revisions)
	}
	if want.Rows && want.State != suspended && revisions[0] != says.Revision {
		return fmt.Sprintf("%s has revision %s in its configuration dump, and the status has %s", pod.Pod, revisions[0], says.Revision)
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

// foreign are the filters in a dump that are not among those that the pod is to have.
func foreign(dump []plugin, has []string) []string {
	var found []string
	for _, p := range dump {
		if !slices.Contains(has, p.Filter) {
			found = append(found, p.Filter+"@"+p.Revision)
		}
	}
	return found
}

// configured is a configuration with a number; numberOf finds it.
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
					} `json:"config"`
				} `json:"typed_config"`
			} `json:"ecds_filter"`
		} `json:"ecds_filters"`
	} `json:"configs"`
}

const wasmType = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"

// An EnvoyFilter's plugin has a name of the operator's own, a WasmPlugin's one of istiod's.
var (
	ownName    = regexp.MustCompile(`^wasm_filter\.[^/]+/[^/]+/([^/@]+)@([0-9a-f]+)$`)
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
			found = append(found, p)
		}
	}
	return found, nil
}

func pluginOf(name string) (plugin, error) {
	if match := ownName.FindStringSubmatch(name); match != nil {
		return plugin{match[1], match[2]}, nil
	}
	if match := pluginName.FindStringSubmatch(name); match != nil {
		return plugin{match[1], ""}, nil
	}
	return plugin{}, fmt.Errorf("a Wasm filter has a name of nobody: %s", name)
}
