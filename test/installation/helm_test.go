package installation

import (
	"context"
	"os/exec"
	"path/filepath"

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
	out, err := controlPlane.Helm(ctx, append(args, "--namespace=wasme-system")...)
	AddReportEntry("helm", out)
	return err
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

		By("installing it again, over the CRD that it left")
		Expect(helm(ctx, "install", "wasme-operator", chart)).To(Succeed())
	})
})
