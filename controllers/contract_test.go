package controllers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/source"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/test/registry"
)

// made are the outputs of all kinds in the namespace: `<kind> <name>`.
func (w *world) made(ctx context.Context) []string {
	GinkgoHelper()
	made := []string{}
	for name, kind := range istio.Kinds {
		list := kind.NewList()
		Expect(live.List(ctx, list, client.InNamespace(w.namespace))).To(Succeed())
		Expect(apimeta.EachListItem(list, func(item runtime.Object) error {
			made = append(made, string(name)+" "+item.(client.Object).GetName())
			return nil
		})).To(Succeed())
	}
	return made
}

func output(kind wasmev1.Output) func(*wasmev1.FilterDeployment) {
	return func(fd *wasmev1.FilterDeployment) {
		fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Output: kind, Selector: &metav1.LabelSelector{}}
	}
}

func objectConfig(fd *wasmev1.FilterDeployment) {
	fd.Spec.Filter.Config = &wasmev1.Configuration{Raw: []byte(`{"greeting":"world"}`)}
}

// denyEnvoyFilters has a policy of the cluster refuse new EnvoyFilters, until the
// spec ends or the function that it returns is called.
func denyEnvoyFilters(ctx context.Context, namespace string) func() {
	GinkgoHelper()
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "no-envoyfilters"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{"networking.istio.io"}, APIVersions: []string{"*"}, Resources: []string{"envoyfilters"}},
			}}}},
			Validations: []admissionregistrationv1.Validation{{Expression: "false", Message: "this platform takes no EnvoyFilter"}},
		},
	}
	binding := &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: policy.Name},
		Spec:       admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: policy.Name, ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny}},
	}
	Expect(user.Create(ctx, policy)).To(Succeed())
	Expect(user.Create(ctx, binding)).To(Succeed())
	DeferCleanup(func(ctx context.Context) {
		Expect(client.IgnoreNotFound(user.Delete(ctx, binding))).To(Succeed())
		Expect(client.IgnoreNotFound(user.Delete(ctx, policy))).To(Succeed())
	})
	probe := istio.Kinds[wasmev1.OutputEnvoyFilter].New()
	Eventually(ctx, func() error {
		probe.SetNamespace(namespace)
		probe.SetName("probe")
		return live.Create(ctx, probe, client.DryRunAll)
	}).WithTimeout(bound).Should(MatchError(ContainSubstring("takes no EnvoyFilter")))
	return func() {
		GinkgoHelper()
		Expect(user.Delete(ctx, binding)).To(Succeed())
	}
}

var _ = Describe("The kind of the outputs", func() {
	var w *world
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.deployments(ctx, "a")
	})

	It("can be changed: the new one is there before the old one goes", func(ctx context.Context) {
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), objectConfig)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.made(ctx)).To(ConsistOf("EnvoyFilter a-f"))
		former := "EnvoyFilter"
		for _, kind := range []wasmev1.Output{wasmev1.OutputWasmPlugin, wasmev1.OutputTrafficExtension, wasmev1.OutputEnvoyFilter} {
			edit(ctx, fd, output(kind))
			w.written()
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.made(ctx)).To(ConsistOf(string(kind) + " a-f"))
			Expect(fd).To(beReady("1/1"))
			var outputs []string
			for _, write := range w.written() {
				if strings.HasSuffix(write, " a-f") {
					outputs = append(outputs, write)
				}
			}
			Expect(outputs).To(Equal([]string{"create " + string(kind) + " a-f", "delete " + former + " a-f"}))
			former = string(kind)
		}
	})

	DescribeTable("is repaired, and costs no write while nothing changes",
		func(ctx context.Context, kind wasmev1.Output, spoilt string) {
			fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), objectConfig, output(kind))
			Expect(w.settle(ctx, fd)).To(Succeed())
			object := istio.Kinds[kind].New()
			key := client.ObjectKey{Namespace: w.namespace, Name: "a-f"}
			Expect(live.Get(ctx, key, object)).To(Succeed())
			before := istio.SpecHash(object.Content().Raw)
			Expect(live.Patch(ctx, object, client.RawPatch("application/merge-patch+json", []byte(`{"spec":`+spoilt+`}`)))).To(Succeed())
			Expect(istio.SpecHash(object.Content().Raw)).NotTo(Equal(before))
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(live.Get(ctx, key, object)).To(Succeed())
			Expect(istio.SpecHash(object.Content().Raw)).To(Equal(before))
			w.written()
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.written()).To(BeEmpty())
		},
		Entry("WasmPlugin", wasmev1.OutputWasmPlugin, `{"priority":77}`),
		Entry("TrafficExtension", wasmev1.OutputTrafficExtension, `{"priority":77}`),
	)

	It("is refused where it cannot carry the configuration, and the former one stays", func(ctx context.Context) {
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), config("text"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		edit(ctx, fd, output(wasmev1.OutputWasmPlugin))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonInvalidSpec, "spec.filter.config", "a WasmPlugin cannot carry"))
		Expect(w.made(ctx)).To(ConsistOf("EnvoyFilter a-f"))
	})

	It("is said to be denied by a policy of the cluster, and made when that is gone", Serial, func(ctx context.Context) {
		allow := denyEnvoyFilters(ctx, w.namespace)
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonOutputRefused, "a policy of the cluster forbids it", "this platform takes no EnvoyFilter"))

		allow()
		Eventually(ctx, func() *wasmev1.FilterDeployment {
			w.clock.Step(10 * time.Minute)
			Expect(w.settle(ctx, fd)).To(Succeed())
			return fd
		}).WithTimeout(bound).Should(beReady("1/1"))
	})
})

var _ = Describe("What the filter runs on", func() {
	var w *world
	BeforeEach(func(ctx context.Context) { w = newWorld(ctx) })

	It("can be selected by expressions", func(ctx context.Context) {
		w.deployments(ctx, "a", "b", "c")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Selector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
				{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"b"}},
			}}}
		})
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.made(ctx)).To(ConsistOf("EnvoyFilter a-f", "EnvoyFilter c-f"))
		Expect(fd).To(beReady("2/2"))
	})

	It("can be Gateways and Services, beside a workload of the same name", func(ctx context.Context) {
		w.deployments(ctx, "edge")
		w.gateway(ctx, "edge")
		w.service(ctx, "edge", nil)
		w.filterDeployment(ctx, "other", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), objectConfig, func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Output: wasmev1.OutputWasmPlugin, TargetRefs: []wasmev1.TargetRef{
				{Group: "gateway.networking.k8s.io", Kind: "Gateway", Name: "edge"}, {Kind: "Service", Name: "edge"},
			}}
		})
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("2/2"))
		Expect(fd.Status.Workloads).To(And(HaveLen(2), HaveKey("Gateway/edge"), HaveKey("Service/edge")))
		Expect(w.made(ctx)).To(HaveLen(2))
	})
})

var _ = Describe("A ConfigMap", func() {
	var w *world
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.deployments(ctx, "a")
	})
	configMap := func(ctx context.Context, change func(*corev1.ConfigMap)) *corev1.ConfigMap {
		GinkgoHelper()
		object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "settings"}}
		change(object)
		Expect(user.Create(ctx, object)).To(Succeed())
		return object
	}
	fromConfigMap := func(fd *wasmev1.FilterDeployment) {
		fd.Spec.Filter.Config = nil
		fd.Spec.Filter.ConfigFrom = &wasmev1.ConfigurationSource{ConfigMapKeyRef: wasmev1.ConfigMapKey{Name: "settings", Key: "greeting"}}
	}
	configuration := func(ctx context.Context) string {
		GinkgoHelper()
		content, err := w.output(ctx, "a-f").Spec.MarshalJSON()
		Expect(err).NotTo(HaveOccurred())
		return string(content)
	}

	It("gives the configuration, is read again soon, and its loss costs nothing", func(ctx context.Context) {
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), fromConfigMap)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonConfigMapNotFound, "spec.filter.configFrom.configMapKeyRef names ConfigMap settings", "create it, or fix the name"))

		object := configMap(ctx, func(c *corev1.ConfigMap) { c.Data = map[string]string{"greeting": "world"} })
		result, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(result.RequeueAfter).To(BeNumerically("<=", configMapInterval+configMapInterval/10))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		Expect(configuration(ctx)).To(ContainSubstring(`"value":"world"`))

		edit(ctx, object, func(c *corev1.ConfigMap) { c.Data["greeting"] = "goodbye" })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(configuration(ctx)).To(ContainSubstring(`"value":"goodbye"`))

		edit(ctx, object, func(c *corev1.ConfigMap) { c.Data = map[string]string{"greetings": "typo"} })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonConfigMapInvalid, `names key "greeting"`))
		edit(ctx, object, func(c *corev1.ConfigMap) { c.Data = map[string]string{"greeting": strings.Repeat("x", 300<<10)} })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonConfigMapInvalid, "names a value of 307200 bytes: a configuration has at most 262144"))
		Expect(user.Delete(ctx, object)).To(Succeed())
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonConfigMapNotFound))
		Expect(configuration(ctx)).To(ContainSubstring(`"value":"goodbye"`), "the last good one stays")
	})

	It("gives the module", func(ctx context.Context) {
		content := wasmModule("from a ConfigMap")
		object := configMap(ctx, func(c *corev1.ConfigMap) { c.BinaryData = map[string][]byte{"filter.wasm": content} })
		fd := w.filterDeployment(ctx, "f", "", filterID("f"), func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Filter.ImagePullOptions = nil
			fd.Spec.Filter.ConfigMap = &wasmev1.ConfigMapKey{Name: "settings", Key: "filter.wasm"}
			fd.Spec.Filter.RootID = rootID
		})
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		sum := sha256.Sum256(content)
		Expect(fd.Status.Module.SHA256).To(Equal(hex.EncodeToString(sum[:])))
		Expect(fd.Status.Module.Reference).To(Equal("configmap/settings/filter.wasm"))
		Expect(w.Store.Has(fd.Status.Module.SHA256)).To(BeTrue())

		edit(ctx, object, func(c *corev1.ConfigMap) { c.BinaryData["filter.wasm"] = []byte("no Wasm") })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonInvalidModule))
		Expect(w.held(ctx)).To(HaveLen(1))
	})
})

var _ = It("A URL gives the module whose digest the spec names, and no other", func(ctx context.Context) {
	w := newWorld(ctx)
	w.deployments(ctx, "a")
	content := wasmModule("from a URL")
	sum := sha256.Sum256(content)
	fd := w.filterDeployment(ctx, "f", "", filterID("f"), func(fd *wasmev1.FilterDeployment) {
		fd.Spec.Filter.ImagePullOptions = nil
		fd.Spec.Filter.URL = w.registry.PutFile("/filter.wasm", content)
		fd.Spec.Filter.SHA256 = hex.EncodeToString(sum[:])
		fd.Spec.Filter.RootID = rootID
	})
	Expect(w.settle(ctx, fd)).To(Succeed())
	Expect(fd).To(beReady("1/1"))
	Expect(fd.Status.Module.Reference).To(Equal(fd.Spec.Filter.URL))
	edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.SHA256 = strings.Repeat("a", 64) })
	Expect(w.settle(ctx, fd)).To(Succeed())
	Expect(fd).To(notReady(wasmev1.ReasonDigestMismatch))
	Expect(w.held(ctx)).To(HaveLen(1))
})

var _ = It("A URL shows its query nowhere, however long it is", func(ctx context.Context) {
	w := newWorld(ctx)
	w.deployments(ctx, "a")
	content := wasmModule("from a presigned URL")
	sum := sha256.Sum256(content)
	address := w.registry.PutFile("/"+strings.Repeat("long/", 250)+"filter.wasm", content)
	fd := w.filterDeployment(ctx, "f", "", filterID("f"), func(fd *wasmev1.FilterDeployment) {
		fd.Spec.Filter = wasmev1.FilterSpec{ID: "f", URL: address + "?X-Signature=" + strings.Repeat("hush", 150), SHA256: hex.EncodeToString(sum[:]), RootID: rootID}
	})
	Expect(w.settle(ctx, fd)).To(Succeed())
	Expect(fd).To(beReady("1/1"))
	Expect(fd.Status.Module.Reference).To(Equal(address))
	revisions := w.revisions(ctx, fd)
	Expect(revisions).To(HaveLen(1))

	edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.URL = address + "?X-Signature=hush" })
	Expect(w.settle(ctx, fd)).To(Succeed())
	Expect(fd).To(beReady("1/1"))
	Expect(w.revisions(ctx, fd)).To(Equal(revisions), "another signature is no other revision")
	w.registry.Down()
	edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.URL = address + ".moved?X-Signature=hush" })
	Expect(w.settle(ctx, fd)).To(Succeed())
	Expect(fd).To(notReady(wasmev1.ReasonRegistryUnavailable))

	for _, list := range []client.ObjectList{&appsv1.ControllerRevisionList{}, &networking.EnvoyFilterList{}, &eventsv1.EventList{}} {
		Expect(user.List(ctx, list, client.InNamespace(w.namespace))).To(Succeed())
		Expect(json.Marshal(list)).NotTo(ContainSubstring("hush"), "%T", list)
	}
	Expect(json.Marshal(fd.Status)).NotTo(ContainSubstring("hush"))
})

var _ = It("An image that was withdrawn stays in use, and its configuration can change", func(ctx context.Context) {
	w := newWorld(ctx)
	w.deployments(ctx, "a")
	fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
	Expect(w.settle(ctx, fd)).To(Succeed())
	Expect(fd).To(beReady("1/1"))
	before := fd.Status.Revision
	w.registry.Inject(registry.Status(http.StatusNotFound))
	w.clock.Step(2 * pollInterval)
	edit(ctx, fd, config("changed"))
	Expect(w.answer(ctx, fd)).To(Succeed())
	Expect(fd).To(notReady(wasmev1.ReasonImageNotFound, "hello:v1", "stays in use"))
	Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionTrue, wasmev1.ReasonProgrammed))
	Expect(fd.Status.Revision).NotTo(Equal(before))
	Expect(w.held(ctx)).To(Equal(map[string]string{"a-f": fd.Status.Revision}))

	w.registry.Heal()
	w.clock.Step(2 * pollInterval)
	Expect(w.answer(ctx, fd)).To(Succeed())
	Expect(fd).To(beReady("1/1"))
})

var _ = It("A configuration that is too large for so many workloads is refused", func(ctx context.Context) {
	w := newWorld(ctx)
	for i := range 257 {
		w.deployment(ctx, fmt.Sprint("app-", i), nil)
	}
	fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), config(strings.Repeat("c", 256<<10)))
	Expect(w.settle(ctx, fd)).To(Succeed())
	Expect(fd).To(notReady(wasmev1.ReasonTooLarge, "spec.filter.config has 262144 bytes", "at most 256 workloads"))
	Expect(fd).To(haveCondition(wasmev1.ConditionStalled, metav1.ConditionTrue, wasmev1.ReasonTooLarge))
	Expect(w.outputs(ctx)).To(BeEmpty())
	Expect(user.Delete(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "app-0"}})).To(Succeed())
	edit(ctx, fd, config("small"))
	Expect(w.settle(ctx, fd)).To(Succeed())
	Expect(fd).To(beReady("256/256"))
})

var _ = It("Several pull Secrets may be named, of which one is for the registry", func(ctx context.Context) {
	w := newWorld(ctx, registry.WithBearerAuth(map[string]string{"ann": "right"}))
	w.deployments(ctx, "a")
	for name, host := range map[string]string{"other": "registry.example.com", "right": w.registry.Host()} {
		Expect(user.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name, Annotations: map[string]string{pull.RegistryAnnotation: host}},
			StringData: map[string]string{"username": "ann", "password": "right"},
		})).To(Succeed())
	}
	secrets := func(names ...string) func(*wasmev1.FilterDeployment) {
		return func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Filter.ImagePullOptions.PullSecrets = nil
			for _, name := range names {
				fd.Spec.Filter.ImagePullOptions.PullSecrets = append(fd.Spec.Filter.ImagePullOptions.PullSecrets, wasmev1.SecretReference{Name: name})
			}
		}
	}
	fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), secrets("missing", "other", "right"))
	Expect(w.settle(ctx, fd)).To(Succeed())
	Expect(fd).To(beReady("1/1"))
	edit(ctx, fd, secrets("other", "missing"))
	Expect(w.settle(ctx, fd)).NotTo(Succeed())
	Expect(fd).To(notReady(wasmev1.ReasonSecretInvalid, "names another registry than the image's"))
})

var _ = It("An authority for the registry may come from a ConfigMap", func(ctx context.Context) {
	w := newWorld(ctx, registry.WithTLS())
	w.deployments(ctx, "a")
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.registry.Certificate().Raw})
	fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), func(fd *wasmev1.FilterDeployment) {
		fd.Spec.Filter.ImagePullOptions = &wasmev1.ImagePullOptions{CACertificates: &wasmev1.ConfigMapKey{Name: "authority", Key: "ca.crt"}}
	})
	Expect(w.settle(ctx, fd)).To(Succeed())
	Expect(fd).To(notReady(wasmev1.ReasonConfigMapNotFound, "spec.filter.imagePullOptions.caCertificates names ConfigMap authority"))
	Expect(user.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "authority"}, Data: map[string]string{"ca.crt": string(authority)}})).To(Succeed())
	Expect(w.settle(ctx, fd)).To(Succeed())
	Expect(fd).To(beReady("1/1"))
})

var _ = It("An image that may not be read any more keeps its configuration, too", func(ctx context.Context) {
	w := newWorld(ctx)
	w.deployments(ctx, "a")
	fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
	Expect(w.settle(ctx, fd)).To(Succeed())
	before := fd.Status.Revision
	w.registry.Inject(registry.Status(http.StatusForbidden))
	w.clock.Step(2 * pollInterval)
	Expect(w.answer(ctx, fd)).To(Succeed())
	Expect(fd).To(notReady(wasmev1.ReasonUnauthorized))
	edit(ctx, fd, config("changed"))
	Expect(w.settle(ctx, fd)).To(Succeed())
	Expect(fd).To(notReady(wasmev1.ReasonUnauthorized))
	Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionFalse, wasmev1.ReasonLastGoodRevision))
	Expect(w.held(ctx)).To(Equal(map[string]string{"a-f": before}))
})

var _ = It("A source that the operator does not allow is refused", func(ctx context.Context) {
	w := newWorld(ctx)
	w.deployments(ctx, "a")
	w.Finder.Allowed = source.Sources{"image"}
	fd := w.filterDeployment(ctx, "f", "", filterID("f"), func(fd *wasmev1.FilterDeployment) {
		fd.Spec.Filter = wasmev1.FilterSpec{ID: "f", ConfigMap: &wasmev1.ConfigMapKey{Name: "module", Key: "filter.wasm"}, RootID: rootID}
	})
	Expect(w.settle(ctx, fd)).To(Succeed())
	Expect(fd).To(notReady(wasmev1.ReasonSourceForbidden, "spec.filter.configMap", "--allowed-sources", "use image"))
	Expect(fd).To(haveCondition(wasmev1.ConditionStalled, metav1.ConditionTrue, wasmev1.ReasonSourceForbidden))
	Expect(w.outputs(ctx)).To(BeEmpty())
})

var _ = It("A module that is not the one of spec.filter.sha256 is refused", func(ctx context.Context) {
	w := newWorld(ctx)
	w.deployments(ctx, "a")
	fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), func(fd *wasmev1.FilterDeployment) {
		fd.Spec.Filter.SHA256 = strings.Repeat("a", 64)
	})
	Expect(w.settle(ctx, fd)).To(Succeed())
	Expect(fd).To(notReady(wasmev1.ReasonDigestMismatch, "the module does not have the digest in spec.filter.sha256"))
	Expect(w.outputs(ctx)).To(BeEmpty())
})

var _ = Describe("A FilterDeployment that is suspended", func() {
	It("changes nothing, and goes on where it was", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		held := w.held(ctx)
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Suspend = true })
		w.deployments(ctx, "b")
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(And(
			haveCondition(wasmev1.ConditionReady, metav1.ConditionTrue, wasmev1.ReasonSuspended, "Ready stays as it was"),
			WithTransform(func(fd *wasmev1.FilterDeployment) bool { return *fd.Status.ObservedGeneration == fd.Generation }, BeTrue()),
		))
		Expect(w.held(ctx)).To(Equal(held))
		w.written()
		result, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(result.RequeueAfter).To(Equal(time.Duration(0)))
		Expect(w.written()).To(BeEmpty())

		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Suspend = false })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("2/2"))
	})

	It("is not Ready for a spec that was not applied", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a", "b")
		onlyA := func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Labels: map[string]wasmev1.LabelValue{"app": "a"}}
		}
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), onlyA, config("first"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		held := w.held(ctx)
		for what, change := range map[string]func(*wasmev1.FilterDeployment){
			"another configuration": config("other"),
			"other workloads":       func(fd *wasmev1.FilterDeployment) { fd.Spec.Deployment.Istio.Labels["app"] = "b" },
		} {
			edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Suspend = true; change(fd) })
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionUnknown, wasmev1.ReasonSuspended, "the operator has not applied this spec"), what)
			Expect(w.held(ctx)).To(Equal(held), what)

			By("putting back the former one while it is suspended")
			edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { config("first")(fd); onlyA(fd) })
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionTrue, wasmev1.ReasonSuspended), what)
		}

		By("restarting the operator, which says what it said before")
		w.restart(ctx)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionTrue, wasmev1.ReasonSuspended))
		Expect(w.written()).To(BeEmpty())

		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Suspend = false; config("other")(fd) })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
	})

	It("stays not Ready when it was failing", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a")
		fd := w.filterDeployment(ctx, "f", "127.0.0.1:1/none:v1", filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Suspend = true })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionFalse, wasmev1.ReasonSuspended))
		Expect(conditionTypes(fd)).NotTo(ContainElement(wasmev1.ConditionReconciling))
	})
})
