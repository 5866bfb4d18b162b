package e2e

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	extensions "istio.io/client-go/pkg/apis/extensions/v1alpha1"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli"
	"github.com/wasme-io/wasme-operator/internal/cli/migrate"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
	"github.com/wasme-io/wasme-operator/test/predecessor"
)

// migrateIn runs wasme migrate in a namespace and returns its exit code and what it said.
func migrateIn(ctx context.Context, namespace string, args ...string) (int, string) {
	var said bytes.Buffer
	args = append([]string{"migrate", "-n", namespace}, args...)
	code := cli.Run(ctx, args, genericiooptions.IOStreams{In: strings.NewReader(""), Out: &said, ErrOut: &said})
	GinkgoWriter.Println(said.String())
	return code, said.String()
}

// handwritten creates an object with the YAML of its spec.
func handwritten(ctx context.Context, object client.Object, spec any, format string, args ...any) {
	GinkgoHelper()
	Expect(yaml.Unmarshal(fmt.Appendf(nil, format, args...), spec)).To(Succeed())
	Expect(admin.Create(ctx, object)).To(Succeed())
}

// handwrittenFilter is an EnvoyFilter as people write one, whose agents fetch the module.
const handwrittenFilter = `
workloadSelector: {labels: {app: %[1]s}}
configPatches:
- applyTo: EXTENSION_CONFIG
  patch:
    operation: ADD
    value:
      name: by-hand
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
        config:
          name: by-hand
          root_id: %[2]s
          configuration: {'@type': type.googleapis.com/google.protobuf.StringValue, value: by hand}
          vm_config:
            vm_id: by-hand
            runtime: envoy.wasm.runtime.v8
            code: {remote: {sha256: %[4]s, http_uri: {uri: %[3]s/%[4]s.wasm, timeout: 20s, cluster: _}}}
- applyTo: HTTP_FILTER
  match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}}}}
  patch:
    operation: INSERT_BEFORE
    value:
      name: by-hand
      config_discovery:
        config_source: {ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3}
        type_urls: [type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm]
`

// replacing matches a FilterDeployment that replaces an object, with an output.
func replacing(object string, output wasmev1.Output) OmegaMatcher {
	return And(HaveField("Annotations", HaveKeyWithValue(migrate.ReplacesAnnotation, object)), HaveField("Spec.Deployment.Istio.Output", output))
}

var _ = Describe("wasme migrate", Serial, func() {
	var namespace string
	var modules *filters.Server
	BeforeEach(func(ctx SpecContext) {
		GinkgoT().Setenv("DOCKER_CONFIG", GinkgoT().TempDir())
		GinkgoT().Setenv("KUBECONFIG", theMesh.Kubeconfig())
		namespace, modules = newNamespace(ctx), meshtest.StartModuleServer()
	})

	It("replaces what was written by hand, and loses no request", func(ctx SpecContext) {
		module := meshtest.Build(ctx, filters.Hello)
		digest := modules.Serve(module)
		pods := map[string]*mesh.Running{}
		for _, app := range []string{"plugin", "second", "alone", "filter"} {
			w := workload(namespace, app, map[string]string{"app": app})
			if app == "second" { // the WasmPlugin reaches it, too
				w.Labels = map[string]string{"app": "plugin", "version": "v2"}
			}
			pods[app] = run(ctx, w)
		}
		plugins := map[string]*extensions.WasmPlugin{}
		for _, app := range []string{"plugin", "alone"} {
			plugin := &extensions.WasmPlugin{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: app}}
			handwritten(ctx, plugin, &plugin.Spec, `{selector: {matchLabels: {app: %s}}, url: '%s/%s.wasm', sha256: %s, pluginName: %s, pluginConfig: {by: %s}, match: [{mode: SERVER}]}`,
				app, modules.URL, digest, digest, filters.RootID, app)
			plugins[app] = plugin
		}
		filter := &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "filter"}}
		handwritten(ctx, filter, &filter.Spec, handwrittenFilter, "filter", filters.RootID, modules.URL, digest)
		want := map[string]string{"plugin": `{"by":"plugin"}`, "second": `{"by":"plugin"}`, "alone": `{"by":"alone"}`, "filter": "by hand"}
		streams := map[string]*stream{}
		for app, hello := range want {
			meshtest.EventuallyAnswers(ctx, pods[app], hello)
			streams[app] = startStream(ctx, pods[app].URL)
		}
		code, said := migrateIn(ctx, namespace, "--apply")
		Expect(code).To(BeZero(), said)
		for app, hello := range want {
			meshtest.EventuallyAnswers(ctx, pods[app], hello)
			streams[app].answersNothingElse()
		}

		By("leaving nothing of it")
		for _, object := range []client.Object{plugins["plugin"], plugins["alone"], filter} {
			Expect(admin.Get(ctx, client.ObjectKeyFromObject(object), object)).NotTo(Succeed())
		}
		var fds wasmev1.FilterDeploymentList
		Expect(admin.List(ctx, &fds, client.InNamespace(namespace))).To(Succeed())
		Expect(fds.Items).To(ConsistOf(
			replacing("WasmPlugin/plugin", ""), // WasmPlugins could not tell its two workloads apart
			replacing("WasmPlugin/alone", wasmev1.OutputWasmPlugin),
			replacing("EnvoyFilter/filter", ""),
		))
		_, said = migrateIn(ctx, namespace)
		Expect(said).To(Equal("There is nothing to migrate.\n"))
	})

	It("has what wasme 0.0.33 left run again, if the image has the module", func(ctx SpecContext) {
		pod := run(ctx, workload(namespace, "greeted", map[string]string{"app": "greeted"}))
		digest := filters.SHA256(meshtest.Build(ctx, filters.Hello))
		left := &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "greeted-greeting"}}
		made := predecessor.Filter{ID: "greeting", RootID: filters.RootID, Configuration: "by wasme", App: "greeted", SHA256: digest}
		handwritten(ctx, left, &left.Spec, "%s", made.EnvoyFilter())
		apply := func(filter string) (int, string) {
			return migrateIn(ctx, namespace, "--apply", "--plain-http", "--image", "greeting="+push(ctx, filter))
		}

		By("naming an image with another module")
		code, said := apply(filters.Trap)
		Expect(code).To(Equal(3))
		Expect(said).To(ContainSubstring("stays as it is: the module does not have the digest in spec.filter.sha256"))
		Expect(admin.Get(ctx, client.ObjectKeyFromObject(left), left)).To(Succeed())
		var fds wasmev1.FilterDeploymentList
		Expect(admin.List(ctx, &fds, client.InNamespace(namespace))).To(Succeed())
		Expect(fds.Items).To(BeEmpty())

		By("naming the image")
		code, said = apply(filters.Hello)
		Expect(code).To(BeZero(), said)
		meshtest.EventuallyAnswers(ctx, pod, "by wasme")
		Expect(admin.Get(ctx, client.ObjectKeyFromObject(left), left)).NotTo(Succeed())
	})
})
