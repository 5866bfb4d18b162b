package api

import (
	"context"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/render"
)

const samples = "../../config/samples"

var _ = Describe("the samples", func() {
	It("are all in the kustomization", func() {
		paths, err := filepath.Glob(filepath.Join(samples, "wasme_*.yaml"))
		Expect(err).NotTo(HaveOccurred())
		var names []string
		for _, path := range paths {
			names = append(names, filepath.Base(path))
		}
		kustomization := read[map[string]any](filepath.Join(samples, "kustomization.yaml"))
		Expect(kustomization["resources"]).To(ConsistOf(names))
	})

	It("are accepted strictly, and hold nothing that the operator refuses", func(ctx context.Context) {
		paths, err := filepath.Glob(filepath.Join(samples, "wasme_*.yaml"))
		Expect(err).NotTo(HaveOccurred())
		Expect(paths).NotTo(BeEmpty())
		strict := client.WithFieldValidation(k8s, metav1.FieldValidationStrict)
		for _, path := range paths {
			for _, object := range objects(path) {
				ensureNamespace(ctx, object.GetNamespace())
				Expect(strict.Create(ctx, object, client.DryRunAll)).To(Succeed(), path)
				if object.GetKind() == "FilterDeployment" {
					Expect(render.Check(typed(object).Spec)).To(Succeed(), path)
				}
			}
		}
	})
})

func ensureNamespace(ctx context.Context, name string) {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	Expect(client.IgnoreAlreadyExists(k8s.Create(ctx, namespace))).To(Succeed())
}

// typed is a FilterDeployment as the operator reads it.
func typed(object *unstructured.Unstructured) wasmev1.FilterDeployment {
	GinkgoHelper()
	text, err := object.MarshalJSON()
	Expect(err).NotTo(HaveOccurred())
	var fd wasmev1.FilterDeployment
	Expect(json.Unmarshal(text, &fd)).To(Succeed())
	return fd
}
