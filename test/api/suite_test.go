// Package api holds the tests of the FilterDeployment resource itself: what a
// real API server accepts, refuses, stores and prints.
package api

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/wasme-io/wasme-operator/test/mesh"
)

var (
	controlPlane *mesh.ControlPlane
	config       *rest.Config
	k8s          client.Client
)

func TestAPI(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(30 * time.Second)
	RunSpecs(t, "API")
}

var _ = BeforeSuite(func(ctx context.Context) {
	var err error
	controlPlane, err = mesh.StartControlPlane(ctx, mesh.Options{})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(controlPlane.Stop)
	config = controlPlane.Admin()
	config.WarningHandler = rest.NoWarnings{}

	k8s, err = mesh.NewClient(config)
	Expect(err).NotTo(HaveOccurred())

	installOverPredecessor(ctx)
})

// installOverPredecessor installs the CRD where the predecessor's was, with
// an object that its operator has handled: every test here runs after such an
// upgrade. It applies on the server's side, as GitOps tools do; the other suites
// that install do not.
func installOverPredecessor(ctx context.Context) {
	GinkgoHelper()
	Expect(controlPlane.StorePredecessorsCRD(ctx)).To(Succeed())
	crd := apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "filterdeployments.wasme.io"}}
	Expect(k8s.Get(ctx, client.ObjectKeyFromObject(&crd), &crd)).To(Succeed())
	Expect(crd.Spec.PreserveUnknownFields).To(BeTrue())
	Expect(crd.Spec.Versions).To(HaveExactElements(HaveField("Schema", BeNil())))
	old := object(predecessorsObject)
	Expect(k8s.Create(ctx, old)).To(Succeed())
	old.Object["status"] = object(predecessorsObject).Object["status"]
	Expect(k8s.Status().Update(ctx, old)).To(Succeed())

	apply := func(options ...string) error {
		_, err := controlPlane.Kubectl(ctx, append([]string{"apply", "-k", "../../config/crd"}, options...)...)
		return err
	}
	Expect(apply("--server-side")).To(MatchError(ContainSubstring("--force-conflicts")), "as the guide says")
	Expect(apply("--server-side", "--force-conflicts")).To(Succeed())
	Expect(k8s.Get(ctx, client.ObjectKeyFromObject(&crd), &crd)).To(Succeed())
	Expect(crd.Spec.PreserveUnknownFields).To(BeFalse())
	// The API server takes a moment to serve the new schema.
	Eventually(create).WithArguments(ctx, `{}`).Should(MatchError(ContainSubstring("spec.filter: Required value")))
}

// read reads one object of type T from a YAML file.
func read[T any](path string) T {
	GinkgoHelper()
	text, err := os.ReadFile(filepath.FromSlash(path))
	Expect(err).NotTo(HaveOccurred())
	var value T
	Expect(yaml.UnmarshalStrict(text, &value)).To(Succeed())
	return value
}

// object parses YAML as it is, so that a test can send what no Go type holds.
func object(text string) *unstructured.Unstructured {
	GinkgoHelper()
	asJSON, err := yaml.YAMLToJSON([]byte(text))
	Expect(err).NotTo(HaveOccurred())
	var fields map[string]any
	Expect(json.Unmarshal(asJSON, &fields)).To(Succeed())
	return &unstructured.Unstructured{Object: fields}
}

// filterDeployment is a FilterDeployment with the given spec, in YAML.
func filterDeployment(spec string) *unstructured.Unstructured {
	GinkgoHelper()
	fd := object("apiVersion: wasme.io/v1\nkind: FilterDeployment\nmetadata: {name: example, namespace: default}")
	fd.Object["spec"] = object(spec).Object
	return fd
}

// create asks the API server what it says to a FilterDeployment with spec,
// without storing it.
func create(ctx context.Context, spec string) error {
	return k8s.Create(ctx, filterDeployment(spec), client.DryRunAll)
}
