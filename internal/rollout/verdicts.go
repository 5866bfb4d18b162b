package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

func compare[T cmp.Ordered](a, b T) int { return cmp.Compare(a, b) }

// programmedVerdict sums up the outcomes of the workloads. Outputs that hold an
// earlier revision because the spec cannot be resolved are not as the spec asks.
func (p *Plan) programmedVerdict(blocked condition.Verdict) condition.Verdict {
	if blocked.Reason != "" {
		return blocked
	}
	all, waiting := len(p.Workloads), p.waiting()
	rollout, rendering := p.rolloutVerdict(waiting), p.renderingVerdict()
	failures := filtered(p.Workloads, func(w Workload) bool { return w.Phase == Failed })
	switch {
	case len(failures) > 0:
		return condition.FalseAndRetried(failures[0].Reason, describeFailures(failures, all))
	case p.Standing == Distributing:
		return distributingVerdict(p.undistributed)
	case p.Standing == Withdrawn:
		return condition.False(wasmev1.ReasonLastGoodRevision, "revision %s gave way to %s, because it %s", p.Rollout.To, p.backTo(), p.whyBack())
	case rollout.Reason != "" && !p.superseded:
		return rollout
	case p.InForce == nil:
		return condition.False(wasmev1.ReasonNothingResolved, "there is no module to run yet")
	case p.Standing == LastGood, p.superseded:
		return condition.False(wasmev1.ReasonLastGoodRevision, "revision %s stays in force on %d workloads until the spec can be applied", p.InForce.Hash, all-waiting)
	case rendering.Reason != "":
		return rendering
	case waiting > 0:
		return condition.Unknown(wasmev1.ReasonSpreading, "revision %s on %d of %d workloads; the others follow once pods have loaded it", p.InForce.Hash, all-waiting, all)
	default:
		return condition.True(wasmev1.ReasonProgrammed, "revision %s on %d of %d workloads%s", p.InForce.Hash, all, all, p.deletedNote())
	}
}

func distributingVerdict(why error) condition.Verdict {
	const waits = "waiting until every replica of the operator serves the new module"
	if why == nil {
		return condition.Unknown(wasmev1.ReasonDistributing, waits)
	}
	return condition.Unknown(wasmev1.ReasonDistributing, "%s, for a minute at most: %v", waits, why)
}

// deletedNote says whose outputs stay although their workloads are gone; empty for none.
func (p *Plan) deletedNote() string {
	if len(p.Deleted) == 0 {
		return ""
	}
	return "; outputs of deleted workloads stay until their pods are gone: " + condition.Enumerate(p.Deleted, ", ", func(d Deleted) string {
		return fmt.Sprintf("%s (pods: %d)", d.Workload, d.Pods)
	})
}

func describeFailures(failures []Workload, all int) error {
	text := condition.Enumerate(failures, "; ", func(w Workload) string { return fmt.Sprintf("%s: %v", w.Key(), w.Err) })
	described := &failedWorkloads{text: fmt.Sprintf("%d of %d workloads failed: %s", len(failures), all, text)}
	for _, w := range failures {
		described.causes = append(described.causes, w.Err)
	}
	return described
}

// failedWorkloads is an error that names workloads, as many as fit, and wraps what failed in all of them.
type failedWorkloads struct {
	text   string
	causes []error
}

func (e *failedWorkloads) Error() string   { return e.text }
func (e *failedWorkloads) Unwrap() []error { return e.causes }

// proveAll says of each pod what is known of the revision that it is to run.
func (p *Plan) proveAll(s *State) {
	if s.Unverified != "" {
		return
	}
	pods := 0
	for i := range p.Workloads {
		pods += len(p.Workloads[i].pods)
	}
	p.proofs = make([]Proof, 0, pods)
	for i := range p.Workloads {
		w := &p.Workloads[i]
		if !p.notRequired {
			w.Unproven = w.unproven()
		}
		first := len(p.proofs)
		p.proofs = p.appendProofs(p.proofs, w, s)
		w.Proofs = p.proofs[first:]
	}
}

// appendProofs appends what is known of the pods of a workload.
func (p *Plan) appendProofs(proofs []Proof, w *Workload, s *State) []Proof {
	waited, settled := waitedFor(&s.Status, p.InForce.Hash, s.Now)
	position := p.InForce.Rendered.Place.Position
	anchored := position.Before != "" || position.After != ""
	own := w.Fetch.waited(p.InForce.Hash, waited, s.Now)
	plugin := ""
	if expected := w.expected(); expected != nil && len(w.pods) > 0 {
		plugin = w.plugin(expected)
	}
	for _, pod := range w.pods {
		age := pod.age(s.Now)
		proof := Proof{
			name: pod.Name, workload: w.Key(), sidecar: pod.Sidecar, age: age, young: age < LoadTimeout && (settled || age < waited),
			waiting: w.Waits() && w.Phase != AwaitingRendering, waited: own, spent: w.Fetch.renewedFor(p.InForce.Hash) >= maxRefused, anchored: anchored,
		}
		if pod.Sidecar && plugin != "" {
			proof.verdict = pod.Seen.On(plugin)
		}
		proofs = append(proofs, proof)
	}
	return proofs
}

// waitedFor returns how long pods have been waited for with a revision: since
// Loaded became Loading, long enough once it is False. It is settled once Loaded
// is True or False.
func waitedFor(status *wasmev1.FilterDeploymentStatus, revision string, now time.Time) (waited time.Duration, settled bool) {
	loaded := apimeta.FindStatusCondition(status.Conditions, wasmev1.ConditionLoaded)
	switch {
	case loaded == nil || status.Revision != revision:
		return 0, false
	case loaded.Status == metav1.ConditionTrue:
		return 0, true
	case loaded.Status == metav1.ConditionFalse:
		return LoadTimeout, true
	default:
		return now.Sub(notAfter(now, loaded.LastTransitionTime.Time)), false
	}
}

// waited returns how long the pods of one workload have been waited for, where
// all have been for the time since: less when its output was written later. A
// renewal gives them no more time.
func (f Fetch) waited(revision string, since time.Duration, now time.Time) time.Duration {
	if f.Revision != revision || f.Renewals > 0 || now.Before(f.At) {
		return since
	}
	return min(since, now.Sub(f.At))
}

// Expectations returns what the sidecars of the pods are to run, and to try.
func (p *Plan) Expectations() []dataplane.Expectation {
	if !p.verifyPods {
		return nil
	}
	var expectations []dataplane.Expectation
	left := 0 // pods to watch
	if r := p.Rollout; r != nil && p.Standing == Current && (r.Phase == wasmev1.RolloutProgressing || r.Phase == wasmev1.RolloutBaking) {
		left = MaxLoadingPods
	}
	for i := range p.Workloads {
		w := &p.Workloads[i]
		plugins, counted := p.plugins(w), w.counted()
		for _, pod := range w.pods {
			if !pod.Sidecar {
				continue
			}
			counts := counted(pod)
			for _, e := range p.pluginsOf(w, pod, plugins) {
				e.Pod, e.Watch, e.Count = pod.Address, e.Watch && left > 0, counts
				if e.Watch {
					left--
				}
				expectations = append(expectations, e)
			}
		}
	}
	return expectations
}

// pluginsOf returns what one of the pods is to run and to try.
func (p *Plan) pluginsOf(w *Workload, pod Pod, plugins []dataplane.Expectation) []dataplane.Expectation {
	if !w.tries() || !w.canary.runs(pod.Name) {
		return plugins
	}
	canary := dataplane.Expectation{Plugin: render.CanaryPluginName(w.owner, w.Target, w.staged.Hash), Explain: true, Watch: true}
	return []dataplane.Expectation{canary, plugins[len(plugins)-1]}
}

// plugins returns what each pod of a workload is to run and to try.
func (p *Plan) plugins(w *Workload) []dataplane.Expectation {
	var plugins []dataplane.Expectation
	if expected := w.expected(); expected != nil {
		plugins = append(plugins, dataplane.Expectation{Plugin: w.plugin(expected), Explain: true, Watch: expected == p.InForce, ProvedBefore: p.provedBefore})
	}
	if w.tries() {
		plugins = append(plugins, dataplane.Expectation{Plugin: render.StagedPluginName(w.owner, w.Target, w.staged.Hash), Explain: true, Attempt: w.stagedFetch.Renewals})
	}
	return plugins
}

// judgePods derives Loaded, and when to look at pods again.
func (p *Plan) judgePods(s *State) {
	switch {
	case s.Unverified != "":
		p.Loaded = unverified(s.Unverified)
		return
	case p.InForce == nil:
		p.Loaded = condition.Unknown(wasmev1.ReasonUnproven, "there is no revision to run yet")
		return
	case p.Workloads == nil:
		p.Loaded = condition.Unknown(wasmev1.ReasonUnproven, "the workloads are not known")
		return
	}
	_, settled := waitedFor(&s.Status, p.InForce.Hash, s.Now)
	p.Loaded = p.podsVerdict(settled && apimeta.IsStatusConditionTrue(s.Status.Conditions, wasmev1.ConditionLoaded))
	observed := ptr.Deref(s.Status.ObservedGeneration, 0) == s.Generation
	proofs := p.proofs
	if p.Unanswered = settled && observed && slices.ContainsFunc(proofs, Proof.unanswered); p.Unanswered {
		p.Loaded = formerLoaded(&s.Status)
	}
	for _, proof := range proofs {
		if proof.silent() && p.Loaded.Status == metav1.ConditionTrue {
			continue // it is tolerated for as long as it is silent
		}
		p.Again = soonest(p.Again, proof.deadline())
	}
}

// unverified does not hold Ready back: nobody can know.
func unverified(why string) condition.Verdict {
	return condition.True(wasmev1.ReasonUnproven, "pods were not asked what they run: %s", why)
}

// podsVerdict is the table of Loaded, and what it cannot know. Pods that have
// just started are no reason for what was not loaded before to be loaded.
func (p *Plan) podsVerdict(wasLoaded bool) condition.Verdict {
	pods := p.proofs
	if p.notRequired {
		answering := filtered(pods, func(p Proof) bool { return !p.silent() })
		if len(answering) == 0 && len(pods) > 0 {
			return condition.True(wasmev1.ReasonUnproven, "none of %d pods answers, and spec.deployment.istio.verification is NotRequired", len(pods))
		}
		pods = answering
	}
	v := loadedVerdict(pods, p.InForce.OutputKind())
	unproven := filtered(p.Workloads, func(w Workload) bool { return w.Unproven != "" })
	switch {
	case v.Status == metav1.ConditionTrue && len(unproven) > 0:
		return unprovenVerdict(unproven, len(p.Workloads))
	case v.Reason != wasmev1.ReasonNoPods:
		return v
	case len(pods) > 0 && !wasLoaded:
		return condition.Unknown(wasmev1.ReasonLoading, "%s", v.Message)
	}
	return v
}

// unproven says why nothing can show whether a targetRef runs the filter; empty for a
// workload, which has pods or runs nothing.
func (w *Workload) unproven() string {
	switch {
	case !w.IsReference() || len(w.pods) > 0:
		return ""
	case w.Proxies.Missing != "":
		return w.Proxies.Missing
	default:
		return fmt.Sprintf("no Ready pod in namespace %s has the label %s: %s", w.Proxies.Gateway.Namespace, workload.GatewayLabel, w.Proxies.Gateway.Name)
	}
}

func unprovenVerdict(unproven []Workload, all int) condition.Verdict {
	why := condition.Enumerate(unproven, "; ", func(w Workload) string { return w.Kind + " " + w.Name + ", because " + w.Unproven })
	return condition.Unknown(wasmev1.ReasonUnproven, "nothing shows whether %d of %d targetRefs run the filter (%s): start their proxies, or set spec.deployment.istio.verification to NotRequired", len(unproven), all, why)
}

// formerLoaded returns what the status says of pods: after a restart it stays
// until they have answered.
func formerLoaded(status *wasmev1.FilterDeploymentStatus) condition.Verdict {
	loaded := apimeta.FindStatusCondition(status.Conditions, wasmev1.ConditionLoaded)
	stalled := apimeta.FindStatusCondition(status.Conditions, wasmev1.ConditionStalled)
	return condition.Verdict{
		Status: loaded.Status, Reason: loaded.Reason, Message: loaded.Message,
		Stalled: stalled != nil && stalled.Reason == loaded.Reason,
	}
}
