package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
)

// stagedOn has the workloads with a label app run an image, staged, and say "one".
func stagedOn(ctx context.Context, namespace, app string, bakeTime time.Duration, image string) *wasmev1.FilterDeployment {
	GinkgoHelper()
	fd := filterDeployment(namespace, image, "one")
	fd.Spec.Rollout = &wasmev1.RolloutSpec{BakeTime: &metav1.Duration{Duration: bakeTime}}
	if app != "" {
		fd.Name = app
		fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Labels: map[string]wasmev1.LabelValue{"app": wasmev1.LabelValue(app)}}
	}
	Expect(admin.Create(ctx, fd)).To(Succeed())
	Eventually(phase(ctx, fd)).WithTimeout(loadTime).Should(Equal(wasmev1.RolloutComplete))
	return fd
}

// answersNothingElse ends a stream without a failed request.
func (s *stream) answersNothingElse() {
	GinkgoHelper()
	asked, failed := s.stop()
	Expect(failed).To(BeZero(), "of %d requests", asked)
	Expect(asked).To(BeNumerically(">", 100))
}

var _ = Describe("A revision that is tried", Serial, func() {
	It("costs no request, whatever is wrong with it", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		bad := map[string]struct {
			change  func(*wasmev1.FilterSpec)
			reasons []string
		}{
			"refused":  {func(f *wasmev1.FilterSpec) { f.Config = text(filters.RefusedConfiguration) }, []string{wasmev1.ReasonOlderRevision, wasmev1.ReasonRefused}},
			"imports":  {func(f *wasmev1.FilterSpec) { f.Image = push(ctx, filters.Import) }, []string{wasmev1.ReasonOlderRevision, wasmev1.ReasonRefused}},
			"for-ever": {func(f *wasmev1.FilterSpec) { f.Image = push(ctx, filters.Loop) }, []string{wasmev1.ReasonUnreachable}},
		}
		pods, fds, streams := map[string]*mesh.Running{}, map[string]*wasmev1.FilterDeployment{}, map[string]*stream{}
		for app := range bad {
			w := workload(namespace, app, map[string]string{"app": app})
			w.AgentMetrics = true // it tells that no fetch failed
			pods[app] = run(ctx, w)
		}
		for app := range bad {
			fds[app] = stagedOn(ctx, namespace, app, 0, push(ctx, filters.Hello))
			meshtest.EventuallyAnswers(ctx, pods[app], "one") // over a connection that is not older
			streams[app] = startStream(ctx, pods[app].URL)
		}
		for app, kind := range bad {
			change(ctx, fds[app], kind.change)
		}
		for app, kind := range bad {
			Eventually(phase(ctx, fds[app])).WithTimeout(loadTime).Should(Equal(wasmev1.RolloutRolledBack), app)
			Expect(live(ctx, fds[app]).Status.Rollout.Rejected.Reason).To(BeElementOf(kind.reasons), app)
			meshtest.EventuallyAnswers(ctx, pods[app], "one")
			streams[app].answersNothingElse()
		}

		By("starting the proxy again whose main thread never ends")
		Eventually(func() map[string]string {
			var output networking.EnvoyFilter
			Expect(admin.Get(ctx, client.ObjectKey{Namespace: namespace, Name: fmt.Sprintf("for-ever-for-ever.%s", namespace)}, &output)).To(Succeed())
			return output.Annotations
		}).Should(HaveKeyWithValue(rollout.StagedAnnotation, ""), "else it would try the module as it starts")
		Expect(pods["for-ever"].StopSidecar()).To(Succeed())
		Expect(pods["for-ever"].StartSidecar(ctx)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, pods["for-ever"], "one")
		Eventually(loaded(ctx, fds["for-ever"])).WithTimeout(loadTime).Should(Equal("Loaded 1/1"))
	})

	// Where istiod validates what is written, the API server refuses it meanwhile.
	It("waits while istiod is away", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		w := workload(namespace, "app", map[string]string{"app": "app"})
		w.AgentMetrics = true
		pod := run(ctx, w)
		fd := stagedOn(ctx, namespace, "", 0, push(ctx, filters.Hello))
		meshtest.EventuallyAnswers(ctx, pod, "one")
		requests := startStream(ctx, pod.URL)
		back := stopIstiod()
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("two") })
		Eventually(phase(ctx, fd)).Should(Equal(wasmev1.RolloutProgressing))
		Consistently(phase(ctx, fd), rollout.LoadTimeout+10*time.Second, time.Second).Should(Equal(wasmev1.RolloutProgressing))
		Expect(mesh.Ask(ctx, pod.URL)).To(Equal(mesh.Answered(200, "one")))
		back(ctx)
		Eventually(phase(ctx, fd)).WithTimeout(loadTime).Should(Equal(wasmev1.RolloutComplete))
		meshtest.EventuallyAnswers(ctx, pod, "two")
		requests.answersNothingElse()
	})
})

// runReplicas runs so many pods of one Deployment, app.
func runReplicas(ctx context.Context, namespace string, replicas int) []*mesh.Running {
	GinkgoHelper()
	var pods []*mesh.Running
	for replica := range replicas {
		w := workload(namespace, "app", map[string]string{"app": "app"})
		w.Replica = replica
		pods = append(pods, run(ctx, w))
	}
	return pods
}

// canaryOf waits until one of a workload's pods is to run a revision first, and returns it and
// the others.
func canaryOf(ctx context.Context, fd *wasmev1.FilterDeployment, pods []*mesh.Running) (first *mesh.Running, others []*mesh.Running) {
	GinkgoHelper()
	var named string
	Eventually(func() string {
		var output networking.EnvoyFilter
		key := client.ObjectKey{Namespace: fd.Namespace, Name: fmt.Sprintf("app-%s.%s", fd.Name, fd.Namespace)}
		Expect(admin.Get(ctx, key, &output)).To(Succeed())
		named = output.Annotations[rollout.CanaryAnnotation]
		return named
	}).WithTimeout(loadTime).ShouldNot(BeEmpty())
	for _, pod := range pods {
		if strings.HasSuffix(named, " "+pod.Pod) {
			first = pod
		} else {
			others = append(others, pod)
		}
	}
	Expect(first).NotTo(BeNil(), named)
	return first, others
}

var _ = Describe("A canary", Serial, func() {
	It("meets a module that crashes before the other pods of its workload do", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		pods := runReplicas(ctx, namespace, 3)
		fd := stagedOn(ctx, namespace, "", 0, push(ctx, filters.Hello))
		answer := func(value string, pods ...*mesh.Running) {
			GinkgoHelper()
			for _, pod := range pods {
				meshtest.EventuallyAnswers(ctx, pod, value)
			}
		}
		answer("one", pods...)
		Eventually(func() error {
			current := live(ctx, fd)
			current.Spec.Rollout = &wasmev1.RolloutSpec{CanaryPods: new(int32(1)), BakeTime: &metav1.Duration{Duration: time.Minute}}
			current.Spec.Filter.Image, current.Spec.Filter.Config = push(ctx, filters.Trap), text("two")
			return admin.Update(ctx, current)
		}).Should(Succeed())
		first, others := canaryOf(ctx, fd, pods)
		requests := startStream(ctx, others[0].URL)
		answer("two", first)
		Expect(mesh.Ask(ctx, others[1].URL)).To(Equal(mesh.Answered(200, "one")))
		Eventually(phase(ctx, fd)).WithTimeout(loadTime).Should(Equal(wasmev1.RolloutBaking))
		crashUntilRolledBack(ctx, first, fd)
		Expect(live(ctx, fd).Status.Rollout.Rejected.Message).To(HavePrefix("app, in the pods that ran it first (" + first.Pod + "): the module crashes"))
		answer("one", pods...)
		requests.answersNothingElse()

		By("a module that does not")
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Image, f.Config = push(ctx, filters.Hello), text("three") })
		first, others = canaryOf(ctx, fd, pods)
		answer("three", first)
		Expect(mesh.Ask(ctx, others[0].URL)).To(Equal(mesh.Answered(200, "one")))
		Eventually(func() error {
			current := live(ctx, fd)
			current.Spec.Rollout.BakeTime = &metav1.Duration{}
			return admin.Update(ctx, current)
		}).Should(Succeed())
		answer("three", pods...)
		Eventually(phase(ctx, fd)).WithTimeout(loadTime).Should(Equal(wasmev1.RolloutComplete))
	})
})

var _ = Describe("A staged rollout goes on", Serial, func() {
	It("when the operator is killed in each of its phases", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		pods := []*mesh.Running{run(ctx, workload(namespace, "a", map[string]string{"app": "a"})), run(ctx, workload(namespace, "b", map[string]string{"app": "b"}))}
		fd := stagedOn(ctx, namespace, "", 3*time.Second, push(ctx, filters.Hello))
		meshtest.EventuallyAnswers(ctx, pods[0], "one")
		requests := startStream(ctx, pods[0].URL)
		restart := func() {
			GinkgoHelper()
			Expect(operator.Kill()).To(Succeed())
			var err error
			operator, err = theMesh.StartOperator(ctx, mesh.OperatorOptions{ // at the same URL: else outputs are rendered anew
				ModuleServer: operator.ModuleServerURL[len("http://"):], Args: []string{"--image-poll-interval=2s"},
			})
			Expect(err).NotTo(HaveOccurred())
		}
		reaches := func(want wasmev1.RolloutPhase) {
			GinkgoHelper()
			Eventually(phase(ctx, fd), loadTime, time.Millisecond).Should(Equal(want))
		}
		known := len(writesTo(namespace))
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("two") })
		for _, during := range []wasmev1.RolloutPhase{wasmev1.RolloutProgressing, wasmev1.RolloutBaking} {
			reaches(during)
			restart()
		}
		reaches(wasmev1.RolloutComplete)
		updates := 0
		for _, write := range writesTo(namespace)[known:] {
			if write == "networking.istio.io envoyfilters update" {
				updates++
			}
		}
		Expect(updates).To(BeNumerically("<=", 3*len(pods)), "three of each EnvoyFilter")
		for _, pod := range pods {
			meshtest.EventuallyAnswers(ctx, pod, "two")
		}

		By("a revision that is refused")
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text(filters.RefusedConfiguration) })
		reaches(wasmev1.RolloutProgressing)
		restart()
		reaches(wasmev1.RolloutRolledBack)
		restart()
		for _, pod := range pods {
			meshtest.EventuallyAnswers(ctx, pod, "two")
		}
		Eventually(loaded(ctx, fd)).WithTimeout(loadTime).Should(Equal("Loaded 2/2"))
		Expect(phase(ctx, fd)()).To(Equal(wasmev1.RolloutRolledBack))
		requests.answersNothingElse()
	})

	It("beside what others do", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		first, second := workload(namespace, "a", map[string]string{"app": "a"}), workload(namespace, "b", map[string]string{"app": "b"})
		pods := []*mesh.Running{run(ctx, first), run(ctx, second)}
		third := run(ctx, workload(namespace, "c", map[string]string{"app": "c"}))
		fd := stagedOn(ctx, namespace, "", 5*time.Second, push(ctx, filters.Hello))
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("two") })
		Eventually(phase(ctx, fd), loadTime, time.Millisecond).Should(Equal(wasmev1.RolloutBaking))
		meshtest.EventuallyAnswers(ctx, pods[0], "two")

		By("an edit of an EnvoyFilter that still waits")
		edited := &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("b-%s.%s", fd.Name, namespace)}}
		Expect(admin.Patch(ctx, edited, client.RawPatch("application/merge-patch+json", []byte(`{"spec": {"configPatches": null}}`)))).To(Succeed())
		By("pods that start")
		first.Replica, second.Replica = 1, 1
		pods = append(pods, run(ctx, first), run(ctx, second))
		By("a workload that is deleted")
		Expect(third.Stop(ctx)).To(Succeed())
		Expect(admin.Delete(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "c"}})).To(Succeed())

		Eventually(phase(ctx, fd)).WithTimeout(loadTime).Should(Equal(wasmev1.RolloutComplete))
		for _, pod := range pods {
			meshtest.EventuallyAnswers(ctx, pod, "two")
		}
		Eventually(func() []string { return outputsOf(ctx, namespace) }).Should(HaveLen(2))

		By("its deletion in the middle")
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("three") })
		Eventually(phase(ctx, fd), loadTime, time.Millisecond).Should(Equal(wasmev1.RolloutBaking))
		Expect(admin.Delete(ctx, fd)).To(Succeed())
		for _, pod := range pods {
			meshtest.EventuallyAnswers(ctx, pod)
		}
		Eventually(func() []string { return outputsOf(ctx, namespace) }).Should(BeEmpty())
	})
})

var _ = Describe("A staged rollout, where modules come from elsewhere,", Serial, func() {
	It("goes back while the registry and a replica of the operator are away", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		source := startRegistry()
		r, leader, follower := startReplicas(ctx)
		first := workload(namespace, "a", map[string]string{"app": "a"})
		pods := []*mesh.Running{run(ctx, first), run(ctx, workload(namespace, "b", map[string]string{"app": "b"}))}
		fd := stagedOn(ctx, namespace, "", 15*time.Second, pushTo(ctx, source, "trap:v1", meshtest.Build(ctx, filters.Trap)))
		image := pushTo(ctx, source, "trap:v2", padded(meshtest.Build(ctx, filters.Trap), 1))
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Image, f.Config = image, text("two") })
		meshtest.EventuallyAnswers(ctx, pods[0], "two")
		Eventually(phase(ctx, fd)).WithTimeout(loadTime).Should(Equal(wasmev1.RolloutBaking))
		meshtest.EventuallyAnswers(ctx, pods[1], "one")
		requests := startStream(ctx, pods[1].URL)

		source.Close()
		Expect(follower.Kill()).To(Succeed())
		r.serve(leader)
		crashUntilRolledBack(ctx, pods[0], fd)
		meshtest.EventuallyAnswers(ctx, pods[0], "one")
		first.Replica = 1
		Expect(mesh.Ask(ctx, run(ctx, first).URL)).To(Equal(mesh.Answered(http.StatusOK, "one")), "a pod that starts now")
		requests.answersNothingElse()
	})

	It("takes back a module whose bytes are not those of its digest", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		r := newReplicas(ctx)
		leader := r.start(ctx, 0, mesh.OperatorOptions{})
		forger := startForger(leader.ModuleServerURL)
		r.modules.SetEndpoints(forger.address)
		w := workload(namespace, "app", map[string]string{"app": "app"})
		w.AgentMetrics = true
		pod := run(ctx, w)
		fd := stagedOn(ctx, namespace, "", 0, push(ctx, filters.Hello))
		meshtest.EventuallyAnswers(ctx, pod, "one")
		requests := startStream(ctx, pod.URL)
		forger.forges.Store(true)
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Image, f.Config = push(ctx, filters.Trap), text("two") })
		Eventually(phase(ctx, fd)).WithTimeout(loadTime).Should(Equal(wasmev1.RolloutRolledBack))
		Expect(live(ctx, fd).Status.Rollout.Rejected.Reason).To(Equal(wasmev1.ReasonFetchFailed))
		Expect(mesh.Ask(ctx, pod.URL)).To(Equal(mesh.Answered(http.StatusOK, "one")))
		requests.answersNothingElse()

		By("the same module, as it is")
		forger.forges.Store(false)
		retry(ctx, fd)
		Eventually(phase(ctx, fd)).WithTimeout(loadTime).Should(Equal(wasmev1.RolloutComplete))
		meshtest.EventuallyAnswers(ctx, pod, "two")
	})
})

// forger is between sidecars and a module server.
type forger struct {
	address string
	// forges says that it changes the last byte of each module.
	forges atomic.Bool
}

func startForger(behind string) *forger {
	GinkgoHelper()
	target, err := url.Parse(behind)
	Expect(err).NotTo(HaveOccurred())
	f := &forger{}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(r *http.Response) error {
		if !f.forges.Load() || r.Request.Method != http.MethodGet {
			return nil
		}
		body, err := io.ReadAll(r.Body)
		if len(body) > 0 {
			body[len(body)-1]++
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		return err
	}
	server := httptest.NewServer(proxy)
	DeferCleanup(server.Close)
	f.address = server.Listener.Addr().String()
	return f
}
