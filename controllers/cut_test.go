package controllers

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/revision"
)

var _ = Describe("A large configuration", func() {
	large := strings.Repeat("large ", revision.MaxCachedConfiguration)

	It("is not in the cache, and reaches outputs all the same", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), config(large))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		Expect(w.output(ctx, "a-f").Spec.String()).To(ContainSubstring(large))
		kept := w.revisions(ctx, fd)
		Expect(kept).To(HaveLen(1))
		Expect(string(kept[0].Data.Raw)).To(ContainSubstring(large))

		w.catchUp(ctx, w.namespace)
		var cached wasmev1.FilterDeployment
		Expect(w.Client.Get(ctx, client.ObjectKeyFromObject(fd), &cached)).To(Succeed())
		Expect(cached.Spec.Filter.Config).To(BeNil())
		var cachedRevision appsv1.ControllerRevision
		Expect(w.Client.Get(ctx, client.ObjectKeyFromObject(&kept[0]), &cachedRevision)).To(Succeed())
		Expect(len(cachedRevision.Data.Raw)).To(BeNumerically("<", revision.MaxCachedConfiguration))

		w.written()
		_, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(w.written()).To(BeEmpty())
	})

	It("of a last good revision is written again when the output is gone", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), config(large))
		Expect(w.settle(ctx, fd)).To(Succeed())
		before := w.output(ctx, "a-f").Spec.String()
		edit(ctx, fd, image("registry.invalid/nothing:v1"))
		Expect(user.Delete(ctx, w.output(ctx, "a-f"))).To(Succeed())
		w.restart(ctx) // what this process remembers is gone, too
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionFalse, wasmev1.ReasonLastGoodRevision))
		Expect(w.output(ctx, "a-f").Spec.String()).To(Equal(before))
	})

	It("is kept whole when an older revision becomes the newest again", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"), config(large))
		Expect(w.settle(ctx, fd)).To(Succeed())
		first := w.revisions(ctx, fd)[0]
		edit(ctx, fd, config("small"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		edit(ctx, fd, config(large))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		kept := w.revisions(ctx, fd)
		Expect(kept).To(HaveLen(2))
		Expect(kept[1].Name).To(Equal(first.Name))
		Expect(kept[1].Revision).To(BeEquivalentTo(3))
		Expect(kept[1].Data).To(Equal(first.Data))
		Expect(kept[1].Annotations).To(Equal(first.Annotations))
	})
})
