package controllers

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

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

	It("leave nothing behind when the class and the spec change in one edit", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a", "b")
		east := startOperator(ctx, w.clock, GinkgoT().TempDir(), class("east"))
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("2/2"))
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) {
			fd.Labels = map[string]string{wasmev1.ClassLabel: "east"}
			fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Labels: map[string]wasmev1.LabelValue{"app": "a"}}
			config("changed")(fd)
		})
		wait := func(why string) {
			GinkgoHelper()
			for range 2 {
				result, err := w.reconcile(ctx, fd)
				Expect(err).NotTo(HaveOccurred())
				Expect(result.RequeueAfter).To(Equal(time.Minute))
				Expect(w.held(ctx)).To(HaveKey("b-f"), why)
				w.clock.Step(time.Minute)
			}
		}
		keepers := func() (managers []string) {
			GinkgoHelper()
			var list appsv1.ControllerRevisionList
			Expect(user.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
			for _, revision := range list.Items {
				managers = append(managers, revision.Labels[ownership.ManagedByLabel])
			}
			return managers
		}
		wait("nobody has taken over")
		Expect(east.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		Expect(keepers()).To(ConsistOf("wasme-operator", "wasme-operator.east"))
		Expect(w.held(ctx)).To(HaveKey("b-f"))
		_, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(w.held(ctx)).To(Equal(map[string]string{"a-f": fd.Status.Revision}))
		Expect(keepers()).To(ConsistOf("wasme-operator.east"))
		result, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(result).To(BeZero())
	})
})
