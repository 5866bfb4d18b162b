package upgrade

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
)

// remains are all objects of the operator's own kinds, and of others those whose name, namespace or
// metadata mentions it.
// Events end by themselves.
func remains(ctx context.Context) []string {
	GinkgoHelper()
	config := theMesh.Admin()
	config.WarningHandler = rest.NoWarnings{} // some kinds are deprecated
	kinds, err := discovery.NewDiscoveryClientForConfigOrDie(config).ServerPreferredResources()
	Expect(err).NotTo(HaveOccurred())
	objects := metadata.NewForConfigOrDie(config)
	var found []string
	for _, group := range kinds {
		version, err := schema.ParseGroupVersion(group.GroupVersion)
		Expect(err).NotTo(HaveOccurred())
		for _, kind := range group.APIResources {
			if kind.Name == "events" || !slices.Contains(kind.Verbs, "list") {
				continue
			}
			list, err := objects.Resource(version.WithResource(kind.Name)).List(ctx, metav1.ListOptions{})
			Expect(err).NotTo(HaveOccurred(), kind.Name)
			for _, object := range list.Items {
				if strings.Contains(version.Group, "wasme") || mentions(object) {
					found = append(found, fmt.Sprintf("%s %s/%s", kind.Name, object.Namespace, object.Name))
				}
			}
		}
	}
	return found
}

// mentions reports whether an object is the operator's, by its name, namespace, labels, annotations
// or owners.
func mentions(object metav1.PartialObjectMetadata) bool {
	texts := []string{object.Name, object.Namespace}
	for key, value := range object.Labels {
		texts = append(texts, key, value)
	}
	for key, value := range object.Annotations {
		texts = append(texts, key, value)
	}
	for _, owner := range object.OwnerReferences {
		texts = append(texts, owner.APIVersion)
	}
	return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, "wasme") })
}

// awaitCollector waits until the garbage collector collects what FilterDeployments own. It looks for new kinds every
// 30 s, and keeps the objects of owners whose kind it never knew.
func awaitCollector(ctx context.Context, namespace, image string) {
	GinkgoHelper()
	owner := create(ctx, namespace, "collected", image, wasmev1.OutputEnvoyFilter)
	owned := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "owned"}}
	Expect(controllerutil.SetOwnerReference(owner, owned, admin.Scheme())).To(Succeed())
	Expect(admin.Create(ctx, owned)).To(Succeed())
	Expect(admin.Delete(ctx, owner)).To(Succeed())
	Eventually(func() error { return admin.Get(ctx, client.ObjectKeyFromObject(owned), owned) }).Should(Satisfy(apierrors.IsNotFound))
}

var _ = Describe("Uninstalling", func() {
	It("leaves nothing, and fails no request", func(ctx SpecContext) {
		namespace := meshtest.NewNamespace(ctx, admin)
		Expect(theMesh.InstallOperator(ctx)).To(Succeed())
		install := newInstallation()
		install.start(ctx, "")
		install.start(ctx, "")
		pods := []*mesh.Running{run(ctx, namespace, "app", "filtered", 0), run(ctx, namespace, "plugged", "plugged", 0)}
		image := push(ctx)
		fds := []*wasmev1.FilterDeployment{
			create(ctx, namespace, "filtered", image, wasmev1.OutputEnvoyFilter), create(ctx, namespace, "plugged", image, wasmev1.OutputWasmPlugin),
		}
		for i, fd := range fds {
			meshtest.EventuallyAnswers(ctx, pods[i], answer("first"))
			Eventually(condition(ctx, fd, wasmev1.ConditionReady)).Should(Equal("True"))
		}
		Expect(remains(ctx)).To(ContainElements(
			ContainSubstring("filterdeployments "), ContainSubstring("envoyfilters "), ContainSubstring("wasmplugins "),
			ContainSubstring("controllerrevisions "), ContainSubstring("leases "), ContainSubstring("clusterroles "),
		), "all that is there is found")

		awaitCollector(ctx, namespace, image)

		load := startTraffic(ctx, true, pods...)
		root, err := binaries.RepositoryRoot()
		Expect(err).NotTo(HaveOccurred())
		_, err = theMesh.Kubectl(ctx, "delete", "-k", filepath.Join(root, "config", "default"), "--timeout="+patience.String())
		Expect(err).NotTo(HaveOccurred(), "the replicas still run, as their pods do for some seconds")
		for _, replica := range slices.Clone(install.running) {
			install.stop(replica)
		}
		for _, pod := range pods {
			meshtest.EventuallyAnswers(ctx, pod)
		}
		Eventually(remains).WithArguments(ctx).Should(BeEmpty())
		load.expectNoFailure()
	})
})
