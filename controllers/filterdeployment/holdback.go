package filterdeployment

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// Writes that would only provoke the same answer again are held back, and each time
// longer: repairs of an output that something else keeps changing, and writes that the
// API server refuses.
var (
	repairWaits   = doubling(time.Second, 5*time.Minute)
	refusalWaits  = doubling(time.Second, 10*time.Minute)
	conflictWaits = doubling(MinBackoff, maxBackoff)
)

// FieldOwner is the field manager of what the operator writes.
const FieldOwner = "wasme-operator"

// errOverwritten: something else keeps changing the output.
var errOverwritten = errors.New("something else keeps changing it")

// repairKey is an output of a FilterDeployment.
type repairKey struct {
	name   types.NamespacedName
	output rollout.OutputKey
}

// heldBack returns errOverwritten, and who it is, when an output was repaired too short
// a time ago to be repaired again.
func (r *Reconciler) heldBack(ctx context.Context, name types.NamespacedName, key rollout.OutputKey) error {
	if r.repairs.left(repairKey{name, key}, r.Clock.Now()) == 0 {
		return nil
	}
	by, known := r.overwriters.of(name, key)
	if !known {
		by = r.lastWriter(ctx, name.Namespace, key)
		r.overwriters.update(name, key, func(string) string { return by })
	}
	return fmt.Errorf("%w%s: stop that; another installation of this operator needs another --class", errOverwritten, by)
}

// lastWriter says who changed an output last; empty when that is not known.
func (r *Reconciler) lastWriter(ctx context.Context, namespace string, key rollout.OutputKey) string {
	live := istio.Kinds[key.Kind].New()
	if err := r.Reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: key.Name}, live); err != nil {
		log.FromContext(ctx).Error(err, "Looking for what changes an output", "kind", key.Kind, "output", klog.KRef(namespace, key.Name))
		return ""
	}
	var last *metav1.ManagedFieldsEntry
	for i, entry := range live.GetManagedFields() {
		later := last == nil || last.Time.Before(entry.Time) || last.Time.Equal(entry.Time) && last.Manager == FieldOwner
		if entry.Time != nil && later {
			last = &live.GetManagedFields()[i]
		}
	}
	if last == nil {
		return ""
	}
	return fmt.Sprintf(", last %s at %s", last.Manager, last.Time.UTC().Format(time.TimeOnly))
}

// refusal is what the API server refused of a FilterDeployment.
type refusal struct {
	// what was refused: the revision and the kind of its outputs.
	what string
	// workloads are the errors by the workloads' keys.
	workloads map[string]error
	// probe is the key of the workload whose output was tried last, for all of them.
	probe string
}

// choose sets the probe: of these workloads, the one after the last, in the order of their
// keys.
func (f *refusal) choose(keys []string) {
	slices.Sort(keys)
	place, found := slices.BinarySearch(keys, f.probe)
	if found {
		place++
	}
	f.probe = keys[place%len(keys)]
}

// whatIsWritten identifies what the outputs are to hold.
func whatIsWritten(plan *rollout.Plan) string {
	if plan.InForce == nil {
		return ""
	}
	return string(plan.InForce.OutputKind()) + "/" + plan.InForce.Hash
}

// holdRefused notes in the state which of the workloads at these places are held back,
// because the API server refused their outputs, and returns the others. After the wait,
// one of them is tried: when it is accepted, so are the others at once.
func (r *Reconciler) holdRefused(state *rollout.State, plan *rollout.Plan, places []int) []int {
	known := r.refusals.of(state.Owner)
	if known == nil || known.what != whatIsWritten(plan) {
		return places
	}
	var try, held []int
	var keys []string
	for _, place := range places {
		if key := plan.Workloads[place].Key(); known.workloads[key] != nil {
			held, keys = append(held, place), append(keys, key)
		} else {
			try = append(try, place)
		}
	}
	probing := len(held) > 0 && r.refusalWaits.left(state.Owner, state.Now) == 0
	if probing {
		known.choose(keys)
	}
	for _, place := range held {
		w := &plan.Workloads[place]
		if probing && w.Key() == known.probe {
			try = append(try, place)
			continue
		}
		state.Targets[place].Attempt = &rollout.Attempt{Output: w.Output, Fetch: w.Fetch, Reason: wasmev1.ReasonOutputRefused, Err: known.workloads[w.Key()]}
	}
	return try
}

// noteRefusals remembers what the API server refused. refused says that it refused
// something in this pass, and not only before.
func (r *Reconciler) noteRefusals(state *rollout.State, plan *rollout.Plan, refused bool) {
	found := &refusal{what: whatIsWritten(plan), workloads: map[string]error{}}
	known := r.refusals.of(state.Owner)
	another := known != nil && known.what != found.what
	accepted := false
	for i := range plan.Workloads {
		w := &plan.Workloads[i]
		refusedBefore := known != nil && known.workloads[w.Key()] != nil
		switch {
		case w.Phase == rollout.Failed && w.Reason == wasmev1.ReasonOutputRefused:
			found.workloads[w.Key()] = w.Err
		case w.Phase == rollout.Programmed && refusedBefore && !another:
			accepted = true
		}
	}
	switch {
	case len(found.workloads) == 0, accepted: // then the others are tried at once
		r.forgetRefusals(state.Owner)
	case refused:
		if another {
			r.refusalWaits.end(state.Owner)
		} else if known != nil {
			found.probe = known.probe
		}
		r.refusals.keep(state.Owner, found)
		r.refusalWaits.extend(state.Owner, refusalWaits, r.Clock.Now()) // not from the beginning of a pass, which may be slow
	}
}

func (r *Reconciler) forgetRefusals(name types.NamespacedName) {
	r.refusals.forget(name)
	r.refusalWaits.end(name)
}

// heldBackFor returns how long it is until the next attempt for a FilterDeployment all
// of whose failures are held back; 0 when one is to be retried with the queue's backoff.
func (r *Reconciler) heldBackFor(name types.NamespacedName, plan *rollout.Plan) time.Duration {
	now := r.Clock.Now()
	shortest := time.Duration(0)
	for i := range plan.Workloads {
		w := &plan.Workloads[i]
		if w.Phase != rollout.Failed {
			continue
		}
		left := time.Duration(0)
		switch w.Reason {
		case wasmev1.ReasonOutputRefused:
			left = r.refusalWaits.left(name, now)
		case wasmev1.ReasonOutputOverwritten:
			left = r.repairs.left(repairKey{name, w.Output}, now)
		}
		if left == 0 {
			return 0
		}
		if shortest == 0 || left < shortest {
			shortest = left
		}
	}
	return shortest
}

// overwritten is the content of Contested for outputs that something else keeps changing.
func overwritten(plan *rollout.Plan) condition.Verdict {
	for i := range plan.Workloads {
		if w := &plan.Workloads[i]; w.Phase == rollout.Failed && w.Reason == wasmev1.ReasonOutputOverwritten {
			return condition.True(wasmev1.ReasonOutputOverwritten, "%v", w.Err)
		}
	}
	return condition.Verdict{}
}
