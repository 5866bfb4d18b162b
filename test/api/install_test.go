package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// install installs the operator as its users do, with every field known to the API server.
func install(ctx context.Context) {
	GinkgoHelper()
	_, err := controlPlane.Kubectl(ctx, "apply", "--server-side", "--validate=strict", "-k", "../../config/default")
	Expect(err).NotTo(HaveOccurred())
}

// applied is what the API server makes of a kustomization, without storing it.
func applied(ctx context.Context, path string) []*unstructured.Unstructured {
	GinkgoHelper()
	text, err := controlPlane.Kubectl(ctx, "apply", "--server-side", "--validate=strict", "--dry-run=server", "-o", "yaml", "-k", path)
	Expect(err).NotTo(HaveOccurred())
	list := object(text)
	Expect(list.IsList()).To(BeTrue())
	var found []*unstructured.Unstructured
	Expect(list.EachListItem(func(item runtime.Object) error {
		found = append(found, item.(*unstructured.Unstructured))
		return nil
	})).To(Succeed())
	return found
}

// only returns the one object of a kind among those that are applied.
func only[T any](objects []*unstructured.Unstructured, kind string) T {
	GinkgoHelper()
	var found []*unstructured.Unstructured
	for _, object := range objects {
		if object.GetKind() == kind {
			found = append(found, object)
		}
	}
	Expect(found).To(HaveLen(1), kind)
	var typed T
	Expect(runtime.DefaultUnstructuredConverter.FromUnstructured(found[0].Object, &typed)).To(Succeed())
	return typed
}

// admit creates a pod of a template in the operator's namespace.
func admit(ctx context.Context, name string, template corev1.PodTemplateSpec) *corev1.Pod {
	GinkgoHelper()
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Name, pod.Namespace = name, "wasme-system"
	Expect(k8s.Create(ctx, pod)).To(Succeed())
	return pod
}

// storageOverlay is an overlay of docs/installing.md.
const storageOverlay = `
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [%[1]s/default]
components: [%[1]s/storage]
patches:
- target: {group: apps, name: wasme-operator}
  patch: |
    - {op: add, path: /spec/template/spec/containers/0/args/-, value: --cluster-id=east}
`

var _ = Describe("the installation", Ordered, func() {
	BeforeAll(install)

	It("has pods that its own namespace admits", func(ctx context.Context) {
		var deployment appsv1.Deployment
		Expect(k8s.Get(ctx, client.ObjectKey{Namespace: "wasme-system", Name: "wasme-operator"}, &deployment)).To(Succeed())
		pod := admit(ctx, "wasme-operator", deployment.Spec.Template)
		Expect(pod.Spec.Priority).To(HaveValue(BeEquivalentTo(1_000_000_000)), "it is placed before the workloads")
		Expect(pod.Spec.Containers[0].Lifecycle.PreStop.Sleep).NotTo(BeNil())
	})

	It("sends the modules' Service to a port of the pods", func(ctx context.Context) {
		var service corev1.Service
		Expect(k8s.Get(ctx, client.ObjectKey{Namespace: "wasme-system", Name: "wasme-modules"}, &service)).To(Succeed())
		var pods corev1.PodList
		Expect(k8s.List(ctx, &pods, client.InNamespace("wasme-system"), client.MatchingLabels(service.Spec.Selector))).To(Succeed())
		Expect(pods.Items).To(HaveLen(1))
		Expect(pods.Items[0].Spec.Containers[0].Ports).To(ContainElement(HaveField("Name", service.Spec.Ports[0].TargetPort.StrVal)))
	})

	It("opens the modules' port to everybody, gateways on the host's network included, and no other", func(ctx context.Context) {
		var policy networkingv1.NetworkPolicy
		Expect(k8s.Get(ctx, client.ObjectKey{Namespace: "wasme-system", Name: "wasme-operator"}, &policy)).To(Succeed())
		Expect(policy.Spec.PolicyTypes).To(ConsistOf(networkingv1.PolicyTypeIngress))
		Expect(policy.Spec.Ingress).To(HaveLen(1))
		Expect(policy.Spec.Ingress[0].From).To(BeEmpty(), "a selector leaves out the addresses of nodes")
		Expect(policy.Spec.Ingress[0].Ports).To(ConsistOf(HaveField("Port", HaveValue(Equal(intstr.FromString("modules"))))))
	})

	It("can keep each replica's modules on a volume of its own", func(ctx context.Context) {
		overlay := GinkgoT().TempDir()
		root, err := filepath.Abs("../../config")
		Expect(err).NotTo(HaveOccurred())
		relative, err := filepath.Rel(overlay, root)
		Expect(err).NotTo(HaveOccurred())
		Expect(os.WriteFile(filepath.Join(overlay, "kustomization.yaml"), fmt.Appendf(nil, storageOverlay, relative), 0o600)).To(Succeed())
		objects := applied(ctx, overlay)
		Expect(objects).NotTo(ContainElement(HaveField("GetKind()", "Deployment")))
		set := only[appsv1.StatefulSet](objects, "StatefulSet")
		container := set.Spec.Template.Spec.Containers[0]
		Expect(container.Args).To(ContainElement("--cluster-id=east"), "the guide's patch fits both kinds")
		Expect(set.Spec.ServiceName).To(Equal("wasme-modules-peers"))
		Expect(set.Spec.VolumeClaimTemplates).To(ConsistOf(HaveField("Name", container.VolumeMounts[0].Name)))
		Expect(set.Spec.Template.Spec.Volumes).To(BeEmpty())

		claim := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "modules-wasme-operator-0"}}
		set.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "modules", VolumeSource: claim}} // as the StatefulSet's controller does
		admit(ctx, "wasme-operator-0", set.Spec.Template)
	})

	It("can be limited to one namespace", func(ctx context.Context) {
		ensureNamespace(ctx, "bookinfo")
		objects := applied(ctx, "../../config/namespaced")
		Expect(only[appsv1.Deployment](objects, "Deployment").Spec.Template.Spec.Containers[0].Args).To(ContainElement("--watch-namespaces=bookinfo"))
		for _, object := range objects {
			if object.GetKind() == "ClusterRoleBinding" {
				Expect(object.GetName()).To(Equal("wasme-operator-policies"), "the one right that concerns the cluster")
			}
		}
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
