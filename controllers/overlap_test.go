package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	eventsv1 "k8s.io/api/events/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// workloadsFrom reads `[<namespace>/]<kind>/<name> <label>=<value>,…`; the
// namespace is n when it is left out.
func workloadsFrom(texts ...string) []render.Target {
	var workloads []render.Target
	for _, text := range texts {
		name, pods, _ := strings.Cut(text, " ")
		parts := strings.Split("n/"+name, "/")
		parts = parts[len(parts)-3:]
		set, err := labels.ConvertSelectorToLabelsMap(pods)
		if err != nil {
			panic(err)
		}
		workloads = append(workloads, render.Target{Namespace: parts[0], Kind: parts[1], Name: parts[2], PodLabels: set})
	}
	return workloads
}

// programmedAs are targets whose outputs are in place, of the filter f.
func programmedAs(kind wasmev1.Output, workloads ...render.Target) []target {
	targets := make([]target, 0, len(workloads))
	for _, workload := range workloads {
		targets = append(targets, target{workload: workload, output: outputKey{kind, render.Name(workload, "f")}})
	}
	return targets
}

var _ = DescribeTable("Of the workloads whose pods an output selects are told",
	func(targets, others []string, want ...string) {
		of := programmedAs(wasmev1.OutputWasmPlugin, workloadsFrom(targets...)...)
		got := []string{}
		for _, o := range findOverlaps(of, workloadsFrom(append(others, targets...)...)) {
			got = append(got, fmt.Sprintf("%s/%s/%s runs %d times, by %s", o.workload.Namespace, o.workload.Kind, o.workload.Name, o.runs(), o.by.name))
		}
		Expect(got).To(Equal(append([]string{}, want...)))
	},
	Entry("none but its own", []string{"Deployment/a app=a"}, []string{"Deployment/b app=b"}),
	Entry("one with the same labels", []string{"Deployment/a app=a"}, []string{"Deployment/b app=a"},
		"n/Deployment/b runs 1 times, by a-f"),
	Entry("one with more labels", []string{"Deployment/a app=a,v=1"}, []string{"Deployment/b app=a,v=1,track=canary"},
		"n/Deployment/b runs 1 times, by a-f"),
	Entry("none with fewer labels", []string{"Deployment/a app=a,v=1"}, []string{"Deployment/b app=a", "Deployment/c v=1"}),
	Entry("none with another value", []string{"Deployment/a app=a,v=1"}, []string{"Deployment/b app=a,v=2"}),
	Entry("none without labels", []string{"Deployment/a app=a"}, []string{"Deployment/b"}),
	Entry("one of another kind, of the same name too", []string{"Deployment/a app=a"}, []string{"DaemonSet/a app=a", "StatefulSet/s app=a"},
		"n/DaemonSet/a runs 1 times, by a-f", "n/StatefulSet/s runs 1 times, by a-f"),
	Entry("one of another namespace, of the same name too", []string{"Deployment/a app=a"}, []string{"m/Deployment/a app=a"},
		"m/Deployment/a runs 1 times, by a-f"),
	Entry("a target that another target's output selects, which runs the filter twice",
		[]string{"Deployment/a app=a", "Deployment/b app=a,track=canary"}, nil,
		"n/Deployment/b runs 2 times, by a-f"),
	Entry("targets with the same labels, each by the others' outputs",
		[]string{"Deployment/a app=a", "Deployment/b app=a", "Deployment/c app=a"}, nil,
		"n/Deployment/a runs 3 times, by b-f", "n/Deployment/b runs 3 times, by a-f", "n/Deployment/c runs 3 times, by a-f"),
	Entry("a chain of ever more labels, the most often first",
		[]string{"Deployment/a app=a", "Deployment/b app=a,x=1", "Deployment/c app=a,x=1,y=1"}, []string{"Deployment/d app=a,x=1,y=1,z=1", "Deployment/e app=a,y=1"},
		"n/Deployment/c runs 3 times, by a-f", "n/Deployment/d runs 3 times, by a-f", "n/Deployment/b runs 2 times, by a-f", "n/Deployment/e runs 1 times, by a-f"),
	Entry("one that no single label gives away", []string{"Deployment/a app=a,v=1,tier=web"},
		[]string{"Deployment/b app=a,v=1", "Deployment/c app=a,tier=web", "Deployment/d v=1,tier=web", "Deployment/e app=a,v=1,tier=web"},
		"n/Deployment/e runs 1 times, by a-f"),
)

var _ = DescribeTable("No overlap is told of",
	func(change func(*target)) {
		targets := programmedAs(wasmev1.OutputTrafficExtension, workloadsFrom("Deployment/a app=a")...)
		others := workloadsFrom("Deployment/a app=a", "Deployment/b app=a")
		Expect(findOverlaps(targets, others)).To(HaveLen(1))
		change(&targets[0])
		Expect(findOverlaps(targets, others)).To(BeEmpty())
	},
	Entry("an EnvoyFilter, which names its proxies", func(t *target) { t.output.kind = wasmev1.OutputEnvoyFilter }),
	Entry("an output that could not be written", func(t *target) { t.err = errors.New("refused") }),
	Entry("an output that was not tried", func(t *target) { t.output = outputKey{} }),
	Entry("a targetRef", func(t *target) {
		t.workload = render.Target{Kind: wasmev1.TargetKindGateway, Namespace: "n", Name: "a"}
	}),
)

var _ = Describe("The message about overlaps", func() {
	It("says most clearly that a filter runs twice, and is bounded", func() {
		var targets, others []string
		for i := range 5 {
			targets = append(targets, fmt.Sprintf("Deployment/t%d app=a", i))
			others = append(others, fmt.Sprintf("m/Deployment/o%d app=b,more=%d", i, i))
		}
		workloads := workloadsFrom(append(append(others, targets...), "Deployment/b app=b")...)
		found := findOverlaps(programmedAs(wasmev1.OutputWasmPlugin, workloadsFrom(append(targets, "Deployment/b app=b")...)...), workloads)
		verdict := overlapVerdict(found, "n")
		Expect(verdict.Reason).To(Equal(wasmev1.ReasonRunsRepeatedly))
		Expect(verdict.Status).To(Equal(metav1.ConditionTrue))
		Expect(verdict.Message).To(Equal("the filter runs more than once on each request to 5 workloads, whose pods other outputs of this FilterDeployment select too: " +
			"Deployment t0 (5 times, by WasmPlugin t1-f), Deployment t1 (5 times, by WasmPlugin t0-f), Deployment t2 (5 times, by WasmPlugin t0-f), and 2 more; " +
			"the filter runs on 5 workloads that outputs were not made for: " +
			"Deployment o0 in namespace m (by WasmPlugin b-f), Deployment o1 in namespace m (by WasmPlugin b-f), Deployment o2 in namespace m (by WasmPlugin b-f), and 2 more; " +
			"a WasmPlugin reaches all pods with the labels of its workload's pods: tell the pods apart by a label in their templates, or set spec.deployment.istio.output to EnvoyFilter"))
	})
})

// BenchmarkFindOverlaps shows that the cost grows with the number of workloads,
// not with its square.
func BenchmarkFindOverlaps(b *testing.B) {
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
				targets := programmedAs(wasmev1.OutputWasmPlugin, workloads...)
				for b.Loop() {
					findOverlaps(targets, workloads)
				}
			})
		}
	}
}

// notes are the texts of the events about a FilterDeployment of a reason.
func (w *world) notes(ctx context.Context, fd *wasmev1.FilterDeployment, reason string) []string {
	GinkgoHelper()
	var list eventsv1.EventList
	Expect(user.List(ctx, &list, client.InNamespace(fd.Namespace))).To(Succeed())
	var found []string
	for _, event := range list.Items {
		if event.Regarding.UID == fd.UID && event.Reason == reason {
			found = append(found, event.Type+": "+event.Note)
		}
	}
	return found
}

var _ = Describe("Overlaps", func() {
	var w *world
	BeforeEach(func(ctx context.Context) { w = newWorld(ctx) })

	// canary is a Deployment whose pods have all labels of those of Deployment a.
	canary := func(namespace, name string, labels map[string]string) *appsv1.Deployment {
		object := (&world{namespace: namespace}).workload("Deployment", name, labels).(*appsv1.Deployment)
		object.Spec.Selector.MatchLabels = map[string]string{"track": name}
		object.Spec.Template.Labels = map[string]string{"app": "a", "version": "v1", "track": name}
		return object
	}
	ofTeamX := func(kind wasmev1.Output) func(*wasmev1.FilterDeployment) {
		return func(fd *wasmev1.FilterDeployment) {
			selecting("Deployment", map[string]wasmev1.LabelValue{"team": "x"})(fd)
			fd.Spec.Deployment.Istio.Output = kind
		}
	}
	overlapping := func(fd *wasmev1.FilterDeployment) *metav1.Condition {
		return apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionOverlapping)
	}

	DescribeTable("are named, with one event for each change, and Ready stays True",
		func(ctx context.Context, kind wasmev1.Output) {
			w.deployment(ctx, "a", map[string]string{"team": "x"})
			fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), objectConfig, ofTeamX(kind))
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(beReady("1/1"), "which has no condition Overlapping")

			other := canary(w.namespace, "a-canary", nil)
			Expect(user.Create(ctx, other)).To(Succeed())
			for range 3 {
				Expect(w.settle(ctx, fd)).To(Succeed())
			}
			Expect(fd).To(And(
				haveCondition(wasmev1.ConditionOverlapping, metav1.ConditionTrue, wasmev1.ReasonOtherWorkloads,
					"the filter runs on 1 workloads that outputs were not made for: Deployment a-canary (by "+string(kind)+" a-f)", "set spec.deployment.istio.output to EnvoyFilter"),
				haveCondition(wasmev1.ConditionReady, metav1.ConditionTrue, wasmev1.ReasonReady),
				HaveField("Status.Summary.WorkloadsReady", "1/1"),
			))
			Eventually(ctx, func() []string { return w.notes(ctx, fd, wasmev1.ReasonOtherWorkloads) }).WithTimeout(bound).Should(HaveLen(1))

			edit(ctx, other, func(d *appsv1.Deployment) { d.Labels = map[string]string{"team": "x"} })
			for range 3 {
				Expect(w.settle(ctx, fd)).To(Succeed())
			}
			Expect(fd).To(And(
				haveCondition(wasmev1.ConditionOverlapping, metav1.ConditionTrue, wasmev1.ReasonRunsRepeatedly,
					"the filter runs more than once on each request to 1 workloads", "Deployment a-canary (2 times, by "+string(kind)+" a-f)"),
				haveCondition(wasmev1.ConditionReady, metav1.ConditionTrue, wasmev1.ReasonReady),
				HaveField("Status.Summary.WorkloadsReady", "2/2"),
			))
			Eventually(ctx, func() []string { return w.notes(ctx, fd, wasmev1.ReasonRunsRepeatedly) }).WithTimeout(bound).
				Should(ConsistOf(HavePrefix("Warning: the filter runs more than once")))
			Expect(w.notes(ctx, fd, wasmev1.ReasonOtherWorkloads)).To(ConsistOf(HavePrefix("Warning: ")))

			w.written()
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.written()).To(BeEmpty())

			edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Deployment.Istio.Output = wasmev1.OutputEnvoyFilter })
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(beReady("2/2"), "which has no condition Overlapping")
		},
		Entry("of WasmPlugins", wasmev1.OutputWasmPlugin),
		Entry("of TrafficExtensions", wasmev1.OutputTrafficExtension),
	)

	It("are none where two FilterDeployments select one workload", func(ctx context.Context) {
		w.deployments(ctx, "a")
		image := w.push(ctx, "hello:v1", "hello")
		for _, name := range []string{"one", "two"} {
			fd := w.filterDeployment(ctx, name, image, objectConfig, output(wasmev1.OutputWasmPlugin))
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(beReady("1/1"))
		}
	})

	It("reach every namespace from the mesh's root namespace", func(ctx context.Context) {
		elsewhere := newNamespace(ctx)
		w.Mesh.RootNamespace, w.AllowRootNamespace = w.namespace, true
		w.deployment(ctx, "a", map[string]string{"team": "x"})
		Expect(user.Create(ctx, canary(elsewhere, "b", nil))).To(Succeed())
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), objectConfig, ofTeamX(wasmev1.OutputWasmPlugin))
		w.catchUp(ctx, elsewhere)
		Expect(w.settle(ctx, fd)).To(Succeed())
		// The Deployments of other specs have the same labels.
		Expect(overlapping(fd)).NotTo(BeNil())
		Expect(overlapping(fd).Message).To(ContainSubstring("in namespace "))
	})

	It("are looked for when another workload comes", func(ctx context.Context) {
		image := w.push(ctx, "hello:v1", "hello")
		w.filterDeployment(ctx, "plugin", image, objectConfig, ofTeamX(wasmev1.OutputWasmPlugin))
		w.filterDeployment(ctx, "extension", image, objectConfig, ofTeamX(wasmev1.OutputTrafficExtension))
		w.filterDeployment(ctx, "envoyfilter", image, objectConfig, ofTeamX(wasmev1.OutputEnvoyFilter))
		w.filterDeployment(ctx, "reference", image, objectConfig, func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Output: wasmev1.OutputWasmPlugin, TargetRefs: []wasmev1.TargetRef{{Kind: "Service", Name: "edge"}}}
		})
		w.catchUp(ctx, w.namespace)
		request := func(name string) reconcile.Request {
			return reconcile.Request{NamespacedName: types.NamespacedName{Namespace: w.namespace, Name: name}}
		}
		Expect(w.reaching(ctx, canary(w.namespace, "b", nil))).To(ConsistOf(request("plugin"), request("extension")))
		Expect(w.reaching(ctx, canary(newNamespace(ctx), "b", nil))).To(BeEmpty())
		w.Mesh.RootNamespace = w.namespace
		Expect(w.reaching(ctx, canary(newNamespace(ctx), "b", nil))).To(ConsistOf(request("plugin"), request("extension")))
	})
})
