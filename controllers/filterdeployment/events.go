package filterdeployment

import (
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// Reasons of events beside those of Ready, of the contests and overlaps, and of
// workloads (rollout.EventLoaded …).
const (
	// eventReplaced: an EnvoyFilter of wasme's operator was replaced.
	eventReplaced = "Replaced"
	// eventRenewed: pods are told to fetch the module again.
	eventRenewed = "Renewed"
)

// record records an event about a FilterDeployment.
func (r *Reconciler) record(fd *wasmev1.FilterDeployment, related runtime.Object, eventType, reason, note string) {
	r.Recorder.Eventf(fd, related, eventType, reason, "Reconcile", "%s", condition.EventNote(note))
}

// recordTransition records a change of Ready's status or reason.
func (r *Reconciler) recordTransition(fd *wasmev1.FilterDeployment, before []metav1.Condition) {
	old, now := apimeta.FindStatusCondition(before, wasmev1.ConditionReady), apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionReady)
	if old != nil && old.Status == now.Status && old.Reason == now.Reason {
		return
	}
	eventType := corev1.EventTypeNormal
	if now.Status == metav1.ConditionFalse || now.Reason == wasmev1.ReasonNoWorkloads {
		eventType = corev1.EventTypeWarning
	}
	r.record(fd, nil, eventType, now.Reason, now.Message)
}

// recordContest records that a contest began.
func (r *Reconciler) recordContest(fd *wasmev1.FilterDeployment, before []metav1.Condition, found contest) {
	old := apimeta.FindStatusCondition(before, wasmev1.ConditionContested)
	if found.Reason == wasmev1.ReasonOutputOverwritten {
		return // the transition of Ready says so
	}
	if found.Reason == "" || found.reported || old != nil && old.Reason == found.Reason {
		return
	}
	r.record(fd, nil, corev1.EventTypeWarning, found.Reason, found.Message)
}

// recordOverlap records each change of what overlaps, but not its end.
func (r *Reconciler) recordOverlap(fd *wasmev1.FilterDeployment, before []metav1.Condition) {
	old, now := apimeta.FindStatusCondition(before, wasmev1.ConditionOverlapping), apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionOverlapping)
	if now == nil || old != nil && old.Reason == now.Reason && old.Message == now.Message {
		return
	}
	r.record(fd, nil, corev1.EventTypeWarning, now.Reason, now.Message)
}

// recordRenewals records in one event, however many workloads there are, that
// pods are told to fetch for the first time.
func (r *Reconciler) recordRenewals(fd *wasmev1.FilterDeployment, plan *rollout.Plan) {
	if keys := plan.Renewals(); len(keys) > 0 {
		names := condition.Enumerate(keys, ", ", func(key string) string { return key })
		r.record(fd, nil, corev1.EventTypeWarning, eventRenewed, "pods do not run the revision and are told to fetch the module again, with backoff: "+names)
	}
}

// A FilterDeployment has workloadEvents passes with events about workloads at
// once, and one more each minute. What is not reported then is reported later, if
// it is still so.
const (
	workloadEvents          = 5
	workloadEventsPerSecond = 1.0 / 60
)

// recordWorkloads records what changed at the workloads since it did so last.
func (r *Reconciler) recordWorkloads(fd *wasmev1.FilterDeployment, reported *reportedWorkloads, plan *rollout.Plan) {
	news := reported.Compare(plan)
	if len(news) == 0 || !reported.allow(r.Clock) {
		return
	}
	for _, event := range news.Events() {
		eventType := corev1.EventTypeWarning
		if event.Reason == rollout.EventLoaded {
			eventType = corev1.EventTypeNormal
		}
		r.record(fd, nil, eventType, event.Reason, event.Note)
	}
	reported.Keep(news)
}

// reportedMemory remembers what events reported of the workloads of each
// FilterDeployment.
type reportedMemory struct{ memory[*reportedWorkloads] }

// reportedWorkloads are those of one FilterDeployment, which one pass at a time uses.
type reportedWorkloads struct {
	*rollout.Reported
	uid types.UID
	// limiter is made with the first event.
	limiter flowcontrol.PassiveRateLimiter
}

// of returns what was reported of a FilterDeployment: what its status says, the
// first time that it is seen.
func (m *reportedMemory) of(fd *wasmev1.FilterDeployment) *reportedWorkloads {
	name := client.ObjectKeyFromObject(fd)
	known := m.memory.of(name)
	if known == nil || known.uid != fd.UID {
		known = &reportedWorkloads{Reported: rollout.ReportedBy(&fd.Status), uid: fd.UID}
		m.keep(name, known)
	}
	return known
}

// allow bounds the events of one FilterDeployment.
func (w *reportedWorkloads) allow(clk clock.PassiveClock) bool {
	if w.limiter == nil {
		w.limiter = flowcontrol.NewTokenBucketPassiveRateLimiterWithClock(workloadEventsPerSecond, workloadEvents, clk)
	}
	return w.limiter.TryAccept()
}
