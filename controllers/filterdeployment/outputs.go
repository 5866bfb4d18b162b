package filterdeployment

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/legacy"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/internal/tracing"
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
	err := r.Outputs.Each(ctx, r.Client, fd.Namespace, ownership.Labels(fd), func(kind wasmev1.Output, object istio.Output) {
		if ownership.MayTake(object, fd) {
			existing[rollout.OutputKey{Kind: kind, Name: object.GetName()}] = object
		}
	})
	return existing, err
}

// writeOutputs makes the outputs of the workloads at these places what the plan says, and
// returns what came of each; nil where the context ended before.
func (r *Reconciler) writeOutputs(ctx context.Context, fd *wasmev1.FilterDeployment, plan *rollout.Plan, places []int, existing outputs) []*rollout.Attempt {
	complete := r.completer(ctx)
	attempts := make([]*rollout.Attempt, len(places))
	workqueue.ParallelizeUntil(ctx, writers, len(places), func(i int) {
		attempts[i] = r.writePlanned(ctx, fd, &plan.Workloads[places[i]], existing, complete)
	})
	return attempts
}

// keepWaiting repairs the outputs of workloads that wait for their step, and returns the first
// attempt that failed; nil for none.
func (r *Reconciler) keepWaiting(ctx context.Context, fd *wasmev1.FilterDeployment, plan *rollout.Plan, existing outputs) *rollout.Attempt {
	for _, attempt := range r.writeOutputs(ctx, fd, plan, plan.Waiting(), existing) {
		if attempt != nil && attempt.Err != nil {
			return attempt
		}
	}
	return nil
}

// writePlanned makes one output what the plan says. Before it renders, it completes the
// revision.
func (r *Reconciler) writePlanned(ctx context.Context, fd *wasmev1.FilterDeployment, planned *rollout.Workload, existing outputs, complete func(*revision.Revision) error) *rollout.Attempt {
	attempt := &rollout.Attempt{Output: planned.Output, Fetch: planned.Fetch}
	if cached := existing[planned.Output]; cached != nil && r.rendered.holds(fd, planned, cached) {
		return attempt
	}
	ctx, span := tracing.Begin(ctx, "WriteOutput", tracing.Output(planned.Output.Kind, planned.Output.Name)...)
	defer func() { tracing.End(span, attempt.Err) }()
	for _, known := range planned.Revisions() {
		if err := complete(known); err != nil {
			attempt.Reason, attempt.Err = writeFailure(attempt.Output, err)
			return attempt
		}
	}
	spec, err := r.render(ctx, planned)
	if err != nil {
		attempt.Reason, attempt.Err = wasmev1.ReasonWorkloadUnsupported, err
		return attempt
	}
	want := wanted{fd: fd, key: planned.Output, annotations: planned.Annotations(), spec: spec, again: r.rendered.wrote(fd, planned)}
	err = r.writeOutput(ctx, want, existing)
	if fallback, exists := planned.Fallback(); errors.Is(err, errNameTaken) && exists {
		attempt.Output, want.key = fallback, fallback
		err = r.writeOutput(ctx, want, existing)
	}
	if err == nil {
		r.rendered.keep(fd, attempt.Output, planned.Inputs(), spec)
	}
	attempt.Reason, attempt.Err = writeFailure(attempt.Output, err)
	return attempt
}

func (r *Reconciler) render(ctx context.Context, planned *rollout.Workload) (spec []byte, err error) {
	_, span := tracing.Begin(ctx, "Render")
	defer func() { tracing.End(span, err) }()
	return planned.Spec(r.Mesh)
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

// wanted is an output as the plan wants it.
type wanted struct {
	fd          *wasmev1.FilterDeployment
	key         rollout.OutputKey
	annotations map[string]string
	spec        []byte
	// again says that this process wrote this before.
	again bool
}

func (w wanted) name() types.NamespacedName { return client.ObjectKeyFromObject(w.fd) }

// strict has the API server refuse a field that its Istio does not know, which
// it would drop otherwise.
const strict = client.FieldValidation(metav1.FieldValidationStrict)

// writeOutput creates the output or makes it what it has to be; it writes
// nothing when it is that already.
func (r *Reconciler) writeOutput(ctx context.Context, want wanted, existing outputs) error {
	if cached := existing[want.key]; cached != nil {
		return r.repairOutput(ctx, want, cached)
	}
	object := istio.Kinds[want.key.Kind].New()
	object.SetNamespace(want.fd.Namespace)
	object.SetName(want.key.Name)
	ownership.Claim(object, want.fd, want.annotations)
	object.Content().Raw = want.spec
	err := r.Client.Create(ctx, object, strict)
	if err == nil {
		r.Written.keep(want.fd, want.key, "", object, r.Clock.Now())
	}
	if !apierrors.IsAlreadyExists(err) {
		return countWrite(want.key.Kind, opCreate, err)
	}
	return countWrite(want.key.Kind, opAdopt, r.takeOver(ctx, want))
}

// takeOver decides about an object that exists although the cache has no such
// output: the cache may be behind, the object may have lost its labels, or
// belong to someone else.
func (r *Reconciler) takeOver(ctx context.Context, want wanted) error {
	live := istio.Kinds[want.key.Kind].New()
	if err := r.Reader.Get(ctx, client.ObjectKey{Namespace: want.fd.Namespace, Name: want.key.Name}, live); err != nil {
		return err
	}
	madeByWasme := legacy.MadeEnvoyFilter(live.Content().Raw)
	switch owner := ownership.Of(live, want.fd); {
	case owner == ownership.Others:
		return errNameTaken
	case owner == ownership.Foreign && madeByWasme:
		return legacy.ErrMadeByWasme
	case owner == ownership.Foreign:
		return errForeign
	}
	if !ownership.Claim(live, want.fd, map[string]string{}) {
		// What carries all our marks is in a cache that is not behind.
		return outdated(want.key, errors.New("the cache has not seen it yet"))
	}
	ownership.Claim(live, want.fd, want.annotations)
	live.Content().Raw = want.spec
	if err := r.Client.Update(ctx, live, strict); err != nil {
		return err
	}
	r.Written.keep(want.fd, want.key, "", live, r.Clock.Now())
	if madeByWasme {
		r.record(want.fd, live, corev1.EventTypeNormal, eventReplaced, want.key.String()+" "+legacy.Replaced)
	}
	return nil
}

// repairOutput replaces the whole spec, so that nothing added by hand stays,
// and keeps the labels and annotations of others.
func (r *Reconciler) repairOutput(ctx context.Context, want wanted, cached istio.Output) error {
	object, hash := istio.Untrim(cached)
	if changed := ownership.Claim(object, want.fd, want.annotations); !changed && hash == istio.SpecHash(want.spec) {
		return nil
	}
	change := changeOf(cached, want.annotations)
	if want.again {
		change = opRepair // whatever is missing, something else took it
	}
	if change == opRepair {
		if err := r.heldBack(ctx, want.name(), want.key); err != nil {
			return err
		}
	}
	object.Content().Raw = want.spec
	err := r.Client.Update(ctx, object, strict)
	switch {
	case err == nil:
		r.Written.keep(want.fd, want.key, cached.GetResourceVersion(), object, r.Clock.Now())
		if change == opRepair {
			r.repairs.extend(repairKey{want.name(), want.key}, repairWaits, r.Clock.Now())
			r.overwriters.forget(want.name(), want.key)
		}
	case apierrors.IsNotFound(err):
		err = outdated(want.key, errors.New("it was deleted"))
	}
	return countWrite(want.key.Kind, change, err)
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
		r.Written.outputs.forget(name, key)
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
