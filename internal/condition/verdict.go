// Package condition says what one step of the operator's work found, and sums
// the steps up.
//
// A step returns a Verdict: the status, reason and message of its condition, and
// what can change them. FirstProblem picks the verdict that Ready repeats;
// Reconciling and Stalled follow from it. Set and SetWhileTrue write a verdict
// into status.conditions. Cut, EventNote and Enumerate keep messages short.
//
// To change what a condition says, look for its Verdict in the package that
// decides it (internal/workload, internal/rollout, internal/overlap). To change
// how conditions sum up, look here and at internal/rollout's Report.
package condition

import (
	"fmt"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// Verdict is what one step found: the content of its condition, and what can
// help where it is not True. The zero value stands for no condition.
type Verdict struct {
	Status  metav1.ConditionStatus
	Reason  string
	Message string
	// Stalled says that only a change of an object can help.
	Stalled bool
	// Err, if set, is retried with the queue's backoff.
	Err error
}

// True returns a verdict with status True.
func True(reason, format string, args ...any) Verdict {
	return Verdict{Status: metav1.ConditionTrue, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Unknown returns a verdict with status Unknown, for a step that waits for
// something which wakes the controller.
func Unknown(reason, format string, args ...any) Verdict {
	return Verdict{Status: metav1.ConditionUnknown, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// False returns a verdict with status False, for a step that something else
// retries, or that follows from an earlier step.
func False(reason, format string, args ...any) Verdict {
	return Verdict{Status: metav1.ConditionFalse, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// FalseUntilChanged returns a verdict with status False that only a change of an
// object can help: it makes the FilterDeployment Stalled.
func FalseUntilChanged(reason string, err error) Verdict {
	return Verdict{Status: metav1.ConditionFalse, Reason: reason, Message: err.Error(), Stalled: true}
}

// FalseAndRetried returns a verdict with status False whose error the queue
// retries with backoff.
func FalseAndRetried(reason string, err error) Verdict {
	return Verdict{Status: metav1.ConditionFalse, Reason: reason, Message: err.Error(), Err: err}
}

// FirstProblem returns the first verdict that only a change of an object can
// help, else the first that is not True, and whether there is one.
func FirstProblem(steps ...Verdict) (Verdict, bool) {
	for _, v := range steps {
		if v.Stalled {
			return v, true
		}
	}
	for _, v := range steps {
		if v.Status != metav1.ConditionTrue {
			return v, true
		}
	}
	return Verdict{}, false
}

// Reconciling returns the content of the condition Reconciling: there is work to
// do, or to try again. It is the zero value when there is none.
func Reconciling(ready Verdict) Verdict {
	switch {
	case ready.Status == metav1.ConditionTrue, ready.Stalled:
		return Verdict{}
	case ready.Status == metav1.ConditionUnknown:
		return True(wasmev1.ReasonProgressing, "%s", ready.Message)
	default:
		return True(wasmev1.ReasonProgressingWithRetry, "%s", ready.Message)
	}
}

// Stalled returns the content of the condition Stalled: nothing but a change of
// an object helps. It is the zero value when something else can.
func Stalled(ready Verdict) Verdict {
	if ready.Status == metav1.ConditionTrue || !ready.Stalled {
		return Verdict{}
	}
	return True(ready.Reason, "%s", ready.Message)
}

// Set writes a verdict into the conditions. The last transition is now if the status
// changed, or if the recorded time is in the future: the clock of the replica that
// wrote it was ahead.
func Set(conditions *[]metav1.Condition, kind string, v Verdict, generation int64, now time.Time) {
	if known := apimeta.FindStatusCondition(*conditions, kind); known != nil && known.LastTransitionTime.After(now) {
		known.LastTransitionTime = metav1.NewTime(now)
	}
	apimeta.SetStatusCondition(conditions, metav1.Condition{
		Type: kind, Status: v.Status, Reason: v.Reason, Message: Cut(v.Message),
		ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(now),
	})
}

// SetWhileTrue writes a condition that is present only while it is True: a
// verdict without a reason removes it, any other sets it to True.
func SetWhileTrue(conditions *[]metav1.Condition, kind string, v Verdict, generation int64, now time.Time) {
	if v.Reason == "" {
		apimeta.RemoveStatusCondition(conditions, kind)
		return
	}
	v.Status = metav1.ConditionTrue
	Set(conditions, kind, v, generation, now)
}
