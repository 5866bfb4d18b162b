package controllers

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

var _ = Describe("Fetches of modules, by stand-ins for sidecars,", func() {
	var w *world
	var s *sidecars
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		s = w.startSidecars()
	})

	It("spread in waves, which workloads without pods need not wait for", func(ctx context.Context) {
		w.deployments(ctx, "a", "b", "c", "empty")
		const each = rollout.MaxLoadingPods/2 + 1
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
		Expect(result.RequeueAfter).To(BeNumerically("<=", rollout.LoadTimeout))
		w.clock.Step(rollout.LoadTimeout)
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

	It("of a workload whose output cannot be written leave their room to others", func(ctx context.Context) {
		w.deployments(ctx, "a", "b", "c")
		const each = rollout.MaxLoadingPods/2 + 1
		s.start(ctx, "a", each)
		s.start(ctx, "b", each)
		s.start(ctx, "c", 1)
		inTheWay := &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "a-f"}}
		Expect(user.Create(ctx, inTheWay)).To(Succeed())
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).NotTo(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonConflict))
		Expect(w.outputs(ctx)).To(ConsistOf("a-f", "b-f", "c-f"))
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
		w.clock.Step(rollout.LoadTimeout)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.held(ctx)).To(Equal(map[string]string{"a-f": second, "b-f": second}), "nothing waits forever")
	})

	It("have so many pods load at one time, of all FilterDeployments", func(ctx context.Context) {
		w.Budget = rollout.NewBudget(rollout.Load{Pods: 2, Bytes: 1 << 30})
		w.deployments(ctx, "a", "b")
		pods := s.start(ctx, "a", 2)
		s.start(ctx, "b", 1)
		image := w.push(ctx, "hello:v1", "hello")
		of := func(name, app string) *wasmev1.FilterDeployment {
			return w.filterDeployment(ctx, name, image, filterID("f"), func(fd *wasmev1.FilterDeployment) {
				fd.Spec.Deployment.Istio.Labels = map[string]wasmev1.LabelValue{"app": wasmev1.LabelValue(app)}
			})
		}
		first, second := of("first", "a"), of("second", "b")
		Expect(w.settle(ctx, first)).To(Succeed())
		Expect(w.settle(ctx, second)).To(Succeed())
		Expect(w.outputs(ctx)).To(ConsistOf("a-f"))
		Expect(second).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionUnknown, wasmev1.ReasonSpreading))
		Expect(second.Status.Workloads["b"].Reason).To(Equal("waits until pods of other FilterDeployments have loaded their modules"))
		Expect(w.turns).NotTo(Receive())

		s.load(ctx, first, "a", pods)
		s.becomes(ctx, first, "2/2")
		Expect(w.turns).To(Receive(Equal(client.ObjectKeyFromObject(second))))
		Expect(w.settle(ctx, second)).To(Succeed())
		Expect(w.outputs(ctx)).To(ConsistOf("a-f", "b-f"))

		By("one that is deleted while it waits, or while its pods load")
		third := of("third", "a")
		Expect(w.settle(ctx, third)).To(Succeed())
		Expect(third.Status.Workloads["a"].Reason).To(HavePrefix("waits until pods of other FilterDeployments"))
		Expect(user.Delete(ctx, second)).To(Succeed())
		Eventually(ctx, func() chan types.NamespacedName {
			_, err := w.Reconcile(ctx, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(second)})
			Expect(err).NotTo(HaveOccurred())
			return w.turns
		}).WithTimeout(bound).Should(Receive(Equal(client.ObjectKeyFromObject(third))), "once the cache shows its deletion")
	})

	It("are not doubted after a restart: nothing is written before the pods answer, nor when they say the same", func(ctx context.Context) {
		w.deployments(ctx, "a")
		pods := s.start(ctx, "a", 2)
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		s.load(ctx, fd, "a", pods)
		s.becomes(ctx, fd, "2/2")

		w.restart(ctx)
		w.newProber()
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.written()).To(BeEmpty())
		w.startProber()
		Consistently(ctx, func(g Gomega) {
			g.Expect(w.settle(ctx, fd)).To(Succeed())
			g.Expect(w.written()).To(BeEmpty())
		}).WithTimeout(2 * time.Second).Should(Succeed())

		By("telling of no pod that it has not asked when the spec changes")
		w.deployments(ctx, "b")
		s.start(ctx, "b", 1)
		w.restart(ctx)
		w.newProber()
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Deployment.Istio.Labels = map[string]wasmev1.LabelValue{"app": "b"}
		})
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionUnknown, wasmev1.ReasonLoading))
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Deployment.Istio.Labels = map[string]wasmev1.LabelValue{"app": "a"}
		})

		By("noticing what changed meanwhile")
		s.run("", pods...)
		w.restart(ctx)
		w.newProber()
		w.startProber()
		s.becomes(ctx, fd, "0/2")
	})

	It("hold nothing back when they are renewed: their pods had their time", func(ctx context.Context) {
		w.deployments(ctx, "a")
		pods := s.start(ctx, "a", 1)
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		s.load(ctx, fd, "a", pods)
		s.becomes(ctx, fd, "1/1")
		edit(ctx, fd, config("refused"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		w.waitedForPods(ctx, fd)
		w.becomesBecause(ctx, fd, wasmev1.ReasonOlderRevision)
		Expect(w.output(ctx, "a-f").Annotations[rollout.FetchAnnotation]).To(HavePrefix(fd.Status.Revision + " 1 "))

		edit(ctx, fd, config("fixed"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.held(ctx)).To(HaveKeyWithValue("a-f", fd.Status.Revision))
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionTrue, wasmev1.ReasonProgrammed))
	})

	It("of outputs that show no revision are proven by the first only", func(ctx context.Context) {
		w.deployments(ctx, "a")
		pods := s.start(ctx, "a", 1)
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), output(wasmev1.OutputWasmPlugin), objectConfig)
		Expect(w.settle(ctx, fd)).To(Succeed())
		s.run(fd.Namespace+".a-f", pods...)
		s.becomes(ctx, fd, "1/1")
		first := fd.Status.Revision

		edit(ctx, fd, image(w.push(ctx, "hello:v2", "other")))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd.Status.Revision).NotTo(Equal(first))
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionTrue, wasmev1.ReasonProgrammed), "the first one is proven")

		edit(ctx, fd, image(w.push(ctx, "hello:v3", "third")))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionUnknown, wasmev1.ReasonSpreading))
		w.clock.Step(rollout.LoadTimeout)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionTrue, wasmev1.ReasonProgrammed))
	})
})

var _ = It("A fetch that a wrong clock dates into the future holds nothing up", func(ctx context.Context) {
	w := newWorld(ctx)
	w.deployments(ctx, "a")
	w.startSidecars().start(ctx, "a", 1)
	fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
	Expect(w.settle(ctx, fd)).To(Succeed())
	edit[client.Object](ctx, w.output(ctx, "a-f"), func(object client.Object) {
		notes := object.GetAnnotations()
		notes[rollout.FetchAnnotation] = rollout.Fetch{Revision: fd.Status.Revision, At: w.clock.Now().Add(time.Hour)}.Annotation()
		object.SetAnnotations(notes)
	})
	edit(ctx, fd, image(w.push(ctx, "hello:v2", "other")))
	Expect(w.settle(ctx, fd)).To(Succeed())
	Expect(w.held(ctx)).To(HaveKeyWithValue("a-f", fd.Status.Revision))
})
