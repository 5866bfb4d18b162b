package rollout

import (
	"cmp"
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
	// Awaits, unless it has no reason, says why the policy could not be asked.
	Awaits condition.Verdict
}

// JudgeAdmission sums up what the policies say.
func JudgeAdmission(status *wasmev1.FilterDeploymentStatus, revision string, judged []Judged, now time.Time) Admission {
	found := Admission{Revision: revision}
	var refused, warned []policy.Violation
	var awaits condition.Verdict
	for _, one := range judged {
		switch warns := one.Mode == wasmev1.PolicyWarn; {
		case one.Awaits.Reason == "" && warns:
			warned = append(warned, one.Violations...)
		case one.Awaits.Reason == "":
			refused = append(refused, one.Violations...)
		case warns:
			warned = append(warned, policy.Violation{Reason: one.Awaits.Reason, Message: one.Awaits.Message})
		case awaits.Reason == "":
			awaits = one.Awaits
		}
	}
	isUnsigned := func(v policy.Violation) bool { return v.Reason == wasmev1.ReasonNotSigned }
	found.Unsigned = slices.ContainsFunc(refused, isUnsigned) || slices.ContainsFunc(warned, isUnsigned)
	found.Signature = signatureOf(judged, now)
	switch {
	case len(refused) > 0:
		found.refuse(status, refused)
	case awaits.Reason != "":
		found.await(status, awaits)
	case len(warned) > 0:
		found.Verdict = condition.True(wasmev1.ReasonWarned, "%s; proxies get it all the same, because the policy only warns", describeViolations(warned))
	default:
		found.Verdict = condition.True(wasmev1.ReasonAdmitted, "%s", found.praise(len(judged)))
	}
	return found
}

// signatureOf returns the signers that policies asked for and that have signed; nil for none.
func signatureOf(judged []Judged, now time.Time) *wasmev1.ModuleSignature {
	var by []string
	var form wasmev1.SignatureForm
	for _, one := range judged {
		by, form = append(by, one.By...), cmp.Or(form, one.Form)
	}
	if len(by) == 0 {
		return nil
	}
	slices.Sort(by)
	return &wasmev1.ModuleSignature{By: slices.Compact(by), Form: form, VerifiedAt: metav1.NewTime(now)}
}

// refuse sets the verdict on a revision that breaks policies. One whose rollout is under way
// gives way to the one before it. Signatures may be added without a change of any object.
func (a *Admission) refuse(status *wasmev1.FilterDeploymentStatus, refused []policy.Violation) {
	rollout := status.Rollout
	spreads := rollout != nil && rollout.To == a.Revision && underWay(rollout)
	a.Holds = status.Revision != a.Revision || spreads
	text := describeViolations(refused)
	if !a.Holds {
		text += "; the revision stays in force, because policies hold new revisions only"
	}
	a.Verdict = condition.FalseUntilChanged(refused[0].Reason, errors.New(text))
	a.Verdict.Stalled = slices.ContainsFunc(refused, func(v policy.Violation) bool { return v.Reason != wasmev1.ReasonNotSigned })
}

// await sets the verdict on a revision of which policies do not know enough yet. Nothing is
// taken from proxies for that, and while signatures are only looked up again, as after a
// restart, what was admitted before stays admitted.
func (a *Admission) await(status *wasmev1.FilterDeploymentStatus, why condition.Verdict) {
	a.Verdict, a.Holds = why, status.Revision != a.Revision
	if a.Holds {
		return
	}
	if status.Module != nil {
		a.Signature = status.Module.Signature
	}
	said := apimeta.FindStatusCondition(status.Conditions, wasmev1.ConditionAdmitted)
	if why.Reason == wasmev1.ReasonVerifying && said != nil && said.Status == metav1.ConditionTrue {
		a.Verdict = condition.True(said.Reason, "%s", said.Message)
	}
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
