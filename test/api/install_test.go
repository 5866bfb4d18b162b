package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var _ = Describe("the installation", Ordered, func() {
	BeforeAll(func(ctx context.Context) {
		for _, path := range []string{
			"manager/namespace.yaml",
			"rbac/service_account.yaml", "rbac/role.yaml", "rbac/role_binding.yaml",
			"manager/service.yaml", "manager/deployment.yaml",
		} {
			strict := client.WithFieldValidation(k8s, metav1.FieldValidationStrict)
			for _, object := range objects(filepath.Join("../../config", path)) {
				Expect(strict.Create(ctx, object)).To(Succeed(), path)
			}
		}
	})

	It("has pods that its own namespace admits", func(ctx context.Context) {
		var deployment appsv1.Deployment
		Expect(k8s.Get(ctx, client.ObjectKey{Namespace: "wasme-system", Name: "wasme-operator"}, &deployment)).To(Succeed())
		pod := &corev1.Pod{ObjectMeta: deployment.Spec.Template.ObjectMeta, Spec: deployment.Spec.Template.Spec}
		pod.Name, pod.Namespace = "wasme-operator", deployment.Namespace
		Expect(k8s.Create(ctx, pod)).To(Succeed())
	})

	It("sends the modules' Service to a port of the pods", func(ctx context.Context) {
		var service corev1.Service
		Expect(k8s.Get(ctx, client.ObjectKey{Namespace: "wasme-system", Name: "wasme-modules"}, &service)).To(Succeed())
		var pods corev1.PodList
		Expect(k8s.List(ctx, &pods, client.InNamespace("wasme-system"), client.MatchingLabels(service.Spec.Selector))).To(Succeed())
		Expect(pods.Items).To(HaveLen(1))
		Expect(pods.Items[0].Spec.Containers[0].Ports).To(ContainElement(HaveField("Name", service.Spec.Ports[0].TargetPort.StrVal)))
	})

	It("asks for no right but named ones", func(ctx context.Context) {
		var clusterRole rbacv1.ClusterRole
		Expect(k8s.Get(ctx, client.ObjectKey{Name: "wasme-operator-manager"}, &clusterRole)).To(Succeed())
		var role rbacv1.Role
		Expect(k8s.Get(ctx, client.ObjectKey{Namespace: "wasme-system", Name: "wasme-operator-manager"}, &role)).To(Succeed())
		for _, rule := range append(clusterRole.Rules, role.Rules...) {
			Expect(rule.Verbs).To(HaveEach(BeElementOf("get", "list", "watch", "create", "update", "patch", "delete")))
			Expect(append(rule.APIGroups, rule.Resources...)).NotTo(ContainElement("*"))
		}
	})
})

// objects reads the objects of a YAML file.
func objects(path string) []*unstructured.Unstructured {
	GinkgoHelper()
	text, err := os.ReadFile(path)
	Expect(err).NotTo(HaveOccurred())
	var found []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), len(text))
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return found
		}
		Expect(err).NotTo(HaveOccurred())
		if len(object.Object) > 0 {
			found = append(found, object)
		}
	}
}
