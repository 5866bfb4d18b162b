package controllers

import (
	"cmp"
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
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/internal/module/resolve"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// Pull Secrets are read by name, and not cached: the operator sees no other Secret.
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get

// resolveModule is the first step: it finds the revision that the spec asks for.
// Without one it returns nil, and the verdict says why.
func (r *FilterDeploymentReconciler) resolveModule(ctx context.Context, fd *wasmev1.FilterDeployment, history []revision) (*revision, verdict) {
	if err := render.Check(fd.Spec); err != nil {
		return nil, stalled(wasmev1.ReasonInvalidSpec, err)
	}
	filter, err := r.configured(ctx, fd)
	if err != nil {
		return nil, moduleVerdict(err)
	}
	result, err := r.findModule(ctx, fd)
	if err != nil {
		return nil, moduleVerdict(err)
	}
	if result.Module != nil {
		if istioSpec(fd).Distribution == wasmev1.DistributionRegistry && result.Module.AgentRefuses != "" {
			return nil, stalled(wasmev1.ReasonInvalidSpec, fmt.Errorf("spec.deployment.istio.distribution is Registry, and proxies do not take this image: %s; use Served", result.Module.AgentRefuses))
		}
		return r.candidate(fd, filter, moduleStatus(*result.Module))
	}
	if known := r.resolvedBefore(fd, history, result.Err); known != nil {
		return r.candidate(fd, filter, known.Module)
	}
	if result.Err != nil {
		return nil, r.unresolved(fd, result.Err)
	}
	return nil, pending(wasmev1.ReasonResolving, "looking up %s", sourceOf(fd.Spec.Filter))
}

// findModule asks for the module of whichever source the spec names.
func (r *FilterDeploymentReconciler) findModule(ctx context.Context, fd *wasmev1.FilterDeployment) (resolve.Result, error) {
	owner, filter := client.ObjectKeyFromObject(fd), fd.Spec.Filter
	if filter.ConfigMap != nil {
		content, err := configMapValue(ctx, r.Reader, fd.Namespace, "spec.filter.configMap", *filter.ConfigMap)
		if err != nil {
			return resolve.Result{}, err
		}
		return r.Modules.ResolveContent(owner, sourceOf(filter), content), nil
	}
	if filter.URL != "" {
		return r.Modules.Resolve(owner, pull.Request{URL: filter.URL, SHA256: filter.SHA256}), nil
	}
	request, err := pullRequest(ctx, r.Reader, fd.Namespace, filter, r.LegacyPullSecrets)
	if err != nil {
		return resolve.Result{}, err
	}
	return r.Modules.Resolve(owner, request), nil
}

// sourceOf is what a module comes from: the image, the URL, or
// `configmap/<name>/<key>`.
func sourceOf(filter wasmev1.FilterSpec) string {
	if filter.ConfigMap != nil {
		return "configmap/" + filter.ConfigMap.Name + "/" + filter.ConfigMap.Key
	}
	return cmp.Or(filter.Image, filter.URL)
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

// candidate is the revision of a filter, whose configuration was read, and its module.
func (r *FilterDeploymentReconciler) candidate(fd *wasmev1.FilterDeployment, filter wasmev1.FilterSpec, resolved wasmev1.ModuleStatus) (*revision, verdict) {
	content := revisionContent{Filter: filter, Module: resolved, Output: istioSpec(fd).Output, Distribution: istioSpec(fd).Distribution}
	rendered, err := render.NewFilter(client.ObjectKeyFromObject(fd), filter, content.Distribution, resolved)
	switch {
	case errors.Is(err, render.ErrRootIDMissing):
		return nil, stalled(wasmev1.ReasonRootIDMissing, err)
	case errors.Is(err, render.ErrDigestMismatch):
		return nil, stalled(wasmev1.ReasonDigestMismatch, err)
	case err != nil:
		return nil, stalled(wasmev1.ReasonInvalidSpec, err)
	}
	candidate := &revision{revisionContent: content, filter: rendered, hash: rendered.Revision()}
	return candidate, succeeded(wasmev1.ReasonResolved, "module sha256:%s, %d bytes", resolved.SHA256, *resolved.SizeBytes)
}

// istioSpec is spec.deployment.istio, which may be left out.
func istioSpec(fd *wasmev1.FilterDeployment) wasmev1.IstioDeploymentSpec {
	if fd.Spec.Deployment.Istio == nil {
		return wasmev1.IstioDeploymentSpec{}
	}
	return *fd.Spec.Deployment.Istio
}

// outputKind is the kind of outputs that the spec asks for.
func outputKind(fd *wasmev1.FilterDeployment) wasmev1.Output {
	return revisionContent{Output: istioSpec(fd).Output}.output()
}

// resolvedBefore finds the newest revision of this very source. It stands while
// the look-up is under way or the registry is away, so that a restarted operator
// neither flaps nor forgets.
func (r *FilterDeploymentReconciler) resolvedBefore(fd *wasmev1.FilterDeployment, history []revision, failure *module.Error) *revision {
	if failure != nil && failure.Reason != wasmev1.ReasonRegistryUnavailable {
		return nil
	}
	for i, known := range history {
		if sameSource(known.Filter, fd.Spec.Filter) && agreed(known, fd) && (failure == nil || r.Store.Has(known.Module.SHA256)) {
			return &history[i]
		}
	}
	return nil
}

func sameSource(a, b wasmev1.FilterSpec) bool {
	return sourceOf(a) == sourceOf(b) && equality.Semantic.DeepEqual(a.ImagePullOptions, b.ImagePullOptions) &&
		(a.URL == "" || a.SHA256 == b.SHA256)
}

// agreed tells whether a revision has shown that proxies take the image, where
// they are to pull it themselves.
func agreed(known revision, fd *wasmev1.FilterDeployment) bool {
	return istioSpec(fd).Distribution != wasmev1.DistributionRegistry || known.Distribution == wasmev1.DistributionRegistry
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
func pullRequest(ctx context.Context, reader client.Reader, namespace string, filter wasmev1.FilterSpec, legacy bool) (pull.Request, error) {
	request := pull.Request{Image: filter.Image}
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
	credential, err := pull.CredentialFor(filter.Image, &secret, legacy)
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
