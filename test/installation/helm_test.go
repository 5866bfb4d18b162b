package installation

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

const chart = "../../charts/wasme-operator"

var operatorKey = client.ObjectKey{Namespace: "wasme-system", Name: "wasme-operator"}

// helm runs helm on the release of these specs.
func helm(ctx context.Context, args ...string) error {
	GinkgoHelper()
	_, err := helmIn(ctx, operatorKey.Namespace, args...)
	return err
}

// helmIn runs helm on a release in another namespace, and returns what it prints.
func helmIn(ctx context.Context, namespace string, args ...string) (string, error) {
	GinkgoHelper()
	out, err := controlPlane.Helm(ctx, append(args, "--namespace="+namespace)...)
	AddReportEntry("helm", out)
	return out, err
}

// kubectl runs kubectl, which must succeed.
func kubectl(ctx context.Context, args ...string) {
	GinkgoHelper()
	out, err := controlPlane.Kubectl(ctx, args...)
	AddReportEntry("kubectl", out)
	Expect(err).NotTo(HaveOccurred())
}

// newerChart is the chart of a version whose CRD has one more field, and whose role one more rule.
func newerChart() string {
	GinkgoHelper()
	folder := filepath.Join(GinkgoT().TempDir(), "wasme-operator")
	Expect(os.CopyFS(folder, os.DirFS(chart))).To(Succeed())
	for file, edit := range map[string]struct{ before, text string }{
		"wasme.io_filterdeployments.yaml": {"              suspend:\n", "              newField: {type: boolean}\n"},
		"role.yaml":                       {"- apiGroups:\n", "- {apiGroups: [example.com], resources: [things], verbs: [get]}\n"},
	} {
		path := filepath.Join(folder, "files", file)
		text, err := os.ReadFile(path)
		Expect(err).NotTo(HaveOccurred())
		edited := strings.Replace(string(text), edit.before, edit.text+edit.before, 1)
		Expect(edited).NotTo(Equal(string(text)))
		Expect(os.WriteFile(path, []byte(edited), 0o600)).To(Succeed())
	}
	return folder
}

// expectNewer checks whether the cluster has what newerChart adds.
func expectNewer(ctx context.Context, newer bool) {
	GinkgoHelper()
	var crd apiextensionsv1.CustomResourceDefinition
	Expect(k8s.Get(ctx, client.ObjectKey{Name: "filterdeployments.wasme.io"}, &crd)).To(Succeed())
	spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	Expect(spec.Properties).To(HaveKey("suspend"))
	_, found := spec.Properties["newField"]
	Expect(found).To(Equal(newer), "the new field of the CRD")
	var role rbacv1.ClusterRole
	Expect(k8s.Get(ctx, client.ObjectKey{Name: "wasme-operator-manager"}, &role)).To(Succeed())
	haveRule := ContainElement(HaveField("APIGroups", ConsistOf("example.com")))
	if newer {
		Expect(role.Rules).To(haveRule)
	} else {
		Expect(role.Rules).NotTo(haveRule)
	}
}

// filterDeployment creates a workload and a FilterDeployment that selects it, whose module is in
// a ConfigMap.
func filterDeployment(ctx context.Context) *wasmev1.FilterDeployment {
	GinkgoHelper()
	namespace := meshtest.NewNamespace(ctx, k8s)
	labels := map[string]string{"app": "app"}
	Expect(k8s.Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "app"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}},
			},
		},
	})).To(Succeed())
	Expect(k8s.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "module"},
		BinaryData: map[string][]byte{"filter.wasm": moduletest.Wasm("a module")},
	})).To(Succeed())
	fd := &wasmev1.FilterDeployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "hello"},
		Spec: wasmev1.FilterDeploymentSpec{
			Filter:  wasmev1.FilterSpec{ConfigMap: &wasmev1.ConfigMapKey{Name: "module", Key: "filter.wasm"}, RootID: "hello"},
			Rollout: &wasmev1.RolloutSpec{Strategy: wasmev1.RolloutImmediate},
		},
	}
	Expect(k8s.Create(ctx, fd)).To(Succeed())
	return fd
}

// programmed returns the condition Programmed.
func programmed(ctx context.Context, fd *wasmev1.FilterDeployment) func() (*metav1.Condition, error) {
	return func() (*metav1.Condition, error) {
		err := k8s.Get(ctx, client.ObjectKeyFromObject(fd), fd)
		return apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionProgrammed), err
	}
}

var beTrue = HaveField("Status", metav1.ConditionTrue)

// outputs returns the EnvoyFilters of a namespace.
func outputs(ctx context.Context, namespace string) []*networking.EnvoyFilter {
	GinkgoHelper()
	var list networking.EnvoyFilterList
	Expect(k8s.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
	return list.Items
}

var _ = Describe("The chart", Ordered, func() {
	var fd *wasmev1.FilterDeployment

	It("leaves the CRD of wasme 0.0.33 alone until it is told to take it over", func(ctx context.Context) {
		install := []string{"install", "wasme-operator", chart, "--create-namespace"}
		Expect(helm(ctx, install...)).To(MatchError(ContainSubstring("invalid ownership metadata")))
		Expect(helm(ctx, append(install, "--take-ownership", "--force-conflicts")...)).To(Succeed())
		var crd apiextensionsv1.CustomResourceDefinition
		Expect(k8s.Get(ctx, client.ObjectKey{Name: "filterdeployments.wasme.io"}, &crd)).To(Succeed())
		Expect(crd.Spec.PreserveUnknownFields).To(BeFalse())
		Expect(crd.Spec.Versions).To(HaveExactElements(HaveField("Schema", Not(BeNil()))))
		Expect(helmIn(ctx, operatorKey.Namespace, "get", "notes", "wasme-operator")).NotTo(ContainSubstring("WARNING"))
	})

	It("upgrades the CRDs and the roles, and takes them back", func(ctx context.Context) {
		Expect(helm(ctx, "upgrade", "wasme-operator", newerChart())).To(Succeed())
		expectNewer(ctx, true)
		Expect(helm(ctx, "rollback", "wasme-operator")).To(Succeed())
		expectNewer(ctx, false)
	})

	It("has the replicas as a value, and not as kubectl scale leaves them", func(ctx context.Context) {
		const replicas, upgrade = "-o=jsonpath={.spec.replicas}", "upgrade"
		get := []string{"get", "--namespace=wasme-system", "deployment/wasme-operator", replicas}
		kubectl(ctx, "scale", "--namespace=wasme-system", "deployment/wasme-operator", "--replicas=3")
		Expect(helm(ctx, upgrade, "wasme-operator", chart)).To(MatchError(ContainSubstring(`conflict with "kubectl" with subresource "scale"`)))
		Expect(helm(ctx, upgrade, "wasme-operator", chart, "--force-conflicts", "--set=replicas=0")).To(Succeed())
		Expect(controlPlane.Kubectl(ctx, get...)).To(Equal("0"))
		Expect(helm(ctx, upgrade, "wasme-operator", chart, "--set=replicas=2")).To(Succeed())
		kubectl(ctx, "scale", "--namespace=wasme-system", "deployment/wasme-operator", "--replicas=0")
		Expect(helm(ctx, upgrade, "wasme-operator", chart)).To(Succeed())
		Expect(controlPlane.Kubectl(ctx, get...)).To(Equal("2"))
	})

	It("gives the operator the rights that it needs", func(ctx context.Context) {
		operator, err := controlPlane.StartOperator(ctx, mesh.OperatorOptions{Args: []string{"--leader-elect"}})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(operator.Stop)
		fd = filterDeployment(ctx)
		Eventually(programmed(ctx, fd)).Should(beTrue)
		Expect(outputs(ctx, fd.Namespace)).To(HaveLen(1))

		By("answering as `helm test` asks")
		check := exec.CommandContext(ctx, filepath.Join(controlPlane.Folder(), "bin", "manager"), "check", operator.ModuleServerURL)
		Expect(check.CombinedOutput()).To(BeEmpty())
	})

	It("limits the operator to namespaces", func(ctx context.Context) {
		other := filterDeployment(ctx)
		Expect(helm(ctx, "upgrade", "wasme-operator", chart, "--set", "watchNamespaces={"+other.Namespace+"}")).To(Succeed())
		var cluster rbacv1.ClusterRole
		Expect(k8s.Get(ctx, client.ObjectKey{Name: "wasme-operator-manager"}, &cluster)).To(Satisfy(apierrors.IsNotFound))
		operator, err := controlPlane.StartOperator(ctx, mesh.OperatorOptions{Args: []string{"--leader-elect", "--watch-namespaces=" + other.Namespace}})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(operator.Stop)
		Eventually(programmed(ctx, other)).Should(beTrue)
	})

	It("keeps the CRD and the filters when it is uninstalled", func(ctx context.Context) {
		Expect(helm(ctx, "uninstall", "wasme-operator")).To(Succeed())
		var deployment appsv1.Deployment
		Expect(k8s.Get(ctx, operatorKey, &deployment)).To(Satisfy(apierrors.IsNotFound))
		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(fd), fd)).To(Succeed())
		Expect(outputs(ctx, fd.Namespace)).To(HaveLen(1))

		By("installing it again, over the CRDs that it left")
		_, err := helmIn(ctx, "mesh-system", "install", "mesh", chart, "--create-namespace")
		Expect(err).To(MatchError(ContainSubstring("invalid ownership metadata")))
		Expect(helm(ctx, "install", "wasme-operator", chart)).To(Succeed())
	})

	It("fits in a cluster twice", func(ctx context.Context) {
		const namespace = "mesh-east"
		out, err := helmIn(ctx, namespace, "install", "east", chart, "--create-namespace", "--set=flags.class=east", "--set=crds.install=false")
		Expect(err).NotTo(HaveOccurred())
		Expect(out).To(ContainSubstring("It needs the label wasme.io/class: east."))
		_, err = helmIn(ctx, namespace, "uninstall", "east")
		Expect(err).NotTo(HaveOccurred())
		Expect(k8s.Get(ctx, operatorKey, &appsv1.Deployment{})).To(Succeed())
	})

	It("takes over what kubectl installed", func(ctx context.Context) {
		Expect(helm(ctx, "uninstall", "wasme-operator")).To(Succeed())
		kubectl(ctx, "delete", "crd", "filterdeployments.wasme.io", "filterpolicies.wasme.io", "clusterfilterpolicies.wasme.io")
		kubectl(ctx, "apply", "-k", "../../config/default")
		By("handing its fields over to Helm, which later upgrades would conflict with")
		kubectl(ctx, "apply", "-k", "../../config/default", "--server-side", "--field-manager=helm", "--force-conflicts")
		Expect(helm(ctx, "install", "wasme-operator", chart, "--take-ownership")).To(Succeed())
		Expect(helm(ctx, "upgrade", "wasme-operator", newerChart())).To(Succeed())
		expectNewer(ctx, true)
	})
})
