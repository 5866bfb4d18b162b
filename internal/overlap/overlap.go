// Package overlap finds the pods that outputs reach beside those of the
// workloads that they were made for.
//
// An EnvoyFilter names the workload whose proxies it is for. A WasmPlugin or a
// TrafficExtension can only select by pod labels: it reaches every pod that has
// all labels that the selector of its workload asks for, even another workload's. Find
// looks for these workloads, Verdict says so in the condition Overlapping.
package overlap

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// SelectsByLabels reports whether outputs of a kind reach pods by their labels only.
func SelectsByLabels(kind wasmev1.Output) bool {
	return kind == wasmev1.OutputWasmPlugin || kind == wasmev1.OutputTrafficExtension
}

// Made is an output and the workload that it was made for.
type Made struct {
	Output rollout.OutputKey
	For    workload.Target
}

// MadeBy returns the outputs of a plan that select pods by their labels. It
// leaves out targetRefs, and outputs that are not there.
func MadeBy(plan *rollout.Plan) []Made {
	var made []Made
	for i := range plan.Workloads {
		w := &plan.Workloads[i]
		if w.Phase == rollout.Failed || w.Waits() && w.Holds == nil || len(w.Selector) == 0 || !SelectsByLabels(w.Output.Kind) {
			continue
		}
		made = append(made, Made{Output: w.Output, For: w.Target})
	}
	return made
}

// Overlap is a workload whose pods are reached by outputs made for others.
type Overlap struct {
	workload workload.Target
	// by is the first of these outputs, outputs their number.
	by      rollout.OutputKey
	outputs int
	// selected says that the workload has an output of its own, too.
	selected bool
}

// runs returns how often the filter runs on each of the workload's pods.
func (o Overlap) runs() int {
	if o.selected {
		return o.outputs + 1
	}
	return o.outputs
}

// identity distinguishes workloads.
type identity struct{ kind, namespace, name string }

func identityOf(workload workload.Target) identity {
	return identity{workload.Kind, workload.Namespace, workload.Name}
}

// group holds the outputs that have the same selector, because their workloads
// select their pods by the same labels.
type group struct {
	labels map[string]string
	made   []Made
}

// label is a label with its value.
type label struct{ key, value string }

// Find returns the workloads that outputs reach beside their own, those first on
// which the filter runs most often. It looks workloads up by the rarest label of
// each selector, so the cost is that of going through all labels once, and
// through the workloads that have such a label.
func Find(made []Made, workloads []workload.Target) []Overlap {
	groups, groupOf := groupByLabels(made)
	having := indexLabels(groups, workloads)
	found := map[identity]Overlap{}
	for _, g := range groups {
		selector := labels.ValidatedSetSelector(g.labels)
		for _, workload := range rarest(having, g.labels) {
			if selector.Matches(labels.Set(workload.PodLabels)) {
				g.reach(workload, groupOf[identityOf(workload)], found)
			}
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b Overlap) int {
		return cmp.Or(
			cmp.Compare(b.runs(), a.runs()),
			strings.Compare(a.workload.Namespace, b.workload.Namespace),
			strings.Compare(a.workload.Name, b.workload.Name),
			strings.Compare(a.workload.Kind, b.workload.Kind),
		)
	})
}

func groupByLabels(made []Made) ([]*group, map[identity]*group) {
	var groups []*group
	known, groupOf := map[string]*group{}, map[identity]*group{}
	for _, m := range made {
		key := labels.Set(m.For.Selector).String()
		g := known[key]
		if g == nil {
			g = &group{labels: m.For.Selector}
			known[key] = g
			groups = append(groups, g)
		}
		g.made = append(g.made, m)
		groupOf[identityOf(m.For)] = g
	}
	return groups, groupOf
}

// indexLabels finds the workloads that have a label of a group.
func indexLabels(groups []*group, workloads []workload.Target) map[label][]workload.Target {
	having := map[label][]workload.Target{}
	for _, g := range groups {
		for key, value := range g.labels {
			having[label{key, value}] = nil
		}
	}
	for _, workload := range workloads {
		for key, value := range workload.PodLabels {
			if others, wanted := having[label{key, value}]; wanted {
				having[label{key, value}] = append(others, workload)
			}
		}
	}
	return having
}

// rarest returns the workloads that have the label which the fewest have.
func rarest(having map[label][]workload.Target, of map[string]string) []workload.Target {
	var fewest []workload.Target
	first := true
	for key, value := range of {
		if workloads := having[label{key, value}]; first || len(workloads) < len(fewest) {
			fewest, first = workloads, false
		}
	}
	return fewest
}

// reach counts the outputs of the group towards a workload that they select; own
// is the group that has the workload's own output, nil for none.
func (g *group) reach(workload workload.Target, own *group, found map[identity]Overlap) {
	others := g.made
	self := identityOf(workload)
	by := others[0]
	if own == g {
		if len(others) == 1 {
			return
		}
		if identityOf(by.For) == self {
			by = others[1]
		}
	}
	o, known := found[self]
	if !known {
		o = Overlap{workload: workload, by: by.Output, selected: own != nil}
	}
	o.outputs += len(others)
	if own == g {
		o.outputs--
	}
	found[self] = o
}

// Verdict returns the content of Overlapping, without a reason where there are
// no overlaps. home is the namespace of the FilterDeployment.
func Verdict(overlaps []Overlap, home string) condition.Verdict {
	if len(overlaps) == 0 {
		return condition.Verdict{}
	}
	once := slices.IndexFunc(overlaps, func(o Overlap) bool { return o.runs() == 1 })
	if once < 0 {
		once = len(overlaps)
	}
	reason, parts := wasmev1.ReasonOtherWorkloads, []string{}
	if once > 0 {
		reason = wasmev1.ReasonRunsRepeatedly
		parts = append(parts, fmt.Sprintf("the filter runs more than once on each request to %d workloads, whose pods other outputs of this FilterDeployment select too: %s", once, describe(overlaps[:once], home)))
	}
	if once < len(overlaps) {
		parts = append(parts, fmt.Sprintf("the filter runs on %d workloads that no output was made for: %s", len(overlaps)-once, describe(overlaps[once:], home)))
	}
	const fix = "a %s reaches all pods that have the matchLabels of its workload: give one of the workloads other matchLabels, or set spec.deployment.istio.output to EnvoyFilter"
	parts = append(parts, fmt.Sprintf(fix, overlaps[0].by.Kind))
	return condition.True(reason, "%s", strings.Join(parts, "; "))
}

func describe(overlaps []Overlap, home string) string {
	return condition.Enumerate(overlaps, ", ", func(o Overlap) string {
		name := o.workload.Kind + " " + o.workload.Name
		if o.workload.Namespace != home {
			name += " in namespace " + o.workload.Namespace
		}
		times := ""
		if o.runs() > 1 {
			times = fmt.Sprintf("%d times, ", o.runs())
		}
		return fmt.Sprintf("%s (%sby %s)", name, times, o.by)
	})
}
