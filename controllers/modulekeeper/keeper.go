// Package modulekeeper holds the modules that ControllerRevisions name, on every
// replica of the operator, leader or not, so that each replica can serve them.
package modulekeeper

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/source"
	"github.com/wasme-io/wasme-operator/controllers/waker"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/peers"
	"github.com/wasme-io/wasme-operator/internal/revision"
)

const (
	// workers is the number of modules fetched at once.
	workers = 8
	// minBackoff and maxBackoff bound the waits between attempts that fail.
	minBackoff = 200 * time.Millisecond
	maxBackoff = time.Minute
	// recheckJitter spreads the re-checks over time.
	recheckJitter = 0.1
)

// Reconciler fetches the modules that ControllerRevisions name, and has the store
// retain them.
type Reconciler struct {
	// Client reads from the cache.
	Client client.Client
	// Finder asks for missing modules. Its resolver wakes this controller, not the
	// FilterDeployments'.
	Finder source.Finder
	Store  *store.Store
	// Peers are asked for a missing module before its source is.
	Peers *peers.Peers
	// RecheckInterval is the time between looks at the store.
	RecheckInterval time.Duration
}

// Reconcile looks after the module of one ControllerRevision.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var object appsv1.ControllerRevision
	if err := r.Client.Get(ctx, request.NamespacedName, &object); err != nil {
		if apierrors.IsNotFound(err) {
			r.Finder.Modules.Forget(request.NamespacedName)
			r.Store.Release(request.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	known, err := revision.Decode(&object)
	if err != nil {
		log.FromContext(ctx).Error(err, "Ignoring a revision", "controllerRevision", klog.KObj(&object))
		return ctrl.Result{}, nil
	}
	needed, err := r.needed(ctx, known)
	if err != nil {
		return ctrl.Result{}, err
	}
	if needed {
		r.Store.Retain(request.NamespacedName, known.Module.SHA256)
	} else {
		r.Store.RetainSpare(request.NamespacedName, known.Module.SHA256)
	}
	if needed || r.Store.HasRoom(*known.Module.SizeBytes) {
		if err := r.fetch(ctx, request, known); err != nil {
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{RequeueAfter: wait.Jitter(r.RecheckInterval, recheckJitter)}, nil
}

// needed reports whether proxies may ask for the module of a revision: it is the newest of
// its FilterDeployment, or not every workload is known to run that one. The others are
// kept to go back to, while there is room for their modules.
func (r *Reconciler) needed(ctx context.Context, known revision.Revision) (bool, error) {
	var siblings appsv1.ControllerRevisionList
	labels := client.MatchingLabels{ownership.OwnerLabel: known.Object.Labels[ownership.OwnerLabel]}
	if err := r.Client.List(ctx, &siblings, client.InNamespace(known.Object.Namespace), labels, client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("listing the revisions: %w", err)
	}
	newest := known.Object
	for i := range siblings.Items {
		other := &siblings.Items[i]
		if other.Revision > newest.Revision && other.Annotations[ownership.OwnerAnnotation] == known.Object.Annotations[ownership.OwnerAnnotation] {
			newest = other
		}
	}
	if newest == known.Object {
		return true, nil
	}
	fd := r.filterDeploymentOf(ctx, known)
	going := fd.Status.Rollout != nil && fd.Status.Rollout.Phase != wasmev1.RolloutComplete
	settled := !going && apimeta.IsStatusConditionTrue(fd.Status.Conditions, wasmev1.ConditionReady) &&
		ptr.Deref(fd.Status.ObservedGeneration, 0) == fd.Generation && fd.Status.Revision == newest.Annotations[revision.HashAnnotation]
	return !settled, nil
}

// fetch fetches a missing module: from another replica, else from its source.
func (r *Reconciler) fetch(ctx context.Context, request ctrl.Request, known revision.Revision) error {
	if r.Store.Has(known.Module.SHA256) || r.Peers.Copy(ctx, known.Module.SHA256, *known.Module.SizeBytes) == nil {
		r.Finder.Modules.Forget(request.NamespacedName)
		return nil
	}
	result, err := r.Finder.FindRevision(ctx, request.NamespacedName, known, r.filterDeploymentOf(ctx, known).Spec.Filter)
	if err != nil {
		return err
	}
	if result.Err != nil {
		log.FromContext(ctx).Info("A module is missing and could not be fetched yet", "digest", "sha256:"+known.Module.SHA256, "reason", result.Err.Reason, "error", result.Err.Message)
	}
	return nil
}

// filterDeploymentOf returns the FilterDeployment that a revision belongs to, as the
// cache has it; an empty one when it is gone.
func (r *Reconciler) filterDeploymentOf(ctx context.Context, known revision.Revision) *wasmev1.FilterDeployment {
	var fd wasmev1.FilterDeployment
	name, made := ownership.FilterDeploymentOf(known.Object)
	if !made || r.Client.Get(ctx, name, &fd) != nil {
		return &wasmev1.FilterDeployment{}
	}
	return &fd
}

// Complete reports whether the store holds every module that a revision names, as far as
// there is room for those that are not needed.
func (r *Reconciler) Complete(ctx context.Context) bool {
	var list appsv1.ControllerRevisionList
	if err := r.Client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return false
	}
	for i := range list.Items {
		known, err := revision.Decode(&list.Items[i])
		if err != nil || r.Store.Has(known.Module.SHA256) {
			continue
		}
		if needed, err := r.needed(ctx, known); err != nil || needed || r.Store.HasRoom(*known.Module.SizeBytes) {
			return false
		}
	}
	return true
}

// SetupWithManager registers the controller; it runs on every replica.
func (r *Reconciler) SetupWithManager(manager ctrl.Manager, wakes *waker.Waker) error {
	// A replica that does not lead has no other reason to cache them.
	if _, err := manager.GetCache().GetInformer(context.Background(), &wasmev1.FilterDeployment{}, cache.BlockUntilSynced(false)); err != nil {
		return fmt.Errorf("watching FilterDeployments: %w", err)
	}
	err := ctrl.NewControllerManagedBy(manager).
		Named("module-keeper").
		For(&appsv1.ControllerRevision{}).
		WatchesRawSource(wakes).
		WithOptions(controller.Options{
			NeedLeaderElection:      new(false),
			MaxConcurrentReconciles: workers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](minBackoff, maxBackoff),
		}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("setting up the module keeper: %w", err)
	}
	return nil
}
