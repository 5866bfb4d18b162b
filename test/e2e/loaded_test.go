package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
)

// loadTime is more than pods may take before Loaded is False.
const loadTime = 90 * time.Second

// loaded is the reason of Loaded, and the counts of pods, for the newest spec.
func loaded(ctx context.Context, fd *wasmev1.FilterDeployment) func() string {
	return func() string {
		var live wasmev1.FilterDeployment
		if err := admin.Get(ctx, client.ObjectKeyFromObject(fd), &live); err != nil {
			return err.Error()
		}
		found := apimeta.FindStatusCondition(live.Status.Conditions, wasmev1.ConditionLoaded)
		if found == nil || found.ObservedGeneration != live.Generation || live.Status.Summary == nil {
			return ""
		}
		return found.Reason + " " + live.Status.Summary.PodsReady
	}
}

// metricsOf are a FilterDeployment's metrics as the operator serves them, without its name.
func metricsOf(ctx context.Context, fd *wasmev1.FilterDeployment) func() []string {
	whose := fmt.Sprintf("name=%q,namespace=%q", fd.Name, fd.Namespace)
	return func() []string {
		served := mesh.Fetch(ctx, operator.MetricsURL)
		Expect(served).NotTo(BeEmpty())
		found := []string{}
		for line := range strings.Lines(string(served)) {
			if before, after, ours := strings.Cut(line, whose); ours {
				found = append(found, before+strings.TrimSpace(after))
			}
		}
		return found
	}
}

// workloadEvents are the reasons of the events about a FilterDeployment's workloads.
func workloadEvents(ctx context.Context, fd *wasmev1.FilterDeployment) func() ([]string, error) {
	return func() ([]string, error) {
		var list eventsv1.EventList
		err := admin.List(ctx, &list, client.InNamespace(fd.Namespace))
		found := []string{}
		for _, event := range list.Items {
			if event.Regarding.UID == fd.UID && strings.HasPrefix(event.Reason, "Workload") {
				found = append(found, event.Reason)
			}
		}
		return found, err
	}
}

var _ = Describe("Proof from the pods", func() {
	It("comes with the filter, and goes with a configuration that it refuses", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		first := workload(namespace, "app", map[string]string{"app": "app"})
		second := first
		second.Replica = 1
		pods := []*mesh.Running{run(ctx, first), run(ctx, second)}
		fd := filterDeployment(namespace, push(ctx, "hello"), "before")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		Eventually(loaded(ctx, fd)).Should(Equal("Loaded 2/2"))
		for _, pod := range pods {
			meshtest.EventuallyAnswers(ctx, pod, "before") // an open connection keeps the old configuration for a while
		}

		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("refuse") })
		Eventually(loaded(ctx, fd), loadTime).Should(Equal("OlderRevision 0/2"))
		Eventually(metricsOf(ctx, fd)).Should(ContainElements(
			`wasme_filterdeployment_ready{,status="True"} 0`, `wasme_filterdeployment_ready{,status="False"} 1`,
			"wasme_filterdeployment_pods{} 2", "wasme_filterdeployment_pods_loaded{} 0",
		))
		Expect(readyReason(ctx, fd)()).To(Equal(wasmev1.ReasonOlderRevision))
		for _, pod := range pods {
			Expect(mesh.Ask(ctx, pod.URL)).To(Equal(mesh.Answered(200, "before")))
		}
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("after") })
		Eventually(loaded(ctx, fd)).Should(Equal("Loaded 2/2"))
		for _, pod := range pods {
			Expect(mesh.Ask(ctx, pod.URL)).To(Equal(mesh.Answered(200, "after")))
		}
		Eventually(metricsOf(ctx, fd)).Should(ContainElements(
			`wasme_filterdeployment_ready{,status="True"} 1`, "wasme_filterdeployment_pods_loaded{} 2",
		))
		Eventually(workloadEvents(ctx, fd)).Should(ConsistOf("WorkloadLoaded", "WorkloadNotLoaded", "WorkloadLoaded"))
		Expect(admin.Delete(ctx, fd)).To(Succeed())
		Eventually(metricsOf(ctx, fd)).Should(BeEmpty())
	})

	It("is what kubectl wait waits for", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		pod := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		fd := filterDeployment(namespace, push(ctx, "hello"), "before")
		fd.Spec.Rollout = nil
		Expect(admin.Create(ctx, fd)).To(Succeed())
		for _, configuration := range []string{"before", "after"} {
			change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text(configuration) })
			_, err := theMesh.Kubectl(ctx, "wait", "filterdeployment/hello", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
			Expect(err).NotTo(HaveOccurred())
			Expect(loaded(ctx, fd)()).To(Equal("Loaded 1/1"), "of this generation")
			meshtest.EventuallyAnswers(ctx, pod, configuration)
		}
	})

	It("names the one pod whose Envoy refuses the listener that is to hold the filter", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		healthy := workload(namespace, "app", map[string]string{"app": "app"})
		healthy.AgentMetrics = true // it tells what it passed on to Envoy
		broken := healthy
		broken.Replica, broken.Metadata = 1, map[string]string{"BROKEN": "yes"}
		pods := []*mesh.Running{run(ctx, healthy), run(ctx, broken)}
		Expect(admin.Create(ctx, brokenListener(namespace, map[string]any{"BROKEN": "yes"}))).To(Succeed())
		Eventually(func() (int, error) { return pods[1].RefusedListeners(ctx) }).Should(BeNumerically(">", 0))

		fd := filterDeployment(namespace, push(ctx, "hello"), "before")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, pods[0], "before")
		Eventually(loaded(ctx, fd), loadTime).Should(Equal("Refused 1/2"))
		Expect(apimeta.FindStatusCondition(live(ctx, fd).Status.Conditions, wasmev1.ConditionReady).Message).To(ContainSubstring(pods[1].Pod))
		Expect(mesh.Ask(ctx, pods[1].URL)).To(Equal(mesh.Answered(200)), "its former listener keeps serving")
	})

	It("is missing without sidecars", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		running := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		var injected corev1.Pod
		key := client.ObjectKey{Namespace: namespace, Name: running.Pod}
		Expect(admin.Get(ctx, key, &injected)).To(Succeed())
		bare := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "bare", Labels: injected.Labels, OwnerReferences: injected.OwnerReferences},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "example.invalid/app:v1"}}},
		}
		Expect(admin.Delete(ctx, &injected, client.GracePeriodSeconds(0))).To(Succeed())
		Expect(admin.Create(ctx, bare)).To(Succeed())
		bare.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
		Expect(admin.Status().Update(ctx, bare)).To(Succeed())

		fd := filterDeployment(namespace, push(ctx, "hello"), "before")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonNoSidecar))
	})
})

var _ = Describe("A fetch that failed", long, func() {
	// One outage of the module server for all kinds: it takes a minute.
	It("is renewed once the module can be fetched, by each kind of output", func(ctx SpecContext) {
		kinds := []wasmev1.Output{wasmev1.OutputEnvoyFilter, wasmev1.OutputWasmPlugin, wasmev1.OutputTrafficExtension}
		pods, fds := map[wasmev1.Output]*mesh.Running{}, map[wasmev1.Output]*wasmev1.FilterDeployment{}
		for _, kind := range kinds {
			namespace := newNamespace(ctx)
			pods[kind] = run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
			fds[kind] = filterDeployment(namespace, push(ctx, "hello"), "")
			fds[kind].Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Output: kind, Selector: &metav1.LabelSelector{}}
			Expect(admin.Create(ctx, fds[kind])).To(Succeed())
			Eventually(loaded(ctx, fds[kind])).Should(Equal("Loaded 1/1"), "by a "+string(kind))
		}

		address := operator.ModuleServerURL[len("http://"):]
		Expect(operator.Stop()).To(Succeed())
		DeferCleanup(func(ctx SpecContext) {
			Expect(operator.Stop()).To(Succeed())
			startOperator(ctx)
		})
		started := make(chan error, len(kinds))
		for _, kind := range kinds {
			Expect(pods[kind].StopSidecar()).To(Succeed())
			go func() { started <- pods[kind].StartSidecar(ctx) }()
		}
		for _, kind := range kinds {
			meshtest.EventuallyIs(ctx, pods[kind], mesh.Answered(403)) // its agent gave up
		}

		var err error
		operator, err = theMesh.StartOperator(ctx, mesh.OperatorOptions{ModuleServer: address, Args: []string{"--image-poll-interval=2s"}})
		Expect(err).NotTo(HaveOccurred())
		for _, kind := range kinds {
			Eventually(meshtest.Asking(ctx, pods[kind].URL), 2*loadTime).Should(Equal(mesh.Answered(200, "world")), "by a "+string(kind))
			Eventually(loaded(ctx, fds[kind])).Should(Equal("Loaded 1/1"), "by a "+string(kind))
			Eventually(started).Should(Receive()) // after 30 s of 403 it said so; the pod keeps running
		}
	})
})

var _ = Describe("Each kind of output", func() {
	for _, kind := range []wasmev1.Output{wasmev1.OutputWasmPlugin, wasmev1.OutputTrafficExtension} {
		It(fmt.Sprintf("runs the filter: %s", kind), func(ctx SpecContext) {
			namespace := newNamespace(ctx)
			pod := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
			fd := filterDeployment(namespace, push(ctx, "hello"), "")
			fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Output: kind, Selector: &metav1.LabelSelector{}}
			fd.Spec.Filter.Config = &wasmev1.Configuration{Raw: []byte(`{"a":1}`)}
			Expect(admin.Create(ctx, fd)).To(Succeed())
			meshtest.EventuallyAnswers(ctx, pod, `{"a":1}`)
			Eventually(loaded(ctx, fd)).Should(Equal("Loaded 1/1"))

			change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = &wasmev1.Configuration{Raw: []byte(`{"a":2}`)} })
			meshtest.EventuallyAnswers(ctx, pod, `{"a":2}`)

			By("taking it back when it lost its labels")
			object := &metav1.PartialObjectMetadata{}
			object.SetGroupVersionKind(schema.GroupVersionKind{Group: "extensions.istio.io", Version: "v1alpha1", Kind: string(kind)})
			object.Namespace, object.Name = namespace, "app-hello."+namespace
			Expect(admin.Patch(ctx, object, client.RawPatch("application/merge-patch+json", []byte(`{"metadata": {"labels": null}}`)))).To(Succeed())
			Eventually(func() map[string]string {
				Expect(admin.Get(ctx, client.ObjectKeyFromObject(object), object)).To(Succeed())
				return object.Labels
			}).ShouldNot(BeEmpty())

			By("changing to another kind")
			Eventually(func() error {
				if err := admin.Get(ctx, client.ObjectKeyFromObject(fd), fd); err != nil {
					return err
				}
				fd.Spec.Deployment.Istio.Output = wasmev1.OutputEnvoyFilter
				return admin.Update(ctx, fd)
			}).Should(Succeed())
			Eventually(func() []string { return outputsOf(ctx, namespace) }).Should(HaveLen(1))
			meshtest.EventuallyAnswers(ctx, pod, `{"a":2}`)
		})
	}
})

// brokenListener puts an HTTP filter that no Envoy knows before the router of the
// proxies with this metadata.
func brokenListener(namespace string, metadata map[string]any) client.Object {
	object := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"configPatches": []any{map[string]any{
		"applyTo": "HTTP_FILTER",
		"match":   map[string]any{"context": "SIDECAR_INBOUND", "proxy": map[string]any{"metadata": metadata}},
		"patch": map[string]any{"operation": "INSERT_FIRST", "value": map[string]any{
			"name": "unknown",
			"typed_config": map[string]any{
				"@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "type_url": "type.googleapis.com/wasme.test.Unknown",
			},
		}},
	}}}}}
	object.SetGroupVersionKind(schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1alpha3", Kind: "EnvoyFilter"})
	object.SetNamespace(namespace)
	object.SetName("broken")
	return object
}
