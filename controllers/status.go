package controllers

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// namedInMessage is the number of workloads, or pods, that a message names.
const namedInMessage = 3

// writeStatus writes the status that a pass amounts to, if it is another one,
// and records the transition of Ready, of a contest and of overlaps. Where something else
// answers each status with its own, it lets some time pass.
func (r *FilterDeploymentReconciler) writeStatus(ctx context.Context, fd *wasmev1.FilterDeployment, found contest, set func(*wasmev1.FilterDeploymentStatus, int64)) error {
	if found.postponed {
		return nil
	}
	before := fd.DeepCopy()
	set(&fd.Status, fd.Generation)
	if equality.Semantic.DeepEqual(before.Status, fd.Status) {
		r.statuses.keep(fd, false, r.Clock.Now())
		return nil
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	err := r.Client.Status().Patch(ctx, fd, patch)
	if apierrors.IsNotFound(err) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	r.statuses.keep(fd, found.overwritten, r.Clock.Now())
	r.recordContest(fd, before.Status.Conditions, found)
	if !found.overwritten { // else what Ready was before is not known
		r.recordTransition(fd, before.Status.Conditions)
		r.recordOverlap(fd, before.Status.Conditions)
	}
	return nil
}

func (r *FilterDeploymentReconciler) recordTransition(fd *wasmev1.FilterDeployment, before []metav1.Condition) {
	old, now := apimeta.FindStatusCondition(before, wasmev1.ConditionReady), apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionReady)
	if old != nil && old.Status == now.Status && old.Reason == now.Reason {
		return
	}
	eventType := corev1.EventTypeNormal
	if now.Status == metav1.ConditionFalse || now.Reason == wasmev1.ReasonNoWorkloads {
		eventType = corev1.EventTypeWarning
	}
	r.Recorder.Eventf(fd, nil, eventType, now.Reason, "Reconcile", "%s", eventNote(now.Message))
}

// setSuspended keeps the status of the last pass, and says that there is none now.
func setSuspended(status *wasmev1.FilterDeploymentStatus, generation int64) {
	status.ObservedGeneration = new(generation)
	ready := metav1.Condition{Type: wasmev1.ConditionReady, Status: metav1.ConditionUnknown}
	if last := apimeta.FindStatusCondition(status.Conditions, wasmev1.ConditionReady); last != nil {
		ready.Status = last.Status
	}
	ready.Reason, ready.ObservedGeneration = wasmev1.ReasonSuspended, generation
	ready.Message = "spec.suspend is set: everything stays as it is, unwatched; Ready is as it was before"
	apimeta.SetStatusCondition(&status.Conditions, ready)
	apimeta.RemoveStatusCondition(&status.Conditions, wasmev1.ConditionReconciling)
}

// setStatus derives the status from what the pass found.
func (p pass) setStatus(status *wasmev1.FilterDeploymentStatus, generation int64) {
	status.ObservedGeneration = new(generation)
	ready := readyVerdict(p)
	set := func(kind string, v verdict) {
		apimeta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: kind, Status: v.Status, Reason: v.Reason, Message: cut(v.Message), ObservedGeneration: generation,
		})
	}
	set(wasmev1.ConditionModuleResolved, p.module)
	set(wasmev1.ConditionWorkloadsSelected, p.selection)
	set(wasmev1.ConditionProgrammed, p.programmed)
	if p.inForce != nil && status.Revision != p.inForce.hash {
		apimeta.RemoveStatusCondition(&status.Conditions, wasmev1.ConditionLoaded) // the time of its last transition is that of the revision
	}
	set(wasmev1.ConditionLoaded, p.loaded)
	set(wasmev1.ConditionReady, ready)
	setAbnormal := func(kind, reason, message string) {
		if reason == "" {
			apimeta.RemoveStatusCondition(&status.Conditions, kind)
			return
		}
		set(kind, verdict{Status: metav1.ConditionTrue, Reason: reason, Message: message})
	}
	for kind, reason := range abnormal(ready) {
		setAbnormal(kind, reason, ready.Message)
	}
	setAbnormal(wasmev1.ConditionContested, p.contest.Reason, p.contest.Message)
	setAbnormal(wasmev1.ConditionOverlapping, p.overlap.Reason, p.overlap.Message)
	status.Reason = ""
	if ready.Status == metav1.ConditionFalse {
		status.Reason = cut(ready.Message)
	}
	setRevision(status, p.inForce)
	if p.unasked {
		return
	}
	status.Workloads, status.Summary = nil, nil
	if p.targets != nil {
		setWorkloads(status, p)
	}
}

// readyVerdict is the first verdict that only a change of an object can mend,
// else the first that is not True, else what there is to say.
func readyVerdict(p pass) verdict {
	steps := []verdict{p.module, p.selection, p.programmed, p.loaded}
	if p.contest.Reason != "" {
		steps = append(steps, p.contest.verdict)
	}
	for _, v := range steps {
		if v.Stalled {
			return v
		}
	}
	for _, v := range steps {
		if v.Status != metav1.ConditionTrue {
			return v
		}
	}
	if p.selection.Reason == wasmev1.ReasonNoWorkloads {
		return p.selection
	}
	return succeeded(wasmev1.ReasonReady, "%s; %s", p.programmed.Message, p.loaded.Message)
}

// abnormal gives the reasons of the conditions that are present only while they
// are True: Stalled when nothing but a change of an object helps, Reconciling
// while there is work to do or to try again.
func abnormal(ready verdict) map[string]string {
	conditions := map[string]string{wasmev1.ConditionReconciling: "", wasmev1.ConditionStalled: ""}
	switch {
	case ready.Status == metav1.ConditionTrue:
	case ready.Stalled:
		conditions[wasmev1.ConditionStalled] = ready.Reason
	case ready.Status == metav1.ConditionUnknown:
		conditions[wasmev1.ConditionReconciling] = wasmev1.ReasonProgressing
	default:
		conditions[wasmev1.ConditionReconciling] = wasmev1.ReasonProgressingWithRetry
	}
	return conditions
}

func setRevision(status *wasmev1.FilterDeploymentStatus, inForce *revision) {
	status.Revision, status.Module = "", nil
	if inForce != nil {
		status.Revision, status.Module = inForce.hash, &inForce.Module
	}
}

// programmedVerdict sums up the outcomes of the workloads. Outputs that hold an
// earlier revision because the spec names none are not as the spec asks.
func programmedVerdict(targets []target, inForce *revision, standing standing) verdict {
	failures := failing(targets)
	switch {
	case len(failures) > 0:
		return failed(failures[0].reason, describeFailures(failures, len(targets)))
	case standing == distributing:
		return pending(wasmev1.ReasonDistributing, "every replica of the operator is to hold the new module before proxies ask for it")
	case inForce == nil:
		return refused(wasmev1.ReasonNothingResolved, "there is no module to run yet")
	case standing == lastGood:
		return refused(wasmev1.ReasonLastGoodRevision, "revision %s stays in force on %d workloads until the spec can be resolved", inForce.hash, len(targets)-waiting(targets))
	case waiting(targets) > 0:
		return pending(wasmev1.ReasonSpreading, "revision %s on %d of %d workloads; the others follow as pods have loaded it", inForce.hash, len(targets)-waiting(targets), len(targets))
	default:
		return succeeded(wasmev1.ReasonProgrammed, "revision %s on %d of %d workloads", inForce.hash, len(targets), len(targets))
	}
}

// waiting is the number of targets whose output has to wait.
func waiting(targets []target) int {
	count := 0
	for _, t := range targets {
		if t.waits != "" {
			count++
		}
	}
	return count
}

func failing(targets []target) []target {
	var out []target
	for _, t := range targets {
		if t.err != nil {
			out = append(out, t)
		}
	}
	return out
}

func describeFailures(failures []target, all int) error {
	text := enumerate(failures, "; ", func(t target) string { return fmt.Sprintf("%s: %v", t.workload.Key(), t.err) })
	return fmt.Errorf("%d of %d workloads failed: %s", len(failures), all, text)
}

// enumerate names the first of some things and counts the others.
func enumerate[T any](things []T, separator string, name func(T) string) string {
	parts := make([]string, 0, namedInMessage+1)
	for _, thing := range things[:min(len(things), namedInMessage)] {
		parts = append(parts, name(thing))
	}
	if more := len(things) - len(parts); more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(parts, separator)
}

// setWorkloads fills the predecessor's map and the counts over it.
func setWorkloads(status *wasmev1.FilterDeploymentStatus, p pass) {
	type entry struct {
		key   string
		state wasmev1.WorkloadStatus
	}
	programmed, entries := 0, make([]entry, 0, len(p.targets))
	for _, t := range p.targets {
		state := workloadStatus(t, p.inForce, p.standing)
		if state.State == wasmev1.WorkloadSucceeded {
			programmed++
			state = podsStatus(t, p.inForce)
		}
		entries = append(entries, entry{t.workload.Key(), state})
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(rank(a.state), rank(b.state)) })
	status.Workloads = map[string]wasmev1.WorkloadStatus{}
	for _, e := range entries[:min(len(entries), wasmev1.MaxWorkloadsInStatus)] {
		status.Workloads[e.key] = e.state
	}
	status.Summary = &wasmev1.WorkloadSummary{
		Workloads:      new(int64(len(p.targets))),
		Programmed:     new(int64(programmed)),
		WorkloadsReady: fmt.Sprintf("%d/%d", programmed, len(p.targets)),
	}
	countPods(status.Summary, p.targets)
	if omitted := len(p.targets) - len(status.Workloads); omitted > 0 {
		status.Summary.WorkloadsOmitted = new(int64(omitted))
	}
}

func rank(state wasmev1.WorkloadStatus) int {
	if state.State == wasmev1.WorkloadFailed {
		return 0
	}
	return 1
}

// podsStatus is the state of a workload whose output is in place: what Loaded
// would be if it were the only one.
func podsStatus(t target, inForce *revision) wasmev1.WorkloadStatus {
	switch v := loadedVerdict(t.pods, inForce.output()); v.Status {
	case metav1.ConditionTrue:
		return wasmev1.WorkloadStatus{State: wasmev1.WorkloadSucceeded}
	case metav1.ConditionFalse:
		return wasmev1.WorkloadStatus{State: wasmev1.WorkloadFailed, Reason: cut(v.Message)}
	default:
		return wasmev1.WorkloadStatus{State: wasmev1.WorkloadPending, Reason: cut(v.Message)}
	}
}

func workloadStatus(t target, inForce *revision, standing standing) wasmev1.WorkloadStatus {
	switch {
	case t.err != nil:
		return wasmev1.WorkloadStatus{State: wasmev1.WorkloadFailed, Reason: cut(t.err.Error())}
	case standing == distributing:
		return wasmev1.WorkloadStatus{State: wasmev1.WorkloadPending, Reason: "waits until every replica of the operator holds the new module"}
	case inForce == nil:
		return wasmev1.WorkloadStatus{State: wasmev1.WorkloadPending, Reason: "there is no module to run yet"}
	case t.waits != "":
		return wasmev1.WorkloadStatus{State: wasmev1.WorkloadPending, Reason: t.waits}
	case standing == lastGood:
		return wasmev1.WorkloadStatus{State: wasmev1.WorkloadPending, Reason: fmt.Sprintf("keeps revision %s until the spec can be resolved", inForce.hash)}
	default:
		return wasmev1.WorkloadStatus{State: wasmev1.WorkloadSucceeded}
	}
}

// cut bounds a message, by characters.
func cut(message string) string {
	runes := []rune(message)
	if len(runes) <= wasmev1.MaxMessageLength {
		return message
	}
	return string(runes[:wasmev1.MaxMessageLength-1]) + "…"
}

// eventNote bounds the text of an event, which the API server counts in bytes.
func eventNote(message string) string {
	const dots = "…"
	if len(message) <= wasmev1.MaxMessageLength {
		return message
	}
	end := wasmev1.MaxMessageLength - len(dots)
	for !utf8.RuneStart(message[end]) {
		end--
	}
	return message[:end] + dots
}
