package controllers

import (
	"context"
	"net/netip"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	gomegatypes "github.com/onsi/gomega/types"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/outputkinds"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

var (
	toEdge = wasmev1.TargetRef{Group: workload.GatewayKind.Group, Kind: wasmev1.TargetKindGateway, Name: "edge"}
	toShop = wasmev1.TargetRef{Kind: wasmev1.TargetKindService, Name: "shop"}
	toCart = wasmev1.TargetRef{Kind: wasmev1.TargetKindService, Name: "cart"}
)

// referencing has a filter for targetRefs, with the configuration of any output.
func referencing(output wasmev1.Output, references ...wasmev1.TargetRef) func(*wasmev1.FilterDeployment) {
	return func(fd *wasmev1.FilterDeployment) {
		objectConfig(fd)
		fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Output: output, TargetRefs: references}
	}
}

func ofGateways(fd *wasmev1.FilterDeployment) {
	fd.Spec.Filter.PatchContext = wasmev1.PatchContextGateway
}

func notRequired(fd *wasmev1.FilterDeployment) {
	fd.Spec.Deployment.Istio.Verification = wasmev1.VerificationNotRequired
}

// gatewayOf is a Gateway of the Gateway API, not yet created.
func gatewayOf(namespace, name string) *unstructured.Unstructured {
	gateway := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{
		"gatewayClassName": "istio-waypoint",
		"listeners":        []any{map[string]any{"name": "mesh", "port": int64(15008), "protocol": "HBONE"}},
	}}}
	gateway.SetGroupVersionKind(workload.GatewayKind)
	gateway.SetNamespace(namespace)
	gateway.SetName(name)
	return gateway
}

// gateway creates a Gateway of the Gateway API.
func (w *world) gateway(ctx context.Context, name string) *unstructured.Unstructured {
	GinkgoHelper()
	gateway := gatewayOf(w.namespace, name)
	Expect(user.Create(ctx, gateway)).To(Succeed())
	return gateway
}

// service creates a Service with labels.
func (w *world) service(ctx context.Context, name string, labels map[string]string) *corev1.Service {
	GinkgoHelper()
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name, Labels: labels},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}
	Expect(user.Create(ctx, service)).To(Succeed())
	return service
}

// in is the same in another namespace, where nothing runs yet.
func (s *sidecars) in(namespace string) *sidecars {
	elsewhere := *s.world
	elsewhere.namespace = namespace
	return &sidecars{world: &elsewhere, envoys: s.envoys, agents: s.agents, pods: 100}
}

// startProxies starts pods of a Gateway, with a version of Istio.
func (s *sidecars) startProxies(ctx context.Context, gateway, istio string, count int) []netip.Addr {
	GinkgoHelper()
	return s.start(ctx, gateway, count, func(pod *corev1.Pod) {
		pod.Labels[workload.GatewayLabel] = gateway
		workload.Sidecar(pod).Image = "docker.io/istio/proxyv2:" + istio
	})
}

// selected matches what WorkloadsSelected says.
func selected(status metav1.ConditionStatus, reason string, texts ...string) gomegatypes.GomegaMatcher {
	return haveCondition(wasmev1.ConditionWorkloadsSelected, status, reason, texts...)
}

var _ = Describe("A targetRef", func() {
	var w *world
	BeforeEach(func(ctx context.Context) { w = newWorld(ctx) })
	filter := func(ctx context.Context, changes ...func(*wasmev1.FilterDeployment)) *wasmev1.FilterDeployment {
		GinkgoHelper()
		changes = append([]func(*wasmev1.FilterDeployment){filterID("f")}, changes...)
		return w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), changes...)
	}

	It("to what does not exist is not found until it comes, and again once it is gone", func(ctx context.Context) {
		fd := filter(ctx, referencing(wasmev1.OutputWasmPlugin, toEdge, toShop))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(And(
			notReady(wasmev1.ReasonTargetNotFound, "2 of 2 targetRefs do not exist", "(Gateway edge, Service shop)", "correct spec.deployment.istio.targetRefs"),
			WithTransform(conditionTypes, And(ContainElement(wasmev1.ConditionReconciling), Not(ContainElement(wasmev1.ConditionStalled)))),
		))
		Expect(w.made(ctx)).To(HaveLen(2), "what comes gets the filter at once")

		gateway := w.gateway(ctx, "edge")
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonTargetNotFound, "1 of 2 targetRefs do not exist", "(Service shop)"))
		w.service(ctx, "shop", nil)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(And(beReady("2/2"), selected(metav1.ConditionTrue, wasmev1.ReasonSelected, "2 targetRefs")))

		Expect(user.Delete(ctx, gateway)).To(Succeed())
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonTargetNotFound, "(Gateway edge)"))
		Expect(w.made(ctx)).To(HaveLen(2), "its pods may still serve")
	})

	It("to a Gateway waits until it is known whether there are any", func(ctx context.Context) {
		w.Gateways.Assume(outputkinds.Unknown)
		fd := filter(ctx, referencing(wasmev1.OutputWasmPlugin, toEdge))
		result, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(result.IsZero()).To(BeTrue())
		Expect(w.written()).To(BeEmpty())

		w.Gateways.Assume(outputkinds.Missing)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonTargetNotFound, "the API server does not serve Gateways"))
	})

	It("binds an EnvoyFilter to the pods of a gateway by their label, and to those of a waypoint by their owner", func(ctx context.Context) {
		gateway := gatewayOf(w.namespace, "edge")
		gateway.SetAnnotations(map[string]string{workload.DeploymentNameAnnotation: "edge-of-the-mesh"})
		Expect(user.Create(ctx, gateway)).To(Succeed())
		fd := filter(ctx, referencing("", toEdge), ofGateways)
		Expect(w.settle(ctx, fd)).To(Succeed())
		made := &w.output(ctx, "gateway.edge-f").Spec
		Expect(made.WorkloadSelector.Labels).To(Equal(map[string]string{workload.GatewayLabel: "edge"}))
		Expect(made.TargetRefs).To(BeEmpty())

		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.PatchContext = wasmev1.PatchContextInbound })
		Expect(w.settle(ctx, fd)).To(Succeed())
		made = &w.output(ctx, "gateway.edge-f").Spec
		Expect(made.WorkloadSelector).To(BeNil())
		Expect(made.TargetRefs).To(HaveLen(1))
		for _, patch := range made.ConfigPatches {
			Expect(patch.Match.Proxy.Metadata).To(HaveKeyWithValue("OWNER", "kubernetes://apis/apps/v1/namespaces/"+w.namespace+"/deployments/edge-of-the-mesh"))
		}
	})

	It("wakes its FilterDeployment for what it references, and for proxies in any namespace", func(ctx context.Context) {
		filter(ctx, referencing(wasmev1.OutputWasmPlugin, toEdge, toShop))
		w.catchUp(ctx, w.namespace)
		wakes, elsewhere := ContainElement(ctrl.Request{NamespacedName: client.ObjectKey{Namespace: w.namespace, Name: "f"}}), newNamespace(ctx)
		object := func(of *metav1.PartialObjectMetadata, namespace, name string) *metav1.PartialObjectMetadata {
			of.Namespace, of.Name = namespace, name
			return of
		}
		Expect(w.ForReference(ctx, object(workload.NewGateway(), w.namespace, "edge"))).To(wakes)
		Expect(w.ForReference(ctx, object(workload.NewGateway(), elsewhere, "waypoint"))).To(wakes, "it may be the Service's")
		Expect(w.ForReference(ctx, object(workload.NewService(), w.namespace, "shop"))).To(wakes)
		Expect(w.ForReference(ctx, object(workload.NewService(), w.namespace, "other"))).To(BeEmpty())
		Expect(w.ForReference(ctx, object(workload.NewService(), elsewhere, "shop"))).To(BeEmpty())

		proxy := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: elsewhere, Name: "p", Labels: map[string]string{workload.GatewayLabel: "waypoint"}}}
		Expect(w.ForPod(ctx, proxy)).To(wakes)
	})

	It("to a Service needs no right on all namespaces, so that a Role is enough", func(ctx context.Context) {
		meta := metav1.ObjectMeta{Namespace: w.namespace, Name: "reader"}
		Expect(user.Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"namespaces"}, Verbs: []string{"get"}},
		}})).To(Succeed())
		Expect(user.Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: meta.Namespace, Name: meta.Name}},
		})).To(Succeed())
		Expect(user.Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta})).To(Succeed())
		config, err := controlPlane.As(ctx, meta.Namespace, meta.Name)
		Expect(err).NotTo(HaveOccurred())
		reader, err := client.New(config, client.Options{Scheme: operatorScheme})
		Expect(err).NotTo(HaveOccurred())
		w.Reader = reader
		w.service(ctx, "shop", nil)
		fd := filter(ctx, referencing(wasmev1.OutputWasmPlugin, toShop))
		Eventually(ctx, func() error { return w.settle(ctx, fd) }).WithTimeout(bound).Should(Succeed(), "once the API server knows the Role")
		Expect(fd).To(beReady("1/1"))
		var elsewhere corev1.Namespace
		Expect(reader.Get(ctx, client.ObjectKey{Name: newNamespace(ctx)}, &elsewhere)).To(MatchError(apierrors.IsForbidden, "IsForbidden"))
	})

	Describe("whose pods are asked", func() {
		var s *sidecars
		BeforeEach(func() { s = w.startSidecars() })
		// extension is the plugin of a WasmPlugin, as pods show it.
		extension := func(output string) string { return w.namespace + "." + output }

		It("is proven by the pods of a Gateway, revision by revision on a waypoint, too", func(ctx context.Context) {
			w.gateway(ctx, "edge")
			pods := s.startProxies(ctx, "edge", "1.31.0", 2)
			fd := filter(ctx, referencing("", toEdge))
			Expect(w.settle(ctx, fd)).To(Succeed())
			s.run(plugin(fd, "edge", w.held(ctx)["gateway.edge-f"]), pods...)
			s.becomes(ctx, fd, "2/2")
			Expect(fd).To(And(
				haveCondition(wasmev1.ConditionLoaded, metav1.ConditionTrue, wasmev1.ReasonLoaded, "in this revision"),
				selected(metav1.ConditionTrue, wasmev1.ReasonSelected, "1 targetRefs, whose oldest proxy runs Istio 1.31.0"),
			))
		})

		It("is proven for each Service by the pods of its waypoint", func(ctx context.Context) {
			w.gateway(ctx, "edge")
			pods := s.startProxies(ctx, "edge", "1.31.0", 1)
			w.service(ctx, "shop", map[string]string{workload.UseWaypointLabel: "edge"})
			cart := w.service(ctx, "cart", map[string]string{workload.UseWaypointLabel: "none"})
			fd := filter(ctx, referencing(wasmev1.OutputWasmPlugin, toShop, toCart))
			Expect(w.settle(ctx, fd)).To(Succeed())
			s.run(extension("service.shop-f"), pods...)
			s.becomes(ctx, fd, "1/1")
			Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionUnknown, wasmev1.ReasonUnproven, "Service cart, because no label istio.io/use-waypoint"))

			By("letting the namespace choose the waypoint")
			edit(ctx, cart, func(service *corev1.Service) { service.Labels = nil })
			namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}}
			edit(ctx, namespace, func(n *corev1.Namespace) { n.Labels[workload.UseWaypointLabel] = "edge" })
			result, err := w.reconcile(ctx, fd)
			Expect(err).NotTo(HaveOccurred())
			Expect(result.RequeueAfter).To(BeNumerically("<=", configMapInterval*11/10), "a namespace is not watched")
			s.becomes(ctx, fd, "1/2")
			Expect(fd).To(haveCondition(wasmev1.ConditionLoaded, metav1.ConditionUnknown, wasmev1.ReasonLoading))
		})

		It("does not make a waypoint of another namespace crash", func(ctx context.Context) {
			elsewhere := s.in(newNamespace(ctx))
			elsewhere.gateway(ctx, "edge")
			pods := elsewhere.startProxies(ctx, "edge", "1.30.2", 1)
			w.service(ctx, "shop", map[string]string{workload.UseWaypointLabel: "edge", workload.UseWaypointNamespaceLabel: elsewhere.namespace})
			fd := filter(ctx, referencing(wasmev1.OutputWasmPlugin, toShop))
			_ = w.settle(ctx, fd)
			Expect(fd).To(notReady(wasmev1.ReasonWorkloadUnsupported, "the waypoint of Service shop, "+elsewhere.namespace+"/edge, runs Istio 1.30.2", "update Istio to 1.30.3"))
			Expect(w.made(ctx)).To(BeEmpty())

			By("updating Istio")
			var pod corev1.PodList
			Expect(user.List(ctx, &pod, client.InNamespace(elsewhere.namespace))).To(Succeed())
			edit(ctx, &pod.Items[0], func(pod *corev1.Pod) { workload.Sidecar(pod).Image = "docker.io/istio/proxyv2:1.30.3" })
			s.run(extension("service.shop-f"), pods...)
			s.becomes(ctx, fd, "1/1")
			Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionTrue, wasmev1.ReasonReady))
		})

		It("does not look for a waypoint where the operator does not watch", func(ctx context.Context) {
			elsewhere := s.in(newNamespace(ctx))
			elsewhere.gateway(ctx, "edge")
			w.service(ctx, "shop", map[string]string{workload.UseWaypointLabel: "edge", workload.UseWaypointNamespaceLabel: elsewhere.namespace})
			prober := w.Prober
			w.stop()
			w.operator = startOperator(ctx, w.clock, w.store, watchNamespaces(w.namespace))
			w.Prober = prober
			fd := filter(ctx, referencing(wasmev1.OutputWasmPlugin, toShop))
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionUnknown, wasmev1.ReasonUnproven,
				"its waypoint "+elsewhere.namespace+"/edge is in a namespace that is not in --watch-namespaces"))
		})

		It("says which waypoint does not exist", func(ctx context.Context) {
			w.service(ctx, "shop", map[string]string{workload.UseWaypointLabel: "edge"})
			fd := filter(ctx, referencing(wasmev1.OutputWasmPlugin, toShop))
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionUnknown, wasmev1.ReasonUnproven,
				"its waypoint, Gateway "+w.namespace+"/edge, does not exist"))
		})

		It("is Unknown while nothing can show that the filter runs, unless that is not required", func(ctx context.Context) {
			w.gateway(ctx, "edge")
			w.service(ctx, "shop", nil)
			fd := filter(ctx, referencing(wasmev1.OutputWasmPlugin, toEdge, toShop))
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionUnknown, wasmev1.ReasonUnproven,
				"2 of 2 targetRefs", "Gateway edge, because no Ready pod in namespace "+w.namespace+" has the label", "Service shop, because no label"))
			edit(ctx, fd, notRequired)
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(beReady("2/2"))
		})
	})
})

var _ = Describe("The manager, of Gateways", Serial, func() {
	It("notices when the Gateway API and its Gateways come and go", func(ctx context.Context) {
		crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "gateways.gateway.networking.k8s.io"}}
		remove := func(ctx context.Context) {
			GinkgoHelper()
			Expect(user.Delete(ctx, crd.DeepCopy())).To(Succeed())
			Eventually(ctx, func() bool {
				return apierrors.IsNotFound(user.Get(ctx, client.ObjectKeyFromObject(crd), crd.DeepCopy()))
			}).WithTimeout(patience).Should(BeTrue())
		}
		w := newWorld(ctx)
		w.stop()
		DeferCleanup(func(ctx context.Context) { Expect(controlPlane.InstallGatewayAPI(ctx)).To(Succeed()) })
		remove(ctx)
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), referencing("", toEdge), ofGateways)
		kind := startManager(GinkgoT().TempDir()).Gateways
		noticed := func(state outputkinds.State) {
			GinkgoHelper()
			Eventually(ctx, func() (outputkinds.State, error) {
				err := kind.Check(ctx)
				return kind.State(), err
			}).WithTimeout(patience).Should(Equal(state))
		}
		eventually := func() AsyncAssertion {
			return Eventually(ctx, func() *wasmev1.FilterDeployment {
				Expect(user.Get(ctx, client.ObjectKeyFromObject(fd), fd)).To(Succeed())
				return fd
			}).WithTimeout(patience)
		}
		eventually().Should(notReady(wasmev1.ReasonTargetNotFound, "the API server does not serve Gateways"))

		Expect(controlPlane.InstallGatewayAPI(ctx)).To(Succeed())
		noticed(outputkinds.Served)
		eventually().Should(notReady(wasmev1.ReasonTargetNotFound, "(Gateway edge)"))
		gateway := w.gateway(ctx, "edge")
		eventually().Should(beReady("1/1"))
		Expect(user.Delete(ctx, gateway)).To(Succeed())
		eventually().Should(notReady(wasmev1.ReasonTargetNotFound, "(Gateway edge)"))

		remove(ctx)
		noticed(outputkinds.Missing)
		eventually().Should(notReady(wasmev1.ReasonTargetNotFound, "the API server does not serve Gateways"))
	})

	It("notices when Services come and go", func(ctx context.Context) {
		w := newWorld(ctx)
		w.stop()
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), referencing(wasmev1.OutputWasmPlugin, toShop))
		startManager(GinkgoT().TempDir())
		eventually := func() AsyncAssertion {
			return Eventually(ctx, func() *wasmev1.FilterDeployment {
				Expect(user.Get(ctx, client.ObjectKeyFromObject(fd), fd)).To(Succeed())
				return fd
			}).WithTimeout(patience)
		}
		eventually().Should(notReady(wasmev1.ReasonTargetNotFound, "(Service shop)"))
		service := w.service(ctx, "shop", nil)
		eventually().Should(beReady("1/1"))
		Expect(user.Delete(ctx, service)).To(Succeed())
		eventually().Should(notReady(wasmev1.ReasonTargetNotFound, "(Service shop)"))
	})
})
