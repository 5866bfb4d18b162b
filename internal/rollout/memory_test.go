package rollout

import (
	"errors"
	"testing"

	. "github.com/onsi/gomega"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

func TestMemoryWarning(t *testing.T) {
	target := func(name string, mebibytes ...int64) Target {
		t := Target{Target: workload.Target{Kind: "Deployment", Namespace: "n", Name: name}}
		for _, limit := range mebibytes {
			t.Pods = append(t.Pods, Pod{MemoryLimit: limit << 20})
		}
		return t
	}
	passed := Preflight{
		Verdict: condition.True(wasmev1.ReasonPreflighted, "fine"),
		Cost:    &wasmev1.ModuleCost{ProxyMemoryBytes: new(int64(64 << 20))},
	}
	refused, unmeasured, estimated := passed, passed, passed
	refused.Verdict = condition.FalseUntilChanged(wasmev1.ReasonTrapped, errors.New("it crashed"))
	unmeasured.Cost = nil
	estimated.Cost = &wasmev1.ModuleCost{}
	const warning = "fine; warning: the module takes about 64 MiB of a proxy's memory, and the memory limit of these sidecars leaves less: "
	const fix = "; raise it with sidecar.istio.io/proxyMemoryLimit"
	for name, tc := range map[string]struct {
		preflight Preflight
		targets   []Target
		want      string
	}{
		"no pods":                          {passed, []Target{target("a")}, "fine"},
		"no limit":                         {passed, []Target{target("a", 0)}, "fine"},
		"room enough":                      {passed, []Target{target("a", 128)}, "fine"},
		"too little":                       {passed, []Target{target("a", 127)}, warning + "a (127 MiB)" + fix},
		"the lowest limit counts":          {passed, []Target{target("a", 1024, 100, 0, 200)}, warning + "a (100 MiB)" + fix},
		"of some workloads":                {passed, []Target{target("a", 100), target("b", 1024), target("c", 50)}, warning + "a (100 MiB), c (50 MiB)" + fix},
		"a module that did not pass":       {refused, []Target{target("a", 1)}, "it crashed"},
		"a module whose cost is not known": {unmeasured, []Target{target("a", 1)}, "fine"},
		"a cost of an older operator":      {estimated, []Target{target("a", 1)}, "fine"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			warned := tc.preflight.WithMemoryWarning(tc.targets)
			g.Expect(warned.Verdict.Message).To(HaveSuffix(tc.want))
			g.Expect(withoutMemoryWarning(warned.Verdict.Message)).To(Equal(tc.preflight.Verdict.Message))
		})
	}
}
