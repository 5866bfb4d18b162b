package filterdeployment

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/tracing"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// resolveModule is the first step: it returns the revision that the spec asks
// for, and the tests in its image. While there is none it returns nil, and the verdict
// says why.
func (r *Reconciler) resolveModule(ctx context.Context, fd *wasmev1.FilterDeployment, history []revision.Revision) (found *revision.Revision, tests *module.Tests, verdict condition.Verdict) {
	ctx, span := tracing.Begin(ctx, "ResolveModule")
	defer func() { tracing.EndStep(span, verdict, nil) }()
	if err := render.Check(fd.Spec); err != nil {
		return nil, nil, condition.FalseUntilChanged(wasmev1.ReasonInvalidSpec, err)
	}
	filter, err := r.configuredFilter(ctx, fd)
	if err != nil {
		return nil, nil, moduleVerdict(err)
	}
	result, err := r.Finder.Find(ctx, client.ObjectKeyFromObject(fd), fd.Spec.Filter, history)
	if err != nil {
		return nil, nil, moduleVerdict(err)
	}
	if result.Module != nil {
		if workload.IstioSpec(fd).Distribution == wasmev1.DistributionRegistry && result.Module.AgentRefuses != "" {
			return nil, nil, condition.FalseUntilChanged(wasmev1.ReasonInvalidSpec, fmt.Errorf("spec.deployment.istio.distribution is Registry, but proxies do not accept this image, because %s: use Served", result.Module.AgentRefuses))
		}
		if err := r.Store.CheckShare(fd.Namespace, result.Module.SHA256, result.Module.SizeBytes); err != nil {
			return nil, nil, moduleVerdict(err)
		}
		found, verdict = asked(fd, filter, moduleStatus(*result.Module), history)
		return found, result.Module.Tests, verdict
	}
	if known := r.resolvedBefore(fd, history, result.Err); known != nil {
		found, verdict = asked(fd, filter, known.Module, history)
		if found != nil && result.Err != nil && result.Err.Reason == wasmev1.ReasonImageNotFound {
			verdict = condition.False(result.Err.Reason, "%s; the module that it had, sha256:%s, stays in use", result.Err.Message, known.Module.SHA256)
		}
		return found, nil, verdict
	}
	if result.Err != nil {
		return nil, nil, unresolved(fd, result.Err)
	}
	return nil, nil, condition.Unknown(wasmev1.ReasonResolving, "looking up %s", revision.Source(fd.Spec.Filter))
}

// configuredFilter returns the filter of a spec with the configuration that its
// configFrom references.
func (r *Reconciler) configuredFilter(ctx context.Context, fd *wasmev1.FilterDeployment) (wasmev1.FilterSpec, error) {
	if fd.Spec.Filter.ConfigFrom == nil {
		return fd.Spec.Filter, nil
	}
	content, err := r.Finder.Configuration(ctx, fd.Namespace, fd.Spec.Filter.ConfigFrom.ConfigMapKeyRef)
	if err != nil {
		return wasmev1.FilterSpec{}, err
	}
	return render.WithConfiguration(fd.Spec.Filter, content), nil
}

// asked returns the revision of a filter, whose configuration was read, and its module.
func asked(fd *wasmev1.FilterDeployment, filter wasmev1.FilterSpec, resolved wasmev1.ModuleStatus, history []revision.Revision) (*revision.Revision, condition.Verdict) {
	spec := workload.IstioSpec(fd)
	content := revision.Content{Filter: filter, Module: resolved, Output: spec.Output, Distribution: spec.Distribution}
	found, err := revision.New(client.ObjectKeyFromObject(fd), content)
	if err == nil {
		err = revision.CheckUnique(history, found)
	}
	switch {
	case errors.Is(err, render.ErrRootIDMissing):
		return nil, condition.FalseUntilChanged(wasmev1.ReasonRootIDMissing, err)
	case errors.Is(err, render.ErrDigestMismatch):
		return nil, condition.FalseUntilChanged(wasmev1.ReasonDigestMismatch, err)
	case err != nil:
		return nil, condition.FalseUntilChanged(wasmev1.ReasonInvalidSpec, err)
	}
	return &found, condition.True(wasmev1.ReasonResolved, "module sha256:%s, %d bytes", resolved.SHA256, *resolved.SizeBytes)
}

// resolvedBefore returns the newest revision of this very source. It holds while
// the look-up is under way or the registry is away, so that a restarted operator
// neither flaps nor forgets, and when the image was withdrawn, so that its
// configuration can still change. It does not hold when access is denied: nobody goes
// on with a module that they may not read any more.
func (r *Reconciler) resolvedBefore(fd *wasmev1.FilterDeployment, history []revision.Revision, failure *module.Error) *revision.Revision {
	if failure != nil && failure.Reason != wasmev1.ReasonRegistryUnavailable && failure.Reason != wasmev1.ReasonImageNotFound {
		return nil
	}
	return revision.ResolvedBefore(history, fd.Spec.Filter, workload.IstioSpec(fd).Distribution, func(known wasmev1.ModuleStatus) bool {
		return failure == nil || r.Store.Has(known.SHA256)
	})
}

// unresolved returns the verdict on a module that could not be resolved. Where a
// registry refuses a credential, its Secret may be fixed: it is read again after
// a backoff. The resolver tries everything else again by itself.
func unresolved(fd *wasmev1.FilterDeployment, failure *module.Error) condition.Verdict {
	options := fd.Spec.Filter.ImagePullOptions
	if failure.Reason == wasmev1.ReasonUnauthorized && len(options.SecretNames()) > 0 {
		return condition.FalseAndRetried(failure.Reason, failure)
	}
	return moduleVerdict(failure)
}

// moduleVerdict returns the verdict on an error: the resolver retries by itself
// and wakes the controller; a Secret is read again after a backoff.
func moduleVerdict(err error) condition.Verdict {
	var failure *module.Error
	switch {
	case errors.As(err, &failure) && failure.Reason != wasmev1.ReasonSecretInvalid:
		v := condition.False(failure.Reason, "%s", failure.Message)
		v.Stalled = failure.Terminal
		return v
	case failure != nil:
		return condition.FalseAndRetried(wasmev1.ReasonSecretInvalid, err)
	case apierrors.IsNotFound(err):
		return condition.FalseAndRetried(wasmev1.ReasonSecretNotFound, err)
	default:
		return condition.FalseAndRetried(wasmev1.ReasonSecretUnreadable, err)
	}
}

func moduleStatus(m module.Module) wasmev1.ModuleStatus {
	return wasmev1.ModuleStatus{
		Reference:      m.Reference,
		ManifestDigest: m.ManifestDigest,
		IndexDigest:    m.IndexDigest,
		SHA256:         m.SHA256,
		SizeBytes:      &m.SizeBytes,
		ABIVersions:    m.ABIVersions,
		RootIDs:        m.RootIDs,
	}
}
