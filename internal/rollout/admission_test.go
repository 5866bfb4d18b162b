package rollout

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/policy"
)

func TestJudgeAdmission(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	unsigned := policy.Judgement{Violations: []policy.Violation{{Reason: wasmev1.ReasonNotSigned, Message: "p: a has not signed"}}}
	denied := policy.Judgement{Violations: []policy.Violation{{Reason: wasmev1.ReasonImageDenied, Message: "q: no"}}}
	signed := policy.Judgement{By: []string{"b", "a"}, Form: wasmev1.SignatureTag}
	unread := condition.Unknown(wasmev1.ReasonSignaturesUnavailable, "r: the registry is away")
	const revision = "new"
	for name, row := range map[string]struct {
		inForce string
		rollout *wasmev1.RolloutStatus
		judged  []Judged
		status  metav1.ConditionStatus
		reason  string
		message string
		holds   bool
		stalled bool
	}{
		"one policy is met":   {judged: []Judged{{Mode: wasmev1.PolicyEnforce, Judgement: policy.Judgement{}}}, status: metav1.ConditionTrue, reason: wasmev1.ReasonAdmitted, message: "meets the policy that applies"},
		"two are, one signed": {judged: []Judged{{Mode: wasmev1.PolicyEnforce, Judgement: signed}, {Mode: wasmev1.PolicyWarn, Judgement: signed}}, status: metav1.ConditionTrue, reason: wasmev1.ReasonAdmitted, message: "meets all 2 policies that apply; signed by a, b"},
		"a signature is missing": {
			judged: []Judged{{Mode: wasmev1.PolicyEnforce, Judgement: unsigned}}, status: metav1.ConditionFalse, reason: wasmev1.ReasonNotSigned, message: "p: a has not signed", holds: true,
		},
		"an image is denied": {
			judged: []Judged{{Mode: wasmev1.PolicyEnforce, Judgement: denied}}, status: metav1.ConditionFalse, reason: wasmev1.ReasonImageDenied, message: "q: no", holds: true, stalled: true,
		},
		"two are broken": {
			judged: []Judged{{Mode: wasmev1.PolicyEnforce, Judgement: denied}, {Mode: wasmev1.PolicyEnforce, Judgement: unsigned}}, status: metav1.ConditionFalse, reason: wasmev1.ReasonImageDenied, message: "q: no; p: a has not signed", holds: true, stalled: true,
		},
		"one warns": {
			judged: []Judged{{Mode: wasmev1.PolicyWarn, Judgement: denied}, {Mode: wasmev1.PolicyEnforce, Judgement: signed}}, status: metav1.ConditionTrue, reason: wasmev1.ReasonWarned, message: "q: no; proxies get it all the same, because the policy only warns",
		},
		"one warns, one refuses": {
			judged: []Judged{{Mode: wasmev1.PolicyWarn, Judgement: unsigned}, {Mode: wasmev1.PolicyEnforce, Judgement: denied}}, status: metav1.ConditionFalse, reason: wasmev1.ReasonImageDenied, message: "q: no", holds: true, stalled: true,
		},
		"one cannot be asked": {
			judged: []Judged{{Mode: wasmev1.PolicyEnforce, Awaits: unread}, {Mode: wasmev1.PolicyWarn, Judgement: denied}}, status: metav1.ConditionUnknown, reason: wasmev1.ReasonSignaturesUnavailable, message: "r: the registry is away", holds: true,
		},
		"one cannot be asked, and another refuses": {
			judged: []Judged{{Mode: wasmev1.PolicyEnforce, Awaits: unread}, {Mode: wasmev1.PolicyEnforce, Judgement: unsigned}}, status: metav1.ConditionFalse, reason: wasmev1.ReasonNotSigned, message: "p: a has not signed", holds: true,
		},
		"one that warns cannot be asked": {
			judged: []Judged{{Mode: wasmev1.PolicyWarn, Awaits: unread}, {Mode: wasmev1.PolicyEnforce, Judgement: signed}}, status: metav1.ConditionTrue, reason: wasmev1.ReasonWarned, message: "r: the registry is away; proxies get it all the same, because the policy only warns",
		},
		"its rollout is under way": {
			inForce: revision, rollout: &wasmev1.RolloutStatus{Phase: wasmev1.RolloutBaking, From: "old", To: revision}, judged: []Judged{{Mode: wasmev1.PolicyEnforce, Judgement: denied}},
			status: metav1.ConditionFalse, reason: wasmev1.ReasonImageDenied, message: "q: no", holds: true, stalled: true,
		},
		"it is in force again": {
			inForce: revision, rollout: &wasmev1.RolloutStatus{Phase: wasmev1.RolloutProgressing, From: revision, To: revision}, judged: []Judged{{Mode: wasmev1.PolicyEnforce, Judgement: unsigned}},
			status: metav1.ConditionFalse, reason: wasmev1.ReasonNotSigned, message: "p: a has not signed; the revision stays in force, because policies hold new revisions only",
		},
		"it is in force": {
			inForce: revision, rollout: &wasmev1.RolloutStatus{Phase: wasmev1.RolloutComplete, From: "old", To: revision}, judged: []Judged{{Mode: wasmev1.PolicyEnforce, Judgement: denied}}, status: metav1.ConditionFalse, reason: wasmev1.ReasonImageDenied,
			message: "q: no; the revision stays in force, because policies hold new revisions only", stalled: true,
		},
	} {
		got := JudgeAdmission(&wasmev1.FilterDeploymentStatus{Revision: row.inForce, Rollout: row.rollout}, revision, row.judged, now)
		if got.Verdict.Status != row.status || got.Verdict.Reason != row.reason || got.Verdict.Message != row.message || got.Holds != row.holds || got.Verdict.Stalled != row.stalled {
			t.Errorf("%s: %+v", name, got)
		}
		if strings.Contains(row.message, "signed by") != (got.Signature != nil && row.reason == wasmev1.ReasonAdmitted) {
			t.Errorf("%s: the signature is %+v", name, got.Signature)
		}
	}
}

func TestAMissingSignatureIsToldWhateverThePolicyDoes(t *testing.T) {
	missing := policy.Judgement{Violations: []policy.Violation{{Reason: wasmev1.ReasonNotSigned, Message: "a has not signed"}}}
	denied := policy.Judgement{Violations: []policy.Violation{{Reason: wasmev1.ReasonImageDenied, Message: "no"}}}
	for _, mode := range []wasmev1.PolicyMode{wasmev1.PolicyEnforce, wasmev1.PolicyWarn} {
		for found, want := range map[*policy.Judgement]bool{&missing: true, &denied: false} {
			got := JudgeAdmission(&wasmev1.FilterDeploymentStatus{}, "new", []Judged{{Mode: mode, Judgement: *found}}, time.Time{})
			if got.Unsigned != want {
				t.Errorf("%s, %+v: unsigned is %t", mode, found.Violations, got.Unsigned)
			}
		}
	}
}

func TestTheSignatureHasItsForm(t *testing.T) {
	signed := policy.Judgement{By: []string{"a"}, Form: wasmev1.SignatureTag}
	got := JudgeAdmission(&wasmev1.FilterDeploymentStatus{}, "new", []Judged{{Mode: wasmev1.PolicyEnforce, Judgement: signed}}, time.Time{})
	if got.Signature == nil || got.Signature.Form != wasmev1.SignatureTag {
		t.Errorf("%+v", got.Signature)
	}
}

func TestWhatPoliciesWaitForHoldsWhatIsNew(t *testing.T) {
	looking, away := condition.Unknown(wasmev1.ReasonVerifying, "looking"), condition.Unknown(wasmev1.ReasonSignaturesUnavailable, "away")
	status := &wasmev1.FilterDeploymentStatus{
		Revision: "good", Module: &wasmev1.ModuleStatus{Signature: &wasmev1.ModuleSignature{By: []string{"a"}}},
		Conditions: []metav1.Condition{{Type: wasmev1.ConditionAdmitted, Status: metav1.ConditionTrue, Reason: wasmev1.ReasonAdmitted, Message: "meets the policy that applies"}},
	}
	judge := func(revision string, why condition.Verdict) Admission {
		return JudgeAdmission(status, revision, []Judged{{Awaits: why}}, time.Time{})
	}
	if got := judge("new", looking); !got.Holds || got.Verdict.Reason != wasmev1.ReasonVerifying || got.Signature != nil {
		t.Errorf("a new revision: %+v", got)
	}
	if got := judge("good", looking); got.Holds || got.Verdict.Reason != wasmev1.ReasonAdmitted || got.Signature == nil {
		t.Errorf("the revision in force, while its signatures are looked up again: %+v", got)
	}
	if got := judge("good", away); got.Holds || got.Verdict.Reason != wasmev1.ReasonSignaturesUnavailable || got.Signature == nil {
		t.Errorf("the revision in force, about which nobody can tell: %+v", got)
	}
	status.Conditions[0].Status = metav1.ConditionFalse
	if got := judge("good", looking); got.Holds || got.Verdict.Reason != wasmev1.ReasonVerifying {
		t.Errorf("the revision in force, which a policy refused: %+v", got)
	}
}

func TestSignatureKeepsItsTime(t *testing.T) {
	early, late := metav1.NewTime(time.Unix(1, 0)), metav1.NewTime(time.Unix(2, 0))
	before := &wasmev1.ModuleSignature{By: []string{"a"}, Form: wasmev1.SignatureTag, VerifiedAt: early}
	status := &wasmev1.FilterDeploymentStatus{Revision: "r", Module: &wasmev1.ModuleStatus{Signature: before}}
	for name, row := range map[string]struct {
		admission Admission
		inForce   string
		want      metav1.Time
	}{
		"the same signature": {Admission{Revision: "r", Signature: &wasmev1.ModuleSignature{By: []string{"a"}, Form: wasmev1.SignatureTag, VerifiedAt: late}}, "r", early},
		"another signer":     {Admission{Revision: "r", Signature: &wasmev1.ModuleSignature{By: []string{"b"}, Form: wasmev1.SignatureTag, VerifiedAt: late}}, "r", late},
		"another revision":   {Admission{Revision: "s", Signature: &wasmev1.ModuleSignature{By: []string{"b"}, VerifiedAt: late}}, "r", early},
	} {
		if got := row.admission.signatureFor(row.inForce, status); got == nil || !got.VerifiedAt.Equal(&row.want) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	none := Admission{Revision: "r"}
	if got := none.signatureFor("r", status); got != nil {
		t.Errorf("without a policy: %+v", got)
	}
}
