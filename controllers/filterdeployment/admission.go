package filterdeployment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
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

// admit is the step between the module and its preflight: it asks the policies whether a
// revision may reach proxies.
func (r *Reconciler) admit(ctx context.Context, fd *wasmev1.FilterDeployment, asked *revision.Revision, policies []*policy.Policy) (found rollout.Admission, err error) {
	_, span := tracing.Begin(ctx, "Admit")
	defer func() { tracing.EndStep(span, found.Verdict, err) }()
	owner := client.ObjectKeyFromObject(fd)
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
		judged = append(judged, r.judge(one, subject, lacks))
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
func (r *Reconciler) judge(one *policy.Policy, subject policy.Subject, lacks unknown) rollout.Judged {
	needs, judged := one.Needs(subject.Repository), rollout.Judged{Mode: one.Mode}
	if needs.Capabilities && lacks.capabilities != nil {
		if invalid, is := errors.AsType[*module.Error](lacks.capabilities); is {
			judged.Violations = []policy.Violation{{Reason: wasmev1.ReasonCapabilityDenied, Message: one.Name + ": what the module imports cannot be read: " + invalid.Message}}
		} else {
			judged.Awaits = condition.Unknown(wasmev1.ReasonModuleUnreadable, "%s: %v", one.Name, lacks.capabilities)
		}
		return judged
	}
	roots, err := r.rootsFor(one, needs, lacks)
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

// rootsFor returns the trusted root of a policy, if it needs one. The error says why it
// cannot judge signatures.
func (r *Reconciler) rootsFor(one *policy.Policy, needs policy.Needs, lacks unknown) (trust.Roots, error) {
	switch {
	case needs.Signatures && lacks.signatures != nil:
		return nil, lacks.signatures
	case one.Roots != nil, !needs.Roots:
		return one.Roots, nil
	}
	roots, err := r.Sigstore.Roots()
	if roots != nil {
		return roots, nil // it is renewed
	}
	return nil, cmp.Or(err, errFetchingRoot)
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
	subject.Repository = policy.RepositoryOf(reference)
	if subject.Image, err = v1.NewHash(cmp.Or(asked.Module.IndexDigest, asked.Module.ManifestDigest)); err != nil {
		return subject, fmt.Errorf("reading the digest of the image: %w", err)
	}
	return subject, nil
}

// learn adds what the policies need to know of a revision, and no more. It returns the
// request for the image's signatures, too.
func (r *Reconciler) learn(fd *wasmev1.FilterDeployment, asked *revision.Revision, subject *policy.Subject, policies []*policy.Policy) (request signatures.Request, lacks unknown) {
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
