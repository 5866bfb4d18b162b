package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/filterdeployment"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/revision"
)

var _ = Describe("The revision in force", func() {
	var w *world
	var fd *wasmev1.FilterDeployment
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.deployments(ctx, "a", "b")
		fd = w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("2/2"))
		w.written()
	})

	Describe("when the operator starts again", func() {
		It("is found again, and nothing is written", func(ctx context.Context) {
			w.restart(ctx)
			for range 2 {
				Expect(w.settle(ctx, fd)).To(Succeed())
			}
			w.awaitAnswer(ctx, fd)
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.written()).To(BeEmpty())
			Expect(fd).To(beReady("2/2"))
		})

		It("is found again while the registry is down", func(ctx context.Context) {
			w.registry.Down()
			w.restart(ctx)
			Expect(w.settle(ctx, fd)).To(Succeed())
			w.awaitAnswer(ctx, fd)
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.written()).To(BeEmpty())
			Expect(fd).To(beReady("2/2"))
		})

		It("stays while the registry is down and the module is lost", func(ctx context.Context) {
			before := w.output(ctx, "a-f").ResourceVersion
			w.registry.Down()
			w.store = GinkgoT().TempDir()
			w.restart(ctx)
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.written()).To(BeEmpty(), "before the registry was asked")
			w.awaitAnswer(ctx, fd)
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.written()).To(ConsistOf("patch status of FilterDeployment f"))
			Expect(fd).To(notReady(wasmev1.ReasonRegistryUnavailable, "connection was refused"))
			Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionFalse, wasmev1.ReasonLastGoodRevision))
			for range 3 {
				w.askAgain(ctx, fd)
				Expect(w.settle(ctx, fd)).To(Succeed())
			}
			Expect(w.written()).To(BeEmpty(), "no flapping")

			Expect(w.registry.Up()).To(Succeed())
			Expect(w.answer(ctx, fd)).To(Succeed())
			Expect(fd).To(beReady("2/2"))
			Expect(w.output(ctx, "a-f").ResourceVersion).To(Equal(before))
			Expect(w.Store.Has(fd.Status.Module.SHA256)).To(BeTrue())
		})
	})

	It("outlives a registry that goes away", func(ctx context.Context) {
		w.registry.Down()
		w.askAgain(ctx, fd)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.written()).To(BeEmpty())
	})

	It("stays while the spec names an image that does not exist", func(ctx context.Context) {
		good, module := fd.Status.Revision, fd.Status.Module
		edit(ctx, fd, image(w.registry.Host()+"/none:v1"))
		Expect(w.settle(ctx, fd)).To(Succeed())

		Expect(fd).To(notReady(wasmev1.ReasonImageNotFound, "none:v1"))
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionFalse, wasmev1.ReasonLastGoodRevision, "revision "+good+" stays in force on 2 workloads"))
		Expect(fd.Status.Revision).To(Equal(good))
		Expect(fd.Status.Module).To(Equal(module))
		Expect(fd.Status.Summary.WorkloadsReady).To(Equal("0/2"))
		Expect(fd.Status.Workloads["a"]).To(Equal(wasmev1.WorkloadStatus{State: wasmev1.WorkloadPending, Reason: "keeps revision " + good + " until the spec can be applied"}))
		Expect(w.written()).To(HaveEach("patch status of FilterDeployment f"))

		By("repairing it")
		spec := hashOf(&w.output(ctx, "b-f").Spec)
		edit(ctx, w.output(ctx, "b-f"), func(f *networking.EnvoyFilter) { f.Spec.Priority = 10 })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(hashOf(&w.output(ctx, "b-f").Spec)).To(Equal(spec))

		By("extending it to a new workload, also by an operator that starts again")
		w.restart(ctx)
		w.deployments(ctx, "c")
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.held(ctx)).To(Equal(map[string]string{"a-f": good, "b-f": good, "c-f": good}))
		Expect(fd).To(notReady(wasmev1.ReasonImageNotFound, "none:v1"))
		Expect(fd.Status.Summary.WorkloadsReady).To(Equal("0/3"))

		By("following the spec again once it can")
		w.push(ctx, "none:v1", "new")
		Expect(w.answer(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("3/3"))
		Expect(fd.Status.Revision).NotTo(Equal(good))
		Expect(w.held(ctx)).To(HaveEach(fd.Status.Revision))
	})

	It("follows a tag that moves", func(ctx context.Context) {
		old := *fd.Status.Module
		w.push(ctx, "hello:v1", "moved")
		Expect(w.answer(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("2/2"))
		Expect(fd.Status.Module.SHA256).NotTo(Equal(old.SHA256))
		Expect(w.held(ctx)).To(HaveEach(fd.Status.Revision))
		Expect(w.revisions(ctx, fd)).To(HaveLen(2))
	})

	It("is kept before an output holds it", func(ctx context.Context) {
		edit(ctx, fd, config("next"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.written()[0]).To(HavePrefix("create ControllerRevision f-"))
		revisions := w.revisions(ctx, fd)
		Expect(revisions).To(HaveLen(2))
		Expect(revisions[1].OwnerReferences).To(Equal(ownersFor(fd)))
		Expect(revisions[1].Annotations).To(HaveKeyWithValue(revision.HashAnnotation, fd.Status.Revision))
	})

	It("stays when the next one cannot be kept", func(ctx context.Context) {
		good := fd.Status.Revision
		w.intercept(func(write string) error {
			if strings.HasPrefix(write, "create ControllerRevision") {
				return errors.New("injected")
			}
			return nil
		})
		edit(ctx, fd, config("next"))
		Expect(w.settle(ctx, fd)).To(MatchError(ContainSubstring("injected")))
		Expect(fd).To(notReady(wasmev1.ReasonWriteFailed, "keeping the revision", "injected"))
		Expect(fd.Status.Revision).To(Equal(good))
		Expect(w.held(ctx)).To(HaveEach(good))
		w.intercept(nil)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("2/2"))
		Expect(w.held(ctx)).To(HaveEach(Not(Equal(good))))
	})

	It("is the newest, also when it was in force before", func(ctx context.Context) {
		first := fd.Status.Revision
		edit(ctx, fd, config("second"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		edit(ctx, fd, config("world"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd.Status.Revision).To(Equal(first))
		Expect(w.held(ctx)).To(HaveEach(first))
		// The plain string is other content of the spec, yet the same to proxies.
		edit(ctx, fd, config("second"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		revisions := w.revisions(ctx, fd)
		Expect(revisions[len(revisions)-1].Annotations).To(HaveKeyWithValue(revision.HashAnnotation, fd.Status.Revision))

		edit(ctx, fd, image(w.registry.Host()+"/none:v1"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		w.restart(ctx)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.held(ctx)).To(HaveEach(revisions[len(revisions)-1].Annotations[revision.HashAnnotation]))
	})

	It("leaves three revisions, and those that an output still holds", func(ctx context.Context) {
		first := fd.Status.Revision
		w.intercept(func(write string) error {
			if write == "update EnvoyFilter a-f" {
				return errors.New("injected")
			}
			return nil
		})
		for i := range 5 {
			edit(ctx, fd, config(fmt.Sprint(i)))
			Expect(w.settle(ctx, fd)).NotTo(Succeed())
			Expect(w.settle(ctx, fd)).NotTo(Succeed())
		}
		Expect(w.held(ctx)).To(Equal(map[string]string{"a-f": first, "b-f": fd.Status.Revision}))
		Expect(w.revisions(ctx, fd)).To(HaveLen(4))
		Expect(w.revisions(ctx, fd)[0].Annotations).To(HaveKeyWithValue(revision.HashAnnotation, first))

		w.intercept(nil)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.revisions(ctx, fd)).To(HaveLen(3))
		w.written()
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.written()).To(BeEmpty())
	})

	It("leaves three revisions though proxies see no difference between them", func(ctx context.Context) {
		for i := range 5 {
			edit(ctx, fd, image(w.push(ctx, fmt.Sprintf("hello:same-%d", i), "hello")))
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(beReady("2/2"))
		}
		Expect(len(w.revisions(ctx, fd))).To(BeNumerically("<=", historyLimit))
		Expect(w.written()).NotTo(ContainElement(HavePrefix("update EnvoyFilter")))
	})

	It("is kept again when its ControllerRevision is deleted", func(ctx context.Context) {
		before := w.revisions(ctx, fd)[0]
		Expect(user.Delete(ctx, before.DeepCopy())).To(Succeed())
		Expect(w.settle(ctx, fd)).To(Succeed())
		after := w.revisions(ctx, fd)
		Expect(after).To(HaveLen(1))
		Expect(after[0].Name).To(Equal(before.Name))
		Expect(after[0].Data.Raw).To(MatchJSON(before.Data.Raw))
		Expect(fd).To(beReady("2/2"))
	})

	It("is claimed again when its ControllerRevision loses its labels or its owner", func(ctx context.Context) {
		before := w.revisions(ctx, fd)[0]
		for _, change := range []func(*appsv1.ControllerRevision){
			func(r *appsv1.ControllerRevision) { r.Labels = nil },
			func(r *appsv1.ControllerRevision) { r.OwnerReferences = nil },
		} {
			edit(ctx, before.DeepCopy(), change)
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.revisions(ctx, fd)).To(ConsistOf(And(
				HaveField("UID", before.UID), HaveField("Labels", before.Labels), HaveField("OwnerReferences", before.OwnerReferences))))
		}
	})

	It("is not written again while the cache has not seen it", func(ctx context.Context) {
		var before appsv1.ControllerRevisionList
		Expect(user.List(ctx, &before, client.InNamespace(fd.Namespace))).To(Succeed())
		edit(ctx, fd, config("next"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		written := w.revisions(ctx, fd)
		w.written()
		w.knowRevisions(before)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.written()).To(HaveExactElements(HavePrefix("create ControllerRevision")), "which the API server refuses")
		Expect(w.revisions(ctx, fd)).To(Equal(written))
		Expect(fd).To(beReady("2/2"))
	})

	It("does not take someone else's ControllerRevision", func(ctx context.Context) {
		changed := fd.DeepCopy()
		config("taken")(changed)
		object := controllerRevision(changed, *fd.Status.Module)
		foreign := &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{Namespace: fd.Namespace, Name: object.Name},
			Data:       runtime.RawExtension{Raw: []byte(`{"foreign":true}`)}, Revision: 1,
		}
		Expect(user.Create(ctx, foreign)).To(Succeed())

		good := fd.Status.Revision
		edit(ctx, fd, config("taken"))
		Expect(w.settle(ctx, fd)).To(MatchError(ContainSubstring("not the operator's")))
		Expect(fd).To(notReady(wasmev1.ReasonWriteFailed, "ControllerRevision "+foreign.Name, "delete or rename it"))
		Expect(w.held(ctx)).To(HaveEach(good))
		Expect(user.Delete(ctx, foreign)).To(Succeed())
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("2/2"))
	})

	It("ignores a ControllerRevision that cannot be read", func(ctx context.Context) {
		odd := &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{Namespace: fd.Namespace, Name: "odd"},
			Data:       runtime.RawExtension{Raw: []byte(`{"filter":{"patchContext":"sideways"}}`)}, Revision: 100,
		}
		ownership.Claim(odd, fd, nil)
		Expect(user.Create(ctx, odd)).To(Succeed())
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.written()).To(BeEmpty())
	})

	It("retries in silence when its ControllerRevision was edited in mid-pass", func(ctx context.Context) {
		edit(ctx, fd, config("second"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		edit(ctx, fd, config("third"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		edit(ctx, fd, config("second"))
		status := fd.Status.DeepCopy()
		w.written()
		w.intercept(func(write string) error {
			w.intercept(nil)
			Expect(write).To(HavePrefix("update ControllerRevision"))
			edit(ctx, &w.revisions(ctx, fd)[1], func(r *appsv1.ControllerRevision) { r.Annotations["note"] = "newer" })
			return nil
		})
		result, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(result.RequeueAfter).To(Equal(filterdeployment.MinBackoff))
		Expect(&fd.Status).To(Equal(status))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("2/2"))
		Expect(w.revisions(ctx, fd)[2].Annotations).To(HaveKeyWithValue("note", "newer"))
	})

	It("is one and the same when two revisions have the same number", func(ctx context.Context) {
		for i := range 8 {
			twin := fd.DeepCopy()
			config(fmt.Sprint(i))(twin)
			object := controllerRevision(twin, *fd.Status.Module)
			object.Revision = 7
			Expect(user.Create(ctx, object)).To(Succeed())
		}
		edit(ctx, fd, image("No Image"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		held := w.held(ctx)
		for range 10 {
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.held(ctx)).To(Equal(held))
		}
	})
})
