package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli"
	"github.com/wasme-io/wasme-operator/internal/cli/doctor"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
	"github.com/wasme-io/wasme-operator/test/portforward"
)

// ports are the addresses (host:port) of the ports of pods, by the pods' names.
type ports map[string]map[string]string

// addReplica adds a pod of the operator, whose ports lead to a replica.
func (p ports) addReplica(pod string, replica *mesh.Operator) {
	ready, err := url.Parse(replica.ReadyURL)
	Expect(err).NotTo(HaveOccurred())
	p[pod] = map[string]string{"8081": ready.Host, "8082": strings.TrimPrefix(replica.ModuleServerURL, "http://")}
}

// addSidecar adds a pod of a workload with AgentMetrics, and the ports of its sidecar.
func (p ports) addSidecar(ctx context.Context, running *mesh.Running) {
	var pod corev1.Pod
	Expect(admin.Get(ctx, client.ObjectKey{Namespace: running.Workload.Namespace, Name: running.Pod}, &pod)).To(Succeed())
	agent := pod.Annotations["status.sidecar.istio.io/port"]
	p[running.Pod] = map[string]string{"15000": strings.TrimPrefix(running.AdminURL, "http://"), agent: "127.0.0.1:" + agent}
}

// serve returns the path of a kubeconfig that leads to the mesh's API server through a proxy
// which answers port-forwards: there is no kubelet that would.
func (p ports) serve() string {
	GinkgoHelper()
	return portforward.Kubeconfig(GinkgoTB(), theMesh.Admin(), func(pod, port string) string { return p[pod][port] })
}

// reportReplicas makes the installation's objects say what a kubelet and the controllers would
// say of two replicas that run.
func reportReplicas(ctx context.Context, pods ...string) {
	GinkgoHelper()
	d := &appsv1.Deployment{}
	Expect(admin.Get(ctx, client.ObjectKey{Namespace: "wasme-system", Name: "wasme-operator"}, d)).To(Succeed())
	report := func(ctx context.Context, ready int32) {
		patch := client.MergeFrom(d.DeepCopy())
		d.Status.Replicas, d.Status.ReadyReplicas = ready, ready
		Expect(admin.Status().Patch(ctx, d, patch)).To(Succeed())
	}
	report(ctx, 2)
	DeferCleanup(func(ctx SpecContext) { report(ctx, 0) })
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: d.Namespace, Name: "wasme-modules-0", Labels: map[string]string{discoveryv1.LabelServiceName: "wasme-modules"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}, {Addresses: []string{"10.0.0.2"}}},
	}
	meshtest.Apply(ctx, admin, slice)
	for _, name := range pods {
		pod := &corev1.Pod{ObjectMeta: d.Spec.Template.ObjectMeta, Spec: d.Spec.Template.Spec}
		pod.Namespace, pod.Name = d.Namespace, name
		Expect(admin.Create(ctx, pod)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) {
			Expect(admin.Delete(ctx, pod, client.GracePeriodSeconds(0))).To(Succeed())
		})
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
		Expect(admin.Status().Update(ctx, pod)).To(Succeed())
	}
}

// diagnose runs wasme doctor and returns its exit code and what it found.
func diagnose(ctx context.Context, kubeconfig string) (code int, found []doctor.Finding) {
	GinkgoHelper()
	var out bytes.Buffer
	code = cli.Run(ctx, []string{"doctor", "--kubeconfig", kubeconfig, "-o", "json"}, genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: GinkgoWriter})
	Expect(json.Unmarshal(out.Bytes(), &found)).To(Succeed(), out.String())
	return code, found
}

// finding matches a finding by its check, its status and a piece of its line.
func finding(check string, status doctor.Status, text string) types.GomegaMatcher {
	return And(HaveField("Check", check), HaveField("Status", status), WithTransform(doctor.Finding.String, ContainSubstring(text)))
}

var _ = Describe("wasme doctor", Serial, func() {
	It("finds nothing wrong with an installation that works, and what is wrong with one that was killed", func(ctx SpecContext) {
		r, leader, follower := startReplicas(ctx)
		r.serve(leader, follower)
		namespace := newNamespace(ctx)
		details := workload(namespace, "details", map[string]string{"app": "details"})
		details.AgentMetrics = true
		pod := run(ctx, details)
		fd := filterDeployment(namespace, push(ctx, "hello"), "world")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, pod, "world")
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonReady))
		reportReplicas(ctx, "replica-0", "replica-1")
		p := ports{}
		p.addReplica("replica-0", leader)
		p.addReplica("replica-1", follower)
		p.addSidecar(ctx, pod)
		kubeconfig := p.serve()

		code, found := diagnose(ctx, kubeconfig)
		Expect(code).To(BeZero())
		Expect(found).NotTo(ContainElement(HaveField("Status", BeElementOf(doctor.Warn, doctor.Fail))))
		// FilterDeployments of other specs may still be there.
		Expect(found).To(ContainElements(
			finding("operator", doctor.OK, "2 of 2 replicas are Ready, image wasme-operator:dev"),
			finding("leader of wasme-system/wasme-operator", doctor.OK, "renewed "),
			finding("rights of wasme-system/wasme-operator", doctor.OK, "ServiceAccount wasme-operator"),
			finding("module server", doctor.OK, "2 Ready endpoints"),
			finding("module server inside", doctor.OK, "is Ready and has the module of FilterDeployment "),
			finding("fetches by sidecars", doctor.OK, "1 sidecar asked, which fetched 1 module since they started; no fetch failed"),
			finding("NetworkPolicies", doctor.OK, "none keeps sidecars with filters from port 8082"),
			finding("FilterDeployments", doctor.OK, ", none of which waits or fails"),
		))

		Expect(leader.Kill()).To(Succeed())
		Expect(follower.Kill()).To(Succeed())
		Expect(pod.StopSidecar()).To(Succeed())
		starting, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- pod.StartSidecar(starting) }()
		DeferCleanup(func() {
			stop()
			Eventually(ended).Should(Receive())
		})
		meshtest.EventuallyIs(ctx, pod, mesh.Answered(http.StatusForbidden)) // its agent gave up
		Eventually(func() []doctor.Finding {
			code, found = diagnose(ctx, kubeconfig)
			return found
		}).Should(ContainElement(finding("leader of wasme-system/wasme-operator", doctor.Fail, "has not renewed its lease for ")))
		Expect(code).To(Equal(3))
		Expect(found).To(ContainElements(
			finding("module server inside", doctor.Fail, "pod wasme-system/replica-0 answers /readyz: no answer"),
			finding("fetches by sidecars", doctor.Fail, "the sidecars of "+namespace+"/"+pod.Pod+" could fetch no Wasm module since they started"),
		))
	})
})
