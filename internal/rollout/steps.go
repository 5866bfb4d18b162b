package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/revision"
)

// A staged rollout brings a new revision to one workload first, and then to others in
// waves. What is known of it is in the status (RolloutStatus), so that another process
// goes on with it:
//
//	Progressing  the pods of the workloads that hold the revision load it
//	Baking       they run it, and are watched for the bake time
//	Complete     all workloads hold the revision, and it was baked
//	Paused       the next step waits for the user
//	Held         a step was bad, and everything stays as it is
//	RolledBack   a step was bad, and the last good revision is in force
//
// The last good revision (From) is the one of the last rollout that was complete, or that all
// pods ran when the next one came. A workload that is new gets that one first. It needs pods
// to prove a revision, so workloads without pods follow after the first step.
//
// An EnvoyFilter has a second place for a filter, its staging slot. In it, the proxies of a
// step fetch, start and configure the revision beside the one that serves, and only then
// does the output hold it. A workload that runs none yet gets an EnvoyFilter with that slot
// alone. Other outputs have none.

// defaultBakeTime is how long a step is watched unless the spec says otherwise.
const defaultBakeTime = 10 * time.Second

// maxFailures is how many workloads that cannot be written are enough to try no other one in
// the first step.
const maxFailures = 3

// rejectDelay is the time from the pass that ends a rollout, and writes the status only, to
// the next one. Something else may keep the status from being written.
const rejectDelay = 200 * time.Millisecond

// Strategy is how a new revision reaches the workloads.
type Strategy struct {
	// Staged is false for all at once; the other fields do not count then.
	Staged   bool
	BakeTime time.Duration
	// MaxPods is how many pods may load at one time, after the first workload.
	MaxPods int
	// CanaryPods is how many pods of the first workload run it before all of them do, and
	// Analysis how their requests are compared with those of the others; nil for not.
	CanaryPods int
	Analysis   *Analysis
	// Hold says that a bad step is not rolled back.
	Hold, Paused bool
	// Retry is the value of the annotation wasme.io/retry.
	Retry string
}

// StrategyOf returns the strategy of a FilterDeployment.
func StrategyOf(fd *wasmev1.FilterDeployment) Strategy {
	spec := ptr.Deref(fd.Spec.Rollout, wasmev1.RolloutSpec{})
	if spec.Strategy == wasmev1.RolloutImmediate {
		return Strategy{}
	}
	return Strategy{
		Staged:     true,
		BakeTime:   ptr.Deref(spec.BakeTime, metav1.Duration{Duration: defaultBakeTime}).Duration,
		MaxPods:    int(ptr.Deref(spec.MaxPods, MaxLoadingPods)),
		CanaryPods: int(ptr.Deref(spec.CanaryPods, 0)),
		Analysis:   analysisOf(spec.Analysis),
		Hold:       spec.OnFailure == wasmev1.RolloutHold,
		Paused:     spec.Paused,
		Retry:      fd.Annotations[wasmev1.RetryAnnotation],
	}
}

// staged reports whether revisions reach the workloads in steps: only pods can tell
// whether a step was good.
func (s *State) staged() bool { return s.Strategy.Staged && s.Unverified == "" }

// rollout returns the rollout of the revision that the spec asks for, before this plan
// takes a step; nil when there is none. While the revision is not known, it is the one
// that the status has.
func (s *State) rollout() *wasmev1.RolloutStatus {
	if !s.staged() {
		return nil
	}
	last := s.Status.Rollout.DeepCopy()
	if last != nil && last.Since != nil {
		last.Since = new(metav1.NewTime(notAfter(s.Now, last.Since.Time)))
	}
	if s.Asked == nil || s.Blocked.Reason != "" {
		return last
	}
	switch {
	case last == nil:
		return s.begin(&wasmev1.RolloutStatus{Phase: wasmev1.RolloutComplete, To: s.Status.Revision})
	case last.To != s.Asked.Hash:
		return s.begin(last)
	case s.retries(last):
		begun := s.begin(last)
		begun.Retried = s.Strategy.Retry
		return begun
	}
	return last
}

// begin returns a rollout that begins after another one.
func (s *State) begin(after *wasmev1.RolloutStatus) *wasmev1.RolloutStatus {
	from := after.From
	if after.Phase == wasmev1.RolloutComplete || s.runsEverywhere(after) {
		from = after.To
	}
	if s.kept(from) == nil && (after.From != "" || after.Phase == wasmev1.RolloutComplete) {
		from = s.heldBefore()
	}
	begun := &wasmev1.RolloutStatus{Phase: wasmev1.RolloutProgressing, From: from, To: s.Asked.Hash, Step: new(int32(0)), Retried: after.Retried}
	begun.Since = new(metav1.NewTime(s.Now))
	begun.Verified = after.Verified && after.Phase != wasmev1.RolloutComplete || s.wasLoaded()
	return begun
}

// wasLoaded reports whether pods proved what they were to run before.
func (s *State) wasLoaded() bool {
	loaded := apimeta.FindStatusCondition(s.Status.Conditions, wasmev1.ConditionLoaded)
	return loaded != nil && loaded.Status == metav1.ConditionTrue && loaded.Reason == wasmev1.ReasonLoaded
}

// runsEverywhere reports whether all that is left of a rollout is to watch it: Ready is True,
// and what its pods run must not be taken back with the next revision.
func (s *State) runsEverywhere(r *wasmev1.RolloutStatus) bool {
	held := s.Outputs.Revisions()
	return r.Phase == wasmev1.RolloutBaking && s.wasLoaded() && held.Len() == 1 && held.Has(r.To)
}

// retries reports whether a revision that failed is to be tried again now: the user wants it,
// and nothing is left of the last try, by which it would be judged.
func (s *State) retries(last *wasmev1.RolloutStatus) bool {
	return s.wantsRetry(last) && !s.leftOf(last)
}

// wantsRetry reports whether the user wants a revision that failed to be tried again.
func (s *State) wantsRetry(last *wasmev1.RolloutStatus) bool {
	retry := s.Strategy.Retry
	return failed(last) && retry != last.Retried && strings.HasPrefix(retry, last.To) && len(retry) <= wasmev1.MaxRetryLength
}

// leftOf reports whether outputs still hold or stage what a rollout that failed takes back. Those
// of deleted workloads are not written any more, and go with their pods.
func (s *State) leftOf(failed *wasmev1.RolloutStatus) bool {
	for _, output := range s.Outputs {
		if s.stillServes(output.Workload) {
			continue
		}
		if output.Staged.Revision == failed.To || failed.Phase == wasmev1.RolloutRolledBack && output.Revision == failed.To {
			return true
		}
	}
	return false
}

// kept returns the revision of the history with a hash; nil for none.
func (s *State) kept(hash string) *revision.Revision {
	if place := slices.IndexFunc(s.History, func(known revision.Revision) bool { return known.Hash == hash }); place >= 0 {
		return &s.History[place]
	}
	return nil
}

// heldBefore returns the newest revision that an output holds beside the one that the
// spec asks for; empty for none.
func (s *State) heldBefore() string {
	held := s.Outputs.Revisions()
	for i := range s.History {
		if hash := s.History[i].Hash; hash != s.Asked.Hash && held.Has(hash) {
			return hash
		}
	}
	return ""
}

// unfinished reports whether outputs may hold or try a revision of a rollout that is not complete.
func (s *State) unfinished() bool {
	rollout := s.Status.Rollout
	return s.staged() && rollout != nil && rollout.Phase != wasmev1.RolloutComplete && !s.runsEverywhere(rollout)
}

// base returns the last good revision while a rollout does not run everywhere; nil otherwise,
// and when there is none.
func (s *State) base() *revision.Revision {
	if s.unfinished() {
		return s.kept(s.Status.Rollout.From)
	}
	return nil
}

// step takes the next step of a staged rollout, if it is time: it decides which of the
// workloads that are due have to wait.
func (p *Plan) step(s *State) {
	r := p.Rollout
	if r == nil || p.InForce.Hash != r.To || r.Phase == wasmev1.RolloutComplete {
		return
	}
	if p.frozen {
		p.await(s, 0)
		p.stage(s)
		return
	}
	if r.From == r.To { // to what was there before the rollout began
		p.back = true
		p.setPhase(s, wasmev1.RolloutComplete)
		return
	}
	if from := s.kept(r.From); from != nil {
		p.startFrom(s, from)
	}
	if p.held() {
		p.emptySlots()
		p.await(s, 0)
		return
	}
	p.await(s, p.advance(s))
	p.stage(s)
}

// advance judges what there is, and returns how many workloads begin now.
func (p *Plan) advance(s *State) (admitted int) {
	r, pending := p.Rollout, p.countPending()
	judged, tried, canaries := p.judge(s), p.judgeStaged(s), p.judgeCanaries(s)
	baked := judged.pods+canaries.pods == 0 || s.Strategy.BakeTime == 0 || r.Phase == wasmev1.RolloutPaused ||
		r.Phase == wasmev1.RolloutBaking && s.Now.Sub(r.Since.Time) >= s.Strategy.BakeTime
	switch {
	case judged.bad.Reason != "":
		p.reject(s, judged.bad)
	case tried.bad.Reason != "":
		p.reject(s, tried.bad)
	case canaries.bad.Reason != "":
		p.reject(s, canaries.bad)
	case judged.loading, tried.loading, canaries.loading:
		p.setPhase(s, wasmev1.RolloutProgressing)
		p.canary = canaries.loading && !tried.loading
	case canaries.pods > 0 && !baked, canaries.waits != "":
		p.setPhase(s, wasmev1.RolloutBaking)
		p.canary, p.awaited = true, canaries.waits
		p.Again = soonest(p.Again, max(s.Strategy.BakeTime-s.Now.Sub(r.Since.Time), time.Second))
	case tried.pods > 0:
		p.setPhase(s, wasmev1.RolloutProgressing)
		p.goLive(s)
	case !baked:
		p.setPhase(s, wasmev1.RolloutBaking)
		p.Again = soonest(p.Again, max(s.Strategy.BakeTime-s.Now.Sub(r.Since.Time), time.Second))
	case pending == progress{}:
		p.setPhase(s, wasmev1.RolloutComplete)
	case pending.workloads+pending.empty > 0 && s.Strategy.Paused:
		p.setPhase(s, wasmev1.RolloutPaused)
	case judged.pods == 0 && pending.failed >= maxFailures:
		p.setPhase(s, wasmev1.RolloutProgressing)
	case judged.pods == 0 && pending.workloads+pending.written > 0:
		p.setPhase(s, wasmev1.RolloutProgressing)
		r.Step, admitted = new(int32(1)), max(0, 1-pending.written)
	default:
		p.setPhase(s, wasmev1.RolloutProgressing)
		r.Step, admitted = new(*r.Step+1), len(p.Workloads)
	}
	return admitted
}

// stageable reports whether an output can have the revision in force in its staging slot:
// beside the one that it holds, or alone.
func (p *Plan) stageable(s *State, w *Workload) bool {
	if !w.slot || w.Holds == p.InForce || w.sidecars() == 0 && !p.broke(w) || w.behind {
		return false
	}
	if w.Holds == nil {
		return w.was.Revision == ""
	}
	return s.Outputs.keyFor(s.Owner, w.Holds, w.Target) == w.Output
}

// isStaged reports whether the output has the revision in force in its staging slot.
func (p *Plan) isStaged(s *State, w *Workload) bool {
	return w.was.Staged.Revision == p.InForce.Hash && p.stageable(s, w)
}

// goLive has the workloads that tried the revision run it: their agents have the module.
func (p *Plan) goLive(s *State) {
	for i := range p.Workloads {
		if w := &p.Workloads[i]; p.isStaged(s, w) {
			w.live, w.bringsFetch = true, false
		}
	}
}

// stage has the workloads of this step try the revision in their staging slots, beside
// what they run.
func (p *Plan) stage(s *State) {
	for i := range p.Workloads {
		w := &p.Workloads[i]
		begun := p.isStaged(s, w)
		if w.live || !p.stageable(s, w) || w.Phase != Due && w.Phase != Programmed {
			continue
		}
		w.stagedFetch = Fetch{Revision: p.InForce.Hash, At: s.Now}
		if begun {
			w.stagedFetch, w.bringsFetch = w.was.Staged, false
		}
		if w.sendsAgain {
			w.stagedFetch = w.stagedFetch.renewed(p.InForce.Hash, s.Now)
		}
		if begun && p.takesCanaries(s, w) && (p.canary || w.was.Canary.Revision == p.InForce.Hash) {
			w.canary = p.canaries(s, w)
			w.counts = s.Strategy.Analysis.counts(w.canary, p.InForce.Rendered.PatchContext)
		}
		w.behind, w.inForce, w.staged = true, w.Holds, p.InForce
		p.Again = soonest(p.Again, w.stagedFetch.patience(s.Now))
	}
}

// emptySlots has no proxy try the revision any more. What one refuses may hold up others that
// it gets.
func (p *Plan) emptySlots() {
	for i := range p.Workloads {
		w := &p.Workloads[i]
		if w.was.Staged.Revision == p.InForce.Hash && w.Holds != nil && w.Holds != p.InForce {
			w.behind, w.inForce = true, w.Holds
		}
	}
}

// progress is what is left of a rollout: workloads with pods that do not hold the revision,
// those without pods, those to which it was written in this pass, and those that could not
// be written.
type progress struct{ workloads, empty, written, failed int }

func (p *Plan) countPending() progress {
	var left progress
	for i := range p.Workloads {
		w := &p.Workloads[i]
		switch {
		case w.Phase == Failed:
			left.failed++
		case w.Holds == p.InForce:
		case w.Phase != Due && !w.behind:
			left.written += min(1, w.sidecars())
		case w.sidecars() == 0:
			left.empty++
		default:
			left.workloads++
		}
	}
	return left
}

// startFrom has workloads that are new hold the last good revision first.
func (p *Plan) startFrom(s *State, from *revision.Revision) {
	for i := range p.Workloads {
		w := &p.Workloads[i]
		if w.Holds != nil {
			continue
		}
		if w.moves = s.Outputs[s.Outputs.keyFor(s.Owner, from, w.Target)].Revision == from.Hash; w.moves {
			continue
		}
		w.behind, w.inForce = true, from
		if w.Phase == Due {
			w.Output = s.Outputs.keyFor(s.Owner, from, w.Target)
			w.was = s.Outputs[w.Output].asOf(s.Now)
		}
	}
}

func (p *Plan) setPhase(s *State, phase wasmev1.RolloutPhase) {
	if p.Rollout.Phase != phase {
		p.Rollout.Phase, p.Rollout.Since = phase, new(metav1.NewTime(s.Now))
	}
}

// reject ends the rollout. Nothing is written until the status remembers that: another
// process would roll the revision out again.
func (p *Plan) reject(s *State, bad condition.Verdict) {
	phase := wasmev1.RolloutRolledBack
	if s.Strategy.Hold {
		phase = wasmev1.RolloutHeld
	}
	p.setPhase(s, phase)
	p.Rollout.Rejected = &wasmev1.RejectedRevision{Revision: p.Rollout.To, Reason: bad.Reason, Message: condition.Cut(bad.Message), At: metav1.NewTime(s.Now)}
	p.Rejecting = true
	p.Again = soonest(p.Again, rejectDelay)
}

// await has the workloads that are due wait, but for so many of them: those whose pods
// prove that they run the last good revision come first, then those with few pods, and last
// those without any. A first revision is better in a workload without pods before its first
// pod starts.
func (p *Plan) await(s *State, admitted int) {
	var due []*Workload
	for i := range p.Workloads {
		w := &p.Workloads[i]
		first := w.Holds == nil && w.sidecars() == 0 && !w.moves && !p.broke(w) && !p.frozen
		begun := w.live || first || p.isStaged(s, w)
		if w.Phase == Due && !w.behind && w.Holds != p.InForce && (!begun || p.held()) {
			due = append(due, w)
		}
	}
	slices.SortStableFunc(due, func(a, b *Workload) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), cmp.Compare(a.sidecars(), b.sidecars()))
	})
	for _, w := range due[min(admitted, len(due)):] {
		w.Phase = AwaitingStep
		if w.Holds != nil && !w.outdated && s.Outputs.keyFor(s.Owner, w.Holds, w.Target) == w.Output {
			w.behind, w.inForce = true, w.Holds
		}
	}
}

// Waiting returns the places of the workloads that wait for a step and whose outputs are to
// stay what they are: what someone else changes there is undone meanwhile, too.
func (p *Plan) Waiting() []int {
	var waiting []int
	for i := range p.Workloads {
		if w := &p.Workloads[i]; w.Phase == AwaitingStep && w.behind && !p.Rejecting {
			waiting = append(waiting, i)
		}
	}
	return waiting
}

// rank returns 0 for a workload with pods that run what its output holds, 1 for one with
// others, and 2 for one without pods.
func (w *Workload) rank() int {
	if w.sidecars() == 0 {
		return 2
	}
	if w.Holds == nil {
		return 0
	}
	plugin := w.plugin(w.Holds)
	if slices.ContainsFunc(w.pods, func(pod Pod) bool { return pod.Sidecar && !pod.Seen.On(plugin).Proven() }) {
		return 1
	}
	return 0
}

// rolloutVerdict is Programmed while a staged rollout is not complete; without a reason
// when it has nothing to say.
func (p *Plan) rolloutVerdict(waiting int) condition.Verdict {
	if p.Rollout == nil {
		return condition.Verdict{}
	}
	r, all := p.Rollout, len(p.Workloads)
	switch {
	case r.Phase == wasmev1.RolloutRolledBack:
		return condition.FalseUntilChanged(wasmev1.ReasonRolledBack, fmt.Errorf("revision %s was rolled back to %s after a failure at %s: change the spec, or annotate with %s=%s to try again",
			r.To, cmp.Or(r.From, "nothing"), r.Rejected.Message, wasmev1.RetryAnnotation, nextRetry(r)))
	case r.Phase == wasmev1.RolloutHeld:
		return condition.FalseUntilChanged(wasmev1.ReasonRolloutHeld, fmt.Errorf("revision %s stays on %d of %d workloads after a failure at %s: change the spec, or annotate with %s=%s to try again",
			r.To, all-waiting, all, r.Rejected.Message, wasmev1.RetryAnnotation, nextRetry(r)))
	case r.Phase == wasmev1.RolloutPaused:
		return condition.Unknown(wasmev1.ReasonRolloutPaused, "revision %s on %d of %d workloads: remove spec.rollout.paused to go on", r.To, all-waiting, all)
	case r.Phase != wasmev1.RolloutComplete && waiting > 0:
		return condition.Unknown(wasmev1.ReasonSpreading, "revision %s on %d of %d workloads; the next step begins when their pods run it well%s", r.To, all-waiting, all, p.awaitedNote())
	}
	return condition.Verdict{}
}

// awaitedNote says what a step waits for beside its bake time; empty for nothing.
func (p *Plan) awaitedNote() string {
	if p.awaited == "" {
		return ""
	}
	return "; " + p.awaited
}

// nextRetry returns a value of the annotation that begins a failed rollout again: another one
// than before.
func nextRetry(r *wasmev1.RolloutStatus) string {
	if !strings.HasPrefix(r.Retried, r.To) {
		return r.To
	}
	return fmt.Sprintf("%s/%d", r.To, r.Rejected.At.Unix())
}
