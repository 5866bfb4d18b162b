package versions

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	networkingv1alpha3 "istio.io/client-go/pkg/apis/networking/v1alpha3"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
)

const (
	// patience bounds the wait for a change to arrive at a proxy, on a machine
	// where many proxies start at the same time.
	patience = time.Minute
	poll     = 20 * time.Millisecond
)

// suite is what the specs of all versions share.
type suite struct {
	mesh    *mesh.Mesh
	admin   client.Client
	prober  *dataplane.Prober
	modules map[string][]byte
}

func startSuite(t *testing.T) *suite {
	t.Helper()
	g := NewWithT(t)
	log.SetLogger(logr.Discard())
	s := &suite{modules: map[string][]byte{}}
	for _, name := range []string{filters.Hello, filters.Trap, filters.Environ} {
		module, err := filters.Build(t.Context(), name)
		g.Expect(err).NotTo(HaveOccurred())
		s.modules[name] = module
	}
	var err error
	s.mesh, err = mesh.Start(t.Context(), mesh.Options{Log: os.Stderr})
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { NewWithT(t).Expect(s.mesh.Stop()).To(Succeed()) })
	s.admin = s.mesh.Client()
	s.startProber(t)
	s.startOperator(t)
	return s
}

func (s *suite) startProber(t *testing.T) {
	t.Helper()
	s.prober = dataplane.New(func(types.NamespacedName) {})
	running, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	stopped := make(chan error)
	go func() { stopped <- s.prober.Start(running) }()
	t.Cleanup(func() {
		cancel()
		NewWithT(t).Expect(<-stopped).To(Succeed())
	})
}

// spec is one behaviour on one version of Envoy, in a namespace of its own.
type spec struct {
	*WithT
	*suite
	t         *testing.T
	ctx       context.Context
	envoy     envoy
	namespace string
	app       *mesh.Running
	// statsPort leads to the metrics of the sidecar's Envoy and counts in looks
	// who asks there.
	statsPort uint16
	looks     atomic.Int64
}

func (s *suite) newSpec(t *testing.T, e envoy, number int) *spec {
	t.Helper()
	sp := &spec{
		WithT: NewWithT(t), suite: s, t: t, ctx: t.Context(), envoy: e,
		namespace: fmt.Sprintf("spec-%d-envoy-%s", number, strings.ReplaceAll(e.version, ".", "-")),
	}
	var err error
	sp.app, err = s.mesh.StartWorkload(sp.ctx, mesh.Workload{
		Namespace: sp.namespace, Name: "app", Labels: map[string]string{"app": "app"}, Port: 9080,
		Envoy: e.version, AgentMetrics: true,
	})
	sp.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { NewWithT(t).Expect(sp.app.Stop(context.Background())).To(Succeed()) })
	sp.countLooks()
	return sp
}

// countLooks serves the sidecar's metrics at another port of the same pod.
func (s *spec) countLooks() {
	s.t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(s.ctx, "tcp", s.app.Address+":0")
	s.Expect(err).NotTo(HaveOccurred())
	target, err := url.Parse(s.app.StatsURL)
	s.Expect(err).NotTo(HaveOccurred())
	target.Path = ""
	proxy := httputil.NewSingleHostReverseProxy(target)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxy.ServeHTTP(w, r)
		s.looks.Add(1)
	}))
	s.Expect(server.Listener.Close()).To(Succeed())
	server.Listener = listener
	server.Start()
	s.t.Cleanup(server.Close)
	s.statsPort = netip.MustParseAddrPort(listener.Addr().String()).Port()
}

// target is a plugin that the prober is to look for in the spec's pod.
func (s *spec) target(plugin string) dataplane.Expectation {
	address := netip.MustParseAddr(s.app.Address)
	return dataplane.Expectation{
		Pod:    dataplane.Pod{UID: types.UID(s.namespace), Address: address, StatsPort: s.statsPort},
		Plugin: plugin,
	}
}

// verdict is what the prober knows of a plugin.
func (s *spec) verdict(plugin string) dataplane.Verdict {
	owner := types.NamespacedName{Namespace: s.namespace, Name: "hello"}
	return s.prober.Expect(owner, []dataplane.Expectation{s.target(plugin)})[0]
}

// eventuallyVerdict waits for what the prober finds out about a plugin.
func (s *spec) eventuallyVerdict(plugin string, want dataplane.Verdict) {
	s.t.Helper()
	s.Eventually(func() dataplane.Verdict { return s.verdict(plugin) }, patience, poll).Should(Equal(want))
}

// lookAgain returns when the prober has asked the sidecar four more times. It may
// have begun the first before the call, and not have judged the last yet, so two
// of them count. Another filter that is expected of the pod makes it ask soon.
func (s *spec) lookAgain() {
	s.t.Helper()
	other := types.NamespacedName{Namespace: s.namespace, Name: fmt.Sprintf("other-%d", s.looks.Load())}
	before := s.looks.Load()
	s.prober.Expect(other, []dataplane.Expectation{s.target("wasm_filter.other@0")})
	defer s.prober.Expect(other, nil)
	s.Eventually(s.looks.Load, patience, poll).Should(BeNumerically(">=", before+4))
}

// metrics is the page of the sidecar's Envoy.
func (s *spec) metrics() string {
	s.t.Helper()
	return s.get(s.app.StatsURL)
}

func (s *spec) get(url string) string {
	s.t.Helper()
	body := mesh.Fetch(s.ctx, url)
	s.Expect(body).NotTo(BeNil(), "%s does not answer", url)
	return string(body)
}

// row is the line of the metrics that one counter of a plugin begins with.
func row(counter, plugin string) string {
	return fmt.Sprintf("envoy_wasm_vm_%s{wasm_filter=%q} ", counter, strings.TrimPrefix(plugin, "wasm_filter."))
}

// untilRefused waits until Envoy has refused one more update. A plugin that it
// refuses may show a row, but not in two answers, one after the other: that is
// what the prober relies on.
func (s *spec) untilRefused(plugin string, before int) {
	s.t.Helper()
	inARow := 0
	s.Eventually(func(g Gomega) (int, error) {
		inARow++
		if !strings.Contains(s.metrics(), row("reload", plugin)) {
			inARow = 0
		}
		g.Expect(inARow).To(BeNumerically("<", 2), "%s is refused, yet it is in two answers", plugin)
		return s.app.RefusedUpdates(s.ctx)
	}, patience, poll).Should(BeNumerically(">", before))
}

func (s *spec) refusedUpdates() int {
	s.t.Helper()
	count, err := s.app.RefusedUpdates(s.ctx)
	s.Expect(err).NotTo(HaveOccurred())
	return count
}

// answer is what came back for one request; zero: nothing did.
type answer = mesh.Answer

func ok(hello string) answer { return mesh.Answered(http.StatusOK, hello) }

// ask sends one request through the sidecar; headers are pairs of name and value.
func (s *spec) ask(headers ...string) answer { return mesh.Ask(s.ctx, s.app.URL, headers...) }

func (s *spec) eventuallyAnswers(want answer) {
	s.t.Helper()
	s.Eventually(func() answer { return s.ask() }, patience, poll).Should(Equal(want))
}

// moduleServer serves the test modules under their digests, as the operator does.
func (s *spec) moduleServer() *filters.Server {
	server := filters.StartServer()
	for _, content := range s.modules {
		server.Serve(content)
	}
	s.t.Cleanup(server.Close)
	return server
}

// apply creates an EnvoyFilter in the spec's namespace, or replaces it.
func (s *spec) apply(object *networkingv1alpha3.EnvoyFilter) {
	s.t.Helper()
	object.Namespace, object.Name = s.namespace, "hello"
	var live networkingv1alpha3.EnvoyFilter
	err := s.admin.Get(s.ctx, client.ObjectKeyFromObject(object), &live)
	if client.IgnoreNotFound(err) == nil && err != nil {
		s.Expect(s.admin.Create(s.ctx, object)).To(Succeed())
		return
	}
	s.Expect(err).NotTo(HaveOccurred())
	object.ResourceVersion = live.ResourceVersion
	s.Expect(s.admin.Update(s.ctx, object)).To(Succeed())
}
