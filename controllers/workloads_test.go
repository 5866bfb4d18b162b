package controllers

import (
	"context"
	"errors"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// workload is one of the three kinds, of this name.
func (w *world) workload(kind, name string, labels map[string]string) client.Object {
	meta := metav1.ObjectMeta{Namespace: w.namespace, Name: name, Labels: labels}
	selector, template := podTemplate(name)
	switch kind {
	case "DaemonSet":
		return &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}}
	case "StatefulSet":
		return &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Selector: selector, Template: template}}
	default:
		return &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}}
	}
}

var _ = Describe("The workloads", func() {
	var w *world
	var reference string
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		reference = w.push(ctx, "hello:v1", "hello")
	})

	DescribeTable("of one kind are selected",
		func(ctx context.Context, given, kind string) {
			for _, each := range []string{"Deployment", "DaemonSet", "StatefulSet"} {
				Expect(user.Create(ctx, w.workload(each, "a", nil))).To(Succeed())
			}
			fd := w.filterDeployment(ctx, "f", reference, filterID("f"), selecting(given, nil))
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(beReady("1/1"))
			Expect(fd).To(haveCondition(wasmev1.ConditionWorkloadsSelected, metav1.ConditionTrue, wasmev1.ReasonSelected, "1 of kind "+kind))
			Expect(w.output(ctx, "a-f").Annotations).To(HaveKeyWithValue(rollout.WorkloadAnnotation, kind+"/a"))
		},
		Entry("Deployment", "Deployment", "Deployment"),
		Entry("DaemonSet", "DaemonSet", "DaemonSet"),
		Entry("StatefulSet", "StatefulSet", "StatefulSet"),
		Entry("in odd letter case", "dEPLOYMENT", "Deployment"),
		Entry("in lower case", "daemonset", "DaemonSet"),
		Entry("in upper case", "STATEFULSET", "StatefulSet"),
		Entry("by default", "", "Deployment"),
	)

	It("are all Deployments where the spec selects none", func(ctx context.Context) {
		w.deployments(ctx, "a", "b")
		fd := w.filterDeployment(ctx, "f", reference, func(fd *wasmev1.FilterDeployment) { fd.Spec.Deployment.Istio = nil })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("2/2"))
	})

	It("are followed as they come, change their labels and go", func(ctx context.Context) {
		a := w.deployment(ctx, "a", map[string]string{"team": "x"})
		b := w.deployment(ctx, "b", map[string]string{"team": "y"})
		fd := w.filterDeployment(ctx, "f", reference, filterID("f"), selecting("Deployment", map[string]wasmev1.LabelValue{"team": "x"}))
		outputs := func(ready string, names ...string) {
			GinkgoHelper()
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(beReady(ready))
			Expect(w.outputs(ctx)).To(ConsistOf(names))
			Expect(fd.Status.Workloads).To(HaveLen(len(names)))
		}
		outputs("1/1", "a-f")
		edit(ctx, b, func(d *appsv1.Deployment) { d.Labels["team"] = "x" })
		outputs("2/2", "a-f", "b-f")
		edit(ctx, a, func(d *appsv1.Deployment) { delete(d.Labels, "team") })
		outputs("1/1", "b-f")
		w.deployment(ctx, "c", map[string]string{"team": "x"})
		outputs("2/2", "b-f", "c-f")
		Expect(user.Delete(ctx, b)).To(Succeed())
		outputs("1/1", "c-f")
		edit(ctx, fd, selecting("Deployment", nil))
		outputs("2/2", "a-f", "c-f")
	})

	It("keep their output while a rollout changes the labels of their pods", func(ctx context.Context) {
		a := w.deployment(ctx, "a", nil)
		fd := w.filterDeployment(ctx, "f", reference, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.output(ctx, "a-f").Spec.WorkloadSelector.Labels).To(Equal(map[string]string{"app": "a"}))
		w.written()
		edit(ctx, a, func(d *appsv1.Deployment) { d.Spec.Template.Labels["version"] = "v2" })
		Expect(w.settle(ctx, fd)).To(Succeed())
		edit(ctx, a, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(7)) })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.written()).To(BeEmpty())
	})

	Describe("that were deleted before their pods", func() {
		var s *sidecars
		var fd *wasmev1.FilterDeployment
		BeforeEach(func(ctx context.Context) {
			s = &sidecars{world: w, envoys: startSidecar(envoyPage("")), agents: startSidecar(recorded("agent-empty"))}
			fd = w.filterDeployment(ctx, "f", reference, filterID("f"))
		})
		stays := func(ctx context.Context, what string) {
			GinkgoHelper()
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.outputs(ctx)).To(ConsistOf("a-f"))
			for _, kind := range []string{wasmev1.ConditionReady, wasmev1.ConditionProgrammed} {
				Expect(fd).To(haveCondition(kind, metav1.ConditionTrue, reasonOf(fd, kind), "outputs of deleted workloads stay until their pods are gone: "+what))
			}
			w.written()
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.written()).To(BeEmpty())
		}
		pods := func(ctx context.Context) []corev1.Pod {
			GinkgoHelper()
			var list corev1.PodList
			Expect(user.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
			return list.Items
		}

		It("keep their output until these are gone", func(ctx context.Context) {
			a := w.deployment(ctx, "a", nil)
			s.start(ctx, "a", 3)
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionTrue, wasmev1.ReasonProgrammed))
			Expect(user.Delete(ctx, a)).To(Succeed())
			stays(ctx, "Deployment/a (pods: 3)")

			all := pods(ctx)
			edit(ctx, &all[0], func(pod *corev1.Pod) { pod.Finalizers = []string{"example.com/still-serving"} })
			Expect(user.Delete(ctx, &all[0])).To(Succeed())
			Expect(user.Delete(ctx, &all[1])).To(Succeed())
			all[2].Status.Phase = corev1.PodFailed
			Expect(user.Status().Update(ctx, &all[2])).To(Succeed())
			stays(ctx, "Deployment/a (pods: 1)")

			w.catchUp(ctx, w.namespace)
			Expect(w.ForPod(ctx, &all[0])).To(ConsistOf(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(fd)}), "the end of a pod wakes it")
			edit(ctx, &all[0], func(pod *corev1.Pod) { pod.Finalizers = nil })
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.outputs(ctx)).To(BeEmpty())
			Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionTrue, wasmev1.ReasonNoWorkloads))
		})

		It("keep it for pods that were orphaned", func(ctx context.Context) {
			edit(ctx, fd, selecting("StatefulSet", nil))
			a := w.workload("StatefulSet", "a", nil)
			Expect(user.Create(ctx, a)).To(Succeed())
			Expect(w.settle(ctx, fd)).To(Succeed())
			w.deployments(ctx, "other")
			s.start(ctx, "other", 1)
			_, template := podTemplate("a")
			template.Spec.Containers = append(template.Spec.Containers, corev1.Container{
				Name: "istio-proxy", Image: "proxyv2",
				Env: []corev1.EnvVar{{Name: "ISTIO_META_OWNER", Value: "kubernetes://apis/apps/v1/namespaces/" + w.namespace + "/statefulsets/a"}},
			})
			orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "a-0", Labels: template.Labels}, Spec: template.Spec}
			Expect(user.Create(ctx, orphan)).To(Succeed())
			Expect(user.Delete(ctx, a)).To(Succeed())
			stays(ctx, "StatefulSet/a (pods: 1)")

			Expect(user.Create(ctx, w.workload("StatefulSet", "a", nil))).To(Succeed())
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.outputs(ctx)).To(ConsistOf("a-f"))
			Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionTrue, wasmev1.ReasonProgrammed, "on 1 of 1 workloads"))
		})

		It("lose it with their pods where they are no longer selected", func(ctx context.Context) {
			a := w.deployment(ctx, "a", map[string]string{"team": "x"})
			s.start(ctx, "a", 1)
			edit(ctx, fd, selecting("Deployment", map[string]wasmev1.LabelValue{"team": "x"}))
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.outputs(ctx)).To(ConsistOf("a-f"))
			edit(ctx, a, func(d *appsv1.Deployment) { d.Labels = nil })
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.outputs(ctx)).To(BeEmpty())
		})
	})

	It("that are gateways are left out of filters for the traffic of sidecars", func(ctx context.Context) {
		w.deployments(ctx, "a")
		gateway := w.workload("Deployment", "edge-istio", nil).(*appsv1.Deployment)
		gateway.Spec.Template.Labels["gateway.networking.k8s.io/gateway-name"] = "edge"
		Expect(user.Create(ctx, gateway)).To(Succeed())
		fd := w.filterDeployment(ctx, "f", reference, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		Expect(w.outputs(ctx)).To(ConsistOf("a-f"))
		Expect(fd).To(haveCondition(wasmev1.ConditionWorkloadsSelected, metav1.ConditionTrue, wasmev1.ReasonSelected, "1 more are gateways, which have no inbound traffic"))
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.PatchContext = wasmev1.PatchContextAny })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.outputs(ctx)).To(ConsistOf("a-f", "edge-istio-f"))
	})

	It("are left alone where only their pods' labels are a superset", func(ctx context.Context) {
		w.deployments(ctx, "a")
		canary := w.workload("Deployment", "a-canary", map[string]string{"app": "a-canary"}).(*appsv1.Deployment)
		canary.Spec.Selector.MatchLabels = map[string]string{"track": "canary"}
		canary.Spec.Template.Labels = map[string]string{"app": "a", "version": "v1", "track": "canary"}
		Expect(user.Create(ctx, canary)).To(Succeed())
		fd := w.filterDeployment(ctx, "f", reference, filterID("f"), selecting("Deployment", map[string]wasmev1.LabelValue{"app": "a"}))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.outputs(ctx)).To(ConsistOf("a-f"))
		for _, patch := range w.output(ctx, "a-f").Spec.ConfigPatches {
			Expect(patch.Match.Proxy.Metadata).To(Equal(map[string]string{
				"OWNER":      "kubernetes://apis/apps/v1/namespaces/" + w.namespace + "/deployments/a",
				"CLUSTER_ID": "Kubernetes",
			}))
		}
	})

	It("may be none yet", func(ctx context.Context) {
		fd := w.filterDeployment(ctx, "f", reference, filterID("f"), selecting("StatefulSet", map[string]wasmev1.LabelValue{"team": "x"}))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionTrue, wasmev1.ReasonNoWorkloads, "no StatefulSet in namespace "+w.namespace, "team=x", "one that comes gets the filter"))
		Expect(fd.Status.Summary.WorkloadsReady).To(Equal("0/0"))
		Expect(fd.Status.Revision).NotTo(BeEmpty())
		Expect(w.revisions(ctx, fd)).To(HaveLen(1))
		Eventually(ctx, func() []string { return w.events(ctx, fd) }).WithTimeout(bound).Should(ContainElement("Warning NoWorkloads"))

		Expect(user.Create(ctx, w.workload("StatefulSet", "a", map[string]string{"team": "x"}))).To(Succeed())
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
	})

	It("whose selector has no labels are selected by their proxies' owner, or named", func(ctx context.Context) {
		w.deployments(ctx, "a")
		bare := w.workload("Deployment", "bare", nil).(*appsv1.Deployment)
		bare.Spec.Selector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpExists}}}
		Expect(user.Create(ctx, bare)).To(Succeed())
		fd := w.filterDeployment(ctx, "f", reference, filterID("f"), func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.Config = nil })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("2/2"))
		Expect(w.output(ctx, "bare-f").Spec.WorkloadSelector).To(BeNil())

		edit(ctx, fd, output(wasmev1.OutputWasmPlugin))
		Expect(w.settle(ctx, fd)).NotTo(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonWorkloadUnsupported, "1 of 2 workloads failed: bare: the selector of Deployment bare has no matchLabels, so a WasmPlugin cannot select its pods"))
		Expect(w.outputs(ctx)).To(ConsistOf("bare-f"), "it keeps what it has")
	})

	It("stay as they are while they cannot be listed", func(ctx context.Context) {
		w.deployments(ctx, "a")
		fd := w.filterDeployment(ctx, "f", reference, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		cached := w.Client
		w.Client = interceptor.NewClient(cached.(client.WithWatch), interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
				if _, is := list.(*appsv1.DeploymentList); is {
					return errors.New("injected")
				}
				return c.List(ctx, list, options...)
			},
		})
		Expect(w.settle(ctx, fd)).To(MatchError(ContainSubstring("injected")))
		Expect(fd).To(haveCondition(wasmev1.ConditionWorkloadsSelected, metav1.ConditionFalse, reasonOf(fd, wasmev1.ConditionReady), "listing the workloads", "injected"))
		Expect(w.outputs(ctx)).To(ConsistOf("a-f"))
		w.Client = cached
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
	})

	It("of the namespaces that the operator watches are all it knows", func(ctx context.Context) {
		w.deployments(ctx, "a")
		fd := w.filterDeployment(ctx, "f", reference, filterID("f"))
		inside, outside := w.namespace, newNamespace(ctx)
		w.namespace = outside
		w.deployments(ctx, "b")
		beyond := w.filterDeployment(ctx, "f", reference, filterID("f"))
		w.stop()
		w.operator = startOperator(ctx, w.clock, w.store, watchNamespaces(inside))

		w.namespace = inside
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		w.written()
		for range 2 { // its outputs are found again
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.written()).To(BeEmpty())
		}
		_, err := w.pass(ctx, beyond)
		Expect(err).To(HaveOccurred())
		Expect(w.written()).To(BeEmpty())
	})

	Describe("in the mesh's root namespace", func() {
		gateway := func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.PatchContext = wasmev1.PatchContextGateway }
		inbound := func(*wasmev1.FilterDeployment) {}
		istio := selecting("Deployment", map[string]wasmev1.LabelValue{"istio": "ingressgateway"})
		all := selecting("Deployment", nil)
		DescribeTable("get gateway filters only",
			func(ctx context.Context, patchContext, selection func(*wasmev1.FilterDeployment), allowed, want bool) {
				w.Mesh.RootNamespace, w.AllowRootNamespace = w.namespace, allowed
				w.deployment(ctx, "a", map[string]string{"istio": "ingressgateway"})
				fd := w.filterDeployment(ctx, "f", reference, filterID("f"), patchContext, selection)
				Expect(w.settle(ctx, fd)).To(Succeed())
				if want {
					Expect(fd).To(beReady("1/1"))
					for _, patch := range w.output(ctx, "a-f").Spec.ConfigPatches {
						Expect(patch.Match.Proxy.Metadata).To(HaveKeyWithValue("NAMESPACE", w.namespace))
					}
					return
				}
				Expect(fd).To(notReady(wasmev1.ReasonRootNamespace, w.namespace, "set spec.filter.patchContext to gateway", "select the gateways in spec.deployment.istio.labels", "--allow-root-namespace"))
				Expect(fd).To(haveCondition(wasmev1.ConditionStalled, metav1.ConditionTrue, wasmev1.ReasonRootNamespace))
				Expect(w.outputs(ctx)).To(BeEmpty())

				edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { gateway(fd); istio(fd) })
				Expect(w.settle(ctx, fd)).To(Succeed())
				Expect(fd).To(beReady("1/1"))
			},
			Entry("not inbound", inbound, istio, false, false),
			Entry("not without labels", gateway, all, false, false),
			Entry("with labels", gateway, istio, false, true),
			Entry("all where the operator is told so", inbound, all, true, true),
		)
	})

	It("find the FilterDeployments that select them", func(ctx context.Context) {
		for name, selection := range map[string]func(*wasmev1.FilterDeployment){
			"all":          selecting("deployment", nil),
			"default":      func(fd *wasmev1.FilterDeployment) { fd.Spec.Deployment.Istio = nil },
			"labels":       selecting("Deployment", map[string]wasmev1.LabelValue{"team": "x"}),
			"other-labels": selecting("Deployment", map[string]wasmev1.LabelValue{"team": "y"}),
			"other-kind":   selecting("DaemonSet", nil),
		} {
			w.filterDeployment(ctx, name, reference, selection)
		}
		w.catchUp(ctx, w.namespace)
		found := w.ForWorkload(ctx, w.workload("Deployment", "a", map[string]string{"team": "x", "more": "z"}))
		request := func(name string) reconcile.Request {
			return reconcile.Request{NamespacedName: types.NamespacedName{Namespace: w.namespace, Name: name}}
		}
		Expect(found).To(ConsistOf(request("all"), request("default"), request("labels")))
		Expect(w.ForWorkload(ctx, w.workload("StatefulSet", "a", nil))).To(BeEmpty())
		Expect(w.ForWorkload(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace}})).To(BeEmpty())
	})
})
