package e2e

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
)

// stopIstiod ends istiod until the returned function, or the end of the spec, starts it again.
func stopIstiod() (back func(context.Context)) {
	GinkgoHelper()
	Expect(theMesh.StopIstiod()).To(Succeed())
	away := true
	back = func(ctx context.Context) {
		GinkgoHelper()
		if away {
			Expect(theMesh.StartIstiod(ctx)).To(Succeed())
		}
		away = false
	}
	DeferCleanup(func(ctx SpecContext) { back(ctx) })
	return back
}

var _ = Describe("An outage of istiod", long, func() {
	It("is reported for a change that reaches no pod, fails no request, and ends without help", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		pod := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		fd := filterDeployment(namespace, push(ctx, "hello"), "before")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, pod, "before")
		Eventually(loaded(ctx, fd)).Should(Equal("Loaded 1/1"))
		load := startStream(ctx, pod.URL)

		back := stopIstiod()
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("after") })
		Eventually(loaded(ctx, fd)).Should(Equal("Loading 0/1"))
		Expect(readyReason(ctx, fd)()).To(Equal(wasmev1.ReasonLoading))
		Eventually(loaded(ctx, fd), loadTime).Should(Equal("OlderRevision 0/1"))
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonOlderRevision))
		Expect(message(ctx, fd)).To(ContainSubstring("istiod"))
		Expect(mesh.Ask(ctx, pod.URL)).To(Equal(mesh.Answered(200, "before")))

		back(ctx)
		meshtest.EventuallyAnswers(ctx, pod, "after")
		Eventually(loaded(ctx, fd)).Should(Equal("Loaded 1/1"))
		Expect(readyReason(ctx, fd)()).To(Equal(wasmev1.ReasonReady))
		all, failed := load.stop()
		Expect(failed).To(BeZero(), "of %d requests", all)
		Expect(all).To(BeNumerically(">", 100))
	})
})
