package controllers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/workload"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

// addsHeader is a file with a test that the modules below do not pass.
const addsHeader = `
test:
- name: adds the header
  response_headers:
    input: {header: [{key: ":status", value: "200"}]}
    result: {has_header: [{key: hello, value: world}]}
`

// A preflight runs the module in a real process of its own.
var _ = Describe("A preflight", func() {
	var w *world
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.deployments(ctx, "a")
	})

	enforced := func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.Preflight = wasmev1.PreflightEnforce }
	warned := func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.Preflight = wasmev1.PreflightWarn }
	off := func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.Preflight = wasmev1.PreflightOff }
	logs := slices.Concat(moduletest.I32(4), moduletest.I32(moduletest.DataAt), moduletest.I32(11), moduletest.Call(0), moduletest.Drop)
	// pushed stores a module that runs some functions; modules differ by their texts, of which
	// refuse logs the first 11 bytes and returns false.
	pushed := func(ctx context.Context, path, text string, functions ...moduletest.Function) string {
		GinkgoHelper()
		module := moduletest.Assembly{Imports: []moduletest.Import{{Name: "proxy_log", Params: "www", Results: "w"}}, Functions: functions, Data: text}
		return w.pushModule(ctx, path, registry.Module{Bytes: module.Assemble(), RootIDs: []string{rootID}})
	}
	refuse := moduletest.Answering(moduletest.OnConfigure, 0, logs)
	// counted has the operator count the runs.
	counted := func(ctx context.Context) *atomic.Int32 {
		GinkgoHelper()
		runs := &atomic.Int32{}
		w.stop()
		w.operator = startOperator(ctx, w.clock, w.store, running(func(ctx context.Context, file *os.File, size int64, filter preflight.Filter) (preflight.Verdict, error) {
			runs.Add(1)
			return runChild(ctx, file, size, filter)
		}))
		return runs
	}
	revisionIn := func(ctx context.Context) string {
		GinkgoHelper()
		return w.held(ctx)["a-f"]
	}

	It("keeps a module that refuses its configuration from every proxy, and says so in the module's words", func(ctx SpecContext) {
		fd := w.filterDeployment(ctx, "f", pushed(ctx, "f:good", "fine"), enforced, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		good := fd.Status.Revision
		Expect(fd).To(haveCondition(wasmev1.ConditionPreflighted, metav1.ConditionTrue, wasmev1.ReasonPreflighted, "without a fault"))
		Expect(fd.Status.Module.Cost).NotTo(BeNil())
		Expect(*fd.Status.Module.Cost.MemoryBytes).To(BeNumerically("==", 64<<10))

		edit(ctx, fd, image(pushed(ctx, "f:bad", "I am broken", refuse)))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionPreflighted, metav1.ConditionFalse, wasmev1.ReasonConfigurationRefused, "the module refused its configuration", "its last log lines: I am broken"))
		Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionFalse, wasmev1.ReasonConfigurationRefused, "I am broken"))
		Expect(conditionTypes(fd)).To(ContainElement(wasmev1.ConditionStalled))
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionFalse, wasmev1.ReasonLastGoodRevision, good))
		Expect(fd.Status.Revision).To(Equal(good))
		Expect(fd.Status.Module.Cost).NotTo(BeNil())
		Expect(revisionIn(ctx)).To(Equal(good))

		By("following once it is fixed")
		edit(ctx, fd, image(pushed(ctx, "f:fixed", "fixed")))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd.Status.Revision).NotTo(Equal(good))
		Expect(revisionIn(ctx)).To(Equal(fd.Status.Revision))
		Expect(conditionTypes(fd)).NotTo(ContainElement(wasmev1.ConditionStalled))
	})

	It("keeps no tag with the pull policy IfNotPresent that it refuses", func(ctx SpecContext) {
		pinned := func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.ImagePullPolicy = wasmev1.PullIfNotPresent }
		fd := w.filterDeployment(ctx, "f", pushed(ctx, "f:v1", "I am broken", refuse), enforced, pinned, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(reasonOf(fd, wasmev1.ConditionPreflighted)).To(Equal(wasmev1.ReasonConfigurationRefused))

		By("following once the tag is pushed again")
		pushed(ctx, "f:v1", "fixed")
		Expect(w.answer(ctx, fd)).To(Succeed())
		Expect(reasonOf(fd, wasmev1.ConditionPreflighted)).To(Equal(wasmev1.ReasonPreflighted))
		first := fd.Status.Revision
		Expect(revisionIn(ctx)).To(Equal(first))

		By("keeping what it accepted")
		pushed(ctx, "f:v1", "moved")
		Expect(w.settle(ctx, fd)).To(Succeed())
		w.awaitAnswer(ctx, fd)
		w.askAgain(ctx, fd)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd.Status.Revision).To(Equal(first))
	})

	It("warns of sidecars that have too little memory for the module", func(ctx SpecContext) {
		s := &sidecars{world: w, envoys: startSidecar(envoyPage("")), agents: startSidecar(recorded("agent-empty"))}
		s.start(ctx, "a", 1, func(pod *corev1.Pod) {
			workload.Sidecar(pod).Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("70Mi")}
		})
		fd := w.filterDeployment(ctx, "f", pushed(ctx, "f:good", "fine"), enforced, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		warning := "of a proxy's memory, and the memory limit of these sidecars leaves less: a (70 MiB); raise it with sidecar.istio.io/proxyMemoryLimit"
		Expect(fd).To(haveCondition(wasmev1.ConditionPreflighted, metav1.ConditionTrue, wasmev1.ReasonPreflighted, warning))

		By("saying so once, after a restart, too")
		counted(ctx)
		said := apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionPreflighted).Message
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionPreflighted).Message).To(Equal(said))
	})

	It("only warns if it is told to", func(ctx SpecContext) {
		fd := w.filterDeployment(ctx, "f", pushed(ctx, "f:bad", "I am broken", refuse), warned, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionPreflighted, metav1.ConditionFalse, wasmev1.ReasonConfigurationRefused, "proxies get it all the same"))
		Expect(revisionIn(ctx)).To(Equal(fd.Status.Revision))
		Expect(reasonOf(fd, wasmev1.ConditionReady)).NotTo(Equal(wasmev1.ReasonConfigurationRefused))
	})

	It("runs nothing if it is off", func(ctx SpecContext) {
		runs := counted(ctx)
		fd := w.filterDeployment(ctx, "f", pushed(ctx, "f:bad", "I am broken", refuse), off, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionPreflighted, metav1.ConditionTrue, wasmev1.ReasonPreflightOff, "was not run"))
		Expect(revisionIn(ctx)).To(Equal(fd.Status.Revision))
		Expect(runs.Load()).To(BeZero())

		By("never taking away what proxies run")
		edit(ctx, fd, enforced)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionPreflighted, metav1.ConditionFalse, wasmev1.ReasonConfigurationRefused, "proxies get it all the same"))
		Expect(revisionIn(ctx)).To(Equal(fd.Status.Revision))
		Expect(conditionTypes(fd)).NotTo(ContainElement(wasmev1.ConditionStalled))
	})

	It("runs one module with one configuration once, whoever asks, and not again for a new workload or after a restart", func(ctx SpecContext) {
		runs := counted(ctx)
		reference := pushed(ctx, "f:good", "fine")
		var fds []*wasmev1.FilterDeployment
		for i := range 5 {
			fds = append(fds, w.filterDeployment(ctx, fmt.Sprintf("f%d", i), reference, enforced))
		}
		for _, fd := range fds {
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(reasonOf(fd, wasmev1.ConditionPreflighted)).To(Equal(wasmev1.ReasonPreflighted))
		}
		Expect(runs.Load()).To(BeEquivalentTo(1))

		w.deployments(ctx, "b")
		Expect(w.settle(ctx, fds[0])).To(Succeed())
		Expect(runs.Load()).To(BeEquivalentTo(1))
		cost := fds[0].Status.Module.Cost

		runs = counted(ctx)
		for _, fd := range fds {
			Expect(w.settle(ctx, fd)).To(Succeed())
			Expect(reasonOf(fd, wasmev1.ConditionPreflighted)).To(Equal(wasmev1.ReasonPreflighted))
		}
		Expect(runs.Load()).To(BeZero())
		Expect(fds[0].Status.Module.Cost).To(Equal(cost))

		By("running another configuration of it")
		edit(ctx, fds[0], config("another"))
		Expect(w.settle(ctx, fds[0])).To(Succeed())
		Expect(runs.Load()).To(BeEquivalentTo(1))
	})

	It("waits while the operator cannot run modules", func(ctx SpecContext) {
		broken := errors.New("no memory")
		failing := atomic.Bool{}
		failing.Store(true)
		w.stop()
		w.operator = startOperator(ctx, w.clock, w.store, running(func(ctx context.Context, file *os.File, size int64, filter preflight.Filter) (preflight.Verdict, error) {
			if failing.Load() {
				return preflight.Verdict{}, broken
			}
			return runChild(ctx, file, size, filter)
		}))
		fd := w.filterDeployment(ctx, "f", pushed(ctx, "f:good", "fine"), enforced, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionPreflighted, metav1.ConditionUnknown, wasmev1.ReasonPreflightUnavailable, "no memory"))
		Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionUnknown, wasmev1.ReasonPreflightUnavailable))
		Expect(fd.Status.Revision).To(BeEmpty())

		failing.Store(false)
		w.awaitAnswer(ctx, fd)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(revisionIn(ctx)).To(Equal(fd.Status.Revision))
	})

	It("runs the tests in the image", func(ctx SpecContext) {
		module := moduletest.Assembly{}.Assemble()
		reference := w.pushModule(ctx, "f:tested", registry.Module{Bytes: module, RootIDs: []string{rootID}, Tests: []byte(addsHeader)})
		fd := w.filterDeployment(ctx, "f", reference, enforced, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionPreflighted, metav1.ConditionFalse, wasmev1.ReasonTestsFailed, "fails 1 of the 1 tests in preflight-tests.yaml", "adds the header"))
		Expect(fd.Status.Revision).To(BeEmpty())
	})

	It("says which ConfigMap with tests is missing", func(ctx SpecContext) {
		tests := func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Filter.PreflightTests = &wasmev1.PreflightTests{ConfigMap: wasmev1.ConfigMapKey{Name: "tests", Key: "tests.yaml"}}
		}
		fd := w.filterDeployment(ctx, "f", pushed(ctx, "f:good", "fine"), enforced, filterID("f"), tests)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionPreflighted, metav1.ConditionFalse, wasmev1.ReasonConfigMapNotFound, "spec.filter.preflightTests.configMap"))

		By("running the tests that it holds")
		Expect(user.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "tests"}, Data: map[string]string{"tests.yaml": addsHeader},
		})).To(Succeed())
		w.clock.Step(configMapInterval)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionPreflighted, metav1.ConditionFalse, wasmev1.ReasonTestsFailed, "adds the header"))
	})
})
