package cli_test

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

// startRegistry starts a registry for a spec.
func startRegistry(options ...registry.Option) *registry.Registry {
	GinkgoHelper()
	images, err := registry.Start(options...)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(images.Close)
	return images
}

// push stores an image whose module differs by the text.
func push(ctx context.Context, images *registry.Registry, path, text string) string {
	GinkgoHelper()
	image, err := registry.Image(registry.WasmeArtifact, registry.Module{Bytes: moduletest.Wasm(text), RootIDs: []string{"root"}})
	Expect(err).NotTo(HaveOccurred())
	reference, err := images.Push(ctx, path, image)
	Expect(err).NotTo(HaveOccurred())
	return reference
}

// manifest is a FilterDeployment in YAML.
const manifest = `
apiVersion: wasme.io/v1
kind: FilterDeployment
metadata: {name: hello, namespace: %s}
spec:
  filter: {image: %s, config: %s, imagePullOptions: {plainHttp: true}}
  deployment: {istio: {kind: Deployment}}
`

// objects parses what render prints.
func objects(text string) []unstructured.Unstructured {
	GinkgoHelper()
	var all []unstructured.Unstructured
	for document := range strings.SplitSeq(text, "\n---\n") {
		var object unstructured.Unstructured
		Expect(yaml.Unmarshal([]byte(document), &object.Object)).To(Succeed())
		if object.Object != nil {
			all = append(all, object)
		}
	}
	return all
}

func names(objects []unstructured.Unstructured) []string {
	var all []string
	for _, object := range objects {
		all = append(all, object.GetKind()+" "+object.GetName())
	}
	return all
}

var _ = Describe("wasme render", func() {
	var namespace string

	BeforeEach(func(ctx context.Context) { namespace = newNamespace(ctx) })

	It("prints the objects for the workloads of the cluster, and writes nothing", func(ctx context.Context) {
		createDeployment(ctx, namespace, "details", 1)
		createDeployment(ctx, namespace, "ratings", 0)
		image := push(ctx, startRegistry(), "hello:v1", "one")
		file := write("fd.yaml", manifest, namespace, image, "world")
		got := wasme(ctx, "render", "-f", file)
		Expect(got.Code).To(BeZero(), got.ErrOut)
		Expect(got.ErrOut).To(Or(BeEmpty(), HavePrefix("note: no operator was found: ")), "another spec may have installed it")
		Expect(names(objects(got.Out))).To(Equal([]string{"EnvoyFilter details-hello." + namespace, "EnvoyFilter ratings-hello." + namespace}))
		Expect(got.Out).To(And(ContainSubstring("root_id: root"), ContainSubstring("value: world"), ContainSubstring("http://wasme-modules.wasme-system.svc.cluster.local/modules/sha256/")))
		var made networking.EnvoyFilterList
		Expect(user.List(ctx, &made, client.InNamespace(namespace))).To(Succeed())
		Expect(made.Items).To(BeEmpty())
		got = wasme(ctx, "render", "-f", file, "--workload", "ratings", "--module-server-url=http://modules")
		Expect(names(objects(got.Out))).To(Equal([]string{"EnvoyFilter ratings-hello." + namespace}))
		Expect(got.Out).To(ContainSubstring("uri: http://modules/modules/sha256/"))
		got = wasme(ctx, "render", "-f", file, "--workload", "rating")
		Expect(got.Code).To(Equal(1))
		Expect(got.Out).To(BeEmpty())
		Expect(got.ErrOut).To(HaveSuffix("Error: --workload rating: it is not selected: did you mean ratings?\n"))
	})

	It("prints the objects of a workload that one of several FilterDeployments selects", func(ctx context.Context) {
		createDeployment(ctx, namespace, "details", 0)
		createDeployment(ctx, namespace, "ratings", 0)
		image := push(ctx, startRegistry(), "hello:v1", "one")
		first := fmt.Sprintf(manifest, namespace, image, "world")
		second := strings.NewReplacer("name: hello", "name: other", "{kind: Deployment}", "{kind: Deployment, labels: {app: details}}").Replace(first)
		got := wasme(ctx, "render", "-f", write("fd.yaml", "%s---%s", first, second), "--workload", "ratings")
		Expect(got.Code).To(BeZero(), got.ErrOut)
		Expect(names(objects(got.Out))).To(Equal([]string{"EnvoyFilter ratings-hello." + namespace}))
	})

	It("asks no cluster if it shall not, and reads the standard input", func(ctx context.Context) {
		image := push(ctx, startRegistry(), "hello:v1", "one")
		const others = `
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: details, labels: {app: details}}
spec: {selector: {matchLabels: {app: details}}, template: {metadata: {labels: {app: details}}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {greeting: "from a ConfigMap"}
`
		in := strings.Replace(strings.ReplaceAll(manifest, ", namespace: %s", ""), "config: %s", "configFrom: {configMapKeyRef: {name: settings, key: greeting}}", 1)
		in = strings.Replace(in, "%s", image, 1)
		got := wasmeWith(ctx, "/nowhere", in+others, "render", "--local", "-f", "-", "-n", "prod")
		Expect(got.Code).To(BeZero(), got.ErrOut)
		Expect(names(objects(got.Out))).To(Equal([]string{"EnvoyFilter details-hello.prod"}))
		Expect(got.Out).To(ContainSubstring("value: from a ConfigMap"))
		again := wasmeWith(ctx, "/nowhere", in+others, "render", "--local", "-f", "-", "-n", "prod")
		Expect(again).To(Equal(got), "the same input gives the same output")
	})

	It("says that no workload is selected", func(ctx context.Context) {
		image := push(ctx, startRegistry(), "hello:v1", "one")
		got := wasme(ctx, "render", "-f", write("fd.yaml", manifest, namespace, image, "world"))
		Expect(got.Code).To(BeZero())
		Expect(got.Out).To(BeEmpty())
		Expect(got.ErrOut).To(ContainSubstring("note: hello: no Deployment in namespace " + namespace + " has the labels"))
	})

	DescribeTable("says what is wrong with", func(ctx context.Context, content, want string) {
		got := wasme(ctx, "render", "-n", namespace, "-f", write("fd.yaml", "%s", content))
		Expect(got.Code).To(Equal(1))
		Expect(got.ErrOut).To(ContainSubstring(want))
	},
		Entry("a file without one", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}", "the files have no FilterDeployment"),
		Entry("a field that there is not", "apiVersion: wasme.io/v1\nkind: FilterDeployment\nmetadata: {name: a}\nspec: {filter: {imge: a}}", `unknown field "spec.filter.imge"`),
		Entry("a spec", "apiVersion: wasme.io/v1\nkind: FilterDeployment\nmetadata: {name: a}\nspec: {filter: {}}", "rendering a: spec.filter"),
		Entry("a registry that is not there", "apiVersion: wasme.io/v1\nkind: FilterDeployment\nmetadata: {name: a}\nspec: {filter: {image: '127.0.0.1:1/a:v1'}}", "127.0.0.1:1"),
		Entry("YAML", "a: [", "fd.yaml"),
	)

	It("says which file there is not", func(ctx context.Context) {
		got := wasme(ctx, "render", "-f", filepath.Join(GinkgoT().TempDir(), "none.yaml"))
		Expect(got.Code).To(Equal(1))
		Expect(got.ErrOut).To(ContainSubstring("none.yaml"))
		Expect(wasme(ctx, "render")).To(Equal(result{Code: 2, ErrOut: "Error: there is no file: name one with -f, or the standard input with -f -\n"}))
	})

	It("prints what the operator makes", func(ctx context.Context) {
		Expect(controlPlane.InstallOperator(ctx)).To(Succeed())
		operator, err := controlPlane.StartOperator(ctx, mesh.OperatorOptions{Args: []string{"--watch-namespaces=" + namespace}})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(operator.Stop)
		createDeployment(ctx, namespace, "details", 0)
		file := write("fd.yaml", manifest, namespace, push(ctx, startRegistry(), "hello:v1", "one"), "world")
		var fd wasmev1.FilterDeployment
		Expect(yaml.Unmarshal([]byte(read(file)), &fd)).To(Succeed())
		Expect(user.Create(ctx, &fd)).To(Succeed())
		Eventually(func() bool {
			Expect(user.Get(ctx, client.ObjectKeyFromObject(&fd), &fd)).To(Succeed())
			return apimeta.IsStatusConditionTrue(fd.Status.Conditions, wasmev1.ConditionReady)
		}).WithTimeout(waiting).Should(BeTrue())
		var made networking.EnvoyFilterList
		Expect(user.List(ctx, &made, client.InNamespace(namespace))).To(Succeed())
		Expect(made.Items).To(HaveLen(1))
		got := wasme(ctx, "render", "-f", file, "--module-server-url", operator.ModuleServerURL)
		Expect(got.Code).To(BeZero(), got.ErrOut)
		rendered := objects(got.Out)[0]
		live, err := runtime.DefaultUnstructuredConverter.ToUnstructured(made.Items[0])
		Expect(err).NotTo(HaveOccurred())
		Expect(rendered.Object["spec"]).To(Equal(live["spec"]))
		Expect(rendered.GetLabels()).To(Equal(made.Items[0].Labels))
		Expect(rendered.GetOwnerReferences()).To(Equal(made.Items[0].OwnerReferences))
		notes := maps.Clone(made.Items[0].Annotations)
		maps.DeleteFunc(notes, func(key, value string) bool {
			return value == "" || key == "wasme.io/rendering" || key == "wasme.io/fetch"
		})
		Expect(rendered.GetAnnotations()).To(Equal(notes))
	})
})
