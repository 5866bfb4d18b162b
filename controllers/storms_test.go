package controllers

import (
	"context"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
)

// hideOutputs leaves the reconciler with no EnvoyFilter, as a cache does that is behind.
func (w *world) hideOutputs() {
	w.Client = interceptor.NewClient(w.Client.(client.WithWatch), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			if _, ok := list.(*istio.EnvoyFilterList); ok {
				return nil
			}
			return c.List(ctx, list, options...)
		},
	})
}

// freezeOutputs leaves the reconciler with the EnvoyFilters that there are now.
func (w *world) freezeOutputs(ctx context.Context) {
	GinkgoHelper()
	w.catchUp(ctx, w.namespace)
	var known istio.EnvoyFilterList
	Expect(w.Client.List(ctx, &known, client.InNamespace(w.namespace))).To(Succeed())
	w.Client = interceptor.NewClient(w.Client.(client.WithWatch), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			if frozen, ok := list.(*istio.EnvoyFilterList); ok {
				*frozen = *known.DeepCopyObject().(*istio.EnvoyFilterList)
				return nil
			}
			return c.List(ctx, list, options...)
		},
	})
}

var _ = Describe("Writes that provoke the same answer again", func() {
	var w *world
	var fd *wasmev1.FilterDeployment
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		fd = w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
	})

	It("are not made while the cache does not show the last ones", func(ctx context.Context) {
		w.stop()
		w.operator = startOperator(ctx, w.clock, w.store, blindCache)
		w.deployments(ctx, "a", "b", "c")
		w.hideOutputs()
		w.knowRevisions(appsv1.ControllerRevisionList{})
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("3/3"))
		Expect(w.written()).To(ContainElements(HavePrefix("create ControllerRevision"), Equal("create EnvoyFilter a-f"), Equal("create EnvoyFilter b-f"), Equal("create EnvoyFilter c-f")))
		for range 5 {
			result, err := w.reconcile(ctx, fd)
			Expect(err).NotTo(HaveOccurred())
			Expect(result.RequeueAfter).To(BeNumerically("<=", time.Minute), "the cache is looked at again")
			Expect(w.written()).To(BeEmpty())
		}
		w.clock.Step(time.Minute)
		for i := range 4 {
			result, err := w.reconcile(ctx, fd)
			Expect(err).NotTo(HaveOccurred())
			Expect(result.RequeueAfter).To(Equal(200*time.Millisecond<<i), "a cache that is behind for so long is not believed, but less and less often")
			Expect(w.written()).To(ContainElement("create EnvoyFilter a-f"))
		}
	})

	It("follow the last ones, which the cache does not show", func(ctx context.Context) {
		w.deployments(ctx, "a")
		Expect(w.settle(ctx, fd)).To(Succeed())
		w.stop()
		w.operator = startOperator(ctx, w.clock, w.store, blindCache)
		stale := w.output(ctx, "a-f").ResourceVersion
		w.freezeOutputs(ctx)
		for _, text := range []string{"first", "second", "third"} {
			edit(ctx, fd, config(text))
			w.written()
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(beReady("1/1"))
			Expect(w.written()).To(ContainElement("update EnvoyFilter a-f"))
			Expect(w.held(ctx)).To(Equal(map[string]string{"a-f": fd.Status.Revision}))
		}
		Expect(w.output(ctx, "a-f").ResourceVersion).NotTo(Equal(stale))
	})

	It("are retried in silence when an output is deleted in mid-pass", func(ctx context.Context) {
		w.deployments(ctx, "a")
		Expect(w.settle(ctx, fd)).To(Succeed())
		edit(ctx, fd, config("changed"))
		w.written()
		w.intercept(func(write string) error {
			if write == "update EnvoyFilter a-f" {
				w.intercept(nil)
				defer GinkgoRecover()
				Expect(user.Delete(ctx, w.output(ctx, "a-f"))).To(Succeed())
			}
			return nil
		})
		_, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(w.written()).To(ConsistOf("create ControllerRevision "+w.revisions(ctx, fd)[1].Name, "update EnvoyFilter a-f"), "the status stays")
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.outputs(ctx)).To(ConsistOf("a-f"))
		Expect(fd).To(beReady("1/1"))
	})

	It("repair an output less and less often while something keeps changing it", func(ctx context.Context) {
		w.deployments(ctx, "a", "b")
		Expect(w.settle(ctx, fd)).To(Succeed())
		spoil := func() {
			GinkgoHelper()
			output := w.output(ctx, "a-f")
			output.Spec.Priority++
			Expect(user.Update(ctx, output, client.FieldOwner("someone"))).To(Succeed())
		}
		spoil()
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("2/2"), "the first repair is made at once")

		for _, wait := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			spoil()
			w.written()
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.written()).NotTo(ContainElement("update EnvoyFilter a-f"))
			Expect(fd).To(notReady(wasmev1.ReasonOutputOverwritten, "1 of 2 workloads failed: a: EnvoyFilter a-f: something else keeps changing it, last someone at ", "stop that"))
			Expect(fd).To(haveCondition(wasmev1.ConditionContested, metav1.ConditionTrue, wasmev1.ReasonOutputOverwritten, "last someone at "))
			result, err := w.reconcile(ctx, fd)
			Expect(err).NotTo(HaveOccurred())
			Expect(result.RequeueAfter).To(Equal(wait))

			w.clock.Step(wait)
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.written()).To(ContainElement("update EnvoyFilter a-f"))
			Expect(fd).To(beReady("2/2"))
		}
		w.clock.Step(11 * time.Minute)
		output := w.output(ctx, "a-f")
		output.Annotations = nil
		Expect(user.Update(ctx, output, client.FieldOwner("someone"))).To(Succeed())
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(user.Update(ctx, func() client.Object { o := w.output(ctx, "a-f"); o.Annotations = nil; return o }(), client.FieldOwner("someone"))).To(Succeed())
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonOutputOverwritten), "whatever it is that is taken away")
		w.clock.Step(11 * time.Minute)
		spoil()
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("2/2"), "it begins anew after a quiet time")
	})

	Describe("because the API server refuses them", func() {
		var refused func(output string) bool
		attempts := func() []string {
			var tried []string
			for _, write := range w.written() {
				if strings.HasPrefix(write, "create EnvoyFilter") {
					tried = append(tried, strings.TrimPrefix(write, "create EnvoyFilter "))
				}
			}
			return tried
		}
		BeforeEach(func(ctx context.Context) {
			w.deployments(ctx, "a", "b", "c", "d")
			w.intercept(func(write string) error {
				if output, create := strings.CutPrefix(write, "create EnvoyFilter "); create && refused(output) {
					return apierrors.NewForbidden(schema.GroupResource{Resource: "envoyfilters"}, output, fmt.Errorf("a policy says so"))
				}
				return nil
			})
		})

		It("are tried for one workload, less and less often, when all are refused", func(ctx context.Context) {
			refused = func(string) bool { return true }
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(notReady(wasmev1.ReasonOutputRefused, "4 of 4 workloads failed", "a policy says so"))
			Expect(attempts()).To(HaveLen(4))
			for i, probe := range []string{"a-f", "b-f", "c-f", "d-f", "a-f"} { // one may have a reason of its own
				wait := time.Second << i
				result, err := w.reconcile(ctx, fd)
				Expect(err).NotTo(HaveOccurred())
				Expect(result.RequeueAfter).To(Equal(wait))
				Expect(attempts()).To(BeEmpty())
				w.clock.Step(wait)
				Expect(w.settle(ctx, fd)).To(Succeed())
				Expect(attempts()).To(ConsistOf(probe))
				Expect(fd).To(notReady(wasmev1.ReasonOutputRefused, "4 of 4 workloads failed"))
			}
			refused = func(string) bool { return false }
			w.clock.Step(10 * time.Minute)
			Eventually(ctx, func() error { return w.settle(ctx, fd) }).WithTimeout(bound).Should(Succeed())
			Expect(fd).To(beReady("4/4"))
		})

		It("are tried for one of those that were refused, less and less often, when some are accepted", func(ctx context.Context) {
			refused = func(output string) bool { return output != "d-f" }
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(notReady(wasmev1.ReasonOutputRefused, "3 of 4 workloads failed"))
			Expect(attempts()).To(HaveLen(4))
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(attempts()).To(BeEmpty())
			w.deployments(ctx, "e")
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(attempts()).To(ConsistOf("e-f"), "what was not refused is not held up")
			for range 20 { // passes for other reasons do not put it off
				Expect(w.settle(ctx, fd)).To(Succeed())
			}
			attempts()
			w.clock.Step(4 * time.Second)
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(attempts()).To(ConsistOf("a-f"))
			Expect(fd).To(notReady(wasmev1.ReasonOutputRefused, "4 of 5 workloads failed"))
			refused = func(output string) bool { return output == "c-f" }
			w.clock.Step(8 * time.Second)
			Eventually(ctx, func() error {
				err := w.settle(ctx, fd)
				Expect(fd).NotTo(beReady("5/5"))
				return err
			}).WithTimeout(bound).Should(Succeed())
			Expect(attempts()).To(ConsistOf("b-f", "a-f", "c-f", "e-f"), "one is accepted, and so the others are tried")
			Expect(fd).To(notReady(wasmev1.ReasonOutputRefused, "1 of 5 workloads failed"))
		})

		It("are tried at once when the spec changes", func(ctx context.Context) {
			refused = func(string) bool { return true }
			Expect(w.settle(ctx, fd)).To(Succeed())
			attempts()
			edit(ctx, fd, config("changed"))
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(attempts()).To(HaveLen(4))
		})
	})
})
