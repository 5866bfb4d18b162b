// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package dataplane holds internal/dataplane against real sidecars, without the
// operator.
package dataplane

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networkingv1alpha3 "istio.io/client-go/pkg/apis/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/workload"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
)

// drained is longer than a sidecar keeps a listener that was replaced: 45 s.
const drained = 90 * time.Second

var (
	theMesh *mesh.Mesh
	modules *filters.Server
	prober  *dataplane.Prober
	woken   = make(chan types.NamespacedName, 1000)
)

func TestDataplane(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Data plane")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	theMesh = meshtest.Start(ctx, "")
	modules = meshtest.StartModuleServer()
	prober = dataplane.New(func(owner types.NamespacedName) { woken <- owner })
	running, cancel := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- prober.Start(running) }()
	DeferCleanup(func() {
		cancel()
		Expect(<-stopped).To(Succeed())
	})
}, NodeTimeout(meshtest.StartTimeout))

var _ = Describe("What a sidecar is seen to run", func() {
	It("follows a filter from its first load over a change and another place to its end", func(ctx SpecContext) {
		app := run(ctx, "details-v1")
		greeting := hello(ctx, app, "greeting")
		_, first := greeting.render()
		greeting.expect(first)
		Eventually(woken).Should(Receive(Equal(greeting.owner)))
		Expect(greeting.verdict()).To(Equal(dataplane.Verdict{State: dataplane.StateNotLoaded}))

		greeting.apply(ctx)
		Eventually(woken).Should(Receive(Equal(greeting.owner)))
		Eventually(greeting.verdict).Should(Equal(loaded))

		By("changing the configuration: the former revision is gone at once")
		greeting.filter.Configuration = []byte("goodbye")
		second := greeting.apply(ctx)
		greeting.expect(second)
		Expect(greeting.verdict().State).To(Equal(dataplane.StateOtherRevision))
		Eventually(greeting.verdict).Should(Equal(loaded))
		greeting.expect(first)
		Consistently(greeting.verdict, time.Second).Should(Equal(dataplane.Verdict{State: dataplane.StateOtherRevision}))

		By("giving it another place: the former one drains")
		greeting.filter.FailStrategy = wasmev1.FailOpen
		third := greeting.apply(ctx)
		greeting.expect(third)
		Eventually(greeting.verdict).Should(Equal(dataplane.Verdict{State: dataplane.StateDraining}))

		By("deleting it: it drains, too")
		greeting.remove(ctx)
		Consistently(greeting.verdict, time.Second).Should(Equal(dataplane.Verdict{State: dataplane.StateDraining}))
		Eventually(greeting.verdict, drained).Should(Equal(dataplane.Verdict{State: dataplane.StateNotLoaded}))
	})

	It("is never what it refuses, and not even tried without a place", func(ctx SpecContext) {
		app := run(ctx, "productpage-v1")
		notLoaded := dataplane.Verdict{State: dataplane.StateNotLoaded, Fetch: dataplane.FetchClean}
		busy := HaveField("State", dataplane.StateUnreachable) // for one question
		nowhere := hello(ctx, app, "nowhere")
		nowhere.filter.Place.Position.Before = "envoy.filters.http.ext_authz"
		nowhere.target.Explain = true
		nowhere.expect(nowhere.apply(ctx))
		untried := notLoaded
		untried.Untried = true
		Eventually(nowhere.verdict).Should(Equal(untried))

		refused := hello(ctx, app, "refused")
		refused.filter.Configuration = []byte("refuse")
		refused.target.Explain = true
		refused.expect(refused.apply(ctx))
		Eventually(refused.undelivered).Should(Equal(notLoaded))
		meshtest.EventuallyIs(ctx, app, mesh.Answered(http.StatusForbidden))
		Consistently(refused.undelivered, 5*time.Second).Should(Or(Equal(notLoaded), busy))

		By("fixing it, and refusing another module")
		refused.filter.Configuration = nil
		refused.expect(refused.apply(ctx))
		Eventually(refused.verdict).Should(Equal(loaded))
		refused.filter.ModuleSHA256, refused.filter.Configuration = modules.Serve(meshtest.Build(ctx, filters.Trap)), []byte("refuse")
		refused.expect(refused.apply(ctx))
		former := dataplane.Verdict{State: dataplane.StateOtherRevision, Fetch: dataplane.FetchClean}
		Eventually(refused.undelivered).Should(Equal(former))
		Consistently(refused.undelivered, 5*time.Second).Should(Or(Equal(former), busy))
		notLoaded.Delivered = true // the other filters
		Eventually(nowhere.verdict).Should(Equal(notLoaded))
	})

	It("shows a filter that crashes, and a sidecar that is away", func(ctx SpecContext) {
		app := run(ctx, "reviews-v1")
		trap := hello(ctx, app, "trap")
		trap.filter.ModuleSHA256 = modules.Serve(meshtest.Build(ctx, filters.Trap))
		trap.expect(trap.apply(ctx))
		Eventually(trap.verdict).Should(Equal(loaded))

		Eventually(meshtest.Asking(ctx, app.URL, "x-crash", "yes")).Should(HaveField("Status", http.StatusServiceUnavailable))
		By("asking again: Envoy makes a new VM, and counts it, for the request after the crash")
		Eventually(meshtest.Asking(ctx, app.URL)).Should(HaveField("Status", http.StatusOK))
		Eventually(trap.verdict, 2*time.Minute).Should(Equal(dataplane.Verdict{State: dataplane.StateLoaded, Crashing: true}))

		Expect(app.StopSidecar()).To(Succeed())
		Eventually(trap.verdict, 2*time.Minute).
			Should(Equal(dataplane.Verdict{State: dataplane.StateUnreachable, Failure: dataplane.FailureRefused}))
		Expect(app.StartSidecar(ctx)).To(Succeed())
		Eventually(func() bool { return trap.verdict().Proven() }, 2*time.Minute).Should(BeTrue())
	})

	It("is read from its agent where Envoy's own port is shut", func(ctx SpecContext) {
		app := run(ctx, "details-v2")
		forwardStats(ctx, app)
		greeting := hello(ctx, app, "greeting")
		greeting.target.Explain, greeting.target.Pod.StatsPort = true, 1 // where nothing listens
		_, plugin := greeting.render()
		greeting.expect(plugin)
		Eventually(greeting.verdict).Should(Equal(dataplane.Verdict{State: dataplane.StateNotLoaded, Fetch: dataplane.FetchClean, Untried: true}))
		greeting.apply(ctx)
		Eventually(greeting.verdict).Should(Equal(loaded))
		greeting.remove(ctx)
		Eventually(greeting.verdict, drained).Should(Equal(dataplane.Verdict{State: dataplane.StateNotLoaded, Fetch: dataplane.FetchClean, Delivered: true}))
	})

	It("proves a WasmPlugin by its name", func(ctx SpecContext) {
		app := run(ctx, "ratings-v1")
		plugin := hello(ctx, app, "wasm.plugin")
		plugin.expect(app.Workload.Namespace + "." + plugin.owner.Name)
		object := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "extensions.istio.io/v1alpha1", "kind": "WasmPlugin",
			"metadata": map[string]any{"namespace": plugin.owner.Namespace, "name": plugin.owner.Name},
			"spec": map[string]any{
				"selector": map[string]any{"matchLabels": map[string]any{"app": "ratings-v1"}},
				"url":      modules.URL + module.Path(modules.Serve(meshtest.Build(ctx, filters.Hello))), "pluginName": filters.RootID,
			},
		}}
		Expect(theMesh.Client().Create(ctx, object)).To(Succeed())
		Eventually(plugin.verdict).Should(Equal(loaded))
	})
})

var loaded = dataplane.Verdict{State: dataplane.StateLoaded}

// run starts a workload that ends with the spec.
func run(ctx context.Context, name string) *mesh.Running {
	GinkgoHelper()
	return meshtest.Run(ctx, theMesh, mesh.Workload{
		Namespace: "bookinfo", Name: name, Labels: map[string]string{"app": name}, Port: 9080, AgentMetrics: true,
	})
}

// forwardStats leads from where pilot-agent asks its Envoy, which is localhost, to
// where that is in the mesh: at the pod's own address.
func forwardStats(ctx context.Context, app *mesh.Running) {
	GinkgoHelper()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", dataplane.DefaultStatsPort))
	Expect(err).NotTo(HaveOccurred())
	target, err := url.Parse(app.StatsURL)
	Expect(err).NotTo(HaveOccurred())
	target.Path = ""
	server := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(target))
	Expect(server.Listener.Close()).To(Succeed())
	server.Listener = listener
	server.Start()
	DeferCleanup(server.Close)
}

// filter is one on one workload, with the pod's address as the API server tells it.
type filter struct {
	owner  types.NamespacedName
	app    *mesh.Running
	filter render.Filter
	target dataplane.Expectation
}

func hello(ctx context.Context, app *mesh.Running, name string) *filter {
	GinkgoHelper()
	var pod corev1.Pod
	Expect(theMesh.Client().Get(ctx, client.ObjectKey{Namespace: app.Workload.Namespace, Name: app.Pod}, &pod)).To(Succeed())
	f := &filter{
		owner:  types.NamespacedName{Namespace: app.Workload.Namespace, Name: name},
		app:    app,
		target: dataplane.Expectation{Pod: workload.SidecarAddress(&pod)},
		filter: render.Filter{
			ID: name, ModuleSHA256: modules.Serve(meshtest.Build(ctx, filters.Hello)), RootID: filters.RootID, Configuration: []byte("world"),
			PatchContext: wasmev1.PatchContextInbound, FailStrategy: wasmev1.FailReload,
		},
	}
	DeferCleanup(func() { prober.Expect(f.owner, nil) })
	return f
}

// expect has the prober look for a plugin.
func (f *filter) expect(plugin string) {
	f.target.Plugin = plugin
	prober.Expect(f.owner, []dataplane.Expectation{f.target})
}

func (f *filter) verdict() dataplane.Verdict {
	return prober.Expect(f.owner, []dataplane.Expectation{f.target})[0]
}

// undelivered is the verdict without what depends on the moment of the first question.
func (f *filter) undelivered() dataplane.Verdict {
	verdict := f.verdict()
	verdict.Delivered = false
	return verdict
}

// render returns the filter's EnvoyFilter and the name of its plugin.
func (f *filter) render() (*networkingv1alpha3.EnvoyFilter, string) {
	GinkgoHelper()
	w := f.app.Workload
	spec, err := render.EnvoyFilter(
		render.Mesh{ClusterID: mesh.ClusterID, RootNamespace: mesh.RootNamespace, ModuleServerURL: modules.URL},
		f.owner, f.filter,
		workload.Target{Kind: string(w.Kind), Namespace: w.Namespace, Name: w.Name, Selector: w.Labels}, "",
	)
	Expect(err).NotTo(HaveOccurred())
	object := &networkingv1alpha3.EnvoyFilter{}
	object.Namespace, object.Name = f.owner.Namespace, f.owner.Name
	spec.DeepCopyInto(&object.Spec)
	extension := spec.ConfigPatches[0].Patch.Value.AsMap()["typed_config"].(map[string]any)
	return object, extension["config"].(map[string]any)["name"].(string)
}

// apply writes the filter's EnvoyFilter and returns the name of its plugin.
func (f *filter) apply(ctx context.Context) string {
	GinkgoHelper()
	object, plugin := f.render()
	meshtest.Apply(ctx, theMesh.Client(), object)
	return plugin
}

func (f *filter) remove(ctx context.Context) {
	GinkgoHelper()
	object := &networkingv1alpha3.EnvoyFilter{}
	object.Namespace, object.Name = f.owner.Namespace, f.owner.Name
	Expect(theMesh.Client().Delete(ctx, object)).To(Succeed())
}
