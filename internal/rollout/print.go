package rollout

import (
	"cmp"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/wasme-io/wasme-operator/internal/revision"
)

var phaseNames = map[Phase]string{
	NoRevision: "NoRevision", Due: "Due", AwaitingPods: "AwaitingPods",
	AwaitingRoom: "AwaitingRoom", AwaitingTurn: "AwaitingTurn", AwaitingStep: "AwaitingStep", AwaitingRendering: "AwaitingRendering", Programmed: "Programmed", Failed: "Failed",
}

// String implements fmt.Stringer.
func (p Phase) String() string { return phaseNames[p] }

// String returns the plan for people: the revision in force and its conditions,
// then a row for each workload with its output, the revision that the output
// held before, the phase, the pods that run what they are to run, and what it
// waits for.
func (p *Plan) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "revision %s\n", hashOf(p.InForce))
	if r := p.Rollout; r != nil {
		fmt.Fprintf(&text, "rollout from %s to %s: %s, step %d\n", cmp.Or(r.From, "none"), r.To, r.Phase, *r.Step)
	}
	fmt.Fprintf(&text, "Programmed %s %s: %s\n", p.Programmed.Status, p.Programmed.Reason, p.Programmed.Message)
	fmt.Fprintf(&text, "Loaded %s %s: %s\n", p.Loaded.Status, p.Loaded.Reason, p.Loaded.Message)
	if p.Again > 0 {
		fmt.Fprintf(&text, "again in %v\n", p.Again)
	}
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WORKLOAD\tOUTPUT\tHELD\tPHASE\tPODS\tWHY")
	for i := range p.Workloads {
		w := &p.Workloads[i]
		verified := count(w.Proofs, Proof.Verified)
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d/%d\t%s\n", w.Key(), cmp.Or(strings.TrimSpace(w.Output.String()), "none"), hashOf(w.Holds), w.Phase, verified, len(w.pods), p.explain(w))
	}
	_ = table.Flush() // writing to a strings.Builder cannot fail
	return text.String()
}

// explain says why a workload is in its phase, and what it asks for.
func (p *Plan) explain(w *Workload) string {
	switch {
	case w.Err != nil:
		return w.Err.Error()
	case w.Renewed:
		return fmt.Sprintf("its pods fetch the module again (renewal %d)", w.Fetch.Renewals)
	default:
		return p.why(w)
	}
}

func hashOf(r *revision.Revision) string {
	if r == nil {
		return "none"
	}
	return r.Hash
}
