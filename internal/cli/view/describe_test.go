package view

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/chain"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

func TestTableOfFilters(t *testing.T) {
	hello := chain.Origin{Kind: "FilterDeployment", Namespace: "n", Name: "hello"}
	filters := []chain.Filter{
		{From: hello, Revision: "aaaaaaaa", Place: "before the router"}, {From: hello, Revision: "bbbbbbbb", Place: "before the router", Tried: true},
		{From: chain.Origin{Kind: "WasmPlugin", Namespace: "n", Name: "auth"}, Place: "phase AUTHN"},
	}
	NewWithT(t).Expect(printed(t, Filters(filters), false)).To(Equal(strings.TrimSpace(`
#     FROM                       REVISION   PLACE
1     FilterDeployment n/hello   aaaaaaaa   before the router
2     FilterDeployment n/hello   bbbbbbbb   before the router, only tried: no request passes it
3     WasmPlugin n/auth          -          phase AUTHN`)))
}

func TestTableOfRunningPods(t *testing.T) {
	hello := chain.Filter{From: chain.Origin{Name: "hello"}, Revision: "aaaaaaaa"}
	tried, missing := hello, chain.Filter{From: chain.Origin{Name: "auth"}, Missing: "not fetched"}
	tried.Tried = true
	pods := []RunningPod{
		{Name: "a", State: "as listed", Chains: map[chain.Traffic][][]chain.Filter{chain.Inbound: {{missing, hello}, {tried}}}},
		{Name: "b", State: "no sidecar"},
	}
	NewWithT(t).Expect(printed(t, RunningPods(pods, []chain.Traffic{chain.Inbound, chain.Outbound}), false)).To(Equal(strings.TrimSpace(`
POD   INBOUND                                                        OUTBOUND   STATE
a     auth (not fetched) > hello@aaaaaaaa | hello@aaaaaaaa (tried)   -          as listed
b     -                                                              -          no sidecar`)))
}

// wasmPlugin is an output of a FilterDeployment for a workload.
func wasmPlugin(name, owner, madeFor, label string) istio.Output {
	o := istio.Kinds[wasmev1.OutputWasmPlugin].New()
	o.SetNamespace("n")
	o.SetName(name)
	o.SetAnnotations(map[string]string{ownership.OwnerAnnotation: owner, rollout.WorkloadAnnotation: madeFor})
	o.Content().Raw = []byte(`{"selector":{"matchLabels":{"app":"` + label + `"}}}`)
	return o
}

func TestOverlaps(t *testing.T) {
	g := NewWithT(t)
	target := workload.Target{Kind: "Deployment", Namespace: "n", Name: "a", PodLabels: map[string]string{"app": "x"}}
	foreign := wasmPlugin("foreign", "", "", "x")
	foreign.SetAnnotations(nil)
	g.Expect(Overlaps([]istio.Output{wasmPlugin("a-f", "f", "Deployment/a", "x"), foreign}, target)).To(BeEmpty())
	g.Expect(Overlaps([]istio.Output{wasmPlugin("a-f", "f", "Deployment/a", "x"), wasmPlugin("b-f", "f", "Deployment/b", "x")}, target)).To(
		HaveExactElements(HavePrefix("FilterDeployment n/f: the filter runs more than once on each request to 1 workloads")))
	g.Expect(Overlaps([]istio.Output{wasmPlugin("b-g", "g", "Deployment/b", "x"), wasmPlugin("b-f", "f", "Deployment/b", "x"), wasmPlugin("c-f", "f", "Deployment/c", "y")}, target)).To(
		HaveExactElements(HavePrefix("FilterDeployment n/f: the filter runs on 1 workloads"), HavePrefix("FilterDeployment n/g: the filter runs on 1 workloads")))
}
