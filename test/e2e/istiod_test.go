package e2e

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

var _ = Describe("An outage of istiod", Serial, func() {
	It("is told of a change that no pod gets, costs no request, and heals by itself", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		pod := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		fd := filterDeployment(namespace, push(ctx, "hello"), "before")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		eventuallyAnswers(ctx, pod, answer{200, "before"})
		Eventually(loaded(ctx, fd), patience, poll).Should(Equal("Loaded 1/1"))
		load := startStream(ctx, pod.URL)

		Expect(theMesh.StopIstiod()).To(Succeed())
		away := true
		DeferCleanup(func(ctx SpecContext) {
			if away {
				Expect(theMesh.StartIstiod(ctx)).To(Succeed())
			}
		})
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("after") })
		Eventually(loaded(ctx, fd), patience, poll).Should(Equal("Loading 0/1"))
		Expect(readyReason(ctx, fd)()).To(Equal(wasmev1.ReasonLoading))
		Eventually(loaded(ctx, fd), loadTime, poll).Should(Equal("OlderRevision 0/1"))
		Eventually(readyReason(ctx, fd), patience, poll).Should(Equal(wasmev1.ReasonOlderRevision))
		Expect(message(ctx, fd)).To(ContainSubstring("istiod"))
		Expect(ask(ctx, pod.URL)).To(Equal(answer{200, "before"}))

		Expect(theMesh.StartIstiod(ctx)).To(Succeed())
		away = false
		eventuallyAnswers(ctx, pod, answer{200, "after"})
		Eventually(loaded(ctx, fd), patience, poll).Should(Equal("Loaded 1/1"))
		Expect(readyReason(ctx, fd)()).To(Equal(wasmev1.ReasonReady))
		all, failed := load.stop()
		Expect(failed).To(BeZero(), "of %d requests", all)
		Expect(all).To(BeNumerically(">", 100))
	})
})
