package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

// outage is how long the API server stays away.
const outage = 20 * time.Second

// recovery bounds the wait after an outage: the watches of the operator and of
// istiod, both client-go's, come back up to 30 s and more after it, in turn.
const recovery = 90 * time.Second

var _ = Describe("Faults", long, func() {
	It("completes what it began when the manager is killed in mid-pass", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		var pods []*mesh.Running
		for i := range 3 {
			name := fmt.Sprintf("app-%d", i)
			pods = append(pods, run(ctx, workload(namespace, name, map[string]string{"app": name})))
		}
		fd := filterDeployment(namespace, push(ctx, "hello"), "before")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		for _, pod := range pods {
			meshtest.EventuallyAnswers(ctx, pod, "before")
		}
		load := startStream(ctx, pods[0].URL)
		for i := range 5 {
			value := fmt.Sprint("value-", i)
			change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text(value) })
			Eventually(func() int { return len(revisionsOf(ctx, namespace)) }, meshtest.Patience, time.Millisecond).Should(BeNumerically(">", min(i, 2)), "the pass has begun")
			Expect(operator.Kill()).To(Succeed())
			startOperator(ctx)
			for _, pod := range pods {
				meshtest.EventuallyAnswers(ctx, pod, value)
			}
		}
		all, failed := load.stop()
		Expect(failed).To(BeZero(), "of %d requests", all)
	})

	It("continues after the API server was away for 20 seconds", func(ctx SpecContext) {
		r, leader, follower := startReplicas(ctx)
		namespace := newNamespace(ctx)
		app := workload(namespace, "app", map[string]string{"app": "app"})
		pod := run(ctx, app)
		app.Replica = 1
		restarted := run(ctx, app)
		fd := filterDeployment(namespace, push(ctx, "hello"), "before")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, pod, "before")
		meshtest.EventuallyAnswers(ctx, restarted, "before")
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonReady))
		load := startStream(ctx, pod.URL)
		known := len(writesTo(namespace))

		Expect(theMesh.StopAPIServer()).To(Succeed())
		end := time.Now().Add(outage)
		Expect(follower.Ended()).To(BeFalse())
		By("starting the leader again, which ends when it cannot hold its lease, as a kubelet does")
		Eventually(leader.Ended, outage).Should(BeTrue())
		Expect(leader.Start()).To(Succeed())
		for _, replicas := range [][]*mesh.Operator{{leader, follower}, {follower, leader}} {
			r.serve(replicas...)
			By("starting a sidecar again: it has to fetch the module once more")
			Expect(restarted.StopSidecar()).To(Succeed())
			Expect(restarted.StartSidecar(ctx)).To(Succeed())
			Expect(mesh.Ask(ctx, restarted.URL)).To(Equal(mesh.Answered(200, "before")))
		}
		Consistently(meshtest.Asking(ctx, restarted.URL), time.Until(end), time.Second).Should(Equal(mesh.Answered(200, "before")))
		Expect(theMesh.StartAPIServer(ctx)).To(Succeed())

		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("after") })
		Eventually(meshtest.Asking(ctx, pod.URL), recovery).Should(Equal(mesh.Answered(200, "after")))
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonReady))
		counts := map[string]int{}
		for _, write := range writesTo(namespace)[known:] {
			counts[write]++
		}
		Expect(counts).To(HaveKeyWithValue("apps controllerrevisions create", 1), "that of the change alone")
		// istiod's watches come back as late as a minute after: pods that do not run
		// the change by then are told to fetch it again.
		Expect(counts["networking.istio.io envoyfilters update"]).To(BeNumerically("<=", 3))
		Expect(counts["wasme.io filterdeployments/status patch"]).To(BeNumerically("<=", 6), "%v", counts)
		Expect(counts).To(HaveLen(3), "%v", counts)
		all, failed := load.stop()
		Expect(failed).To(BeZero(), "of %d requests", all)
	})

	It("reports a full disk, keeps what runs, and continues when there is room", func(ctx SpecContext) {
		Expect(operator.Stop()).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { startOperator(ctx) })
		namespace := newNamespace(ctx)
		app := workload(namespace, "app", map[string]string{"app": "app"})
		pod := run(ctx, app)
		small, err := theMesh.StartOperator(ctx, mesh.OperatorOptions{Name: "small", DiskBytes: 16 << 20, Args: []string{"--image-poll-interval=2s"}})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(small.Stop()).To(Succeed()) })
		fd := filterDeployment(namespace, push(ctx, "hello"), "kept")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, pod, "kept")
		load := startStream(ctx, pod.URL)

		filler := filepath.Join(small.Store(), "filler")
		Expect(fill(filler)).To(MatchError(syscall.ENOSPC))
		image := theMesh.Registry() + "/filters/full:v1"
		another := append(meshtest.Build(ctx, filters.Trap), "\x00\x05\x04full"...) // a section that no module of another spec has
		Expect(registry.Push(ctx, image, imageOf(another))).To(Succeed())
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Image, f.Config = image, text("another module") })
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonStoreUnavailable))
		Expect(message(ctx, fd)).To(And(ContainSubstring("no space left"), ContainSubstring("--module-store")))
		app.Replica = 1
		Expect(mesh.Ask(ctx, run(ctx, app).URL)).To(Equal(mesh.Answered(200, "kept")), "a pod that starts now")

		Expect(os.Remove(filler)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, pod, "another module")
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonReady))
		all, failed := load.stop()
		Expect(failed).To(BeZero(), "of %d requests", all)
	})
})

// fill writes a file until it cannot.
func fill(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	for err == nil {
		_, err = file.Write(make([]byte, 1<<16))
	}
	return errors.Join(err, file.Close())
}

func modulePath(ctx context.Context, fd *wasmev1.FilterDeployment) string {
	GinkgoHelper()
	var live wasmev1.FilterDeployment
	Eventually(func() *wasmev1.ModuleStatus {
		Expect(admin.Get(ctx, client.ObjectKeyFromObject(fd), &live)).To(Succeed())
		return live.Status.Module
	}).ShouldNot(BeNil())
	return module.Path(live.Status.Module.SHA256)
}

// message is that of Ready.
func message(ctx context.Context, fd *wasmev1.FilterDeployment) string {
	GinkgoHelper()
	var live wasmev1.FilterDeployment
	Expect(admin.Get(ctx, client.ObjectKeyFromObject(fd), &live)).To(Succeed())
	return apimeta.FindStatusCondition(live.Status.Conditions, wasmev1.ConditionReady).Message
}
