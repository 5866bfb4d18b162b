package controllers

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// withPods is what a pass found that had its time: workloads w0, w1 … with one
// pod each.
func withPods(pods ...podProof) pass {
	p := pass{inForce: &revision{}, targets: []target{}}
	for i, pod := range pods {
		pod.name = fmt.Sprintf("p%d", i)
		p.targets = append(p.targets, target{workload: render.Target{Kind: "Deployment", Name: fmt.Sprintf("w%d", i)}, pods: waitedFor(loadTimeout, proofs(pod))})
	}
	return p
}

var _ = DescribeTable("Of one workload's pods is told",
	func(before wasmev1.WorkloadState, steps []podProof, want ...string) {
		fd := &wasmev1.FilterDeployment{}
		if before != "" {
			fd.Status.Workloads = map[string]wasmev1.WorkloadStatus{"w0": {State: before}}
		}
		var known loads
		known.know(fd)
		var told []string
		for _, step := range steps {
			of := known.of(types.NamespacedName{})
			news := of.news(withPods(step))
			for _, n := range news {
				told = append(told, n.reason())
			}
			of.keep(news)
		}
		Expect(told).To(HaveExactElements(toAny(want)...))
	},
	Entry("that they run it, once", wasmev1.WorkloadState(""), proofs(unknown, missing, loaded, loaded, draining), reasonWorkloadNotLoaded, reasonWorkloadLoaded),
	Entry("nothing while they come, go, or do not answer", wasmev1.WorkloadState(""), proofs(loaded, unreachable, young(missing), loaded), reasonWorkloadLoaded),
	Entry("that they stop running it", wasmev1.WorkloadState(""), proofs(loaded, older, older, fetchFailed, loaded), reasonWorkloadLoaded, reasonWorkloadNotLoaded, reasonWorkloadLoaded),
	Entry("that they begin to crash", wasmev1.WorkloadState(""), proofs(loaded, crashing, unreachable, crashing, loaded), reasonWorkloadLoaded, reasonWorkloadCrashing, reasonWorkloadLoaded),
	Entry("that they crash and then run nothing", wasmev1.WorkloadState(""), proofs(crashing, missing), reasonWorkloadCrashing, reasonWorkloadNotLoaded),
	Entry("that they have no sidecar", wasmev1.WorkloadState(""), proofs(bare, bare), reasonWorkloadNotLoaded),
	Entry("nothing after a restart when they run it", wasmev1.WorkloadSucceeded, proofs(unknown, loaded, loaded)),
	Entry("nothing after a restart when they still fail", wasmev1.WorkloadFailed, proofs(unknown, missing, missing)),
	Entry("nothing after a restart when they still crash", wasmev1.WorkloadFailed, proofs(unknown, crashing, crashing)),
	Entry("what changed during a restart", wasmev1.WorkloadSucceeded, proofs(unknown, missing), reasonWorkloadNotLoaded),
	Entry("what changes after one", wasmev1.WorkloadFailed, proofs(missing, loaded, crashing), reasonWorkloadLoaded, reasonWorkloadCrashing),
	Entry("that they run it when a restart came before", wasmev1.WorkloadPending, proofs(unknown, loaded), reasonWorkloadLoaded),
)

func toAny(texts []string) []any {
	out := []any{}
	for _, text := range texts {
		out = append(out, text)
	}
	return out
}

var _ = Describe("Events about workloads", func() {
	var w *world
	var fd *wasmev1.FilterDeployment
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.Prober = dataplane.New(func(types.NamespacedName) {})
		fd = w.filterDeployment(ctx, "f", "registry.invalid/f:v1", filterID("f"))
	})

	// tell is what ends a pass; the version differs from that of the last one, as after each write.
	tell := func(ctx context.Context, p pass) {
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) {
			fd.Annotations = map[string]string{"pass": fmt.Sprint(fd.ResourceVersion)}
		})
		w.loads.know(fd)
		w.tellLoads(fd, p)
	}
	// told are the events' reasons and texts.
	told := func(ctx context.Context) func() []string {
		return func() []string {
			var list eventsv1.EventList
			Expect(user.List(ctx, &list, client.InNamespace(fd.Namespace))).To(Succeed())
			found := []string{}
			for _, event := range list.Items {
				found = append(found, fmt.Sprintf("%s %s: %s", event.Type, event.Reason, event.Note))
			}
			return found
		}
	}
	many := func(pod podProof) []podProof {
		pods := make([]podProof, 1000)
		for i := range pods {
			pods[i] = pod
		}
		return pods
	}

	It("are one for each reason, however many there are", func(ctx context.Context) {
		tell(ctx, withPods(append(many(loaded), crashing, missing)...))
		Eventually(ctx, told(ctx)).WithTimeout(bound).Should(HaveLen(3))
		Expect(told(ctx)()).To(ConsistOf(
			"Normal WorkloadLoaded: the pods run the filter: w0; w1; w2; and 997 more",
			"Warning WorkloadCrashing: w1000: the module crashes on requests in 1 of 1 pods (p1000); see their logs",
			ContainSubstring("Warning WorkloadNotLoaded: w1001: 1 of 1 pods do not run the revision"),
		))
		By("telling nothing twice, and nothing again after a restart")
		tell(ctx, withPods(append(many(loaded), crashing, missing)...))
		w.loads.forget(client.ObjectKeyFromObject(fd))
		fd.Status.Workloads = map[string]wasmev1.WorkloadStatus{"w1000": {State: wasmev1.WorkloadFailed}, "w1001": {State: wasmev1.WorkloadFailed}}
		fd.Status.Summary = &wasmev1.WorkloadSummary{WorkloadsOmitted: new(int64(1000))}
		w.loads.know(fd)
		w.tellLoads(fd, withPods(append(many(loaded), crashing, missing)...))
		tell(ctx, withPods(append(many(older), crashing, missing)...))
		Eventually(ctx, told(ctx)).WithTimeout(bound).Should(ContainElement(ContainSubstring("and 997 more"), new([]string)))
		Eventually(ctx, told(ctx)).WithTimeout(bound).Should(HaveLen(4))
		Expect(told(ctx)()).To(ContainElement(And(HavePrefix("Warning WorkloadNotLoaded: w0: "), HaveSuffix("and 997 more"))))
	})

	It("are bounded in time, and the last state is told in the end", func(ctx context.Context) {
		for range 50 {
			tell(ctx, withPods(loaded, loaded))
			tell(ctx, withPods(crashing, loaded))
		}
		Eventually(ctx, told(ctx)).WithTimeout(bound).Should(HaveLen(loadEvents))
		tell(ctx, withPods(loaded, missing))
		w.clock.Step(time.Minute)
		tell(ctx, withPods(crashing, missing))
		Eventually(ctx, told(ctx)).WithTimeout(bound).Should(ContainElement(HavePrefix("Warning WorkloadNotLoaded: w1: ")))
		Expect(len(told(ctx)())).To(BeNumerically("<=", loadEvents+2))
	})

	It("are none while nobody is asked", func(ctx context.Context) {
		w.Prober = nil
		tell(ctx, withPods(bare))
		w.Prober = dataplane.New(func(types.NamespacedName) {})
		tell(ctx, withPods(loaded))
		Eventually(ctx, told(ctx)).WithTimeout(bound).ShouldNot(BeEmpty())
		Expect(told(ctx)()).To(ConsistOf("Normal WorkloadLoaded: the pods run the filter: w0"))
	})
})
