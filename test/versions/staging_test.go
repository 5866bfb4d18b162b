package versions

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/gomega"
	networking "istio.io/api/networking/v1alpha3"
	networkingv1alpha3 "istio.io/client-go/pkg/apis/networking/v1alpha3"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/workload"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
)

// slots are the two places of a filter in a sidecar, as the operator renders them.
type slots struct {
	*spec
	source string // URL of the module server
	// live is nil before there is one. Next is idle while it is nil, and ecds the name of
	// its ECDS resource.
	live, next *render.Filter
	ecds       string
	// canaries are the pods that run what is in the next slot.
	canaries []string
}

func (s *slots) owner() types.NamespacedName {
	return types.NamespacedName{Namespace: s.namespace, Name: "hello"}
}

func (s *slots) target() workload.Target {
	w := s.app.Workload
	return workload.Target{Kind: string(w.Kind), Namespace: w.Namespace, Name: w.Name, Selector: w.Labels}
}

// write writes the EnvoyFilter with both slots, or with the staging slot alone.
func (s *slots) write() {
	s.t.Helper()
	rendered, own := s.render()
	if s.canaries != nil {
		s.Expect(render.AddCanary(rendered, s.rendersFor(), s.owner(), s.live, s.target(), *s.next, s.canaries)).To(Succeed())
	}
	s.ecds = rendered.ConfigPatches[own].Patch.Value.AsMap()["name"].(string)
	object := &networkingv1alpha3.EnvoyFilter{}
	rendered.DeepCopyInto(&object.Spec)
	s.apply(object)
}

func (s *slots) rendersFor() render.Mesh {
	return render.Mesh{ClusterID: mesh.ClusterID, RootNamespace: mesh.RootNamespace, ModuleServerURL: s.source}
}

// render returns what write writes, and the place of the staging slot's first patch.
func (s *slots) render() (rendered *networking.EnvoyFilter, place int) {
	s.t.Helper()
	meshOf := s.rendersFor()
	if s.live == nil {
		rendered, err := render.StagingEnvoyFilter(meshOf, s.owner(), *s.next, s.target(), "")
		s.Expect(err).NotTo(HaveOccurred())
		return rendered, 0
	}
	rendered, err := render.EnvoyFilter(meshOf, s.owner(), *s.live, s.target(), "")
	s.Expect(err).NotTo(HaveOccurred())
	place = len(rendered.ConfigPatches)
	s.Expect(render.AddStagingSlot(rendered, meshOf, s.owner(), *s.live, s.target(), s.next, "")).To(Succeed())
	return rendered, place
}

// filterOf is a module with a configuration.
func (s *slots) filterOf(module, configuration string) render.Filter {
	return render.Filter{
		ID: "hello", ModuleSHA256: filters.SHA256(s.modules[module]), RootID: filters.RootID, Configuration: []byte(configuration),
		PatchContext: wasmev1.PatchContextInbound, FailStrategy: wasmev1.FailReload,
	}
}

// livePlugin is what the sidecar shows of the live slot. Proof of one slot must not be taken
// for proof of the other.
func (s *slots) livePlugin() string {
	return render.PluginName(s.owner(), s.target(), s.live.Revision())
}

// try writes a filter into the next slot, and returns the name of its plugin.
func (s *slots) try(filter render.Filter) (plugin string) {
	s.t.Helper()
	s.next = &filter
	s.write()
	return render.StagedPluginName(s.owner(), s.target(), filter.Revision())
}

// goLive makes what is staged the live one.
func (s *slots) goLive() {
	s.t.Helper()
	s.live, s.next = s.next, nil
	s.write()
	s.eventuallyVerdict(s.livePlugin(), loaded)
}

// stage brings a filter into the next slot and waits until it is loaded there.
func (s *slots) stage(filter, configuration string) (plugin string) {
	s.t.Helper()
	plugin = s.try(s.filterOf(filter, configuration))
	s.eventuallyVerdict(plugin, loaded)
	return plugin
}

// nextReloads counts the configurations that Envoy has accepted for the next slot.
func (s *slots) nextReloads() string {
	s.t.Helper()
	return s.get(s.app.AdminURL + "/stats?filter=extension_config_discovery.*" + s.ecds + ".config_reload")
}

// restart starts the sidecar again and waits until it serves the live slot. While
// the other slot is refused, Envoy may deny requests before that, for seconds on a
// busy machine.
func (s *slots) restart() {
	s.t.Helper()
	s.Expect(s.app.StopSidecar()).To(Succeed())
	s.Expect(s.app.StartSidecar(s.ctx)).To(Succeed())
	s.eventuallyAnswers(ok("live"))
}

func staging(s *spec) {
	source := s.moduleServer()
	both := &slots{spec: s, source: source.URL}
	both.triesTheFirst()

	// A configuration, and another module, are proven; no request passes them.
	load := s.startLoad()
	both.stage(filters.Hello, "staged")
	both.stage(filters.Trap, "staged")
	s.Expect(load.stop()).To(HaveEach(ok("live")))

	both.runsInSinglePods()
	both.costsNothingRefused()
	both.costsNothingUnfetched()

	// What was staged goes live without its source, and leaves an idle slot.
	staged := both.stage(filters.Trap, "after")
	source.Close()
	load = s.startLoad()
	both.goLive()
	s.eventuallyAnswers(ok("after"))
	s.Expect(load.stop()).To(HaveEach(BeElementOf(ok("live"), ok("after"))))
	s.Eventually(s.metrics, patience, poll).ShouldNot(ContainSubstring(row("reload", staged)))
	s.Expect(s.ask()).To(Equal(ok("after")))
}

// triesTheFirst stages filters where none is live, the first of which is refused, and makes
// the second the live one.
func (s *slots) triesTheFirst() {
	s.t.Helper()
	load, before := s.startLoad(), s.refusedUpdates()
	refused := s.try(s.filterOf(filters.Trap, filters.RefusedConfiguration))
	s.untilRefused(refused, before)
	s.Expect(s.verdict(refused).Proven()).To(BeFalse())
	s.stage(filters.Hello, "live")
	unfiltered := answer{Status: http.StatusOK}
	s.Expect(load.stop()).To(HaveEach(unfiltered))
	load = s.startLoad()
	s.goLive()
	s.eventuallyAnswers(ok("live"))
	s.Expect(load.stop()).To(HaveEach(BeElementOf(unfiltered, ok("live"))))
}

// runsInSinglePods has the pod run what is staged, and another one not.
func (s *slots) runsInSinglePods() {
	s.t.Helper()
	load := s.startLoad()
	s.stage(filters.Trap, "canary")
	s.canaries = []string{"another-pod"}
	s.write()
	s.lookAgain()
	s.Expect(s.ask()).To(Equal(ok("live")))
	s.canaries = []string{s.app.Pod}
	s.write()
	s.eventuallyVerdict(render.CanaryPluginName(s.owner(), s.target(), s.next.Revision()), loaded)
	s.eventuallyAnswers(ok("canary"))
	s.canaries = nil
	s.write()
	s.eventuallyAnswers(ok("live"))
	s.Expect(load.stop()).To(HaveEach(BeElementOf(ok("live"), ok("canary"))))
}

// costsNothingRefused stages a configuration that the module refuses.
func (s *slots) costsNothingRefused() {
	s.t.Helper()
	load, before := s.startLoad(), s.refusedUpdates()
	refused := s.try(s.filterOf(filters.Trap, filters.RefusedConfiguration))
	s.untilRefused(refused, before)
	s.verdict(refused)
	s.lookAgain()
	s.Expect(s.verdict(refused)).To(Equal(otherRevision))
	s.Expect(load.stop()).To(HaveEach(ok("live")))
	s.restart()
}

// costsNothingUnfetched stages a module that cannot be fetched. pilot-agent
// then brings Envoy a filter that denies everything, which no request passes.
func (s *slots) costsNothingUnfetched() {
	s.t.Helper()
	load, before := s.startLoad(), s.nextReloads()
	missing := s.filterOf(filters.Trap, "staged")
	missing.ModuleSHA256 = strings.Repeat("0", len(missing.ModuleSHA256))
	plugin := s.try(missing)
	s.Eventually(s.nextReloads, patience, poll).ShouldNot(Equal(before))
	s.verdict(plugin)
	s.lookAgain()
	s.Expect(s.verdict(plugin).Proven()).To(BeFalse())
	s.Expect(load.stop()).To(HaveEach(ok("live")))
	s.restart()
}

// load sends requests without a break.
type load struct {
	cancel context.CancelFunc
	wait   func() []answer
}

// loadInterval is the time between two requests.
const loadInterval = 5 * time.Millisecond

// startLoad sends requests through the sidecar until stop is called.
func (s *spec) startLoad() *load {
	ctx, cancel := context.WithCancel(s.ctx)
	var running sync.WaitGroup
	var answers []answer
	running.Go(func() {
		wait.NonSlidingUntilWithContext(ctx, func(context.Context) { answers = append(answers, s.ask()) }, loadInterval)
	})
	l := &load{cancel: cancel, wait: func() []answer {
		running.Wait()
		return answers
	}}
	s.t.Cleanup(func() { l.stop() })
	return l
}

// stop ends the load and returns all answers.
func (l *load) stop() []answer {
	l.cancel()
	return l.wait()
}
