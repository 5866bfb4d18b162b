package controllers

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// loadTimeout is how long pods may take to run a revision: the 20 s that a fetch
// may take, and 10 s. So long a pod that became Ready after the others ran the
// revision does not count unless it runs it, too.
const loadTimeout = 30 * time.Second

// podProof is what is known of one Ready pod.
type podProof struct {
	name    string
	sidecar bool
	// age is the time since it became Ready.
	age time.Duration
	// young: it is no older than its siblings' proof, and not yet expected to
	// run the revision.
	young bool
	// waiting: its output waits, and verdict is on the revision before.
	waiting bool
	// waited is how long it has been waited for.
	waited time.Duration
	// spent: what it seems to refuse is not renewed any more.
	spent bool
	// anchored: the filter stands beside another one of the pod's proxy.
	anchored bool
	verdict  dataplane.Verdict
}

// proven tells whether the pod runs the revision in force.
func (p podProof) proven() bool { return !p.waiting && p.verdict.Proven() }

// unasked tells whether Ready waits for the pod's first answer.
func (p podProof) unasked() bool {
	return p.counts() && !p.waiting && p.verdict.State == dataplane.StateUnknown
}

// overdue tells whether the pod has had its time.
func (p podProof) overdue() bool { return !p.waiting && p.waited >= loadTimeout }

// counts tells whether Ready waits for the pod.
func (p podProof) counts() bool {
	return p.sidecar && (!p.young || p.proven())
}

// provePods is the last step: it finds out which pods run the revision in force.
func (r *FilterDeploymentReconciler) provePods(fd *wasmev1.FilterDeployment, p *pass) {
	owner := client.ObjectKeyFromObject(fd)
	switch {
	case r.Prober == nil:
		p.loaded = unproven("the operator runs with --prove-pods=false")
	case p.inForce == nil:
		r.Prober.Expect(owner, nil)
		p.loaded = pending(wasmev1.ReasonUnproven, "there is no revision to run yet")
	case p.targets == nil:
		p.loaded = pending(wasmev1.ReasonUnproven, "the workloads are not known")
	default:
		since, settled := waited(fd, p.inForce.hash)
		r.askPods(owner, p, since, settled)
		p.loaded = p.podsVerdict(settled && apimeta.IsStatusConditionTrue(fd.Status.Conditions, wasmev1.ConditionLoaded))
		seen := ptr.Deref(fd.Status.ObservedGeneration, 0) == fd.Generation
		if p.unasked = settled && seen && slices.ContainsFunc(p.pods(), podProof.unasked); p.unasked {
			p.loaded = formerLoaded(fd)
		}
	}
}

// podsVerdict is the table of Loaded, and what it cannot know. Pods that have
// just come are no reason for what was not loaded before to be so.
func (p *pass) podsVerdict(wasLoaded bool) verdict {
	pods := p.pods()
	v := loadedVerdict(pods, p.inForce.output())
	kinds := sets.New[string]()
	for _, t := range p.targets {
		kinds.Insert(t.workload.Kind)
	}
	switch {
	case v.Reason != wasmev1.ReasonNoPods:
		return v
	case len(pods) > 0 && !wasLoaded:
		return pending(wasmev1.ReasonLoading, "%s", v.Message)
	case len(pods) == 0 && kinds.Has(wasmev1.TargetKindService):
		return unproven("the pods of a Service's waypoint are not known")
	case len(pods) == 0 && kinds.Has(wasmev1.TargetKindGateway):
		v.Message = "no Ready pods have the label " + gatewayLabel + " with the name of the Gateway in targetRefs; those that come get the filter"
	}
	return v
}

// formerLoaded is what the status says of pods: after a restart it stays until
// they have answered.
func formerLoaded(fd *wasmev1.FilterDeployment) verdict {
	loaded := apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionLoaded)
	stalled := apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionStalled)
	return verdict{
		Status: loaded.Status, Reason: loaded.Reason, Message: loaded.Message,
		Stalled: stalled != nil && stalled.Reason == loaded.Reason,
	}
}

// pods are those of all targets.
func (p *pass) pods() []podProof {
	var all []podProof
	for _, t := range p.targets {
		all = append(all, t.pods...)
	}
	return all
}

// askPods gives the targets what is known of their pods.
func (r *FilterDeploymentReconciler) askPods(owner client.ObjectKey, p *pass, since time.Duration, settled bool) {
	content := p.inForce.hash
	position := p.inForce.filter.Place.Position
	anchored := position.Before != "" || position.After != ""
	var wanted []dataplane.Target
	var asked []*podProof
	for i := range p.targets {
		t := &p.targets[i]
		own := t.waitedFor(content, since, r.Clock.Now())
		expected := p.inForce
		if t.waits != "" {
			expected = t.holds
		}
		t.pods = make([]podProof, len(t.ready))
		plugin := ""
		if expected != nil {
			plugin = pluginName(owner, expected, t)
		}
		for j, pod := range t.ready {
			age := time.Since(readyCondition(pod).LastTransitionTime.Time)
			young := age < loadTimeout && (settled || age < since)
			t.pods[j] = podProof{name: pod.Name, sidecar: sidecarOf(pod) != nil, age: age, young: young, waiting: t.waits != "", waited: own, spent: t.fetch.renewedFor(content) >= maxRefused, anchored: anchored}
			if t.pods[j].sidecar && expected != nil {
				wanted = append(wanted, dataplane.Target{Pod: probed(pod), Plugin: plugin, Explain: true})
				asked = append(asked, &t.pods[j])
			}
		}
	}
	for i, verdict := range r.Prober.Expect(owner, wanted) {
		asked[i].verdict = verdict
	}
}

// waitedFor is how long the target's pods have been waited for, where all have
// been for the time since: less when its output was written later. A renewal
// gives them no more time.
func (t *target) waitedFor(revision string, since time.Duration, now time.Time) time.Duration {
	if t.fetch.revision != revision || t.fetch.renewals > 0 || now.Before(t.fetch.at) {
		return since
	}
	return min(since, now.Sub(t.fetch.at))
}

// pluginName is the name under which a target's proxies report the filter.
func pluginName(owner client.ObjectKey, expected *revision, t *target) string {
	if cmp.Or(t.output.kind, expected.output()) == wasmev1.OutputEnvoyFilter {
		return render.PluginName(owner, t.workload, expected.filter)
	}
	return owner.Namespace + "." + t.output.name
}

// readyPods are the Ready pods of a target, by name. Pods of a Service's
// waypoint are not known.
func (r *FilterDeploymentReconciler) readyPods(ctx context.Context, of render.Target) ([]*corev1.Pod, error) {
	var list corev1.PodList
	options := []client.ListOption{client.InNamespace(of.Namespace), client.MatchingFields{podTargetIndex: of.Kind + "/" + of.Name}, client.UnsafeDisableDeepCopy}
	if err := r.Client.List(ctx, &list, options...); err != nil {
		return nil, fmt.Errorf("listing the pods of %s: %w", of.Key(), err)
	}
	var ready []*corev1.Pod
	for i := range list.Items {
		if isReady(&list.Items[i]) {
			ready = append(ready, &list.Items[i])
		}
	}
	slices.SortFunc(ready, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return ready, nil
}

// waited is how long pods have been waited for with this revision: since Loaded
// became Loading, long enough once it is False. It is settled once Loaded is True.
func waited(fd *wasmev1.FilterDeployment, revision string) (since time.Duration, settled bool) {
	loaded := apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionLoaded)
	switch {
	case loaded == nil || fd.Status.Revision != revision:
		return 0, false
	case loaded.Status == metav1.ConditionTrue:
		return 0, true
	case loaded.Status == metav1.ConditionFalse:
		return loadTimeout, true
	default:
		return time.Since(loaded.LastTransitionTime.Time), false
	}
}

// unproven does not hold Ready back: nobody can tell.
func unproven(message string) verdict {
	return verdict{Status: metav1.ConditionTrue, Reason: wasmev1.ReasonUnproven, Message: "not asked what pods run: " + message}
}

// loadedVerdict is the table of Loaded. In its order:
//
//	no Ready pod                                 True     NoPods
//	none of them has a sidecar                   False    NoSidecar
//	none of them counts yet                      True     NoPods
//	one runs the revision and crashes            False    Crashing
//	all that count run it                        True     Loaded
//	some do not, none of them for loadTimeout    Unknown  Loading
//	some do not, and at least one says why       False    the most frequent cause;
//	                                                      Stalled when it is refused, and no renewal is left
//	some do not, and none of them answers        Unknown  Unreachable
func loadedVerdict(pods []podProof, output wasmev1.Output) verdict {
	if len(pods) == 0 {
		return succeeded(wasmev1.ReasonNoPods, "the workloads have no Ready pods; those that come get the filter")
	}
	if !slices.ContainsFunc(pods, func(p podProof) bool { return p.sidecar }) {
		return refused(wasmev1.ReasonNoSidecar, "none of %d Ready pods has a sidecar that could run the filter; have them injected (label istio-injection=enabled on the namespace) and restarted", len(pods))
	}
	counted := slices.DeleteFunc(slices.Clone(pods), func(p podProof) bool { return !p.counts() })
	if len(counted) == 0 {
		return succeeded(wasmev1.ReasonNoPods, "the pods have just come, and get the filter")
	}
	missing := slices.DeleteFunc(slices.Clone(counted), func(p podProof) bool { return p.proven() })
	overdue := slices.DeleteFunc(slices.Clone(missing), func(p podProof) bool { return !p.overdue() })
	crashing := slices.DeleteFunc(slices.Clone(counted), func(p podProof) bool { return !p.proven() || !p.verdict.Crashing })
	switch {
	case len(crashing) > 0:
		return refused(wasmev1.ReasonCrashing, "the module crashes on requests in %d of %d pods (%s); see their logs", len(crashing), len(counted), podNames(crashing))
	case len(missing) == 0:
		return succeeded(wasmev1.ReasonLoaded, "%d of %d pods run the filter%s", len(counted), len(counted), strength(output))
	case len(overdue) == 0:
		return pending(wasmev1.ReasonLoading, "%d of %d pods run the revision", len(counted)-len(missing), len(counted))
	}
	return missingVerdict(overdue, len(counted))
}

// strength says what a proof is worth: only an EnvoyFilter's shows the revision
// and, with FailReload, crashes.
func strength(output wasmev1.Output) string {
	if output == wasmev1.OutputEnvoyFilter {
		return " in this revision"
	}
	return fmt.Sprintf("; of a %s they do not show the revision", output)
}

// missingVerdict says why pods do not run the revision.
func missingVerdict(missing []podProof, counted int) verdict {
	causes := map[string][]podProof{}
	for _, p := range missing {
		reason := p.cause()
		causes[reason] = append(causes[reason], p)
	}
	unreachable := causes[wasmev1.ReasonUnreachable]
	delete(causes, wasmev1.ReasonUnreachable)
	reasons := make([]string, 0, len(causes))
	for reason := range causes {
		reasons = append(reasons, reason)
	}
	if len(reasons) == 0 {
		return pending(wasmev1.ReasonUnreachable, "%d of %d pods do not answer at their sidecar's metrics port (%s); let the operator reach it, or run it with --prove-pods=false", len(unreachable), counted, podNames(unreachable))
	}
	most := slices.MaxFunc(reasons, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(causes[a]), len(causes[b])), cmp.Compare(b, a))
	})
	v := refused(most, "%d of %d pods do not run the revision; %d of them (%s) %s", len(missing), counted, len(causes[most]), podNames(causes[most]), causeTexts[most])
	v.Stalled = (most == wasmev1.ReasonRefused || most == wasmev1.ReasonOlderRevision) && !slices.ContainsFunc(causes[most], func(p podProof) bool { return !p.spent })
	return v
}

// causeTexts say what reasons mean, and what helps.
var causeTexts = map[string]string{
	wasmev1.ReasonFetchFailed:   "could not fetch the module: let them reach the operator's module server (a NetworkPolicy may shut it), or the registry with distribution Registry; until then they deny requests, or with FailOpen let them pass unfiltered",
	wasmev1.ReasonOlderRevision: "go on with an older revision: Envoy refused the new one (its configuration, root id or module), or istiod has not sent it; the sidecar's log says which",
	wasmev1.ReasonRefused:       "do not run the filter: Envoy refused it (its configuration, root id or module), or another filter of theirs, which holds up those that come after it, or has no place for it (an HTTP listener, spec.filter.ports, spec.filter.position); the sidecar's log says which",
	wasmev1.ReasonNoListener:    "have no HTTP listener for the filter, or istiod has not sent it: a Service has to name their port http or http-…, and a Gateway resource a gateway's; spec.filter.ports and patchContext have to fit",
	wasmev1.ReasonAnchorMissing: "have no HTTP filter of the name in spec.filter.position to stand beside, or no HTTP listener: put that filter there, or change the position",
}

// cause is the reason why the pod does not run the revision.
func (p podProof) cause() string {
	v := p.verdict
	switch {
	case v.State == dataplane.StateUnknown, v.State == dataplane.StateUnreachable:
		return wasmev1.ReasonUnreachable
	case v.Fetch == dataplane.FetchFailed:
		return wasmev1.ReasonFetchFailed
	case v.State == dataplane.StateOtherRevision:
		return wasmev1.ReasonOlderRevision
	case v.Fetch == dataplane.FetchFailedBefore:
		return wasmev1.ReasonFetchFailed
	case v.Fetch == dataplane.FetchClean && v.Untried && p.anchored:
		return wasmev1.ReasonAnchorMissing
	case v.Fetch == dataplane.FetchClean && v.Untried:
		return wasmev1.ReasonNoListener
	default:
		return wasmev1.ReasonRefused
	}
}

func podNames(pods []podProof) string {
	return enumerate(pods, ", ", func(p podProof) string { return p.name })
}

// nextProof is when the next of the pods that are waited for has had its time;
// zero for never.
func nextProof(p pass) time.Duration {
	var next time.Duration
	for _, t := range p.targets {
		for _, pod := range t.pods {
			switch {
			case !pod.sidecar || pod.proven() || pod.waiting:
			case pod.young:
				next = soonest(next, max(loadTimeout-pod.age, time.Second))
			case !pod.overdue():
				next = soonest(next, max(loadTimeout-pod.waited, time.Second))
			}
		}
	}
	return next
}

// countPods fills the counts of pods.
func countPods(summary *wasmev1.WorkloadSummary, targets []target) {
	pods, loaded := 0, 0
	for _, t := range targets {
		for _, pod := range t.pods {
			if !pod.counts() {
				continue
			}
			pods++
			if pod.proven() {
				loaded++
			}
		}
	}
	summary.Pods, summary.PodsLoaded = new(int64(pods)), new(int64(loaded))
	summary.PodsReady = fmt.Sprintf("%d/%d", loaded, pods)
}
