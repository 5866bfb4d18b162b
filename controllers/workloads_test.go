package controllers

import (
	"context"
	"errors"
	"slices"

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

	It("that get other pods get another output", func(ctx context.Context) {
		a := w.deployment(ctx, "a", nil)
		fd := w.filterDeployment(ctx, "f", reference, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		edit(ctx, a, func(d *appsv1.Deployment) { d.Spec.Template.Labels["version"] = "v2" })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.output(ctx, "a-f").Spec.WorkloadSelector.Labels).To(HaveKeyWithValue("version", "v2"))
		w.written()
		edit(ctx, a, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(7)) })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.written()).To(BeEmpty())
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

	It("without pod labels are named, and the others are programmed", func(ctx context.Context) {
		// The API server refuses a template without the selector's labels; this
		// workload is in the cache only.
		w.deployments(ctx, "a", "b")
		w.Client = interceptor.NewClient(w.Client.(client.WithWatch), interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
				err := c.List(ctx, list, options...)
				if deployments, ok := list.(*appsv1.DeploymentList); ok {
					bare := appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "bare"}}
					deployments.Items = append(slices.Clone(deployments.Items), bare)
				}
				return err
			},
		})
		fd := w.filterDeployment(ctx, "f", reference, filterID("f"))
		Expect(w.settle(ctx, fd)).NotTo(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonWorkloadUnsupported, "1 of 3 workloads failed: bare: the pod template of Deployment bare has no labels to select its pods by"))
		Expect(w.outputs(ctx)).To(ConsistOf("a-f", "b-f"))
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
