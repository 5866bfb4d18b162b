package cli_test

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	extensionsapi "istio.io/api/extensions/v1alpha1"
	typeapi "istio.io/api/type/v1beta1"
	extensions "istio.io/client-go/pkg/apis/extensions/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
	"github.com/wasme-io/wasme-operator/test/portforward"
	"github.com/wasme-io/wasme-operator/test/registry"
)

// throughStandIn returns the path of a kubeconfig that leads to an API server through a proxy
// which answers port-forwards to pods: there is no kubelet that would.
func throughStandIn(config *rest.Config, pods ...*mesh.Running) string {
	GinkgoHelper()
	return portforward.Kubeconfig(GinkgoTB(), config, func(name, _ string) string {
		for _, pod := range pods {
			if pod.Pod == name {
				return strings.TrimPrefix(pod.AdminURL, "http://")
			}
		}
		return ""
	})
}

var _ = Describe("wasme describe", func() {
	Describe("in a cluster without a mesh", func() {
		var namespace string

		BeforeEach(func(ctx context.Context) {
			namespace = newNamespace(ctx)
			createDeployment(ctx, namespace, "details", 1)
		})

		It("says that nothing runs, and which pods could not be asked", func(ctx context.Context) {
			got := wasme(ctx, "describe", "deploy/details", "-n", namespace)
			Expect(got.Code).To(BeZero(), got.ErrOut)
			Expect(lines(got.Out)).To(HaveExactElements(
				"Deployment "+namespace+"/details, 1 pod", "", "No Wasm filters on inbound requests.", "", "No Wasm filters on outbound requests.",
				"", "What the pods run:", "POD INBOUND OUTBOUND STATE", HavePrefix("details-0 - - not asked: forwarding port 15000: "),
			))
		})

		It("says whose outputs reach a workload that they were not made for", func(ctx context.Context) {
			fd := createFilterDeployment(ctx, namespace, "hello", "world")
			output := &extensions.WasmPlugin{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "ratings-hello"}, Spec: extensionsapi.WasmPlugin{
				Url: "http://modules/m.wasm", Selector: &typeapi.WorkloadSelector{MatchLabels: map[string]string{"app": "details"}},
			}}
			ownership.Claim(output, fd, map[string]string{revision.HashAnnotation: "aaaaaaaa", rollout.WorkloadAnnotation: "Deployment/ratings"})
			Expect(user.Create(ctx, output)).To(Succeed())
			got := wasme(ctx, "describe", "pod/details-0", "-n", namespace)
			Expect(lines(got.Out)).To(ContainElements(
				"Pod "+namespace+"/details-0 of Deployment details, 1 pod",
				"# FROM REVISION PLACE", "1 FilterDeployment "+namespace+"/hello aaaaaaaa before the router",
				HavePrefix("Overlap: FilterDeployment "+namespace+"/hello: the filter runs on 1 workloads that no output was made for: Deployment details"),
			))
		})

		DescribeTable("refuses", func(ctx context.Context, arg string, code int, want string) {
			got := wasme(ctx, "describe", arg, "-n", namespace)
			Expect(got.Code).To(Equal(code))
			Expect(got.ErrOut).To(Equal("Error: " + strings.ReplaceAll(want, "NAMESPACE", namespace) + "\n"))
		},
			Entry("what is not a workload", "svc/details", 2, `"svc/details" is not a workload: write deploy/NAME, ds/NAME, sts/NAME or pod/NAME`),
			Entry("a name without a kind", "details", 2, `"details" is not a workload: write deploy/NAME, ds/NAME, sts/NAME or pod/NAME`),
			Entry("an unknown name", "deployments/detail", 1, "namespace NAMESPACE has no Deployment detail: did you mean details?"),
			Entry("an unknown pod", "po/other", 1, "namespace NAMESPACE has no Pod other: choose another namespace with -n"),
			Entry("a workload of another kind", "ds/details", 1, "namespace NAMESPACE has no DaemonSet details: choose another namespace with -n"),
		)
	})

	It("shows what real sidecars run, in the order in which requests pass it", func(ctx SpecContext) {
		m := meshtest.Start(ctx, "")
		Expect(m.InstallOperator(ctx)).To(Succeed())
		operator, err := m.StartOperator(ctx, mesh.OperatorOptions{})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(operator.Stop)
		namespace := meshtest.NewNamespace(ctx, m.Client())
		pod := meshtest.Run(ctx, m, mesh.Workload{Namespace: namespace, Name: "details", Labels: map[string]string{"app": "details"}, Port: 9080, Service: "details", NativeSidecar: true})
		image, err := registry.Image(registry.WasmeArtifact, registry.Module{Bytes: meshtest.Build(ctx, filters.Hello), RootIDs: []string{filters.RootID}})
		Expect(err).NotTo(HaveOccurred())
		reference := m.Registry() + "/filters/hello:v1"
		Expect(registry.Push(ctx, reference, image)).To(Succeed())
		for _, filter := range []struct {
			name     string
			priority int32
		}{{"second", 0}, {"first", 10}} {
			Expect(m.Client().Create(ctx, &wasmev1.FilterDeployment{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: filter.name},
				Spec: wasmev1.FilterDeploymentSpec{Filter: wasmev1.FilterSpec{
					Image: reference, Config: text(filter.name), Priority: &filter.priority, ImagePullOptions: &wasmev1.ImagePullOptions{PlainHTTP: true},
				}},
			})).To(Succeed())
		}
		meshtest.EventuallyAnswers(ctx, pod, "second", "first")
		revisionOf := func(name string) string {
			var fd wasmev1.FilterDeployment
			Expect(m.Client().Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &fd)).To(Succeed())
			return fd.Status.Revision
		}
		path := throughStandIn(m.Admin(), pod)
		var got result
		Eventually(func() string {
			got = wasmeWith(ctx, path, "", "describe", "deploy/details", "-n", namespace)
			return got.Out
		}).Should(ContainSubstring("as listed"))
		Expect(got.Code).To(BeZero(), got.ErrOut)
		first, second := revisionOf("first"), revisionOf("second")
		Expect(lines(got.Out)).To(Equal([]string{
			"Deployment " + namespace + "/details, 1 pod", "",
			"Wasm filters on inbound requests, in the order in which these pass them:",
			"# FROM REVISION PLACE",
			"1 FilterDeployment " + namespace + "/first " + first + " before the router",
			"2 FilterDeployment " + namespace + "/second " + second + " before the router", "",
			"No Wasm filters on outbound requests.", "",
			"What the pods run:",
			"POD INBOUND OUTBOUND STATE",
			pod.Pod + " first@" + first + " > second@" + second + " - as listed",
		}))
		got = wasmeWith(ctx, path, "", "status", "first", "-n", namespace)
		Expect(lines(got.Out)).To(ContainElement(MatchRegexp("^details (Succeeded|Pending) 1/1 " + first)))
	}, NodeTimeout(meshtest.StartTimeout))
})
