package outputs

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/workload"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

var all = []wasmev1.Output{wasmev1.OutputEnvoyFilter, wasmev1.OutputWasmPlugin, wasmev1.OutputTrafficExtension}

// each is a table with a row for each output.
func each(text string, body func(SpecContext, wasmev1.Output)) {
	var rows []any
	for _, output := range all {
		rows = append(rows, Entry(nil, output))
	}
	DescribeTable(text, append([]any{body}, rows...)...)
}

func object(text string) *wasmev1.Configuration {
	return &wasmev1.Configuration{Raw: json.RawMessage(text)}
}

// named is a configuration by which a filter's header can be told from others'.
func named(name string) (*wasmev1.Configuration, string) {
	text := fmt.Sprintf(`{"name":%q}`, name)
	return object(text), text
}

var _ = Describe("Every output", func() {
	each("adds the header, and takes it away when it is deleted", func(ctx SpecContext, output wasmev1.Output) {
		app := meshtest.Run(ctx, theMesh, sidecar())
		d := deployment{name: "hello", output: output, module: served(ctx, filters.Hello), target: target(app)}
		d.apply(ctx)
		meshtest.EventuallyAnswers(ctx, app, "world")
		Expect(admin.Delete(ctx, d.object())).To(Succeed())
		meshtest.EventuallyAnswers(ctx, app)
	})

	each("gives the module the same configuration", func(ctx SpecContext, output wasmev1.Output) {
		app := meshtest.Run(ctx, theMesh, sidecar())
		const config = `{"a":null,"b":[1,-2.5e-7,"<&>ü\"",{"c":{}}],"d":9007199254740992,"e":true}`
		d := deployment{name: "hello", output: output, module: served(ctx, filters.Hello), target: target(app)}
		d.spec.Config = object(config)
		d.apply(ctx)
		Eventually(func() string {
			if got := mesh.Ask(ctx, app.URL); len(got.Hello) == 1 {
				return got.Hello[0]
			}
			return "{}"
		}).Should(MatchJSON(config))
	})

	each("filters outbound traffic only, where that is asked for", func(ctx SpecContext, output wasmev1.Output) {
		app := meshtest.Run(ctx, theMesh, sidecar())
		d := deployment{name: "hello", output: output, module: served(ctx, filters.Hello), target: target(app)}
		d.spec.PatchContext = wasmev1.PatchContextOutbound
		d.apply(ctx)
		Eventually(meshtest.Asking(ctx, app.OutboundURL, "Host", mesh.OutboundHost)).Should(Equal(mesh.Answered(http.StatusOK, "world")))
		Expect(mesh.Ask(ctx, app.URL)).To(Equal(mesh.Answered(http.StatusOK)))
	})

	each("filters a gateway by its labels", func(ctx SpecContext, output wasmev1.Output) {
		w := sidecar()
		w.Gateway, w.Labels = true, map[string]string{"istio": "ingressgateway"}
		gateway := meshtest.Run(ctx, theMesh, w)
		d := deployment{name: "hello", output: output, module: served(ctx, filters.Hello), target: target(gateway)}
		d.spec.PatchContext = wasmev1.PatchContextGateway
		d.apply(ctx)
		meshtest.EventuallyAnswers(ctx, gateway, "world")
	})

	each("filters a gateway by its Gateway", func(ctx SpecContext, output wasmev1.Output) {
		w := sidecar()
		w.Gateway, w.Labels = true, map[string]string{"gateway.networking.k8s.io/gateway-name": "shop"}
		gateway := meshtest.Run(ctx, theMesh, w)
		shop := workload.Target{Kind: wasmev1.TargetKindGateway, Namespace: w.Namespace, Name: "shop"}
		d := deployment{name: "hello", output: output, module: served(ctx, filters.Hello), target: shop}
		d.spec.PatchContext = wasmev1.PatchContextGateway
		d.spec.Ports = []int32{int32(w.Port)}
		d.apply(ctx)
		meshtest.EventuallyAnswers(ctx, gateway, "world")
	})

	each("runs filters in the order of their priorities", func(ctx SpecContext, output wasmev1.Output) {
		app := meshtest.Run(ctx, theMesh, sidecar())
		module := served(ctx, filters.Hello)
		var want []string
		// The header that comes first is of the filter that runs last.
		for _, f := range []struct {
			name     string
			priority int32
		}{{"m", -5}, {"a", 0}, {"z", 7}} {
			config, text := named(f.name)
			want = append(want, text)
			deployment{name: f.name, output: output, module: module, target: target(app), spec: wasmev1.FilterSpec{Config: config, Priority: &f.priority}}.apply(ctx)
		}
		meshtest.EventuallyAnswers(ctx, app, want...)
	})

	each("runs filters of one priority in the order of their objects' ages, whatever changes in them", func(ctx SpecContext, output wasmev1.Output) {
		app := meshtest.Run(ctx, theMesh, sidecar())
		module := served(ctx, filters.Hello)
		var applied []deployment
		for _, name := range []string{"m", "z", "a"} {
			config, _ := named(name)
			d := deployment{name: name, output: output, module: module, target: target(app), spec: wasmev1.FilterSpec{Config: config}}
			d.apply(ctx)
			applied = append(applied, d)
		}
		// What is created within one second goes by the names.
		age := func(d deployment) (int64, string) {
			object := d.object()
			Expect(admin.Get(ctx, client.ObjectKeyFromObject(object), object)).To(Succeed())
			return object.GetCreationTimestamp().Unix(), object.GetName()
		}
		slices.SortFunc(applied, func(a, b deployment) int {
			ageA, nameA := age(a)
			ageB, nameB := age(b)
			return cmp.Or(cmp.Compare(ageB, ageA), cmp.Compare(nameB, nameA))
		})
		var want []string
		for _, d := range applied { // the youngest runs last, and its header comes first
			_, text := named(d.name)
			want = append(want, text)
		}
		meshtest.EventuallyAnswers(ctx, app, want...)

		oldest := len(applied) - 1
		applied[oldest].spec.Config, want[oldest] = named("changed")
		applied[oldest].apply(ctx)
		meshtest.EventuallyAnswers(ctx, app, want...)
	})

	each("runs two filters of one id on one workload, and keeps one without the other", func(ctx SpecContext, output wasmev1.Output) {
		app := meshtest.Run(ctx, theMesh, sidecar())
		module := served(ctx, filters.Hello)
		holder, holds := named("holder")
		other, says := named("other")
		first := deployment{name: "holder", output: output, module: module, target: target(app), spec: wasmev1.FilterSpec{ID: "same", Config: holder, Priority: new(int32(1))}}
		second := deployment{name: "other", output: output, module: module, target: target(app), hashed: true, spec: wasmev1.FilterSpec{ID: "same", Config: other}}
		first.apply(ctx)
		second.apply(ctx)
		meshtest.EventuallyAnswers(ctx, app, says, holds)
		Expect(admin.Delete(ctx, first.object())).To(Succeed())
		meshtest.EventuallyAnswers(ctx, app, says)
	})

	each("is hidden from istiod by the label of another revision, and not without one", func(ctx SpecContext, output wasmev1.Output) {
		app := meshtest.Run(ctx, theMesh, sidecar())
		d := deployment{name: "hello", output: output, module: served(ctx, filters.Hello), target: target(app)}
		d.apply(ctx)
		meshtest.EventuallyAnswers(ctx, app, "world")
		labelled := func(value string) {
			GinkgoHelper()
			patch := fmt.Sprintf(`{"metadata":{"labels":{"istio.io/rev":%s}}}`, value)
			Expect(admin.Patch(ctx, d.object(), client.RawPatch(types.MergePatchType, []byte(patch)))).To(Succeed())
		}
		labelled(`"canary"`)
		meshtest.EventuallyAnswers(ctx, app)
		labelled(`"` + mesh.Revision + `"`)
		meshtest.EventuallyAnswers(ctx, app, "world")
		labelled(`"canary"`)
		meshtest.EventuallyAnswers(ctx, app)
		labelled("null")
		meshtest.EventuallyAnswers(ctx, app, "world")
	})

	each("limits a filter to ports", func(ctx SpecContext, output wasmev1.Output) {
		app := meshtest.Run(ctx, theMesh, sidecar())
		module := served(ctx, filters.Hello)
		here, text := named("here")
		elsewhere, _ := named("elsewhere")
		other := int32(app.Workload.Port + 1)
		// What is created later is there no earlier.
		deployment{name: "elsewhere", output: output, module: module, target: target(app), spec: wasmev1.FilterSpec{Config: elsewhere, Ports: []int32{other}}}.apply(ctx)
		deployment{name: "here", output: output, module: module, target: target(app), spec: wasmev1.FilterSpec{Config: here, Ports: []int32{other, int32(app.Workload.Port)}}}.apply(ctx)
		meshtest.EventuallyAnswers(ctx, app, text)
	})

	each("limits a filter to ports of outbound traffic", func(ctx SpecContext, output wasmev1.Output) {
		app := meshtest.Run(ctx, theMesh, sidecar())
		module := served(ctx, filters.Hello)
		here, text := named("here")
		elsewhere, _ := named("elsewhere")
		spec := func(config *wasmev1.Configuration, port int32) wasmev1.FilterSpec {
			return wasmev1.FilterSpec{Config: config, Ports: []int32{port}, PatchContext: wasmev1.PatchContextOutbound}
		}
		deployment{name: "elsewhere", output: output, module: module, target: target(app), spec: spec(elsewhere, mesh.OutboundPort+1)}.apply(ctx)
		deployment{name: "here", output: output, module: module, target: target(app), spec: spec(here, mesh.OutboundPort)}.apply(ctx)
		Eventually(meshtest.Asking(ctx, app.OutboundURL, "Host", mesh.OutboundHost)).Should(Equal(mesh.Answered(http.StatusOK, text)))
	})

	each("gives the module its variables, its proxy's own among them", func(ctx SpecContext, output wasmev1.Output) {
		app := meshtest.Run(ctx, theMesh, sidecar())
		d := deployment{name: "environ", output: output, module: served(ctx, filters.Environ), target: target(app)}
		d.spec.VM = &wasmev1.VMSpec{Env: []wasmev1.EnvVar{
			{Name: "POD_NAME", ValueFrom: &wasmev1.EnvVarSource{Host: &wasmev1.HostVariable{}}},
			{Name: "COLOUR", Value: new("blue and green")},
			{Name: "EMPTY", Value: new("")},
			{Name: "NOT_THERE", ValueFrom: &wasmev1.EnvVarSource{Host: &wasmev1.HostVariable{}}},
		}}
		d.renewal = "1"
		d.apply(ctx)
		meshtest.EventuallyAnswers(ctx, app, "COLOUR=blue and green EMPTY= POD_NAME="+app.Pod)
	})

	each("lets proxies pull the image themselves", func(ctx SpecContext, output wasmev1.Output) {
		app := meshtest.Run(ctx, theMesh, sidecar())
		content := meshtest.Build(ctx, filters.Hello)
		status := resolved(content)
		image, err := registry.Image(registry.CompatOCI, registry.Module{Bytes: content})
		Expect(err).NotTo(HaveOccurred())
		reference := fmt.Sprintf("%s/outputs/%s:v1", theMesh.Registry(), strings.ToLower(string(output)))
		Expect(registry.Push(ctx, reference, registry.Index(image))).To(Succeed())
		status.ManifestDigest, err = registry.Digest(image)
		Expect(err).NotTo(HaveOccurred())
		d := deployment{name: "hello", output: output, module: status, target: target(app), distribution: wasmev1.DistributionRegistry}
		d.spec.Image = reference
		d.apply(ctx)
		meshtest.EventuallyAnswers(ctx, app, "world")
	})
})

var _ = Describe("An EnvoyFilter", func() {
	It("stands where its position says", func(ctx SpecContext) {
		app := meshtest.Run(ctx, theMesh, sidecar())
		module := served(ctx, filters.Hello)
		var want []string
		for _, p := range []struct {
			name     string
			position *wasmev1.Position
			priority int32
		}{
			{"last", nil, 0},
			{"after", &wasmev1.Position{After: "envoy.filters.http.cors"}, 0},
			{"after-earlier", &wasmev1.Position{After: "envoy.filters.http.cors"}, 3},
			{"before", &wasmev1.Position{Before: "envoy.filters.http.fault"}, 0},
			{"before-earlier", &wasmev1.Position{Before: "envoy.filters.http.fault"}, 3},
			{"first", &wasmev1.Position{First: true}, 0},
			{"first-of-all", &wasmev1.Position{First: true}, 3},
		} {
			config, text := named(p.name)
			want = append(want, text)
			spec := wasmev1.FilterSpec{Config: config, Position: p.position, Priority: &p.priority}
			deployment{name: p.name, output: wasmev1.OutputEnvoyFilter, module: module, target: target(app), spec: spec}.apply(ctx)
		}
		meshtest.EventuallyAnswers(ctx, app, want...)

		names, err := httpFilters(ctx, app)()
		Expect(err).NotTo(HaveOccurred())
		for i, name := range names {
			// <namespace>/<deployment>/…
			if parts := strings.Split(name, "/"); len(parts) > 1 {
				names[i] = parts[1]
			}
		}
		Expect(names[:2]).To(Equal([]string{"first-of-all", "first"}))
		fault, cors := slices.Index(names, "envoy.filters.http.fault"), slices.Index(names, "envoy.filters.http.cors")
		Expect(names[fault-2 : fault]).To(Equal([]string{"before-earlier", "before"}))
		Expect(names[cors+1 : cors+3]).To(Equal([]string{"after-earlier", "after"}))
		Expect(names[len(names)-2:]).To(Equal([]string{"last", "envoy.filters.http.router"}))
	})

	It("makes an agent fetch a module again that it could not fetch", func(ctx SpecContext) {
		app := meshtest.Run(ctx, theMesh, sidecar())
		status := resolved(meshtest.Build(ctx, filters.Trap)) // which no other spec serves
		d := deployment{name: "hello", output: wasmev1.OutputEnvoyFilter, module: status, target: target(app)}
		d.apply(ctx)
		meshtest.EventuallyIs(ctx, app, mesh.Answered(http.StatusForbidden))

		modules.Serve(meshtest.Build(ctx, filters.Trap))
		d.renewal = "1"
		d.apply(ctx)
		meshtest.EventuallyAnswers(ctx, app, "world")
	})

	It("leaves another workload with the same labels alone", func(ctx SpecContext) {
		app := meshtest.Run(ctx, theMesh, sidecar())
		other := app.Workload
		other.Name = "details-v2"
		neighbour := meshtest.Run(ctx, theMesh, other)
		deployment{name: "hello", output: wasmev1.OutputEnvoyFilter, module: served(ctx, filters.Hello), target: target(app)}.apply(ctx)
		meshtest.EventuallyAnswers(ctx, app, "world")
		Expect(mesh.Ask(ctx, neighbour.URL)).To(Equal(mesh.Answered(http.StatusOK)))
	})
})

var _ = DescribeTable("With the labels of a workload's pods",
	func(ctx SpecContext, key, value string) {
		app := meshtest.Run(ctx, theMesh, sidecar())
		w := app.Workload
		w.Name = "elsewhere"
		w.Metadata = map[string]string{"OWNER": "kubernetes://apis/apps/v1/namespaces/" + w.Namespace + "/deployments/" + app.Workload.Name}
		w.Metadata[key] = value
		elsewhere := meshtest.Run(ctx, theMesh, w)
		module := served(ctx, filters.Hello)
		deployment{name: "bound", output: wasmev1.OutputEnvoyFilter, module: module, target: target(app)}.apply(ctx)
		meshtest.EventuallyAnswers(ctx, app, "world")
		Expect(mesh.Ask(ctx, elsewhere.URL)).To(Equal(mesh.Answered(http.StatusOK)), "an EnvoyFilter leaves it alone")
		deployment{name: "unbound", output: wasmev1.OutputWasmPlugin, module: module, target: target(app)}.apply(ctx)
		meshtest.EventuallyAnswers(ctx, elsewhere, "world")
	},
	Entry("a virtual machine gets WasmPlugins only", "OWNER", ""),
	Entry("another cluster's workload of the same name gets WasmPlugins only", "CLUSTER_ID", "east"),
)

var _ = Describe("A WasmPlugin or TrafficExtension", func() {
	DescribeTable("reaches a workload with more labels, twice where that has its own", func(ctx SpecContext, output wasmev1.Output) {
		app := meshtest.Run(ctx, theMesh, sidecar())
		w := app.Workload
		w.Name, w.Labels = "details-canary", map[string]string{"app": "details", "track": "canary"}
		canary := meshtest.Run(ctx, theMesh, w)
		module := served(ctx, filters.Hello)
		deployment{name: "hello", output: output, module: module, target: target(app)}.apply(ctx)
		meshtest.EventuallyAnswers(ctx, app, "world")
		meshtest.EventuallyAnswers(ctx, canary, "world")
		deployment{name: "hello", output: output, module: module, target: target(canary)}.apply(ctx)
		meshtest.EventuallyAnswers(ctx, canary, "world", "world")
		Expect(mesh.Ask(ctx, app.URL)).To(Equal(mesh.Answered(http.StatusOK, "world")))
	},
		Entry(nil, wasmev1.OutputWasmPlugin), Entry(nil, wasmev1.OutputTrafficExtension),
	)

	DescribeTable("runs earlier the earlier its phase is", func(ctx SpecContext, output wasmev1.Output) {
		app := meshtest.Run(ctx, theMesh, sidecar())
		module := served(ctx, filters.Hello)
		var want []string
		for _, phase := range []wasmev1.Phase{"", wasmev1.PhaseStats, wasmev1.PhaseAuthz, wasmev1.PhaseAuthn} {
			config, text := named("in-" + string(phase))
			want = append(want, text)
			spec := wasmev1.FilterSpec{Config: config}
			if phase != "" {
				spec.Position = &wasmev1.Position{Phase: phase}
			}
			deployment{name: "in-" + strings.ToLower(string(phase)) + "x", output: output, module: module, target: target(app), spec: spec}.apply(ctx)
		}
		meshtest.EventuallyAnswers(ctx, app, want...)
	},
		Entry(nil, wasmev1.OutputWasmPlugin), Entry(nil, wasmev1.OutputTrafficExtension),
	)
})

// Istio's CRDs have rules that its validation does not know.
var _ = It("is accepted by the API server, golden by golden", func(ctx SpecContext) {
	Expect(admin.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "bookinfo"}})).To(Succeed())
	paths, err := filepath.Glob("../../internal/render/testdata/*.out.yaml")
	Expect(err).NotTo(HaveOccurred())
	Expect(paths).NotTo(BeEmpty())
	strict := client.WithFieldValidation(admin, metav1.FieldValidationStrict)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		Expect(err).NotTo(HaveOccurred())
		var object unstructured.Unstructured
		Expect(yaml.Unmarshal(text, &object.Object)).To(Succeed())
		Expect(strict.Create(ctx, &object, client.DryRunAll)).To(Succeed(), path)
	}
})
