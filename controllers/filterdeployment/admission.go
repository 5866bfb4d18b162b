package filterdeployment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/signatures"
	"github.com/wasme-io/wasme-operator/internal/policy"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/internal/tracing"
	"github.com/wasme-io/wasme-operator/internal/trust"
)

// +kubebuilder:rbac:groups=wasme.io,resources=filterpolicies,verbs=list;watch
// ClusterFilterPolicies are read with the ClusterRole of config/rbac/policies_role.yaml,
// which an operator without cluster-wide rights has, too.

// applied is a policy that applies to a FilterDeployment, and where it is.
type applied struct {
	policy.Policy
	namespace string
}

// admit is the step between the module and its preflight: it asks the policies whether a
// revision may reach proxies. The error is one of the cache.
func (r *Reconciler) admit(ctx context.Context, fd *wasmev1.FilterDeployment, asked *revision.Revision) (found rollout.Admission, err error) {
	ctx, span := tracing.Begin(ctx, "Admit")
	defer func() { tracing.EndStep(span, found.Verdict, err) }()
	owner := client.ObjectKeyFromObject(fd)
	policies, err := r.policiesFor(ctx, fd.Namespace)
	if err != nil {
		return rollout.Admission{}, err
	}
	if len(policies) == 0 {
		r.Signatures.Forget(owner)
		return rollout.Admission{Revision: asked.Hash}, nil
	}
	subject, err := subjectOf(asked)
	if err != nil {
		return rollout.Admission{}, err
	}
	request, lacks := r.learn(fd, asked, &subject, policies)
	judged := make([]rollout.Judged, 0, len(policies))
	for _, one := range policies {
		judged = append(judged, r.judge(ctx, one, subject, lacks))
	}
	found = rollout.JudgeAdmission(&fd.Status, asked.Hash, judged, r.Clock.Now())
	switch {
	case found.Unsigned:
		r.Signatures.Renew(owner, request)
	case lacks.signatures == nil:
		r.Signatures.Forget(owner)
	}
	return found, nil
}

// unknown says why something that policies ask about is not known; nil where it is.
type unknown struct{ signatures, capabilities error }

// judge asks one policy.
func (r *Reconciler) judge(ctx context.Context, one applied, subject policy.Subject, lacks unknown) rollout.Judged {
	needs, judged := one.Needs(subject.Repository), rollout.Judged{Mode: one.Mode}
	if needs.Capabilities && lacks.capabilities != nil {
		if invalid, is := errors.AsType[*module.Error](lacks.capabilities); is {
			judged.Violations = []policy.Violation{{Reason: wasmev1.ReasonCapabilityDenied, Message: one.Name + ": what the module imports cannot be read: " + invalid.Message}}
		} else {
			judged.Awaits = condition.Unknown(wasmev1.ReasonModuleUnreadable, "%s: %v", one.Name, lacks.capabilities)
		}
		return judged
	}
	var roots trust.Roots
	err := lacks.signatures
	if !needs.Signatures {
		err = nil
	}
	if err == nil && needs.Roots {
		roots, err = r.rootsOf(ctx, one)
	}
	switch {
	case errors.Is(err, errVerifying), errors.Is(err, errFetchingRoot):
		judged.Awaits = condition.Unknown(wasmev1.ReasonVerifying, "%s: %v", one.Name, err)
	case err != nil:
		judged.Awaits = condition.Unknown(wasmev1.ReasonSignaturesUnavailable, "%s: %v", one.Name, err)
	default:
		judged.Judgement = one.Judge(subject, roots)
	}
	return judged
}

// What policies wait for.
var (
	errVerifying    = errors.New("the operator is looking up the signatures of the image")
	errFetchingRoot = errors.New("the operator is fetching the trusted root of Sigstore")
)

// policiesFor returns the policies that apply in a namespace, ordered by name.
func (r *Reconciler) policiesFor(ctx context.Context, namespace string) ([]applied, error) {
	var cluster wasmev1.ClusterFilterPolicyList
	if err := r.Client.List(ctx, &cluster); err != nil {
		return nil, fmt.Errorf("listing ClusterFilterPolicies: %w", err)
	}
	var local wasmev1.FilterPolicyList
	if err := r.Client.List(ctx, &local, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("listing FilterPolicies: %w", err)
	}
	var all []applied
	for i := range cluster.Items {
		one := &cluster.Items[i]
		applies, err := r.selectsNamespace(ctx, one.Spec.NamespaceSelector, namespace)
		if err != nil {
			return nil, err
		}
		if applies {
			spec := one.Spec.FilterPolicySpec
			found := applied{Policy: policy.Read("ClusterFilterPolicy "+one.Name, spec)}
			if spec.TrustedRoot != nil {
				found.namespace = spec.TrustedRoot.ConfigMap.Namespace
			}
			all = append(all, found)
		}
	}
	for i := range local.Items {
		all = append(all, applied{policy.Read("FilterPolicy "+local.Items[i].Name, local.Items[i].Spec), namespace})
	}
	slices.SortFunc(all, func(a, b applied) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// selectsNamespace reads the labels of a namespace only when they matter.
func (r *Reconciler) selectsNamespace(ctx context.Context, by *metav1.LabelSelector, namespace string) (bool, error) {
	if by == nil {
		return true, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(by)
	if err != nil {
		return false, fmt.Errorf("reading spec.namespaceSelector of a ClusterFilterPolicy: %w", err)
	}
	var found corev1.Namespace
	if err := r.Reader.Get(ctx, client.ObjectKey{Name: namespace}, &found); err != nil {
		return false, fmt.Errorf("reading namespace %s: %w", namespace, err)
	}
	return selector.Matches(labels.Set(found.Labels)), nil
}

// subjectOf returns what a revision says of itself.
func subjectOf(asked *revision.Revision) (policy.Subject, error) {
	subject := policy.Subject{Filter: asked.Filter}
	if asked.Filter.Image == "" {
		return subject, nil
	}
	reference, err := name.ParseReference(asked.Filter.Image)
	if err != nil {
		return subject, fmt.Errorf("reading spec.filter.image: %w", err)
	}
	subject.Repository = reference.Context().Name()
	if subject.Image, err = v1.NewHash(cmp.Or(asked.Module.IndexDigest, asked.Module.ManifestDigest)); err != nil {
		return subject, fmt.Errorf("reading the digest of the image: %w", err)
	}
	return subject, nil
}

// learn adds what the policies need to know of a revision, and no more. It returns the
// request for the image's signatures, too.
func (r *Reconciler) learn(fd *wasmev1.FilterDeployment, asked *revision.Revision, subject *policy.Subject, policies []applied) (request signatures.Request, lacks unknown) {
	var needs policy.Needs
	for _, one := range policies {
		needs = needs.With(one.Needs(subject.Repository))
	}
	if needs.Capabilities {
		subject.Capabilities, lacks.capabilities = r.capabilitiesOf(asked.Module.SHA256)
	}
	if needs.Signatures {
		request, lacks.signatures = r.readSignatures(fd, subject)
	}
	return request, lacks
}

func (r *Reconciler) readSignatures(fd *wasmev1.FilterDeployment, subject *policy.Subject) (signatures.Request, error) {
	owner := client.ObjectKeyFromObject(fd)
	image, has := r.Finder.Modules.RequestOf(owner)
	if !has {
		return signatures.Request{}, errVerifying
	}
	request := signatures.Request{Request: image, Digest: subject.Image}
	answer := r.Signatures.Ask(owner, request)
	switch {
	case answer.Result != nil:
		subject.Signatures, subject.Unreadable = answer.Result.Signatures, answer.Result.Unreadable
		return request, nil
	case answer.Err != nil:
		return request, answer.Err
	}
	return request, errVerifying
}

// capabilitiesOf reads what a module imports.
func (r *Reconciler) capabilitiesOf(sha256 string) ([]wasmev1.Capability, error) {
	file, err := r.Store.Open(sha256)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("the module is not in the store any more, and is pulled again")
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	functions, err := module.ImportedFunctions(file, file.SizeBytes)
	return module.CapabilitiesOf(functions), err
}

// rootsOf returns the trusted root of a policy.
func (r *Reconciler) rootsOf(ctx context.Context, one applied) (trust.Roots, error) {
	if one.TrustedRoot == nil {
		roots, err := r.Sigstore.Roots()
		if roots == nil && err == nil {
			err = errFetchingRoot
		}
		if roots != nil {
			err = nil // it is renewed
		}
		return roots, err
	}
	from := one.TrustedRoot.ConfigMap
	content, err := r.Finder.TrustedRoot(ctx, one.namespace, wasmev1.ConfigMapKey{Name: from.Name, Key: from.Key})
	if err != nil {
		return nil, err
	}
	roots, err := trust.ParseRoots(content)
	if err != nil {
		return nil, fmt.Errorf("reading spec.trustedRoot.configMap: key %s of ConfigMap %s in namespace %s: %w", from.Key, from.Name, one.namespace, err)
	}
	return roots, nil
}
