package controllers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	gomegatypes "github.com/onsi/gomega/types"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/test/registry"
)

var _ = Describe("The module", func() {
	var w *world
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx, registry.WithBasicAuth(map[string]string{"ann": "right"}))
		w.registry.Restrict("private", "ann")
		w.deployments(ctx, "a")
	})

	secret := func(ctx context.Context, name string, kind corev1.SecretType, data map[string]string, registry string) {
		GinkgoHelper()
		object := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}, Type: kind, StringData: data}
		if registry != "" {
			object.Annotations = map[string]string{pull.RegistryAnnotation: registry}
		}
		Expect(user.Create(ctx, object)).To(Succeed())
	}
	basic := func(ctx context.Context, name, password string) {
		GinkgoHelper()
		secret(ctx, name, corev1.SecretTypeOpaque, map[string]string{"username": "ann", "password": password}, w.registry.Host())
	}
	deleted := func(ctx context.Context, name string) {
		GinkgoHelper()
		Expect(user.Delete(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}})).To(Succeed())
	}
	dockerConfig := func(host, password string) map[string]string {
		text, err := json.Marshal(map[string]any{"auths": map[string]any{host: map[string]string{"username": "ann", "password": password}}})
		Expect(err).NotTo(HaveOccurred())
		return map[string]string{corev1.DockerConfigJsonKey: string(text)}
	}
	// up brings the other registry back.
	var up func() error
	// withoutLayers is an image that holds nothing.
	withoutLayers := func(ctx context.Context, path string) string {
		GinkgoHelper()
		empty, err := registry.Artifact(registry.CNCFConfig, []byte("{}"), nil)
		Expect(err).NotTo(HaveOccurred())
		reference, err := w.registry.Push(ctx, path, empty)
		Expect(err).NotTo(HaveOccurred())
		return reference
	}

	// failure is an image that could not be pulled, and what has it had.
	type failure struct {
		reason  string
		texts   []string
		stalled bool
		// setup returns the image; the pull Secret is named s.
		setup func(ctx context.Context) string
		// cure helps without a touch of the FilterDeployment; nil: only a change of it does.
		cure func(ctx context.Context)
	}
	DescribeTable("that could not be pulled is explained, hurts nobody else, and is taken up when the cause is gone",
		func(ctx context.Context, c failure) {
			w.registry.Restrict("open", "ann", "")
			basic(ctx, "healthy", "right")
			healthy := w.filterDeployment(ctx, "healthy", w.push(ctx, "healthy:v1", "healthy"), pullSecret("healthy"))
			reference := c.setup(ctx)
			fd := w.filterDeployment(ctx, "f", reference, pullSecret("s"))

			err := w.settle(ctx, fd)
			Expect(fd).To(notReady(c.reason, c.texts...))
			Expect(fd).To(haveCondition(wasmev1.ConditionModuleResolved, metav1.ConditionFalse, c.reason, c.texts...))
			Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionFalse, wasmev1.ReasonNothingResolved))
			Expect(fd.Status.Reason).NotTo(ContainSubstring(registry.SecretBody))
			Expect(fd.Status.Summary.WorkloadsReady).To(Equal("0/1"))
			Expect(fd.Status.Workloads["a"].State).To(Equal(wasmev1.WorkloadPending))
			if c.stalled {
				Expect(fd).To(haveCondition(wasmev1.ConditionStalled, metav1.ConditionTrue, c.reason, c.texts...))
				Expect(conditionTypes(fd)).NotTo(ContainElement(wasmev1.ConditionReconciling))
			} else {
				Expect(fd).To(haveCondition(wasmev1.ConditionReconciling, metav1.ConditionTrue, wasmev1.ReasonProgressingWithRetry))
				Expect(conditionTypes(fd)).NotTo(ContainElement(wasmev1.ConditionStalled))
			}
			Expect(w.outputs(ctx)).To(BeEmpty())
			w.written()
			Expect(w.settle(ctx, fd)).To(matchSame(err))
			Expect(w.written()).To(BeEmpty(), "the same failure is not written again")

			w.registry.Heal()
			Expect(w.settle(ctx, healthy)).To(Succeed())
			Expect(healthy).To(beReady("1/1"))

			if c.cure == nil {
				edit(ctx, fd, func(fd *wasmev1.FilterDeployment) {
					fd.Spec.Filter.Image = healthy.Spec.Filter.Image
					fd.Spec.Filter.ImagePullOptions.PullSecret = "healthy"
					fd.Spec.Filter.ImagePullOptions.PlainHTTP = true
				})
			} else {
				c.cure(ctx)
			}
			generation := fd.Generation
			Eventually(ctx, func(g Gomega) {
				w.clock.Step(store.ServedAfterRelease)
				g.Expect(w.settle(ctx, fd)).To(Succeed())
				g.Expect(fd).To(beReady("1/1"))
			}).WithTimeout(bound).Should(Succeed())
			Expect(fd.Generation).To(Equal(generation))
			Expect(healthy.Generation).To(BeEquivalentTo(1))
			Expect(w.outputs(ctx)).To(HaveLen(2))
		},
		Entry("an image that does not exist", failure{
			reason: wasmev1.ReasonImageNotFound, texts: []string{"none:v1", "check spec.filter.image, or push the image"},
			setup: func(ctx context.Context) string { basic(ctx, "s", "right"); return w.registry.Host() + "/none:v1" },
			cure:  func(ctx context.Context) { w.push(ctx, "none:v1", "late") },
		}),
		Entry("a reference that is none", failure{
			reason: wasmev1.ReasonInvalidSpec, texts: []string{"filter.image", "write it as host/repository:tag"}, stalled: true,
			setup: func(ctx context.Context) string { basic(ctx, "s", "right"); return "No Image" },
		}),
		Entry("a registry that is down", failure{
			reason: wasmev1.ReasonRegistryUnavailable, texts: []string{"connection was refused"},
			setup: func(ctx context.Context) string {
				basic(ctx, "s", "right")
				other, err := registry.Start()
				Expect(err).NotTo(HaveOccurred())
				DeferCleanup(other.Close)
				edit(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "s"}}, func(s *corev1.Secret) {
					s.Annotations[pull.RegistryAnnotation] = other.Host()
				})
				main := w.registry
				w.registry = other
				reference := w.push(ctx, "hello:v1", "hello")
				w.registry = main
				other.Down()
				up = other.Up
				return reference
			},
			cure: func(context.Context) { Expect(up()).To(Succeed()) },
		}),
		Entry("a registry that fails", failure{
			reason: wasmev1.ReasonRegistryUnavailable, texts: []string{"answers with status 503"},
			setup: func(ctx context.Context) string {
				basic(ctx, "s", "right")
				reference := w.push(ctx, "hello:v1", "hello")
				w.registry.Inject(registry.Status(http.StatusServiceUnavailable))
				return reference
			},
			cure: func(context.Context) {},
		}),
		Entry("no such Secret", failure{
			reason: wasmev1.ReasonSecretNotFound, texts: []string{"pullSecret", "Secret s in namespace", "create it, or fix the name"},
			setup: func(ctx context.Context) string { return w.push(ctx, "private:v1", "hello") },
			cure:  func(ctx context.Context) { basic(ctx, "s", "right") },
		}),
		Entry("wrong credentials", failure{
			reason: wasmev1.ReasonUnauthorized, texts: []string{"denies access", "pullSecret"},
			setup: func(ctx context.Context) string { basic(ctx, "s", "wrong"); return w.push(ctx, "private:v1", "hello") },
			cure:  func(ctx context.Context) { deleted(ctx, "s"); basic(ctx, "s", "right") },
		}),
		Entry("a Secret for another registry", failure{
			reason: wasmev1.ReasonSecretInvalid, texts: []string{"annotation wasme.io/registry names another registry"},
			setup: func(ctx context.Context) string {
				secret(ctx, "s", corev1.SecretTypeOpaque, map[string]string{"username": "ann", "password": "right"}, "ghcr.io")
				return w.push(ctx, "private:v1", "hello")
			},
			cure: func(ctx context.Context) { deleted(ctx, "s"); basic(ctx, "s", "right") },
		}),
		Entry("a Secret for no registry", failure{
			reason: wasmev1.ReasonSecretInvalid, texts: []string{"annotate it with wasme.io/registry"},
			setup: func(ctx context.Context) string {
				secret(ctx, "s", corev1.SecretTypeOpaque, map[string]string{"username": "ann", "password": "right"}, "")
				return w.push(ctx, "private:v1", "hello")
			},
			cure: func(ctx context.Context) { deleted(ctx, "s"); basic(ctx, "s", "right") },
		}),
		Entry("a dockerconfigjson for another registry", failure{
			reason: wasmev1.ReasonSecretInvalid, texts: []string{"no entry for the image's registry"},
			setup: func(ctx context.Context) string {
				secret(ctx, "s", corev1.SecretTypeDockerConfigJson, dockerConfig("ghcr.io", "right"), "")
				return w.push(ctx, "private:v1", "hello")
			},
			cure: func(ctx context.Context) {
				deleted(ctx, "s")
				secret(ctx, "s", corev1.SecretTypeDockerConfigJson, dockerConfig(w.registry.Host(), "right"), "")
			},
		}),
		Entry("a manifest without a module", failure{
			reason: wasmev1.ReasonInvalidImage, stalled: true,
			setup: func(ctx context.Context) string { basic(ctx, "s", "right"); return withoutLayers(ctx, "empty:v1") },
			cure:  func(ctx context.Context) { w.push(ctx, "empty:v1", "fixed") },
		}),
		Entry("a layer that is no Wasm", failure{
			reason: wasmev1.ReasonInvalidModule, texts: []string{"not a Wasm module"}, stalled: true,
			setup: func(ctx context.Context) string {
				basic(ctx, "s", "right")
				return w.pushModule(ctx, "text:v1", registry.Module{Bytes: []byte("#!/bin/sh"), RootIDs: []string{rootID}})
			},
			cure: func(ctx context.Context) { w.push(ctx, "text:v1", "fixed") },
		}),
		Entry("content that does not match its digest", failure{
			reason: wasmev1.ReasonDigestMismatch, texts: []string{"sends content that does not match its digest"},
			setup: func(ctx context.Context) string {
				basic(ctx, "s", "right")
				reference := w.push(ctx, "hello:v1", "hello")
				digest, size, err := v1.SHA256(bytes.NewReader(wasmModule("hello")))
				Expect(err).NotTo(HaveOccurred())
				w.registry.Inject(registry.WrongBytes(digest.String(), make([]byte, size)))
				return reference
			},
			cure: func(context.Context) {},
		}),
		Entry("no root id", failure{
			reason: wasmev1.ReasonRootIDMissing, texts: []string{"spec.filter.rootID is empty", "set spec.filter.rootID"}, stalled: true,
			setup: func(ctx context.Context) string {
				basic(ctx, "s", "right")
				return w.pushModule(ctx, "rootless:v1", registry.Module{Bytes: wasmModule("rootless")})
			},
			cure: func(ctx context.Context) { w.push(ctx, "rootless:v1", "rooted") },
		}),
	)

	It("is pulled with a dockerconfigjson", func(ctx context.Context) {
		secret(ctx, "s", corev1.SecretTypeDockerConfigJson, dockerConfig(w.registry.Host(), "right"), "")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "private:v1", "hello"), pullSecret("s"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
	})

	It("is asked for again with a Secret that was fixed, after a backoff", func(ctx context.Context) {
		basic(ctx, "s", "wrong")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "private:v1", "hello"), pullSecret("s"))
		Expect(w.settle(ctx, fd)).NotTo(Succeed(), "only an error has the queue's backoff")
		Expect(fd).To(notReady(wasmev1.ReasonUnauthorized))
	})

	It("is pulled with a Secret without registry where the operator is told so", func(ctx context.Context) {
		w.Finder.LegacyPullSecrets = true
		secret(ctx, "s", corev1.SecretTypeOpaque, map[string]string{"username": "ann", "password": "right"}, "")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "private:v1", "hello"), pullSecret("s"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
	})

	It("is not given to a tenant without the right to it, though it is in the store", func(ctx context.Context) {
		basic(ctx, "s", "right")
		reference := w.push(ctx, "private:v1", "hello")
		owner := w.filterDeployment(ctx, "f", reference, pullSecret("s"))
		Expect(w.settle(ctx, owner)).To(Succeed())
		Expect(w.Store.Has(owner.Status.Module.SHA256)).To(BeTrue())

		w.namespace = newNamespace(ctx)
		w.deployments(ctx, "a")
		tenant := w.filterDeployment(ctx, "f", reference)
		digest := w.filterDeployment(ctx, "g", w.registry.Host()+"/private@"+owner.Status.Module.ManifestDigest)
		for _, fd := range []*wasmev1.FilterDeployment{tenant, digest} {
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(notReady(wasmev1.ReasonUnauthorized, "imagePullOptions.pullSecret"))
			Expect(fd.Status.Module).To(BeNil())
		}
		Expect(w.outputs(ctx)).To(BeEmpty())

		basic(ctx, "s", "right")
		edit(ctx, tenant, pullSecret("s"))
		Expect(w.settle(ctx, tenant)).To(Succeed())
		Expect(tenant).To(beReady("1/1"))
	})

	It("is not fetched from a denied network", func(ctx context.Context) {
		w.stop()
		w.operator = startOperator(ctx, w.clock, w.store, deniedNetworks(netip.MustParsePrefix("127.0.0.0/8")))
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "open:v1", "hello"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonRegistryForbidden, "127.0.0.0/8", "--denied-networks"))
		Expect(fd).To(haveCondition(wasmev1.ConditionStalled, metav1.ConditionTrue, wasmev1.ReasonRegistryForbidden))
		Expect(w.registry.Requests("", "")).To(BeZero())
	})

	It("is not fetched over plain HTTP unasked", func(ctx context.Context) {
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "open:v1", "hello"), func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.ImagePullOptions = nil })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonRegistryForbidden, "imagePullOptions.plainHttp"))
	})

	It("has the root id of the spec before that of the image", func(ctx context.Context) {
		basic(ctx, "s", "right")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), pullSecret("s"), filterID("f"))
		rootIDs := func() []string {
			var found []string
			for _, patch := range w.output(ctx, "a-f").Spec.ConfigPatches {
				fields := patch.Patch.Value.AsMap()
				if typed, has := fields["typed_config"].(map[string]any); has {
					found = append(found, typed["config"].(map[string]any)["root_id"].(string))
				}
			}
			return found
		}
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(rootIDs()).To(ConsistOf(rootID))
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.RootID = "mine" })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(rootIDs()).To(ConsistOf("mine"))
	})

	It("is looked up once for all FilterDeployments that ask in the same way", func(ctx context.Context) {
		basic(ctx, "s", "right")
		reference := w.push(ctx, "hello:v1", "hello")
		for i := range 5 {
			fd := w.filterDeployment(ctx, fmt.Sprintf("f%d", i), reference, pullSecret("s"))
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(beReady("1/1"))
		}
		Expect(w.registry.Requests(http.MethodHead, "/v2/hello/manifests/v1")).To(Equal(1))
	})

	It("is forgotten with its FilterDeployment", func(ctx context.Context) {
		basic(ctx, "s", "right")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), pullSecret("s"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(user.Delete(ctx, fd)).To(Succeed())
		result, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(result.IsZero()).To(BeTrue())
		w.registry.ResetRequests()
		again := w.filterDeployment(ctx, "f", fd.Spec.Filter.Image, pullSecret("s"))
		Expect(w.settle(ctx, again)).To(Succeed())
		Expect(w.registry.Requests(http.MethodHead, "/v2/hello/manifests/v1")).To(Equal(1))
	})
})

var _ = Describe("A spec that an older schema let in", func() {
	It("is explained on the object itself, although that does not pass the schema", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a")
		crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "filterdeployments.wasme.io"}}
		Expect(user.Get(ctx, client.ObjectKeyFromObject(crd), crd)).To(Succeed())
		strict := crd.DeepCopy().Spec
		restore := func(ctx context.Context) {
			edit(ctx, crd, func(crd *apiextensionsv1.CustomResourceDefinition) { crd.Spec = strict })
		}
		DeferCleanup(restore)
		edit(ctx, crd, func(crd *apiextensionsv1.CustomResourceDefinition) {
			crd.Spec.Versions[0].AdditionalPrinterColumns = nil
			crd.Spec.Versions[0].Schema.OpenAPIV3Schema = &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: new(true)}
		})
		old := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "wasme.io/v1", "kind": "FilterDeployment",
			"metadata": map[string]any{"namespace": w.namespace, "name": "f"},
			"spec": map[string]any{
				"deployment": map[string]any{"istio": map[string]any{"kind": "Deployment"}},
				"filter":     map[string]any{"image": w.push(ctx, "hello:v1", "hello"), "patchContext": "sideways", "unknown": "field"},
			},
		}}
		Eventually(ctx, func() error { return user.Create(ctx, old) }).WithTimeout(bound).Should(Succeed())
		status := map[string]any{"observedGeneration": "1", "reason": "", "workloads": map[string]any{"gone-v1": map[string]any{"state": "Succeeded", "reason": ""}}}
		Expect(unstructured.SetNestedMap(old.Object, status, "status")).To(Succeed())
		Expect(user.Status().Update(ctx, old)).To(Succeed())
		restore(ctx)
		again := old.DeepCopy()
		again.SetName("again")
		again.SetResourceVersion("")
		Eventually(ctx, func() error { return user.Create(ctx, again.DeepCopy(), client.DryRunAll) }).WithTimeout(bound).Should(MatchError(ContainSubstring("patchContext")))

		w.restart(ctx)
		fd := &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "f"}}
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonInvalidSpec, `spec.filter.patchContext is "sideways": use inbound, outbound, gateway or any`))
		Expect(fd.Status.Workloads).To(HaveLen(1))
		Expect(fd.Status.Workloads).To(HaveKey("a"))
		w.written()
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.written()).To(BeEmpty())

		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Filter.PatchContext = wasmev1.PatchContextOutbound
			fd.Spec.Filter.ImagePullOptions = &wasmev1.ImagePullOptions{PlainHTTP: true}
		})
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
	})

	It("is explained, whatever is wrong with it, and hurts nobody else", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a")
		reference := w.push(ctx, "hello:v1", "hello")
		healthy := w.filterDeployment(ctx, "healthy", reference)
		for name, c := range map[string]struct {
			change func(*wasmev1.FilterDeployment)
			kind   string
			text   string
		}{
			"context":  {func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.PatchContext = "sideways" }, wasmev1.ConditionModuleResolved, `spec.filter.patchContext is "sideways": use inbound, outbound, gateway or any`},
			"strategy": {func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.FailStrategy = "FailSafe" }, wasmev1.ConditionModuleResolved, `spec.filter.failStrategy is "FailSafe": use FailReload, FailClosed or FailOpen`},
			"config":   {func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.Config.Raw = []byte("12") }, wasmev1.ConditionModuleResolved, "spec.filter.config: the configuration has none of the accepted forms: use a string"},
			"kind":     {func(fd *wasmev1.FilterDeployment) { fd.Spec.Deployment.Istio.Kind = "Pod" }, wasmev1.ConditionWorkloadsSelected, `spec.deployment.istio.kind is "Pod": use Deployment, DaemonSet or StatefulSet`},
			"":         {func(*wasmev1.FilterDeployment) {}, "", ""},
		} {
			fd := healthy.DeepCopy()
			fd.Name = "odd-" + name
			c.change(fd)
			_, err := w.reconcileInMemory(ctx, fd)
			Expect(err).NotTo(HaveOccurred())
			if name == "" {
				Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionUnknown, wasmev1.ReasonResolving))
				continue
			}
			Expect(fd).To(haveCondition(c.kind, metav1.ConditionFalse, wasmev1.ReasonInvalidSpec, c.text))
			if c.kind == wasmev1.ConditionModuleResolved {
				Expect(fd).To(notReady(wasmev1.ReasonInvalidSpec, c.text))
			}
			Expect(fd).To(haveCondition(wasmev1.ConditionStalled, metav1.ConditionTrue, wasmev1.ReasonInvalidSpec))
		}
		Expect(w.settle(ctx, healthy)).To(Succeed())
		Expect(healthy).To(beReady("1/1"))
	})
})

// reconcileInMemory makes a pass over a FilterDeployment that the API server would
// refuse, and reads its status.
func (w *world) reconcileInMemory(ctx context.Context, fd *wasmev1.FilterDeployment) (ctrl.Result, error) {
	original := w.Client
	defer func() { w.Client = original }()
	w.Client = interceptor.NewClient(original.(client.WithWatch), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
			if asked, ok := object.(*wasmev1.FilterDeployment); ok {
				fd.DeepCopyInto(asked)
				return nil
			}
			return c.Get(ctx, key, object, options...)
		},
		SubResourcePatch: func(_ context.Context, _ client.Client, _ string, object client.Object, _ client.Patch, _ ...client.SubResourcePatchOption) error {
			object.(*wasmev1.FilterDeployment).DeepCopyInto(fd)
			return nil
		},
	})
	return w.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(fd)})
}

// matchSame matches nil for nil, and an error with the same text for an error.
func matchSame(err error) gomegatypes.GomegaMatcher {
	if err == nil {
		return Succeed()
	}
	return MatchError(err.Error())
}
