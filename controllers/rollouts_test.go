package controllers

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/filterdeployment"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

func staged(fd *wasmev1.FilterDeployment) {
	fd.Spec.Rollout = nil // the default
}

var _ = Describe("A staged rollout, by stand-ins for sidecars,", func() {
	const bakeTime = 10 * time.Second
	var w *world
	var s *sidecars
	var fd *wasmev1.FilterDeployment
	var a, b []netip.Addr
	var first string

	phase := func(ctx context.Context) func() wasmev1.RolloutPhase {
		return func() wasmev1.RolloutPhase {
			_, err := w.reconcile(ctx, fd)
			Expect(err).NotTo(HaveOccurred())
			return fd.Status.Rollout.Phase
		}
	}
	// reaches makes passes until the pods' answers bring the rollout to a phase.
	reaches := func(ctx context.Context, want wasmev1.RolloutPhase) {
		GinkgoHelper()
		Eventually(ctx, phase(ctx)).WithTimeout(bound).Should(Equal(want))
	}
	holds := func(ctx context.Context, inA, inB string) {
		GinkgoHelper()
		Expect(w.held(ctx)).To(Equal(map[string]string{"a-f": inA, "b-f": inB}))
	}
	// begins changes the configuration, which b tries beside the one that it runs.
	begins := func(ctx context.Context, text string) string {
		GinkgoHelper()
		edit(ctx, fd, config(text))
		Expect(w.settle(ctx, fd)).To(Succeed())
		holds(ctx, first, first)
		Expect(w.output(ctx, "b-f").Annotations).To(HaveKeyWithValue(rollout.StagedAnnotation, HavePrefix(fd.Status.Revision+" ")))
		Expect(w.output(ctx, "a-f").Annotations).To(HaveKeyWithValue(rollout.StagedAnnotation, ""))
		Expect(fd.Status.Rollout).To(And(HaveField("Phase", wasmev1.RolloutProgressing), HaveField("From", first), HaveField("To", fd.Status.Revision)))
		return fd.Status.Revision
	}

	// goesLive has the pods of a Deployment load what they try, and then run it.
	goesLive := func(ctx context.Context, deployment string, pods []netip.Addr) {
		GinkgoHelper()
		revision := fd.Status.Revision
		s.runBoth(plugin(fd, deployment, first), stagedPlugin(fd, deployment, revision), pods...) // the plugin without a revision is nobody's
		Eventually(ctx, func() string {
			_, err := w.reconcile(ctx, fd)
			Expect(err).NotTo(HaveOccurred())
			return w.held(ctx)[deployment+"-f"]
		}).WithTimeout(bound).Should(Equal(revision))
		s.load(ctx, fd, deployment, pods)
	}
	restart := func(ctx context.Context) {
		w.restart(ctx)
		w.newProber()
		w.startProber()
	}

	BeforeEach(func(ctx context.Context) {
		first = ""
		w = newWorld(ctx)
		s = w.startSidecars()
		w.deployments(ctx, "a", "b")
		a, b = s.start(ctx, "a", 3), s.start(ctx, "b", 1)
		fd = w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), staged)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.outputs(ctx)).To(ConsistOf("b-f"))
		goesLive(ctx, "b", b)
		reaches(ctx, wasmev1.RolloutBaking)
		w.clock.Step(bakeTime)
		Expect(w.settle(ctx, fd)).To(Succeed())
		goesLive(ctx, "a", a)
		reaches(ctx, wasmev1.RolloutBaking)
		Expect(fd).To(beReady("2/2"))
		w.clock.Step(bakeTime)
		reaches(ctx, wasmev1.RolloutComplete)
		first = fd.Status.Revision
	})

	It("reaches one workload first, and the other when that has run it for a while", func(ctx context.Context) {
		second := begins(ctx, "second")
		Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionUnknown, wasmev1.ReasonSpreading, "on 0 of 2 workloads"))
		goesLive(ctx, "b", b)
		Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionUnknown, wasmev1.ReasonSpreading, "on 1 of 2 workloads"))
		reaches(ctx, wasmev1.RolloutBaking)
		holds(ctx, first, second)

		By("going on after a restart")
		restart(ctx)
		reaches(ctx, wasmev1.RolloutBaking)
		holds(ctx, first, second)
		w.clock.Step(bakeTime)
		Expect(w.settle(ctx, fd)).To(Succeed())
		holds(ctx, first, second)
		goesLive(ctx, "a", a)
		holds(ctx, second, second)
		reaches(ctx, wasmev1.RolloutBaking)
		Expect(fd).To(beReady("2/2"))
		w.clock.Step(bakeTime)
		reaches(ctx, wasmev1.RolloutComplete)
		Expect(*fd.Status.Rollout.Step).To(BeEquivalentTo(2))
		w.catchUp(ctx, w.namespace)
		metrics := filterdeployment.NewStatusCollector(w.Client, w.Outputs, isElected())
		Expect(series(metrics, w.namespace)).To(HaveKeyWithValue("filterdeployment_rollout_phase f Complete", 1.0))
	})

	It("is rolled back when the first workload refuses it, and does not come back by itself", func(ctx context.Context) {
		s.deliver()
		second := begins(ctx, "refused")
		Eventually(func() int { return s.agents.Requests(b[0]) }).WithTimeout(bound).Should(BeNumerically(">", 1), "they were asked")
		w.clock.Step(rollout.LoadTimeout)
		Eventually(ctx, func() map[string]string {
			_, err := w.reconcile(ctx, fd)
			Expect(err).NotTo(HaveOccurred())
			return w.output(ctx, "b-f").Annotations
		}).WithTimeout(bound).Should(HaveKeyWithValue(rollout.StagedAnnotation, HavePrefix(second+" 1 ")), "istiod sends it again")
		reaches(ctx, wasmev1.RolloutRolledBack)
		Expect(w.settle(ctx, fd)).To(Succeed())
		holds(ctx, first, first)
		Expect(fd).To(notReady(wasmev1.ReasonRolledBack, "revision "+second+" was rolled back to "+first, wasmev1.RetryAnnotation+"="+second))
		Expect(fd.Status.Rollout.Rejected).To(And(HaveField("Revision", second), HaveField("Reason", wasmev1.ReasonRefused)))
		Expect(w.output(ctx, "b-f").Annotations).To(HaveKeyWithValue(rollout.StagedAnnotation, ""))
		Expect(fd.Status.Revision).To(Equal(first))
		Expect(w.events(ctx, fd)).To(ContainElement(ContainSubstring(wasmev1.ReasonRolledBack)))

		By("a restart")
		restart(ctx)
		w.clock.Step(time.Hour)
		for range 3 {
			Expect(w.settle(ctx, fd)).To(Succeed())
		}
		holds(ctx, first, first)

		By("the annotation, once")
		s.agents.AnswerElse(http.NotFound)
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) {
			fd.Annotations = map[string]string{wasmev1.RetryAnnotation: second}
		})
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.output(ctx, "b-f").Annotations).To(HaveKeyWithValue(rollout.StagedAnnotation, HavePrefix(second+" ")))
		w.clock.Step(rollout.LoadTimeout)
		reaches(ctx, wasmev1.RolloutRolledBack)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.output(ctx, "b-f").Annotations).To(HaveKeyWithValue(rollout.StagedAnnotation, ""))

		By("another spec")
		s.becomes(ctx, fd, "4/4")
		begins(ctx, "third")
	})

	It("takes back what leaves the pods of a workload not Ready, and tries it nowhere else", func(ctx context.Context) {
		second := begins(ctx, "second")
		s.unready(ctx, "b")
		for range 3 {
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.output(ctx, "b-f").Annotations).To(HaveKeyWithValue(rollout.StagedAnnotation, HavePrefix(second+" ")))
		}
		w.clock.Step(rollout.LoadTimeout)
		reaches(ctx, wasmev1.RolloutRolledBack)
		Expect(fd.Status.Rollout.Rejected).To(And(HaveField("Revision", second), HaveField("Reason", wasmev1.ReasonPodsNotReady)))
		Expect(w.settle(ctx, fd)).To(Succeed())
		holds(ctx, first, first)
		for _, output := range []string{"a-f", "b-f"} {
			Expect(w.output(ctx, output).Annotations).To(HaveKeyWithValue(rollout.StagedAnnotation, ""))
		}
	})

	It("is rolled back when it leaves the pods of the first workload not Ready, and goes nowhere else", func(ctx context.Context) {
		second := begins(ctx, "second")
		goesLive(ctx, "b", b)
		reaches(ctx, wasmev1.RolloutBaking)
		w.clock.Step(time.Second)
		s.unready(ctx, "b")
		w.clock.Step(bakeTime)
		for range 3 {
			Expect(w.settle(ctx, fd)).To(Succeed())
			holds(ctx, first, second)
			Expect(w.output(ctx, "a-f").Annotations).To(HaveKeyWithValue(rollout.StagedAnnotation, ""))
		}
		w.clock.Step(rollout.LoadTimeout)
		reaches(ctx, wasmev1.RolloutRolledBack)
		Expect(fd.Status.Rollout.Rejected.Reason).To(Equal(wasmev1.ReasonPodsNotReady))
		Expect(w.settle(ctx, fd)).To(Succeed())
		holds(ctx, first, first)
	})

	It("takes as long as any other when a replica began it whose clock was ahead", func(ctx context.Context) {
		const ahead = 6 * time.Hour
		w.clock.Step(ahead)
		second := begins(ctx, "second")
		w.clock.Step(-ahead)
		restart(ctx)
		now := w.clock.Now().UTC().Truncate(time.Second)
		Eventually(ctx, func() map[string]string {
			Expect(w.settle(ctx, fd)).To(Succeed())
			return w.output(ctx, "b-f").Annotations
		}).WithTimeout(bound).Should(HaveKeyWithValue(rollout.StagedAnnotation, second+" 0 "+now.Format(time.RFC3339)))
		Expect(fd.Status.Rollout.Since.UTC()).To(Equal(now))
		Expect(fd.Status.Conditions).To(HaveEach(HaveField("LastTransitionTime.Time", BeTemporally("<=", now))))
		w.clock.Step(rollout.LoadTimeout)
		reaches(ctx, wasmev1.RolloutRolledBack)
	})

	It("has one pod run it before the others do", func(ctx context.Context) {
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Deployment.Istio.Labels = map[string]wasmev1.LabelValue{"app": "a"}
			fd.Spec.Rollout = &wasmev1.RolloutSpec{CanaryPods: new(int32(1))}
		})
		s.becomes(ctx, fd, "3/3")
		edit(ctx, fd, config("second"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		second := fd.Status.Revision
		annotations := func(ctx context.Context) map[string]string {
			GinkgoHelper()
			Expect(w.settle(ctx, fd)).To(Succeed())
			return w.output(ctx, "a-f").Annotations
		}
		s.runBoth(plugin(fd, "a", first), stagedPlugin(fd, "a", second), a...)
		Eventually(ctx, annotations).WithArguments(ctx).WithTimeout(bound).Should(HaveKeyWithValue(rollout.CanaryAnnotation, HavePrefix(second+" ")))
		Expect(w.held(ctx)).To(HaveKeyWithValue("a-f", first))
		named := 0
		for _, patch := range w.output(ctx, "a-f").Spec.ConfigPatches {
			if name := patch.Match.Proxy.Metadata["NAME"]; name != "" {
				named++
				Expect(annotations(ctx)[rollout.CanaryAnnotation]).To(HaveSuffix(" " + name))
			}
		}
		Expect(named).To(Equal(3), "the configuration, the filter, and what keeps it out of tunnels")

		By("its running it for a while")
		s.runBoth(canaryPlugin(fd, "a", second), stagedPlugin(fd, "a", second), a[0])
		reaches(ctx, wasmev1.RolloutBaking)
		Expect(w.held(ctx)).To(HaveKeyWithValue("a-f", first))
		w.clock.Step(bakeTime)
		Eventually(ctx, annotations).WithArguments(ctx).WithTimeout(bound).Should(And(
			HaveKeyWithValue(rollout.CanaryAnnotation, ""), HaveKeyWithValue(revision.HashAnnotation, second)))
	})

	It("is not rolled back before the status remembers that", func(ctx context.Context) {
		second := begins(ctx, "second")
		goesLive(ctx, "b", b)
		s.run(plugin(fd, "b", first), b...) // it falls back
		w.clock.Step(rollout.LoadTimeout)
		failed := 0
		w.intercept(func(write string) error {
			if strings.HasPrefix(write, "patch status") {
				failed++
				return errors.New("injected")
			}
			return nil
		})
		Eventually(ctx, func() int {
			_, _ = w.reconcile(ctx, fd)
			return failed
		}).WithTimeout(bound).Should(BeNumerically(">=", 3))
		holds(ctx, first, second)
		w.intercept(nil)
		reaches(ctx, wasmev1.RolloutRolledBack)
		Expect(w.settle(ctx, fd)).To(Succeed())
		holds(ctx, first, first)
	})

	It("renders anew one workload first, when the operator renders differently", func(ctx context.Context) {
		w.restart(ctx)
		w.Mesh.ModuleServerURL += "0"
		w.newProber()
		w.startProber()
		rendered := func(ctx context.Context) []string {
			GinkgoHelper()
			var anew []string
			for _, name := range w.outputs(ctx) {
				for _, patch := range w.output(ctx, name).Spec.ConfigPatches {
					if strings.Contains(patch.String(), w.Mesh.ModuleServerURL+"/") {
						anew = append(anew, name)
					}
				}
			}
			return anew
		}
		settles := func(ctx context.Context) []string {
			GinkgoHelper()
			Expect(w.settle(ctx, fd)).To(Succeed())
			return rendered(ctx)
		}
		Eventually(ctx, settles).WithArguments(ctx).WithTimeout(bound).Should(ConsistOf("b-f"))
		Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionUnknown, wasmev1.ReasonSpreading, "1 of 2 outputs are still as another version of the operator"))
		Expect(fd.Status.Summary.PodsReady).To(Equal("4/4"))
		w.clock.Step(bakeTime - time.Second)
		Expect(settles(ctx)).To(ConsistOf("b-f"))
		w.clock.Step(time.Second)
		Expect(settles(ctx)).To(ConsistOf("a-f", "b-f"))
		Expect(fd).To(beReady("2/2"))
	})

	It("is taken back when a policy refuses its revision, and begins again when it does not", func(ctx context.Context) {
		second := begins(ctx, "second")
		goesLive(ctx, "b", b)
		reaches(ctx, wasmev1.RolloutBaking)
		holds(ctx, first, second)
		strict := &wasmev1.FilterPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "strict"}, Spec: wasmev1.FilterPolicySpec{FailStrategies: []wasmev1.FailStrategy{wasmev1.FailClosed}},
		}
		Expect(user.Create(ctx, strict)).To(Succeed())
		Expect(w.settle(ctx, fd)).To(Succeed())
		holds(ctx, first, first)
		Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionFalse, wasmev1.ReasonFailStrategyDenied, "FilterPolicy strict: "))
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionFalse, wasmev1.ReasonLastGoodRevision, "revision "+second+" gave way to "+first+", because it does not meet a policy"))
		Expect(fd.Status.Revision).To(Equal(first))

		s.load(ctx, fd, "b", b)
		Expect(user.Delete(ctx, strict)).To(Succeed())
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd.Status.Revision).To(Equal(second))
		Expect(conditionTypes(fd)).NotTo(ContainElement(wasmev1.ConditionAdmitted))
		Expect(w.output(ctx, "a-f").Annotations).To(HaveKeyWithValue(rollout.StagedAnnotation, HavePrefix(second+" ")), "b still fetches")
	})

	It("undoes what someone edits where a workload waits", func(ctx context.Context) {
		second := begins(ctx, "second")
		goesLive(ctx, "b", b)
		reaches(ctx, wasmev1.RolloutBaking)
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Rollout = &wasmev1.RolloutSpec{Paused: true} })
		w.clock.Step(bakeTime)
		reaches(ctx, wasmev1.RolloutPaused)
		holds(ctx, first, second)
		before := w.output(ctx, "a-f")
		breaks := func(ctx context.Context) {
			GinkgoHelper()
			broken := w.output(ctx, "a-f")
			broken.Spec.ConfigPatches = broken.Spec.ConfigPatches[:1]
			Expect(user.Update(ctx, broken)).To(Succeed())
			w.catchUp(ctx, w.namespace)
		}
		breaks(ctx)
		Expect(w.settle(ctx, fd)).To(Succeed())
		after := w.output(ctx, "a-f")
		Expect(proto.Equal(&before.Spec, &after.Spec)).To(BeTrue(), "it holds what it held, in the same way")
		Expect(after.Annotations).To(Equal(before.Annotations))
		Expect(fd.Status.Rollout.Phase).To(Equal(wasmev1.RolloutPaused))

		By("saying why it cannot")
		breaks(ctx)
		w.intercept(func(write string) error {
			if write == "update EnvoyFilter a-f" {
				return errors.New("injected")
			}
			return nil
		})
		w.clock.Step(time.Minute)
		_, err := w.reconcile(ctx, fd)
		Expect(err).To(MatchError(ContainSubstring("injected")))
		Expect(fd).To(notReady(wasmev1.ReasonWriteFailed, "a-f", "injected"))
		w.intercept(nil)
		w.clock.Step(time.Minute)
		Expect(w.settle(ctx, fd)).To(Succeed())
		repaired := w.output(ctx, "a-f")
		Expect(proto.Equal(&before.Spec, &repaired.Spec)).To(BeTrue())
	})

	It("leaves nothing when it is deleted in the middle", func(ctx context.Context) {
		begins(ctx, "second")
		Expect(user.Delete(ctx, fd)).To(Succeed())
		Eventually(ctx, func() []string { return w.outputs(ctx) }).WithTimeout(bound).Should(BeEmpty())
		Expect(w.revisions(ctx, fd)).To(BeEmpty())
	})
})

var _ = Describe("A first revision, by stand-ins for sidecars,", func() {
	var w *world
	var s *sidecars
	var fd *wasmev1.FilterDeployment
	var pods []netip.Addr

	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		s = w.startSidecars()
		s.agents.AnswerElse(http.NotFound)
		w.deployments(ctx, "a", "idle")
		pods = s.start(ctx, "a", 2)
		fd = w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), staged)
		Expect(w.settle(ctx, fd)).To(Succeed())
	})
	settles := func(ctx context.Context) map[string]string {
		GinkgoHelper()
		Expect(w.settle(ctx, fd)).To(Succeed())
		return w.held(ctx)
	}
	isTried := func(ctx context.Context) {
		GinkgoHelper()
		revision := fd.Status.Revision
		Expect(w.held(ctx)).To(Equal(map[string]string{"a-f": "", "idle-f": revision}), "its first pod waits for the module")
		output := w.output(ctx, "a-f")
		Expect(output.Annotations).To(HaveKeyWithValue(rollout.StagedAnnotation, HavePrefix(revision+" ")))
		for _, patch := range output.Spec.ConfigPatches {
			filter := patch.Patch.Value.AsMap()
			Expect(patch.ApplyTo != networking.EnvoyFilter_HTTP_FILTER || patch.Patch.Operation == networking.EnvoyFilter_Patch_REMOVE || filter["disabled"] == true).To(BeTrue(), "%v", filter)
		}
		Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionUnknown, wasmev1.ReasonSpreading, "on 1 of 2 workloads"))
		Expect(fd.Status.Workloads["a"].Reason).To(Equal("tries revision " + revision + ", which no request passes yet"))
	}

	It("is tried where no filter runs, and leaves nothing when it is refused", func(ctx context.Context) {
		isTried(ctx)
		w.clock.Step(rollout.LoadTimeout)
		Eventually(ctx, settles).WithArguments(ctx).WithTimeout(bound).Should(BeEmpty())
		Expect(fd).To(notReady(wasmev1.ReasonRolledBack, "was rolled back to nothing after a failure at a, where it was tried before any request passed it: "))

		By("another one")
		edit(ctx, fd, config("second"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		isTried(ctx)
		s.run(stagedPlugin(fd, "a", fd.Status.Revision), pods...)
		Eventually(ctx, settles).WithArguments(ctx).WithTimeout(bound).Should(HaveKeyWithValue("a-f", fd.Status.Revision))
		s.load(ctx, fd, "a", pods)
		s.becomes(ctx, fd, "2/2")
		Expect(fd).To(beReady("2/2"))
	})

	It("goes nowhere else while the module of another one is copied", func(ctx context.Context) {
		before := w.held(ctx)
		has, woken := w.lackingReplica()
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.Image = w.push(ctx, "other:v1", "another module") })
		for range 3 {
			Expect(settles(ctx)).To(Equal(before))
		}
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionUnknown, wasmev1.ReasonDistributing))
		has.Store(true)
		Eventually(ctx, woken).WithTimeout(bound).Should(Receive())
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.output(ctx, "a-f").Annotations).To(HaveKeyWithValue(rollout.StagedAnnotation, HavePrefix(fd.Status.Revision+" ")))
		Expect(w.held(ctx)).To(Equal(before), "the workload without pods waits, too")
	})

	It("stays where it ran when another one fails before it is complete", func(ctx context.Context) {
		first := fd.Status.Revision
		w.deployments(ctx, "b")
		s.start(ctx, "b", 3)
		s.run(stagedPlugin(fd, "a", first), pods...)
		Eventually(ctx, settles).WithArguments(ctx).WithTimeout(bound).Should(HaveKeyWithValue("a-f", first))
		s.load(ctx, fd, "a", pods)
		Eventually(ctx, func() wasmev1.WorkloadState {
			Expect(w.settle(ctx, fd)).To(Succeed())
			return fd.Status.Workloads["a"].State
		}).WithTimeout(bound).Should(Equal(wasmev1.WorkloadSucceeded))
		edit(ctx, fd, config("second"))
		Expect(settles(ctx)).To(Equal(map[string]string{"a-f": first, "idle-f": first}))
		second := fd.Status.Revision
		Expect(w.output(ctx, "a-f").Annotations).To(HaveKeyWithValue(rollout.StagedAnnotation, HavePrefix(second+" ")))
		w.clock.Step(rollout.LoadTimeout)
		Eventually(ctx, settles).WithArguments(ctx).WithTimeout(bound).Should(Equal(map[string]string{"a-f": first}))
		Expect(w.output(ctx, "a-f").Annotations).To(HaveKeyWithValue(rollout.StagedAnnotation, ""))
		Expect(fd).To(notReady(wasmev1.ReasonRolledBack, "revision "+second+" was rolled back to nothing"))
		Expect(fd.Status.Workloads["a"].Reason).To(Equal("keeps revision " + first + ", because revision " + second + " was rolled back"))
	})

	It("leaves nothing when it is held", func(ctx context.Context) {
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Rollout = &wasmev1.RolloutSpec{OnFailure: wasmev1.RolloutHold}
		})
		Expect(w.settle(ctx, fd)).To(Succeed())
		isTried(ctx)
		w.clock.Step(rollout.LoadTimeout)
		Eventually(ctx, settles).WithArguments(ctx).WithTimeout(bound).Should(HaveLen(1), "the output of the workload without pods")
		Expect(fd).To(notReady(wasmev1.ReasonRolloutHeld, "before any request passed it"))
		Expect(settles(ctx)).To(Equal(map[string]string{"idle-f": fd.Status.Revision}))
	})

	It("goes on being tried after a restart", func(ctx context.Context) {
		w.restart(ctx)
		w.newProber()
		w.startProber()
		Expect(w.settle(ctx, fd)).To(Succeed())
		isTried(ctx)
		s.run(stagedPlugin(fd, "a", fd.Status.Revision), pods...)
		Eventually(ctx, settles).WithArguments(ctx).WithTimeout(bound).Should(HaveKeyWithValue("a-f", fd.Status.Revision))
	})
})
