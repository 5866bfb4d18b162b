package rollout

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/policy"
)

// Admission is what the policies say of the revision that the spec asks for.
type Admission struct {
	// Revision is the hash of that revision.
	Revision string
	// Verdict is the content of Admitted; without a reason there is no policy.
	Verdict condition.Verdict
	// Holds says that the revision must not reach proxies now. A revision that is in force
	// stays so.
	Holds bool
	// Unsigned says that signatures are missing, which may be there later.
	Unsigned bool
	// Signature is who has signed; nil when no policy asks for that, or it is not known.
	Signature *wasmev1.ModuleSignature
}

// Judged is what one policy says.
type Judged struct {
	Mode wasmev1.PolicyMode
	policy.Judgement
}

// AdmissionAwaits returns an admission that has not come to a verdict, and why. What was
// admitted before and is in force stays admitted.
func AdmissionAwaits(status *wasmev1.FilterDeploymentStatus, revision string, why condition.Verdict) Admission {
	inForce := status.Revision == revision
	said := apimeta.FindStatusCondition(status.Conditions, wasmev1.ConditionAdmitted)
	if inForce && said != nil && said.Status == metav1.ConditionTrue {
		found := Admission{Revision: revision, Verdict: condition.True(said.Reason, "%s", said.Message)}
		if status.Module != nil {
			found.Signature = status.Module.Signature
		}
		return found
	}
	return Admission{Revision: revision, Verdict: why, Holds: !inForce}
}

// JudgeAdmission sums up what the policies say, all of which were asked.
func JudgeAdmission(status *wasmev1.FilterDeploymentStatus, revision string, judged []Judged, now time.Time) Admission {
	found := Admission{Revision: revision}
	var refused, warned []policy.Violation
	var by []string
	var form wasmev1.SignatureForm
	for _, one := range judged {
		if one.Mode == wasmev1.PolicyWarn {
			warned = append(warned, one.Violations...)
		} else {
			refused = append(refused, one.Violations...)
		}
		if form == "" {
			form = one.Form
		}
		by = append(by, one.By...)
	}
	if len(by) > 0 {
		slices.Sort(by)
		found.Signature = &wasmev1.ModuleSignature{By: slices.Compact(by), Form: form, VerifiedAt: metav1.NewTime(now)}
	}
	isUnsigned := func(v policy.Violation) bool { return v.Reason == wasmev1.ReasonNotSigned }
	found.Unsigned = slices.ContainsFunc(refused, isUnsigned) || slices.ContainsFunc(warned, isUnsigned)
	switch {
	case len(refused) > 0:
		found.refuse(status, refused)
	case len(warned) > 0:
		found.Verdict = condition.True(wasmev1.ReasonWarned, "%s; proxies get it all the same, because the policy only warns", describeViolations(warned))
	default:
		found.Verdict = condition.True(wasmev1.ReasonAdmitted, "%s", found.praise(len(judged)))
	}
	return found
}

// refuse sets the verdict on a revision that breaks policies. Signatures may be added
// without a change of any object.
func (a *Admission) refuse(status *wasmev1.FilterDeploymentStatus, refused []policy.Violation) {
	a.Holds = status.Revision != a.Revision
	text := describeViolations(refused)
	if !a.Holds {
		text += "; the revision stays in force, because policies hold new revisions only"
	}
	a.Verdict = condition.FalseUntilChanged(refused[0].Reason, errors.New(text))
	a.Verdict.Stalled = !a.Unsigned
}

func describeViolations(all []policy.Violation) string {
	return condition.Enumerate(all, "; ", func(v policy.Violation) string { return v.Message })
}

func (a *Admission) praise(policies int) string {
	text := "meets the policy that applies"
	if policies != 1 {
		text = fmt.Sprintf("meets all %d policies that apply", policies)
	}
	if a.Signature != nil {
		text += "; signed by " + strings.Join(a.Signature.By, ", ")
	}
	return text
}

// signatureFor returns what the status says of the signatures of the revision in force:
// when they were verified first.
func (a *Admission) signatureFor(inForce string, status *wasmev1.FilterDeploymentStatus) *wasmev1.ModuleSignature {
	var before *wasmev1.ModuleSignature
	if status.Module != nil && status.Revision == inForce {
		before = status.Module.Signature
	}
	if a.Revision != inForce {
		return before
	}
	if now := a.Signature; now != nil && before != nil && slices.Equal(now.By, before.By) && now.Form == before.Form {
		return before
	}
	return a.Signature
}
