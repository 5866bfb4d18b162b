package e2e

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
)

// streamPause is the least time from one request of a stream to the next: short
// beside any failure that a client would see, and long enough to leave the
// processors to what the spec is about.
const streamPause = 5 * time.Millisecond

// stream asks a workload, on which a filter runs, again and again until it is
// ended. What was not answered with 200, or not by the filter, has failed.
type stream struct {
	end    context.CancelFunc
	done   sync.WaitGroup
	all    atomic.Int64
	failed atomic.Int64
}

func startStream(ctx context.Context, url string) *stream {
	return startStreamEvery(ctx, streamPause, url)
}

func startStreamEvery(ctx context.Context, pause time.Duration, url string) *stream {
	s := &stream{}
	ctx, s.end = context.WithCancel(ctx)
	s.done.Go(func() {
		wait.NonSlidingUntilWithContext(ctx, func(ctx context.Context) { s.ask(ctx, url) }, pause)
	})
	return s
}

func (s *stream) ask(ctx context.Context, url string) {
	got := mesh.Ask(ctx, url)
	if ctx.Err() != nil {
		return
	}
	asked := s.all.Add(1)
	if got.Status != http.StatusOK || !got.Filtered() {
		s.failed.Add(1)
		GinkgoWriter.Printf("request %d to %s: %+v\n", asked, url, got)
	}
}

func (s *stream) stop() (all, failed int64) {
	s.end()
	s.done.Wait()
	return s.all.Load(), s.failed.Load()
}

var _ = Describe("What Envoy answers", func() {
	It("follows a FilterDeployment on bookinfo from its first configuration to its deletion", func(ctx SpecContext) {
		var bookinfo []*mesh.Running
		namespace := newNamespace(ctx)
		for _, w := range mesh.Bookinfo() {
			w.Namespace = namespace
			bookinfo = append(bookinfo, run(ctx, w))
		}
		fd := filterDeployment(namespace, push(ctx, "hello"), "world")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		for _, w := range bookinfo {
			meshtest.EventuallyAnswers(ctx, w, "world")
		}
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonReady))

		By("changing the configuration under load")
		load := startStream(ctx, bookinfo[0].URL)
		for _, value := range []string{"goodbye", "1", "2", "3"} {
			change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text(value) })
			for _, w := range bookinfo {
				meshtest.EventuallyAnswers(ctx, w, value)
			}
		}
		By("giving the module a configuration that it refuses")
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("refuse") })
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonLoading))
		for _, w := range bookinfo {
			Eventually(refusals(ctx, w)).Should(BeNumerically(">", 0), "Envoy never saw the configuration")
			Expect(mesh.Ask(ctx, w.URL)).To(Equal(mesh.Answered(200, "3")), "the last good one serves")
		}
		By("fixing it")
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("fixed") })
		for _, w := range bookinfo {
			meshtest.EventuallyAnswers(ctx, w, "fixed")
		}
		all, failed := load.stop()
		Expect(failed).To(BeZero(), "of %d requests", all)
		Expect(all).To(BeNumerically(">", 100))

		By("deleting it")
		Expect(admin.Delete(ctx, fd)).To(Succeed())
		for _, w := range bookinfo {
			meshtest.EventuallyAnswers(ctx, w)
		}
		Eventually(func() []string { return outputsOf(ctx, namespace) }).Should(BeEmpty())
		Eventually(func() []appsv1.ControllerRevision { return revisionsOf(ctx, namespace) }).Should(BeEmpty())
	})

	It("has the header on httpbin from a filter without configuration, in both shapes of pod", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		httpbin := mesh.HTTPBin()
		httpbin.Namespace = namespace
		var pods []*mesh.Running
		for replica, native := range []bool{true, false} {
			httpbin.Replica, httpbin.NativeSidecar = replica, native
			pods = append(pods, run(ctx, httpbin))
		}
		Expect(admin.Create(ctx, filterDeployment(namespace, push(ctx, "hello"), ""))).To(Succeed())
		for _, pod := range pods {
			meshtest.EventuallyAnswers(ctx, pod, "world")
		}
	})

	DescribeTable("reaches each kind of workload", func(ctx SpecContext, kind mesh.Kind) {
		namespace := newNamespace(ctx)
		w := workload(namespace, "app", map[string]string{"app": "app"})
		w.Kind = kind
		running := run(ctx, w)
		fd := filterDeployment(namespace, push(ctx, "hello"), "of a kind")
		fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Kind: string(kind)}
		Expect(admin.Create(ctx, fd)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, running, "of a kind")
	},
		Entry(nil, mesh.DaemonSet),
		Entry(nil, mesh.StatefulSet),
	)

	DescribeTable("has the filter on the traffic of the patch context", func(ctx SpecContext, patchContext wasmev1.PatchContext, inbound, outbound mesh.Answer) {
		namespace := newNamespace(ctx)
		running := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		fd := filterDeployment(namespace, push(ctx, "hello"), "seen")
		fd.Spec.Filter.PatchContext = patchContext
		Expect(admin.Create(ctx, fd)).To(Succeed())
		both := func() []mesh.Answer {
			return []mesh.Answer{mesh.Ask(ctx, running.URL), mesh.Ask(ctx, running.OutboundURL, "Host", mesh.OutboundHost)}
		}
		Eventually(both).Should(Equal([]mesh.Answer{inbound, outbound}))
	},
		Entry(nil, wasmev1.PatchContextInbound, mesh.Answered(200, "seen"), mesh.Answered(200)),
		Entry(nil, wasmev1.PatchContextOutbound, mesh.Answered(200), mesh.Answered(200, "seen")),
		Entry(nil, wasmev1.PatchContextAny, mesh.Answered(200, "seen"), mesh.Answered(200, "seen")),
	)

	It("has the filter on what a gateway receives", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		w := workload(namespace, "ingress", map[string]string{"istio": "ingress"})
		w.Gateway, w.Port = true, 8080
		gateway := run(ctx, w)
		fd := filterDeployment(namespace, push(ctx, "hello"), "at the gate")
		fd.Spec.Filter.PatchContext = wasmev1.PatchContextGateway
		fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Labels: map[string]wasmev1.LabelValue{"istio": "ingress"}}
		Expect(admin.Create(ctx, fd)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, gateway, "at the gate")
	})

	// All strategies in one spec: each pod waits half a minute for the other module.
	It("is what the fail strategy says when the first module refuses its configuration", func(ctx SpecContext) {
		strategies := map[wasmev1.FailStrategy]mesh.Answer{
			wasmev1.FailReload: mesh.Answered(403),
			wasmev1.FailClosed: mesh.Answered(403),
			wasmev1.FailOpen:   mesh.Answered(200),
		}
		pods, fds := map[wasmev1.FailStrategy]*mesh.Running{}, map[wasmev1.FailStrategy]*wasmev1.FilterDeployment{}
		for strategy, want := range strategies {
			namespace := newNamespace(ctx)
			pods[strategy] = run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
			fds[strategy] = filterDeployment(namespace, push(ctx, "refuse"), "")
			fds[strategy].Spec.Filter.FailStrategy = strategy
			Expect(admin.Create(ctx, fds[strategy])).To(Succeed())
			Eventually(refusals(ctx, pods[strategy])).Should(BeNumerically(">", 0), string(strategy))
			Eventually(meshtest.Asking(ctx, pods[strategy].URL)).Should(Equal(want), string(strategy))
		}
		By("fixing it with another module")
		for _, fd := range fds {
			change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Image = push(ctx, "hello") })
		}
		// It is held back for as long as the pod may take to load the first one.
		for strategy, pod := range pods {
			Eventually(meshtest.Asking(ctx, pod.URL), loadTime).Should(Equal(mesh.Answered(200, "world")), string(strategy))
		}
	})

	It("keeps the last good module when an update imports a function that no host has", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		running := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		fd := filterDeployment(namespace, push(ctx, "hello"), "good")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, running, "good")
		load := startStream(ctx, running.URL)
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Image = push(ctx, "import") })
		Eventually(refusals(ctx, running)).Should(BeNumerically(">", 0))
		Expect(mesh.Ask(ctx, running.URL)).To(Equal(mesh.Answered(200, "good")))
		all, failed := load.stop()
		Expect(failed).To(BeZero(), "of %d requests", all)
	})

	It("is back after a request that makes the module trap", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		running := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		Expect(admin.Create(ctx, filterDeployment(namespace, push(ctx, "trap"), ""))).To(Succeed())
		meshtest.EventuallyAnswers(ctx, running, "world")
		Expect(mesh.Ask(ctx, running.URL, "X-Crash", "1").Status).To(Equal(http.StatusServiceUnavailable))
		meshtest.EventuallyAnswers(ctx, running, "world")
	})

	It("leaves a workload alone whose labels are a superset of the selected one's", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		selected := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		superset := workload(namespace, "app-canary", map[string]string{"app": "app", "track": "canary"})
		superset.ObjectLabels = map[string]string{"not": "selected"}
		other := run(ctx, superset)
		fd := filterDeployment(namespace, push(ctx, "hello"), "")
		fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Labels: map[string]wasmev1.LabelValue{"app": "app"}}
		Expect(admin.Create(ctx, fd)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, selected, "world")
		Consistently(meshtest.Asking(ctx, other.URL), 2*time.Second).Should(Equal(mesh.Answered(200)))

		By("selecting it too: each workload has its own object and keeps its filter")
		change(ctx, fd, func(*wasmev1.FilterSpec) { fd.Spec.Deployment.Istio.Labels = nil })
		meshtest.EventuallyAnswers(ctx, other, "world")
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("both") })
		meshtest.EventuallyAnswers(ctx, other, "both")
		meshtest.EventuallyAnswers(ctx, selected, "both")
	})

	It("has the filter on a workload that comes later, and no more on one that is relabelled", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		fd := filterDeployment(namespace, push(ctx, "hello"), "")
		fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Labels: map[string]wasmev1.LabelValue{"filtered": "yes"}}
		Expect(admin.Create(ctx, fd)).To(Succeed())
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonNoWorkloads))
		later := workload(namespace, "later", map[string]string{"app": "later"})
		later.ObjectLabels = map[string]string{"filtered": "yes"}
		running := run(ctx, later)
		meshtest.EventuallyAnswers(ctx, running, "world")

		deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "later"}}
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata": {"labels": {"filtered": "no"}}}`))
		Expect(admin.Patch(ctx, deployment, patch)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, running)
	})

	It("comes back when someone deletes or changes the EnvoyFilter", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		running := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		Expect(admin.Create(ctx, filterDeployment(namespace, push(ctx, "hello"), ""))).To(Succeed())
		meshtest.EventuallyAnswers(ctx, running, "world")
		object := &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "app-hello." + namespace}}
		before := object.DeepCopy()
		Expect(admin.Get(ctx, client.ObjectKeyFromObject(object), before)).To(Succeed())

		By("deleting it")
		Expect(admin.Delete(ctx, object)).To(Succeed())
		Eventually(func() error { return admin.Get(ctx, client.ObjectKeyFromObject(object), object) }).Should(Succeed())
		meshtest.EventuallyAnswers(ctx, running, "world")

		By("emptying it")
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec": {"configPatches": []}}`))
		Expect(admin.Patch(ctx, object, patch)).To(Succeed())
		Eventually(func() int {
			Expect(admin.Get(ctx, client.ObjectKeyFromObject(object), object)).To(Succeed())
			return len(object.Spec.ConfigPatches)
		}).Should(Equal(len(before.Spec.ConfigPatches)))
		meshtest.EventuallyAnswers(ctx, running, "world")
	})

	It("reaches the older pods of a rollout that changes their labels", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		w := workload(namespace, "app", map[string]string{"app": "app", "version": "v1"})
		deployment := &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "app"},
			Spec: appsv1.DeploymentSpec{
				Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "app"}},
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: w.Labels},
					Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "example.invalid/echo:v1"}}},
				},
			},
		}
		Expect(admin.Create(ctx, deployment)).To(Succeed())
		older := run(ctx, w)
		fd := filterDeployment(namespace, push(ctx, "hello"), "before")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, older, "before")

		patch := client.RawPatch(types.MergePatchType, []byte(`{"spec": {"template": {"metadata": {"labels": {"version": "v2"}}}}}`))
		Expect(admin.Patch(ctx, deployment, patch)).To(Succeed())
		w.Labels, w.Replica = map[string]string{"app": "app", "version": "v2"}, 1
		newer := run(ctx, w)
		meshtest.EventuallyAnswers(ctx, newer, "before")
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("after") })
		meshtest.EventuallyAnswers(ctx, newer, "after")
		meshtest.EventuallyAnswers(ctx, older, "after")
	})

	DescribeTable("is filtered as long as pods of a deleted workload serve", func(ctx SpecContext, kind mesh.Kind) {
		namespace := newNamespace(ctx)
		w := workload(namespace, "app", map[string]string{"app": "app"})
		w.Kind = kind
		pod := run(ctx, w)
		fd := filterDeployment(namespace, push(ctx, "hello"), "still here")
		fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Kind: string(kind)}
		Expect(admin.Create(ctx, fd)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, pod, "still here")

		object := client.Object(&appsv1.Deployment{})
		if kind == mesh.StatefulSet {
			object = &appsv1.StatefulSet{}
		}
		object.SetNamespace(namespace)
		object.SetName("app")
		Expect(admin.Delete(ctx, object, client.PropagationPolicy(metav1.DeletePropagationOrphan))).To(Succeed())
		Eventually(func() string { return message(ctx, fd) }).Should(ContainSubstring("outputs of deleted workloads stay until their pods are gone: %s/app (pods: 1)", kind))
		Expect(mesh.Ask(ctx, pod.URL)).To(Equal(mesh.Answered(http.StatusOK, "still here")))
		Expect(pod.Stop(ctx)).To(Succeed())
		Eventually(func() []string { return outputsOf(ctx, namespace) }).Should(BeEmpty())
	}, Entry("a Deployment", mesh.Deployment), Entry("a StatefulSet", mesh.StatefulSet))
})
