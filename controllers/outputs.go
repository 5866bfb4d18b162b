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
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// Outputs of our label are watched, so that what someone changes or deletes is
// repaired; get asks the API server whose an existing object is.
// +kubebuilder:rbac:groups=networking.istio.io,resources=envoyfilters,verbs=get;list;watch;create;update;delete
// +kubebuilder:rbac:groups=extensions.istio.io,resources=wasmplugins;trafficextensions,verbs=get;list;watch;create;update;delete

// writers is the number of outputs of one FilterDeployment written at once.
const writers = 16

// errNameTaken: the output's name belongs to another FilterDeployment.
var errNameTaken = errors.New("the name belongs to another FilterDeployment")

// errForeign: the output's name belongs to an object that is not the operator's.
var errForeign = errors.New("exists and was not made by the operator; delete it, or set another spec.filter.id")

// target is the outcome for one workload.
type target struct {
	workload render.Target
	// output is its output.
	output outputKey
	// reason is the condition reason of a failure, and err the failure; empty
	// and nil when the output is in place.
	reason string
	err    error
	// ready are its Ready pods, and pods what is known of them.
	ready []*corev1.Pod
	pods  []podProof
	// holds is the revision that the output held before the pass, if it is
	// known, and fetch the last fetch that it asked of the pods.
	holds *revision
	fetch fetch
	// provable: a pod that runs what the output held shows it. One that shows no
	// revision shows the first one only.
	provable bool
	// asksFetch: the revision in force makes its pods fetch, or drain.
	asksFetch bool
	// held: it waits for its own pods, whatever room there is.
	held bool
	// tried: the output was written, or could not be.
	tried bool
	// waits says for what the output has to wait before it may hold the revision
	// in force; empty for nothing.
	waits string
}

// outputKey is the kind and name of an output.
type outputKey struct {
	kind wasmev1.Output
	name string
}

func (k outputKey) String() string { return string(k.kind) + " " + k.name }

// outputs are the outputs that exist for a FilterDeployment, as the cache has
// them: metadata and a hash of the spec.
type outputs map[outputKey]istio.Output

// revisions are the revisions that the outputs hold.
func (o outputs) revisions() sets.Set[string] {
	held := sets.New[string]()
	for _, object := range o {
		held.Insert(object.GetAnnotations()[revisionAnnotation])
	}
	return held
}

// listOutputs leaves out what has our labels and is someone else's: a copy, or
// the output of a FilterDeployment whose name has the same hash. The kinds are
// all: a FilterDeployment may have asked for another one before.
func (r *FilterDeploymentReconciler) listOutputs(ctx context.Context, fd *wasmev1.FilterDeployment) (outputs, error) {
	existing := outputs{}
	for kind := range istio.Kinds {
		if r.Outputs.State(kind) != OutputKindServed {
			continue
		}
		list := istio.Kinds[kind].NewList()
		if err := r.Client.List(ctx, list, client.InNamespace(fd.Namespace), madeFor(fd), client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("listing the outputs: %w", err)
		}
		err := apimeta.EachListItem(list, func(item runtime.Object) error {
			object := item.(istio.Output)
			if whose := ownershipOf(object, fd); whose == ours || whose == orphan {
				existing[outputKey{kind, object.GetName()}] = object
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("listing the outputs: %w", err)
		}
	}
	return existing, nil
}

// program makes each target's output hold the revision in force, unless it has
// to wait. One that cannot be written leaves its room to others.
func (r *FilterDeploymentReconciler) program(ctx context.Context, fd *wasmev1.FilterDeployment, p *pass) {
	for admitted := p.admit(); len(admitted) > 0; admitted = p.admit() {
		workqueue.ParallelizeUntil(ctx, writers, len(admitted), func(i int) {
			t := admitted[i]
			r.programTarget(ctx, fd, p, t, t.nextFetch(p.inForce, r.Clock.Now()))
		})
		for _, t := range admitted {
			if t.err != nil && t.asksFetch {
				p.wave.pods -= t.sidecars()
			}
		}
	}
}

// fail says of all targets why nothing was tried.
func fail(targets []target, reason string, err error) {
	for i := range targets {
		targets[i].reason, targets[i].err = reason, err
	}
}

// outputOf is the kind and name of the output that is to hold a revision for a workload.
func outputOf(owner client.ObjectKey, inForce *revision, workload render.Target, existing outputs) outputKey {
	hashed := hashedOutput(owner, inForce, workload)
	plain := outputKey{inForce.output(), render.Name(workload, inForce.filter.ID)}
	if existing[hashed] != nil || !render.FitsName(plain.name) {
		return hashed
	}
	return plain
}

// hashedOutput is the output of a workload whose plain name is taken, or too long.
func hashedOutput(owner client.ObjectKey, inForce *revision, workload render.Target) outputKey {
	return outputKey{inForce.output(), render.HashedName(owner, workload, inForce.filter.ID)}
}

// programTarget makes the target's output hold the revision in force and ask
// for a fetch, and notes the outcome in the target.
func (r *FilterDeploymentReconciler) programTarget(ctx context.Context, fd *wasmev1.FilterDeployment, p *pass, t *target, asked fetch) {
	owner, content := client.ObjectKeyFromObject(fd), p.inForce.hash
	spec, err := outputSpec(r.Mesh, owner, p.inForce, t.workload, asked.renewal(content))
	if err != nil {
		t.reason, t.err = wasmev1.ReasonWorkloadUnsupported, err
		return
	}
	notes := map[string]string{workloadAnnotation: workloadNote(t.workload), revisionAnnotation: content}
	if asked != (fetch{}) {
		notes[fetchAnnotation] = asked.annotation()
	}
	if renewal := asked.renewal(content); renewal != "" && t.output.kind != wasmev1.OutputEnvoyFilter {
		notes[pushAnnotation] = renewal
	}
	err = r.writeOutput(ctx, fd, t.output, spec, p.existing, notes)
	if hashed := hashedOutput(owner, p.inForce, t.workload); errors.Is(err, errNameTaken) && t.output != hashed {
		t.output = hashed
		err = r.writeOutput(ctx, fd, hashed, spec, p.existing, notes)
	}
	if t.reason, t.err = writeFailure(t.output, err); t.err == nil {
		t.fetch = asked
	}
}

// outputSpec is the JSON of the spec of a target's output.
func outputSpec(mesh render.Mesh, owner client.ObjectKey, inForce *revision, workload render.Target, renewal string) ([]byte, error) {
	var spec json.Marshaler
	var err error
	switch inForce.output() {
	case wasmev1.OutputWasmPlugin:
		spec, err = render.WasmPlugin(mesh, inForce.filter, workload)
	case wasmev1.OutputTrafficExtension:
		spec, err = render.TrafficExtension(mesh, inForce.filter, workload)
	default:
		spec, err = render.EnvoyFilter(mesh, owner, inForce.filter, workload, renewal)
	}
	if err != nil {
		return nil, err
	}
	return spec.MarshalJSON()
}

// writeFailure: what the API server refuses, it refuses until Istio, its CRDs
// or a policy of the cluster change.
func writeFailure(key outputKey, err error) (string, error) {
	switch {
	case err == nil:
		return "", nil
	case errors.Is(err, errForeign), errors.Is(err, errLegacy), errors.Is(err, errNameTaken):
		return wasmev1.ReasonConflict, fmt.Errorf("%s: %w", key, err)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsForbidden(err):
		return wasmev1.ReasonOutputRefused, fmt.Errorf("the API server refuses %s; a policy of the cluster may forbid it, or this Istio be too old for a field: %w", key, err)
	default:
		return wasmev1.ReasonWriteFailed, fmt.Errorf("writing %s: %w", key, err)
	}
}

// strict has the API server refuse a field that its Istio does not know, which
// it would drop otherwise.
const strict = client.FieldValidation(metav1.FieldValidationStrict)

// writeOutput creates the output or makes it what it has to be; it writes
// nothing when it is that already.
func (r *FilterDeploymentReconciler) writeOutput(ctx context.Context, fd *wasmev1.FilterDeployment, key outputKey, spec []byte, existing outputs, notes map[string]string) error {
	if cached := existing[key]; cached != nil {
		return r.repairOutput(ctx, fd, key, cached, notes, spec)
	}
	object := istio.Kinds[key.kind].New()
	object.SetNamespace(fd.Namespace)
	object.SetName(key.name)
	claim(object, fd, notes)
	object.Content().Raw = spec
	err := r.Client.Create(ctx, object, strict)
	if !apierrors.IsAlreadyExists(err) {
		return countWrite(key.kind, opCreate, err)
	}
	return countWrite(key.kind, opAdopt, r.takeOver(ctx, fd, key, notes, spec))
}

// takeOver decides about an object that exists although the cache has no such
// output: the cache may be behind, the object may have lost its labels, or
// belong to someone else.
func (r *FilterDeploymentReconciler) takeOver(ctx context.Context, fd *wasmev1.FilterDeployment, key outputKey, notes map[string]string, spec []byte) error {
	kind := istio.Kinds[key.kind]
	live := kind.New()
	if err := r.Reader.Get(ctx, client.ObjectKey{Namespace: fd.Namespace, Name: key.name}, live); err != nil {
		return err
	}
	legacy := isLegacy(live.Content().Raw)
	switch whose := ownershipOf(live, fd); {
	case whose == others:
		return errNameTaken
	case whose == foreign && legacy:
		return errLegacy
	case whose == foreign:
		return errForeign
	}
	if !claim(live, fd, map[string]string{}) {
		// What carries all our marks is in a cache that is not behind.
		resource := kind.GroupVersion().WithResource(kind.Resource).GroupResource()
		return apierrors.NewConflict(resource, key.name, errors.New("the cache has not seen it yet"))
	}
	claim(live, fd, notes)
	live.Content().Raw = spec
	if err := r.Client.Update(ctx, live, strict); err != nil {
		return err
	}
	if legacy {
		r.Recorder.Eventf(fd, live, corev1.EventTypeNormal, reasonReplaced, "Reconcile", "%s was made by the operator of wasme, for names of Envoy filters that no proxy of today has; it holds this filter now", key)
	}
	return nil
}

// repairOutput replaces the whole spec, so that nothing added by hand stays,
// and keeps the labels and annotations of others.
func (r *FilterDeploymentReconciler) repairOutput(ctx context.Context, fd *wasmev1.FilterDeployment, key outputKey, cached istio.Output, notes map[string]string, spec []byte) error {
	object := cached.DeepCopyObject().(istio.Output)
	annotations := object.GetAnnotations()
	hash := annotations[specHashAnnotation]
	delete(annotations, specHashAnnotation)
	object.SetAnnotations(annotations)
	if changed := claim(object, fd, notes); !changed && hash == specHash(spec) {
		return nil
	}
	object.Content().Raw = spec
	return countWrite(key.kind, changeOf(cached, notes), r.Client.Update(ctx, object, strict))
}

// pruneOutputs deletes the outputs that no selected workload has any more, those
// of another kind included. A workload whose new output is not written keeps its
// old one.
func (r *FilterDeploymentReconciler) pruneOutputs(ctx context.Context, p *pass) error {
	if p.inForce == nil {
		return nil
	}
	wanted, unwritten := sets.New[outputKey](), sets.New[string]()
	for _, t := range p.targets {
		wanted.Insert(t.output)
		if t.err != nil || t.waits != "" {
			unwritten.Insert(workloadNote(t.workload))
		}
	}
	var failures []error
	for key, object := range p.existing {
		if wanted.Has(key) || unwritten.Has(object.GetAnnotations()[workloadAnnotation]) {
			continue
		}
		failures = append(failures, r.deleteOutput(ctx, key, object))
	}
	return errors.Join(failures...)
}

// deleteOutput deletes the version that the cache has, and no newer one.
func (r *FilterDeploymentReconciler) deleteOutput(ctx context.Context, key outputKey, object istio.Output) error {
	precondition := client.Preconditions{UID: new(object.GetUID()), ResourceVersion: new(object.GetResourceVersion())}
	err := client.IgnoreNotFound(r.Client.Delete(ctx, object.DeepCopyObject().(istio.Output), precondition))
	if countWrite(key.kind, opDelete, err) != nil {
		return fmt.Errorf("deleting %s: %w", key, err)
	}
	return nil
}

func workloadNote(workload render.Target) string {
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
