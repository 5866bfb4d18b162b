package e2e

import (
	"context"
	"net/http"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
)

// rolledBack is how long a crash may take to be taken back. It is no measurement: other
// specs run beside it.
const rolledBack = 30 * time.Second

var _ = Describe("A staged rollout", long, func() {
	It("stops at the first workload, and takes itself back", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		first := workload(namespace, "a", map[string]string{"app": "a"})
		pod := run(ctx, first)
		others := []*mesh.Running{run(ctx, workload(namespace, "b", map[string]string{"app": "b"})), run(ctx, workload(namespace, "c", map[string]string{"app": "c"}))}
		all := append([]*mesh.Running{pod}, others...)
		answer := func(value string, pods ...*mesh.Running) {
			GinkgoHelper()
			for _, p := range pods {
				meshtest.EventuallyAnswers(ctx, p, value)
			}
		}
		fd := filterDeployment(namespace, push(ctx, filters.Trap), "one")
		fd.Spec.Rollout = &wasmev1.RolloutSpec{BakeTime: &metav1.Duration{Duration: 3 * time.Second}}
		Expect(admin.Create(ctx, fd)).To(Succeed())
		answer("one", all...)
		Eventually(phase(ctx, fd)).WithTimeout(loadTime).Should(Equal(wasmev1.RolloutComplete))

		By("a configuration that the module refuses")
		var streams []*stream
		for _, p := range all {
			streams = append(streams, startStream(ctx, p.URL))
		}
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("refuse") })
		Eventually(phase(ctx, fd)).WithTimeout(loadTime).Should(Equal(wasmev1.RolloutRolledBack))
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonRolledBack))
		Expect(live(ctx, fd).Status.Rollout.Rejected.Message).To(HavePrefix("a, where it was tried beside the last good revision: "))
		first.Replica = 1
		answer("one", run(ctx, first))
		for i, s := range streams {
			asked, failed := s.stop()
			Expect(failed).To(BeZero(), "of %d requests to %s", asked, all[i].URL)
		}
		for _, p := range others {
			Expect(refusals(ctx, p)()).To(BeZero(), "no other workload saw it")
		}

		By("a module that crashes, at another workload, since the first one has more pods now")
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("two") })
		Eventually(phase(ctx, fd)).WithTimeout(loadTime).Should(Equal(wasmev1.RolloutBaking))
		crashed := time.Now()
		crashUntilRolledBack(ctx, others[0], fd)
		answer("one", all...)
		GinkgoWriter.Println("from the crash to the last good revision everywhere:", time.Since(crashed))
		Expect(live(ctx, fd).Status.Rollout.Rejected.Reason).To(Equal(wasmev1.ReasonCrashing))

		By("the same revision once more, because someone wants it")
		retry(ctx, fd)
		answer("two", all...)
		Eventually(phase(ctx, fd)).WithTimeout(loadTime).Should(Equal(wasmev1.RolloutComplete))
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonReady))
	})

	It("carries a configuration that is larger than what the operator keeps in memory", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		running := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		large := strings.Repeat("large", 1000)
		fd := filterDeployment(namespace, push(ctx, filters.Hello), large)
		fd.Spec.Rollout = nil
		Expect(admin.Create(ctx, fd)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, running, large)
	})
})

// crashUntilRolledBack crashes the filter trap in a pod, and waits for what follows.
func crashUntilRolledBack(ctx context.Context, pod *mesh.Running, fd *wasmev1.FilterDeployment) {
	GinkgoHelper()
	Expect(mesh.Ask(ctx, pod.URL, "x-crash", "yes").Status).To(Equal(http.StatusServiceUnavailable))
	Eventually(func() wasmev1.RolloutPhase {
		mesh.Ask(ctx, pod.URL) // a crash shows after the next request to its thread
		return phase(ctx, fd)()
	}).WithTimeout(rolledBack).Should(Equal(wasmev1.RolloutRolledBack))
}

// retry has a revision that failed begin again.
func retry(ctx context.Context, fd *wasmev1.FilterDeployment) {
	GinkgoHelper()
	Eventually(func() error {
		current := live(ctx, fd)
		metav1.SetMetaDataAnnotation(&current.ObjectMeta, wasmev1.RetryAnnotation, current.Status.Rollout.To)
		return admin.Update(ctx, current)
	}).Should(Succeed())
}

// phase is how far the rollout of the newest spec is.
func phase(ctx context.Context, fd *wasmev1.FilterDeployment) func() wasmev1.RolloutPhase {
	return func() wasmev1.RolloutPhase {
		current := live(ctx, fd)
		if current.Status.Rollout == nil || *current.Status.ObservedGeneration != current.Generation {
			return ""
		}
		return current.Status.Rollout.Phase
	}
}
