// Package controllers holds the controllers of the operator.
//
// FilterDeploymentReconciler walks one FilterDeployment through its steps: the
// module (module.go), the workloads (workloads.go), the revision in force
// (revisions.go), the outputs (outputs.go) in waves (waves.go), what the pods run
// (dataplane.go), and what that asks for (renewal.go). Each step returns a verdict; the
// status (status.go) is derived from the verdicts and written once, if it
// changed. The pass waits on nothing but the API server: what takes longer runs
// in the module resolver, which wakes the controller.
//
// ModuleKeeper runs on every replica, leader or not, and holds the modules that
// ControllerRevisions name, so that each replica can serve them (keeper.go).
package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/module/resolve"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/internal/peers"
	"github.com/wasme-io/wasme-operator/internal/render"
)

const (
	// minBackoff and maxBackoff bound the waits between attempts that fail.
	minBackoff = 200 * time.Millisecond
	maxBackoff = time.Minute

	// recheckJitter spreads the re-checks of FilterDeployments over time.
	recheckJitter = 0.1
)

// FilterDeploymentReconciler makes the mesh what the FilterDeployments say.
type FilterDeploymentReconciler struct {
	// Client reads from the cache and writes.
	Client client.Client
	// Reader reads from the API server: Secrets, which are not cached, and
	// objects about which the cache may be wrong.
	Reader client.Reader
	// Modules resolves images; Store keeps their modules.
	Modules *resolve.Resolver
	Store   *store.Store
	// Peers tells whether all replicas of the operator hold a module.
	Peers *peers.Peers
	// Prober asks pods what they run; nil when pods cannot be reached.
	Prober *dataplane.Prober
	// Outputs tells which kinds of outputs the API server serves.
	Outputs OutputKinds
	// Recorder records the transitions of Ready, and what changes at workloads.
	Recorder events.EventRecorder
	// Mesh is what rendering must know of the mesh.
	Mesh render.Mesh
	// AllowRootNamespace lets filters in the mesh's root namespace reach every namespace.
	AllowRootNamespace bool
	// LegacyPullSecrets lets pull Secrets with username and password go without
	// naming their registry.
	LegacyPullSecrets bool
	// RecheckInterval is the time between checks when nothing changes: tags move.
	RecheckInterval time.Duration
	// Clock is for waves, renewals, and the status that something else overwrites.
	Clock clock.PassiveClock

	statuses statuses
	loads    loads
}

// +kubebuilder:rbac:groups=wasme.io,resources=filterdeployments,verbs=list;watch
// +kubebuilder:rbac:groups=wasme.io,resources=filterdeployments/status,verbs=patch
// blockOwnerDeletion in the owner references of outputs asks for this one:
// +kubebuilder:rbac:groups=wasme.io,resources=filterdeployments/finalizers,verbs=update
// Each transition is an event of its own; none is a repetition to be counted.
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create
// Replicas share a lease in the operator's own namespace, and record who leads:
// +kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,verbs=get;create;update,namespace=wasme-system
// +kubebuilder:rbac:groups="",resources=events,verbs=create,namespace=wasme-system

// Reconcile makes one pass over a FilterDeployment. A deleted one is the
// garbage collector's, through the owner references of all that was made for it.
func (r *FilterDeploymentReconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var fd wasmev1.FilterDeployment
	if err := r.Client.Get(ctx, request.NamespacedName, &fd); err != nil {
		if apierrors.IsNotFound(err) {
			r.forget(request.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !fd.DeletionTimestamp.IsZero() {
		r.forget(request.NamespacedName)
		return ctrl.Result{}, nil
	}
	if fd.Spec.Suspend {
		r.forget(request.NamespacedName)
		return ctrl.Result{}, r.writeStatus(ctx, &fd, contest{}, setSuspended)
	}
	if !r.Outputs.known() {
		return ctrl.Result{}, nil // they wake all FilterDeployments when they know
	}
	r.loads.know(&fd)
	found, err := r.walk(ctx, &fd)
	if err == nil {
		err = r.writeStatus(ctx, &fd, found.contest, found.setStatus)
	}
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: minBackoff}, nil // the cache is behind
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	r.tellLoads(&fd, found)
	return r.next(&fd, found)
}

// forget ends what goes on for a FilterDeployment beside its passes.
func (r *FilterDeploymentReconciler) forget(name types.NamespacedName) {
	r.Modules.Forget(name)
	r.statuses.forget(name)
	r.loads.forget(name)
	if r.Prober != nil {
		r.Prober.Expect(name, nil)
	}
}

// pass is what one walk over a FilterDeployment found and did.
type pass struct {
	module, selection, programmed, loaded verdict
	// inForce is the revision that the outputs hold; nil for none.
	inForce  *revision
	standing standing
	// existing are the outputs that were there before.
	existing outputs
	// wave is what pods may still be asked to load.
	wave wave
	// unasked: pods that the status tells of have not answered this process yet.
	unasked bool
	// again is the time after which there is more to do; 0 for never.
	again time.Duration
	// targets are the outcomes by workload, in the order of their names; nil
	// when the workloads are not known.
	targets []target
	// contest is about others that act on the FilterDeployment.
	contest contest
	// overlap is the content of Overlapping; without a reason there is none.
	overlap verdict
}

// walk goes through the steps in their order. A step that fails leaves the
// later ones what there is: the last good revision stays in force, is repaired,
// and reaches new workloads. The error is one of the cache: it cannot be read, or
// is behind.
func (r *FilterDeploymentReconciler) walk(ctx context.Context, fd *wasmev1.FilterDeployment) (pass, error) {
	history, err := r.listRevisions(ctx, fd)
	if err != nil {
		return pass{}, err
	}
	p := pass{inForce: newest(history)}
	candidate, verdict := r.resolveModule(ctx, fd, history)
	p.module = verdict
	workloads, verdict := r.selectTargets(ctx, fd)
	p.selection = verdict
	if p.targets, err = r.targetsOf(ctx, workloads); err != nil {
		return p, err
	}
	switch {
	case workloads == nil:
		p.programmed = refused(p.selection.Reason, "outputs stay as they are: %s", p.selection.Message)
	case r.Outputs.State(outputKind(fd)) == OutputKindMissing:
		missing := r.Outputs[outputKind(fd)].missing()
		p.programmed = refused(wasmev1.ReasonOutputKindMissing, "%v", missing)
		fail(p.targets, wasmev1.ReasonOutputKindMissing, missing)
	default:
		err = r.emit(ctx, fd, &p, candidate, history)
	}
	p.contest = r.contested(ctx, fd, p.existing)
	if err != nil {
		return p, err
	}
	if err := r.seekOverlaps(ctx, fd, &p); err != nil {
		return p, err
	}
	r.provePods(fd, &p)
	return p, r.renew(ctx, fd, &p)
}

// emit keeps the revision, then makes the outputs hold it, then drops what
// nothing holds any more.
func (r *FilterDeploymentReconciler) emit(ctx context.Context, fd *wasmev1.FilterDeployment, p *pass, candidate *revision, history []revision) error {
	kept, err := r.keepRevision(ctx, fd, history, candidate)
	if apierrors.IsConflict(err) {
		return err
	}
	if err != nil {
		err = fmt.Errorf("keeping the revision: %w", err)
		p.programmed = failed(wasmev1.ReasonWriteFailed, err)
		fail(p.targets, wasmev1.ReasonWriteFailed, err)
		return nil
	}
	if p.existing, err = r.listOutputs(ctx, fd); err != nil {
		return err
	}
	p.inForce, p.standing = r.revisionInForce(fd, kept, candidate != nil, history, p.existing)
	if p.inForce != nil {
		r.plan(client.ObjectKeyFromObject(fd), p, history)
		r.program(ctx, fd, p)
	}
	if behind := errors.Join(ctx.Err(), conflict(p.targets)); behind != nil {
		return behind
	}
	p.programmed = programmedVerdict(p.targets, p.inForce, p.standing)
	err = errors.Join(r.pruneOutputs(ctx, p), r.pruneRevisions(ctx, history, p.existing))
	if apierrors.IsConflict(err) {
		return err
	}
	if err != nil {
		p.programmed = failed(wasmev1.ReasonWriteFailed, err)
	}
	return nil
}

// conflict is the error of a write that was based on an older version.
func conflict(targets []target) error {
	for _, t := range targets {
		if apierrors.IsConflict(t.err) {
			return t.err
		}
	}
	return nil
}

// next says when to come again: after a failure with the queue's backoff, else
// when it is time to check again.
func (r *FilterDeploymentReconciler) next(fd *wasmev1.FilterDeployment, p pass) (ctrl.Result, error) {
	if err := errors.Join(p.module.Err, p.selection.Err, p.programmed.Err); err != nil {
		return ctrl.Result{}, err
	}
	interval := r.RecheckInterval
	if readsConfigMap(fd.Spec.Filter) {
		interval = min(interval, configMapInterval)
	}
	again := wait.Jitter(interval, recheckJitter)
	for _, sooner := range []time.Duration{p.contest.again, p.again, nextProof(p)} {
		if sooner > 0 {
			again = min(again, sooner)
		}
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

// SetupWithManager registers the controller and its watches.
func (r *FilterDeploymentReconciler) SetupWithManager(manager ctrl.Manager, waker *Waker, workers int) error {
	for _, index := range []func(context.Context, client.FieldIndexer) error{indexPredecessor, indexPods} {
		if err := index(context.Background(), manager.GetFieldIndexer()); err != nil {
			return err
		}
	}
	changed := predicate.Or[client.Object](predicate.GenerationChangedPredicate{}, statusLost())
	target := predicate.Funcs{UpdateFunc: targetChanged}
	built, err := ctrl.NewControllerManagedBy(manager).
		Named("filterdeployment").
		For(&wasmev1.FilterDeployment{}, builder.WithPredicates(changed)).
		// A new workload, or one whose labels changed, joins, leaves or overlaps.
		Watches(&appsv1.Deployment{}, handler.EnqueueRequestsFromMapFunc(r.reaching), builder.WithPredicates(target)).
		Watches(&appsv1.DaemonSet{}, handler.EnqueueRequestsFromMapFunc(r.reaching), builder.WithPredicates(target)).
		Watches(&appsv1.StatefulSet{}, handler.EnqueueRequestsFromMapFunc(r.reaching), builder.WithPredicates(target)).
		// A pod that becomes Ready is to run the filter.
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.selectingPod), builder.WithPredicates(podChanged())).
		// The predecessor's operator comes or goes.
		Watches(&appsv1.Deployment{}, handler.EnqueueRequestsFromMapFunc(r.all), builder.WithPredicates(predecessorChanged())).
		// A revision that is lost is kept again.
		Owns(&appsv1.ControllerRevision{}, builder.WithPredicates(deletions())).
		WatchesRawSource(waker).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](minBackoff, maxBackoff),
		}).
		Build(r)
	if err != nil {
		return fmt.Errorf("setting up the FilterDeployment controller: %w", err)
	}
	return r.Outputs.setup(manager, built, waker)
}

// deletions lets through deletions only.
func deletions() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false },
		UpdateFunc:  func(event.UpdateEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}
