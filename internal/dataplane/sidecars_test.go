package dataplane

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/wasme-io/wasme-operator/test/sidecar"
)

// sidecars are the sidecars of all pods, at one port.
type sidecars struct {
	*sidecar.Server
	port uint16
}

// Ways in which a sidecar answers: with a page, or never.
var (
	text    = sidecar.Page
	silence = sidecar.Silence
)

func startSidecars(tb testing.TB) *sidecars {
	tb.Helper()
	server, err := sidecar.Start(http.NotFound)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(server.Close)
	return &sidecars{server, server.Port()}
}

// pod returns the pod with this number, which answers in that way from now on.
func (s *sidecars) pod(number int, answer http.HandlerFunc) Pod {
	address := netip.AddrFrom4([4]byte{127, 1 + byte(number>>16), byte(number >> 8), byte(number)})
	s.Answer(answer, address)
	return Pod{UID: types.UID(fmt.Sprintf("00000000-0000-0000-0000-%012d", number)), Address: address, StatsPort: s.port, AgentPort: s.port}
}

// requests that came for a pod.
func (s *sidecars) requests(pod Pod) int { return s.Requests(pod.Address) }

// startOn starts a server at one address.
func startOn(tb testing.TB, address string, answer http.HandlerFunc) netip.AddrPort {
	tb.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	server := httptest.NewUnstartedServer(answer)
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	tb.Cleanup(server.Close)
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

// plugins answers as Envoy does when it has loaded these, or none any more.
func plugins(names ...string) http.HandlerFunc {
	return text(envoyPage(names...))
}

func envoyPage(names ...string) string {
	return rows(reloads{}, names...) + listenerRows(1, 0)
}

// listenerRows are what every Envoy shows.
func listenerRows(accepted, refused int) string {
	return fmt.Sprintf("# TYPE %s counter\n%[1]s{} %[2]d\n# TYPE %[3]s counter\n%[3]s{} %[4]d\n", refusedListeners, refused, acceptedListeners, accepted)
}

func rows(counts reloads, names ...string) string {
	var page strings.Builder
	for _, name := range names {
		label := strings.TrimPrefix(name, "wasm_filter.")
		fmt.Fprintf(&page, "# TYPE envoy_wasm_vm_reload counter\nenvoy_wasm_vm_reload{wasm_filter=%q} 0\n", label)
		fmt.Fprintf(&page, "# TYPE envoy_wasm_vm_reload_backoff counter\nenvoy_wasm_vm_reload_backoff{wasm_filter=%q} %d\n", label, counts.backoff)
		fmt.Fprintf(&page, "# TYPE envoy_wasm_vm_reload_failure counter\nenvoy_wasm_vm_reload_failure{wasm_filter=%q} %d\n", label, counts.failure)
		fmt.Fprintf(&page, "# TYPE envoy_wasm_vm_reload_success counter\nenvoy_wasm_vm_reload_success{wasm_filter=%q} %d\n", label, counts.success)
	}
	return page.String()
}

// until waits for something in real time.
func until(tb testing.TB, what string, done func() bool) {
	tb.Helper()
	const patience = 30 * time.Second
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); !done(); {
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatalf("%s: did not happen", what)
		}
	}
}

// proberTest is a running prober in a bubble of its own time. Time passes there
// only while no pod is being asked.
type proberTest struct {
	*testing.T
	*Prober
	mu    sync.Mutex
	wakes map[types.NamespacedName]bool
}

// inBubble runs a test whose prober asks sidecars outside of the bubble. They
// must answer: what waits for the network stops the time.
func inBubble(t *testing.T, test func(s *sidecars, f *proberTest)) {
	t.Helper()
	s := startSidecars(t)
	synctest.Test(t, func(t *testing.T) {
		f := &proberTest{T: t, wakes: map[types.NamespacedName]bool{}}
		f.Prober = New(func(owner types.NamespacedName) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.wakes[owner] = true
		})
		start(t, f.Prober)
		test(s, f)
	})
}

// start runs a prober until it is stopped, or the test ends.
func start(tb testing.TB, p *Prober) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- p.Start(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-stopped; err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(stop)
	return stop
}

func owner(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "bookinfo", Name: name}
}

// pass lets time pass in the bubble.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// becomes waits until a target has this verdict.
func (f *proberTest) becomes(owner types.NamespacedName, target Expectation, want Verdict) {
	f.Helper()
	var got Verdict
	for range 10 * maxPeriod / minRetry {
		if got = f.Expect(owner, []Expectation{target})[0]; got == want {
			return
		}
		pass(minRetry)
	}
	f.Fatalf("the verdict stays %+v and does not become %+v", got, want)
}

// woken are the owners that were woken since the last call.
func (f *proberTest) woken() []types.NamespacedName {
	f.mu.Lock()
	defer f.mu.Unlock()
	owners := slices.Collect(maps.Keys(f.wakes))
	clear(f.wakes)
	return owners
}
