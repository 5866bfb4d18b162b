package view

import (
	"errors"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/cost"
)

func TestTableOfChanges(t *testing.T) {
	changes := []cost.Change{
		{Workload: "details", Kind: cost.Module, From: "aaaaaaaa", To: "bbbbbbbb", Pods: 3, Fetches: true, Bytes: 3 << 20},
		{Workload: "ratings", Kind: cost.Added, To: "bbbbbbbb", Pods: 1, Fetches: true, Bytes: 1536, Drains: 2},
		{Workload: "broken", Kind: cost.Refused, To: "bbbbbbbb", Err: errors.New("no")},
		{Workload: "gone", Kind: cost.Removed, From: "aaaaaaaa", Drains: 1},
	}
	g := NewWithT(t)
	g.Expect(printed(t, Changes(changes), false)).To(Equal(strings.TrimSpace(`
WORKLOAD   CHANGE              FROM       TO         PODS   FETCH     DRAINS
details    module              aaaaaaaa   bbbbbbbb   3      3.0 MiB   -
ratings    filter is added     -          bbbbbbbb   1      1.5 KiB   2
broken     not possible        -          -          0      -         -
gone       filter is removed   aaaaaaaa   -          0      -         1`)))
	g.Expect(Total(changes)).To(Equal("Cost: 4 pods fetch the module, 3.0 MiB in all; connections of 1 pod drain."))
	g.Expect(Total(nil)).To(BeEmpty())
	g.Expect(Size(12)).To(Equal("12 B"))
	g.Expect(Size(0)).To(Equal("unknown size"))
}

func TestSteps(t *testing.T) {
	g := NewWithT(t)
	first := cost.Change{Workload: "details", Pods: 1}
	g.Expect(Steps(cost.Steps{}, "10s")).To(BeEmpty())
	g.Expect(Steps(cost.Steps{Staged: true, First: first}, "10s")).To(Equal("Steps: details (1 pod)."))
	g.Expect(Steps(cost.Steps{Staged: true, First: first, Others: 5, Waves: 2}, "10s")).To(Equal("Steps: details (1 pod) first, for 10s; then 5 other workloads in 2 waves."))
	g.Expect(Steps(cost.Steps{Others: 1, Waves: 1}, "")).To(Equal("Steps: none: 1 workload in 1 wave."))
}

func TestSpecDiff(t *testing.T) {
	g := NewWithT(t)
	live := &wasmev1.FilterDeployment{Spec: wasmev1.FilterDeploymentSpec{
		Filter:     wasmev1.FilterSpec{Image: "r/a:v1", PatchContext: wasmev1.PatchContextInbound, FailStrategy: wasmev1.FailReload},
		Deployment: wasmev1.DeploymentSpec{Istio: &wasmev1.IstioDeploymentSpec{Kind: "Deployment"}},
	}}
	asked := &wasmev1.FilterDeployment{Spec: wasmev1.FilterDeploymentSpec{
		Filter: wasmev1.FilterSpec{Image: "r/a:v1"}, Deployment: wasmev1.DeploymentSpec{Istio: &wasmev1.IstioDeploymentSpec{}},
	}}
	g.Expect(SpecDiff(live, asked)).To(BeEmpty(), "with the defaults of the CRD")
	asked.Spec.Filter.Image = "r/a:v2"
	g.Expect(SpecDiff(live, asked)).To(And(ContainSubstring("-  image: r/a:v1\n"), ContainSubstring("+  image: r/a:v2\n")))
	g.Expect(SpecDiff(nil, asked)).To(And(ContainSubstring("+  image: r/a:v2\n"), Not(ContainSubstring("\n-"))))
}
