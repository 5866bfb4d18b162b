package controllers

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networkingapi "istio.io/api/networking/v1alpha3"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/filterdeployment"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// kstatusOf is what kubectl wait, Argo CD and Flux make of a FilterDeployment.
func kstatusOf(fd *wasmev1.FilterDeployment) status.Status {
	GinkgoHelper()
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(fd)
	Expect(err).NotTo(HaveOccurred())
	result, err := status.Compute(&unstructured.Unstructured{Object: fields})
	Expect(err).NotTo(HaveOccurred())
	return result.Status
}

var _ = Describe("The outputs", func() {
	var w *world
	BeforeEach(func(ctx context.Context) { w = newWorld(ctx) })

	It("are made for the predecessor's sample, and then left alone", func(ctx context.Context) {
		text, err := os.ReadFile("../config/samples/wasme_v1_filterdeployment.yaml")
		Expect(err).NotTo(HaveOccurred())
		fd := &wasmev1.FilterDeployment{}
		Expect(yaml.UnmarshalStrict(text, fd)).To(Succeed())
		fd.Namespace = w.namespace
		fd.Spec.Filter.Image = w.push(ctx, "sodman/istio-1-7:v0.3", "hello")
		fd.Spec.Filter.ImagePullOptions = &wasmev1.ImagePullOptions{PlainHTTP: true}
		Expect(user.Create(ctx, fd)).To(Succeed())
		w.deployments(ctx, "details-v1", "productpage-v1")

		Expect(w.settle(ctx, fd)).To(Succeed())

		id := "bookinfo-custom-filter." + w.namespace
		Expect(w.outputs(ctx)).To(Equal([]string{"details-v1-" + id, "productpage-v1-" + id}))
		output := w.output(ctx, "details-v1-"+id)
		Expect(output.OwnerReferences).To(Equal([]metav1.OwnerReference{{
			APIVersion: "wasme.io/v1", Kind: "FilterDeployment", Name: fd.Name, UID: fd.UID,
			Controller: new(true), BlockOwnerDeletion: new(true),
		}}))
		Expect(output.Spec.WorkloadSelector.Labels).To(Equal(map[string]string{"app": "details-v1"}), "what the Deployment itself selects its pods by")
		filter, err := render.NewFilter(client.ObjectKeyFromObject(fd), fd.Spec.Filter, wasmev1.DistributionServed, *fd.Status.Module)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(filter.Configuration)).To(Equal("world"))
		workload := workload.Target{Kind: "Deployment", Namespace: w.namespace, Name: "details-v1", Selector: output.Spec.WorkloadSelector.Labels}
		rendered, err := render.EnvoyFilter(w.Mesh, client.ObjectKeyFromObject(fd), filter, workload, "")
		Expect(err).NotTo(HaveOccurred())
		Expect(hashOf(&output.Spec)).To(Equal(hashOf(rendered)))
		for key := range output.Labels {
			Expect(key).NotTo(ContainSubstring("istio.io"))
		}
		for key := range output.Annotations {
			Expect(key).NotTo(Or(ContainSubstring("istio.io"), Equal(cachedHashAnnotation)))
		}

		Expect(fd).To(beReady("2/2"))
		Expect(kstatusOf(fd)).To(Equal(status.CurrentStatus))
		Expect(fd.Status.Workloads).To(Equal(map[string]wasmev1.WorkloadStatus{
			"details-v1":     {State: wasmev1.WorkloadSucceeded},
			"productpage-v1": {State: wasmev1.WorkloadSucceeded},
		}))
		Expect(fd.Status.Revision).To(Equal(filter.Revision()))
		Expect(fd.Status.Module.Reference).To(Equal(fd.Spec.Filter.Image))
		Expect(fd.Status.Module.RootIDs).To(Equal([]string{rootID}))
		Expect(fd.Status.Module.ABIVersions).To(Equal([]string{"0.2.1"}))

		Expect(w.written()).NotTo(BeEmpty())
		for range 2 {
			result, err := w.reconcile(ctx, fd)
			Expect(err).NotTo(HaveOccurred())
			Expect(result.RequeueAfter).To(BeNumerically(">=", w.RecheckInterval))
			Expect(w.written()).To(BeEmpty())
		}
	})

	It("are made beside objects that the predecessor's operator left", func(ctx context.Context) {
		w.deployments(ctx, "a")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"))
		left := &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{
			Namespace: w.namespace, Name: "a-f." + w.namespace, OwnerReferences: ownersFor(fd),
		}}
		Expect(user.Create(ctx, left)).To(Succeed())

		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		output := w.output(ctx, left.Name)
		Expect(output.UID).To(Equal(left.UID))
		Expect(output.Spec.ConfigPatches).To(HaveLen(3))
	})

	Describe("when someone edits one", func() {
		var fd *wasmev1.FilterDeployment
		var before *networking.EnvoyFilter
		BeforeEach(func(ctx context.Context) {
			w.deployments(ctx, "a", "b")
			fd = w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
			Expect(w.settle(ctx, fd)).To(Succeed())
			before = w.output(ctx, "a-f")
			w.written()
		})

		DescribeTable("is put back",
			func(ctx context.Context, change func(*networking.EnvoyFilter)) {
				edit(ctx, before.DeepCopy(), change)
				Expect(w.settle(ctx, fd)).To(Succeed())

				after := w.output(ctx, "a-f")
				Expect(after.UID).To(Equal(before.UID))
				Expect(hashOf(&after.Spec)).To(Equal(hashOf(&before.Spec)))
				Expect(after.OwnerReferences).To(Equal(before.OwnerReferences))
				Expect(after.Labels).To(Equal(before.Labels))
				Expect(after.Annotations).To(Equal(before.Annotations))
				Expect(w.written()).To(HaveEach(HaveSuffix("EnvoyFilter a-f")), "nothing else is written")
				Expect(w.settle(ctx, fd)).To(Succeed())
				Expect(w.written()).To(BeEmpty())
			},
			Entry("a changed field", func(f *networking.EnvoyFilter) { f.Spec.WorkloadSelector.Labels = map[string]string{"app": "b"} }),
			Entry("an added field", func(f *networking.EnvoyFilter) { f.Spec.Priority = 10 }),
			Entry("an added patch", func(f *networking.EnvoyFilter) {
				f.Spec.ConfigPatches = append(f.Spec.ConfigPatches, f.Spec.ConfigPatches[0].DeepCopy())
			}),
			Entry("a removed patch", func(f *networking.EnvoyFilter) { f.Spec.ConfigPatches = f.Spec.ConfigPatches[:1] }),
			Entry("a removed selector", func(f *networking.EnvoyFilter) { f.Spec.WorkloadSelector = nil }),
			Entry("one label removed", func(f *networking.EnvoyFilter) { delete(f.Labels, ownership.ManagedByLabel) }),
			Entry("all labels removed", func(f *networking.EnvoyFilter) { f.Labels = nil }),
			Entry("all labels and the owner removed", func(f *networking.EnvoyFilter) { f.OwnerReferences = nil; delete(f.Labels, ownership.ManagedByLabel) }),
			Entry("all annotations removed", func(f *networking.EnvoyFilter) { f.Annotations = nil }),
			Entry("the wrong revision", func(f *networking.EnvoyFilter) { f.Annotations[revision.HashAnnotation] = "0" }),
			Entry("the hash that only the cache has", func(f *networking.EnvoyFilter) {
				f.Annotations[cachedHashAnnotation] = hashOf(&f.Spec)
				f.Spec.Priority = 10
			}),
			Entry("the owner removed", func(f *networking.EnvoyFilter) { f.OwnerReferences = nil }),
			Entry("the owner's controller flag removed", func(f *networking.EnvoyFilter) { f.OwnerReferences[0].Controller = nil }),
			Entry("the owner's flags changed", func(f *networking.EnvoyFilter) { f.OwnerReferences[0].BlockOwnerDeletion = new(false) }),
		)

		It("keeps what is not the operator's", func(ctx context.Context) {
			// A finalizer that stays would hold up the CRD in other specs.
			DeferCleanup(func(ctx context.Context) {
				edit(ctx, before, func(f *networking.EnvoyFilter) { f.Finalizers = nil })
			})
			edit(ctx, before, func(f *networking.EnvoyFilter) {
				f.Labels["team"] = "x"
				f.Annotations["note"] = "y"
				f.Finalizers = []string{"example.com/hold"}
				f.OwnerReferences = append(f.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Namespace", Name: w.namespace, UID: w.uid(ctx)})
			})
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.written()).To(BeEmpty())

			edit(ctx, before, func(f *networking.EnvoyFilter) { f.Spec.Priority = 10 })
			Expect(w.settle(ctx, fd)).To(Succeed())
			after := w.output(ctx, "a-f")
			Expect(after.Spec.Priority).To(BeZero())
			Expect(after.Labels).To(HaveKeyWithValue("team", "x"))
			Expect(after.Annotations).To(HaveKeyWithValue("note", "y"))
			Expect(after.Finalizers).To(ConsistOf("example.com/hold"))
			Expect(after.OwnerReferences).To(HaveLen(2))
		})

		It("is made again when it is deleted", func(ctx context.Context) {
			Expect(user.Delete(ctx, before)).To(Succeed())
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.written()).To(ConsistOf("create EnvoyFilter a-f"))
			Expect(hashOf(&w.output(ctx, "a-f").Spec)).To(Equal(hashOf(&before.Spec)))
			Expect(fd).To(beReady("2/2"))
		})

		It("retries in silence when it was edited in mid-pass", func(ctx context.Context) {
			edit(ctx, before.DeepCopy(), func(f *networking.EnvoyFilter) { f.Spec.Priority = 10 })
			w.intercept(func(string) error {
				w.intercept(nil)
				edit(ctx, before.DeepCopy(), func(f *networking.EnvoyFilter) { f.Spec.Priority = 20 })
				return nil
			})
			result, err := w.reconcile(ctx, fd)
			Expect(err).NotTo(HaveOccurred())
			Expect(result.RequeueAfter).To(Equal(filterdeployment.MinBackoff))
			Expect(w.written()).To(ConsistOf("update EnvoyFilter a-f"), "the status stays")
			Expect(w.output(ctx, "a-f").Spec.Priority).To(BeEquivalentTo(20))

			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(w.output(ctx, "a-f").Spec.Priority).To(BeZero())
			Expect(fd).To(beReady("2/2"))
		})

		It("is not overwritten by a leader that was paused", func(ctx context.Context) {
			next := startOperator(ctx, w.clock, GinkgoT().TempDir())
			edit(ctx, fd, config("of the paused leader"))
			var newer map[string]string
			takeOver := sync.OnceFunc(func() {
				defer GinkgoRecover()
				edit(ctx, fd, config("of the new leader"))
				Expect(next.settle(ctx, fd)).To(Succeed())
				newer = w.held(ctx)
			})
			w.intercept(func(write string) error {
				if strings.HasPrefix(write, "update EnvoyFilter") {
					takeOver()
				}
				return nil
			})
			result, err := w.reconcile(ctx, fd)
			Expect(err).NotTo(HaveOccurred())
			Expect(result.RequeueAfter).To(Equal(filterdeployment.MinBackoff))
			Expect(newer).To(HaveLen(2))
			Expect(w.held(ctx)).To(Equal(newer))
			Expect(fd).To(beReady("2/2"))
			Expect(slices.Collect(maps.Values(newer))).To(HaveEach(fd.Status.Revision))
		})
	})

	Describe("when the name is taken", func() {
		It("leave a foreign object alone, and the other workloads are programmed", func(ctx context.Context) {
			w.deployments(ctx, "a", "b")
			fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
			foreign := &networking.EnvoyFilter{
				ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "a-f"},
				Spec:       networkingapi.EnvoyFilter{Priority: 7},
			}
			Expect(user.Create(ctx, foreign)).To(Succeed())

			Expect(w.settle(ctx, fd)).To(MatchError(ContainSubstring("a-f")), "tried again with the queue's backoff")
			Expect(fd).To(notReady(wasmev1.ReasonConflict, "1 of 2 workloads failed", "EnvoyFilter a-f", "not made by the operator", "delete it, or set another spec.filter.id"))
			Expect(kstatusOf(fd)).To(Equal(status.InProgressStatus))
			Expect(fd.Status.Summary.WorkloadsReady).To(Equal("1/2"))
			Expect(fd.Status.Workloads["a"]).To(And(HaveField("State", wasmev1.WorkloadFailed), HaveField("Reason", ContainSubstring("EnvoyFilter a-f"))))
			Expect(fd.Status.Workloads["b"].State).To(Equal(wasmev1.WorkloadSucceeded))
			Expect(w.output(ctx, "a-f").ResourceVersion).To(Equal(foreign.ResourceVersion))

			w.written()
			Expect(w.settle(ctx, fd)).NotTo(Succeed())
			Expect(w.written()).To(ConsistOf("create EnvoyFilter a-f"), "the same failure is not written again")

			Expect(user.Delete(ctx, foreign)).To(Succeed())
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(fd).To(beReady("2/2"))
		})

		It("leave another controller's object alone, even with the operator's labels", func(ctx context.Context) {
			w.deployments(ctx, "a")
			fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
			foreign := func(name string) *networking.EnvoyFilter {
				object := &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{
					Namespace: w.namespace, Name: name, Labels: ownership.Labels(fd), Annotations: map[string]string{ownership.OwnerAnnotation: fd.Name},
					OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Namespace", Name: w.namespace, UID: w.uid(ctx), Controller: new(true)}},
				}}
				Expect(user.Create(ctx, object)).To(Succeed())
				return object
			}
			inTheWay, beside := foreign("a-f"), foreign("beside")

			Expect(w.settle(ctx, fd)).NotTo(Succeed())
			Expect(fd).To(notReady(wasmev1.ReasonConflict, "EnvoyFilter a-f"))
			Expect(w.output(ctx, "a-f").ResourceVersion).To(Equal(inTheWay.ResourceVersion))
			Expect(w.output(ctx, "beside").ResourceVersion).To(Equal(beside.ResourceVersion))
		})

		It("go by another name where it is another FilterDeployment's", func(ctx context.Context) {
			w.deployments(ctx, "a")
			reference := w.push(ctx, "hello:v1", "hello")
			first := w.filterDeployment(ctx, "first", reference, filterID("f"))
			second := w.filterDeployment(ctx, "second", reference, filterID("f"))
			Expect(w.settle(ctx, first)).To(Succeed())
			Expect(w.settle(ctx, second)).To(Succeed())
			Expect(first).To(beReady("1/1"))
			Expect(second).To(beReady("1/1"))
			hashed := render.HashedName(client.ObjectKeyFromObject(second), workload.Target{Kind: "Deployment", Name: "a"}, "f")
			Expect(w.outputs(ctx)).To(ConsistOf("a-f", hashed))
			Expect(metav1.IsControlledBy(w.output(ctx, "a-f"), first)).To(BeTrue())
			Expect(metav1.IsControlledBy(w.output(ctx, hashed), second)).To(BeTrue())

			w.written()
			Expect(w.settle(ctx, second)).To(Succeed())
			Expect(w.settle(ctx, first)).To(Succeed())
			Expect(w.written()).To(BeEmpty())

			// The name that is free again is not fought for.
			edit(ctx, first, filterID("other"))
			Expect(w.settle(ctx, first)).To(Succeed())
			Expect(w.settle(ctx, second)).To(Succeed())
			Expect(w.outputs(ctx)).To(ConsistOf("a-other", hashed))
		})

		DescribeTable("adopt what an earlier FilterDeployment of that name left",
			func(ctx context.Context, owners []metav1.OwnerReference) {
				w.deployments(ctx, "a")
				fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
				orphan := &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{
					Namespace: w.namespace, Name: "a-f", Labels: ownership.Labels(fd), Annotations: map[string]string{ownership.OwnerAnnotation: fd.Name}, OwnerReferences: owners,
				}}
				Expect(user.Create(ctx, orphan)).To(Succeed())
				// The garbage collector may be quicker than the operator where the owner is gone.
				Eventually(ctx, func(g Gomega) {
					g.Expect(w.settle(ctx, fd)).To(Succeed())
					g.Expect(w.outputs(ctx)).To(ConsistOf("a-f"))
					g.Expect(w.output(ctx, "a-f").OwnerReferences).To(Equal(ownersFor(fd)))
				}).WithTimeout(bound).Should(Succeed())
				Expect(fd).To(beReady("1/1"))
				if owners == nil {
					Expect(w.output(ctx, "a-f").UID).To(Equal(orphan.UID))
				}
			},
			Entry("by a deletion that orphaned it", nil),
			Entry("in a backup", []metav1.OwnerReference{{APIVersion: "wasme.io/v1", Kind: "FilterDeployment", Name: "f", UID: "00000000-0000-0000-0000-000000000000", Controller: new(true)}}),
		)
	})

	It("have names of at most 253 characters", func(ctx context.Context) {
		long := strings.Repeat("w", 200)
		w.deployment(ctx, long, nil)
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID(strings.Repeat("i", 100)))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		Expect(w.outputs(ctx)).To(ConsistOf(And(HaveLen(253), HavePrefix(long))))
		w.written()
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.written()).To(BeEmpty())
	})

	It("move to a new filter id without a gap", func(ctx context.Context) {
		w.deployments(ctx, "a")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("one"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		w.written()
		edit(ctx, fd, filterID("two"))

		w.intercept(func(write string) error {
			if write == "create EnvoyFilter a-two" {
				return errors.New("injected")
			}
			return nil
		})
		Expect(w.settle(ctx, fd)).To(MatchError(ContainSubstring("injected")))
		Expect(w.outputs(ctx)).To(ConsistOf("a-one"), "the old one stays while the new one cannot be made")

		w.intercept(nil)
		w.written()
		Expect(w.settle(ctx, fd)).To(Succeed())
		writes := w.written()
		Expect(slices.Index(writes, "create EnvoyFilter a-two")).To(And(BeNumerically(">=", 0), BeNumerically("<", slices.Index(writes, "delete EnvoyFilter a-one"))))
		Expect(w.outputs(ctx)).To(ConsistOf("a-two"))
		Expect(fd).To(beReady("1/1"))
	})

	It("that someone edits are not pruned before they were seen", func(ctx context.Context) {
		deployment := w.deployment(ctx, "a", nil)
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(user.Delete(ctx, deployment)).To(Succeed())
		w.intercept(func(string) error {
			w.intercept(nil)
			edit(ctx, w.output(ctx, "a-f"), func(f *networking.EnvoyFilter) { f.Annotations["note"] = "newer" })
			return nil
		})
		result, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(result.RequeueAfter).To(Equal(filterdeployment.MinBackoff))
		Expect(w.outputs(ctx)).To(ConsistOf("a-f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.outputs(ctx)).To(BeEmpty())
	})

	It("are written although one cannot be", func(ctx context.Context) {
		w.deployments(ctx, "a", "b", "c")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		w.intercept(func(write string) error {
			if write == "create EnvoyFilter b-f" {
				return apierrors.NewInternalError(errors.New("injected"))
			}
			return nil
		})
		Expect(w.settle(ctx, fd)).To(MatchError(ContainSubstring("b-f")))
		Expect(fd).To(notReady(wasmev1.ReasonWriteFailed, "1 of 3 workloads failed", "b: writing EnvoyFilter b-f", "injected"))
		Expect(fd).To(haveCondition(wasmev1.ConditionReconciling, metav1.ConditionTrue, wasmev1.ReasonProgressingWithRetry))
		Expect(w.outputs(ctx)).To(ConsistOf("a-f", "c-f"))
		Expect(fd.Status.Summary.WorkloadsReady).To(Equal("2/3"))

		w.intercept(nil)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.outputs(ctx)).To(ConsistOf("a-f", "b-f", "c-f"))
		Expect(fd).To(beReady("3/3"))
	})

	It("that cannot be deleted are named, and deleted later", func(ctx context.Context) {
		deployment := w.deployment(ctx, "a", nil)
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(user.Delete(ctx, deployment)).To(Succeed())
		w.intercept(func(write string) error {
			if write == "delete EnvoyFilter a-f" {
				return errors.New("injected")
			}
			return nil
		})
		Expect(w.settle(ctx, fd)).To(MatchError(ContainSubstring("injected")))
		Expect(fd).To(notReady(wasmev1.ReasonWriteFailed, "deleting EnvoyFilter a-f"))
		w.intercept(nil)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.outputs(ctx)).To(BeEmpty())
	})

	It("stay where nothing is known to be in force", func(ctx context.Context) {
		w.deployments(ctx, "a")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		edit(ctx, fd, image(w.registry.Host()+"/none:v1"))
		revision := w.revisions(ctx, fd)[0]
		Expect(user.Delete(ctx, &revision)).To(Succeed())
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionFalse, wasmev1.ReasonNothingResolved))
		Expect(w.outputs(ctx)).To(ConsistOf("a-f"))
	})
})

// uid is that of the spec's namespace.
func (w *world) uid(ctx context.Context) types.UID {
	GinkgoHelper()
	var namespace corev1.Namespace
	Expect(user.Get(ctx, client.ObjectKey{Name: w.namespace}, &namespace)).To(Succeed())
	return namespace.UID
}

// jsonOf is a spec as the operator writes it.
func jsonOf(spec *networkingapi.EnvoyFilter) []byte {
	GinkgoHelper()
	content, err := spec.MarshalJSON()
	Expect(err).NotTo(HaveOccurred())
	return content
}

func hashOf(spec *networkingapi.EnvoyFilter) string {
	GinkgoHelper()
	return istio.SpecHash(jsonOf(spec))
}
