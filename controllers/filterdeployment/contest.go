package filterdeployment

import (
	"fmt"
	"slices"
	"strings"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/legacy"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

const (
	// repairInterval is the least time between two repairs of one status that
	// something else overwrites: each repair may provoke the next overwriting.
	repairInterval = time.Minute
	// contestMemory is how long after the last repair the contest is still reported.
	contestMemory = 5 * time.Minute

	// controlPlaneLabel is Istio's. An istiod that has a revision, as all have that
	// are installed by Istio's charts, ignores objects that carry this label with
	// another one (LabelsInRevision in its pkg/config); a revision tag matches none.
	// All read what carries no such label, so outputs are made without it: a
	// workload may move from one revision to the next and keeps its filters.
	//
	// The label is not the operator's, so it is kept where someone puts it: a
	// platform may put it on everything in its namespaces, and would win.
	controlPlaneLabel = "istio.io/rev"
)

// contest is what a pass found of others that act on its FilterDeployment.
type contest struct {
	// Verdict is the content of the condition; without a reason there is none.
	// Where it is True, Ready stays what it is.
	condition.Verdict
	// overwritten says that the status that the operator wrote is gone.
	overwritten bool
	// reported says that an event has reported that the status is overwritten.
	reported bool
	// postponed says that it is too soon to write the status again.
	postponed bool
	// again is when the answer changes by itself; 0 for never.
	again time.Duration
}

// contested looks for others that act on the FilterDeployment or its outputs.
func (r *Reconciler) contested(fd *wasmev1.FilterDeployment, existing outputs) contest {
	labelled := existing.withControlPlaneLabel()
	overwritten, repaired := r.statuses.look(fd)
	since := r.Clock.Since(repaired)
	found := contest{overwritten: overwritten, reported: since < contestMemory, postponed: overwritten && since < repairInterval}
	switch {
	case found.postponed:
		found.again = repairInterval - since
	case found.reported:
		found.again = contestMemory - since
	}
	switch {
	case found.overwritten || found.reported:
		found.Verdict = condition.False(wasmev1.ReasonStatusOverwritten, "something else overwrites the status, which is written again once a minute at most: find out what with kubectl get -o yaml --show-managed-fields; if it is wasme, run %s", legacy.StopCommand)
	case len(labelled) > 0:
		found.Verdict = existing.controlPlaneVerdict(labelled)
	}
	return found
}

// withControlPlaneLabel returns the outputs that only the istiods of one revision
// read, in the order of their kinds and names.
func (o outputs) withControlPlaneLabel() []rollout.OutputKey {
	var keys []rollout.OutputKey
	for key, object := range o {
		if _, labelled := object.GetLabels()[controlPlaneLabel]; labelled {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b rollout.OutputKey) int { return strings.Compare(a.String(), b.String()) })
	return keys
}

// controlPlaneVerdict says what the label does to the first of the outputs, how
// many more there are, and how to remove it.
func (o outputs) controlPlaneVerdict(labelled []rollout.OutputKey) condition.Verdict {
	first := labelled[0]
	object, kind := o[first], istio.Kinds[first.Kind]
	more := ""
	if len(labelled) > 1 {
		more = fmt.Sprintf(" (and %d more outputs)", len(labelled)-1)
	}
	return condition.True(wasmev1.ReasonRevisionLabel, "%s%s has the label %s=%s, which the operator did not set, so no istiod of another revision reads it: remove it with kubectl label %s.%s %s -n %s %s-",
		first, more, controlPlaneLabel, object.GetLabels()[controlPlaneLabel], kind.Resource, kind.Group, first.Name, object.GetNamespace(), controlPlaneLabel)
}

// statusMemory remembers the FilterDeployments whose status is this operator's,
// as far as this process has written or seen it.
type statusMemory struct{ memory[knownStatus] }

type knownStatus struct {
	uid types.UID
	// repaired is when it was last written again after something else had
	// overwritten it; zero for never.
	repaired time.Time
}

// look reports whether a status is gone that was this operator's, and when such a
// one was repaired last. In a cache that is behind, a new status looks like one
// that is gone; writing it again is refused then.
func (s *statusMemory) look(fd *wasmev1.FilterDeployment) (overwritten bool, repaired time.Time) {
	known := s.of(client.ObjectKeyFromObject(fd))
	if known.uid == "" || known.uid != fd.UID {
		return false, time.Time{}
	}
	return !hasStatus(fd), known.repaired
}

// keep remembers that the status is this operator's now.
func (s *statusMemory) keep(fd *wasmev1.FilterDeployment, repaired bool, now time.Time) {
	name := client.ObjectKeyFromObject(fd)
	known := s.of(name)
	if known.uid != fd.UID {
		known = knownStatus{uid: fd.UID}
	}
	if repaired {
		known.repaired = now
	}
	s.memory.keep(name, known)
}

// hasStatus reports whether a FilterDeployment has a status of this operator.
func hasStatus(fd *wasmev1.FilterDeployment) bool {
	return apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionReady) != nil
}
