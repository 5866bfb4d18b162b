// Package filterdeployment is the controller that makes the mesh what the
// FilterDeployments say.
//
// One pass (controller.go) reads, decides and writes. It reads the module
// (module.go), what the policies say (policies.go, admission.go), what a run of it shows (preflight.go), the workloads with their pods (workloads.go, references.go), the revisions
// (revisions.go) and the outputs (outputs.go). internal/rollout decides what each
// output is to hold. The pass writes that, and then the status and the events
// (status.go, events.go). It waits for nothing but the API server: what takes
// longer runs in the module resolver and in the prober, which wake the
// controller. watches.go has what else wakes it.
package filterdeployment

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/outputkinds"
	"github.com/wasme-io/wasme-operator/controllers/source"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/signatures"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/internal/peers"
	"github.com/wasme-io/wasme-operator/internal/preflight/pool"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/internal/tracing"
	"github.com/wasme-io/wasme-operator/internal/trust/online"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

const (
	// MinBackoff and maxBackoff bound the waits between attempts that fail.
	MinBackoff = 200 * time.Millisecond
	maxBackoff = time.Minute

	// recheckJitter spreads the re-checks of FilterDeployments over time.
	recheckJitter = 0.1
	// rereadInterval is how soon a change of a ConfigMap, of the waypoint that a namespace
	// chooses, or of the labels for which policies select it, is noticed: none is watched.
	rereadInterval = 30 * time.Second
)

// Reconciler makes the mesh what the FilterDeployments say.
type Reconciler struct {
	// Client reads from the cache and writes.
	Client client.Client
	// Reader reads from the API server objects about which the cache may be wrong.
	Reader client.Reader
	// Finder asks for modules; Store keeps them.
	Finder source.Finder
	Store  *store.Store
	// Preflights runs modules before any proxy does, and PreflightDefault says what follows
	// where the spec does not.
	Preflights       *pool.Pool
	PreflightDefault wasmev1.Preflight
	// Signatures reads the signatures of images, and Sigstore is the trusted root of
	// policies that reference none.
	Signatures *signatures.Pool
	Sigstore   *online.Root
	// Peers reports whether all replicas of the operator serve a module.
	Peers *peers.Peers
	// Prober asks pods what they run; nil when pods cannot be reached.
	Prober *dataplane.Prober
	// UnverifiedNamespaces are those whose pods cannot be reached.
	UnverifiedNamespaces sets.Set[string]
	// Written are the outputs and revisions that the cache does not show yet.
	Written *Written
	// Outputs are the kinds of outputs that the API server serves.
	Outputs outputkinds.Kinds
	// Gateways is the kind of the Gateways in targetRefs.
	Gateways *outputkinds.Kind
	// Recorder records the transitions of Ready, and what changes at workloads.
	Recorder events.EventRecorder
	// Mesh is what rendering must know of the mesh.
	Mesh render.Mesh
	// AllowRootNamespace lets filters in the mesh's root namespace reach every namespace.
	AllowRootNamespace bool
	// WatchNamespaces are those that the cache has; empty for all.
	WatchNamespaces []string
	// Budget hands out what pods load at one time. Wake wakes the one whose turn it is.
	Budget *rollout.Budget
	Wake   func(types.NamespacedName)
	// RecheckInterval is the time between checks when nothing changes: tags move.
	RecheckInterval time.Duration
	// Clock is the one clock of all decisions.
	Clock clock.PassiveClock

	fingerprint struct {
		sync.Once
		value string
	}
	statuses statusMemory
	reported reportedMemory
	rendered renderedSpecs
	paces    paces
	applied  appliedMemory
	// readPolicies are the policies, each read once.
	readPolicies readPolicies
	// handedOver is since when another installation looks after a FilterDeployment.
	handedOver memory[time.Time]
	// conflicts are the waits after writes that were based on a cache that is behind.
	conflicts backoffs[types.NamespacedName]
	repairs   backoffs[repairKey]
	// overwriters are those who changed an output again, until it is repaired the next time.
	overwriters outputMemory[string]
	// refusals are what the API server refused, and refusalWaits until when that waits.
	refusals     memory[*refusal]
	refusalWaits backoffs[types.NamespacedName]
}

// One with a large configuration is read by name: the cache has it without that.
// +kubebuilder:rbac:groups=wasme.io,resources=filterdeployments,verbs=get;list;watch
// +kubebuilder:rbac:groups=wasme.io,resources=filterdeployments/status,verbs=patch
// blockOwnerDeletion in the owner references of outputs asks for this one:
// +kubebuilder:rbac:groups=wasme.io,resources=filterdeployments/finalizers,verbs=update
// An event that is repeated within minutes is counted by a patch.
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
// Replicas share a lease in the operator's own namespace, and record who leads:
// +kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,verbs=get;create;update,namespace=wasme-system
// +kubebuilder:rbac:groups="",resources=events,verbs=create,namespace=wasme-system

// Reconcile makes one pass over a FilterDeployment. A deleted one is left to the
// garbage collector, through the owner references of all that was made for it.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (result ctrl.Result, err error) {
	ctx, span := tracing.Begin(ctx, "Reconcile", tracing.FilterDeployment(request.NamespacedName)...)
	defer func() {
		span.SetAttributes(tracing.Result(result, err))
		tracing.End(span, err)
	}()
	return r.reconcile(ctx, request)
}

func (r *Reconciler) reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var fd wasmev1.FilterDeployment
	err := r.Client.Get(ctx, request.NamespacedName, &fd)
	if err == nil && revision.IsCut(fd.Annotations) {
		fd = wasmev1.FilterDeployment{}
		err = r.Reader.Get(ctx, request.NamespacedName, &fd)
	}
	if apierrors.IsNotFound(err) || err == nil && !fd.DeletionTimestamp.IsZero() {
		r.rest(request.NamespacedName)
		r.applied.forget(request.NamespacedName)
		return r.handOver(ctx, request.NamespacedName)
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	if fd.Spec.Suspend {
		r.rest(request.NamespacedName)
		return ctrl.Result{}, r.writeStatus(ctx, &fd, contest{}, r.suspended(&fd))
	}
	if !r.Outputs.Known() || len(workload.IstioSpec(&fd).TargetRefs) > 0 && r.Gateways.State() == outputkinds.Unknown {
		return ctrl.Result{}, nil // they wake all FilterDeployments when they know
	}
	reported := r.reported.of(&fd)
	begin := time.Now() // of the machine, whose time a pass takes
	found, err := r.pass(ctx, &fd)
	took := time.Since(begin)
	if err == nil {
		err = r.writeStatus(ctx, &fd, found.contest, found.SetStatus)
	}
	if apierrors.IsConflict(err) { // the cache is behind
		return ctrl.Result{RequeueAfter: r.conflicts.extend(request.NamespacedName, conflictWaits, r.Clock.Now())}, nil
	}
	r.conflicts.end(request.NamespacedName)
	if err != nil {
		return ctrl.Result{}, err
	}
	if found.Plan.Rejecting {
		rollbacksTotal.WithLabelValues(found.Plan.Rollout.Rejected.Reason).Inc()
	}
	r.paces.keep(request.NamespacedName, pace{
		took: took, ready: apimeta.IsStatusConditionTrue(fd.Status.Conditions, wasmev1.ConditionReady),
		step: found.Rollout() == wasmev1.RolloutProgressing,
	})
	r.applied.keep(&fd)
	r.recordWorkloads(&fd, reported, &found.Plan)
	return r.next(&fd, found)
}

// rest ends what goes on for a FilterDeployment beside its passes.
func (r *Reconciler) rest(name types.NamespacedName) {
	r.wakeNext(r.Budget.Forget(name, r.Clock.Now()))
	r.Finder.Modules.Forget(name)
	r.Preflights.Forget(name)
	r.Signatures.Forget(name)
	r.statuses.forget(name)
	r.reported.forget(name)
	r.Written.forget(name)
	r.rendered.forget(name)
	r.paces.forget(name)
	r.conflicts.end(name)
	r.repairs.endAll(func(key repairKey) bool { return key.name == name })
	r.overwriters.forget(name)
	r.forgetRefusals(name)
	if r.Prober != nil {
		r.Prober.Expect(name, nil)
	}
}

// wakeNext wakes the one whose turn has come to have its pods load, if there is one.
func (r *Reconciler) wakeNext(next types.NamespacedName, found bool) {
	if found {
		r.Wake(next)
	}
}

// rendering returns how outputs are rendered.
func (r *Reconciler) rendering() string {
	r.fingerprint.Do(func() { r.fingerprint.value = r.Mesh.Fingerprint() })
	return r.fingerprint.value
}

// pass is what one pass found and did.
type pass struct {
	rollout.Report
	contest contest
	// policiesByLabels says that labels of the namespace decide about policies.
	policiesByLabels bool
	// behind is when to look again at a cache that did not show all outputs; 0 when it did.
	behind time.Duration
}

// pass makes the steps in their order. A step that fails leaves the later ones
// what there is: the last good revision stays in force, is repaired, and reaches
// new workloads. The error is one of the cache: it cannot be read, or is behind.
func (r *Reconciler) pass(ctx context.Context, fd *wasmev1.FilterDeployment) (*pass, error) {
	state := rollout.State{
		Owner: client.ObjectKeyFromObject(fd), Generation: fd.Generation, Status: fd.Status,
		Strategy: rollout.StrategyOf(fd), Rendering: r.rendering(), Unverified: r.unverified(fd), Verification: workload.IstioSpec(fd).Verification, Now: r.Clock.Now(),
	}
	p := &pass{}
	var err error
	if state.History, err = r.listRevisions(ctx, fd); err != nil {
		return nil, err
	}
	var tests *module.Tests
	state.Asked, tests, p.Module = r.resolveModule(ctx, fd, state.History)
	state.Targets, p.Selection, err = r.readTargets(ctx, fd)
	if err != nil {
		return nil, err
	}
	if state.Asked != nil {
		applying, err := r.policiesFor(ctx, fd.Namespace)
		if err != nil {
			return nil, err
		}
		p.policiesByLabels = applying.byLabels
		if p.Admission, err = r.admit(ctx, fd, state.Asked, applying.applying); err != nil {
			return nil, err
		}
		if p.Admission.Holds {
			hold(&state, p.Admission.Verdict)
		}
	}
	if state.Asked != nil {
		p.Preflight = r.preflight(ctx, fd, state.Asked, tests).WithMemoryWarning(state.Targets)
		if p.Preflight.Holds {
			hold(&state, p.Preflight.Verdict)
		}
	}
	if state.Asked != nil {
		if err := rollout.CheckSize(state.Asked, len(state.Targets)); err != nil {
			state.Asked, p.Module = nil, condition.FalseUntilChanged(wasmev1.ReasonTooLarge, err)
		}
	}
	existing, err := r.prepareOutputs(ctx, fd, &state, p)
	if err != nil {
		return nil, err
	}
	p.contest = r.contested(fd, existing)
	p.Contested = p.contest.Verdict
	if p.Plan, err = r.rollOut(ctx, fd, &state, existing); err != nil {
		return nil, err
	}
	if contested := overwritten(&p.Plan); p.Contested.Reason == "" {
		p.Contested, p.contest.Verdict = contested, contested
	}
	p.Overlapping, err = r.findOverlaps(ctx, fd, &p.Plan)
	return p, err
}

// hold keeps the revision that the spec asks for from proxies: for good if the verdict refuses
// it, else until more is known.
func hold(state *rollout.State, why condition.Verdict) {
	if why.Status == metav1.ConditionFalse {
		state.Barred = state.Asked.Hash
	}
	state.Asked = nil
}

// prepareOutputs keeps the revision that the spec asks for, before any output
// holds it, and reads the outputs. It notes in the state why none can be written.
func (r *Reconciler) prepareOutputs(ctx context.Context, fd *wasmev1.FilterDeployment, state *rollout.State, p *pass) (existing outputs, err error) {
	ctx, span := tracing.Begin(ctx, "PrepareOutputs")
	defer func() { tracing.End(span, err) }()
	kind := outputKind(fd)
	switch {
	case state.Targets == nil:
		state.Blocked = condition.False(p.Selection.Reason, "outputs stay as they are: %s", p.Selection.Message)
		return nil, nil
	case r.Outputs.State(kind) == outputkinds.Missing:
		state.Blocked = condition.False(wasmev1.ReasonOutputKindMissing, "%v", r.Outputs[kind].MissingError())
		return nil, nil
	}
	if state.Asked != nil {
		err := r.keepRevision(ctx, fd, state.History, state.Asked)
		if apierrors.IsConflict(err) {
			return nil, err
		}
		if err != nil {
			state.Blocked = condition.FalseAndRetried(wasmev1.ReasonWriteFailed, fmt.Errorf("keeping the revision: %w", err))
			return nil, nil
		}
	}
	if existing, err = r.listOutputs(ctx, fd); err != nil {
		return nil, err
	}
	if r.Written.addTo(existing, fd, state.Now) {
		p.behind = writtenMemory
	}
	state.Outputs = existing.describe()
	if state.Deleted, err = r.readDeleted(ctx, fd.Namespace, state.Targets, state.Outputs); err != nil {
		return nil, err
	}
	if state.NeedsDistribution() {
		state.Distributed, state.Undistributed = r.Peers.Served(state.Owner, state.Asked.Module.SHA256)
	} else {
		state.Distributed = true
	}
	return existing, nil
}

// rollOut decides and writes until nothing more is due, then drops what no
// workload needs any more, and tells the prober what pods are to run.
func (r *Reconciler) rollOut(ctx context.Context, fd *wasmev1.FilterDeployment, state *rollout.State, existing outputs) (plan rollout.Plan, err error) {
	ctx, span := tracing.Begin(ctx, "RollOut")
	defer func() { tracing.End(span, err) }()
	state.Share = r.Budget.Share(state.Owner, state.Now)
	plan = decide(ctx, state)
	settle := func() { r.wakeNext(r.Budget.Settle(state.Owner, &plan, state.Now)) }
	settle()
	defer settle() // what could not be written takes nothing
	refused := false
	for due := plan.Due(*state); len(due) > 0; due = plan.Due(*state) {
		due = r.holdRefused(state, &plan, due)
		for i, attempt := range r.writeOutputs(ctx, fd, &plan, due, existing) {
			state.Targets[due[i]].Attempt = attempt
		}
		refused = refused || slices.ContainsFunc(due, func(place int) bool {
			attempt := state.Targets[place].Attempt
			return attempt != nil && attempt.Reason == wasmev1.ReasonOutputRefused
		})
		if err := errors.Join(ctx.Err(), conflict(state.Targets)); err != nil {
			return plan, err
		}
		plan = decide(ctx, state)
	}
	r.noteRefusals(state, &plan, refused)
	if state.Blocked.Reason == "" {
		if kept := r.keepWaiting(ctx, fd, &plan, existing); kept != nil {
			if apierrors.IsConflict(kept.Err) {
				return plan, kept.Err
			}
			plan.Programmed = condition.FalseAndRetried(kept.Reason, kept.Err)
		}
		err := errors.Join(r.pruneOutputs(ctx, state.Owner, &plan, existing), r.pruneRevisions(ctx, state.History, &plan, existing))
		if apierrors.IsConflict(err) {
			return plan, err
		}
		if err != nil {
			plan.Programmed = condition.FalseAndRetried(wasmev1.ReasonWriteFailed, err)
		}
	}
	if r.Prober != nil && (plan.Workloads != nil || plan.InForce == nil) { // else pods run what they ran before
		r.observe(ctx, state.Owner, plan.Expectations())
	}
	r.recordRenewals(fd, &plan)
	return plan, nil
}

// decide has the planner decide.
func decide(ctx context.Context, state *rollout.State) rollout.Plan {
	_, span := tracing.Begin(ctx, "Plan")
	defer span.End()
	return rollout.Decide(*state)
}

// observe has the prober ask the pods of a FilterDeployment, which it does in the background.
func (r *Reconciler) observe(ctx context.Context, name types.NamespacedName, expectations []dataplane.Expectation) {
	_, span := tracing.Begin(ctx, "Observe", tracing.Pods(len(expectations)))
	defer span.End()
	r.Prober.Expect(name, expectations)
}

// conflict returns the error of a write that was based on an older version.
func conflict(targets []rollout.Target) error {
	for _, t := range targets {
		if t.Attempt != nil && apierrors.IsConflict(t.Attempt.Err) {
			return t.Attempt.Err
		}
	}
	return nil
}

// next says when to come again: after a failure with the queue's backoff, else
// when it is time to check again.
func (r *Reconciler) next(fd *wasmev1.FilterDeployment, p *pass) (ctrl.Result, error) {
	heldBack := r.heldBackFor(client.ObjectKeyFromObject(fd), &p.Plan)
	failure := p.Plan.Programmed.Err
	if heldBack > 0 {
		failure = nil
	}
	if err := errors.Join(p.Module.Err, p.Preflight.Verdict.Err, p.Selection.Err, failure); err != nil {
		return ctrl.Result{}, err
	}
	interval := r.RecheckInterval
	if rereads(fd, p) {
		interval = min(interval, rereadInterval)
	}
	again := wait.Jitter(interval, recheckJitter)
	plan := p.Plan.Again
	if plan > 0 && !p.Plan.Rejecting {
		plan = max(plan, r.paces.delay(client.ObjectKeyFromObject(fd))) // pods that start are many, and each has its time
	}
	for _, sooner := range []time.Duration{p.contest.again, plan, p.behind, heldBack} {
		if sooner > 0 {
			again = min(again, sooner)
		}
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

// rereads reports whether a pass depends on what is not watched.
func rereads(fd *wasmev1.FilterDeployment, p *pass) bool {
	filter, options := fd.Spec.Filter, fd.Spec.Filter.ImagePullOptions
	if filter.ConfigFrom != nil || filter.ConfigMap != nil || filter.PreflightTests != nil || options != nil && options.CACertificates != nil {
		return true
	}
	return p.policiesByLabels || p.Admission.Verdict.Status == metav1.ConditionUnknown || referencesService(fd)
}

// outputKind returns the kind of outputs that the spec asks for.
func outputKind(fd *wasmev1.FilterDeployment) wasmev1.Output {
	return revision.Content{Output: workload.IstioSpec(fd).Output}.OutputKind()
}
