package rollout

import (
	"errors"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/preflight"
)

func TestWhatFollowsFromAPreflight(t *testing.T) {
	passed := &preflight.Verdict{Reason: wasmev1.ReasonPreflighted, Message: "fine", Warnings: []string{"x", "y"}}
	refused := &preflight.Verdict{Reason: wasmev1.ReasonTrapped, Message: "it crashed", Logs: []string{"first", "last"}}
	undecided := &preflight.Verdict{Reason: wasmev1.ReasonUndecided, Message: "nobody knows"}
	const message = "it crashed; its last log lines: first | last"
	for name, tc := range map[string]struct {
		mode    wasmev1.Preflight
		running string
		verdict *preflight.Verdict
		err     error
		want    condition.Verdict
		holds   bool
	}{
		"off":                           {mode: wasmev1.PreflightOff, verdict: refused, want: condition.True(wasmev1.ReasonPreflightOff, "the module was not run: spec.filter.preflight, or the operator's --preflight, is Off")},
		"under way":                     {mode: wasmev1.PreflightEnforce, want: condition.Unknown(wasmev1.ReasonPreflighting, "the operator is running the module before any proxy does"), holds: true},
		"under way, but only to warn":   {mode: wasmev1.PreflightWarn, want: condition.Unknown(wasmev1.ReasonPreflighting, "the operator is running the module before any proxy does")},
		"under way, but proxies run it": {mode: wasmev1.PreflightEnforce, running: "r", want: condition.Unknown(wasmev1.ReasonPreflighting, "the operator is running the module before any proxy does")},
		"unavailable":                   {mode: wasmev1.PreflightEnforce, err: errors.New("no memory"), want: condition.Unknown(wasmev1.ReasonPreflightUnavailable, "the operator could not run the module, and tries again: no memory"), holds: true},
		"passed":                        {mode: wasmev1.PreflightEnforce, verdict: passed, want: condition.True(wasmev1.ReasonPreflighted, "fine; what crashes it: x, y")},
		"undecided":                     {mode: wasmev1.PreflightEnforce, verdict: undecided, want: condition.True(wasmev1.ReasonUndecided, "nobody knows")},
		"refused":                       {mode: wasmev1.PreflightEnforce, verdict: refused, want: condition.FalseUntilChanged(wasmev1.ReasonTrapped, errors.New(message)), holds: true},
		"refused, while another runs":   {mode: wasmev1.PreflightEnforce, running: "s", verdict: refused, want: condition.FalseUntilChanged(wasmev1.ReasonTrapped, errors.New(message)), holds: true},
		"refused, but proxies run it":   {mode: wasmev1.PreflightEnforce, running: "r", verdict: refused, want: condition.False(wasmev1.ReasonTrapped, "%s", message+"; proxies get it all the same")},
		"only a warning":                {mode: wasmev1.PreflightWarn, verdict: refused, want: condition.False(wasmev1.ReasonTrapped, "%s", message+"; proxies get it all the same")},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			got := JudgePreflight(tc.mode, &wasmev1.FilterDeploymentStatus{Revision: tc.running}, "r", tc.verdict, tc.err)
			g.Expect(got.Verdict).To(Equal(tc.want))
			g.Expect(got.Holds).To(Equal(tc.holds))
			g.Expect(got.Revision).To(Equal("r"))
		})
	}
}

func TestTheCostIsRoundedUp(t *testing.T) {
	g := NewWithT(t)
	verdict := &preflight.Verdict{Reason: wasmev1.ReasonPreflighted, Message: "fine", Cost: &preflight.Cost{
		Compile: 1500 * time.Microsecond, Stream: 1001 * time.Nanosecond, MemoryBytes: 3, StreamedMemoryBytes: 4, ProxyMemoryBytes: 5, Capabilities: []string{"c"},
	}}
	got := JudgePreflight(wasmev1.PreflightEnforce, &wasmev1.FilterDeploymentStatus{}, "r", verdict, nil)
	g.Expect(got.Cost).To(Equal(&wasmev1.ModuleCost{
		CompileMilliseconds: new(int64(1)), StreamMicroseconds: new(int64(2)), MemoryBytes: new(int64(3)), StreamedMemoryBytes: new(int64(4)), ProxyMemoryBytes: new(int64(5)),
		Capabilities: []string{"c"},
	}))
}

func TestPreflightedBefore(t *testing.T) {
	said := func(reason string) []metav1.Condition {
		return []metav1.Condition{{Type: wasmev1.ConditionPreflighted, Reason: reason, Message: "said"}}
	}
	cost := &wasmev1.ModuleCost{}
	for name, tc := range map[string]struct {
		status wasmev1.FilterDeploymentStatus
		found  bool
		cost   *wasmev1.ModuleCost
	}{
		"nothing was said":           {status: wasmev1.FilterDeploymentStatus{Revision: "r"}},
		"of another revision":        {status: wasmev1.FilterDeploymentStatus{Revision: "s", Conditions: said(wasmev1.ReasonPreflighted)}},
		"it is in force":             {status: wasmev1.FilterDeploymentStatus{Revision: "r", Conditions: said(wasmev1.ReasonPreflighted)}, found: true},
		"with its cost":              {status: wasmev1.FilterDeploymentStatus{Revision: "r", Conditions: said(wasmev1.ReasonPreflighted), Module: &wasmev1.ModuleStatus{Cost: cost}}, found: true, cost: cost},
		"it is on its way":           {status: wasmev1.FilterDeploymentStatus{Revision: "s", Rollout: &wasmev1.RolloutStatus{To: "r"}, Conditions: said(wasmev1.ReasonUndecided), Module: &wasmev1.ModuleStatus{Cost: cost}}, found: true},
		"it was not run":             {status: wasmev1.FilterDeploymentStatus{Revision: "r", Conditions: said(wasmev1.ReasonPreflightOff)}},
		"it was refused, and warned": {status: wasmev1.FilterDeploymentStatus{Revision: "r", Conditions: said(wasmev1.ReasonTrapped)}},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			got, found := PreflightedBefore(&tc.status, "r")
			g.Expect(found).To(Equal(tc.found))
			g.Expect(got.Cost).To(Equal(tc.cost))
			if found {
				g.Expect(got.Verdict.Message).To(Equal("said"))
			}
		})
	}
}
