// Licensed under the Apache License, Version 2.0; see LICENSE.

package mesh_test

import (
	"encoding/json"
	"net/http"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
)

var _ = Describe("A filter in a real Envoy", func() {
	It("answers with its configuration, over many requests and changes", func(ctx SpecContext) {
		details := meshtest.Run(ctx, theMesh, workload("hello", "details-v1"))
		Expect(mesh.Ask(ctx, details.URL)).To(Equal(mesh.Answered(http.StatusOK)))
		hello := serve(ctx, filters.Hello, details, "SIDECAR_INBOUND")

		hello.apply(ctx, theMesh)
		meshtest.EventuallyAnswers(ctx, details, "world")

		hello.Configuration, hello.Revision = "goodbye", "2"
		hello.apply(ctx, theMesh)
		meshtest.EventuallyAnswers(ctx, details, "goodbye")
		for range 2000 {
			Expect(mesh.Ask(ctx, details.URL)).To(Equal(mesh.Answered(http.StatusOK, "goodbye")))
		}

		By("refusing a configuration")
		hello.Configuration, hello.Revision = filters.RefusedConfiguration, "3"
		hello.apply(ctx, theMesh)
		Eventually(meshtest.Fetching(ctx, details.AdminURL+"/stats?filter=extension_config_discovery.*config_fail")).
			Should(MatchRegexp(`config_fail: [1-9]`))
		Expect(mesh.Ask(ctx, details.URL)).To(Equal(mesh.Answered(http.StatusOK, "goodbye")))

		hello.remove(ctx, theMesh)
		meshtest.EventuallyAnswers(ctx, details)
	})

	It("proves itself in the sidecar's metrics", func(ctx SpecContext) {
		app := meshtest.Run(ctx, theMesh, workload("metrics", "app"))
		serve(ctx, filters.Hello, app, "SIDECAR_INBOUND").apply(ctx, theMesh)
		Eventually(meshtest.Fetching(ctx, app.StatsURL)).Should(ContainSubstring(`{wasm_filter="metrics/app@1"} 0`))
	})

	It("filters outbound traffic and that of a gateway", func(ctx SpecContext) {
		app := meshtest.Run(ctx, theMesh, workload("outbound", "app"))
		serve(ctx, filters.Hello, app, "SIDECAR_OUTBOUND").apply(ctx, theMesh)
		Eventually(meshtest.Asking(ctx, app.OutboundURL, "Host", mesh.OutboundHost)).Should(Equal(mesh.Answered(http.StatusOK, "world")))
		Expect(mesh.Ask(ctx, app.URL)).To(Equal(mesh.Answered(http.StatusOK)))

		gateway := workload("gateways", "istio-ingressgateway")
		gateway.Gateway, gateway.Port = true, 8080
		ingress := meshtest.Run(ctx, theMesh, gateway)
		serve(ctx, filters.Hello, ingress, "GATEWAY").apply(ctx, theMesh)
		meshtest.EventuallyAnswers(ctx, ingress, "world")
	})

	It("comes back after a crash", func(ctx SpecContext) {
		app := meshtest.Run(ctx, theMesh, workload("crash", "app"))
		serve(ctx, filters.Trap, app, "SIDECAR_INBOUND").apply(ctx, theMesh)
		meshtest.EventuallyAnswers(ctx, app, "world")
		Expect(mesh.Ask(ctx, app.URL, "x-crash", "yes").Status).To(Equal(http.StatusServiceUnavailable))
		meshtest.EventuallyAnswers(ctx, app, "world")
	})

	DescribeTable("is refused when the module cannot run", func(ctx SpecContext, module string) {
		app := meshtest.Run(ctx, theMesh, workload(module, "app"))
		serve(ctx, module, app, "SIDECAR_INBOUND").apply(ctx, theMesh)
		Eventually(meshtest.Fetching(ctx, app.AdminURL+"/stats?filter=extension_config_discovery.*config_fail")).
			Should(MatchRegexp(`config_fail: [1-9]`))
		Expect(mesh.Ask(ctx, app.URL)).To(Equal(mesh.Answered(http.StatusOK)), "the default configuration lets everything pass")
	},
		Entry(nil, filters.Refuse),
		Entry(nil, filters.Import),
	)
})

var _ = Describe("A mesh", func() {
	It("keeps working without istiod, and follows changes when istiod is back", Serial, func(ctx SpecContext) {
		app := meshtest.Run(ctx, theMesh, workload("istiod", "app"))
		Expect(theMesh.StopIstiod()).To(Succeed())
		serve(ctx, filters.Hello, app, "SIDECAR_INBOUND").apply(ctx, theMesh)
		Expect(mesh.Ask(ctx, app.URL)).To(Equal(mesh.Answered(http.StatusOK)))
		Expect(theMesh.StartIstiod(ctx)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, app, "world")
	})

	It("keeps its objects while the API server is away", Serial, func(ctx SpecContext) {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}
		Expect(theMesh.Client().Create(ctx, namespace)).To(Succeed())
		Expect(theMesh.StopAPIServer()).To(Succeed())
		Expect(theMesh.Client().Get(ctx, client.ObjectKeyFromObject(namespace), namespace)).NotTo(Succeed())
		Expect(theMesh.StartAPIServer(ctx)).To(Succeed())
		Expect(theMesh.Client().Get(ctx, client.ObjectKeyFromObject(namespace), namespace)).To(Succeed())
	})

	DescribeTable("runs every kind of workload, with pods that are Ready in both shapes",
		func(ctx SpecContext, kind mesh.Kind, native bool) {
			w := workload("kinds", "app-"+map[bool]string{true: "native", false: "plain"}[native])
			w.Kind, w.NativeSidecar = kind, native
			running := meshtest.Run(ctx, theMesh, w)
			var pod corev1.Pod
			Expect(theMesh.Client().Get(ctx, client.ObjectKey{Namespace: "kinds", Name: running.Pod}, &pod)).To(Succeed())
			Expect(pod.Status.PodIP).To(Equal(running.Address))
			Expect(pod.Spec.InitContainers).To(HaveLen(map[bool]int{true: 1, false: 0}[native]))
			Expect(pod.OwnerReferences).To(HaveLen(1))
		},
		Entry(nil, mesh.Deployment, true), Entry(nil, mesh.DaemonSet, false), Entry(nil, mesh.StatefulSet, true),
	)

	It("lets an app see what reached it", func(ctx SpecContext) {
		app := meshtest.Run(ctx, theMesh, workload("echo", "app"))
		var seen struct {
			App     string      `json:"app"`
			Headers http.Header `json:"headers"`
		}
		Expect(json.Unmarshal([]byte(meshtest.Fetching(ctx, app.URL)()), &seen)).To(Succeed())
		Expect(seen.App).To(Equal("app"))
		Expect(seen.Headers).To(HaveKey("X-Request-Id"))
	})
})

var _ = Describe("A control plane", func() {
	It("gives a service account its own rights only", func(ctx SpecContext) {
		config, err := theMesh.As(ctx, "default", "default")
		Expect(err).NotTo(HaveOccurred())
		weak, err := client.New(config, client.Options{Scheme: theMesh.Client().Scheme()})
		Expect(err).NotTo(HaveOccurred())
		err = weak.List(ctx, &corev1.PodList{})
		Expect(apierrors.IsForbidden(err)).To(BeTrue(), "got %v", err)
	})

	It("does not let a user block a deletion without the right to finalizers", func(ctx SpecContext) {
		admin := theMesh.Client()
		owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "owner"}}
		Expect(admin.Create(ctx, owner)).To(Succeed())
		meta := metav1.ObjectMeta{Namespace: "default", Name: "makes-config-maps"}
		Expect(admin.Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"create"}},
		}})).To(Succeed())
		Expect(admin.Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta,
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "default"}},
		})).To(Succeed())
		config, err := theMesh.As(ctx, "default", "default")
		Expect(err).NotTo(HaveOccurred())
		weak, err := client.New(config, client.Options{Scheme: admin.Scheme()})
		Expect(err).NotTo(HaveOccurred())

		owned := func() *corev1.ConfigMap {
			return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", GenerateName: "owned-"}}
		}
		Eventually(func() error { return weak.Create(ctx, owned()) }).Should(Succeed(), "the role counts")
		blocking := owned()
		blocking.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, corev1.SchemeGroupVersion.WithKind("ConfigMap"))}
		Expect(weak.Create(ctx, blocking)).To(MatchError(ContainSubstring("cannot set blockOwnerDeletion")))
	})

	It("collects what a deleted workload owned", func(ctx SpecContext) {
		running := meshtest.Run(ctx, theMesh, workload("garbage", "app"))
		deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "garbage", Name: "app"}}
		Expect(theMesh.Client().Delete(ctx, deployment)).To(Succeed())
		Eventually(func() bool {
			err := theMesh.Client().Get(ctx, client.ObjectKey{Namespace: "garbage", Name: running.Pod}, &corev1.Pod{})
			return apierrors.IsNotFound(err)
		}).Should(BeTrue())
	})
})
