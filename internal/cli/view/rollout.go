package view

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// Progress is how far a rollout is.
type Progress struct {
	// Message is a sentence about it, without the name of the FilterDeployment.
	Message string
	// Done says that it is complete, and Failed that only a change lets it go on.
	Done, Failed bool
}

// ProgressOf reads how far the rollout of the newest spec is. A rollout is done when Ready
// is True and, if it is staged, when the bake time is over, too: until then it may go back.
func ProgressOf(fd *wasmev1.FilterDeployment) Progress {
	ready := apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionReady)
	if ready == nil || ptr.Deref(fd.Status.ObservedGeneration, -1) < fd.Generation {
		return Progress{Message: "Waiting for the operator to look at the newest spec..."}
	}
	current := ptr.Deref(fd.Status.Rollout, wasmev1.RolloutStatus{Phase: wasmev1.RolloutComplete})
	stalled := apimeta.IsStatusConditionTrue(fd.Status.Conditions, wasmev1.ConditionStalled)
	switch {
	case isRetried(fd):
		return Progress{Message: fmt.Sprintf("Waiting for the operator to retry revision %s...", current.To)}
	case failed(&current), stalled:
		return Progress{Message: ready.Message, Failed: true}
	case ready.Status != metav1.ConditionTrue:
		return Progress{Message: fmt.Sprintf("Waiting for rollout to finish: %s...", ready.Message)}
	case current.Phase == wasmev1.RolloutBaking:
		return Progress{Message: fmt.Sprintf("Waiting for rollout to finish: all pods run revision %s, and are watched for the bake time...", current.To)}
	case current.Phase != wasmev1.RolloutComplete:
		return Progress{Message: fmt.Sprintf("Waiting for rollout to finish: revision %s is %s...", current.To, current.Phase)}
	}
	return Progress{Message: "successfully rolled out", Done: true}
}

func failed(r *wasmev1.RolloutStatus) bool {
	return r != nil && (r.Phase == wasmev1.RolloutRolledBack || r.Phase == wasmev1.RolloutHeld)
}

// isRetried reports whether a rollout that failed is to begin again, and has not yet: an
// annotation asks for it, which is no new spec.
func isRetried(fd *wasmev1.FilterDeployment) bool {
	asked, last := fd.Annotations[wasmev1.RetryAnnotation], fd.Status.Rollout
	return failed(last) && asked != last.Retried && strings.HasPrefix(asked, last.To) && len(asked) <= wasmev1.MaxRetryLength
}

// RetryValue returns the value of the annotation wasme.io/retry that begins a rollout again
// that failed: another one than the value that was followed last. It is empty when no
// rollout has failed.
func RetryValue(fd *wasmev1.FilterDeployment) string {
	last := fd.Status.Rollout
	if !failed(last) {
		return ""
	}
	rest, again := strings.CutPrefix(last.Retried, last.To)
	if !again {
		return last.To
	}
	number, err := strconv.Atoi(strings.TrimPrefix(rest, "/"))
	if err != nil {
		number = 1
	}
	return fmt.Sprintf("%s/%d", last.To, number+1)
}

// History returns a table of revisions, the newest first. The outputs say which are live.
func History(fd *wasmev1.FilterDeployment, history []revision.Revision, outputs rollout.Outputs, now time.Time) *metav1.Table {
	table := NewTable("REVISION", "HASH", "STATE", "MODULE", "DIGEST", "AGE")
	live := map[string]int{}
	for _, output := range outputs {
		live[output.Revision]++
	}
	for _, known := range history {
		AddRow(table, strconv.FormatInt(known.Object.Revision, 10), known.Hash,
			stateOf(fd, known.Hash, live[known.Hash], len(outputs)),
			revision.Source(known.Filter), short(known.Module.SHA256), age(known.Object.CreationTimestamp, now))
	}
	return table
}

// stateOf says what became of a revision that so many of all outputs hold.
func stateOf(fd *wasmev1.FilterDeployment, hash string, live, all int) string {
	var parts []string
	if live > 0 {
		parts = append(parts, fmt.Sprintf("live on %d/%d", live, all))
	}
	if current := fd.Status.Rollout; current != nil {
		if current.Rejected != nil && current.Rejected.Revision == hash && current.To == hash {
			parts = append(parts, "rejected: "+current.Rejected.Reason)
		}
		if current.From == hash && current.To != hash && current.Phase != wasmev1.RolloutComplete {
			parts = append(parts, "last good")
		}
	}
	return strings.Join(parts, ", ")
}
