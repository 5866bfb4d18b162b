package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// events are the events about a FilterDeployment, as type and reason, in no order.
func (w *world) events(ctx context.Context, fd *wasmev1.FilterDeployment) []string {
	GinkgoHelper()
	var list eventsv1.EventList
	Expect(user.List(ctx, &list, client.InNamespace(fd.Namespace))).To(Succeed())
	var found []string
	for _, event := range list.Items {
		if event.Regarding.UID == fd.UID {
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
		Expect(result.RequeueAfter).To(Equal(minBackoff))
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
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		p := pass{
			module:    succeeded(wasmev1.ReasonResolved, ""),
			selection: succeeded(wasmev1.ReasonSelected, ""),
			loaded:    succeeded(wasmev1.ReasonNoPods, ""),
			inForce:   &revision{revisionContent: revisionContent{Module: *fd.Status.Module}},
		}
		for i := range 600 {
			name := fmt.Sprintf("w%03d", i)
			t := target{workload: render.Target{Kind: "Deployment", Name: name}, output: outputKey{name: name}}
			if i >= 595 {
				t.reason, t.err = wasmev1.ReasonWriteFailed, errors.New(strings.Repeat("ä", 2000))
			}
			p.targets = append(p.targets, t)
		}
		p.programmed = programmedVerdict(p.targets, p.inForce, asked)
		Expect(w.writeStatus(ctx, fd, contest{}, p.setStatus)).To(Succeed())
		Expect(user.Get(ctx, client.ObjectKeyFromObject(fd), fd)).To(Succeed())

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
		Expect(fd).To(notReady(wasmev1.ReasonWriteFailed, "5 of 600 workloads failed: w595: ä"))
		Expect(characters(fd.Status.Reason)).To(Equal(wasmev1.MaxMessageLength))
		By("having told of it in an event too, which is bounded by bytes")
		Eventually(ctx, func() []string { return w.events(ctx, fd) }).WithTimeout(bound).Should(ContainElement("Warning WriteFailed"))
	})
})

func characters(text string) int { return len([]rune(text)) }

var _ = DescribeTable("Of the workloads' outcomes",
	func(targets []target, inForce *revision, is standing, status metav1.ConditionStatus, reason, message string) {
		verdict := programmedVerdict(targets, inForce, is)
		Expect(verdict.Status).To(Equal(status))
		Expect(verdict.Reason).To(Equal(reason))
		Expect(verdict.Message).To(Equal(message))
		Expect(verdict.Stalled).To(BeFalse())
		Expect(verdict.Err != nil).To(Equal(len(failing(targets)) > 0), "only failed writes are tried again with backoff")
	},
	Entry("all in place", outcomes("", "", ""), &revision{hash: "r"}, asked, metav1.ConditionTrue, wasmev1.ReasonProgrammed, "revision r on 3 of 3 workloads"),
	Entry("none there", outcomes(), &revision{hash: "r"}, asked, metav1.ConditionTrue, wasmev1.ReasonProgrammed, "revision r on 0 of 0 workloads"),
	Entry("some have to wait", append(outcomes("", ""), target{waits: "for others"}), &revision{hash: "r"}, asked, metav1.ConditionUnknown, wasmev1.ReasonSpreading, "revision r on 2 of 3 workloads; the others follow as pods have loaded it"),
	Entry("some have to wait for an earlier revision", append(outcomes("", ""), target{waits: "for others"}), &revision{hash: "r"}, lastGood, metav1.ConditionFalse, wasmev1.ReasonLastGoodRevision, "revision r stays in force on 2 workloads until the spec can be resolved"),
	Entry("nothing in force", outcomes(""), nil, lastGood, metav1.ConditionFalse, wasmev1.ReasonNothingResolved, "there is no module to run yet"),
	Entry("an earlier revision in force", outcomes("", ""), &revision{hash: "r"}, lastGood, metav1.ConditionFalse, wasmev1.ReasonLastGoodRevision, "revision r stays in force on 2 workloads until the spec can be resolved"),
	Entry("the module under way to the replicas", outcomes(""), nil, distributing, metav1.ConditionUnknown, wasmev1.ReasonDistributing, "every replica of the operator is to hold the new module before proxies ask for it"),
	Entry("some failed", outcomes("", "b", "", "d"), &revision{hash: "r"}, asked, metav1.ConditionFalse, "Reason-b", "2 of 4 workloads failed: w1: b; w3: d"),
	Entry("many failed", outcomes("a", "b", "c", "d", "e"), &revision{hash: "r"}, lastGood, metav1.ConditionFalse, "Reason-a", "5 of 5 workloads failed: w0: a; w1: b; w2: c; and 2 more"),
)

// outcomes are those of workloads w0, w1 …: failures where the text is not empty.
func outcomes(failures ...string) []target {
	var targets []target
	for i, failure := range failures {
		t := target{workload: render.Target{Name: fmt.Sprintf("w%d", i)}}
		if failure != "" {
			t.reason, t.err = "Reason-"+failure, errors.New(failure)
		}
		targets = append(targets, t)
	}
	return targets
}

var _ = DescribeTable("Of the steps' verdicts",
	func(p pass, ready, reconciling, stalled string) {
		verdict := readyVerdict(p)
		Expect(string(verdict.Status) + " " + verdict.Reason).To(Equal(ready))
		Expect(abnormal(verdict)).To(Equal(map[string]string{wasmev1.ConditionReconciling: reconciling, wasmev1.ConditionStalled: stalled}))
	},
	Entry("all true", pass{module: succeeded("A", ""), selection: succeeded("B", ""), programmed: succeeded("C", ""), loaded: succeeded("D", "")}, "True Ready", "", ""),
	Entry("no workloads", pass{module: succeeded("A", ""), selection: succeeded(wasmev1.ReasonNoWorkloads, ""), programmed: succeeded("C", ""), loaded: succeeded("D", "")}, "True NoWorkloads", "", ""),
	Entry("the module pending", pass{module: pending("A", ""), selection: succeeded("B", ""), programmed: refused("C", "")}, "Unknown A", wasmev1.ReasonProgressing, ""),
	Entry("the module refused", pass{module: refused("A", ""), selection: succeeded("B", ""), programmed: refused("C", "")}, "False A", wasmev1.ReasonProgressingWithRetry, ""),
	Entry("the module stalled", pass{module: stalled("A", errors.New("")), selection: succeeded("B", ""), programmed: refused("C", "")}, "False A", "", "A"),
	Entry("the selection stalled", pass{module: pending("A", ""), selection: stalled("B", errors.New("")), programmed: refused("C", "")}, "False B", "", "B"),
	Entry("pods loading", pass{module: succeeded("A", ""), selection: succeeded("B", ""), programmed: succeeded("C", ""), loaded: pending("D", "")}, "Unknown D", wasmev1.ReasonProgressing, ""),
	Entry("pods failing", pass{module: succeeded("A", ""), selection: succeeded("B", ""), programmed: succeeded("C", ""), loaded: refused("D", "")}, "False D", wasmev1.ReasonProgressingWithRetry, ""),
	Entry("a write failed", pass{module: succeeded("A", ""), selection: succeeded("B", ""), programmed: failed("C", errors.New(""))}, "False C", wasmev1.ReasonProgressingWithRetry, ""),
)

var _ = DescribeTable("The note of an event is cut",
	func(text, want string) { Expect(eventNote(text)).To(Equal(want)) },
	Entry("not at the bound", strings.Repeat("ä", 512), strings.Repeat("ä", 512)),
	Entry("by bytes beyond it", strings.Repeat("ä", 513), strings.Repeat("ä", 510)+"…"),
	Entry("with three bytes for the mark", strings.Repeat("a", 1025), strings.Repeat("a", 1021)+"…"),
)

var _ = DescribeTable("A message is cut",
	func(text, want string) { Expect(cut(text)).To(Equal(want)) },
	Entry("not when it is short", "short", "short"),
	Entry("not at the bound", strings.Repeat("ä", 1024), strings.Repeat("ä", 1024)),
	Entry("by characters beyond it", strings.Repeat("ä", 1025), strings.Repeat("ä", 1023)+"…"),
)
