package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/mesh"
)

// outage is how long the API server stays away.
const outage = 20 * time.Second

// recovery bounds the wait after an outage: the watches of the operator and of
// istiod, both client-go's, come back up to 30 s and more after it, in turn.
const recovery = 90 * time.Second

var _ = Describe("Faults", Serial, func() {
	It("ends what it began when the manager is killed in mid-pass", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		var pods []*mesh.Running
		for i := range 3 {
			name := fmt.Sprintf("app-%d", i)
			pods = append(pods, run(ctx, workload(namespace, name, map[string]string{"app": name})))
		}
		fd := filterDeployment(namespace, push(ctx, "hello"), "before")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		for _, pod := range pods {
			eventuallyAnswers(ctx, pod, answer{200, "before"})
		}
		load := startStream(ctx, pods[0].URL)
		for i := range 5 {
			value := fmt.Sprint("value-", i)
			change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text(value) })
			Eventually(func() int { return len(revisionsOf(ctx, namespace)) }, patience, time.Millisecond).Should(BeNumerically(">", min(i, 2)), "the pass has begun")
			Expect(operator.Kill()).To(Succeed())
			startOperator(ctx)
			for _, pod := range pods {
				eventuallyAnswers(ctx, pod, answer{200, value})
			}
		}
		all, failed := load.stop()
		Expect(failed).To(BeZero(), "of %d requests", all)
	})

	It("goes on after the API server was gone for 20 seconds", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		pod := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		fd := filterDeployment(namespace, push(ctx, "hello"), "before")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		eventuallyAnswers(ctx, pod, answer{200, "before"})
		Eventually(readyReason(ctx, fd), patience, poll).Should(Equal(wasmev1.ReasonReady))
		module := moduleURL(ctx, fd)
		load := startStream(ctx, pod.URL)

		Expect(theMesh.StopAPIServer()).To(Succeed())
		Consistently(func() answer { return ask(ctx, module) }, outage, time.Second).Should(HaveField("Status", http.StatusOK), "modules are served all the time")
		Expect(theMesh.StartAPIServer(ctx)).To(Succeed())

		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("after") })
		Eventually(func() answer { return ask(ctx, pod.URL) }, recovery, poll).Should(Equal(answer{200, "after"}))
		Eventually(readyReason(ctx, fd), patience, poll).Should(Equal(wasmev1.ReasonReady))
		all, failed := load.stop()
		Expect(failed).To(BeZero(), "of %d requests", all)
	})

	It("lets one of two managers reconcile, and the other take over; both serve", func(ctx SpecContext) {
		Expect(operator.Stop()).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { startOperator(ctx) })
		addresses := []string{freeAddress(), freeAddress()}
		first := startReplica(ctx, "first", addresses)
		Eventually(leaseHolder(ctx), patience, poll).ShouldNot(BeEmpty())
		leader := leaseHolder(ctx)()
		second := startReplica(ctx, "second", addresses)
		DeferCleanup(func() { Expect(second.Stop()).To(Succeed()) })

		namespace := newNamespace(ctx)
		pod := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		fd := filterDeployment(namespace, push(ctx, "hello"), "before")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		eventuallyAnswers(ctx, pod, answer{200, "before"})
		By("asking both for the module: the output waited until both had it")
		path := modulePath(ctx, fd)
		for _, replica := range []*mesh.Operator{first, second} {
			Expect(ask(ctx, replica.ModuleServerURL+path).Status).To(Equal(http.StatusOK))
		}
		Expect(leaseHolder(ctx)()).To(Equal(leader))

		By("killing the leader")
		Expect(first.Kill()).To(Succeed())
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("after") })
		eventuallyAnswers(ctx, pod, answer{200, "after"})
		Expect(leaseHolder(ctx)()).NotTo(Equal(leader))

		By("starting a replica without a disk while the image is gone: it copies from the other")
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Image = "127.0.0.1:1/gone:v1" })
		Eventually(readyReason(ctx, fd), patience, poll).Should(Equal(wasmev1.ReasonRegistryUnavailable))
		Expect(os.RemoveAll(first.Store())).To(Succeed())
		first = startReplica(ctx, "first", addresses)
		DeferCleanup(func() { Expect(first.Stop()).To(Succeed()) })
		Expect(ask(ctx, first.ModuleServerURL+path).Status).To(Equal(http.StatusOK))
	})

	It("says that the disk is full, keeps what runs, and goes on when there is room", func(ctx SpecContext) {
		Expect(operator.Stop()).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { startOperator(ctx) })
		namespace := newNamespace(ctx)
		pod := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		// A pull needs room for the layer and the module, 2 MB each: there is
		// enough for one, and not for another beside it.
		small, err := theMesh.StartOperator(ctx, mesh.OperatorOptions{Name: "small", DiskBytes: 5 << 20, Args: []string{"--image-poll-interval=2s"}})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(small.Stop()).To(Succeed()) })
		fd := filterDeployment(namespace, push(ctx, "hello"), "kept")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		eventuallyAnswers(ctx, pod, answer{200, "kept"})
		Eventually(readyReason(ctx, fd), patience, poll).Should(Equal(wasmev1.ReasonReady))

		hello := fd.Spec.Filter.Image
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Image = push(ctx, "trap") })
		Eventually(readyReason(ctx, fd), patience, poll).Should(Equal(wasmev1.ReasonStoreUnavailable))
		Expect(message(ctx, fd)).To(ContainSubstring("--module-store"))
		Expect(ask(ctx, pod.URL)).To(Equal(answer{200, "kept"}))

		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Image, f.Config = hello, text("goes on") })
		eventuallyAnswers(ctx, pod, answer{200, "goes on"})
		Eventually(readyReason(ctx, fd), patience, poll).Should(Equal(wasmev1.ReasonReady))
	})
})

func freeAddress() string {
	GinkgoHelper()
	address, err := theMesh.FreeAddress()
	Expect(err).NotTo(HaveOccurred())
	return address
}

// startReplica runs the first or second of two replicas that know each other.
func startReplica(ctx context.Context, name string, addresses []string) *mesh.Operator {
	GinkgoHelper()
	own := addresses[0]
	if name == "second" {
		own = addresses[1]
	}
	replica, err := theMesh.StartOperator(ctx, mesh.OperatorOptions{Name: name, ModuleServer: own, Args: []string{
		"--leader-elect", "--peers=http://" + addresses[0] + ",http://" + addresses[1],
	}})
	Expect(err).NotTo(HaveOccurred())
	return replica
}

func leaseHolder(ctx context.Context) func() string {
	return func() string {
		var lease coordinationv1.Lease
		key := client.ObjectKey{Namespace: "wasme-system", Name: "wasme-operator"}
		if err := admin.Get(ctx, key, &lease); err != nil || lease.Spec.HolderIdentity == nil {
			return ""
		}
		return *lease.Spec.HolderIdentity
	}
}

func modulePath(ctx context.Context, fd *wasmev1.FilterDeployment) string {
	GinkgoHelper()
	var live wasmev1.FilterDeployment
	Eventually(func() *wasmev1.ModuleStatus {
		Expect(admin.Get(ctx, client.ObjectKeyFromObject(fd), &live)).To(Succeed())
		return live.Status.Module
	}, patience, poll).ShouldNot(BeNil())
	return "/modules/sha256/" + live.Status.Module.SHA256 + ".wasm"
}

func moduleURL(ctx context.Context, fd *wasmev1.FilterDeployment) string {
	GinkgoHelper()
	return operator.ModuleServerURL + modulePath(ctx, fd)
}

// message is that of Ready.
func message(ctx context.Context, fd *wasmev1.FilterDeployment) string {
	GinkgoHelper()
	var live wasmev1.FilterDeployment
	Expect(admin.Get(ctx, client.ObjectKeyFromObject(fd), &live)).To(Succeed())
	return apimeta.FindStatusCondition(live.Status.Conditions, wasmev1.ConditionReady).Message
}
