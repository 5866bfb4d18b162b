package controllers

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/ownership"
)

var _ = Describe("Two installations with different classes", func() {
	It("leave each other's FilterDeployments alone, and hand them over", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a")
		east := startOperator(ctx, w.clock, GinkgoT().TempDir(), class("east"))
		east.Mesh.ModuleServerURL = "http://modules.east"
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		before := w.output(ctx, "a-f")
		Expect(before.Labels).To(HaveKeyWithValue(ownership.ManagedByLabel, "wasme-operator"))
		_, err := east.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(east.written()).To(BeEmpty())

		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Labels = map[string]string{wasmev1.ClassLabel: "east"} })
		w.written()
		_, err = w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(w.written()).To(BeEmpty())
		Expect(east.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		after := w.output(ctx, "a-f")
		Expect(after.UID).To(Equal(before.UID), "the filter stays where it is")
		Expect(after.Labels).To(HaveKeyWithValue(ownership.ManagedByLabel, "wasme-operator.east"))
		Expect(after.Spec.String()).To(ContainSubstring("http://modules.east"))

		w.written()
		east.written()
		for _, o := range []*operator{w.operator, east, w.operator, east} {
			_, err := o.reconcile(ctx, fd)
			Expect(err).NotTo(HaveOccurred())
		}
		Expect(w.written()).To(BeEmpty())
		Expect(east.written()).To(BeEmpty())
		Expect(w.held(ctx)).To(Equal(map[string]string{"a-f": fd.Status.Revision}))
		Expect(w.revisions(ctx, fd)).To(HaveLen(1))
	})
})
