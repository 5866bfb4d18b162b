package controllers

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// sidecars stand in for the sidecars of more pods than the machine can run: one
// server that answers at every address of 127.0.0.0/8.
type sidecars struct {
	*world
	port int32
	pods int

	mu   sync.Mutex
	runs map[netip.Addr]string
}

// startSidecars has the operator ask pods.
func (w *world) startSidecars() *sidecars {
	GinkgoHelper()
	s := &sidecars{world: w, runs: map[netip.Addr]string{}}
	listener, err := net.Listen("tcp4", ":0")
	Expect(err).NotTo(HaveOccurred())
	s.port = int32(listener.Addr().(*net.TCPAddr).Port)
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: s, ReadHeaderTimeout: bound}}
	server.Start()
	DeferCleanup(server.Close)
	w.Prober = dataplane.New(func(types.NamespacedName) {})
	w.startProber()
	return s
}

func (w *world) startProber() {
	GinkgoHelper()
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- w.Prober.Start(ctx) }()
	DeferCleanup(func() {
		stop()
		Expect(<-stopped).To(Succeed())
	})
}

func (s *sidecars) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	local := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr).AddrPort().Addr().Unmap()
	s.mu.Lock()
	plugin := s.runs[local]
	s.mu.Unlock()
	_, _ = io.WriteString(w, "istio_agent_startup_duration_seconds 1\n")
	if label, named := strings.CutPrefix(plugin, "wasm_filter."); named {
		fmt.Fprintf(w, "envoy_wasm_vm_reload{wasm_filter=%q} 0\n", label)
	} else if plugin != "" {
		fmt.Fprintf(w, "envoy_wasm_%s_vm_reload{} 0\n", strings.NewReplacer(".", "_", "-", "_").Replace(plugin))
	}
}

// start creates Ready pods of a Deployment, and returns their addresses.
func (s *sidecars) start(ctx context.Context, deployment string, count int) []netip.Addr {
	GinkgoHelper()
	selector, template := podTemplate(deployment)
	owner := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: deployment + "-5d8"}, Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: template}}
	Expect(user.Create(ctx, owner)).To(Succeed())
	addresses := make([]netip.Addr, 0, count)
	for range count {
		s.pods++
		address := netip.AddrFrom4([4]byte{127, 77, byte(s.pods >> 8), byte(s.pods)})
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: s.namespace, Name: fmt.Sprintf("%s-5d8-%d", deployment, s.pods),
				Labels:          map[string]string{"app": deployment, appsv1.DefaultDeploymentUniqueLabelKey: "5d8"},
				Annotations:     map[string]string{agentPortAnnotation: fmt.Sprint(s.port)},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: owner.Name, UID: owner.UID, Controller: new(true)}},
			},
			Spec: corev1.PodSpec{Containers: []corev1.Container{
				{Name: "app", Image: "app"},
				{Name: sidecarContainer, Image: "proxyv2", Ports: []corev1.ContainerPort{{Name: statsPortName, ContainerPort: s.port}}},
			}},
		}
		Expect(user.Create(ctx, pod)).To(Succeed())
		pod.Status.PodIP = address.String()
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Now().Add(-time.Hour))}}
		Expect(user.Status().Update(ctx, pod)).To(Succeed())
		addresses = append(addresses, address)
	}
	Eventually(ctx, func(g Gomega) {
		ready, err := s.readyPods(ctx, render.Target{Kind: "Deployment", Namespace: s.namespace, Name: deployment})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(ready).To(HaveLen(count))
	}).WithTimeout(bound).Should(Succeed())
	return addresses
}

// load has pods run what the output of their Deployment holds.
func (s *sidecars) load(ctx context.Context, fd *wasmev1.FilterDeployment, deployment string, pods []netip.Addr) {
	GinkgoHelper()
	revision := s.held(ctx)[deployment+"-f"]
	Expect(revision).NotTo(BeEmpty())
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, pod := range pods {
		s.runs[pod] = fmt.Sprintf("wasm_filter.%s/%s/%s@%s", fd.Namespace, deployment, fd.Name, revision)
	}
}

// becomes makes passes until the pods of the FilterDeployment are counted so.
func (s *sidecars) becomes(ctx context.Context, fd *wasmev1.FilterDeployment, pods string) {
	GinkgoHelper()
	Eventually(ctx, func(g Gomega) {
		g.Expect(s.settle(ctx, fd)).To(Succeed())
		g.Expect(fd.Status.Summary.PodsReady).To(Equal(pods))
	}).WithTimeout(bound).Should(Succeed())
}

var _ = Describe("Fetches of modules, by stand-ins for sidecars,", func() {
	var w *world
	var s *sidecars
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		s = w.startSidecars()
	})

	It("spread in waves, which workloads without pods need not wait for", func(ctx context.Context) {
		w.deployments(ctx, "a", "b", "c", "empty")
		const each = wavePods/2 + 1
		a, b, c := s.start(ctx, "a", each), s.start(ctx, "b", each), s.start(ctx, "c", each)
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.outputs(ctx)).To(ConsistOf("a-f", "empty-f"))
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionUnknown, wasmev1.ReasonSpreading, "on 2 of 4 workloads"))
		Expect(fd.Status.Workloads["b"]).To(Equal(wasmev1.WorkloadStatus{State: wasmev1.WorkloadPending, Reason: "waits until pods of other workloads have loaded the module"}))

		By("going on when enough of the first pods run it")
		s.load(ctx, fd, "a", a[:each-1])
		s.becomes(ctx, fd, fmt.Sprintf("%d/%d", each-1, 3*each))
		Expect(w.outputs(ctx)).To(ConsistOf("a-f", "b-f", "empty-f"))
		s.load(ctx, fd, "a", a)

		By("going on when the pods of the second had their time")
		result, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(result.RequeueAfter).To(BeNumerically("<=", loadTimeout))
		w.clock.Step(loadTimeout)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.outputs(ctx)).To(ConsistOf("a-f", "b-f", "c-f", "empty-f"))
		s.load(ctx, fd, "b", b)
		s.load(ctx, fd, "c", c)
		s.becomes(ctx, fd, fmt.Sprintf("%d/%d", 3*each, 3*each))
		Expect(fd).To(beReady("4/4"))

		By("giving a new configuration to all at once")
		edit(ctx, fd, config("other"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.held(ctx)).To(HaveEach(fd.Status.Revision))
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionTrue, wasmev1.ReasonProgrammed))
	})

	It("are one at a time in each workload", func(ctx context.Context) {
		w.deployments(ctx, "a", "b")
		s.start(ctx, "a", 1)
		b := s.start(ctx, "b", 1)
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		first := fd.Status.Revision
		s.load(ctx, fd, "b", b)
		s.becomes(ctx, fd, "1/2")

		By("holding back what comes before the pods run the first")
		edit(ctx, fd, image(w.push(ctx, "hello:v2", "other")))
		Expect(w.settle(ctx, fd)).To(Succeed())
		second := fd.Status.Revision
		Expect(w.held(ctx)).To(Equal(map[string]string{"a-f": first, "b-f": second}))
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionUnknown, wasmev1.ReasonSpreading, "on 1 of 2 workloads"))
		Expect(fd.Status.Workloads["a"].Reason).To(Equal("waits until its pods have loaded revision " + first + ", for 30s at most"))

		By("a restart in between")
		w.restart(ctx)
		s = w.startSidecars()
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.held(ctx)).To(HaveKeyWithValue("a-f", first))
		w.clock.Step(loadTimeout)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.held(ctx)).To(Equal(map[string]string{"a-f": second, "b-f": second}), "nothing waits for ever")
	})

	It("are not doubted after a restart: nothing is written before the pods answer, nor when they say the same", func(ctx context.Context) {
		w.deployments(ctx, "a")
		pods := s.start(ctx, "a", 2)
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		s.load(ctx, fd, "a", pods)
		s.becomes(ctx, fd, "2/2")

		w.restart(ctx)
		w.Prober = dataplane.New(func(types.NamespacedName) {})
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.written()).To(BeEmpty())
		w.startProber()
		Consistently(ctx, func(g Gomega) {
			g.Expect(w.settle(ctx, fd)).To(Succeed())
			g.Expect(w.written()).To(BeEmpty())
		}).WithTimeout(2 * time.Second).Should(Succeed())

		By("noticing what changed meanwhile")
		s.mu.Lock()
		clear(s.runs)
		s.mu.Unlock()
		w.restart(ctx)
		w.Prober = dataplane.New(func(types.NamespacedName) {})
		w.startProber()
		s.becomes(ctx, fd, "0/2")
	})

	It("of outputs that show no revision are proven by the first only", func(ctx context.Context) {
		w.deployments(ctx, "a")
		pods := s.start(ctx, "a", 1)
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), output(wasmev1.OutputWasmPlugin), objectConfig)
		Expect(w.settle(ctx, fd)).To(Succeed())
		s.mu.Lock()
		s.runs[pods[0]] = fd.Namespace + ".a-f"
		s.mu.Unlock()
		s.becomes(ctx, fd, "1/1")
		first := fd.Status.Revision

		edit(ctx, fd, image(w.push(ctx, "hello:v2", "other")))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd.Status.Revision).NotTo(Equal(first))
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionTrue, wasmev1.ReasonProgrammed), "the first one is proven")

		edit(ctx, fd, image(w.push(ctx, "hello:v3", "third")))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionUnknown, wasmev1.ReasonSpreading))
		w.clock.Step(loadTimeout)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionTrue, wasmev1.ReasonProgrammed))
	})
})

var _ = DescribeTable("A wave holds",
	func(size int64, pods int) {
		Expect(newWave(wasmev1.ModuleStatus{SizeBytes: new(size)}).most).To(Equal(pods))
	},
	Entry("pods as may drain, of a small module", int64(1<<10), wavePods),
	Entry("pods as may fetch, of a large one", int64(64<<20), 8),
	Entry("one pod at least", int64(1<<40), 1),
)

var _ = It("A workload that is larger than a wave is one by itself", func() {
	w := wave{most: 10}
	Expect(w.admit(11)).To(BeTrue())
	Expect(w.admit(1)).To(BeFalse())
	Expect(w.admit(0)).To(BeTrue())
	Expect((&wave{pods: 1, most: 10}).admit(10)).To(BeFalse())
	Expect((&wave{pods: 1, most: 10}).admit(9)).To(BeTrue())
})

var _ = It("A fetch that a wrong clock dates into the future holds nothing up", func(ctx context.Context) {
	w := newWorld(ctx)
	w.deployments(ctx, "a")
	w.startSidecars().start(ctx, "a", 1)
	fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
	Expect(w.settle(ctx, fd)).To(Succeed())
	edit[client.Object](ctx, w.output(ctx, "a-f"), func(object client.Object) {
		notes := object.GetAnnotations()
		notes[fetchAnnotation] = fetch{revision: fd.Status.Revision, at: w.clock.Now().Add(time.Hour)}.annotation()
		object.SetAnnotations(notes)
	})
	edit(ctx, fd, image(w.push(ctx, "hello:v2", "other")))
	Expect(w.settle(ctx, fd)).To(Succeed())
	Expect(w.held(ctx)).To(HaveKeyWithValue("a-f", fd.Status.Revision))
})
