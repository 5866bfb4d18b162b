package controllers

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
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
	"github.com/wasme-io/wasme-operator/test/sidecar"
)

// sidecars are those of more pods than the machine can run.
type sidecars struct {
	*world
	envoys, agents *sidecar.Server
	pods           int
}

// startSidecars has the operator ask pods.
func (w *world) startSidecars() *sidecars {
	GinkgoHelper()
	s := &sidecars{world: w, envoys: startSidecar(envoyPage("")), agents: startSidecar(recorded("agent-empty"))}
	w.newProber()
	w.startProber()
	return s
}

// startSidecar starts what answers for all pods, with a page at first.
func startSidecar(page string) *sidecar.Server {
	GinkgoHelper()
	server, err := sidecar.Start(sidecar.Page(page))
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(server.Close)
	return server
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

func recorded(name string) string {
	GinkgoHelper()
	page, err := sidecar.Recorded(name)
	Expect(err).NotTo(HaveOccurred())
	return page
}

// envoyPage is what an Envoy answers that runs the plugin; empty for none.
func envoyPage(plugin string) string {
	GinkgoHelper()
	page, err := sidecar.EnvoyPage(plugin)
	Expect(err).NotTo(HaveOccurred())
	return page
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
		Name: workload.SidecarContainer, Image: "proxyv2", Ports: []corev1.ContainerPort{{Name: workload.StatsPortName, ContainerPort: int32(s.envoys.Port())}},
	})
	addresses := make([]netip.Addr, 0, count)
	for range count {
		s.pods++
		address := netip.AddrFrom4([4]byte{127, 77, byte(s.pods >> 8), byte(s.pods)})
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: s.namespace, Name: fmt.Sprintf("%s-%d", owner.Name, s.pods), Labels: template.Labels,
				Annotations:     map[string]string{workload.AgentPortAnnotation: fmt.Sprint(s.agents.Port())},
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

// unready has the pods of a Deployment not be Ready any more.
func (s *sidecars) unready(ctx context.Context, deployment string) {
	GinkgoHelper()
	var pods corev1.PodList
	Expect(s.Client.List(ctx, &pods, client.InNamespace(s.namespace), client.MatchingFields{"owner": "Deployment/" + deployment})).To(Succeed())
	Expect(pods.Items).NotTo(BeEmpty())
	for i := range pods.Items {
		pod := &pods.Items[i]
		Expect(live.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed()) // whole, which the cache has not
		pod.Status.Conditions[0].Status, pod.Status.Conditions[0].LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(s.clock.Now())
		Expect(user.Status().Update(ctx, pod)).To(Succeed())
	}
	s.catchUp(ctx, s.namespace)
}

// run has pods run a plugin; none when it is empty.
func (s *sidecars) run(plugin string, pods ...netip.Addr) {
	GinkgoHelper()
	s.envoys.Answer(sidecar.Page(envoyPage(plugin)), pods...)
}

// runBoth has pods run a plugin, and another one in the staging slot.
func (s *sidecars) runBoth(plugin, staged string, pods ...netip.Addr) {
	GinkgoHelper()
	s.envoys.Answer(sidecar.Page(envoyPage(plugin)+envoyPage(staged)), pods...)
}

// failFetches has pilot-agents tell of a fetch that failed.
func (s *sidecars) failFetches() {
	GinkgoHelper()
	s.agents.AnswerElse(sidecar.Page(recorded("agent-failed")))
}

// plugin is what pods of a Deployment show of a filter in a revision.
func plugin(fd *wasmev1.FilterDeployment, deployment, revision string) string {
	return fmt.Sprintf("wasm_filter.%s/%s/%s@%s", fd.Namespace, deployment, fd.Name, revision)
}

// stagedPlugin is what they show of a revision in the staging slot.
func stagedPlugin(fd *wasmev1.FilterDeployment, deployment, revision string) string {
	return fmt.Sprintf("wasm_filter.%s/%s/%s/next@%s", fd.Namespace, deployment, fd.Name, revision)
}

// canaryPlugin is what single pods show of a revision that the others try.
func canaryPlugin(fd *wasmev1.FilterDeployment, deployment, revision string) string {
	return fmt.Sprintf("wasm_filter.%s/%s/%s/canary@%s", fd.Namespace, deployment, fd.Name, revision)
}

// deliver has pilot-agents pass a plugin on each time that they are asked.
func (s *sidecars) deliver() {
	GinkgoHelper()
	const count = `conversion_count{result="success"} `
	page, passed := recorded("agent-loaded"), atomic.Int64{}
	Expect(page).To(ContainSubstring(count + "1"))
	s.agents.AnswerElse(func(w http.ResponseWriter, r *http.Request) {
		sidecar.Page(strings.Replace(page, count+"1", fmt.Sprint(count, passed.Add(1)), 1))(w, r)
	})
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
