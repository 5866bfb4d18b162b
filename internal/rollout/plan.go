// Package rollout plans how a revision reaches the workloads of a
// FilterDeployment. It is pure: the same State gives the same Plan, and time is
// part of the State.
//
// Decide goes through these steps:
//
//  1. Which revision is in force (inforce.go): the one that the spec asks for,
//     once every replica of the operator can serve its module; else the last
//     good one. Where there is none, what is left is taken back (takeback.go).
//  2. Which output each workload has, what it holds, and what it asked its pods
//     to fetch (output.go, fetch.go).
//  3. Which outputs may hold the revision in force now. A new module, a first
//     apply or another place in the proxy has every running pod of a workload
//     fetch, and mostly drain its connections, so it spreads over the workloads
//     in waves: as pods have loaded it, others are asked to (room.go), and pods of
//     other FilterDeployments count, too (budget.go). A new
//     configuration goes everywhere at once. Fetches race: an older one that
//     ends later replaces what a newer one brought, so while pods of a workload
//     fetch, nothing further is asked of them.
//  4. Which pods prove that they run it, and if not, why (proof.go).
//  5. Which pods are told to fetch again, because their fetch failed or was
//     overtaken.
//  6. Where the rollout is staged, which workloads wait for the step before theirs
//     (steps.go), which single pods go first (canary.go), and whether that was so bad
//     that the last good revision comes back (judge.go). What only this version of the
//     operator renders differently goes in steps, too (rendering.go).
//  7. What the conditions Programmed and Loaded, and the state of each workload,
//     say about it (verdicts.go).
//
// The controller writes what Due returns, records each Attempt in the State, and
// decides again until nothing is due: a workload that cannot be written leaves
// its room to others. Report turns the last Plan into the status; String prints
// a Plan for people.
package rollout

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// Phase says how far the output of a workload is.
type Phase int

// The phases of a workload.
const (
	// NoRevision: there is no revision that the output could hold.
	NoRevision Phase = iota
	// Due: the output may hold the revision in force now.
	Due
	// AwaitingPods: its own pods still load what it held before.
	AwaitingPods
	// AwaitingRoom: pods of other workloads still load the module.
	AwaitingRoom
	// AwaitingTurn: pods of other FilterDeployments still load.
	AwaitingTurn
	// AwaitingStep: the step before has to be good first.
	AwaitingStep
	// AwaitingRendering: the outputs of other workloads are rendered anew first.
	AwaitingRendering
	// Programmed: the output holds the revision in force.
	Programmed
	// Failed: the output could not be written.
	Failed
)

// Workload is what a plan says of one workload.
type Workload struct {
	workload.Target
	Phase Phase
	// Output is its output, and Holds the revision that it held before; nil for
	// none, or one that is not known.
	Output OutputKey
	Holds  *revision.Revision
	// Fetch is the last fetch that the output asks for, and Renewed says that this
	// plan renews it.
	Fetch   Fetch
	Renewed bool
	// Reason and Err are those of a failure.
	Reason string
	Err    error
	// Proofs are what is known of its pods; nil when they are not asked.
	Proofs []Proof
	// Unproven says why nothing can show whether a targetRef runs the filter; empty
	// when something can, or need not.
	Unproven string

	owner types.NamespacedName
	// inForce is what the output is to hold now: the plan's, unless behind says that it
	// is the one before, or none while the first one is only staged.
	inForce *revision.Revision
	behind  bool
	// was is what its output says of itself; the zero value for none.
	was Output
	// slot says that its output has a staging slot, and staged is what is tried there, since
	// stagedFetch.
	slot        bool
	staged      *revision.Revision
	stagedFetch Fetch
	// canary is what single pods are to run of what is staged, and counts says which requests
	// of all pods are counted meanwhile.
	canary Canary
	counts dataplane.Count
	// live says that this plan has it run what it tried.
	live bool
	// moves says that another output of it holds the last good revision, and stays until this
	// one holds the revision in force.
	moves bool
	// sendsAgain says that istiod is to send what is staged again.
	sendsAgain bool
	pods       []Pod
	// unready are its pods that are not Ready.
	unready []Unready
	// rendering is how its output is to be rendered, and outdated says that it is not
	// rendered so.
	rendering Rendering
	outdated  bool
	// bringsFetch says that the revision in force makes its pods fetch, or drain.
	bringsFetch bool
}

// Plan is what each output is to hold, what waits for what, and the conditions
// that follow.
type Plan struct {
	// InForce is the revision that the outputs are to hold; nil for none.
	InForce  *revision.Revision
	Standing Standing
	// Workloads are those of the targets, in their order; nil when they are not known.
	Workloads []Workload
	// Deleted are the workloads that no longer exist and whose outputs stay.
	Deleted []Deleted
	// Rollout is how far the rollout of the revision is; nil unless it is staged.
	Rollout *wasmev1.RolloutStatus
	// Rejecting says that this plan ends the rollout, which the status has to remember
	// before anything is written.
	Rejecting bool
	// Load is what pods load now, and with this plan.
	Load Load
	// Again is the time after which there is more to decide; 0 for never.
	Again time.Duration
	// Programmed and Loaded are the contents of these conditions.
	Programmed, Loaded condition.Verdict
	// Unanswered says that pods that the status reports on have not answered this
	// process yet: what it says of them stays.
	Unanswered bool

	verifyPods bool
	// undistributed says why the module is not distributed, if that is known.
	undistributed error
	// renderingFailed is what is wrong with the outputs that are rendered anew; without a
	// reason nothing is.
	renderingFailed condition.Verdict
	// superseded says that the spec asks for another revision than that of the rollout, which
	// failed.
	superseded bool
	// back says that workloads go back to what they ran before. Dropped are the outputs to delete
	// where they ran nothing.
	back    bool
	dropped []OutputKey
	// frozen says that the revision in force stays where it is, and begins nowhere else.
	frozen bool
	// canary says that single pods run the revision, beside those that only try it.
	canary bool
	// awaited says what the step waits for beside its bake time; empty for nothing.
	awaited string
	// provedBefore says that the status has the proof of the revision in force.
	provedBefore bool
	// notRequired says that Loaded does not wait for what nothing shows.
	notRequired bool
	// proofs are those of all workloads.
	proofs []Proof
}

// Decide plans.
func Decide(s State) Plan {
	p := Plan{verifyPods: s.Unverified == "", notRequired: s.Verification == wasmev1.VerificationNotRequired, Deleted: s.Deleted, undistributed: s.Undistributed}
	p.Rollout = s.rollout()
	p.InForce, p.Standing = s.inForce(p.Rollout)
	p.superseded = s.supersedes(p.Rollout)
	p.back = p.InForce != nil && (p.Standing == Withdrawn || p.InForce == s.base())
	p.frozen = p.InForce != nil && p.Standing == LastGood && p.InForce == s.ongoing()
	p.provedBefore = p.InForce != nil && s.Status.Revision == p.InForce.Hash && s.wasLoaded()
	p.Workloads = s.workloads(p.InForce)
	if p.InForce == nil && p.goesBack() {
		p.takeBack(&s)
	}
	if p.InForce != nil {
		before := p.Rollout.DeepCopy()
		p.step(&s)
		p.spreadRendering(&s)
		room := p.admit(&s)
		if p.spreads() && !p.begins() {
			p.Rollout = before // the step has not begun
		}
		p.proveAll(&s)
		p.renew(&s, &room)
		p.Load = Load{Pods: room.taken, Bytes: int64(room.taken) * moduleBytes(p.InForce.Module)}
	}
	if p.Rollout != nil && s.Asked != nil && s.Asked.Hash == p.Rollout.To && s.wantsRetry(p.Rollout) {
		p.Again = soonest(p.Again, rejectDelay)
	}
	if p.awaitsTurn() {
		p.Again = soonest(p.Again, turnRecheck)
	}
	p.Programmed = p.programmedVerdict(s.Blocked)
	p.judgePods(&s)
	return p
}

// workloads matches the targets with their outputs.
func (s *State) workloads(inForce *revision.Revision) []Workload {
	if s.Targets == nil {
		return nil
	}
	known := s.knownRevisions(inForce)
	fetching := map[*revision.Revision]bool{nil: true}
	for _, from := range known {
		fetching[from] = bringsFetch(from, inForce)
	}
	workloads := make([]Workload, len(s.Targets))
	for i, target := range s.Targets {
		w := Workload{Target: target.Target, owner: s.Owner, inForce: inForce, pods: target.Pods, unready: target.Unready}
		if inForce != nil {
			w.Output = s.Outputs.keyFor(s.Owner, inForce, w.Target)
			w.was = s.Outputs[w.Output].asOf(s.Now)
			w.Holds, w.Fetch = known[w.was.Revision], w.was.Fetch
			w.Phase, w.bringsFetch = Due, fetching[w.Holds]
			w.slot = s.staged() && w.Output.Kind == wasmev1.OutputEnvoyFilter
			w.renders(s)
		}
		w.took(target.Attempt)
		if s.Blocked.Reason != "" {
			w.Phase, w.Reason, w.Err = Failed, s.Blocked.Reason, blockedError(s.Blocked)
		}
		workloads[i] = w
	}
	return workloads
}

// knownRevisions returns the revisions by their hashes: of two in the history
// that are the same to proxies, the older; the one in force before any other.
func (s *State) knownRevisions(inForce *revision.Revision) map[string]*revision.Revision {
	known := map[string]*revision.Revision{}
	if inForce == nil {
		return known
	}
	for i := range s.History {
		known[s.History[i].Hash] = &s.History[i]
	}
	known[inForce.Hash] = inForce
	return known
}

func blockedError(blocked condition.Verdict) error {
	if blocked.Err != nil {
		return blocked.Err
	}
	return fmt.Errorf("%s", blocked.Message)
}

// took takes over what came of writing the output.
func (w *Workload) took(attempt *Attempt) {
	switch {
	case attempt == nil:
	case attempt.Err != nil:
		w.Phase, w.Output, w.Reason, w.Err = Failed, attempt.Output, attempt.Reason, attempt.Err
	default:
		w.Phase, w.Output = Programmed, attempt.Output
	}
}

// admit finds out which outputs wait, and returns the room that is taken then.
// What is under way, or was written just now, comes first.
func (p *Plan) admit(s *State) room {
	r := roomFor(p.InForce.Module, s.Strategy, s.Share)
	for i := range p.Workloads {
		w := &p.Workloads[i]
		loading, left := w.loading(s)
		r.taken += loading + w.stagedLoading(s)
		p.Again = soonest(p.Again, left)
		// A renewal holds nothing up: the pods had their time.
		if w.Phase == Due && loading > 0 && w.Holds != p.InForce && w.Fetch.Renewals == 0 && !p.back {
			w.Phase = AwaitingPods
		}
		if p.back && w.Holds != nil {
			w.bringsFetch = false // the agents have the module
		}
		if w.Phase == Programmed && w.bringsFetch {
			r.taken += w.sidecars()
		}
	}
	for i := range p.Workloads {
		w := &p.Workloads[i]
		switch {
		case w.Phase != Due || !w.bringsFetch:
		case !r.shared(w.sidecars()):
			w.Phase = AwaitingTurn
		case !r.take(w.sidecars()):
			w.Phase = AwaitingRoom
		}
		changes := w.bringsFetch || p.Rollout != nil && !p.back && w.Holds != p.InForce
		if (w.Phase == Due || w.Phase == Programmed) && changes && w.staged == nil {
			w.Fetch = Fetch{Revision: w.inForce.Hash, At: s.Now}
		}
	}
	return r
}

// bringsFetch reports whether proxies that run one revision have more to do for
// another than to read a configuration.
func bringsFetch(from, to *revision.Revision) bool {
	before, after := from.Rendered, to.Rendered
	before.Configuration, after.Configuration = nil, nil
	return before.Revision() != after.Revision()
}

// loading returns the number of pods that may still be at what the output asked
// them to fetch, and the time that is left to them. A fetch from the future comes
// from a replica whose clock was wrong, and counts as over.
func (w *Workload) loading(s *State) (pods int, left time.Duration) {
	asked := w.was.Fetch
	left = asked.At.Add(LoadTimeout).Sub(s.Now)
	if w.Holds == nil || asked.Revision != w.Holds.Hash || left <= 0 || asked.At.After(s.Now) {
		return 0, 0
	}
	plugin := ""
	if w.Output.Kind == wasmev1.OutputEnvoyFilter || w.was.Generation == 1 {
		plugin = w.plugin(w.Holds) // a pod that runs it shows it; else it shows no revision
	}
	for _, pod := range w.pods {
		if pod.Sidecar && !w.was.Canary.runs(pod.Name) && (plugin == "" || !pod.Seen.On(plugin).Proven()) {
			pods++
		}
	}
	if pods == 0 {
		return 0, 0
	}
	return pods, left
}

// stagedLoading returns the number of pods that may still fetch what its output has in the
// staging slot since an earlier pass.
func (w *Workload) stagedLoading(s *State) int {
	asked := w.was.Staged
	if w.staged == nil || asked.Revision != w.staged.Hash || s.Now.Sub(asked.At) >= LoadTimeout || w.Holds != nil && !bringsFetch(w.Holds, w.staged) {
		return 0
	}
	plugin := render.StagedPluginName(w.owner, w.Target, w.staged.Hash)
	return count(w.pods, func(pod Pod) bool { return pod.Sidecar && !pod.Seen.On(plugin).Proven() })
}

// sidecars returns the number of Ready pods that have one.
func (w *Workload) sidecars() int {
	return count(w.pods, func(p Pod) bool { return p.Sidecar })
}

// plugin returns the name under which the workload's proxies report the filter.
func (w *Workload) plugin(expected *revision.Revision) string {
	if w.Output.Kind == wasmev1.OutputEnvoyFilter {
		return render.PluginName(w.owner, w.Target, expected.Hash)
	}
	return w.owner.Namespace + "." + w.Output.Name
}

// Waits reports whether the output has to wait before it may hold the revision in force.
func (w *Workload) Waits() bool {
	return w.awaitsPods() || w.Phase == AwaitingStep || w.Phase == AwaitingRendering || w.behind
}

// awaitsPods reports whether it waits for pods that load, its own or others.
func (w *Workload) awaitsPods() bool {
	return w.Phase == AwaitingPods || w.Phase == AwaitingRoom || w.Phase == AwaitingTurn
}

// expected returns the revision that its pods are to run now; nil when it is not known.
func (w *Workload) expected() *revision.Revision {
	if w.Waits() && !w.behind {
		return w.Holds
	}
	return w.inForce
}

// renew has the pods that did not run the revision in time fetch the module
// again, as many at once as there is room for.
func (p *Plan) renew(s *State, r *room) {
	for i := range p.Workloads {
		w := &p.Workloads[i]
		if attempt := s.Targets[i].Attempt; w.Phase == Programmed && attempt.Fetch != w.Fetch {
			w.Fetch, w.Renewed = attempt.Fetch, true
			r.taken += len(stuck(w.Proofs, w.Fetch.Renewals-1))
			p.Again = soonest(p.Again, minRenewal)
		}
	}
	for i := range p.Workloads {
		w := &p.Workloads[i]
		pods := stuck(w.Proofs, w.Fetch.renewedFor(p.InForce.Hash))
		if w.Renewed || w.Phase == Failed || w.Phase == AwaitingRendering || w.behind || p.Rejecting || len(pods) == 0 {
			continue
		}
		if left := w.Fetch.renewalDue(p.InForce.Hash, s.Now); left > 0 {
			p.Again = soonest(p.Again, left)
			continue
		}
		p.Again = soonest(p.Again, minRenewal)
		if !p.spreads() && r.take(len(pods)) { // new modules come first
			w.Fetch, w.Renewed = w.Fetch.renewed(p.InForce.Hash, s.Now), true
		}
	}
}

// begins reports whether workloads are to hold or try another revision than before.
func (p *Plan) begins() bool {
	return slices.ContainsFunc(p.Workloads, func(w Workload) bool {
		return (w.Phase == Due || w.Phase == Programmed) && (w.staged != nil || w.inForce == p.InForce && w.Holds != p.InForce)
	})
}

// awaitsTurn reports whether a workload waits for pods of other FilterDeployments.
func (p *Plan) awaitsTurn() bool {
	return slices.ContainsFunc(p.Workloads, func(w Workload) bool { return w.Phase == AwaitingTurn })
}

// spreads reports whether a workload waits for pods that load.
func (p *Plan) spreads() bool {
	return slices.ContainsFunc(p.Workloads, func(w Workload) bool { return w.awaitsPods() })
}

// waiting returns the number of workloads whose output has to wait.
func (p *Plan) waiting() int {
	count := 0
	for i := range p.Workloads {
		if p.Workloads[i].Waits() {
			count++
		}
	}
	return count
}

// Due returns the places of the workloads whose outputs are to be written, or
// written again because the plan renews a fetch.
func (p *Plan) Due(s State) []int {
	var due []int
	if p.Rejecting {
		return nil
	}
	for i := range p.Workloads {
		w := &p.Workloads[i]
		if w.Phase == Due || w.Phase == Programmed && w.Fetch != s.Targets[i].Attempt.Fetch {
			due = append(due, i)
		}
	}
	return due
}
