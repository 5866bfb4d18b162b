package controllers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// EnvoyFilters of our label are watched, so that what someone changes or
// deletes is repaired; get asks the API server whose an existing object is.
// +kubebuilder:rbac:groups=networking.istio.io,resources=envoyfilters,verbs=get;list;watch;create;update;delete

// writers is the number of outputs of one FilterDeployment written at once.
const writers = 16

// errNameTaken: the output's name belongs to another FilterDeployment.
var errNameTaken = errors.New("the name belongs to another FilterDeployment")

// errForeign: the output's name belongs to an object that is not the operator's.
var errForeign = errors.New("exists and was not made by the operator; delete it, or set another spec.filter.id")

// errOutputKindMissing: there is nowhere to write outputs to.
var errOutputKindMissing = errors.New("the API server does not serve EnvoyFilter (networking.istio.io/v1alpha3), or refuses to list it; install Istio's CRDs")

// target is the outcome for one workload.
type target struct {
	workload render.Workload
	// output is the name of its output.
	output string
	// reason is the condition reason of a failure, and err the failure; empty
	// and nil when the output is in place.
	reason string
	err    error
}

// outputs are the outputs that exist for a FilterDeployment, by name, as the
// cache has them: metadata and a hash of the spec.
type outputs map[string]*istio.EnvoyFilter

// revisions are the revisions that the outputs hold.
func (o outputs) revisions() sets.Set[string] {
	held := sets.New[string]()
	for _, object := range o {
		held.Insert(object.Annotations[revisionAnnotation])
	}
	return held
}

// listOutputs leaves out what has our labels and is someone else's: a copy, or
// the output of a FilterDeployment whose name has the same hash.
func (r *FilterDeploymentReconciler) listOutputs(ctx context.Context, fd *wasmev1.FilterDeployment) (outputs, error) {
	var list istio.EnvoyFilterList
	if err := r.Client.List(ctx, &list, client.InNamespace(fd.Namespace), madeFor(fd), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing the outputs: %w", err)
	}
	existing := outputs{}
	for _, object := range list.Items {
		if whose := ownershipOf(object, fd); whose == ours || whose == orphan {
			existing[object.Name] = object
		}
	}
	return existing, nil
}

// program makes each workload's output hold the revision in force.
func (r *FilterDeploymentReconciler) program(ctx context.Context, fd *wasmev1.FilterDeployment, inForce *revision, workloads []render.Workload, existing outputs) []target {
	targets := unwritten(workloads, "", nil)
	if inForce == nil {
		return targets
	}
	workqueue.ParallelizeUntil(ctx, writers, len(workloads), func(i int) {
		targets[i] = r.programWorkload(ctx, fd, inForce, workloads[i], existing)
	})
	return targets
}

// unwritten are the outcomes of workloads for which nothing was tried, and why.
func unwritten(workloads []render.Workload, reason string, err error) []target {
	targets := make([]target, len(workloads))
	for i, workload := range workloads {
		targets[i] = target{workload: workload, reason: reason, err: err}
	}
	return targets
}

func (r *FilterDeploymentReconciler) programWorkload(ctx context.Context, fd *wasmev1.FilterDeployment, inForce *revision, workload render.Workload, existing outputs) target {
	owner := client.ObjectKeyFromObject(fd)
	hashed := render.HashedName(owner, workload, inForce.filter.ID)
	done := target{workload: workload, output: render.Name(workload.Name, inForce.filter.ID)}
	if existing[hashed] != nil || !render.FitsName(done.output) {
		done.output = hashed
	}
	spec, err := outputSpec(r.Mesh, owner, inForce.filter, workload)
	if err != nil {
		done.reason, done.err = wasmev1.ReasonWorkloadUnsupported, err
		return done
	}
	err = r.writeOutput(ctx, fd, inForce, workload, done.output, spec, existing)
	if errors.Is(err, errNameTaken) && done.output != hashed {
		done.output = hashed
		err = r.writeOutput(ctx, fd, inForce, workload, hashed, spec, existing)
	}
	done.reason, done.err = writeFailure(done.output, err)
	return done
}

// outputSpec is the JSON of the spec of a workload's output.
func outputSpec(mesh render.Mesh, owner client.ObjectKey, filter render.Filter, workload render.Workload) ([]byte, error) {
	spec, err := render.EnvoyFilter(mesh, owner, filter, workload)
	if err != nil {
		return nil, err
	}
	return spec.MarshalJSON()
}

func writeFailure(name string, err error) (string, error) {
	switch {
	case err == nil:
		return "", nil
	case errors.Is(err, errForeign), errors.Is(err, errLegacy), errors.Is(err, errNameTaken):
		return wasmev1.ReasonConflict, fmt.Errorf("EnvoyFilter %s: %w", name, err)
	default:
		return wasmev1.ReasonWriteFailed, fmt.Errorf("writing EnvoyFilter %s: %w", name, err)
	}
}

// writeOutput creates the output or makes it what it has to be; it writes
// nothing when it is that already.
func (r *FilterDeploymentReconciler) writeOutput(ctx context.Context, fd *wasmev1.FilterDeployment, inForce *revision, workload render.Workload, name string, spec []byte, existing outputs) error {
	notes := map[string]string{
		workloadAnnotation: workloadNote(workload),
		revisionAnnotation: inForce.filter.Revision(),
	}
	if cached := existing[name]; cached != nil {
		return r.repairOutput(ctx, fd, cached, notes, spec)
	}
	object := &istio.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{Namespace: fd.Namespace, Name: name}}
	claim(object, fd, notes)
	object.Spec.Raw = spec
	err := r.Client.Create(ctx, object)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	return r.takeOver(ctx, fd, client.ObjectKeyFromObject(object), notes, spec)
}

// takeOver decides about an object that exists although the cache has no such
// output: the cache may be behind, the object may have lost its labels, or
// belong to someone else.
func (r *FilterDeploymentReconciler) takeOver(ctx context.Context, fd *wasmev1.FilterDeployment, key client.ObjectKey, notes map[string]string, spec []byte) error {
	var live istio.EnvoyFilter
	if err := r.Reader.Get(ctx, key, &live); err != nil {
		return err
	}
	legacy := isLegacy(live.Spec.Raw)
	switch whose := ownershipOf(&live, fd); {
	case whose == others:
		return errNameTaken
	case whose == foreign && legacy:
		return errLegacy
	case whose == foreign:
		return errForeign
	}
	if !claim(&live, fd, map[string]string{}) {
		// What carries all our marks is in a cache that is not behind.
		return apierrors.NewConflict(istio.GroupVersion.WithResource("envoyfilters").GroupResource(), key.Name, errors.New("the cache has not seen it yet"))
	}
	claim(&live, fd, notes)
	live.Spec.Raw = spec
	if err := r.Client.Update(ctx, &live); err != nil {
		return err
	}
	if legacy {
		r.Recorder.Eventf(fd, &live, corev1.EventTypeNormal, reasonReplaced, "Reconcile", "EnvoyFilter %s was made by the operator of wasme, for names of Envoy filters that no proxy of today has; it holds this filter now", live.Name)
	}
	return nil
}

// repairOutput replaces the whole spec, so that nothing added by hand stays,
// and keeps the labels and annotations of others.
func (r *FilterDeploymentReconciler) repairOutput(ctx context.Context, fd *wasmev1.FilterDeployment, cached *istio.EnvoyFilter, notes map[string]string, spec []byte) error {
	object := cached.DeepCopy()
	delete(object.Annotations, specHashAnnotation)
	if changed := claim(object, fd, notes); !changed && cached.Annotations[specHashAnnotation] == specHash(spec) {
		return nil
	}
	object.Spec.Raw = spec
	return r.Client.Update(ctx, object)
}

// pruneOutputs deletes the outputs that no selected workload has any more. A
// workload whose new output could not be written keeps its old one.
func (r *FilterDeploymentReconciler) pruneOutputs(ctx context.Context, inForce *revision, existing outputs, targets []target) error {
	if inForce == nil {
		return nil
	}
	wanted, failing := sets.New[string](), sets.New[string]()
	for _, t := range targets {
		wanted.Insert(t.output)
		if t.err != nil {
			failing.Insert(workloadNote(t.workload))
		}
	}
	var failures []error
	for name, object := range existing {
		if wanted.Has(name) || failing.Has(object.Annotations[workloadAnnotation]) {
			continue
		}
		failures = append(failures, r.deleteOutput(ctx, object))
	}
	return errors.Join(failures...)
}

// deleteOutput deletes the version that the cache has, and no newer one.
func (r *FilterDeploymentReconciler) deleteOutput(ctx context.Context, object *istio.EnvoyFilter) error {
	precondition := client.Preconditions{UID: &object.UID, ResourceVersion: &object.ResourceVersion}
	if err := r.Client.Delete(ctx, object.DeepCopy(), precondition); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting EnvoyFilter %s: %w", object.Name, err)
	}
	return nil
}

func workloadNote(workload render.Workload) string {
	return workload.Kind + "/" + workload.Name
}

// specHash is equal for specs that are, whatever the order of their fields: the
// cache keeps it in place of the spec.
func specHash(spec []byte) string {
	var content any
	if err := json.Unmarshal(spec, &content); err != nil {
		return "" // equal to no hash: the output is written again
	}
	ordered, err := json.Marshal(content)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(ordered)
	return hex.EncodeToString(sum[:])
}
