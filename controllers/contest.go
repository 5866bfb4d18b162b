package controllers

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

const (
	// repairInterval is the least time between two repairs of one status that
	// something else overwrites: each repair may provoke the next overwriting.
	repairInterval = time.Minute
	// contestMemory is how long after the last repair the contest is still told.
	contestMemory = 5 * time.Minute
)

// contest is what a pass found of others that act on its FilterDeployment.
type contest struct {
	// verdict is the content of the condition; without a reason there is none.
	// Where it is True, Ready stays what it is.
	verdict
	// overwritten: the status that the operator wrote is gone.
	overwritten bool
	// told: an event has told that the status is overwritten.
	told bool
	// postponed: it is too soon to write the status again.
	postponed bool
	// again is when the answer changes by itself; 0: not.
	again time.Duration
}

// contested looks for others that act on the FilterDeployment or its outputs.
func (r *FilterDeploymentReconciler) contested(ctx context.Context, fd *wasmev1.FilterDeployment, existing outputs) contest {
	predecessor, labelled := r.predecessor(ctx), existing.revisionLabelled()
	overwritten, repaired := r.statuses.look(fd)
	since := r.Clock.Since(repaired)
	found := contest{overwritten: overwritten, told: since < contestMemory, postponed: overwritten && since < repairInterval}
	switch {
	case found.postponed:
		found.again = repairInterval - since
	case found.told:
		found.again = contestMemory - since
	}
	switch {
	case found.overwritten || found.told:
		found.verdict = refused(wasmev1.ReasonStatusOverwritten, "something else overwrites the status; it is written again once a minute at most. kubectl get -o yaml --show-managed-fields names who; if that is wasme: %s", predecessor.stopCommand())
	case len(labelled) > 0:
		found.verdict = existing.revisionLabelVerdict(labelled)
	case predecessor != nil:
		found.verdict = succeeded(wasmev1.ReasonPredecessorRunning, "the operator of wasme is still installed; stop it: %s", predecessor.stopCommand())
	}
	return found
}

// recordContest records that a contest began.
func (r *FilterDeploymentReconciler) recordContest(fd *wasmev1.FilterDeployment, before []metav1.Condition, found contest) {
	old := apimeta.FindStatusCondition(before, wasmev1.ConditionContested)
	if found.Reason == "" || found.told || old != nil && old.Reason == found.Reason {
		return
	}
	r.Recorder.Eventf(fd, nil, corev1.EventTypeWarning, found.Reason, "Reconcile", "%s", eventNote(found.Message))
}

// statuses remembers the FilterDeployments whose status is this operator's, as
// far as this process has written or seen it.
type statuses struct {
	mu    sync.Mutex
	known map[types.NamespacedName]knownStatus
}

type knownStatus struct {
	uid types.UID
	// repaired is when it was last written again after something else had
	// overwritten it; zero: never.
	repaired time.Time
}

// look tells whether a status is gone that was this operator's, and when such a
// one was repaired last. In a cache that is behind, a new status looks like one
// that is gone; writing it again is refused then.
func (s *statuses) look(fd *wasmev1.FilterDeployment) (overwritten bool, repaired time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, found := s.known[client.ObjectKeyFromObject(fd)]
	if !found || known.uid != fd.UID {
		return false, time.Time{}
	}
	return !hasOurStatus(fd), known.repaired
}

// keep remembers that the status is this operator's now.
func (s *statuses) keep(fd *wasmev1.FilterDeployment, repaired bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = map[types.NamespacedName]knownStatus{}
	}
	key := client.ObjectKeyFromObject(fd)
	known := s.known[key]
	if known.uid != fd.UID {
		known = knownStatus{uid: fd.UID}
	}
	if repaired {
		known.repaired = now
	}
	s.known[key] = known
}

// forget drops what is remembered of a FilterDeployment that is gone.
func (s *statuses) forget(name types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, name)
}

func hasOurStatus(fd *wasmev1.FilterDeployment) bool {
	return apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionReady) != nil
}

// statusLost lets through updates that take the operator's status away.
func statusLost() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, isBefore := e.ObjectOld.(*wasmev1.FilterDeployment)
			after, isAfter := e.ObjectNew.(*wasmev1.FilterDeployment)
			return isBefore && isAfter && hasOurStatus(before) && !hasOurStatus(after)
		},
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}
