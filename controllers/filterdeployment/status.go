package filterdeployment

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/tracing"
)

// writeStatus writes the status that set makes, if it is another one, and records
// the transition of Ready, of a contest and of overlaps. Where something else
// answers each status with its own, it lets some time pass.
func (r *Reconciler) writeStatus(ctx context.Context, fd *wasmev1.FilterDeployment, found contest, set func(*wasmev1.FilterDeploymentStatus, int64, time.Time)) (err error) {
	ctx, span := tracing.Begin(ctx, "WriteStatus")
	defer func() { tracing.End(span, err) }()
	if found.postponed {
		return nil
	}
	before := fd.DeepCopy()
	set(&fd.Status, fd.Generation, r.Clock.Now())
	if equality.Semantic.DeepEqual(before.Status, fd.Status) {
		r.statuses.keep(fd, false, r.Clock.Now())
		return nil
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	err = r.Client.Status().Patch(ctx, fd, patch)
	if apierrors.IsNotFound(err) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	r.statuses.keep(fd, found.overwritten, r.Clock.Now())
	r.recordContest(fd, before.Status.Conditions, found)
	if !found.overwritten { // else what Ready was before is not known
		r.recordTransition(fd, before.Status.Conditions)
		r.recordOverlap(fd, before.Status.Conditions)
	}
	return nil
}
