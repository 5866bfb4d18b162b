package filterdeployment

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/ownership"
)

// A FilterDeployment whose class changes is gone from the cache of this installation, and
// another one takes over: it relabels the outputs and revisions that it needs. What it does
// not need (outputs of workloads that are deselected in the same edit, old revisions) it
// does not see. That is deleted here.
//
// Nothing that the other one still needs may be deleted, so this waits until it has kept
// its revision and is Ready, and for handOverTime.
const handOverTime = time.Minute

// handOver deletes what is left here of a FilterDeployment that is not in the cache.
func (r *Reconciler) handOver(ctx context.Context, name types.NamespacedName) (ctrl.Result, error) {
	left, err := r.leftBehind(ctx, name)
	if err != nil || len(left) == 0 {
		r.handedOver.forget(name)
		return ctrl.Result{}, err
	}
	var fd wasmev1.FilterDeployment
	if err := r.Reader.Get(ctx, name, &fd); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err) // the garbage collector follows a deletion
	}
	if ownership.Labels(&fd)[ownership.ManagedByLabel] == left[0].GetLabels()[ownership.ManagedByLabel] {
		return ctrl.Result{}, nil // the cache is behind
	}
	since := r.handedOver.of(name)
	if since.IsZero() {
		since = r.Clock.Now()
		r.handedOver.keep(name, since)
	}
	taken, err := r.takenOver(ctx, &fd)
	if err != nil {
		return ctrl.Result{}, err
	}
	if !taken || r.Clock.Since(since) < handOverTime {
		return ctrl.Result{RequeueAfter: handOverTime}, nil
	}
	var failures []error
	for _, object := range left {
		precondition := client.Preconditions{UID: new(object.GetUID()), ResourceVersion: new(object.GetResourceVersion())}
		if err := r.Client.Delete(ctx, object.DeepCopyObject().(client.Object), precondition); client.IgnoreNotFound(err) != nil {
			failures = append(failures, fmt.Errorf("deleting %s after the hand-over: %w", object.GetName(), err))
		}
	}
	return ctrl.Result{}, errors.Join(failures...)
}

// leftBehind returns the outputs and revisions of a FilterDeployment that are in the cache.
func (r *Reconciler) leftBehind(ctx context.Context, name types.NamespacedName) ([]client.Object, error) {
	fd := &wasmev1.FilterDeployment{}
	fd.Namespace, fd.Name = name.Namespace, name.Name
	labels := ownership.Labels(fd)
	delete(labels, ownership.ManagedByLabel) // the cache has this installation's only
	var left []client.Object
	err := r.Outputs.Each(ctx, r.Client, name.Namespace, labels, func(_ wasmev1.Output, object istio.Output) {
		left = append(left, object)
	})
	if err != nil {
		return nil, err
	}
	var revisions appsv1.ControllerRevisionList
	if err := r.Client.List(ctx, &revisions, client.InNamespace(name.Namespace), client.MatchingLabels(labels), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing the revisions: %w", err)
	}
	for i := range revisions.Items {
		left = append(left, &revisions.Items[i])
	}
	return ownedBy(left, name), nil
}

// ownedBy returns the objects that were made for a FilterDeployment: two may share a label.
func ownedBy(objects []client.Object, name types.NamespacedName) []client.Object {
	var owned []client.Object
	for _, object := range objects {
		if owner, made := ownership.FilterDeploymentOf(object); made && owner == name {
			owned = append(owned, object)
		}
	}
	return owned
}

// takenOver reports whether another installation has done its work on a FilterDeployment.
func (r *Reconciler) takenOver(ctx context.Context, fd *wasmev1.FilterDeployment) (bool, error) {
	ready := apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionReady)
	if ready == nil || ready.Status != metav1.ConditionTrue || ready.ObservedGeneration != fd.Generation {
		return false, nil
	}
	var kept appsv1.ControllerRevisionList
	if err := r.Reader.List(ctx, &kept, client.InNamespace(fd.Namespace), client.MatchingLabels(ownership.Labels(fd))); err != nil {
		return false, fmt.Errorf("looking for what took over: %w", err)
	}
	return len(kept.Items) > 0, nil
}
