package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/filterdeployment"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/test/sidecar"
)

// events are the events about a FilterDeployment, as type and reason, in no order.
func (w *world) events(ctx context.Context, fd *wasmev1.FilterDeployment) []string {
	GinkgoHelper()
	return w.eventsAbout(ctx, fd)
}

// eventsAbout are the events about an object.
func (w *world) eventsAbout(ctx context.Context, object client.Object) []string {
	GinkgoHelper()
	var list eventsv1.EventList
	Expect(user.List(ctx, &list, client.InNamespace(object.GetNamespace()))).To(Succeed())
	var found []string
	for _, event := range list.Items {
		if event.Regarding.UID == object.GetUID() {
			found = append(found, event.Type+" "+event.Reason)
		}
	}
	return found
}

var _ = Describe("The status", func() {
	var w *world
	BeforeEach(func(ctx context.Context) { w = newWorld(ctx) })

	It("goes with one event for each transition of Ready", func(ctx context.Context) {
		w.deployments(ctx, "a")
		good := w.push(ctx, "hello:v1", "hello")
		fd := w.filterDeployment(ctx, "f", good, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		for range 3 {
			edit(ctx, w.output(ctx, "a-f"), func(f *networking.EnvoyFilter) { f.Spec.Priority = 9 })
			Expect(w.settle(ctx, fd)).To(Succeed())
			w.clock.Step(time.Minute)
		}
		edit(ctx, fd, config("goodbye"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		edit(ctx, fd, image("No Image"))
		for range 3 {
			Expect(w.settle(ctx, fd)).To(Succeed())
		}
		edit(ctx, fd, image(w.registry.Host()+"/none:v1"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Eventually(ctx, func() []string { return w.events(ctx, fd) }).WithTimeout(bound).Should(ContainElement("Warning ImageNotFound"))
		Expect(w.events(ctx, fd)).To(ConsistOf("Normal Resolving", "Normal Ready", "Normal Resolving", "Warning InvalidSpec", "Normal Resolving", "Warning ImageNotFound"))
	})

	It("is as kstatus reads it", func(ctx context.Context) {
		w.deployments(ctx, "a")
		good := w.push(ctx, "hello:v1", "hello")
		fd := w.filterDeployment(ctx, "f", good)
		_, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionUnknown, wasmev1.ReasonResolving, "looking up "+good))
		Expect(fd).To(haveCondition(wasmev1.ConditionReconciling, metav1.ConditionTrue, wasmev1.ReasonProgressing))
		Expect(kstatusOf(fd)).To(Equal(status.InProgressStatus))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(kstatusOf(fd)).To(Equal(status.CurrentStatus))
		edit(ctx, fd, config("next"))
		Expect(kstatusOf(fd)).To(Equal(status.InProgressStatus), "of another generation")
		edit(ctx, fd, image("No Image"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(kstatusOf(fd)).To(Equal(status.FailedStatus))
		edit(ctx, fd, image(good))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(kstatusOf(fd)).To(Equal(status.CurrentStatus))
	})

	It("that cannot be written is an error, and written later", func(ctx context.Context) {
		w.deployments(ctx, "a")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		w.intercept(func(write string) error {
			if strings.HasPrefix(write, "patch status") {
				return errors.New("injected")
			}
			return nil
		})
		_, err := w.reconcile(ctx, fd)
		Expect(err).To(MatchError(ContainSubstring("writing the status: injected")))
		w.awaitAnswer(ctx, fd)
		_, err = w.reconcile(ctx, fd)
		Expect(err).To(MatchError(ContainSubstring("writing the status: injected")))
		Expect(w.outputs(ctx)).To(ConsistOf("a-f"), "the work is done nevertheless")
		Expect(fd.Status.Conditions).To(BeEmpty())
		w.intercept(nil)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		Eventually(ctx, func() []string { return w.events(ctx, fd) }).WithTimeout(bound).Should(ConsistOf("Normal Ready"))
	})

	It("is not written over a newer one", func(ctx context.Context) {
		w.deployments(ctx, "a")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		edit(ctx, fd, config("second"))
		w.catchUp(ctx, fd.Namespace)
		w.intercept(func(write string) error {
			if strings.HasPrefix(write, "patch status") {
				w.intercept(nil)
				edit(ctx, fd, config("third"))
			}
			return nil
		})
		result, err := w.pass(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(result.RequeueAfter).To(Equal(filterdeployment.MinBackoff))
		Expect(*fd.Status.ObservedGeneration).To(BeEquivalentTo(1))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
	})

	It("of a FilterDeployment that is gone is nobody's", func(ctx context.Context) {
		w.deployments(ctx, "a")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		w.intercept(func(write string) error {
			if strings.HasPrefix(write, "patch status") {
				return user.Delete(ctx, fd)
			}
			return nil
		})
		_, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
	})

	It("names 500 workloads, failing ones first, and counts all", func(ctx context.Context) {
		for i := range 600 {
			w.deployments(ctx, fmt.Sprintf("w%03d", i))
		}
		w.intercept(func(write string) error {
			if strings.HasPrefix(write, "create EnvoyFilter w59") && write >= "create EnvoyFilter w595" {
				return errors.New(strings.Repeat("ä", 2000))
			}
			return nil
		})
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).NotTo(Succeed())

		Expect(fd.Status.Summary).To(Equal(&wasmev1.WorkloadSummary{
			Workloads: new(int64(600)), Programmed: new(int64(595)), WorkloadsReady: "595/600", WorkloadsOmitted: new(int64(100)),
			Pods: new(int64(0)), PodsLoaded: new(int64(0)), PodsReady: "0/0",
		}))
		Expect(fd.Status.Workloads).To(HaveLen(500))
		for i := 595; i < 600; i++ {
			Expect(fd.Status.Workloads).To(HaveKeyWithValue(fmt.Sprintf("w%d", i), And(
				HaveField("State", wasmev1.WorkloadFailed), HaveField("Reason", WithTransform(characters, Equal(wasmev1.MaxMessageLength))))))
		}
		Expect(fd.Status.Workloads).To(HaveKey("w494"))
		Expect(fd.Status.Workloads).NotTo(HaveKey("w495"))
		Expect(fd).To(notReady(wasmev1.ReasonWriteFailed, "5 of 600 workloads failed: w595: writing EnvoyFilter w595-f: ä"))
		Expect(characters(fd.Status.Reason)).To(Equal(wasmev1.MaxMessageLength))
		By("having told of it in an event too, which is bounded by bytes")
		Eventually(ctx, func() []string { return w.events(ctx, fd) }).WithTimeout(bound).Should(ContainElement("Warning WriteFailed"))
	})
})

func characters(text string) int { return len([]rune(text)) }

var _ = Describe("What is said of pods, by stand-ins for sidecars,", func() {
	var w *world
	var s *sidecars
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		s = w.startSidecars()
	})
	// apply has a FilterDeployment on all Deployments, which write what it says.
	apply := func(ctx context.Context, changes ...func(*wasmev1.FilterDeployment)) *wasmev1.FilterDeployment {
		GinkgoHelper()
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), append(changes, filterID("f"))...)
		Expect(w.settle(ctx, fd)).To(Succeed())
		return fd
	}

	It("is not that all is well where a workload has no sidecars", func(ctx context.Context) {
		w.deployments(ctx, "a", "b", "c")
		a := s.start(ctx, "a", 1)
		s.start(ctx, "b", 2, withoutSidecar)
		s.start(ctx, "c", 1, withoutSidecar)
		fd := apply(ctx)
		s.load(ctx, fd, "a", a)
		s.becomes(ctx, fd, "1/1")
		Expect(fd).To(notReady(wasmev1.ReasonNoSidecar, "2 of 3 workloads have no Ready pod with a sidecar that could run the filter (b, c): have sidecars injected"))
		Expect(fd.Status.Workloads["a"].State).To(Equal(wasmev1.WorkloadSucceeded))
		Expect(fd.Status.Workloads["b"]).To(And(
			HaveField("State", wasmev1.WorkloadFailed), HaveField("Reason", ContainSubstring("none of 2 Ready pods has a sidecar")),
		))
	})

	It("counts the pods that have none beside others", func(ctx context.Context) {
		w.deployments(ctx, "a")
		with := s.start(ctx, "a", 1)
		fd := apply(ctx)
		var first corev1.Pod
		Expect(user.Get(ctx, client.ObjectKey{Namespace: w.namespace, Name: "a-5d8-1"}, &first)).To(Succeed())
		bare := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "bare", Labels: first.Labels, OwnerReferences: first.OwnerReferences}, Spec: *first.Spec.DeepCopy()}
		withoutSidecar(bare)
		Expect(user.Create(ctx, bare)).To(Succeed())
		bare.Status.Conditions = first.Status.Conditions
		Expect(user.Status().Update(ctx, bare)).To(Succeed())
		s.load(ctx, fd, "a", with)
		Eventually(ctx, func(g Gomega) {
			g.Expect(w.settle(ctx, fd)).To(Succeed())
			g.Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionTrue, wasmev1.ReasonReady, "1 of 1 pods run the filter in this revision; Ready pods without a sidecar run nothing (a: 1 of 2)"))
		}).WithTimeout(bound).Should(Succeed())
	})

	It("is that few do not answer, and nothing else, where the others run it", func(ctx context.Context) {
		w.deployments(ctx, "a")
		pods := s.start(ctx, "a", 3)
		fd := apply(ctx)
		s.load(ctx, fd, "a", pods[1:])
		s.envoys.Answer(http.NotFound, pods[0])
		s.becomes(ctx, fd, "2/3")
		w.becomesBecause(ctx, fd, wasmev1.ReasonReady)
		Expect(fd).To(haveCondition(wasmev1.ConditionLoaded, metav1.ConditionTrue, wasmev1.ReasonLoaded, "2 of 3 pods run the filter in this revision; 1 (a-5d8-1) gave no answer at their sidecar's metrics port"))

		By("saying so for as long as it lasts, without another write")
		w.written()
		w.clock.Step(rollout.LoadTimeout)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.written()).To(BeEmpty())

		By("not tolerating more")
		s.envoys.Answer(http.NotFound, pods[1])
		Eventually(ctx, func(g Gomega) {
			g.Expect(w.settle(ctx, fd)).To(Succeed())
			g.Expect(fd.Status.Summary.PodsReady).To(Equal("1/3"))
		}).WithTimeout(time.Minute).Should(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionUnknown, wasmev1.ReasonLoading))
		w.waitedForPods(ctx, fd)
		w.becomesBecause(ctx, fd, wasmev1.ReasonUnreachable)
	})

	It("is nothing where pods are not to be verified", func(ctx context.Context) {
		w.deployments(ctx, "a")
		s.run("", s.start(ctx, "a", 1)...)
		fd := apply(ctx)
		Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionUnknown, wasmev1.ReasonLoading))

		By("the annotation")
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) {
			fd.Annotations = map[string]string{wasmev1.VerifyPodsAnnotation: "false"}
		})
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(And(beReady("1/1"), haveCondition(wasmev1.ConditionLoaded, metav1.ConditionTrue, wasmev1.ReasonUnproven, "this FilterDeployment has the annotation wasme.io/verify-pods=false")))
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Annotations[wasmev1.VerifyPodsAnnotation] = "true" })
		w.becomesBecause(ctx, fd, wasmev1.ReasonLoading)

		By("the flag")
		w.UnverifiedNamespaces = sets.New(w.namespace)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionLoaded, metav1.ConditionTrue, wasmev1.ReasonUnproven, "the operator's flag --unverified-namespaces has this namespace"))
		w.UnverifiedNamespaces = sets.New("another")
		w.becomesBecause(ctx, fd, wasmev1.ReasonLoading)
	})

	It("is not a guess where agents do not say why the filter is missing, and renewed for as long", func(ctx context.Context) {
		w.deployments(ctx, "a")
		pods := s.start(ctx, "a", 1)
		s.run("", pods...)
		s.agents.AnswerElse(http.NotFound)
		fd := apply(ctx)
		s.becomes(ctx, fd, "0/1")
		w.waitedForPods(ctx, fd)
		w.becomesBecause(ctx, fd, wasmev1.ReasonNotLoaded)
		for renewals := range 6 {
			Expect(conditionTypes(fd)).NotTo(ContainElement(wasmev1.ConditionStalled))
			Expect(w.output(ctx, "a-f").Annotations[rollout.FetchAnnotation]).To(HavePrefix(fmt.Sprintf("%s %d ", fd.Status.Revision, renewals+1)))
			w.clock.Step(10 * time.Minute)
			Expect(w.settle(ctx, fd)).To(Succeed())
		}
	})

	It("comes from the agent where Envoy's own port is shut", func(ctx context.Context) {
		w.deployments(ctx, "a")
		pods := s.start(ctx, "a", 1)
		s.envoys.Answer(cut, pods...)
		fd := apply(ctx)
		s.agents.AnswerElse(sidecar.Page(recorded("agent-loaded") + envoyPage(plugin(fd, "a", fd.Status.Revision)) + "envoy_listener_manager_lds_update_success{} 1\n"))
		s.becomes(ctx, fd, "1/1")
		Expect(fd).To(beReady("1/1"))
	})
})

// cut ends a connection without an answer.
func cut(w http.ResponseWriter, _ *http.Request) {
	connection, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = connection.Close()
	}
}
