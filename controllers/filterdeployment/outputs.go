package filterdeployment

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/outputkinds"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/legacy"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// Outputs with our label are watched, so that what someone changes or deletes is
// repaired; get asks the API server whose an existing object is.
// +kubebuilder:rbac:groups=networking.istio.io,resources=envoyfilters,verbs=get;list;watch;create;update;delete
// +kubebuilder:rbac:groups=extensions.istio.io,resources=wasmplugins;trafficextensions,verbs=get;list;watch;create;update;delete

// writers is the number of outputs of one FilterDeployment written at once.
const writers = 16

// errNameTaken: the output's name belongs to another FilterDeployment.
var errNameTaken = errors.New("the name belongs to another FilterDeployment: set another spec.filter.id")

// errForeign: the output's name belongs to an object that is not the operator's.
var errForeign = errors.New("exists and was not made by the operator: delete it, or set another spec.filter.id")

// outputs are the outputs that exist for a FilterDeployment, as the cache has
// them: metadata and a hash of the spec.
type outputs map[rollout.OutputKey]istio.Output

// describe returns what the outputs say of themselves.
func (o outputs) describe() rollout.Outputs {
	described := make(rollout.Outputs, len(o))
	for key, object := range o {
		described[key] = rollout.OutputOf(object)
	}
	return described
}

// listOutputs leaves out what has our labels and is someone else's: a copy, or
// the output of a FilterDeployment whose name has the same hash. It reads all
// kinds: a FilterDeployment may have asked for another one before.
func (r *Reconciler) listOutputs(ctx context.Context, fd *wasmev1.FilterDeployment) (outputs, error) {
	existing := outputs{}
	for name, kind := range istio.Kinds {
		if r.Outputs.State(name) != outputkinds.Served {
			continue
		}
		list := kind.NewList()
		if err := r.Client.List(ctx, list, client.InNamespace(fd.Namespace), client.MatchingLabels(ownership.Labels(fd)), client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("listing the outputs: %w", err)
		}
		err := apimeta.EachListItem(list, func(item runtime.Object) error {
			if object := item.(istio.Output); ownership.MayTake(object, fd) {
				existing[rollout.OutputKey{Kind: name, Name: object.GetName()}] = object
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("listing the outputs: %w", err)
		}
	}
	return existing, nil
}

// writeOutputs makes the outputs of the workloads at these places what the plan
// says, and records what came of it in the state.
func (r *Reconciler) writeOutputs(ctx context.Context, fd *wasmev1.FilterDeployment, state *rollout.State, plan *rollout.Plan, places []int, existing outputs) {
	workqueue.ParallelizeUntil(ctx, writers, len(places), func(i int) {
		place := places[i]
		state.Targets[place].Attempt = r.writePlanned(ctx, fd, &plan.Workloads[place], existing)
	})
}

// writePlanned makes one output what the plan says.
func (r *Reconciler) writePlanned(ctx context.Context, fd *wasmev1.FilterDeployment, planned *rollout.Workload, existing outputs) *rollout.Attempt {
	attempt := &rollout.Attempt{Output: planned.Output, Fetch: planned.Fetch}
	if cached := existing[planned.Output]; cached != nil && r.rendered.holds(fd, planned, cached) {
		return attempt
	}
	spec, err := planned.Spec(r.Mesh)
	if err != nil {
		attempt.Reason, attempt.Err = wasmev1.ReasonWorkloadUnsupported, err
		return attempt
	}
	again := r.rendered.wrote(fd, planned)
	err = r.writeOutput(ctx, fd, attempt.Output, spec, existing, planned.Annotations(), again)
	if fallback, exists := planned.Fallback(); errors.Is(err, errNameTaken) && exists {
		attempt.Output = fallback
		err = r.writeOutput(ctx, fd, fallback, spec, existing, planned.Annotations(), again)
	}
	if err == nil {
		r.rendered.keep(fd, attempt.Output, planned.Inputs(), spec)
	}
	attempt.Reason, attempt.Err = writeFailure(attempt.Output, err)
	return attempt
}

// writeFailure returns the reason and the error of a write. What the API server
// refuses, it refuses until Istio, its CRDs or a policy of the cluster change.
func writeFailure(key rollout.OutputKey, err error) (string, error) {
	switch {
	case err == nil:
		return "", nil
	case errors.Is(err, errForeign), errors.Is(err, legacy.ErrMadeByWasme), errors.Is(err, errNameTaken):
		return wasmev1.ReasonConflict, fmt.Errorf("%s: %w", key, err)
	case errors.Is(err, errOverwritten):
		return wasmev1.ReasonOutputOverwritten, fmt.Errorf("%s: %w", key, err)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsForbidden(err):
		return wasmev1.ReasonOutputRefused, fmt.Errorf("the API server refuses %s, because a policy of the cluster forbids it or this Istio is too old for a field: %w", key, err)
	default:
		return wasmev1.ReasonWriteFailed, fmt.Errorf("writing %s: %w", key, err)
	}
}

// strict has the API server refuse a field that its Istio does not know, which
// it would drop otherwise.
const strict = client.FieldValidation(metav1.FieldValidationStrict)

// writeOutput creates the output or makes it what it has to be; it writes
// nothing when it is that already. again says that this process wrote this before.
func (r *Reconciler) writeOutput(ctx context.Context, fd *wasmev1.FilterDeployment, key rollout.OutputKey, spec []byte, existing outputs, notes map[string]string, again bool) error {
	if cached := existing[key]; cached != nil {
		return r.repairOutput(ctx, fd, key, cached, notes, spec, again)
	}
	object := istio.Kinds[key.Kind].New()
	object.SetNamespace(fd.Namespace)
	object.SetName(key.Name)
	ownership.Claim(object, fd, notes)
	object.Content().Raw = spec
	err := r.Client.Create(ctx, object, strict)
	if err == nil {
		r.Written.keep(fd, key, "", object, r.Clock.Now())
	}
	if !apierrors.IsAlreadyExists(err) {
		return countWrite(key.Kind, opCreate, err)
	}
	return countWrite(key.Kind, opAdopt, r.takeOver(ctx, fd, key, notes, spec))
}

// takeOver decides about an object that exists although the cache has no such
// output: the cache may be behind, the object may have lost its labels, or
// belong to someone else.
func (r *Reconciler) takeOver(ctx context.Context, fd *wasmev1.FilterDeployment, key rollout.OutputKey, notes map[string]string, spec []byte) error {
	live := istio.Kinds[key.Kind].New()
	if err := r.Reader.Get(ctx, client.ObjectKey{Namespace: fd.Namespace, Name: key.Name}, live); err != nil {
		return err
	}
	madeByWasme := legacy.MadeEnvoyFilter(live.Content().Raw)
	switch owner := ownership.Of(live, fd); {
	case owner == ownership.Others:
		return errNameTaken
	case owner == ownership.Foreign && madeByWasme:
		return legacy.ErrMadeByWasme
	case owner == ownership.Foreign:
		return errForeign
	}
	if !ownership.Claim(live, fd, map[string]string{}) {
		// What carries all our marks is in a cache that is not behind.
		return outdated(key, errors.New("the cache has not seen it yet"))
	}
	ownership.Claim(live, fd, notes)
	live.Content().Raw = spec
	if err := r.Client.Update(ctx, live, strict); err != nil {
		return err
	}
	r.Written.keep(fd, key, "", live, r.Clock.Now())
	if madeByWasme {
		r.record(fd, live, corev1.EventTypeNormal, eventReplaced, key.String()+" "+legacy.Replaced)
	}
	return nil
}

// repairOutput replaces the whole spec, so that nothing added by hand stays,
// and keeps the labels and annotations of others.
func (r *Reconciler) repairOutput(ctx context.Context, fd *wasmev1.FilterDeployment, key rollout.OutputKey, cached istio.Output, notes map[string]string, spec []byte, again bool) error {
	object, hash := istio.Untrim(cached)
	if changed := ownership.Claim(object, fd, notes); !changed && hash == istio.SpecHash(spec) {
		return nil
	}
	change := changeOf(cached, notes)
	if again {
		change = opRepair // whatever is missing, something else took it
	}
	if change == opRepair {
		if err := r.heldBack(ctx, fd, key); err != nil {
			return err
		}
	}
	object.Content().Raw = spec
	err := r.Client.Update(ctx, object, strict)
	switch {
	case err == nil:
		r.Written.keep(fd, key, cached.GetResourceVersion(), object, r.Clock.Now())
		if change == opRepair {
			id := repairKey{client.ObjectKeyFromObject(fd), key}
			r.repairs.extend(id, repairWaits, r.Clock.Now())
			r.overwriters.Delete(id)
		}
	case apierrors.IsNotFound(err):
		err = outdated(key, errors.New("it was deleted"))
	}
	return countWrite(key.Kind, change, err)
}

// outdated returns the error of a write that was based on a cache that is behind.
func outdated(key rollout.OutputKey, err error) error {
	kind := istio.Kinds[key.Kind]
	return apierrors.NewConflict(kind.GroupVersion().WithResource(kind.Resource).GroupResource(), key.Name, err)
}

// pruneOutputs deletes the outputs that no workload needs any more.
func (r *Reconciler) pruneOutputs(ctx context.Context, name types.NamespacedName, plan *rollout.Plan, existing outputs) error {
	var failures []error
	for _, key := range plan.Obsolete(existing.describe()) {
		failures = append(failures, r.deleteOutput(ctx, key, existing[key]))
		r.Written.forget(name, key)
		r.rendered.forget(name, key)
	}
	return errors.Join(failures...)
}

// deleteOutput deletes the version that the cache has, and no newer one.
func (r *Reconciler) deleteOutput(ctx context.Context, key rollout.OutputKey, object istio.Output) error {
	precondition := client.Preconditions{UID: new(object.GetUID()), ResourceVersion: new(object.GetResourceVersion())}
	err := client.IgnoreNotFound(r.Client.Delete(ctx, object.DeepCopyObject().(istio.Output), precondition))
	if countWrite(key.Kind, opDelete, err) != nil {
		return fmt.Errorf("deleting %s: %w", key, err)
	}
	return nil
}
