package controllers

import (
	"context"
	"errors"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/filterdeployment"
	"github.com/wasme-io/wasme-operator/controllers/outputkinds"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// patience is how long the whole operator may take for anything: it retries
// with backoff, a minute at the longest.
const patience = 90 * time.Second

// startManager runs both controllers in a manager. Its requests to the API server go
// through the wrappers.
func startManager(folder string, wrappers ...transport.WrapperFunc) *filterdeployment.Reconciler {
	GinkgoHelper()
	config := rest.CopyConfig(operatorConfig)
	for _, wrapper := range wrappers {
		config.Wrap(wrapper)
	}
	written := &filterdeployment.Written{}
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:         operatorScheme,
		MapperProvider: filterdeployment.NamespacedMapper(operatorScheme),
		Cache:          filterdeployment.CacheOptions(nil, "", written),
		Metrics:        metricsserver.Options{BindAddress: "0"},
		Controller:     ctrlconfig.Controller{SkipNameValidation: new(true)},
	})
	Expect(err).NotTo(HaveOccurred())
	modules, err := store.Open(folder, store.DefaultBytes, clock.RealClock{})
	Expect(err).NotTo(HaveOccurred())
	running, stop := context.WithCancel(context.Background())
	added, err := Add(running, manager, Options{
		Preflight: wasmev1.PreflightOff, Run: runChild,
		Store:   modules,
		Written: written,
		Pull:    pull.Options{Limits: module.DefaultLimits},
		// Nothing that a spec waits for comes from looking again.
		PollInterval: time.Hour,
		Workers:      4,
	})
	Expect(err).NotTo(HaveOccurred())

	ended := make(chan error, 1)
	go func() { ended <- manager.Start(running) }()
	DeferCleanup(func(ctx context.Context) {
		stop()
		Eventually(ctx, ended).WithTimeout(patience).Should(Receive(BeNil()))
	})
	return added.FilterDeployments
}

var _ = Describe("The manager", Serial, Ordered, func() {
	var w *world
	var fd *wasmev1.FilterDeployment
	var outputKind *outputkinds.Kind
	crd := func() *apiextensionsv1.CustomResourceDefinition {
		return &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "envoyfilters.networking.istio.io"}}
	}
	removeCRD := func(ctx context.Context) {
		GinkgoHelper()
		Expect(user.Delete(ctx, crd())).To(Succeed())
		Eventually(ctx, func() bool {
			return apierrors.IsNotFound(user.Get(ctx, client.ObjectKeyFromObject(crd()), crd()))
		}).WithTimeout(patience).Should(BeTrue())
	}
	installCRD := func() {
		GinkgoHelper()
		Expect(controlPlane.InstallCRDs(istioCRDs)).To(Succeed())
	}
	// noticed asks as the operator does every 10 seconds.
	noticed := func(ctx context.Context, state outputkinds.State) {
		GinkgoHelper()
		Eventually(ctx, func() (outputkinds.State, error) {
			err := outputKind.Check(ctx)
			return outputKind.State(), err
		}).WithTimeout(patience).Should(Equal(state))
	}
	eventually := func(ctx context.Context) AsyncAssertion {
		GinkgoHelper()
		return Eventually(ctx, func() *wasmev1.FilterDeployment {
			Expect(user.Get(ctx, client.ObjectKeyFromObject(fd), fd)).To(Succeed())
			return fd
		}).WithTimeout(patience)
	}
	output := func(ctx context.Context) func() (*networking.EnvoyFilter, error) {
		return func() (*networking.EnvoyFilter, error) {
			var object networking.EnvoyFilter
			return &object, user.Get(ctx, types.NamespacedName{Namespace: w.namespace, Name: "a-f"}, &object)
		}
	}

	BeforeAll(func(ctx context.Context) {
		w = newWorld(ctx)
		w.stop()
		DeferCleanup(installCRD)
		removeCRD(ctx)
		w.deployments(ctx, "a")
		fd = w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
		outputKind = startManager(GinkgoT().TempDir()).Outputs[wasmev1.OutputEnvoyFilter]
	})

	missing := func(ctx context.Context) {
		GinkgoHelper()
		eventually(ctx).Should(And(
			notReady(wasmev1.ReasonOutputKindMissing, "does not serve EnvoyFilter", "install the CRDs of an Istio that has it"),
			haveCondition(wasmev1.ConditionModuleResolved, metav1.ConditionTrue, wasmev1.ReasonResolved),
			HaveField("Status.Summary.WorkloadsReady", "0/1"),
		))
	}

	It("says that Istio's CRDs are missing", missing)

	It("makes the outputs when the CRDs appear", func(ctx context.Context) {
		installCRD()
		noticed(ctx, outputkinds.Served)
		eventually(ctx).Should(beReady("1/1"))
		Expect(output(ctx)()).NotTo(BeNil())
		Expect(fd.Generation).To(BeEquivalentTo(1))
	})

	It("notices when the CRDs go, and makes the outputs again when they are back", func(ctx context.Context) {
		removeCRD(ctx)
		noticed(ctx, outputkinds.Missing)
		missing(ctx)
		installCRD()
		noticed(ctx, outputkinds.Served)
		eventually(ctx).Should(beReady("1/1"))
		Expect(output(ctx)()).NotTo(BeNil())
	})

	It("sees what happens to outputs", func(ctx context.Context) {
		before, err := output(ctx)()
		Expect(err).NotTo(HaveOccurred())
		for _, change := range []func(*networking.EnvoyFilter){
			func(f *networking.EnvoyFilter) { f.Spec.Priority = 10 },
			func(f *networking.EnvoyFilter) { f.Labels = nil },
			func(f *networking.EnvoyFilter) { f.OwnerReferences = nil },
			func(f *networking.EnvoyFilter) { f.Annotations = nil },
		} {
			edit(ctx, before.DeepCopy(), change)
			Eventually(ctx, output(ctx)).WithTimeout(patience).Should(And(
				HaveField("UID", before.UID), HaveField("Spec.Priority", BeZero()), HaveField("Labels", before.Labels),
				HaveField("OwnerReferences", before.OwnerReferences),
				HaveField("Annotations", HaveKeyWithValue(revision.HashAnnotation, before.Annotations[revision.HashAnnotation]))))
		}
		Expect(user.Delete(ctx, before)).To(Succeed())
		Eventually(ctx, output(ctx)).WithTimeout(patience).Should(HaveField("UID", Not(Equal(before.UID))))
	})

	It("sees what happens to workloads and to revisions", func(ctx context.Context) {
		b := w.deployment(ctx, "b", nil)
		eventually(ctx).Should(beReady("2/2"))
		edit(ctx, b, func(d *appsv1.Deployment) { d.Spec.Template.Labels[workload.GatewayLabel] = "b" })
		eventually(ctx).Should(beReady("1/1"), "gateways have no inbound traffic")
		edit(ctx, b, func(d *appsv1.Deployment) { delete(d.Spec.Template.Labels, workload.GatewayLabel) })
		eventually(ctx).Should(beReady("2/2"))
		Expect(user.Delete(ctx, b)).To(Succeed())
		eventually(ctx).Should(beReady("1/1"))

		lost := w.revisions(ctx, fd)[0]
		Expect(user.Delete(ctx, lost.DeepCopy())).To(Succeed())
		Eventually(ctx, func() []appsv1.ControllerRevision { return w.revisions(ctx, fd) }).WithTimeout(patience).
			Should(ConsistOf(And(HaveField("Name", lost.Name), HaveField("UID", Not(Equal(lost.UID))))))
	})

	It("loses nothing while the API server is away", func(ctx context.Context) {
		Expect(controlPlane.StopAPIServer()).To(Succeed())
		Expect(outputKind.Check(ctx)).NotTo(Succeed())
		Expect(outputKind.State()).To(Equal(outputkinds.Served))
		w.push(ctx, "hello:v2", "second")
		Expect(controlPlane.StartAPIServer(ctx)).To(Succeed())
		edit(ctx, fd, image(w.registry.Host()+"/hello:v2"))
		// The API server looks up the kinds of owners in a list that it renews every 30 seconds.
		eventually(ctx).WithTimeout(3 * patience).Should(beReady("1/1"))
		Expect(w.held(ctx)).To(Equal(map[string]string{"a-f": fd.Status.Revision}))
		Expect(fd.Status.Module.Reference).To(HaveSuffix("hello:v2"))
	})

	It("sees the predecessor's operator come and go, and its status overwritten", func(ctx context.Context) {
		running := predecessorsDeployment(newNamespace(ctx))
		Expect(user.Create(ctx, running)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(client.IgnoreNotFound(user.Delete(ctx, running))).To(Succeed()) })
		Eventually(ctx, func() []string { return w.eventsAbout(ctx, running) }).WithTimeout(patience).Should(ConsistOf("Warning PredecessorRunning"))
		predecessors := func() float64 { return gathered(metrics.Registry, "")["predecessor_deployments"] }
		Expect(predecessors()).To(Equal(1.0))
		eventually(ctx).Should(beReady("1/1"), "it is nobody else's matter")
		edit(ctx, running, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(0)) })
		Eventually(ctx, predecessors).WithTimeout(patience).Should(BeZero())

		overwrite(ctx, fd)
		eventually(ctx).Should(haveCondition(wasmev1.ConditionContested, metav1.ConditionTrue, wasmev1.ReasonStatusOverwritten))
	})

	It("leaves the outputs of a deleted FilterDeployment to the garbage collector", func(ctx context.Context) {
		Expect(user.Delete(ctx, fd)).To(Succeed())
		// The garbage collector looks for new kinds every 30 seconds.
		Eventually(ctx, func() []string { return w.outputs(ctx) }).WithTimeout(3 * patience).Should(BeEmpty())
		Eventually(ctx, func() []appsv1.ControllerRevision { return w.revisions(ctx, fd) }).WithTimeout(3 * patience).Should(BeEmpty())
	})
})

var _ = Describe("A pass", func() {
	var w *world
	var fd *wasmev1.FilterDeployment
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.deployments(ctx, "a")
		fd = w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), filterID("f"))
	})

	It("waits until the kind of the outputs is known", func(ctx context.Context) {
		w.Outputs[wasmev1.OutputEnvoyFilter].Assume(outputkinds.Unknown)
		result, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(result.IsZero()).To(BeTrue())
		Expect(w.written()).To(BeEmpty())
	})

	It("makes nothing for a FilterDeployment that is being deleted", func(ctx context.Context) {
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Finalizers = []string{"example.com/hold"} })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(user.Delete(ctx, fd, client.PropagationPolicy(metav1.DeletePropagationForeground))).To(Succeed())
		Expect(user.Get(ctx, client.ObjectKeyFromObject(fd), fd)).To(Succeed())
		Expect(fd.DeletionTimestamp).NotTo(BeNil())
		w.deployments(ctx, "b")
		Expect(client.IgnoreNotFound(user.Delete(ctx, &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "a-f"}}))).To(Succeed())
		w.written()
		result, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(result.IsZero()).To(BeTrue())
		Expect(w.written()).To(BeEmpty())
		Expect(w.outputs(ctx)).To(BeEmpty())
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Finalizers = nil })
	})

	It("that ends half-way is taken up by the next operator", func(ctx context.Context) {
		w.deployments(ctx, "b")
		w.intercept(func(write string) error {
			if write != "create EnvoyFilter a-f" && write[:6] != "create" || write == "create EnvoyFilter b-f" {
				return errors.New("killed")
			}
			return nil
		})
		_, err := w.reconcile(ctx, fd)
		Expect(err).To(HaveOccurred())
		w.awaitAnswer(ctx, fd)
		_, err = w.reconcile(ctx, fd)
		Expect(err).To(HaveOccurred())
		Expect(w.outputs(ctx)).To(ConsistOf("a-f"))
		first := w.output(ctx, "a-f").ResourceVersion

		w.restart(ctx)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("2/2"))
		Expect(w.output(ctx, "a-f").ResourceVersion).To(Equal(first))
		Expect(w.revisions(ctx, fd)).To(HaveLen(1))
	})
})
