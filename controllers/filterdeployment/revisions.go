package filterdeployment

import (
	"context"
	"fmt"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// Revisions are watched: every replica holds the modules that they name.
// +kubebuilder:rbac:groups=apps,resources=controllerrevisions,verbs=get;list;watch;create;update;delete

// listRevisions returns the revisions of a FilterDeployment, the newest first.
func (r *Reconciler) listRevisions(ctx context.Context, fd *wasmev1.FilterDeployment) ([]revision.Revision, error) {
	var list appsv1.ControllerRevisionList
	if err := r.Client.List(ctx, &list, client.InNamespace(fd.Namespace), client.MatchingLabels(ownership.Labels(fd))); err != nil {
		return nil, fmt.Errorf("listing the revisions: %w", err)
	}
	r.Written.addRevision(&list, fd, r.Clock.Now())
	var history []revision.Revision
	for i := range list.Items {
		if !ownership.MayTake(&list.Items[i], fd) {
			continue
		}
		known, err := revision.Decode(&list.Items[i])
		if err != nil {
			log.FromContext(ctx).Error(err, "Ignoring a revision", "controllerRevision", klog.KObj(&list.Items[i]))
			continue
		}
		history = append(history, known)
	}
	revision.SortNewestFirst(history)
	return history, nil
}

// keepRevision makes the revision that is asked for the newest one of the history.
func (r *Reconciler) keepRevision(ctx context.Context, fd *wasmev1.FilterDeployment, history []revision.Revision, asked *revision.Revision) error {
	desired, err := revision.Desired(fd, *asked, history)
	if err != nil {
		return err
	}
	asked.Object = desired
	if desired.ResourceVersion == "" {
		return r.createRevision(ctx, fd, desired)
	}
	claimed := ownership.Claim(desired, fd, map[string]string{revision.HashAnnotation: asked.Hash})
	if !claimed && desired.Name == revision.Newest(history).Object.Name {
		return nil
	}
	return r.Client.Update(ctx, desired)
}

// createRevision adopts the object of that name where it was made for a
// FilterDeployment of this name. One that is as it has to be is left alone: the
// cache has not seen it yet, for a minute and more after an outage.
func (r *Reconciler) createRevision(ctx context.Context, fd *wasmev1.FilterDeployment, desired *appsv1.ControllerRevision) error {
	r.Written.expectRevision(fd, desired)
	err := r.Client.Create(ctx, desired)
	if err == nil {
		r.Written.keepRevision(fd, desired, r.Clock.Now())
	}
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	var live appsv1.ControllerRevision
	if err := r.Reader.Get(ctx, client.ObjectKeyFromObject(desired), &live); err != nil {
		return err
	}
	if !ownership.MayTake(&live, fd) {
		return fmt.Errorf("ControllerRevision %s exists and is not the operator's: delete or rename it", live.Name)
	}
	claimed := ownership.Claim(&live, fd, nil)
	if !claimed && live.Revision >= desired.Revision {
		return nil
	}
	live.Revision = desired.Revision
	return r.Client.Update(ctx, &live)
}

// completer returns what completes the revisions that outputs are to hold, for several
// writers at once.
func (r *Reconciler) completer(ctx context.Context) func(*revision.Revision) error {
	var mu sync.Mutex
	return func(known *revision.Revision) error {
		mu.Lock()
		defer mu.Unlock()
		return r.complete(ctx, known)
	}
}

// complete reads the configuration of a revision that the cache has without it.
func (r *Reconciler) complete(ctx context.Context, known *revision.Revision) error {
	if known.Whole() {
		return nil
	}
	var live appsv1.ControllerRevision
	if err := r.Reader.Get(ctx, client.ObjectKeyFromObject(known.Object), &live); err != nil {
		return fmt.Errorf("reading ControllerRevision %s: %w", known.Object.Name, err)
	}
	whole, err := revision.Decode(&live)
	if err != nil {
		return err
	}
	known.Filter.Config, known.Rendered, known.Object = whole.Filter.Config, whole.Rendered, &live
	return nil
}

// pruneRevisions deletes the revisions that are not needed any more, as far as
// the cache knows.
func (r *Reconciler) pruneRevisions(ctx context.Context, history []revision.Revision, plan *rollout.Plan, existing outputs) error {
	for _, known := range revision.Obsolete(history, plan.Needed(existing.describe())) {
		precondition := client.Preconditions{UID: &known.Object.UID, ResourceVersion: &known.Object.ResourceVersion}
		if err := r.Client.Delete(ctx, known.Object, precondition); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting ControllerRevision %s: %w", known.Object.Name, err)
		}
	}
	return nil
}
