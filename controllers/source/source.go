// Package source asks for the module of a filter's source: an image, a URL or a
// ConfigMap. It reads the Secrets and ConfigMaps that the filter references from
// the API server, by name, because they are not cached: the operator sees no
// others.
package source

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/internal/module/resolve"
	"github.com/wasme-io/wasme-operator/internal/revision"
)

// Pull Secrets are read by name.
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get

// Finder asks for modules on behalf of owners: FilterDeployments, or the
// ControllerRevisions that name a module.
type Finder struct {
	// Reader reads from the API server.
	Reader client.Reader
	// Modules resolves images and URLs, and wakes the owner.
	Modules *resolve.Resolver
	// Values remembers what ConfigMaps hold.
	Values *Values
	// Allowed are the sources that modules may come from.
	Allowed Sources
	// LegacyPullSecrets allows pull Secrets with username and password that do not
	// name their registry.
	LegacyPullSecrets bool
}

// Find returns what is known of the module that a filter's source has now, or had
// according to the history if the filter's policy pins it. The error is that of a Secret
// or ConfigMap.
func (f *Finder) Find(ctx context.Context, owner types.NamespacedName, filter wasmev1.FilterSpec, history []revision.Revision) (resolve.Result, error) {
	if err := f.Allowed.check(filter); err != nil {
		return resolve.Result{}, err
	}
	switch {
	case filter.ConfigMap != nil:
		return f.findInConfigMap(ctx, owner, filter)
	case filter.URL != "":
		return f.Modules.Resolve(owner, pull.Request{URL: filter.URL, SHA256: filter.SHA256}), nil
	default:
		found, err := f.findImage(ctx, owner, filter, revision.Pinned(history, filter))
		return withReference(found, filter.Image), err
	}
}

// withReference returns a result whose module has the reference that the spec has.
func withReference(found resolve.Result, reference string) resolve.Result {
	if found.Module != nil && found.Module.Reference != reference {
		known := *found.Module
		known.Reference = reference
		found.Module = &known
	}
	return found
}

// FindRevision returns what is known of the very module that a revision was made
// of: its source may have another one by now. A revision has its URL without the query,
// which the spec of its FilterDeployment has while it is the same URL.
func (f *Finder) FindRevision(ctx context.Context, owner types.NamespacedName, known revision.Revision, current wasmev1.FilterSpec) (resolve.Result, error) {
	filter := known.Filter
	if revision.Source(current) == revision.Source(filter) {
		filter.URL = current.URL
	}
	switch {
	case filter.ConfigMap != nil:
		return f.findRevisionInConfigMap(ctx, owner, known)
	case filter.URL != "":
		return f.Modules.Resolve(owner, pull.Request{URL: filter.URL, SHA256: known.Module.SHA256}), nil
	}
	reference, err := name.ParseReference(filter.Image)
	if err != nil {
		return resolve.Result{}, fmt.Errorf("reading the image reference of a revision: %w", err)
	}
	return f.findImage(ctx, owner, filter, reference.Context().Digest(known.Module.ManifestDigest).String())
}

// findImage asks for an image with the credential of the filter's pull Secret,
// where it names one. A tag that the policy pins is polled until a revision has its
// digest: what the tag had first may have been refused.
func (f *Finder) findImage(ctx context.Context, owner types.NamespacedName, filter wasmev1.FilterSpec, image string) (resolve.Result, error) {
	_, tag := name.NewDigest(image)
	request := pull.Request{Image: image, Once: filter.ImagePullPolicy == wasmev1.PullIfNotPresent && tag == nil}
	if options := filter.ImagePullOptions; options != nil {
		request.PlainHTTP, request.InsecureSkipVerify = options.PlainHTTP, options.InsecureSkipVerify
		var err error
		if request.Credential, err = f.credential(ctx, owner.Namespace, filter.Image, options); err != nil {
			return resolve.Result{}, err
		}
		if options.CACertificates != nil {
			if request.CACertificates, err = f.certificates(ctx, owner.Namespace, *options.CACertificates); err != nil {
				return resolve.Result{}, err
			}
		}
	}
	return f.Modules.Resolve(owner, request), nil
}

// credential returns that of the first pull Secret that has one for the image's
// registry. Without any, the error is that of the first Secret.
func (f *Finder) credential(ctx context.Context, namespace, image string, options *wasmev1.ImagePullOptions) (pull.Credential, error) {
	field := "spec.filter.imagePullOptions.pullSecrets"
	if options.PullSecret != "" {
		field = "spec.filter.imagePullOptions.pullSecret"
	}
	var failure error
	for _, secret := range options.SecretNames() {
		found, err := f.credentialOf(ctx, namespace, image, field, secret)
		if err == nil {
			return found, nil
		}
		if failure == nil {
			failure = err
		}
	}
	return pull.Credential{}, failure
}

func (f *Finder) credentialOf(ctx context.Context, namespace, image, field, pullSecret string) (pull.Credential, error) {
	var secret corev1.Secret
	if err := f.Reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: pullSecret}, &secret); err != nil {
		return pull.Credential{}, fmt.Errorf("%s names Secret %s in namespace %s, which could not be read: create it, or fix the name: %w", field, pullSecret, namespace, err)
	}
	return pull.CredentialFor(image, &secret, f.LegacyPullSecrets)
}
