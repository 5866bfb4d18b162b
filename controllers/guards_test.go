package controllers

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/outputkinds"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// extensionKinds are the kinds of outputs that an older Istio may lack.
var extensionKinds = []wasmev1.Output{wasmev1.OutputWasmPlugin, wasmev1.OutputTrafficExtension}

func crdOf(kind wasmev1.Output) *apiextensionsv1.CustomResourceDefinition {
	return &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: istio.Kinds[kind].Resource + "." + istio.Kinds[kind].Group}}
}

var _ = Describe("Someone's label istio.io/rev on an output", func() {
	It("is kept and told of, with one event", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a", "b")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		for _, name := range []string{"a-f", "b-f"} {
			Expect(w.output(ctx, name).Labels).NotTo(HaveKey("istio.io/rev"))
			edit(ctx, w.output(ctx, name), func(f *networking.EnvoyFilter) { f.Labels["istio.io/rev"] = "canary" })
		}
		w.written()
		for range 3 {
			Expect(w.settle(ctx, fd)).To(Succeed())
		}
		Expect(w.written()).To(ConsistOf("patch status of FilterDeployment f"))
		Expect(fd).To(And(
			haveCondition(wasmev1.ConditionContested, metav1.ConditionTrue, wasmev1.ReasonRevisionLabel,
				"EnvoyFilter a-f (and 1 more outputs) has the label istio.io/rev=canary", "no istiod of another revision reads it",
				"kubectl label envoyfilters.networking.istio.io a-f -n "+w.namespace+" istio.io/rev-"),
			haveCondition(wasmev1.ConditionReady, metav1.ConditionTrue, wasmev1.ReasonReady),
		))
		Eventually(ctx, func() []string { return w.notes(ctx, fd, wasmev1.ReasonRevisionLabel) }).WithTimeout(bound).Should(ConsistOf(HavePrefix("Warning: ")))
		Expect(w.output(ctx, "a-f").Labels).To(HaveKeyWithValue("istio.io/rev", "canary"))

		for _, name := range []string{"a-f", "b-f"} {
			edit(ctx, w.output(ctx, name), func(f *networking.EnvoyFilter) { delete(f.Labels, "istio.io/rev") })
		}
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("2/2"))
	})
})

var _ = Describe("The WasmPlugin of an older Istio", Serial, func() {
	DescribeTable("is refused with what that Istio does not know, and made when it does",
		func(ctx context.Context, change func(apiextensionsv1.JSONSchemaProps) apiextensionsv1.JSONSchemaProps, texts ...string) {
			w := newWorld(ctx)
			w.deployments(ctx, "a")
			crd := crdOf(wasmev1.OutputWasmPlugin)
			Expect(user.Get(ctx, client.ObjectKeyFromObject(crd), crd)).To(Succeed())
			today := crd.DeepCopy().Spec
			restore := func(ctx context.Context) {
				edit(ctx, crd, func(c *apiextensionsv1.CustomResourceDefinition) { c.Spec = *today.DeepCopy() })
			}
			DeferCleanup(restore)
			edit(ctx, crd, func(c *apiextensionsv1.CustomResourceDefinition) {
				for i := range c.Spec.Versions {
					fields := c.Spec.Versions[i].Schema.OpenAPIV3Schema.Properties
					fields["spec"] = change(fields["spec"])
				}
			})
			refuses := func() error {
				probe := istio.Kinds[wasmev1.OutputWasmPlugin].New()
				probe.SetNamespace(w.namespace)
				probe.SetName("probe")
				probe.Content().Raw = []byte(`{"url":"http://modules/x.wasm","failStrategy":"FAIL_RELOAD"}`)
				return live.Create(ctx, probe, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))
			}
			Eventually(ctx, refuses).WithTimeout(bound).ShouldNot(Succeed())

			fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), objectConfig, output(wasmev1.OutputWasmPlugin))
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(notReady(wasmev1.ReasonOutputRefused, append(texts, "WasmPlugin a-f", "this Istio is too old for a field")...))
			Expect(w.made(ctx)).To(BeEmpty())

			restore(ctx)
			Eventually(ctx, refuses).WithTimeout(bound).Should(Succeed())
			w.clock.Step(time.Second)
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(beReady("1/1"))
		},
		Entry("a field", func(spec apiextensionsv1.JSONSchemaProps) apiextensionsv1.JSONSchemaProps {
			delete(spec.Properties, "failStrategy")
			return spec
		}, `unknown field "spec.failStrategy"`),
		Entry("a value", func(spec apiextensionsv1.JSONSchemaProps) apiextensionsv1.JSONSchemaProps {
			strategies := spec.Properties["failStrategy"]
			strategies.Enum = slices.DeleteFunc(strategies.Enum, func(value apiextensionsv1.JSON) bool { return string(value.Raw) == `"FAIL_RELOAD"` })
			spec.Properties["failStrategy"] = strategies
			return spec
		}, "spec.failStrategy", `"FAIL_RELOAD"`),
	)
})

var _ = Describe("The manager, of WasmPlugin and TrafficExtension", Serial, Ordered, func() {
	var w *world
	var kinds outputkinds.Kinds
	fds := map[wasmev1.Output]*wasmev1.FilterDeployment{}
	removeCRDs := func(ctx context.Context) {
		GinkgoHelper()
		for _, kind := range extensionKinds {
			Expect(user.Delete(ctx, crdOf(kind))).To(Succeed())
			Eventually(ctx, func() bool {
				return apierrors.IsNotFound(user.Get(ctx, client.ObjectKeyFromObject(crdOf(kind)), crdOf(kind)))
			}).WithTimeout(patience).Should(BeTrue())
		}
	}
	installCRDs := func() {
		GinkgoHelper()
		Expect(controlPlane.InstallCRDs(istioCRDs)).To(Succeed())
	}
	noticed := func(ctx context.Context, state outputkinds.State) {
		GinkgoHelper()
		for _, kind := range extensionKinds {
			Eventually(ctx, func() (outputkinds.State, error) {
				err := kinds[kind].Check(ctx)
				return kinds[kind].State(), err
			}).WithTimeout(patience).Should(Equal(state), string(kind))
		}
	}
	eventually := func(ctx context.Context, kind wasmev1.Output) AsyncAssertion {
		GinkgoHelper()
		return Eventually(ctx, func() *wasmev1.FilterDeployment {
			Expect(user.Get(ctx, client.ObjectKeyFromObject(fds[kind]), fds[kind])).To(Succeed())
			return fds[kind]
		}).WithTimeout(patience)
	}
	missing := func(ctx context.Context) {
		GinkgoHelper()
		for _, kind := range extensionKinds {
			eventually(ctx, kind).Should(notReady(wasmev1.ReasonOutputKindMissing, "does not serve "+string(kind), "install the CRDs of an Istio that has it"))
		}
	}
	made := func(ctx context.Context) {
		GinkgoHelper()
		for _, kind := range extensionKinds {
			eventually(ctx, kind).Should(beReady("1/1"))
		}
		Expect(w.made(ctx)).To(ConsistOf("EnvoyFilter a-envoyfilter", "WasmPlugin a-wasmplugin", "TrafficExtension a-trafficextension"))
	}
	var untouched string

	BeforeAll(func(ctx context.Context) {
		w = newWorld(ctx)
		w.stop()
		DeferCleanup(installCRDs)
		removeCRDs(ctx)
		w.deployments(ctx, "a")
		image := w.push(ctx, "hello:v1", "hello")
		for kind := range istio.Kinds {
			name := strings.ToLower(string(kind))
			fds[kind] = w.filterDeployment(ctx, name, image, filterID(name), objectConfig, output(kind))
		}
		kinds = startManager(GinkgoT().TempDir()).Outputs
	})

	It("says which CRDs are missing, and makes EnvoyFilters all the same", func(ctx context.Context) {
		missing(ctx)
		eventually(ctx, wasmev1.OutputEnvoyFilter).Should(beReady("1/1"))
		untouched = w.output(ctx, "a-envoyfilter").ResourceVersion
	})

	It("makes the outputs when the CRDs appear", func(ctx context.Context) {
		installCRDs()
		noticed(ctx, outputkinds.Served)
		made(ctx)
	})

	It("notices when the CRDs go, and makes the outputs again when they are back", func(ctx context.Context) {
		removeCRDs(ctx)
		noticed(ctx, outputkinds.Missing)
		missing(ctx)
		installCRDs()
		noticed(ctx, outputkinds.Served)
		made(ctx)
		Expect(w.output(ctx, "a-envoyfilter").ResourceVersion).To(Equal(untouched))
	})
})

var _ = Describe("Two FilterDeployments with one filter id on one workload", func() {
	var w *world
	var reference string
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.deployments(ctx, "a")
		reference = w.push(ctx, "hello:v1", "hello")
	})
	hashed := func(fd *wasmev1.FilterDeployment) string {
		return render.HashedName(client.ObjectKeyFromObject(fd), workload.Target{Kind: "Deployment", Name: "a"}, "same")
	}

	It("outlive each other", func(ctx context.Context) {
		first := w.filterDeployment(ctx, "first", reference, filterID("same"))
		second := w.filterDeployment(ctx, "second", reference, filterID("same"))
		Expect(w.settle(ctx, first)).To(Succeed())
		Expect(w.settle(ctx, second)).To(Succeed())
		before := w.output(ctx, hashed(second))

		Expect(user.Delete(ctx, first)).To(Succeed())
		Eventually(ctx, func() []string { return w.outputs(ctx) }).WithTimeout(3 * patience).Should(ConsistOf(hashed(second)))
		w.written()
		Expect(w.settle(ctx, second)).To(Succeed())
		Expect(w.written()).To(BeEmpty())
		Expect(w.output(ctx, hashed(second)).ResourceVersion).To(Equal(before.ResourceVersion))

		third := w.filterDeployment(ctx, "third", reference, filterID("same"))
		Expect(w.settle(ctx, third)).To(Succeed())
		Expect(w.outputs(ctx)).To(ConsistOf("a-same", hashed(second)))
		Expect(second).To(beReady("1/1"))
		Expect(third).To(beReady("1/1"))
	})

	DescribeTable("both run while the one that holds the name",
		func(ctx context.Context, change func(*wasmev1.FilterDeployment)) {
			holder := w.filterDeployment(ctx, "holder", reference, filterID("same"))
			Expect(w.settle(ctx, holder)).To(Succeed())
			before := w.output(ctx, "a-same")
			edit(ctx, holder, change)
			Expect(w.settle(ctx, holder)).To(Succeed())

			second := w.filterDeployment(ctx, "second", reference, filterID("same"))
			Expect(w.settle(ctx, second)).To(Succeed())
			Expect(second).To(beReady("1/1"))
			Expect(w.outputs(ctx)).To(ConsistOf("a-same", hashed(second)))
			Expect(w.output(ctx, "a-same").ResourceVersion).To(Equal(before.ResourceVersion))
		},
		Entry("is suspended", func(fd *wasmev1.FilterDeployment) { fd.Spec.Suspend = true }),
		Entry("cannot be resolved", image("127.0.0.1:1/none:v1")),
		Entry("has a spec that cannot work", image("No Image")),
	)

	It("both run when the one that was there first heals last", func(ctx context.Context) {
		first := w.filterDeployment(ctx, "first", "No Image", filterID("same"))
		second := w.filterDeployment(ctx, "second", reference, filterID("same"))
		Expect(w.settle(ctx, first)).To(Succeed())
		Expect(w.settle(ctx, second)).To(Succeed())
		Expect(w.outputs(ctx)).To(ConsistOf("a-same"))
		edit(ctx, first, image(reference))
		Expect(w.settle(ctx, first)).To(Succeed())
		Expect(first).To(beReady("1/1"))
		Expect(w.outputs(ctx)).To(ConsistOf("a-same", hashed(first)))
		Expect(metav1.IsControlledBy(w.output(ctx, "a-same"), second)).To(BeTrue())
	})
})

var _ = Describe("Outputs that the API server refuses", func() {
	It("are not tried while the FilterDeployment is suspended", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		w.intercept(func(write string) error {
			if write == "create EnvoyFilter a-f" {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "envoyfilters"}, "a-f", nil)
			}
			return nil
		})
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonOutputRefused))
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Suspend = true })
		w.written()
		for range 3 {
			result, err := w.reconcile(ctx, fd)
			Expect(err).NotTo(HaveOccurred())
			Expect(result.IsZero()).To(BeTrue())
		}
		Expect(w.written()).To(ConsistOf("patch status of FilterDeployment f"))
		Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionFalse, wasmev1.ReasonSuspended))

		w.intercept(nil)
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Suspend = false })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
	})

	It("are tried again with growing waits, no storm, and made when a policy goes", Serial, func(ctx context.Context) {
		w := newWorld(ctx)
		w.stop()
		w.deployments(ctx, "a")
		allow := denyEnvoyFilters(ctx, w.namespace)
		attempts := &attempts{namespace: w.namespace}
		startManager(GinkgoT().TempDir(), attempts.follow)
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		current := func() *wasmev1.FilterDeployment {
			Expect(user.Get(ctx, client.ObjectKeyFromObject(fd), fd)).To(Succeed())
			return fd
		}
		Eventually(ctx, current).WithTimeout(patience).Should(notReady(wasmev1.ReasonOutputRefused, "this platform takes no EnvoyFilter"))

		const tried = 4
		Eventually(ctx, attempts.times).WithTimeout(patience).Should(HaveLen(tried))
		times := attempts.times()
		for i := 1; i < tried; i++ {
			Expect(times[i].Sub(times[i-1])).To(BeNumerically(">=", time.Second<<(i-1)*9/10), "wait %d", i)
		}
		Expect(fd.Status.ObservedGeneration).To(HaveValue(BeEquivalentTo(1)))
		allow()
		Eventually(ctx, current).WithTimeout(patience).Should(beReady("1/1"))
	})
})

// attempts are when the manager tried to create EnvoyFilters in a namespace.
type attempts struct {
	namespace string

	mu   sync.Mutex
	seen []time.Time
}

func (a *attempts) times() []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.seen)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

func (a *attempts) follow(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(request *http.Request) (*http.Response, error) {
		if request.Method == http.MethodPost && strings.HasSuffix(request.URL.Path, "/namespaces/"+a.namespace+"/envoyfilters") {
			a.mu.Lock()
			a.seen = append(a.seen, time.Now())
			a.mu.Unlock()
		}
		return next.RoundTrip(request)
	})
}

var _ = Describe("A configuration", func() {
	// object is a JSON object of so many bytes.
	object := func(bytes int) func(*wasmev1.FilterDeployment) {
		text := `{"a":"` + strings.Repeat("x", bytes-len(`{"a":""}`)) + `"}`
		return func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Filter.Config = &wasmev1.Configuration{Raw: []byte(text)}
		}
	}

	DescribeTable("of 256 KiB is brought to proxies, one of 300 KB is refused, and the last good one stays",
		func(ctx context.Context, kind wasmev1.Output) {
			w := newWorld(ctx)
			w.deployments(ctx, "a")
			fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), objectConfig, output(kind))
			// Each revision holds one; so many are kept.
			for i := range historyLimit + 1 {
				edit(ctx, fd, object(wasmev1.MaxConfigurationBytes-i))
				Expect(w.settle(ctx, fd)).To(Succeed())
				Expect(fd).To(beReady("1/1"))
			}
			held := istio.Kinds[kind].New()
			key := client.ObjectKey{Namespace: w.namespace, Name: "a-f"}
			Expect(live.Get(ctx, key, held)).To(Succeed())
			Expect(len(held.Content().Raw)).To(BeNumerically(">", wasmev1.MaxConfigurationBytes-historyLimit-1))

			edit(ctx, fd, object(300<<10))
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(notReady(wasmev1.ReasonInvalidSpec, "spec.filter.config", "at most 262144"))
			after := istio.Kinds[kind].New()
			Expect(live.Get(ctx, key, after)).To(Succeed())
			Expect(after.GetResourceVersion()).To(Equal(held.GetResourceVersion()))
		},
		Entry(nil, wasmev1.OutputEnvoyFilter), Entry(nil, wasmev1.OutputWasmPlugin), Entry(nil, wasmev1.OutputTrafficExtension),
	)
})
