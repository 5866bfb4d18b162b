package controllers

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	eventsv1 "k8s.io/api/events/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

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
					"the filter runs on 1 workloads that no output was made for: Deployment a-canary (by "+string(kind)+" a-f)", "set spec.deployment.istio.output to EnvoyFilter"),
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
		Expect(w.ForWorkload(ctx, canary(w.namespace, "b", nil))).To(ConsistOf(request("plugin"), request("extension")))
		Expect(w.ForWorkload(ctx, canary(newNamespace(ctx), "b", nil))).To(BeEmpty())
		w.Mesh.RootNamespace = w.namespace
		Expect(w.ForWorkload(ctx, canary(newNamespace(ctx), "b", nil))).To(ConsistOf(request("plugin"), request("extension")))
	})
})
