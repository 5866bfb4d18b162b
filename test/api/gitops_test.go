package api

import (
	"context"
	"io/fs"
	"path/filepath"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
)

const gitOps = "../../config/gitops"

// crdsOfGitOps are the modules of the tools, and where they keep the CRDs that the examples need.
var crdsOfGitOps = map[string][]string{
	"github.com/argoproj/argo-cd/v3":         {"manifests/crds/application-crd.yaml"},
	"github.com/fluxcd/helm-controller":      {"config/crd/bases/helm.toolkit.fluxcd.io_helmreleases.yaml"},
	"github.com/fluxcd/kustomize-controller": {"config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml"},
	"github.com/fluxcd/source-controller": {
		"config/crd/bases/source.toolkit.fluxcd.io_gitrepositories.yaml",
		"config/crd/bases/source.toolkit.fluxcd.io_ocirepositories.yaml",
	},
}

var _ = Describe("the GitOps examples", Ordered, func() {
	apply := func(ctx context.Context, object *unstructured.Unstructured) error {
		strict := client.WithFieldValidation(k8s, metav1.FieldValidationStrict)
		return strict.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.DryRunAll, client.FieldOwner("examples"))
	}
	BeforeAll(func(ctx context.Context) {
		for module, paths := range crdsOfGitOps {
			for _, path := range paths {
				crd, err := binaries.GitOpsFile(ctx, module, path)
				Expect(err).NotTo(HaveOccurred())
				Expect(controlPlane.InstallCRDs(crd)).To(Succeed())
			}
		}
	})

	It("are what Argo CD's and Flux's own CRDs accept", func(ctx context.Context) {
		for _, object := range gitOpsObjects() {
			ensureNamespaceOf(ctx, object)
			Expect(apply(ctx, object)).To(Succeed(), object.GetName())
		}
	})

	It("would be refused with a field that does not exist", func(ctx context.Context) {
		for _, kind := range []string{"Application", "GitRepository", "OCIRepository", "HelmRelease", "Kustomization"} {
			object := gitOpsObjects(kind)[0]
			Expect(unstructured.SetNestedField(object.Object, "x", "spec", "intervall")).To(Succeed())
			Expect(apply(ctx, object)).
				To(MatchError(ContainSubstring("intervall")), kind)
		}
	})

	It("have the paths that they refer to, and reach every FilterDeployment", func(ctx context.Context) {
		paths := map[string][]string{"Application": {"spec", "source", "path"}, "Kustomization": {"spec", "path"}}
		built := 0
		for _, object := range gitOpsObjects("Application", "Kustomization") {
			path, found, err := unstructured.NestedString(object.Object, paths[object.GetKind()]...)
			Expect(err).NotTo(HaveOccurred())
			if found {
				built++
				Expect(filepath.Join(gitOps, path)).To(BeADirectory(), object.GetName())
			}
		}
		Expect(built).To(Equal(4), "paths")
		output, err := controlPlane.Kubectl(ctx, "kustomize", filepath.Join(gitOps, "filters"))
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(ContainSubstring("kind: FilterDeployment"))
	})

	It("let the operator come first", func() {
		waves := map[string]string{}
		for _, object := range gitOpsObjects() {
			if wave, found := object.GetAnnotations()["argocd.argoproj.io/sync-wave"]; found {
				waves[object.GetName()] = wave
			}
		}
		Expect(waves).To(Equal(map[string]string{"wasme-operator": "0", "filters": "1"}))

		kustomizations := gitOpsObjects("Kustomization")
		for _, object := range kustomizations {
			Expect(object.Object["spec"]).To(HaveKeyWithValue("wait", true), object.GetName())
		}
		dependsOn, _, err := unstructured.NestedSlice(kustomizations[1].Object, "spec", "dependsOn")
		Expect(err).NotTo(HaveOccurred())
		Expect(dependsOn).To(ConsistOf(HaveKeyWithValue("name", kustomizations[0].GetName())))
	})
})

// gitOpsObjects returns the objects of the examples, those of some kinds or all. A kustomization.yaml holds none.
func gitOpsObjects(kinds ...string) []*unstructured.Unstructured {
	GinkgoHelper()
	var found []*unstructured.Unstructured
	Expect(filepath.WalkDir(gitOps, func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".yaml" && filepath.Base(path) != "kustomization.yaml" {
			found = append(found, objects(path)...)
		}
		return err
	})).To(Succeed())
	return slices.DeleteFunc(found, func(o *unstructured.Unstructured) bool {
		return len(kinds) > 0 && !slices.Contains(kinds, o.GetKind())
	})
}
