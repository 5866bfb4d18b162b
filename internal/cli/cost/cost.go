// Package cost says what a change of a FilterDeployment does to its workloads: what each
// output is to hold instead, which pods fetch a module for that, how often their connections
// drain, and in which steps it happens. It is pure. The rules are those of docs/rollouts.md
// and docs/concepts.md#waves.
package cost

import (
	"cmp"
	"slices"
	"strings"

	"k8s.io/utils/ptr"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/emit"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// Kind is what happens to a workload.
type Kind string

// What happens to workloads.
const (
	// Added: the workload runs no revision of the filter yet.
	Added Kind = "filter is added"
	// Module: it gets another module.
	Module Kind = "module"
	// Place: it runs at another place in the proxy, or by another kind of object.
	Place Kind = "place in the proxy"
	// Settings: it is the same module with other settings.
	Settings Kind = "settings"
	// Configuration: only the configuration is another one.
	Configuration Kind = "configuration"
	// Unknown: it holds a revision that was not kept.
	Unknown Kind = "unknown revision"
	// Rendering: it is the same revision, which this version renders differently.
	Rendering Kind = "rendering"
	// Removed: the workload is not selected any more.
	Removed Kind = "filter is removed"
	// Refused: it cannot run the filter.
	Refused Kind = "not possible"
)

// Change is what happens to one workload.
type Change struct {
	// Workload is its key in the status, and Kind what happens.
	Workload string
	Kind     Kind
	// From and To are the revisions that its output holds, and is to hold; empty for none.
	From, To string
	// Pods are those that are Ready and have a sidecar.
	Pods int
	// Fetches says that its pods fetch the module, and Bytes how much that is in all; 0 where
	// the size of the module is not known. Drains is how often the connections of each drain.
	Fetches bool
	Bytes   int64
	Drains  int
	// Err says why the workload cannot run the filter.
	Err error
}

// Changes returns what happens to the workloads that change, in the order of the targets;
// those that lose the filter come last. The objects are what emit.Objects makes of the
// input, and the history is that of the FilterDeployment in the cluster.
func Changes(in emit.Input, objects []emit.Object, history []revision.Revision) []Change {
	var changes []Change
	wanted := map[string]bool{}
	staged := stages(in)
	for i, o := range objects {
		note := o.Kind + "/" + o.Name
		wanted[note] = true
		key, held, exists := heldBy(in.Outputs, note)
		c := Change{Workload: o.Workload.Key(), To: in.Asked.Hash, Pods: sidecars(in.Targets[i]), From: held.Revision, Err: o.Err}
		if c.Kind = kindOf(in, o, key, held, exists, history); c.Kind == "" {
			continue
		}
		c.estimate(in.Asked.Module, staged && o.Key.Kind == wasmev1.OutputEnvoyFilter)
		changes = append(changes, c)
	}
	return append(changes, removals(in.Outputs, wanted)...)
}

// stages reports whether rollouts are staged.
func stages(in emit.Input) bool {
	return rollout.StrategyOf(in.FilterDeployment).Staged && !in.Unverified
}

// heldBy returns the output of a workload (`<kind>/<name>`). Of two, it is the one that serves.
func heldBy(outputs rollout.Outputs, note string) (key rollout.OutputKey, held rollout.Output, exists bool) {
	for k, output := range outputs {
		if output.Workload == note && (!exists || held.Revision == "") {
			key, held, exists = k, output, true
		}
	}
	return key, held, exists
}

func kindOf(in emit.Input, o emit.Object, key rollout.OutputKey, held rollout.Output, exists bool, history []revision.Revision) Kind {
	switch {
	case o.Err != nil:
		return Refused
	case !exists || held.Revision == "":
		return Added
	case key != o.Key:
		return Place
	case held.Revision == in.Asked.Hash:
		if fingerprint, _, _ := strings.Cut(held.Rendering.Fingerprint, "+"); fingerprint != "" && fingerprint != in.Mesh.Fingerprint() {
			return Rendering
		}
		return ""
	}
	from := slices.IndexFunc(history, func(known revision.Revision) bool { return known.Hash == held.Revision })
	if from < 0 {
		return Unknown
	}
	return difference(history[from].Rendered, in.Asked.Rendered)
}

// difference returns what proxies see of a change from one filter to another.
func difference(from, to render.Filter) Kind {
	switch {
	case placeOf(from).Revision() != placeOf(to).Revision():
		return Place
	case from.ModuleSHA256 != to.ModuleSHA256 || from.Registry != to.Registry:
		return Module
	}
	from.Configuration, to.Configuration = nil, nil
	if from.Revision() != to.Revision() {
		return Settings
	}
	return Configuration
}

// placeOf returns what decides about a filter's place in a proxy, without all else.
func placeOf(f render.Filter) render.Filter {
	place := render.Filter{ID: f.ID, PatchContext: f.PatchContext, Place: f.Place}
	if f.FailStrategy == wasmev1.FailOpen { // it decides what runs there until the filter loads
		place.FailStrategy = f.FailStrategy
	}
	return place
}

// estimate says what a change costs.
func (c *Change) estimate(module wasmev1.ModuleStatus, staged bool) {
	if c.Pods == 0 {
		return
	}
	switch c.Kind {
	case Added:
		if c.Drains = 1; staged {
			c.Drains = 2 // when the pods try it, and when it goes live
		}
	case Place, Rendering:
		c.Drains = 1
	}
	if c.Kind == Added || c.Kind == Module || c.Kind == Unknown {
		c.Fetches, c.Bytes = true, int64(c.Pods)*ptr.Deref(module.SizeBytes, 0)
	}
}

func removals(outputs rollout.Outputs, wanted map[string]bool) []Change {
	var removed []Change
	for _, output := range outputs {
		if output.Workload == "" || wanted[output.Workload] {
			continue
		}
		_, name, _ := strings.Cut(output.Workload, "/")
		removed = append(removed, Change{Workload: name, Kind: Removed, From: output.Revision, Drains: 1})
	}
	slices.SortFunc(removed, func(a, b Change) int { return cmp.Compare(a.Workload, b.Workload) })
	return removed
}

func sidecars(target rollout.Target) int {
	found := 0
	for _, pod := range target.Pods {
		if pod.Sidecar {
			found++
		}
	}
	return found
}

// fetchingBytes is what the pods of a FilterDeployment may fetch at one time.
const fetchingBytes = 512 << 20

// Steps are how a change reaches its workloads.
type Steps struct {
	// Staged says that it reaches First before the others.
	Staged bool
	First  Change
	// Others is the number of the other workloads, and Waves in how many waves they follow.
	Others, Waves int
}

// StepsOf returns the steps of changes other than removals, which happen at once.
func StepsOf(in emit.Input, changes []Change) Steps {
	pending := slices.DeleteFunc(slices.Clone(changes), func(c Change) bool { return c.Kind == Removed || c.Kind == Refused })
	if len(pending) == 0 {
		return Steps{}
	}
	steps := Steps{Staged: stages(in)}
	if steps.Staged {
		slices.SortStableFunc(pending, func(a, b Change) int { return cmp.Compare(order(a), order(b)) })
		steps.First, pending = pending[0], pending[1:]
	}
	room := rollout.MaxLoadingPods
	if strategy := rollout.StrategyOf(in.FilterDeployment); steps.Staged {
		room = strategy.MaxPods
	}
	if size := ptr.Deref(in.Asked.Module.SizeBytes, 0); size > 0 {
		room = min(room, max(1, int(fetchingBytes/size)))
	}
	steps.Others, steps.Waves = len(pending), waves(pending, room, steps.Staged)
	return steps
}

// order has the workload with the fewest pods first, and those without any last.
func order(c Change) int {
	if c.Pods == 0 {
		return int(^uint(0) >> 1)
	}
	return c.Pods
}

// waves returns how often so many pods go at one time. A workload that is larger goes alone.
// A new configuration alone reaches all workloads at once, unless the rollout is staged.
func waves(changes []Change, room int, staged bool) int {
	count, taken := 0, 0
	for _, c := range changes {
		pods := c.Pods
		if c.Kind == Configuration && !staged {
			pods = 0
		}
		if count == 0 || taken > 0 && pods > 0 && taken+pods > room {
			count, taken = count+1, 0
		}
		taken += pods
	}
	return count
}
