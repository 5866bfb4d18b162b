package rollout

import (
	"errors"
	"slices"
	"strings"

	apimeta "k8s.io/apimachinery/pkg/api/meta"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/preflight"
)

// Preflight is what the operator's own run of the module says of the revision that the
// spec asks for.
type Preflight struct {
	// Revision is the hash of that revision.
	Revision string
	// Verdict is the content of Preflighted; without a reason there is none.
	Verdict condition.Verdict
	// Holds says that the revision must not reach proxies now. What proxies run already is
	// never held.
	Holds bool
	// Cost is what the module cost; nil when it is not known.
	Cost *wasmev1.ModuleCost
}

// PreflightedBefore returns what the status says of a revision that has passed its
// preflight; false when it does not. A restarted operator runs nothing again.
func PreflightedBefore(status *wasmev1.FilterDeploymentStatus, revision string) (Preflight, bool) {
	said := apimeta.FindStatusCondition(status.Conditions, wasmev1.ConditionPreflighted)
	if said == nil || !proxiesMayRun(status, revision) || !slices.Contains(passing, said.Reason) {
		return Preflight{}, false
	}
	found := Preflight{Revision: revision, Verdict: condition.True(said.Reason, "%s", withoutMemoryWarning(said.Message))}
	if status.Revision == revision && status.Module != nil {
		found.Cost = status.Module.Cost
	}
	return found, true
}

var passing = []string{wasmev1.ReasonPreflighted, wasmev1.ReasonNotRun, wasmev1.ReasonUndecided}

// proxiesMayRun reports whether proxies may run a revision already.
func proxiesMayRun(status *wasmev1.FilterDeploymentStatus, revision string) bool {
	return status.Revision == revision || status.Rollout != nil && status.Rollout.To == revision
}

// PreflightAwaits returns a preflight that has not come to a verdict, and why.
func PreflightAwaits(mode wasmev1.Preflight, status *wasmev1.FilterDeploymentStatus, revision string, why condition.Verdict) Preflight {
	return Preflight{Revision: revision, Verdict: why, Holds: mode == wasmev1.PreflightEnforce && !proxiesMayRun(status, revision)}
}

// JudgePreflight says what follows from a preflight: its verdict, or the error that keeps
// it from running; neither while it is under way.
func JudgePreflight(mode wasmev1.Preflight, status *wasmev1.FilterDeploymentStatus, revision string, verdict *preflight.Verdict, err error) Preflight {
	found := PreflightAwaits(mode, status, revision, condition.Verdict{})
	switch {
	case mode == wasmev1.PreflightOff:
		found.Holds = false
		found.Verdict = condition.True(wasmev1.ReasonPreflightOff, "the module was not run: spec.filter.preflight, or the operator's --preflight, is Off")
	case err != nil:
		found.Verdict = condition.Unknown(wasmev1.ReasonPreflightUnavailable, "the operator could not run the module, and tries again: %v", err)
	case verdict == nil:
		found.Verdict = condition.Unknown(wasmev1.ReasonPreflighting, "the operator is running the module before any proxy does")
	case !verdict.Refused():
		found.Holds, found.Cost = false, verdict.Cost.Status()
		found.Verdict = condition.True(verdict.Reason, "%s", describe(verdict))
	case found.Holds:
		found.Verdict = condition.FalseUntilChanged(verdict.Reason, errors.New(describe(verdict)))
	default:
		found.Verdict = condition.False(verdict.Reason, "%s; proxies get it all the same", describe(verdict))
	}
	return found
}

// describe returns what a verdict says, with the module's own last words.
func describe(v *preflight.Verdict) string {
	text := v.Message
	if len(v.Logs) > 0 {
		text += "; its last log lines: " + strings.Join(v.Logs, " | ")
	}
	if len(v.Warnings) > 0 {
		text += "; what crashes it: " + strings.Join(v.Warnings, ", ")
	}
	return text
}
