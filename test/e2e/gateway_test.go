package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"os"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	operatorworkload "github.com/wasme-io/wasme-operator/internal/workload"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
)

// ingressGateway is Istio's own.
func ingressGateway(namespace string) mesh.Workload {
	return mesh.Workload{
		Namespace: namespace, Name: "istio-ingressgateway", Port: 8080, Gateway: true,
		Labels: map[string]string{"app": "istio-ingressgateway", "istio": "ingressgateway"},
	}
}

// gatewaySample is the sample for Istio's gateway, with the filter of the tests.
func gatewaySample(ctx context.Context) *wasmev1.FilterDeployment {
	GinkgoHelper()
	text, err := os.ReadFile("../../config/samples/wasme_v1_filterdeployment_gateway.yaml")
	Expect(err).NotTo(HaveOccurred())
	fd := &wasmev1.FilterDeployment{}
	Expect(yaml.UnmarshalStrict(text, fd)).To(Succeed())
	fd.Spec.Filter.Image = push(ctx, filters.Tracking)
	fd.Spec.Filter.ImagePullOptions = &wasmev1.ImagePullOptions{PlainHTTP: true}
	return fd
}

// received is what the app behind a gateway got as a header of a request.
func received(ctx context.Context, url, header string) func() []string {
	return func() []string {
		var seen struct {
			Headers http.Header `json:"headers"`
		}
		if json.Unmarshal(mesh.Fetch(ctx, url), &seen) != nil {
			return nil
		}
		return seen.Headers.Values(header)
	}
}

var _ = Describe("Istio's ingress gateway", func() {
	It("tracks requests from the sample's filter, and no other gateway does", func(ctx SpecContext) {
		gateway := run(ctx, ingressGateway(mesh.RootNamespace))
		DeferCleanup(func(ctx SpecContext) {
			deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: mesh.RootNamespace, Name: gateway.Workload.Name}}
			Expect(admin.Delete(ctx, deployment)).To(Succeed())
		})
		elsewhere := run(ctx, ingressGateway(newNamespace(ctx))) // the root namespace's selectors reach it, too
		fd := gatewaySample(ctx)
		Expect(admin.Create(ctx, fd)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(client.IgnoreNotFound(admin.Delete(ctx, fd))).To(Succeed()) })

		tracked := ContainElement(ContainSubstring("tracked"))
		Eventually(received(ctx, gateway.URL, "X-Request-Id")).Should(tracked)
		Eventually(loaded(ctx, fd)).Should(Equal("Loaded 1/1"))
		Expect(readyReason(ctx, fd)()).To(Equal(wasmev1.ReasonReady))
		Expect(received(ctx, elsewhere.URL, "X-Request-Id")()).To(And(Not(BeEmpty()), Not(tracked)))

		By("naming another header")
		change(ctx, fd, func(f *wasmev1.FilterSpec) {
			f.Config = &wasmev1.Configuration{Raw: []byte(`{"tracking_header":"X-Tracking"}`)}
		})
		Eventually(received(ctx, gateway.URL, "X-Tracking")).Should(Equal([]string{"tracked"}))
		Eventually(loaded(ctx, fd)).Should(Equal("Loaded 1/1"))

		By("deleting it")
		Expect(admin.Delete(ctx, fd)).To(Succeed())
		Eventually(received(ctx, gateway.URL, "X-Request-Id")).Should(And(Not(BeEmpty()), Not(tracked)))
	})
})

// gatewayAPI is a gateway of the Gateway API, as Istio runs it.
func gatewayAPI(namespace, name string) mesh.Workload {
	return mesh.Workload{
		Namespace: namespace, Name: name + "-istio", Port: 8080, Gateway: true,
		Labels: map[string]string{operatorworkload.GatewayLabel: name},
	}
}

var _ = Describe("A gateway of the Gateway API", func() {
	It("runs the filter once it exists, and no other gateway of its namespace does", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		edge, other := run(ctx, gatewayAPI(namespace, "edge")), run(ctx, gatewayAPI(namespace, "other"))
		fd := filterDeployment(namespace, push(ctx, "hello"), "hello gateway")
		fd.Spec.Filter.PatchContext = wasmev1.PatchContextGateway
		fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{TargetRefs: []wasmev1.TargetRef{
			{Group: operatorworkload.GatewayKind.Group, Kind: wasmev1.TargetKindGateway, Name: "edge"},
		}}
		Expect(admin.Create(ctx, fd)).To(Succeed())
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonTargetNotFound))

		Expect(theMesh.InstallGatewayAPI(ctx)).To(Succeed())
		gateway := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{
			// Of no controller's class: the pods are there already.
			"gatewayClassName": "by-hand",
			"listeners":        []any{map[string]any{"name": "http", "port": int64(8080), "protocol": "HTTP"}},
		}}}
		gateway.SetGroupVersionKind(operatorworkload.GatewayKind)
		gateway.SetNamespace(namespace)
		gateway.SetName("edge")
		Expect(admin.Create(ctx, gateway)).To(Succeed())
		Eventually(loaded(ctx, fd)).Should(Equal("Loaded 1/1"))
		Expect(readyReason(ctx, fd)()).To(Equal(wasmev1.ReasonReady))
		meshtest.EventuallyAnswers(ctx, edge, "hello gateway")
		Expect(meshtest.Asking(ctx, other.URL)()).To(Equal(mesh.Answered(http.StatusOK)))
	})
})

var _ = Describe("A Service in targetRefs", func() {
	It("is not proven while neither it nor its namespace chooses a waypoint", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		run(ctx, workload(namespace, "shop", map[string]string{"app": "shop"}))
		fd := filterDeployment(namespace, push(ctx, "hello"), "")
		fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{
			Output: wasmev1.OutputWasmPlugin, TargetRefs: []wasmev1.TargetRef{{Kind: wasmev1.TargetKindService, Name: "shop"}},
		}
		Expect(admin.Create(ctx, fd)).To(Succeed())
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonUnproven))

		Eventually(func() error {
			if err := admin.Get(ctx, client.ObjectKeyFromObject(fd), fd); err != nil {
				return err
			}
			fd.Spec.Deployment.Istio.Verification = wasmev1.VerificationNotRequired
			return admin.Update(ctx, fd)
		}).Should(Succeed())
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonReady))
	})
})
