package rollout

import (
	"maps"
	"slices"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/revision"
)

// takeBack removes what is left of a rollout that has nothing to go back to. A revision that pods
// still run from another incomplete rollout stays, and its staging slot is emptied.
func (p *Plan) takeBack(s *State) {
	left := s.Outputs.have(p.Rollout.To)
	places := map[string]int{}
	for i := range p.Workloads {
		places[workloadNote(p.Workloads[i].Target)] = i
	}
	for _, key := range sorted(slices.Collect(maps.Keys(s.Outputs))) {
		output := s.Outputs[key]
		held := s.kept(output.Revision)
		place, selected := places[output.Workload]
		switch other := output.Revision != "" && output.Revision != p.Rollout.To; {
		case other && (held == nil || s.stillServes(output.Workload)):
			// nobody knows it any more, or pods of a deleted workload run it: it is not touched
		case other && selected && p.Workloads[place].serving() == "" && (p.Workloads[place].hasPods() || !left):
			p.Workloads[place].stays(s, key, held)
			p.Workloads[place].took(s.Targets[place].Attempt)
		case p.Rollout.From == "":
			p.dropped = append(p.dropped, key)
		}
	}
}

// stillServes reports whether pods may still serve of a workload that was deleted.
func (s *State) stillServes(workload string) bool {
	return slices.ContainsFunc(s.Deleted, func(d Deleted) bool { return d.Workload == workload })
}

// stays has an output hold what it held, and try nothing.
func (w *Workload) stays(s *State, key OutputKey, held *revision.Revision) {
	w.Output, w.was = key, s.Outputs[key].asOf(s.Now)
	w.inForce, w.Holds, w.Fetch, w.Phase = held, held, w.was.Fetch, Due
	w.slot = s.staged() && key.Kind == wasmev1.OutputEnvoyFilter
	w.renders(s)
}

// hasPods reports whether it has Ready pods with a sidecar, or pods that are not Ready yet.
func (w *Workload) hasPods() bool { return w.sidecars()+len(w.unready) > 0 }
