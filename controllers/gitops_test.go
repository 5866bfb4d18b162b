package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	lua "github.com/yuin/gopher-lua"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/outputkinds"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

const (
	argoCheck    = "../config/argocd/health.lua"
	argoCheckKey = "resource.customizations.health.wasme.io_FilterDeployment"
)

// health is what Argo CD makes of an object.
type health struct{ status, message string }

// argoHealth is the health of a FilterDeployment for Argo CD.
func argoHealth(ctx context.Context, object *unstructured.Unstructured) health {
	GinkgoHelper()
	if object.GetDeletionTimestamp() != nil {
		return health{"Progressing", "Pending deletion"} // Argo CD asks no check then
	}
	script, err := os.ReadFile(argoCheck)
	Expect(err).NotTo(HaveOccurred())
	return runCheck(ctx, string(script), object)
}

// runCheck runs a check as Argo CD runs one from argocd-cm (its util/lua): in
// gopher-lua with the libraries package, base and table, with the object as obj,
// for a second at most. Argo CD adds os.time and os.date.
func runCheck(ctx context.Context, script string, object *unstructured.Unstructured) health {
	GinkgoHelper()
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		Expect(state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name))).To(Succeed())
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	state.SetContext(ctx)
	state.SetGlobal("obj", luaValue(state, object.Object))
	Expect(state.DoString(script)).To(Succeed())
	result, ok := state.Get(-1).(*lua.LTable)
	Expect(ok).To(BeTrue(), "the check returns a table")
	return health{result.RawGetString("status").String(), result.RawGetString("message").String()}
}

// luaValue is a JSON value in Lua.
func luaValue(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case bool:
		return lua.LBool(value)
	case int64:
		return lua.LNumber(value)
	case float64:
		return lua.LNumber(value)
	case string:
		return lua.LString(value)
	case []any:
		table := state.NewTable()
		for _, item := range value {
			table.Append(luaValue(state, item))
		}
		return table
	case map[string]any:
		table := state.NewTable()
		for key, item := range value {
			table.RawSetString(key, luaValue(state, item))
		}
		return table
	default:
		return lua.LNil
	}
}

// fromServer is a FilterDeployment as other clients read it.
func fromServer(ctx context.Context, key client.ObjectKey) *unstructured.Unstructured {
	GinkgoHelper()
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(wasmev1.GroupVersion.WithKind("FilterDeployment"))
	Expect(user.Get(ctx, key, object)).To(Succeed())
	return object
}

// becomesBecause makes passes until Ready has that reason.
func (w *world) becomesBecause(ctx context.Context, fd *wasmev1.FilterDeployment, reason string) {
	GinkgoHelper()
	Eventually(ctx, func() string {
		_, _ = w.reconcile(ctx, fd)
		return reasonOf(fd, wasmev1.ConditionReady)
	}).WithTimeout(bound).Should(Equal(reason))
}

// waitedForPods lets the time of pods be over, by the world's clock and by the
// begin of Loading.
func (w *world) waitedForPods(ctx context.Context, fd *wasmev1.FilterDeployment) {
	GinkgoHelper()
	loaded := apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionLoaded)
	Expect(loaded.Reason).To(Equal(wasmev1.ReasonLoading))
	loaded.LastTransitionTime = metav1.NewTime(time.Now().Add(-rollout.LoadTimeout))
	w.clock.Step(rollout.LoadTimeout)
	Expect(user.Status().Update(ctx, fd)).To(Succeed())
}

var _ = Describe("For GitOps tools", func() {
	var w *world
	BeforeEach(func(ctx context.Context) { w = newWorld(ctx) })

	// unreachable is an image of the registry, which goes down.
	unreachable := func(ctx context.Context) func(*wasmev1.FilterDeployment) {
		return func(fd *wasmev1.FilterDeployment) {
			image(w.push(ctx, "gone:v1", "gone"))(fd)
			w.registry.Down()
		}
	}
	settled := func(ctx context.Context, changes ...func(*wasmev1.FilterDeployment)) *wasmev1.FilterDeployment {
		GinkgoHelper()
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), append(changes, filterID("f"))...)
		_ = w.settle(ctx, fd)
		return fd
	}

	DescribeTable("kstatus (Flux) and the health check (Argo CD) say of a FilterDeployment, with a stand-in for proxies,",
		func(ctx context.Context, bring func(ctx context.Context) *wasmev1.FilterDeployment, kstatus status.Status, argo, message string) {
			fd := bring(ctx)
			object := fromServer(ctx, client.ObjectKeyFromObject(fd))
			result, err := status.Compute(object)
			Expect(err).NotTo(HaveOccurred())
			Expect(result.Status).To(Equal(kstatus), result.Message)
			got := argoHealth(ctx, object)
			Expect(got.status).To(Equal(argo), got.message)
			Expect(got.message).To(ContainSubstring(message))
		},
		Entry("just created", func(ctx context.Context) *wasmev1.FilterDeployment {
			return w.filterDeployment(ctx, "f", "example.com/hello:v1")
		}, status.InProgressStatus, "Progressing", "the operator has not seen this generation yet"),
		Entry("module being looked up", func(ctx context.Context) *wasmev1.FilterDeployment {
			fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"))
			_, err := w.reconcile(ctx, fd)
			Expect(err).NotTo(HaveOccurred())
			return fd
		}, status.InProgressStatus, "Progressing", "looking up"),
		Entry("programmed, pods not asked", func(ctx context.Context) *wasmev1.FilterDeployment {
			w.deployments(ctx, "a")
			return settled(ctx)
		}, status.CurrentStatus, "Healthy", "on 1 of 1 workloads; pods were not asked what they run"),
		Entry("no workloads", func(ctx context.Context) *wasmev1.FilterDeployment {
			return settled(ctx)
		}, status.CurrentStatus, "Healthy", "no Deployment in namespace"),
		Entry("no pods", func(ctx context.Context) *wasmev1.FilterDeployment {
			w.deployments(ctx, "a")
			w.startSidecars()
			return settled(ctx)
		}, status.CurrentStatus, "Healthy", "no Ready pods"),
		Entry("pods loading", func(ctx context.Context) *wasmev1.FilterDeployment {
			w.deployments(ctx, "a")
			w.startSidecars().start(ctx, "a", 1)
			return settled(ctx)
		}, status.InProgressStatus, "Progressing", "0 of 1 pods run the revision"),
		Entry("loaded", func(ctx context.Context) *wasmev1.FilterDeployment {
			w.deployments(ctx, "a")
			s := w.startSidecars()
			pods := s.start(ctx, "a", 1)
			fd := settled(ctx)
			s.run(plugin(fd, "a", fd.Status.Revision), pods...)
			w.becomesBecause(ctx, fd, wasmev1.ReasonReady)
			return fd
		}, status.CurrentStatus, "Healthy", "1 of 1 pods run the filter in this revision"),
		Entry("fetch failed", func(ctx context.Context) *wasmev1.FilterDeployment {
			w.deployments(ctx, "a")
			s := w.startSidecars()
			s.start(ctx, "a", 1)
			s.failFetches()
			fd := settled(ctx)
			w.waitedForPods(ctx, fd)
			w.becomesBecause(ctx, fd, wasmev1.ReasonFetchFailed)
			return fd
		}, status.InProgressStatus, "Degraded", "could not fetch the module"),
		Entry("configuration refused by the proxy", func(ctx context.Context) *wasmev1.FilterDeployment {
			w.deployments(ctx, "a")
			s := w.startSidecars()
			pods := s.start(ctx, "a", 1)
			fd := settled(ctx)
			s.run(plugin(fd, "a", "14643ae8"), pods...)
			w.waitedForPods(ctx, fd)
			w.becomesBecause(ctx, fd, wasmev1.ReasonOlderRevision)
			return fd
		}, status.InProgressStatus, "Degraded", "keep running an older revision"),
		Entry("pods without sidecar", func(ctx context.Context) *wasmev1.FilterDeployment {
			w.deployments(ctx, "a")
			w.startSidecars().start(ctx, "a", 1, withoutSidecar)
			return settled(ctx)
		}, status.InProgressStatus, "Degraded", "none of 1 Ready pods has a sidecar"),
		Entry("configuration refused", func(ctx context.Context) *wasmev1.FilterDeployment {
			w.deployments(ctx, "a")
			return settled(ctx, config("text"), output(wasmev1.OutputWasmPlugin))
		}, status.FailedStatus, "Degraded", "spec.filter.config"),
		Entry("configuration refused over a good one", func(ctx context.Context) *wasmev1.FilterDeployment {
			w.deployments(ctx, "a")
			fd := settled(ctx, config("text"))
			edit(ctx, fd, output(wasmev1.OutputWasmPlugin))
			_ = w.settle(ctx, fd)
			return fd
		}, status.FailedStatus, "Degraded", "spec.filter.config"),
		Entry("image not found", func(ctx context.Context) *wasmev1.FilterDeployment {
			return settled(ctx, image(w.registry.Host()+"/none:v1"))
		}, status.InProgressStatus, "Degraded", "push the image"),
		Entry("pull Secret not there yet", func(ctx context.Context) *wasmev1.FilterDeployment {
			return settled(ctx, pullSecret("s"))
		}, status.InProgressStatus, "Degraded", "create it, or fix the name"),
		Entry("registry down from the start", func(ctx context.Context) *wasmev1.FilterDeployment {
			w.deployments(ctx, "a")
			return settled(ctx, unreachable(ctx))
		}, status.InProgressStatus, "Degraded", "gone:v1"),
		Entry("registry down when a new image is wanted", func(ctx context.Context) *wasmev1.FilterDeployment {
			w.deployments(ctx, "a")
			fd := settled(ctx)
			edit(ctx, fd, unreachable(ctx))
			_ = w.settle(ctx, fd)
			Expect(reasonOf(fd, wasmev1.ConditionProgrammed)).To(Equal(wasmev1.ReasonLastGoodRevision))
			return fd
		}, status.InProgressStatus, "Degraded", "gone:v1"),
		Entry("registry down when nothing new is wanted", func(ctx context.Context) *wasmev1.FilterDeployment {
			w.deployments(ctx, "a")
			fd := settled(ctx)
			w.registry.Down()
			w.restart(ctx)
			_ = w.settle(ctx, fd)
			w.awaitAnswer(ctx, fd)
			_ = w.settle(ctx, fd)
			return fd
		}, status.CurrentStatus, "Healthy", "on 1 of 1 workloads"),
		Entry("kind of the outputs missing", func(ctx context.Context) *wasmev1.FilterDeployment {
			w.deployments(ctx, "a")
			w.Outputs[wasmev1.OutputEnvoyFilter].Assume(outputkinds.Missing)
			return settled(ctx)
		}, status.InProgressStatus, "Degraded", "does not serve EnvoyFilter"),
		Entry("an object in the way", func(ctx context.Context) *wasmev1.FilterDeployment {
			w.deployments(ctx, "a")
			Expect(user.Create(ctx, &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "a-f"}})).To(Succeed())
			return settled(ctx)
		}, status.InProgressStatus, "Degraded", "1 of 1 workloads failed"),
		Entry("a write that fails", func(ctx context.Context) *wasmev1.FilterDeployment {
			w.deployments(ctx, "a")
			w.intercept(func(write string) error {
				if strings.HasPrefix(write, "create EnvoyFilter") {
					return errors.New("injected")
				}
				return nil
			})
			return settled(ctx)
		}, status.InProgressStatus, "Degraded", "injected"),
		Entry("suspended while Ready", func(ctx context.Context) *wasmev1.FilterDeployment {
			w.deployments(ctx, "a")
			fd := settled(ctx)
			edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Suspend = true })
			_ = w.settle(ctx, fd)
			return fd
		}, status.CurrentStatus, "Suspended", "Ready stays True"),
		Entry("suspended while failing", func(ctx context.Context) *wasmev1.FilterDeployment {
			fd := settled(ctx, image(w.registry.Host()+"/none:v1"))
			edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Suspend = true })
			_ = w.settle(ctx, fd)
			return fd
		}, status.InProgressStatus, "Suspended", "Ready stays False"),
		Entry("suspended from the start", func(ctx context.Context) *wasmev1.FilterDeployment {
			return settled(ctx, func(fd *wasmev1.FilterDeployment) { fd.Spec.Suspend = true })
		}, status.InProgressStatus, "Suspended", "Ready stays Unknown"),
		Entry("changed, and not looked at yet", func(ctx context.Context) *wasmev1.FilterDeployment {
			w.deployments(ctx, "a")
			fd := settled(ctx)
			edit(ctx, fd, config("next"))
			return fd
		}, status.InProgressStatus, "Progressing", "the operator has not seen this generation yet"),
		Entry("fixed, and not looked at yet", func(ctx context.Context) *wasmev1.FilterDeployment {
			fd := settled(ctx, config("text"), output(wasmev1.OutputWasmPlugin))
			edit(ctx, fd, objectConfig)
			return fd
		}, status.InProgressStatus, "Progressing", "the operator has not seen this generation yet"),
		Entry("being deleted", func(ctx context.Context) *wasmev1.FilterDeployment {
			w.deployments(ctx, "a")
			fd := settled(ctx, func(fd *wasmev1.FilterDeployment) { fd.Finalizers = []string{"example.com/hold"} })
			Expect(user.Delete(ctx, fd)).To(Succeed())
			DeferCleanup(func(ctx context.Context) {
				edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Finalizers = nil })
			})
			_, err := w.reconcile(ctx, fd)
			Expect(err).NotTo(HaveOccurred())
			return fd
		}, status.TerminatingStatus, "Progressing", "Pending deletion"),
	)
})

var _ = It("config/argocd adds the health check to argocd-cm and leaves the rest of it alone", Serial, func(ctx context.Context) {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "argocd"}}
	Expect(user.Create(ctx, namespace)).To(Succeed())
	DeferCleanup(func(ctx context.Context) { Expect(user.Delete(ctx, namespace)).To(Succeed()) })
	labels := map[string]string{"app.kubernetes.io/part-of": "argocd"}
	settings := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace.Name, Name: "argocd-cm", Labels: labels}, Data: map[string]string{"url": "https://argocd.example.com"}}
	Expect(user.Create(ctx, settings)).To(Succeed())

	patch, err := controlPlane.Kubectl(ctx, "kustomize", "../config/argocd")
	Expect(err).NotTo(HaveOccurred())
	file := GinkgoT().TempDir() + "/check.yaml"
	Expect(os.WriteFile(file, []byte(patch), 0o600)).To(Succeed())
	_, err = controlPlane.Kubectl(ctx, "patch", "configmap", "argocd-cm", "-n", "argocd", "--patch-file", file)
	Expect(err).NotTo(HaveOccurred())

	check, err := os.ReadFile(argoCheck)
	Expect(err).NotTo(HaveOccurred())
	Expect(user.Get(ctx, client.ObjectKeyFromObject(settings), settings)).To(Succeed())
	Expect(settings.Labels).To(Equal(labels))
	Expect(settings.Data).To(Equal(map[string]string{"url": "https://argocd.example.com", argoCheckKey: string(check)}))
})

var _ = DescribeTable("The check of Applications in config/gitops passes on what the Application says:",
	func(ctx context.Context, status string, want health) {
		text, err := os.ReadFile("../config/gitops/argocd/settings.yaml")
		Expect(err).NotTo(HaveOccurred())
		var settings corev1.ConfigMap
		Expect(yaml.UnmarshalStrict(text, &settings)).To(Succeed())
		object := &unstructured.Unstructured{}
		Expect(yaml.Unmarshal([]byte(status), &object.Object)).To(Succeed())
		Expect(runCheck(ctx, settings.Data["resource.customizations.health.argoproj.io_Application"], object)).To(Equal(want))
	},
	Entry("not seen yet", "spec: {}", health{"Progressing", ""}),
	Entry("no health yet", "status: {sync: {status: OutOfSync}}", health{"Progressing", ""}),
	Entry("healthy", "status: {health: {status: Healthy}}", health{"Healthy", ""}),
	Entry("degraded", "status: {health: {status: Degraded, message: m}}", health{"Degraded", "m"}),
)

// apply applies a manifest server-side, without force: a conflict is an error.
func apply(ctx context.Context, manifest *unstructured.Unstructured, manager string, options ...client.ApplyOption) *unstructured.Unstructured {
	GinkgoHelper()
	applied := manifest.DeepCopy()
	options = append(options, client.FieldOwner(manager))
	Expect(user.Apply(ctx, client.ApplyConfigurationFromUnstructured(applied), options...)).To(Succeed())
	return applied
}

// manifest is a FilterDeployment as it stands in a repository.
func manifest(namespace, image, spec string) *unstructured.Unstructured {
	GinkgoHelper()
	object := &unstructured.Unstructured{}
	Expect(yaml.Unmarshal([]byte(spec), &object.Object)).To(Succeed())
	object.SetGroupVersionKind(wasmev1.GroupVersion.WithKind("FilterDeployment"))
	object.SetNamespace(namespace)
	object.SetName("f")
	Expect(unstructured.SetNestedField(object.Object, image, "spec", "filter", "image")).To(Succeed())
	return object
}

// owned are the top-level fields that a manager owns, by subresource.
func owned(entry metav1.ManagedFieldsEntry) []string {
	GinkgoHelper()
	var fields map[string]any
	Expect(json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields)).To(Succeed())
	var names []string
	for name := range fields {
		names = append(names, entry.Subresource+"/"+name)
	}
	slices.Sort(names)
	return names
}

var _ = DescribeTable("Server-side apply and the operator do not get into each other's way:",
	func(ctx context.Context, manager string) {
		w := newWorld(ctx)
		w.deployments(ctx, "a")
		object := manifest(w.namespace, w.push(ctx, "hello:v1", "hello"), "spec: {filter: {id: f, imagePullOptions: {plainHttp: true}, config: hello}}")
		apply(ctx, object, manager)
		fd := &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "f"}}

		By("applying it again ahead of each write")
		w.intercept(func(string) error { apply(ctx, object, manager); return nil })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		Expect(fd.Generation).To(BeEquivalentTo(1))

		By("applying other labels ahead of each write of the status")
		Expect(unstructured.SetNestedField(object.Object, "goodbye", "spec", "filter", "config")).To(Succeed())
		apply(ctx, object, manager)
		changes := 0
		w.intercept(func(write string) error {
			if strings.HasPrefix(write, "patch status") && changes < 3 {
				changes++
				object.SetLabels(map[string]string{"change": fmt.Sprint(changes)})
				apply(ctx, object, manager)
			}
			return nil
		})
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(changes).To(Equal(3))
		Expect(fd).To(beReady("1/1"))
		Expect(fd.Generation).To(BeEquivalentTo(2), "one change of the spec, by its owner")

		By("looking who owns what")
		Expect(fd.ManagedFields).To(HaveLen(2))
		for _, entry := range fd.ManagedFields {
			if entry.Manager == manager {
				Expect(owned(entry)).To(Equal([]string{"/f:metadata", "/f:spec"}))
			} else {
				Expect(owned(entry)).To(Equal([]string{"status/f:status"}))
			}
		}

		By("applying it once more: there is no difference")
		w.intercept(nil)
		w.written()
		Expect(apply(ctx, object, manager).GetResourceVersion()).To(Equal(fd.ResourceVersion))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.written()).To(BeEmpty())
	},
	Entry("Argo CD's", "argocd-controller"),
	Entry("Flux's", "kustomize-controller"),
)

// defaults are the paths at which the CRD has defaults.
func defaults(path []string, schema apiextensionsv1.JSONSchemaProps) map[string]any {
	GinkgoHelper()
	found := map[string]any{}
	if schema.Default != nil {
		var value any
		Expect(json.Unmarshal(schema.Default.Raw, &value)).To(Succeed())
		found[strings.Join(path, ".")] = value
	}
	for name, property := range schema.Properties {
		maps.Copy(found, defaults(append(slices.Clone(path), name), property))
	}
	return found
}

// contains reports whether an object has every field of a manifest, with its value.
func contains(object, manifest any) bool {
	fields, ok := manifest.(map[string]any)
	if !ok {
		return fmt.Sprint(object) == fmt.Sprint(manifest)
	}
	inside, ok := object.(map[string]any)
	for name, value := range fields {
		field, found := inside[name]
		ok = ok && found && contains(field, value)
	}
	return ok
}

var _ = DescribeTable("A manifest that was applied shows no difference from then on:",
	func(ctx context.Context, spec string, complete bool) {
		w := newWorld(ctx)
		object := manifest(w.namespace, "127.0.0.1:1/f:v1", spec)
		apply(ctx, object, "argocd-controller")
		key := client.ObjectKeyFromObject(object)
		fresh := fromServer(ctx, key)
		_, err := w.reconcile(ctx, &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}})
		Expect(err).NotTo(HaveOccurred())
		before := fromServer(ctx, key)
		Expect(before.Object["spec"]).To(Equal(fresh.Object["spec"]))
		Expect(contains(before.Object["spec"], object.Object["spec"])).To(BeTrue(), "nothing of it is written otherwise")

		dry := apply(ctx, object, "argocd-controller", client.DryRunAll)
		Expect(dry.Object["spec"]).To(Equal(before.Object["spec"]))
		Expect(dry.Object["status"]).To(Equal(before.Object["status"]))
		Expect(dry.GetResourceVersion()).To(Equal(before.GetResourceVersion()))
		Expect(apply(ctx, object, "argocd-controller").GetResourceVersion()).To(Equal(before.GetResourceVersion()))
		Expect(apply(ctx, object, "kustomize-controller").GetGeneration()).To(BeEquivalentTo(1), "another owner of the same")

		if complete {
			By("having every default of the CRD in it")
			var crd apiextensionsv1.CustomResourceDefinition
			Expect(user.Get(ctx, client.ObjectKey{Name: "filterdeployments.wasme.io"}, &crd)).To(Succeed())
			all := defaults(nil, *crd.Spec.Versions[0].Schema.OpenAPIV3Schema)
			Expect(all).To(HaveKeyWithValue("spec.filter.patchContext", "inbound"))
			for path, value := range all {
				got, _, err := unstructured.NestedFieldNoCopy(fresh.Object, strings.Split(path, ".")...)
				Expect(err).NotTo(HaveOccurred())
				Expect(fmt.Sprint(got)).To(Equal(fmt.Sprint(value)), path)
			}
		}
	},
	Entry("all defaults left out", "spec: {deployment: {istio: {}}, filter: {}}", true),
	Entry("istio left out too", "spec: {deployment: {}, filter: {}}", false),
	Entry("deployment left out too", "spec: {filter: {}}", false),
	Entry("all defaults written out", "spec: {deployment: {istio: {kind: Deployment}}, filter: {failStrategy: FailReload, patchContext: inbound}}", true),
	Entry("what is empty or zero", "spec: {suspend: false, deployment: {istio: {kind: '', labels: {}}}, filter: {config: '', priority: 0, rootID: ''}}", false),
	Entry("an Any", "spec: {filter: {config: {'@type': type.googleapis.com/google.protobuf.StringValue, value: world}}}", false),
	Entry("an object", "spec: {filter: {config: {a: 1, b: [1.5, true, ''], c: {}}}}", false),
)
