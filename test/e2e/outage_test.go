package e2e

import (
	"context"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

// world is a mesh whose registry is one of its workloads: images are pulled
// through the registry's own sidecar.
type world struct {
	namespace string
	source    *registry.Registry
	replicas  []*mesh.Operator
	// registry and app are the pods of the two workloads.
	registry, app *mesh.Running
	fd            *wasmev1.FilterDeployment
}

// startWorld runs a filter from the registry on the workloads with these labels.
func startWorld(ctx context.Context, strategy wasmev1.FailStrategy, labels map[string]wasmev1.LabelValue) *world {
	GinkgoHelper()
	_, leader, follower := startReplicas(ctx)
	// The namespace goes before the next operator comes, which would wait for its module.
	w := &world{namespace: newNamespace(ctx), source: startRegistry(), replicas: []*mesh.Operator{leader, follower}}
	w.source.PutFile("/", []byte("ready"))
	_, port, err := net.SplitHostPort(w.source.Host())
	Expect(err).NotTo(HaveOccurred())
	meshed := workload(w.namespace, "registry", map[string]string{"app": "registry"})
	meshed.AppPort, err = strconv.Atoi(port)
	Expect(err).NotTo(HaveOccurred())
	w.registry = run(ctx, meshed)
	w.app = run(ctx, workload(w.namespace, "app", map[string]string{"app": "app"}))

	pushTo(ctx, w.source, "hello:v1", meshtest.Build(ctx, "hello"))
	w.fd = filterDeployment(w.namespace, strings.TrimPrefix(w.registry.URL, "http://")+"/hello:v1", "hello")
	w.fd.Spec.Filter.FailStrategy = strategy
	w.fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Labels: labels}
	Expect(admin.Create(ctx, w.fd)).To(Succeed())
	Eventually(readyReason(ctx, w.fd)).Should(Equal(wasmev1.ReasonReady))
	meshtest.EventuallyAnswers(ctx, w.app, "hello")
	return w
}

// fail ends everything at once: the API server, istiod, the replicas of the
// operator, the registry and all sidecars. What a container keeps on disk is lost,
// and the replicas' modules, too, unless they are on volumes.
func (w *world) fail(ctx context.Context, volumes bool) {
	GinkgoHelper()
	for _, replica := range w.replicas {
		Expect(replica.Kill()).To(Succeed())
		if !volumes {
			Expect(os.RemoveAll(replica.Store())).To(Succeed())
		}
	}
	w.source.Down()
	for _, pod := range []*mesh.Running{w.registry, w.app} {
		Expect(pod.StopSidecar()).To(Succeed())
	}
	Expect(theMesh.StopIstiod()).To(Succeed())
	Expect(theMesh.StopAPIServer()).To(Succeed())
	Expect(theMesh.StartAPIServer(ctx)).To(Succeed())
	Expect(theMesh.StartIstiod(ctx)).To(Succeed())
}

// start starts what fail ended. It does not wait: what starts needs each other.
func (w *world) start(ctx context.Context) {
	GinkgoHelper()
	Expect(w.source.Up()).To(Succeed())
	for _, replica := range w.replicas {
		Expect(replica.Start()).To(Succeed())
	}
	for _, pod := range []*mesh.Running{w.registry, w.app} {
		ended := make(chan error, 1)
		go func() { ended <- pod.StartSidecar(ctx) }()
		DeferCleanup(func() { Eventually(ended).Should(Receive()) })
	}
}

var _ = Describe("An outage of everything, with the registry inside the mesh", long, func() {
	everything := map[string]wasmev1.LabelValue{}
	onlyApp := map[string]wasmev1.LabelValue{"app": "app"}

	It("does not end by itself if the filter runs on the registry, until the registry is left out", func(ctx SpecContext) {
		w := startWorld(ctx, wasmev1.FailReload, everything)
		meshtest.EventuallyAnswers(ctx, w.registry, "hello")
		w.fail(ctx, false)
		w.start(ctx)
		By("waiting in a circle: the registry's sidecar for the module, and the operator for the registry")
		meshtest.EventuallyIs(ctx, w.registry, mesh.Answered(403))
		meshtest.EventuallyIs(ctx, w.app, mesh.Answered(403))
		Eventually(readyReason(ctx, w.fd), recovery).Should(Equal(wasmev1.ReasonUnauthorized))
		Expect(message(ctx, w.fd)).To(ContainSubstring("403"))
		Consistently(meshtest.Asking(ctx, w.registry.URL), 5*time.Second).Should(Equal(mesh.Answered(403)))

		By("leaving the registry out of the selection")
		Eventually(func() error {
			fd := live(ctx, w.fd)
			fd.Spec.Deployment.Istio.Labels = onlyApp
			return admin.Update(ctx, fd)
		}).Should(Succeed())
		meshtest.EventuallyAnswers(ctx, w.registry)
		Eventually(meshtest.Asking(ctx, w.app.URL), recovery).Should(Equal(mesh.Answered(200, "hello")))
	})

	It("ends by itself if the filter does not run on the registry", func(ctx SpecContext) {
		w := startWorld(ctx, wasmev1.FailReload, onlyApp)
		w.fail(ctx, false)
		w.start(ctx)
		Eventually(meshtest.Asking(ctx, w.app.URL), recovery).Should(Equal(mesh.Answered(200, "hello")))
	})

	It("ends by itself with FailOpen", func(ctx SpecContext) {
		w := startWorld(ctx, wasmev1.FailOpen, everything)
		w.fail(ctx, false)
		w.start(ctx)
		for _, pod := range []*mesh.Running{w.registry, w.app} {
			Eventually(meshtest.Asking(ctx, pod.URL), recovery).Should(Equal(mesh.Answered(200, "hello")))
		}
	})

	It("costs no request if the replicas keep their modules on volumes", func(ctx SpecContext) {
		w := startWorld(ctx, wasmev1.FailReload, everything)
		w.fail(ctx, true)
		w.start(ctx)
		for _, pod := range []*mesh.Running{w.registry, w.app} {
			var first mesh.Answer
			Eventually(func() mesh.Answer {
				first = mesh.Ask(ctx, pod.URL)
				return first
			}).ShouldNot(BeZero())
			Expect(first).To(Equal(mesh.Answered(200, "hello")), pod.Pod)
		}
	})
})
