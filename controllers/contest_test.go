package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// overwrite does to a status what a rival does that knows the predecessor's
// fields only. The predecessor itself cannot: its observedGeneration is a string.
func overwrite(ctx context.Context, fd *wasmev1.FilterDeployment) {
	GinkgoHelper()
	var live wasmev1.FilterDeployment
	Expect(user.Get(ctx, client.ObjectKeyFromObject(fd), &live)).To(Succeed())
	live.Status = wasmev1.FilterDeploymentStatus{
		ObservedGeneration: new(live.Generation),
		Workloads:          map[string]wasmev1.WorkloadStatus{"a": {State: wasmev1.WorkloadSucceeded}},
	}
	Expect(user.Status().Update(ctx, &live)).To(Succeed())
}

var _ = Describe("A status that something else overwrites", func() {
	var w *world
	var fd *wasmev1.FilterDeployment
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.deployments(ctx, "a")
		fd = w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		w.written()
	})
	contested := And(
		notReady(wasmev1.ReasonStatusOverwritten, "something else overwrites the status", "--show-managed-fields", "kubectl -n wasme scale deployment wasme-operator --replicas=0"),
		haveCondition(wasmev1.ConditionContested, metav1.ConditionTrue, wasmev1.ReasonStatusOverwritten),
		haveCondition(wasmev1.ConditionReconciling, metav1.ConditionTrue, wasmev1.ReasonProgressingWithRetry),
		haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionTrue, wasmev1.ReasonProgrammed),
	)

	It("is written again at once, said, and forgotten when it stays", func(ctx context.Context) {
		revision := fd.Status.Revision
		overwrite(ctx, fd)
		result, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(result.RequeueAfter).To(BeNumerically("<=", contestMemory))
		Expect(fd).To(contested)
		Expect(kstatusOf(fd)).To(Equal(status.InProgressStatus))
		Expect(fd.Status.Revision).To(Equal(revision))
		Expect(fd.Status.Summary.WorkloadsReady).To(Equal("1/1"))
		Expect(w.written()).To(ConsistOf("patch status of FilterDeployment f"))

		w.clock.Step(contestMemory - time.Second)
		for range 3 {
			result, err = w.reconcile(ctx, fd)
			Expect(err).NotTo(HaveOccurred())
			Expect(result.RequeueAfter).To(And(BeNumerically(">", 0), BeNumerically("<=", time.Second)))
		}
		Expect(fd).To(contested)
		Expect(w.written()).To(BeEmpty())

		w.clock.Step(time.Second)
		_, err = w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(fd).To(beReady("1/1"))
		Expect(w.written()).To(ConsistOf("patch status of FilterDeployment f"))
		_, err = w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(w.written()).To(BeEmpty())
		Eventually(ctx, func() []string { return w.events(ctx, fd) }).WithTimeout(bound).Should(
			ConsistOf("Normal Resolving", "Normal Ready", "Warning StatusOverwritten", "Normal Ready"))
	})

	It("is written once a minute at most, however often it is overwritten", func(ctx context.Context) {
		writes := 0
		for minute := range 10 {
			for range 50 {
				overwrite(ctx, fd)
				result, err := w.reconcile(ctx, fd)
				Expect(err).NotTo(HaveOccurred())
				Expect(result.RequeueAfter).To(BeNumerically("<=", contestMemory))
			}
			written := w.written()
			Expect(written).To(HaveEach("patch status of FilterDeployment f"))
			writes += len(written)
			Expect(writes).To(Equal(minute + 1))
			w.clock.Step(repairInterval)
		}
		By("having said it once")
		Eventually(ctx, func() []string { return w.events(ctx, fd) }).WithTimeout(bound).Should(
			ConsistOf("Normal Resolving", "Normal Ready", "Warning StatusOverwritten"))
		By("being left in peace")
		_, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(fd).To(contested)
	})

	It("holds up neither the repair of an output nor its retries", func(ctx context.Context) {
		overwrite(ctx, fd)
		_, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		overwrite(ctx, fd)
		edit(ctx, w.output(ctx, "a-f"), func(f *networking.EnvoyFilter) { f.Spec.Priority = 7 })
		w.written()
		w.intercept(func(write string) error {
			if write == "update EnvoyFilter a-f" {
				return errors.New("injected")
			}
			return nil
		})
		_, err = w.reconcile(ctx, fd)
		Expect(err).To(MatchError(ContainSubstring("injected")))
		w.intercept(nil)
		_, err = w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(w.output(ctx, "a-f").Spec.Priority).To(BeZero())
		Expect(w.written()).To(ConsistOf("update EnvoyFilter a-f", "update EnvoyFilter a-f"))
	})

	It("is told from one that the cache has not seen yet", func(ctx context.Context) {
		for i := range 20 {
			name := fmt.Sprint("new-", i)
			another := w.filterDeployment(ctx, name, fd.Spec.Filter.Image, filterID(name))
			w.catchUp(ctx, w.namespace)
			for range 3 {
				_, err := w.pass(ctx, another)
				Expect(err).NotTo(HaveOccurred())
			}
			Expect(w.settle(ctx, another)).To(Succeed())
			Expect(another).To(beReady("1/1"))
		}
	})

	It("is told from that of an earlier object of the name", func(ctx context.Context) {
		Expect(user.Delete(ctx, fd)).To(Succeed())
		fd = w.filterDeployment(ctx, "f", fd.Spec.Filter.Image, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		Expect(w.events(ctx, fd)).NotTo(ContainElement(ContainSubstring("Overwritten")))
	})

	It("is taken for the predecessor's by an operator that starts, and written", func(ctx context.Context) {
		overwrite(ctx, fd)
		w.restart(ctx)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		overwrite(ctx, fd)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(contested)
	})

	It("is tried again when it could not be written", func(ctx context.Context) {
		overwrite(ctx, fd)
		w.intercept(func(write string) error {
			if strings.HasPrefix(write, "patch status") {
				return errors.New("injected")
			}
			return nil
		})
		for range 2 {
			_, err := w.reconcile(ctx, fd)
			Expect(err).To(MatchError(ContainSubstring("injected")))
		}
		w.intercept(nil)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(contested)
	})
})
