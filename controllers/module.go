package controllers

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// Pull Secrets are read by name, and not cached: the operator sees no other Secret.
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get

// resolveModule is the first step: it finds the revision that the spec asks for.
// Without one it returns nil, and the verdict says why.
func (r *FilterDeploymentReconciler) resolveModule(ctx context.Context, fd *wasmev1.FilterDeployment, history []revision) (*revision, verdict) {
	if err := render.Check(fd.Spec.Filter); err != nil {
		return nil, stalled(wasmev1.ReasonInvalidSpec, err)
	}
	request, err := pullRequest(ctx, r.Reader, fd.Namespace, fd.Spec.Filter, r.LegacyPullSecrets)
	if err != nil {
		return nil, moduleVerdict(err)
	}
	result := r.Modules.Resolve(client.ObjectKeyFromObject(fd), request)
	if result.Module != nil {
		return r.candidate(fd, moduleStatus(*result.Module))
	}
	if known := r.resolvedBefore(fd, history, result.Err); known != nil {
		return r.candidate(fd, known.Module)
	}
	if result.Err != nil {
		return nil, r.unresolved(fd, result.Err)
	}
	return nil, pending(wasmev1.ReasonResolving, "looking up %s", fd.Spec.Filter.Image)
}

// unresolved: what a registry refuses may be for the Secret to mend, which is
// read again after a backoff; everything else the resolver tries by itself.
func (r *FilterDeploymentReconciler) unresolved(fd *wasmev1.FilterDeployment, failure *module.Error) verdict {
	options := fd.Spec.Filter.ImagePullOptions
	if failure.Reason == wasmev1.ReasonUnauthorized && options != nil && options.PullSecret != "" {
		return failed(failure.Reason, failure)
	}
	return moduleVerdict(failure)
}

func (r *FilterDeploymentReconciler) candidate(fd *wasmev1.FilterDeployment, resolved wasmev1.ModuleStatus) (*revision, verdict) {
	filter, err := render.NewFilter(client.ObjectKeyFromObject(fd), fd.Spec.Filter, resolved)
	if errors.Is(err, render.ErrRootIDMissing) {
		return nil, stalled(wasmev1.ReasonRootIDMissing, err)
	}
	if err != nil {
		return nil, stalled(wasmev1.ReasonInvalidSpec, err)
	}
	candidate := &revision{revisionContent: revisionContent{Filter: fd.Spec.Filter, Module: resolved}, filter: filter}
	return candidate, succeeded(wasmev1.ReasonResolved, "module sha256:%s, %d bytes", resolved.SHA256, *resolved.SizeBytes)
}

// resolvedBefore finds the newest revision of this very image. It stands while
// the look-up is under way or the registry is away, so that a restarted operator
// neither flaps nor forgets.
func (r *FilterDeploymentReconciler) resolvedBefore(fd *wasmev1.FilterDeployment, history []revision, failure *module.Error) *revision {
	if failure != nil && failure.Reason != wasmev1.ReasonRegistryUnavailable {
		return nil
	}
	for i, known := range history {
		if sameImage(known.Filter, fd.Spec.Filter) && (failure == nil || r.Store.Has(known.Module.SHA256)) {
			return &history[i]
		}
	}
	return nil
}

func sameImage(a, b wasmev1.FilterSpec) bool {
	return a.Image == b.Image && equality.Semantic.DeepEqual(a.ImagePullOptions, b.ImagePullOptions)
}

// moduleVerdict: the resolver retries by itself and wakes the controller; a
// Secret is read again after a backoff.
func moduleVerdict(err error) verdict {
	var failure *module.Error
	switch {
	case errors.As(err, &failure) && failure.Reason != wasmev1.ReasonSecretInvalid:
		v := refused(failure.Reason, "%s", failure.Message)
		v.Stalled = failure.Terminal
		return v
	case failure != nil:
		return failed(wasmev1.ReasonSecretInvalid, err)
	case apierrors.IsNotFound(err):
		return failed(wasmev1.ReasonSecretNotFound, err)
	default:
		return failed(wasmev1.ReasonSecretUnreadable, err)
	}
}

// pullRequest says how an image is reached: with the credential of its pull
// Secret, where it names one.
func pullRequest(ctx context.Context, reader client.Reader, namespace string, filter wasmev1.FilterSpec, legacy bool) (module.Request, error) {
	request := module.Request{Image: filter.Image}
	options := filter.ImagePullOptions
	if options == nil {
		return request, nil
	}
	request.PlainHTTP, request.InsecureSkipVerify = options.PlainHTTP, options.InsecureSkipVerify
	if options.PullSecret == "" {
		return request, nil
	}
	var secret corev1.Secret
	if err := reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: options.PullSecret}, &secret); err != nil {
		return request, fmt.Errorf("spec.filter.imagePullOptions.pullSecret names Secret %s of namespace %s; create it or mend the name: %w", options.PullSecret, namespace, err)
	}
	credential, err := module.CredentialFor(filter.Image, &secret, legacy)
	request.Credential = credential
	return request, err
}

func moduleStatus(m module.Module) wasmev1.ModuleStatus {
	return wasmev1.ModuleStatus{
		Reference:      m.Reference,
		ManifestDigest: m.ManifestDigest,
		SHA256:         m.SHA256,
		SizeBytes:      &m.SizeBytes,
		ABIVersions:    m.ABIVersions,
		RootIDs:        m.RootIDs,
	}
}
