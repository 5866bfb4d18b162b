package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/serve"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
	"github.com/wasme-io/wasme-operator/test/mesh/service"
	"github.com/wasme-io/wasme-operator/test/registry"
)

const (
	// part is less than any module, and more than all else that a module server says.
	part = 64 << 10
	// places is the number of replicas that there may be, one after another: two,
	// and two in their stead.
	places = 4
)

// replicas are replicas of the operator behind a Service, as config/manager
// runs two of them, in place of the one that other specs share.
type replicas struct {
	// modules is where sidecars fetch modules from.
	modules *service.Service
	// places are the addresses (host:port) of the module servers, and doors lead
	// to one of them each: for the other replicas.
	places []string
	doors  []*service.Service
}

func newReplicas(ctx context.Context) *replicas {
	GinkgoHelper()
	Expect(operator.Stop()).To(Succeed())
	DeferCleanup(func(ctx SpecContext) { startOperator(ctx) })
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "wasme-system", Name: "wasme-operator"}}
	Expect(client.IgnoreNotFound(admin.Delete(ctx, lease))).To(Succeed(), "one that was killed holds it for a while")
	r := &replicas{modules: newService()}
	for range places {
		place := freeAddress()
		r.places, r.doors = append(r.places, place), append(r.doors, newService(place))
	}
	return r
}

// startReplicas starts two, of which the first one leads.
func startReplicas(ctx context.Context) (r *replicas, leader, follower *mesh.Operator) {
	GinkgoHelper()
	r = newReplicas(ctx)
	leader = r.start(ctx, 0, mesh.OperatorOptions{})
	Eventually(leads(ctx, leader)).Should(BeTrue())
	follower = r.start(ctx, 1, mesh.OperatorOptions{})
	Expect(leads(ctx, follower)()).To(BeFalse())
	r.serve(leader, follower)
	return r, leader, follower
}

// start starts a replica in a place and waits until it is ready.
func (r *replicas) start(ctx context.Context, place int, options mesh.OperatorOptions) *mesh.Operator {
	GinkgoHelper()
	var peers []string
	for _, door := range r.doors {
		peers = append(peers, door.URL())
	}
	options.Name, options.ModuleServer = fmt.Sprint("replica-", place), r.places[place]
	options.Args = []string{"--leader-elect", "--image-poll-interval=2s", "--module-server-url=" + r.modules.URL(), "--peers=" + strings.Join(peers, ",")}
	replica, err := theMesh.StartOperator(ctx, options)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(replica.Stop()).To(Succeed()) })
	return replica
}

// serve has sidecars sent to these replicas in turn, to the first one first.
func (r *replicas) serve(ready ...*mesh.Operator) {
	var endpoints []string
	for _, replica := range ready {
		endpoints = append(endpoints, strings.TrimPrefix(replica.ModuleServerURL, "http://"))
	}
	r.modules.SetEndpoints(endpoints...)
}

func newService(endpoints ...string) *service.Service {
	GinkgoHelper()
	s, err := service.Start(freeAddress(), endpoints...)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(s.Stop()).To(Succeed()) })
	return s
}

func freeAddress() string {
	GinkgoHelper()
	address, err := theMesh.FreeAddress()
	Expect(err).NotTo(HaveOccurred())
	return address
}

// leads reports whether a replica holds the lease, by its own metrics.
func leads(ctx context.Context, replica *mesh.Operator) func() bool {
	return func() bool {
		return bytes.Contains(mesh.Fetch(ctx, replica.MetricsURL), []byte("\nleader_election_master_status{name=\"wasme-operator\"} 1\n"))
	}
}

// halfWritten are the files that a replica is writing to its store.
func halfWritten(replica *mesh.Operator) func() []string {
	return func() []string {
		var begun []string
		files, err := filepath.Glob(filepath.Join(replica.Store(), "tmp", "*"))
		Expect(err).NotTo(HaveOccurred())
		for _, file := range files {
			if info, err := os.Stat(file); err == nil && info.Size() > 0 {
				begun = append(begun, file)
			}
		}
		return begun
	}
}

// holds reports whether a replica serves the module that is in force at once,
// without waiting for it.
func holds(ctx context.Context, replica *mesh.Operator, fd *wasmev1.FilterDeployment) bool {
	GinkgoHelper()
	return mesh.Ask(ctx, replica.ModuleServerURL+modulePath(ctx, fd), serve.PeerHeader, serve.PeerValue).Status == http.StatusOK
}

// revive starts a replica that was killed again in its place, as a kubelet does.
func revive(ctx context.Context, replica *mesh.Operator) {
	GinkgoHelper()
	Expect(replica.Start()).To(Succeed())
	Expect(replica.WaitReady(ctx)).To(Succeed())
}

// startRegistry is a registry of the spec's own, which can fail.
func startRegistry() *registry.Registry {
	GinkgoHelper()
	r, err := registry.Start()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(r.Close)
	return r
}

func pushTo(ctx context.Context, r *registry.Registry, path string, module []byte) string {
	GinkgoHelper()
	reference, err := r.Push(ctx, path, imageOf(module))
	Expect(err).NotTo(HaveOccurred())
	return reference
}

// padded is the same module with a custom section (WebAssembly Core
// Specification, 5.5.3) of that many bytes.
func padded(module []byte, size int) []byte {
	const name = "padding"
	content := append([]byte{byte(len(name))}, name...)
	content = append(content, make([]byte, size)...)
	module = append(slices.Clip(module), 0)
	module = binary.AppendUvarint(module, uint64(len(content)))
	return append(module, content...)
}

// bareDeployments are workloads without pods.
func bareDeployments(ctx context.Context, namespace string, count int) {
	GinkgoHelper()
	for i := range count {
		labels := map[string]string{"app": fmt.Sprint("bare-", i)}
		Expect(admin.Create(ctx, &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: labels["app"]},
			Spec: appsv1.DeploymentSpec{
				Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}},
				},
			},
		})).To(Succeed())
	}
}

// nextOutput begins to look at the outputs of a namespace; what it returns
// waits for the first one that is written.
func nextOutput(ctx context.Context, namespace string) (wait func()) {
	GinkgoHelper()
	var list networking.EnvoyFilterList
	Expect(admin.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
	from := &client.ListOptions{Namespace: namespace, Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}}
	watcher, err := admin.Watch(ctx, &networking.EnvoyFilterList{}, from)
	Expect(err).NotTo(HaveOccurred())
	return func() {
		GinkgoHelper()
		defer watcher.Stop()
		Eventually(watcher.ResultChan(), meshtest.Patience, time.Millisecond).Should(Receive())
	}
}

// held are the revisions that outputs hold, each once.
func held(ctx context.Context, namespace string) []string {
	GinkgoHelper()
	var list networking.EnvoyFilterList
	Expect(admin.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
	var revisions []string
	for _, output := range list.Items {
		revisions = append(revisions, output.Annotations["wasme.io/revision"])
	}
	slices.Sort(revisions)
	return slices.Compact(revisions)
}

func live(ctx context.Context, fd *wasmev1.FilterDeployment) *wasmev1.FilterDeployment {
	GinkgoHelper()
	var now wasmev1.FilterDeployment
	Expect(admin.Get(ctx, client.ObjectKeyFromObject(fd), &now)).To(Succeed())
	return &now
}

var _ = Describe("Two replicas", long, func() {
	var namespace string
	BeforeEach(func(ctx SpecContext) { namespace = newNamespace(ctx) })

	// filtered is a pod on which a filter of that image runs, and says "before".
	filtered := func(ctx context.Context, image string) (*mesh.Running, *wasmev1.FilterDeployment) {
		GinkgoHelper()
		pod := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		fd := filterDeployment(namespace, image, "before")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, pod, "before")
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonReady))
		return pod, fd
	}
	// another pod of that workload; it must answer filtered as soon as it does.
	another := func(ctx context.Context, replica int, want string) {
		GinkgoHelper()
		w := workload(namespace, "app", map[string]string{"app": "app"})
		w.Replica = replica
		Expect(mesh.Ask(ctx, run(ctx, w).URL)).To(Equal(mesh.Answered(200, want)))
	}

	It("keep working when either is killed in the middle of a pull", func(ctx SpecContext) {
		source := startRegistry()
		r, leader, follower := startReplicas(ctx)
		hello := meshtest.Build(ctx, "hello")
		pod, fd := filtered(ctx, pushTo(ctx, source, "hello:v1", hello))
		Expect([]bool{holds(ctx, leader, fd), holds(ctx, follower, fd)}).To(Equal([]bool{true, true}), "the output waited until both had it")
		load := startStream(ctx, pod.URL)

		By("killing the follower while it copies the module from the leader")
		Expect(follower.Kill()).To(Succeed())
		Expect(os.RemoveAll(follower.Store())).To(Succeed())
		hold := r.doors[0].Hold(part)
		Expect(follower.Start()).To(Succeed())
		Eventually(hold.Reached).Should(Receive())
		Eventually(halfWritten(follower)).ShouldNot(BeEmpty())
		Expect(follower.Kill()).To(Succeed())
		image := pushTo(ctx, source, "hello:v2", padded(hello, 1))
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Image, f.Config = image, text("second") })
		meshtest.EventuallyAnswers(ctx, pod, "second")
		hold.Release()
		revive(ctx, follower)
		Expect(holds(ctx, follower, fd)).To(BeTrue())

		By("killing the leader while it pulls the next one from the registry")
		source.Inject(registry.StallBlobs(part, nil))
		image = pushTo(ctx, source, "hello:v3", padded(hello, 2))
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Image, f.Config = image, text("third") })
		Eventually(halfWritten(leader)).ShouldNot(BeEmpty())
		Expect(leader.Kill()).To(Succeed())
		source.Heal()
		revive(ctx, leader)
		meshtest.EventuallyAnswers(ctx, pod, "third")
		for _, replica := range []*mesh.Operator{leader, follower} {
			Expect(holds(ctx, replica, fd)).To(BeTrue())
			Expect(halfWritten(replica)()).To(BeEmpty())
		}
		another(ctx, 1, "third")
		all, failed := load.stop()
		Expect(failed).To(BeZero(), "of %d requests", all)
	})

	It("have a pod fetch one module at a time, so that a fetch that ends late undoes nothing", func(ctx SpecContext) {
		source := startRegistry()
		r, _, _ := startReplicas(ctx)
		hello := meshtest.Build(ctx, "hello")
		pod := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		hold := r.modules.Hold(part)
		fd := filterDeployment(namespace, pushTo(ctx, source, "hello:v1", hello), "first")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		Eventually(hold.Reached).Should(Receive())
		fetched := held(ctx, namespace)

		By("holding the second back while the first is on its way")
		second := pushTo(ctx, source, "hello:v2", padded(hello, 1))
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Image, f.Config = second, text("second") })
		Eventually(func() string {
			return apimeta.FindStatusCondition(live(ctx, fd).Status.Conditions, wasmev1.ConditionProgrammed).Reason
		}).Should(Equal(wasmev1.ReasonSpreading))
		Expect(held(ctx, namespace)).To(Equal(fetched))
		Expect(mesh.Ask(ctx, pod.URL)).To(Equal(mesh.Answered(200)))

		hold.Release()
		meshtest.EventuallyAnswers(ctx, pod, "first")
		load := startStream(ctx, pod.URL)
		meshtest.EventuallyAnswers(ctx, pod, "second")
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonReady))
		Consistently(meshtest.Asking(ctx, pod.URL), 5*time.Second).Should(Equal(mesh.Answered(200, "second")))
		all, failed := load.stop()
		Expect(failed).To(BeZero(), "of %d requests", all)
	})

	It("keep working when either is killed while a sidecar fetches from it", func(ctx SpecContext) {
		r, leader, follower := startReplicas(ctx)
		pod, _ := filtered(ctx, push(ctx, "hello"))
		load := startStream(ctx, pod.URL)
		for i, pair := range [][]*mesh.Operator{{leader, follower}, {follower, leader}} {
			r.serve(pair...)
			hold := r.modules.Hold(0)
			started := make(chan struct{})
			go func() {
				defer GinkgoRecover()
				defer close(started)
				another(ctx, 1+i, "before")
			}()
			Eventually(hold.Reached).Should(Receive(Equal(r.places[i])))
			Expect(pair[0].Kill()).To(Succeed())
			hold.Cut()
			Eventually(started).Should(BeClosed())
			revive(ctx, pair[0])
		}
		all, failed := load.stop()
		Expect(failed).To(BeZero(), "of %d requests", all)
	})

	It("lose a module's transfer when one is killed in the middle of it, which costs that pod its answers until the fetch is renewed or the filter changes", func(ctx SpecContext) {
		// pilot-agent asks again when it gets no answer, not when it gets half of one.
		r, leader, follower := startReplicas(ctx)
		pod, fd := filtered(ctx, push(ctx, "hello"))
		other := run(ctx, workload(namespace, "other", map[string]string{"app": "other"}))
		meshtest.EventuallyAnswers(ctx, other, "before")
		load := startStream(ctx, other.URL)
		r.serve(follower, leader)
		hold := r.modules.Hold(part)
		Expect(pod.StopSidecar()).To(Succeed())
		started := make(chan error, 1)
		go func() { started <- pod.StartSidecar(ctx) }()
		Eventually(hold.Reached).Should(Receive())
		Expect(follower.Kill()).To(Succeed())
		hold.Cut()
		meshtest.EventuallyIs(ctx, pod, mesh.Answered(403))
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("after") })
		meshtest.EventuallyAnswers(ctx, pod, "after")
		meshtest.EventuallyAnswers(ctx, other, "after")
		Eventually(started).Should(Receive(Succeed()))
		all, failed := load.stop()
		Expect(failed).To(BeZero(), "of %d requests", all)
	})

	It("complete the pass in which either is killed", func(ctx SpecContext) {
		const bare = 300 // so many that there is time between the first output and the status
		_, leader, follower := startReplicas(ctx)
		bareDeployments(ctx, namespace, bare)
		pod, fd := filtered(ctx, push(ctx, "hello"))
		load := startStream(ctx, pod.URL)
		killed := func(victim *mesh.Operator, value string) {
			GinkgoHelper()
			written := nextOutput(ctx, namespace)
			change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text(value) })
			written()
			Expect(victim.Kill()).To(Succeed())
		}
		ended := func(victim *mesh.Operator, value string) {
			GinkgoHelper()
			revive(ctx, victim)
			meshtest.EventuallyAnswers(ctx, pod, value)
			Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonReady))
			now := live(ctx, fd).Status
			Expect(now.Summary.WorkloadsReady).To(Equal(fmt.Sprintf("%d/%d", bare+1, bare+1)))
			Expect(held(ctx, namespace)).To(Equal([]string{now.Revision}))
		}
		killed(follower, "second")
		ended(follower, "second")
		killed(leader, "third")
		Expect(held(ctx, namespace)).To(HaveLen(2), "the kill came after the last output")
		Expect(*live(ctx, fd).Status.ObservedGeneration).To(BeNumerically("<", fd.Generation), "the kill came after the status")
		ended(leader, "third")
		all, failed := load.stop()
		Expect(failed).To(BeZero(), "of %d requests", all)
	})

	It("move to new places, one after the other, while the registry is down", func(ctx SpecContext) {
		source := startRegistry()
		r, first, second := startReplicas(ctx)
		pod, fd := filtered(ctx, pushTo(ctx, source, "hello:v1", meshtest.Build(ctx, "hello")))
		load := startStream(ctx, pod.URL)
		source.Down()
		r.serve(second)
		Expect(first.Stop()).To(Succeed())
		third := r.start(ctx, 2, mesh.OperatorOptions{})
		r.serve(third)
		Expect(second.Stop()).To(Succeed())
		fourth := r.start(ctx, 3, mesh.OperatorOptions{})
		r.serve(third, fourth)

		for i, replica := range []*mesh.Operator{third, fourth} {
			Expect(holds(ctx, replica, fd)).To(BeTrue())
			another(ctx, 1+i, "before")
		}
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("after") })
		meshtest.EventuallyAnswers(ctx, pod, "after")
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonReady))
		all, failed := load.stop()
		Expect(failed).To(BeZero(), "of %d requests", all)
	})

	It("are replaced while traffic flows and filters change", func(ctx SpecContext) {
		r, first, second := startReplicas(ctx)
		pod, fd := filtered(ctx, push(ctx, "hello"))
		load := startStream(ctx, pod.URL)
		third := r.start(ctx, 2, mesh.OperatorOptions{})
		r.serve(second, third)
		Expect(first.Stop()).To(Succeed())

		By("changing the configuration, then the module, in the middle")
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("middle") })
		meshtest.EventuallyAnswers(ctx, pod, "middle")
		image := push(ctx, "trap")
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Image, f.Config = image, text("another module") })
		meshtest.EventuallyAnswers(ctx, pod, "another module")

		fourth := r.start(ctx, 3, mesh.OperatorOptions{})
		r.serve(third, fourth)
		Expect(second.Stop()).To(Succeed())
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("after") })
		meshtest.EventuallyAnswers(ctx, pod, "after")
		another(ctx, 1, "after")
		all, failed := load.stop()
		Expect(failed).To(BeZero(), "of %d requests", all)
	})

	It("keep to their lease when the clock of one is a month ahead", func(ctx SpecContext) {
		const month = 30 * 24 * time.Hour // certificates of the API server are still valid then
		r := newReplicas(ctx)
		ahead := r.start(ctx, 0, mesh.OperatorOptions{ClockOffset: month})
		Eventually(leads(ctx, ahead)).Should(BeTrue())
		right := r.start(ctx, 1, mesh.OperatorOptions{})
		r.serve(ahead, right)
		pod, fd := filtered(ctx, push(ctx, "hello"))
		Expect(live(ctx, fd).Status.Conditions[0].LastTransitionTime.Time).To(BeTemporally(">", time.Now().Add(month/2)), "its clock is wrong")
		load := startStream(ctx, pod.URL)

		By("killing the one that is ahead")
		Expect(ahead.Kill()).To(Succeed())
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("second") })
		meshtest.EventuallyAnswers(ctx, pod, "second")

		By("starting it again: it does not take the lease that is old to it")
		revive(ctx, ahead)
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("third") })
		meshtest.EventuallyAnswers(ctx, pod, "third")
		Consistently(leads(ctx, right), 5*time.Second, 100*time.Millisecond).Should(BeTrue())
		Expect(leads(ctx, ahead)()).To(BeFalse())

		By("leaving it alone")
		Expect(right.Stop()).To(Succeed())
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.Config = text("fourth") })
		meshtest.EventuallyAnswers(ctx, pod, "fourth")
		another(ctx, 1, "fourth")
		all, failed := load.stop()
		Expect(failed).To(BeZero(), "of %d requests", all)
	})
})
