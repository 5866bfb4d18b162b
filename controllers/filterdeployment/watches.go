package filterdeployment

import (
	"context"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/waker"
	"github.com/wasme-io/wasme-operator/internal/legacy"
	"github.com/wasme-io/wasme-operator/internal/overlap"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// SetupWithManager registers the controller and its watches.
func (r *Reconciler) SetupWithManager(manager ctrl.Manager, wakes *waker.Waker, workers int) error {
	if err := IndexCache(context.Background(), manager.GetFieldIndexer()); err != nil {
		return err
	}
	watch := ctrl.NewControllerManagedBy(manager).
		Named("filterdeployment").
		For(&wasmev1.FilterDeployment{}, builder.WithPredicates(predicate.Or[client.Object](predicate.GenerationChangedPredicate{}, annotationsChanged(), statusLost()))).
		// A pod that becomes Ready is to run the filter.
		Watches(&corev1.Pod{}, r.podHandler(), builder.WithPredicates(podChanged())).
		// The predecessor's operator is reported; it wakes nothing.
		Watches(&appsv1.Deployment{}, legacy.NewHandler(r.Recorder)).
		// A policy decides about all in its namespace, or in the cluster.
		Watches(&wasmev1.FilterPolicy{}, handler.EnqueueRequestsFromMapFunc(r.forPolicy)).
		Watches(&wasmev1.ClusterFilterPolicy{}, handler.EnqueueRequestsFromMapFunc(r.forPolicy)).
		// A revision that is lost is kept again.
		Owns(&appsv1.ControllerRevision{}, builder.WithPredicates(deletions())).
		// A Service in targetRefs comes, goes, or gets another waypoint.
		WatchesMetadata(&corev1.Service{}, handler.EnqueueRequestsFromMapFunc(r.ForReference), builder.WithPredicates(predicate.LabelChangedPredicate{})).
		WatchesRawSource(wakes).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](MinBackoff, maxBackoff),
		})
	for _, kind := range workload.Kinds {
		// A new workload, or one whose labels changed, joins, leaves or overlaps.
		watch.Watches(kind.New(), handler.EnqueueRequestsFromMapFunc(r.ForWorkload), builder.WithPredicates(predicate.Funcs{UpdateFunc: workloadChanged}))
	}
	built, err := watch.Build(r)
	if err != nil {
		return fmt.Errorf("setting up the FilterDeployment controller: %w", err)
	}
	wakeAll := func(ctx context.Context) error { return r.WakeAll(ctx, wakes.Wake) }
	return errors.Join(
		r.Outputs.SetupWithManager(manager, built, wakeAll),
		r.Gateways.SetupWithManager(manager, built, r.ForReference, wakeAll),
	)
}

// WakeAll wakes all FilterDeployments.
func (r *Reconciler) WakeAll(ctx context.Context, wake func(types.NamespacedName)) error {
	all, err := r.matching(ctx, "", func(*wasmev1.FilterDeployment) bool { return true })
	for _, request := range all {
		wake(request.NamespacedName)
	}
	return err
}

// matching returns the FilterDeployments of a namespace, or of all when it is
// empty, that match.
func (r *Reconciler) matching(ctx context.Context, namespace string, match func(*wasmev1.FilterDeployment) bool) ([]reconcile.Request, error) {
	var list wasmev1.FilterDeploymentList
	if err := r.Client.List(ctx, &list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing FilterDeployments: %w", err)
	}
	var requests []reconcile.Request
	for i := range list.Items {
		if match(&list.Items[i]) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return requests, nil
}

// logged returns what matching found, and logs its error.
func logged(ctx context.Context, requests []reconcile.Request, err error) []reconcile.Request {
	if err != nil {
		log.FromContext(ctx).Error(err, "Looking for FilterDeployments to reconcile")
	}
	return requests
}

// forPolicy returns the FilterDeployments in the namespace of a policy; all for one of the cluster.
func (r *Reconciler) forPolicy(ctx context.Context, object client.Object) []reconcile.Request {
	requests, err := r.matching(ctx, object.GetNamespace(), func(*wasmev1.FilterDeployment) bool { return true })
	return logged(ctx, requests, err)
}

// ForWorkload returns the FilterDeployments whose filter a workload's pods may
// get: those that select it, and those whose outputs select pods by their labels.
func (r *Reconciler) ForWorkload(ctx context.Context, object client.Object) []reconcile.Request {
	requests, err := r.matching(ctx, object.GetNamespace(), func(fd *wasmev1.FilterDeployment) bool {
		return selects(fd, object) || selectsByLabels(fd)
	})
	requests = logged(ctx, requests, err)
	if root := r.Mesh.RootNamespace; root != "" && root != object.GetNamespace() {
		everywhere, err := r.matching(ctx, root, selectsByLabels)
		if err == nil { // else the namespace is not watched, and has none
			requests = append(requests, everywhere...)
		}
	}
	return requests
}

// ForPod returns the FilterDeployments whose filter a pod is to run.
func (r *Reconciler) ForPod(ctx context.Context, object client.Object) []reconcile.Request {
	var requests []reconcile.Request
	for _, owner := range workload.Owners(object.(*corev1.Pod)) {
		namespace := owner.Namespace
		if owner.IsReference() {
			namespace = "" // a waypoint can be that of other namespaces
		}
		found, err := r.matching(ctx, namespace, r.runsOn(ctx, owner))
		requests = append(requests, logged(ctx, found, err)...)
	}
	return requests
}

// runsOn returns whether a FilterDeployment selects the owner of a pod. One that was
// deleted before its pods may be of any that selects its kind.
func (r *Reconciler) runsOn(ctx context.Context, owner workload.Target) func(*wasmev1.FilterDeployment) bool {
	kind, isWorkload := workload.KindNamed(owner.Kind)
	if !isWorkload {
		return func(fd *wasmev1.FilterDeployment) bool { return mayRunOn(fd, owner) }
	}
	object := kind.New()
	if err := r.Client.Get(ctx, types.NamespacedName{Namespace: owner.Namespace, Name: owner.Name}, object); err != nil {
		return func(fd *wasmev1.FilterDeployment) bool {
			selection, err := workload.SelectionOf(fd)
			return err == nil && !selection.ByReference() && selection.Kind.Name == kind.Name
		}
	}
	return func(fd *wasmev1.FilterDeployment) bool { return selects(fd, object) }
}

func selects(fd *wasmev1.FilterDeployment, object workload.Object) bool {
	selection, err := workload.SelectionOf(fd)
	return err == nil && selection.Selects(object)
}

// selectsByLabels reports whether the outputs of a FilterDeployment reach pods by
// their labels, whatever workload they belong to.
func selectsByLabels(fd *wasmev1.FilterDeployment) bool {
	spec := workload.IstioSpec(fd)
	return overlap.SelectsByLabels(spec.Output) && len(spec.TargetRefs) == 0
}

func workloadChanged(e event.UpdateEvent) bool {
	return workload.Changed(e.ObjectOld, e.ObjectNew)
}

// podChanged lets through updates of a pod that matter.
func podChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return workload.PodChanged(e.ObjectOld.(*corev1.Pod), e.ObjectNew.(*corev1.Pod))
	}}
}

// deletions lets through deletions only.
func deletions() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false },
		UpdateFunc:  func(event.UpdateEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// annotationsChanged lets through updates of the annotations by which the pods of a
// FilterDeployment are not verified, and by which a rollout is tried again.
func annotationsChanged() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, after := e.ObjectOld.GetAnnotations(), e.ObjectNew.GetAnnotations()
			return before[wasmev1.VerifyPodsAnnotation] != after[wasmev1.VerifyPodsAnnotation] ||
				before[wasmev1.RetryAnnotation] != after[wasmev1.RetryAnnotation]
		},
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// statusLost lets through updates that take the operator's status away.
func statusLost() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, isBefore := e.ObjectOld.(*wasmev1.FilterDeployment)
			after, isAfter := e.ObjectNew.(*wasmev1.FilterDeployment)
			return isBefore && isAfter && hasStatus(before) && !hasStatus(after)
		},
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}
