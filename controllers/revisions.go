package controllers

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// Revisions are watched: every replica holds the modules that they name.
// +kubebuilder:rbac:groups=apps,resources=controllerrevisions,verbs=get;list;watch;create;update;delete

// revisionHistory is the number of revisions that are kept beside those that outputs hold.
const revisionHistory = 3

// revisionContent is what a ControllerRevision keeps: enough to write, extend
// and serve a revision while the spec names another one.
type revisionContent struct {
	// Filter is spec.filter as it was.
	Filter wasmev1.FilterSpec `json:"filter"`
	// Module is what its source resolved to.
	Module wasmev1.ModuleStatus `json:"module"`
	// Output and Distribution are those of spec.deployment.istio; empty for the defaults.
	Output       wasmev1.Output       `json:"output,omitempty"`
	Distribution wasmev1.Distribution `json:"distribution,omitempty"`
}

// output is the kind of the outputs that hold the revision.
func (c revisionContent) output() wasmev1.Output {
	return cmp.Or(c.Output, wasmev1.OutputEnvoyFilter)
}

// revision is one content of a FilterDeployment that was, or is to be, emitted.
type revision struct {
	revisionContent
	filter render.Filter
	// hash is over all that proxies see of it (render.Filter.Revision).
	hash string
	// object is the ControllerRevision; nil until there is one.
	object *appsv1.ControllerRevision
}

// standing says whether the revision in force is what the spec asks for.
type standing int

const (
	// asked: it is.
	asked standing = iota
	// lastGood: the spec cannot be resolved.
	lastGood
	// distributing: the replicas of the operator are copying the module of the
	// one that the spec asks for.
	distributing
)

// listRevisions returns the revisions of a FilterDeployment, the newest first.
func (r *FilterDeploymentReconciler) listRevisions(ctx context.Context, fd *wasmev1.FilterDeployment) ([]revision, error) {
	var list appsv1.ControllerRevisionList
	if err := r.Client.List(ctx, &list, client.InNamespace(fd.Namespace), madeFor(fd)); err != nil {
		return nil, fmt.Errorf("listing the revisions: %w", err)
	}
	var history []revision
	for i := range list.Items {
		if whose := ownershipOf(&list.Items[i], fd); whose != ours && whose != orphan {
			continue
		}
		known, err := decodeRevision(&list.Items[i])
		if err != nil {
			log.FromContext(ctx).Error(err, "Ignoring a revision")
			continue
		}
		history = append(history, known)
	}
	slices.SortFunc(history, newerFirst)
	return history, nil
}

// newerFirst orders revisions by their numbers; two have the same when the
// second was made while the cache did not have the first.
func newerFirst(a, b revision) int {
	return cmp.Or(
		cmp.Compare(b.object.Revision, a.object.Revision),
		b.object.CreationTimestamp.Compare(a.object.CreationTimestamp.Time),
		cmp.Compare(a.object.Name, b.object.Name),
	)
}

func decodeRevision(object *appsv1.ControllerRevision) (revision, error) {
	known := revision{object: object}
	if err := json.Unmarshal(object.Data.Raw, &known.revisionContent); err != nil {
		return revision{}, fmt.Errorf("reading ControllerRevision %s: %w", object.Name, err)
	}
	if known.Module.SHA256 == "" || known.Module.SizeBytes == nil {
		return revision{}, fmt.Errorf("reading ControllerRevision %s: it names no module", object.Name)
	}
	owner := client.ObjectKey{Namespace: object.Namespace, Name: object.Annotations[ownerAnnotation]}
	filter, err := render.NewFilter(owner, known.Filter, known.Distribution, known.Module)
	known.filter, known.hash = filter, filter.Revision()
	if err != nil {
		return revision{}, fmt.Errorf("reading ControllerRevision %s: %w", object.Name, err)
	}
	return known, nil
}

// keepRevision makes the candidate the newest revision, before any output holds
// it. Without a candidate the newest one stays in force.
func (r *FilterDeploymentReconciler) keepRevision(ctx context.Context, fd *wasmev1.FilterDeployment, history []revision, candidate *revision) (*revision, error) {
	if candidate == nil {
		return newest(history), nil
	}
	desired, err := revisionObject(fd, candidate)
	if err != nil {
		return nil, err
	}
	for _, known := range history {
		if known.object.Name == desired.Name {
			desired = known.object.DeepCopy()
			break
		}
	}
	candidate.object = desired
	if last := newest(history); last != nil && last.object.Name != desired.Name {
		desired.Revision = last.object.Revision + 1
	}
	return candidate, r.writeRevision(ctx, fd, candidate, newest(history))
}

// revisionInForce is what the outputs are to hold: the revision that was kept,
// once every replica can serve its module; until then what they held so far,
// which goes on being repaired and reaching new workloads. Proxies that have
// the module already need not wait, nor does what was in force before, which
// the history may lack: the cache has not seen its revision yet.
func (r *FilterDeploymentReconciler) revisionInForce(fd *wasmev1.FilterDeployment, kept *revision, resolved bool, history []revision, existing outputs) (*revision, standing) {
	if !resolved {
		return kept, lastGood
	}
	held := existing.revisions().Insert(fd.Status.Revision)
	before := slices.IndexFunc(history, func(known revision) bool { return held.Has(known.hash) })
	sameModule := func(known revision) bool {
		return known.Module.SHA256 == kept.Module.SHA256 && held.Has(known.hash)
	}
	switch {
	case held.Has(kept.hash), slices.ContainsFunc(history, sameModule), r.Peers.HeldByAll(client.ObjectKeyFromObject(fd), kept.Module.SHA256):
		return kept, asked
	case before >= 0:
		return &history[before], distributing
	default:
		return nil, distributing
	}
}

func (r *FilterDeploymentReconciler) writeRevision(ctx context.Context, fd *wasmev1.FilterDeployment, candidate, last *revision) error {
	desired := candidate.object
	if desired.ResourceVersion == "" {
		return r.createRevision(ctx, fd, desired)
	}
	claimed := claim(desired, fd, nil)
	if !claimed && desired.Name == last.object.Name {
		return nil
	}
	return r.Client.Update(ctx, desired)
}

// createRevision adopts the object of that name where it was made for a
// FilterDeployment of this name. One that is as it has to be is left alone: the
// cache has not seen it yet, for a minute and more after an outage.
func (r *FilterDeploymentReconciler) createRevision(ctx context.Context, fd *wasmev1.FilterDeployment, desired *appsv1.ControllerRevision) error {
	err := r.Client.Create(ctx, desired)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	var live appsv1.ControllerRevision
	if err := r.Reader.Get(ctx, client.ObjectKeyFromObject(desired), &live); err != nil {
		return err
	}
	if whose := ownershipOf(&live, fd); whose != ours && whose != orphan {
		return fmt.Errorf("ControllerRevision %s exists and is not the operator's; delete or rename it", live.Name)
	}
	claimed := claim(&live, fd, nil)
	if !claimed && live.Revision >= desired.Revision {
		return nil
	}
	live.Revision = desired.Revision
	return r.Client.Update(ctx, &live)
}

func newest(history []revision) *revision {
	if len(history) == 0 {
		return nil
	}
	return &history[0]
}

// revisionObject is a ControllerRevision whose name tells its content.
func revisionObject(fd *wasmev1.FilterDeployment, content *revision) (*appsv1.ControllerRevision, error) {
	data, err := json.Marshal(content.revisionContent)
	if err != nil {
		return nil, fmt.Errorf("encoding the revision: %w", err)
	}
	object := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{Namespace: fd.Namespace, Name: render.NameWithHash(fd.Name, string(data))},
		Data:       runtime.RawExtension{Raw: data},
		Revision:   1,
	}
	claim(object, fd, map[string]string{revisionAnnotation: content.hash})
	return object, nil
}

// pruneRevisions deletes what is older than the history, but nothing that an
// output holds as far as the cache knows: its module must be served. Of those
// that are the same to proxies, the newest is enough for that.
func (r *FilterDeploymentReconciler) pruneRevisions(ctx context.Context, history []revision, existing outputs) error {
	held := existing.revisions()
	for i, known := range history {
		if content := known.hash; i < revisionHistory || held.Has(content) {
			held.Delete(content)
			continue
		}
		precondition := client.Preconditions{UID: &known.object.UID, ResourceVersion: &known.object.ResourceVersion}
		if err := r.Client.Delete(ctx, known.object, precondition); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting ControllerRevision %s: %w", known.object.Name, err)
		}
	}
	return nil
}
