package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/doctor"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
)

// diagnosis is what wasme doctor found, with its exit code.
type diagnosis struct {
	Code     int
	Findings []doctor.Finding
}

// diagnose runs wasme doctor with a kubeconfig.
func diagnose(ctx context.Context, kubeconfig string, args ...string) diagnosis {
	GinkgoHelper()
	got := wasmeWith(ctx, kubeconfig, "", append([]string{"doctor", "-o", "json"}, args...)...)
	var found []doctor.Finding
	Expect(json.Unmarshal([]byte(got.Out), &found)).To(Succeed(), got.Out+got.ErrOut)
	return diagnosis{got.Code, found}
}

// found matches a finding by its check, its status and a piece of its line.
func found(check string, status doctor.Status, text string) types.GomegaMatcher {
	return And(HaveField("Check", check), HaveField("Status", status), WithTransform(doctor.Finding.String, ContainSubstring(text)))
}

// ofStatus returns the findings with a status.
func (d diagnosis) ofStatus(status doctor.Status) (these []doctor.Finding) {
	for _, f := range d.Findings {
		if f.Status == status {
			these = append(these, f)
		}
	}
	return these
}

// createPod creates a pod of a Deployment with a sidecar of an image.
func createPod(ctx context.Context, admin client.Client, namespace, deployment, sidecar string) {
	GinkgoHelper()
	owner := corev1.EnvVar{Name: "ISTIO_META_OWNER", Value: "kubernetes://apis/apps/v1/namespaces/" + namespace + "/deployments/" + deployment}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: deployment + "-0", Labels: map[string]string{"app": deployment}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{
			{Name: "app", Image: "app"}, {Name: "istio-proxy", Image: sidecar, Env: []corev1.EnvVar{owner}},
		}},
	}
	Eventually(func() error { return admin.Create(ctx, pod) }).WithTimeout(waiting).Should(Succeed(), "once its namespace has a service account")
}

// The specs share an API server of their own: doctor looks at the whole cluster.
var _ = Describe("wasme doctor", Ordered, func() {
	var (
		cluster *mesh.ControlPlane
		admin   client.WithWatch
	)

	BeforeAll(func(ctx context.Context) {
		var err error
		cluster, err = mesh.StartControlPlane(ctx, mesh.Options{Log: GinkgoWriter})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(cluster.Stop)
		admin, err = mesh.NewClient(cluster.Admin())
		Expect(err).NotTo(HaveOccurred())
	})

	// create creates an object that ends with the spec.
	create := func(ctx context.Context, object client.Object) {
		GinkgoHelper()
		Expect(admin.Create(ctx, object)).To(Succeed())
		DeferCleanup(func(ctx context.Context) {
			Expect(client.IgnoreNotFound(admin.Delete(ctx, object, client.GracePeriodSeconds(0)))).To(Succeed())
		})
	}

	It("says what an empty cluster lacks, a line for each check", func(ctx context.Context) {
		got := wasmeWith(ctx, cluster.Kubeconfig(), "", "doctor")
		Expect(got.Code).To(Equal(3))
		Expect(strings.Split(strings.TrimSpace(got.Out), "\n")).To(ContainElements(
			MatchRegexp(`^ok           API server: Kubernetes v1\.\d+`),
			MatchRegexp(`^ok           clock: this machine and the API server agree within \d+s$`),
			"ok           your rights: you may do in namespace default what wasme does",
			"FAIL         CRD: filterdeployments.wasme.io is not there: install the operator with kubectl apply -k config/default",
			"FAIL         kinds of Istio: the cluster has no EnvoyFilter, which filters need: install the CRDs of Istio's version",
			HavePrefix("FAIL         operator: no Deployment or StatefulSet has the label app.kubernetes.io/name: wasme-operator: install it"),
			"not checked  istiod: no Deployment has the label app: istiod: it may run outside of this cluster",
		))
		Expect(got.Out).NotTo(ContainSubstring("FilterDeployments, none"))
		Expect(got.ErrOut).To(MatchRegexp(`^Error: 3 of \d+ checks failed\n$`))
	})

	Describe("with the operator installed", func() {
		BeforeAll(func(ctx context.Context) {
			crds, err := binaries.IstioFile(ctx, "manifests/charts/base/files/crd-all.gen.yaml")
			Expect(err).NotTo(HaveOccurred())
			Expect(cluster.InstallCRDs(crds)).To(Succeed())
			Expect(cluster.InstallOperator(ctx)).To(Succeed())
		})

		It("tells that no replica is Ready, and what follows", func(ctx context.Context) {
			got := diagnose(ctx, cluster.Kubeconfig())
			Expect(got.Code).To(Equal(3))
			Expect(got.ofStatus(doctor.Fail)).To(ConsistOf(
				found("operator", doctor.Fail, "Deployment wasme-system/wasme-operator: none of its 2 replicas is Ready"),
				found("leader of wasme-system/wasme-operator", doctor.Fail, "no replica leads"),
				found("module server", doctor.Fail, "Service wasme-system/wasme-modules has no Ready endpoint"),
			))
			Expect(got.ofStatus(doctor.Warn)).To(BeEmpty())
			Expect(got.Findings).To(ContainElements(
				found("CRD", doctor.OK, "has the fields that this wasme knows"),
				found("kinds of Istio", doctor.OK, "EnvoyFilter, WasmPlugin, TrafficExtension"),
				found("rights of wasme-system/wasme-operator", doctor.OK, "may do what config/rbac grants"),
				found("outside the mesh", doctor.OK, "have no sidecar"),
				found("FilterDeployments", doctor.OK, "0 FilterDeployments"),
			))
		})

		It("checks nothing that the user has no right to see, and fails for none of it", func(ctx context.Context) {
			create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "guest"}})
			guest, err := cluster.KubeconfigAs(ctx, "default", "guest")
			Expect(err).NotTo(HaveOccurred())
			got := diagnose(ctx, guest)
			Expect(got.Code).To(BeZero())
			Expect(got.ofStatus(doctor.NotChecked)).To(ConsistOf(
				found("CRD", doctor.NotChecked, "the right to get customresourcedefinitions.apiextensions.k8s.io is missing: ask for it"),
				found("wasme's operator", doctor.NotChecked, "the right to list deployments.apps is missing"),
				found("istiod", doctor.NotChecked, "the right to list deployments.apps in namespace istio-system is missing"),
				found("operator", doctor.NotChecked, "the right to list deployments.apps in namespace wasme-system is missing"),
				found("FilterDeployments", doctor.NotChecked, "the right to list filterdeployments.wasme.io is missing"),
			))
			Expect(got.ofStatus(doctor.Warn)).To(ConsistOf(found("your rights", doctor.Warn, "in namespace default you may not get filterdeployments.wasme.io (for wasme status, undeploy, rollout and diff), list filterdeployments.wasme.io (for wasme status, deploy and rollout)")))
		})

		It("names the rights that the operator's account lost", func(ctx context.Context) {
			binding := &rbacv1.ClusterRoleBinding{}
			Expect(admin.Get(ctx, client.ObjectKey{Name: "wasme-operator-manager"}, binding)).To(Succeed())
			Expect(admin.Delete(ctx, binding.DeepCopy())).To(Succeed())
			binding.ResourceVersion, binding.UID = "", ""
			DeferCleanup(func(ctx context.Context) { Expect(admin.Create(ctx, binding)).To(Succeed()) })
			Eventually(func() []doctor.Finding { return diagnose(ctx, cluster.Kubeconfig()).Findings }).WithTimeout(waiting).Should(ContainElement(
				found("rights of wasme-system/wasme-operator", doctor.Fail, "ServiceAccount wasme-operator may not get configmaps, get namespaces, get secrets and"),
			))
		})

		It("notices the predecessor's operator", func(ctx context.Context) {
			labels := map[string]string{"app": "wasme-operator"}
			d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "wasme-operator"}, Spec: appsv1.DeploymentSpec{
				Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
					Containers: []corev1.Container{{Name: "operator", Image: "quay.io/solo-io/wasme:0.0.33", Args: []string{"operator"}}},
				}},
			}}
			create(ctx, d)
			Expect(diagnose(ctx, cluster.Kubeconfig()).Findings).To(ContainElement(
				found("wasme's operator", doctor.Fail, "kubectl scale -n default deployment wasme-operator --replicas=0"),
			))
		})

		It("says that the CRD is that of an older operator", func(ctx context.Context) {
			const field = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/suspend"
			_, err := cluster.Kubectl(ctx, "patch", "crd", doctor.CRDName, "--type=json", "-p", fmt.Sprintf(`[{"op": "remove", "path": %q}]`, field))
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func(ctx context.Context) { Expect(cluster.InstallOperator(ctx)).To(Succeed()) })
			Expect(diagnose(ctx, cluster.Kubeconfig()).Findings).To(ContainElement(
				found("CRD", doctor.Warn, "the operator is older than this wasme: its CRD has no spec.suspend"),
			))
		})

		It("tells a leader whose clock is wrong from one that is gone", func(ctx context.Context) {
			old := metav1.NewMicroTime(time.Now().Add(-time.Hour))
			lease := &coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Namespace: "wasme-system", Name: "wasme-operator"},
				Spec:       coordinationv1.LeaseSpec{HolderIdentity: new("replica"), LeaseDurationSeconds: new(int32(3)), RenewTime: &old},
			}
			create(ctx, lease)
			Expect(diagnose(ctx, cluster.Kubeconfig()).Findings).To(ContainElement(
				found("leader of wasme-system/wasme-operator", doctor.Fail, "replica has not renewed its lease for 1h"),
			))
			renewing, stop := context.WithCancel(ctx)
			renewed := make(chan error)
			go func() {
				defer close(renewed)
				for tick := time.NewTicker(time.Second / 2); ; {
					select {
					case <-renewing.Done():
						return
					case <-tick.C:
						lease.Spec.RenewTime.Time = time.Now().Add(-time.Hour)
						if err := admin.Update(ctx, lease); err != nil {
							renewed <- err
							return
						}
					}
				}
			}()
			got := diagnose(ctx, cluster.Kubeconfig())
			stop()
			Expect(<-renewed).NotTo(HaveOccurred())
			Expect(got.Findings).To(ContainElement(
				found("leader of wasme-system/wasme-operator", doctor.Warn, "behind the API server's: synchronise"),
			))
		})

		Describe("and a FilterDeployment that selects a pod", func() {
			var namespace string

			BeforeEach(func(ctx context.Context) {
				object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "spec-"}}
				Expect(admin.Create(ctx, object)).To(Succeed())
				namespace = object.Name
				createPod(ctx, admin, namespace, "details", "istio/proxyv2:1.24.1")
				fd := &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "hello"}, Spec: wasmev1.FilterDeploymentSpec{
					Filter: wasmev1.FilterSpec{Image: "registry.test/hello:v1"},
				}}
				create(ctx, fd)
				fd.Status.Workloads = map[string]wasmev1.WorkloadStatus{"details": {State: wasmev1.WorkloadPending}}
				fd.Status.Conditions = []metav1.Condition{
					{Type: wasmev1.ConditionLoaded, Status: metav1.ConditionFalse, Reason: wasmev1.ReasonFetchFailed, Message: "no fetch", LastTransitionTime: metav1.Now()},
					{Type: wasmev1.ConditionReady, Status: metav1.ConditionFalse, Reason: wasmev1.ReasonFetchFailed, Message: "no fetch", LastTransitionTime: metav1.Now()},
				}
				Expect(admin.Status().Update(ctx, fd)).To(Succeed())
			})

			It("shows the proxy's version, and the FilterDeployment with its page", func(ctx context.Context) {
				Expect(diagnose(ctx, cluster.Kubeconfig()).Findings).To(ContainElements(
					found("proxies", doctor.Fail, "1 sidecar with filters: 1 1.24.1: those of "+namespace+"/details-0 are older than 1.25"),
					found("FilterDeployment "+namespace+"/hello", doctor.Fail, "Ready is False, FetchFailed: no fetch: see https://github.com/wasme-io/wasme-operator/blob/main/docs/conditions.md#loaded"),
					found("NetworkPolicies", doctor.OK, "none keeps sidecars with filters from port 8082"),
					found("fetches by sidecars", doctor.NotChecked, "no port-forward to pod "+namespace+"/details-0: "),
				))
			})

			for _, end := range []struct {
				name, where, want string
				kind              networkingv1.PolicyType
			}{
				{"the workload", "", "NetworkPolicy %[1]s/shut does not let pods of namespace %[1]s reach port 8082 of the operator's pods", networkingv1.PolicyTypeEgress},
				{"the operator", "wasme-system", "NetworkPolicy wasme-system/shut, wasme-system/wasme-operator does not admit pods of namespace %[1]s to port 8082 of the operator's pods", networkingv1.PolicyTypeIngress},
			} {
				It("finds the NetworkPolicy that shuts the module port at "+end.name, func(ctx context.Context) {
					where := end.where
					if where == "" {
						where = namespace
					} else {
						installed := &networkingv1.NetworkPolicy{}
						Expect(admin.Get(ctx, client.ObjectKey{Namespace: where, Name: "wasme-operator"}, installed)).To(Succeed())
						installed.Spec.Ingress = nil
						Expect(admin.Update(ctx, installed)).To(Succeed())
						DeferCleanup(func(ctx context.Context) { Expect(cluster.InstallOperator(ctx)).To(Succeed()) })
					}
					create(ctx, &networkingv1.NetworkPolicy{
						ObjectMeta: metav1.ObjectMeta{Namespace: where, Name: "shut"},
						Spec:       networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{end.kind}},
					})
					Expect(diagnose(ctx, cluster.Kubeconfig()).Findings).To(ContainElement(
						found("NetworkPolicies", doctor.Fail, fmt.Sprintf(end.want, namespace)),
					))
				})
			}
		})
	})

	It("says that the API server cannot be reached", func(ctx context.Context) {
		path := write("kubeconfig", `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]}`)
		got := wasmeWith(ctx, filepath.Clean(path), "", "doctor")
		Expect(got.Code).To(Equal(1))
		Expect(got.ErrOut).To(MatchRegexp(`^Error: reaching the API server at http://127.0.0.1:1: .* check that the cluster runs`))
	})
})
