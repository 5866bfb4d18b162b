package overlap

import (
	"fmt"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// workloadsFrom reads `[<namespace>/]<kind>/<name> <label>=<value>,… [<label>=<value>,…]`:
// the labels of the pods, and those of them that are in the selector, which are all
// when they are left out. The namespace is n when it is left out.
func workloadsFrom(texts ...string) []workload.Target {
	var workloads []workload.Target
	for _, text := range texts {
		name, sets, _ := strings.Cut(text, " ")
		pods, selector, both := strings.Cut(sets, " ")
		if !both {
			selector = pods
		}
		parts := strings.Split("n/"+name, "/")
		parts = parts[len(parts)-3:]
		workloads = append(workloads, workload.Target{Namespace: parts[0], Kind: parts[1], Name: parts[2], Selector: setFrom(selector), PodLabels: setFrom(pods)})
	}
	return workloads
}

func setFrom(text string) map[string]string {
	set, err := labels.ConvertSelectorToLabelsMap(text)
	if err != nil {
		panic(err)
	}
	return set
}

// programmedAs returns a plan whose outputs are in place, of the filter f.
func programmedAs(kind wasmev1.Output, workloads ...workload.Target) *rollout.Plan {
	plan := &rollout.Plan{Workloads: make([]rollout.Workload, 0, len(workloads))}
	for _, workload := range workloads {
		plan.Workloads = append(plan.Workloads, rollout.Workload{
			Target: workload, Phase: rollout.Programmed, Output: rollout.OutputKey{Kind: kind, Name: render.Name(workload, "f")},
		})
	}
	return plan
}

func TestWorkloadsWhosePodsAnOutputSelects(t *testing.T) {
	for _, row := range []struct {
		name                  string
		targets, others, want []string
	}{
		{"none but its own", []string{"Deployment/a app=a"}, []string{"Deployment/b app=b"}, nil},
		{
			"one with the same labels",
			[]string{"Deployment/a app=a"},
			[]string{"Deployment/b app=a"},
			[]string{"n/Deployment/b runs 1 times, by a-f"},
		},
		{
			"one with more labels",
			[]string{"Deployment/a app=a,v=1"},
			[]string{"Deployment/b app=a,v=1,track=canary"},
			[]string{"n/Deployment/b runs 1 times, by a-f"},
		},
		{"none with fewer labels", []string{"Deployment/a app=a,v=1"}, []string{"Deployment/b app=a", "Deployment/c v=1"}, nil},
		{"none with another value", []string{"Deployment/a app=a,v=1"}, []string{"Deployment/b app=a,v=2"}, nil},
		{"one with the labels of its selector", []string{"Deployment/a app=a,v=1 app=a"}, []string{"Deployment/b app=a,v=2 v=2"}, []string{"n/Deployment/b runs 1 times, by a-f"}},
		{"none without labels", []string{"Deployment/a app=a"}, []string{"Deployment/b"}, nil},
		{
			"one of another kind, of the same name too",
			[]string{"Deployment/a app=a"},
			[]string{"DaemonSet/a app=a", "StatefulSet/s app=a"},
			[]string{"n/DaemonSet/a runs 1 times, by a-f", "n/StatefulSet/s runs 1 times, by a-f"},
		},
		{
			"one of another namespace, of the same name too",
			[]string{"Deployment/a app=a"},
			[]string{"m/Deployment/a app=a"},
			[]string{"m/Deployment/a runs 1 times, by a-f"},
		},
		{
			"a target that another target's output selects, which runs the filter twice",
			[]string{"Deployment/a app=a", "Deployment/b app=a,track=canary"},
			nil,
			[]string{"n/Deployment/b runs 2 times, by a-f"},
		},
		{
			"targets with the same labels, each by the others' outputs",
			[]string{"Deployment/a app=a", "Deployment/b app=a", "Deployment/c app=a"},
			nil,
			[]string{"n/Deployment/a runs 3 times, by b-f", "n/Deployment/b runs 3 times, by a-f", "n/Deployment/c runs 3 times, by a-f"},
		},
		{
			"a chain of ever more labels, the most often first",
			[]string{"Deployment/a app=a", "Deployment/b app=a,x=1", "Deployment/c app=a,x=1,y=1"},
			[]string{"Deployment/d app=a,x=1,y=1,z=1", "Deployment/e app=a,y=1"},
			[]string{"n/Deployment/c runs 3 times, by a-f", "n/Deployment/d runs 3 times, by a-f", "n/Deployment/b runs 2 times, by a-f", "n/Deployment/e runs 1 times, by a-f"},
		},
		{
			"one that no single label gives away",
			[]string{"Deployment/a app=a,v=1,tier=web"},
			[]string{"Deployment/b app=a,v=1", "Deployment/c app=a,tier=web", "Deployment/d v=1,tier=web", "Deployment/e app=a,v=1,tier=web"},
			[]string{"n/Deployment/e runs 1 times, by a-f"},
		},
		{
			"those that run it as often, by namespace, name and kind",
			[]string{"Deployment/a app=a"},
			[]string{"n/Deployment/c app=a", "n/StatefulSet/b app=a", "n/DaemonSet/b app=a", "m/Deployment/z app=a"},
			[]string{"m/Deployment/z runs 1 times, by a-f", "n/DaemonSet/b runs 1 times, by a-f", "n/StatefulSet/b runs 1 times, by a-f", "n/Deployment/c runs 1 times, by a-f"},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			made := MadeBy(programmedAs(wasmev1.OutputWasmPlugin, workloadsFrom(row.targets...)...))
			var got []string
			for _, o := range Find(made, workloadsFrom(append(row.others, row.targets...)...)) {
				got = append(got, fmt.Sprintf("%s/%s/%s runs %d times, by %s", o.workload.Namespace, o.workload.Kind, o.workload.Name, o.runs(), o.by.Name))
			}
			NewWithT(t).Expect(got).To(Equal(row.want))
		})
	}
}

func TestNoOverlapIsReportedOf(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*rollout.Workload)
	}{
		{"an EnvoyFilter, which names its proxies", func(w *rollout.Workload) { w.Output.Kind = wasmev1.OutputEnvoyFilter }},
		{"an output that could not be written", func(w *rollout.Workload) { w.Phase = rollout.Failed }},
		{"an output that was not tried", func(w *rollout.Workload) { w.Output = rollout.OutputKey{} }},
		{"a targetRef", func(w *rollout.Workload) {
			w.Target = workload.Target{Kind: wasmev1.TargetKindGateway, Namespace: "n", Name: "a"}
		}},
		{"an output that has to wait, and is not there", func(w *rollout.Workload) { w.Phase = rollout.AwaitingRoom }},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			plan := programmedAs(wasmev1.OutputTrafficExtension, workloadsFrom("Deployment/a app=a")...)
			others := workloadsFrom("Deployment/a app=a", "Deployment/b app=a")
			g.Expect(Find(MadeBy(plan), others)).To(HaveLen(1))
			row.change(&plan.Workloads[0])
			g.Expect(MadeBy(plan)).To(BeEmpty())
			g.Expect(Find(MadeBy(plan), others)).To(BeEmpty())
		})
	}
}

func TestOutputThatHasToWaitReachesPodsWithWhatItHolds(t *testing.T) {
	g := NewWithT(t)
	plan := programmedAs(wasmev1.OutputWasmPlugin, workloadsFrom("Deployment/a app=a")...)
	plan.Workloads[0].Phase, plan.Workloads[0].Holds = rollout.AwaitingPods, &revision.Revision{}
	g.Expect(MadeBy(plan)).To(Equal([]Made{{
		Output: rollout.OutputKey{Kind: wasmev1.OutputWasmPlugin, Name: "a-f"}, For: workloadsFrom("Deployment/a app=a")[0],
	}}))
}

func TestVerdictReportsMostClearlyThatAFilterRunsTwiceAndIsBounded(t *testing.T) {
	g := NewWithT(t)
	var targets, others []string
	for i := range 5 {
		targets = append(targets, fmt.Sprintf("Deployment/t%d app=a", i))
		others = append(others, fmt.Sprintf("m/Deployment/o%d app=b,more=%d", i, i))
	}
	workloads := workloadsFrom(append(append(others, targets...), "Deployment/b app=b")...)
	found := Find(MadeBy(programmedAs(wasmev1.OutputWasmPlugin, workloadsFrom(append(targets, "Deployment/b app=b")...)...)), workloads)
	verdict := Verdict(found, "n")
	g.Expect(verdict.Reason).To(Equal(wasmev1.ReasonRunsRepeatedly))
	g.Expect(verdict.Status).To(Equal(metav1.ConditionTrue))
	g.Expect(verdict.Message).To(Equal("the filter runs more than once on each request to 5 workloads, whose pods other outputs of this FilterDeployment select too: " +
		"Deployment t0 (5 times, by WasmPlugin t1-f), Deployment t1 (5 times, by WasmPlugin t0-f), Deployment t2 (5 times, by WasmPlugin t0-f), and 2 more; " +
		"the filter runs on 5 workloads that no output was made for: " +
		"Deployment o0 in namespace m (by WasmPlugin b-f), Deployment o1 in namespace m (by WasmPlugin b-f), Deployment o2 in namespace m (by WasmPlugin b-f), and 2 more; " +
		"a WasmPlugin reaches all pods that have the matchLabels of its workload: give one of the workloads other matchLabels, or set spec.deployment.istio.output to EnvoyFilter"))
}

func TestVerdictOnOneKindOfOverlap(t *testing.T) {
	const fix = "; a TrafficExtension reaches all pods that have the matchLabels of its workload: give one of the workloads other matchLabels, or set spec.deployment.istio.output to EnvoyFilter"
	for _, row := range []struct {
		name            string
		targets, others []string
		want            condition.Verdict
	}{
		{"none", []string{"Deployment/a app=a"}, nil, condition.Verdict{}},
		{
			"that runs the filter once",
			[]string{"Deployment/a app=a"},
			[]string{"Deployment/b app=a"},
			condition.True(wasmev1.ReasonOtherWorkloads, "the filter runs on 1 workloads that no output was made for: Deployment b (by TrafficExtension a-f)"+fix),
		},
		{
			"that runs the filter twice",
			[]string{"Deployment/a app=a", "Deployment/b app=a,v=1"},
			nil,
			condition.True(wasmev1.ReasonRunsRepeatedly, "the filter runs more than once on each request to 1 workloads, whose pods other outputs of this FilterDeployment select too: Deployment b (2 times, by TrafficExtension a-f)"+fix),
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			made := MadeBy(programmedAs(wasmev1.OutputTrafficExtension, workloadsFrom(row.targets...)...))
			NewWithT(t).Expect(Verdict(Find(made, workloadsFrom(append(row.others, row.targets...)...)), "n")).To(Equal(row.want))
		})
	}
}

// BenchmarkFind shows that the cost grows with the number of workloads, not with
// its square.
func BenchmarkFind(b *testing.B) {
	for _, row := range []struct {
		name string
		pods func(i int) string
	}{
		{"of distinct labels", func(i int) string { return fmt.Sprintf("app=w%d,version=v1,team=t%d,tier=web", i, i%10) }},
		{"of the same labels", func(int) string { return "app=w,version=v1,team=t,tier=web" }},
	} {
		for _, n := range []int{100, 1000, 10000} {
			b.Run(fmt.Sprintf("%d %s", n, row.name), func(b *testing.B) {
				var texts []string
				for i := range n {
					texts = append(texts, fmt.Sprintf("Deployment/w%d %s", i, row.pods(i)))
				}
				workloads := workloadsFrom(texts...)
				plan := programmedAs(wasmev1.OutputWasmPlugin, workloads...)
				for b.Loop() {
					Find(MadeBy(plan), workloads)
				}
			})
		}
	}
}
