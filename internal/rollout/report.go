package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
)

// Report is all that a pass found, of which the status is made.
type Report struct {
	// Module and Selection are the contents of ModuleResolved and WorkloadsSelected.
	Module, Selection condition.Verdict
	// Admission is what the policies say.
	Admission Admission
	// Preflight is what the operator's own run of the module says.
	Preflight Preflight
	// Plan has those of Programmed and Loaded, and the workloads.
	Plan Plan
	// Contested and Overlapping are the contents of these conditions; without a
	// reason there are none.
	Contested, Overlapping condition.Verdict
}

// Rollout returns how far the rollout is; empty when there is none.
func (r *Report) Rollout() wasmev1.RolloutPhase {
	if r.Plan.Rollout == nil {
		return ""
	}
	return r.Plan.Rollout.Phase
}

// content is what one condition is to say.
type content struct {
	kind    string
	verdict condition.Verdict
}

// SetStatus derives the status.
func (r *Report) SetStatus(status *wasmev1.FilterDeploymentStatus, generation int64, now time.Time) {
	status.ObservedGeneration = new(generation)
	if inForce := r.Plan.InForce; inForce != nil && status.Revision != inForce.Hash {
		// The time of its last transition is that of the revision.
		apimeta.RemoveStatusCondition(&status.Conditions, wasmev1.ConditionLoaded)
	}
	ready := r.ready()
	for _, c := range []content{
		{wasmev1.ConditionModuleResolved, r.Module},
		{wasmev1.ConditionWorkloadsSelected, r.Selection},
		{wasmev1.ConditionProgrammed, r.Plan.Programmed},
		{wasmev1.ConditionLoaded, r.Plan.Loaded},
		{wasmev1.ConditionReady, ready},
	} {
		condition.Set(&status.Conditions, c.kind, c.verdict, generation, now)
	}
	setOrRemove(status, wasmev1.ConditionAdmitted, r.Admission.Verdict, generation, now)
	setOrRemove(status, wasmev1.ConditionPreflighted, r.Preflight.Verdict, generation, now)
	for _, c := range []content{
		{wasmev1.ConditionReconciling, condition.Reconciling(ready)},
		{wasmev1.ConditionStalled, condition.Stalled(ready)},
		{wasmev1.ConditionContested, r.Contested},
		{wasmev1.ConditionOverlapping, r.Overlapping},
	} {
		condition.SetWhileTrue(&status.Conditions, c.kind, c.verdict, generation, now)
	}
	status.Reason = ""
	if ready.Status == metav1.ConditionFalse {
		status.Reason = condition.Cut(ready.Message)
	}
	r.setRevision(status)
	status.Rollout = r.Plan.Rollout
	if !r.Plan.Unanswered {
		r.Plan.setWorkloads(status)
	}
}

// ready returns the first problem of the steps, else what there is to say.
func (r *Report) ready() condition.Verdict {
	steps := []condition.Verdict{r.Module, r.Selection, r.Plan.Programmed, r.Plan.Loaded}
	if r.Preflight.Holds {
		steps = slices.Insert(steps, 1, r.Preflight.Verdict)
	}
	if r.Admission.Holds || r.Admission.Verdict.Status == metav1.ConditionFalse {
		steps = slices.Insert(steps, 1, r.Admission.Verdict)
	}
	if r.Contested.Reason != "" {
		steps = append(steps, r.Contested)
	}
	if problem, found := condition.FirstProblem(steps...); found {
		return problem
	}
	if r.Selection.Reason == wasmev1.ReasonNoWorkloads {
		return condition.True(wasmev1.ReasonNoWorkloads, "%s%s", r.Selection.Message, r.Plan.deletedNote())
	}
	return condition.True(wasmev1.ReasonReady, "%s; %s", r.Plan.Programmed.Message, r.Plan.Loaded.Message)
}

// SetSuspended keeps the status of the last pass, and says that there is none now.
// Applied is the status of Ready that the last pass over this spec found; empty
// when there was none: then nothing is known of what the spec asks for. What was
// said of a generation before a restart stays.
func SetSuspended(status *wasmev1.FilterDeploymentStatus, generation int64, now time.Time, applied metav1.ConditionStatus) {
	last := apimeta.FindStatusCondition(status.Conditions, wasmev1.ConditionReady)
	if last != nil && last.Reason == wasmev1.ReasonSuspended && last.ObservedGeneration == generation {
		return
	}
	status.ObservedGeneration = new(generation)
	ready := condition.Verdict{
		Status: applied, Reason: wasmev1.ReasonSuspended,
		Message: "spec.suspend is set: everything stays as it is, unwatched, and Ready stays as it was",
	}
	if applied == "" {
		ready = condition.Unknown(wasmev1.ReasonSuspended, "spec.suspend is set, and the operator has not applied this spec, or has restarted since: everything stays as it is, unwatched, until suspend is false")
		apimeta.RemoveStatusCondition(&status.Conditions, wasmev1.ConditionStalled)
	}
	if ready.Status != metav1.ConditionFalse {
		status.Reason = ""
	}
	condition.Set(&status.Conditions, wasmev1.ConditionReady, ready, generation, now)
	apimeta.RemoveStatusCondition(&status.Conditions, wasmev1.ConditionReconciling)
}

// setOrRemove writes a condition that there is only with a module, and a policy.
func setOrRemove(status *wasmev1.FilterDeploymentStatus, kind string, verdict condition.Verdict, generation int64, now time.Time) {
	if verdict.Reason == "" {
		apimeta.RemoveStatusCondition(&status.Conditions, kind)
		return
	}
	condition.Set(&status.Conditions, kind, verdict, generation, now)
}

// setRevision writes the revision in force and its module, whose cost and signature stay
// as they were found while the revision stays.
func (r *Report) setRevision(status *wasmev1.FilterDeploymentStatus) {
	inForce := r.Plan.InForce
	if inForce == nil {
		status.Revision, status.Module = "", nil
		return
	}
	module := inForce.Module
	switch {
	case r.Preflight.Cost != nil && r.Preflight.Revision == inForce.Hash:
		module.Cost = r.Preflight.Cost
	case status.Module != nil && status.Revision == inForce.Hash:
		module.Cost = status.Module.Cost
	}
	module.Signature = r.Admission.signatureFor(inForce.Hash, status)
	status.Revision, status.Module = inForce.Hash, &module
}

// setWorkloads fills the predecessor's map, the workloads that fail first, and
// the counts over it.
func (p *Plan) setWorkloads(status *wasmev1.FilterDeploymentStatus) {
	status.Workloads, status.Summary = nil, nil
	if p.Workloads == nil {
		return
	}
	type entry struct {
		key   string
		state wasmev1.WorkloadStatus
	}
	programmed, entries := 0, make([]entry, 0, len(p.Workloads))
	for i := range p.Workloads {
		w := &p.Workloads[i]
		state := p.outputState(w)
		if state.State == wasmev1.WorkloadSucceeded {
			programmed++
			state = w.podsState()
		}
		entries = append(entries, entry{w.Key(), state})
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(rank(a.state), rank(b.state)) })
	status.Workloads = map[string]wasmev1.WorkloadStatus{}
	for _, e := range entries[:min(len(entries), wasmev1.MaxWorkloadsInStatus)] {
		status.Workloads[e.key] = e.state
	}
	status.Summary = &wasmev1.WorkloadSummary{
		Workloads:      new(int64(len(p.Workloads))),
		Programmed:     new(int64(programmed)),
		WorkloadsReady: fmt.Sprintf("%d/%d", programmed, len(p.Workloads)),
	}
	p.countPods(status.Summary)
	if omitted := len(p.Workloads) - len(status.Workloads); omitted > 0 {
		status.Summary.WorkloadsOmitted = new(int64(omitted))
	}
}

func rank(state wasmev1.WorkloadStatus) int {
	if state.State == wasmev1.WorkloadFailed {
		return 0
	}
	return 1
}

func (p *Plan) countPods(summary *wasmev1.WorkloadSummary) {
	counted := count(p.proofs, Proof.Counts)
	loaded := count(p.proofs, func(p Proof) bool { return p.Counts() && p.Verified() })
	summary.Pods, summary.PodsLoaded = new(int64(counted)), new(int64(loaded))
	summary.PodsReady = fmt.Sprintf("%d/%d", loaded, counted)
}

// outputState returns the state of a workload as far as its output goes:
// Succeeded once that is as the spec asks.
func (p *Plan) outputState(w *Workload) wasmev1.WorkloadStatus {
	if w.Phase == Failed {
		return wasmev1.WorkloadStatus{State: wasmev1.WorkloadFailed, Reason: condition.Cut(w.Err.Error())}
	}
	if why := p.why(w); why != "" {
		return wasmev1.WorkloadStatus{State: wasmev1.WorkloadPending, Reason: why}
	}
	return wasmev1.WorkloadStatus{State: wasmev1.WorkloadSucceeded}
}

// why says what an output waits for before it is as the spec asks; empty for nothing.
func (p *Plan) why(w *Workload) string {
	switch {
	case p.Standing == Distributing:
		return "waits until every replica of the operator serves the new module"
	case p.goesBack() && w.serving() == "":
		return fmt.Sprintf("runs nothing, because revision %s %s", p.Rollout.To, p.whyBack())
	case p.goesBack() && p.InForce == nil:
		return fmt.Sprintf("keeps revision %s, because revision %s %s", w.serving(), p.Rollout.To, p.whyBack())
	case w.Phase == NoRevision:
		return "there is no module to run yet"
	case w.Phase == AwaitingPods:
		return fmt.Sprintf("waits until its pods have loaded revision %s, for %v at most", w.Fetch.Revision, LoadTimeout)
	case w.tries() && w.canary.Revision != "":
		return fmt.Sprintf("has revision %s run by %s, and the other pods try it", w.staged.Hash, strings.Join(w.canary.Pods, ", "))
	case w.tries() && w.inForce == nil:
		return fmt.Sprintf("tries revision %s, which no request passes yet", w.staged.Hash)
	case w.tries():
		return fmt.Sprintf("tries revision %s beside the one that it runs", w.staged.Hash)
	case w.Phase == AwaitingRoom:
		return "waits until pods of other workloads have loaded the module"
	case w.Phase == AwaitingTurn:
		return "waits until pods of other FilterDeployments have loaded their modules"
	case w.Phase == AwaitingRendering:
		return "stays as it was rendered before, until the pods of other workloads run the filter well"
	case w.Phase == AwaitingStep, w.behind:
		return "waits until the workloads before it run the revision well"
	case p.goesBack() && w.Phase == Programmed:
		return fmt.Sprintf("runs revision %s, because revision %s %s", p.backTo(), p.Rollout.To, p.whyBack())
	case p.Standing == LastGood:
		return fmt.Sprintf("keeps revision %s until the spec can be applied", p.InForce.Hash)
	default:
		return ""
	}
}

// goesBack reports whether the revision that the spec asks for gives way to the one before its
// rollout.
func (p *Plan) goesBack() bool { return p.Standing == RolledBack || p.Standing == Withdrawn }

// backTo names what comes back.
func (p *Plan) backTo() string {
	if p.InForce == nil {
		return "nothing"
	}
	return p.InForce.Hash
}

// whyBack completes a sentence about that revision.
func (p *Plan) whyBack() string {
	if p.Standing == Withdrawn {
		return "does not meet a policy"
	}
	return "was rolled back"
}

// podsState returns the state of a workload whose output is in place: what
// Loaded would be if it were the only one.
func (w *Workload) podsState() wasmev1.WorkloadStatus {
	if w.Unproven != "" {
		return wasmev1.WorkloadStatus{State: wasmev1.WorkloadPending, Reason: condition.Cut(w.Unproven)}
	}
	switch v := loadedVerdict(w.Proofs, w.shape().OutputKind()); v.Status {
	case metav1.ConditionTrue:
		return wasmev1.WorkloadStatus{State: wasmev1.WorkloadSucceeded}
	case metav1.ConditionFalse:
		return wasmev1.WorkloadStatus{State: wasmev1.WorkloadFailed, Reason: condition.Cut(v.Message)}
	default:
		return wasmev1.WorkloadStatus{State: wasmev1.WorkloadPending, Reason: condition.Cut(v.Message)}
	}
}
