package controllers

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// verdict is what one step of a pass found: the content of its condition, and
// what can help where it is not True.
type verdict struct {
	Status  metav1.ConditionStatus
	Reason  string
	Message string
	// Stalled: only a change of an object can help.
	Stalled bool
	// Err: another attempt can help; the queue's backoff decides when.
	Err error
}

func succeeded(reason, format string, args ...any) verdict {
	return verdict{Status: metav1.ConditionTrue, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// pending is the verdict of a step that waits for something which wakes the controller.
func pending(reason, format string, args ...any) verdict {
	return verdict{Status: metav1.ConditionUnknown, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// refused is the verdict of a step that something else retries, or that follows
// from an earlier step.
func refused(reason, format string, args ...any) verdict {
	return verdict{Status: metav1.ConditionFalse, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func stalled(reason string, err error) verdict {
	return verdict{Status: metav1.ConditionFalse, Reason: reason, Message: err.Error(), Stalled: true}
}

func failed(reason string, err error) verdict {
	return verdict{Status: metav1.ConditionFalse, Reason: reason, Message: err.Error(), Err: err}
}
