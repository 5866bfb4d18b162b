package e2e

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apimeta "k8s.io/apimachinery/pkg/api/meta"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
)

// runTime is how long a module may run in its preflight, with compiling before.
const runTime = 60 * time.Second

var _ = Describe("A preflight", func() {
	It("keeps modules that are broken from every proxy, and tells why in their words", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		pods := []*mesh.Running{run(ctx, workload(namespace, "a", map[string]string{"app": "a"})), run(ctx, workload(namespace, "b", map[string]string{"app": "b"}))}
		fd := filterDeployment(namespace, push(ctx, filters.Hello), "one")
		fd.Spec.Filter.Preflight = wasmev1.PreflightEnforce
		Expect(admin.Create(ctx, fd)).To(Succeed())
		var streams []*stream
		for _, pod := range pods {
			meshtest.EventuallyAnswers(ctx, pod, "one")
		}
		Eventually(readyReason(ctx, fd)).WithTimeout(loadTime).Should(Equal(wasmev1.ReasonReady))
		Expect(live(ctx, fd).Status.Module.Cost).NotTo(BeNil())
		for _, pod := range pods {
			streams = append(streams, startStream(ctx, pod.URL))
		}
		served := outputsOf(ctx, namespace)

		By("a configuration that the module refuses")
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text(filters.RefusedConfiguration) })
		Eventually(readyReason(ctx, fd)).WithTimeout(runTime).Should(Equal(wasmev1.ReasonConfigurationRefused))
		Expect(preflighted(ctx, fd)).To(And(HavePrefix("the module refused its configuration"), ContainSubstring("its last log lines: configuration refused")))

		By("a module that never returns from its start")
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Image, f.Config = push(ctx, filters.Loop), text("two") })
		Eventually(readyReason(ctx, fd)).WithTimeout(runTime).Should(Equal(wasmev1.ReasonTimedOut))
		Expect(preflighted(ctx, fd)).To(ContainSubstring("did not return in proxy_on_vm_start"))

		By("a module that imports what no proxy offers")
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Image = push(ctx, filters.Import) })
		Eventually(readyReason(ctx, fd)).WithTimeout(runTime).Should(Equal(wasmev1.ReasonMissingImport))

		for i, s := range streams {
			asked, failed := s.stop()
			Expect(failed).To(BeZero(), "of %d requests to %s", asked, pods[i].URL)
			Expect(refusals(ctx, pods[i])()).To(BeZero(), "no proxy saw any of them")
			meshtest.EventuallyAnswers(ctx, pods[i], "one")
		}
		Expect(outputsOf(ctx, namespace)).To(Equal(served))

		By("one that works")
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Image, f.Config = push(ctx, filters.Hello), text("two") })
		for _, pod := range pods {
			meshtest.EventuallyAnswers(ctx, pod, "two")
		}
		Eventually(readyReason(ctx, fd)).WithTimeout(loadTime).Should(Equal(wasmev1.ReasonReady))
	})
})

// preflighted is the message of Preflighted.
func preflighted(ctx context.Context, fd *wasmev1.FilterDeployment) string {
	GinkgoHelper()
	found := apimeta.FindStatusCondition(live(ctx, fd).Status.Conditions, wasmev1.ConditionPreflighted)
	Expect(found).NotTo(BeNil())
	return found.Message
}
