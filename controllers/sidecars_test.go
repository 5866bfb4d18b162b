package controllers

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
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
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// sidecars stand in for the sidecars of more pods than the machine can run: two
// servers at every address of 127.0.0.0/8, which answer with what an Envoy and a
// pilot-agent answered once (internal/dataplane/testdata).
type sidecars struct {
	*world
	envoyPort, agentPort int32
	pods                 int

	mu sync.Mutex
	// plugins are what pods run, as their Envoys show it.
	plugins map[netip.Addr]string
	// agent is the answer of each pilot-agent.
	agent string
}

// startSidecars has the operator ask pods.
func (w *world) startSidecars() *sidecars {
	GinkgoHelper()
	s := &sidecars{world: w, plugins: map[netip.Addr]string{}, agent: recorded("agent-empty.txt")}
	s.envoyPort = serveEverywhere(func(pod netip.Addr) string {
		s.mu.Lock()
		defer s.mu.Unlock()
		return envoyPage(s.plugins[pod])
	})
	s.agentPort = serveEverywhere(func(netip.Addr) string {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.agent
	})
	w.newProber()
	w.startProber()
	return s
}

// newProber gives the operator a prober that has asked nobody yet.
func (w *world) newProber() { w.Prober = dataplane.New(func(types.NamespacedName) {}) }

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

// serveEverywhere answers with the page for the address that was asked, and
// returns the port.
func serveEverywhere(page func(netip.Addr) string) int32 {
	GinkgoHelper()
	listener, err := net.Listen("tcp4", ":0")
	Expect(err).NotTo(HaveOccurred())
	server := &httptest.Server{Listener: listener, Config: &http.Server{ReadHeaderTimeout: bound, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr).AddrPort().Addr().Unmap()
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = io.WriteString(w, page(asked))
	})}}
	server.Start()
	DeferCleanup(server.Close)
	return int32(listener.Addr().(*net.TCPAddr).Port)
}

func recorded(name string) string {
	GinkgoHelper()
	text, err := os.ReadFile("../internal/dataplane/testdata/" + name)
	Expect(err).NotTo(HaveOccurred())
	return string(text)
}

// envoyPage is what an Envoy answers that runs the plugin; empty for none. An
// EnvoyFilter's is in a label, and another one's in the names of the metrics.
func envoyPage(plugin string) string {
	if plugin == "" {
		return recorded("envoy-empty.txt")
	}
	if label, found := strings.CutPrefix(plugin, "wasm_filter."); found {
		return strings.ReplaceAll(recorded("envoy-loaded.txt"), "bookinfo/details-v1/greeting@14643ae8", label)
	}
	name := strings.NewReplacer(".", "_", "-", "_").Replace(plugin)
	return strings.ReplaceAll(recorded("envoy-untagged.txt"), "wasm_filter_bookinfo_details_v1_greeting_14643ae8", name)
}

// withoutSidecar is a change of a pod.
func withoutSidecar(pod *corev1.Pod) {
	pod.Spec.Containers = slices.DeleteFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == workload.SidecarContainer })
}

// start creates pods of a Deployment that have been Ready for an hour, and
// returns their addresses.
func (s *sidecars) start(ctx context.Context, deployment string, count int, changes ...func(*corev1.Pod)) []netip.Addr {
	GinkgoHelper()
	selector, template := podTemplate(deployment)
	template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = "5d8"
	owner := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: deployment + "-5d8"}, Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: template}}
	Expect(user.Create(ctx, owner)).To(Succeed())
	template.Spec.Containers = append(template.Spec.Containers, corev1.Container{
		Name: workload.SidecarContainer, Image: "proxyv2", Ports: []corev1.ContainerPort{{Name: workload.StatsPortName, ContainerPort: s.envoyPort}},
	})
	addresses := make([]netip.Addr, 0, count)
	for range count {
		s.pods++
		address := netip.AddrFrom4([4]byte{127, 77, byte(s.pods >> 8), byte(s.pods)})
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: s.namespace, Name: fmt.Sprintf("%s-%d", owner.Name, s.pods), Labels: template.Labels,
				Annotations:     map[string]string{workload.AgentPortAnnotation: fmt.Sprint(s.agentPort)},
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))},
			},
			Spec: *template.Spec.DeepCopy(),
		}
		for _, change := range changes {
			change(pod)
		}
		Eventually(ctx, func() error { return user.Create(ctx, pod) }).WithTimeout(bound).Should(Succeed(), "once the namespace has its service account")
		pod.Status.PodIP = address.String()
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Now().Add(-time.Hour))}}
		Expect(user.Status().Update(ctx, pod)).To(Succeed())
		addresses = append(addresses, address)
	}
	Eventually(ctx, func(g Gomega) {
		var cached corev1.PodList
		g.Expect(s.Client.List(ctx, &cached, client.InNamespace(s.namespace), client.MatchingFields{"owner": "Deployment/" + deployment})).To(Succeed())
		g.Expect(cached.Items).To(And(HaveLen(count), HaveEach(WithTransform(func(pod corev1.Pod) bool { return workload.IsReady(&pod) }, BeTrue()))))
	}).WithTimeout(bound).Should(Succeed())
	return addresses
}

// run has pods run a plugin; none when it is empty.
func (s *sidecars) run(plugin string, pods ...netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, pod := range pods {
		s.plugins[pod] = plugin
	}
}

// failFetches has pilot-agents tell of a fetch that failed.
func (s *sidecars) failFetches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.agent = recorded("agent-failed.txt")
}

// plugin is what pods of a Deployment show of a filter in a revision.
func plugin(fd *wasmev1.FilterDeployment, deployment, revision string) string {
	return fmt.Sprintf("wasm_filter.%s/%s/%s@%s", fd.Namespace, deployment, fd.Name, revision)
}

// load has pods run what the output of their Deployment holds.
func (s *sidecars) load(ctx context.Context, fd *wasmev1.FilterDeployment, deployment string, pods []netip.Addr) {
	GinkgoHelper()
	revision := s.held(ctx)[deployment+"-f"]
	Expect(revision).NotTo(BeEmpty())
	s.run(plugin(fd, deployment, revision), pods...)
}

// becomes makes passes until the pods of the FilterDeployment are counted so.
func (s *sidecars) becomes(ctx context.Context, fd *wasmev1.FilterDeployment, pods string) {
	GinkgoHelper()
	Eventually(ctx, func(g Gomega) {
		g.Expect(s.settle(ctx, fd)).To(Succeed())
		g.Expect(fd.Status.Summary.PodsReady).To(Equal(pods))
	}).WithTimeout(bound).Should(Succeed())
}
