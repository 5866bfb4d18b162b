package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
)

// Another version of the operator, or other flags, may render the same revision to another
// output. Where rollouts are staged, that reaches the workloads in steps as well: one whose
// pods run the filter first and then, each time that the pods of all these have run it for
// the bake time, as many pods as have it already, but maxPods at least. When it goes wrong,
// the others keep what they have. What was rendered before cannot come back.

// RenderingAnnotation holds `<fingerprint> <RFC 3339 time>`: how, and since when, an output
// is rendered so.
const RenderingAnnotation = "wasme.io/rendering"

// Rendering is how an output is rendered, and since when.
type Rendering struct {
	Fingerprint string
	Since       time.Time
}

func renderingOf(annotation string) Rendering {
	fingerprint, since, _ := strings.Cut(annotation, " ")
	at, err := time.Parse(time.RFC3339, since)
	if err != nil {
		return Rendering{}
	}
	return Rendering{fingerprint, at}
}

// Annotation returns the rendering as an output keeps it.
func (r Rendering) Annotation() string {
	return fmt.Sprintf("%s %s", r.Fingerprint, r.Since.UTC().Format(time.RFC3339))
}

// renders sets how the output of a workload is to be rendered. Its place in the proxy is
// another one with a staging slot.
func (w *Workload) renders(s *State) {
	fingerprint := s.Rendering
	if w.slot {
		fingerprint += "+slot"
	}
	w.rendering = w.was.Rendering
	if w.rendering.Fingerprint != fingerprint {
		_, w.outdated = s.Outputs[w.Output]
		w.rendering = Rendering{fingerprint, s.Now}
	}
}

// spreadRendering has the workloads wait whose outputs are to be rendered anew, but for those
// of the next step.
func (p *Plan) spreadRendering(s *State) {
	if !s.staged() {
		return
	}
	var outdated []*Workload
	for i := range p.Workloads {
		w := &p.Workloads[i]
		if w.outdated && w.Phase == Due && w.Holds == w.inForce && w.staged == nil {
			outdated = append(outdated, w)
		}
	}
	if len(outdated) == 0 {
		return
	}
	done := p.renderedAnew(s)
	for _, w := range outdated[p.renderable(s, outdated, done):] {
		w.Phase = AwaitingRendering
	}
	p.renderingFailed = done.bad
	if done.waits && done.bad.Reason == "" {
		p.Again = soonest(p.Again, time.Second)
	}
}

// renderingStep is what is known of the workloads that were rendered anew.
type renderingStep struct {
	// outputs and pods are their numbers.
	outputs, pods int
	// failed is how many could not be written.
	failed int
	// waits says that it is too soon to tell what becomes of them.
	waits bool
	bad   condition.Verdict
}

func (p *Plan) renderedAnew(s *State) renderingStep {
	var step renderingStep
	for i := range p.Workloads {
		switch w := &p.Workloads[i]; {
		case w.Phase == Failed:
			step.failed++
		case w.Phase == Programmed && w.outdated: // just now
			step.outputs, step.waits = step.outputs+1, true
		case !w.outdated && w.Holds == p.InForce:
			step.outputs, step.pods = step.outputs+1, step.pods+w.sidecars()
			p.judgeRendering(s, w, &step)
		}
	}
	return step
}

func (p *Plan) judgeRendering(s *State, w *Workload, step *renderingStep) {
	proofs := p.appendProofs(nil, w, s)
	v := loadedVerdict(proofs, w.shape().OutputKind())
	switch {
	case w.sidecars() == 0:
	case s.Now.Sub(w.rendering.Since) < s.Strategy.BakeTime, v.Reason == wasmev1.ReasonLoading, v.Reason == wasmev1.ReasonNoPods, slices.ContainsFunc(proofs, Proof.unanswered):
		step.waits = true
	case slices.Contains(BadReasons, v.Reason) && v.Reason != wasmev1.ReasonNoListener && v.Reason != wasmev1.ReasonAnchorMissing:
		step.bad = condition.False(v.Reason, "%s: %s", w.Key(), v.Message)
	}
}

// renderable sorts the outdated workloads, those first whose pods run the filter, and returns
// how many of them are the next step. Those whose pods do not run it anyway tell nothing, and
// come last.
func (p *Plan) renderable(s *State, outdated []*Workload, done renderingStep) int {
	slices.SortStableFunc(outdated, func(a, b *Workload) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), cmp.Compare(a.sidecars(), b.sidecars()))
	})
	telling := count(outdated, func(w *Workload) bool { return w.rank() == 0 })
	unanswered := slices.ContainsFunc(outdated, func(w *Workload) bool {
		return slices.ContainsFunc(p.appendProofs(nil, w, s), Proof.unanswered)
	})
	silent := slices.ContainsFunc(outdated, func(w *Workload) bool {
		return slices.ContainsFunc(w.pods, func(pod Pod) bool { return pod.Seen.Verdict.State == dataplane.StateUnreachable })
	})
	switch {
	case unanswered, done.waits, done.bad.Reason != "", done.failed >= maxFailures, p.Standing == Distributing:
		return 0
	case telling == 0 && silent && s.wasLoaded():
		return 0 // nobody answers yet, or for a moment
	case telling == 0:
		return len(outdated)
	case done.outputs == 0:
		return 1
	}
	next, room := 0, max(s.Strategy.MaxPods, done.pods)
	for next < telling && (next == 0 || room >= outdated[next].sidecars()) {
		room -= outdated[next].sidecars()
		next++
	}
	return next
}

// renderingVerdict is Programmed while outputs are to be rendered anew; without a reason when
// none is.
func (p *Plan) renderingVerdict() condition.Verdict {
	old := count(p.Workloads, func(w Workload) bool { return w.Phase == AwaitingRendering })
	switch {
	case old == 0:
		return condition.Verdict{}
	case p.renderingFailed.Reason != "":
		return condition.False(wasmev1.ReasonRolloutHeld, "%d of %d outputs stay as another version of the operator, or other flags of it, rendered them, because of a failure of those that are rendered anew at %s", old, len(p.Workloads), p.renderingFailed.Message)
	}
	return condition.Unknown(wasmev1.ReasonSpreading, "%d of %d outputs are still as another version of the operator, or other flags of it, rendered them; they follow when the pods of the others run the filter well", old, len(p.Workloads))
}
