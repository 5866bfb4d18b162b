package versions

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"text/template"
	"time"

	. "github.com/onsi/gomega"
	networkingv1alpha3 "istio.io/client-go/pkg/apis/networking/v1alpha3"
	"sigs.k8s.io/yaml"

	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/filters"
)

// slot is one of the two places of a filter in a sidecar.
type slot struct {
	ECDSName string
	Disabled bool
	// Plugin is empty while the slot is idle.
	Plugin, Configuration, URL, SHA256 string
}

// slots are those of the spec's EnvoyFilter.
type slots struct {
	*spec
	source     string // URL of the module server
	live, next slot
}

// write writes the EnvoyFilter with both slots.
func (s *slots) write() {
	s.t.Helper()
	text, err := template.ParseFiles(filepath.Join("testdata", "slots.yaml.tmpl"))
	s.Expect(err).NotTo(HaveOccurred())
	var filled bytes.Buffer
	s.Expect(text.Execute(&filled, map[string]any{"Namespace": s.namespace, "Slots": []slot{s.live, s.next}})).To(Succeed())
	var object networkingv1alpha3.EnvoyFilter
	s.Expect(yaml.Unmarshal(filled.Bytes(), &object)).To(Succeed())
	s.apply(&object)
}

// fill puts a revision of a module into a slot. The plugins of the slots have
// different names: proof of one must not be taken for proof of the other.
func (s *slots) fill(into *slot, revision int, filter, configuration string) {
	into.Plugin = fmt.Sprintf("wasm_filter.%s@%d", into.ECDSName, revision)
	into.Configuration, into.SHA256 = configuration, filters.SHA256(s.modules[filter])
	into.URL = s.source + module.Path(into.SHA256)
}

// stage brings a revision into the next slot and waits until it is loaded there.
func (s *slots) stage(revision int, filter, configuration string) {
	s.t.Helper()
	s.fill(&s.next, revision, filter, configuration)
	s.write()
	s.eventuallyVerdict(s.next.Plugin, loaded)
}

// nextReloads counts the configurations that Envoy has accepted for the next slot.
func (s *slots) nextReloads() string {
	s.t.Helper()
	return s.get(s.app.AdminURL + "/stats?filter=extension_config_discovery.*" + s.next.ECDSName + ".config_reload")
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
	both := &slots{
		spec: s, source: source.URL,
		live: slot{ECDSName: s.namespace + "/app/hello"},
		next: slot{ECDSName: s.namespace + "/app/hello-next", Disabled: true},
	}
	both.fill(&both.live, 1, filters.Hello, "live")
	both.write()
	s.eventuallyVerdict(both.live.Plugin, loaded)
	s.eventuallyAnswers(ok("live"))

	// A configuration, and another module, are proven; no request passes them.
	load := s.startLoad()
	both.stage(2, filters.Hello, "staged")
	both.stage(3, filters.Trap, "staged")
	s.Expect(load.stop()).To(HaveEach(ok("live")))

	both.costsNothingRefused()
	both.costsNothingUnfetched()

	// What was staged goes live without its source.
	both.stage(6, filters.Trap, "after")
	source.Close()
	load = s.startLoad()
	both.fill(&both.live, 6, filters.Trap, "after")
	both.write()
	s.eventuallyVerdict(both.live.Plugin, loaded)
	s.eventuallyAnswers(ok("after"))
	s.Expect(load.stop()).To(HaveEach(BeElementOf(ok("live"), ok("after"))))

	staged := both.next.Plugin
	both.next.Plugin = ""
	both.write()
	s.Eventually(s.metrics, patience, poll).ShouldNot(ContainSubstring(row("reload", staged)))
	s.Expect(s.ask()).To(Equal(ok("after")))
}

// costsNothingRefused stages a configuration that the module refuses.
func (s *slots) costsNothingRefused() {
	s.t.Helper()
	load, before := s.startLoad(), s.refusedUpdates()
	s.fill(&s.next, 4, filters.Trap, filters.RefusedConfiguration)
	s.write()
	s.untilRefused(s.next.Plugin, before)
	s.verdict(s.next.Plugin)
	s.lookAgain()
	s.Expect(s.verdict(s.next.Plugin)).To(Equal(otherRevision))
	s.Expect(load.stop()).To(HaveEach(ok("live")))
	s.restart()
}

// costsNothingUnfetched stages a module that cannot be fetched. pilot-agent
// then brings Envoy a filter that denies everything, which no request passes.
func (s *slots) costsNothingUnfetched() {
	s.t.Helper()
	load, before := s.startLoad(), s.nextReloads()
	s.fill(&s.next, 5, filters.Trap, "staged")
	s.next.URL += ".missing"
	s.write()
	s.Eventually(s.nextReloads, patience, poll).ShouldNot(Equal(before))
	s.verdict(s.next.Plugin)
	s.lookAgain()
	s.Expect(s.verdict(s.next.Plugin).Proven()).To(BeFalse())
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
		next := time.NewTicker(loadInterval)
		defer next.Stop()
		for ctx.Err() == nil {
			answers = append(answers, s.ask())
			<-next.C
		}
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
