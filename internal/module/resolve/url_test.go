package resolve

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apitypes "k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

func TestAHundredOwnersOfAURLShareOneFetch(t *testing.T) {
	wasm := moduletest.Wasm("shared")
	r := moduletest.StartRegistry(t)
	req := pull.Request{URL: r.PutFile("/filter.wasm", wasm), SHA256: moduletest.SHA256(wasm)}
	f := startResolver(t, DefaultWorkers)
	owners := make([]apitypes.NamespacedName, 100)
	for i := range owners {
		owners[i] = apitypes.NamespacedName{Namespace: fmt.Sprint("tenant-", i%7), Name: fmt.Sprint(i)}
		f.Resolve(owners[i], req)
	}
	f.until("resolving", func() bool {
		return !slices.ContainsFunc(owners, func(owner apitypes.NamespacedName) bool { return f.Resolve(owner, req).Module == nil })
	})
	moduletest.WantRequests(t, r, http.MethodGet, "/filter.wasm", 1)
	moduletest.WantRequests(t, r, "", "", 1)
}

// The digest identifies what a URL has, so it is asked once, across restarts and
// a server that is gone.
func TestAURLIsNotPolled(t *testing.T) {
	wasm := moduletest.Wasm("once")
	r := moduletest.StartRegistry(t)
	req := pull.Request{URL: r.PutFile("/filter.wasm", wasm), SHA256: moduletest.SHA256(wasm)}
	f := startResolver(t, 4)
	f.resolved(holder("a"), req)
	r.ResetRequests()
	r.Inject(registry.Status(404))
	for range 3 {
		f.clock.Step(10 * pollInterval)
		f.resolved(holder("a"), req)
		f.settled(req)
	}
	f.resolved(holder("b"), req)
	if m := startResolverOn(t, f.dir, 4).resolved(holder("a"), req); m.SHA256 != req.SHA256 || m.Reference != req.URL {
		t.Errorf("%+v", m)
	}
	moduletest.WantRequests(t, r, "", "", 0)
}

func TestKnowingADigestGivesNoAccess(t *testing.T) {
	wasm := moduletest.Wasm("known")
	r := moduletest.StartRegistry(t)
	f := startResolver(t, 4)
	m := f.resolved(holder("victim"), pull.Request{Image: moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, wasm)), PlainHTTP: true})
	f.resolved(holder("victim-2"), pull.Request{URL: r.PutFile("/filter.wasm", wasm), SHA256: m.SHA256})

	for _, path := range []string{"/other.wasm", "/filter.wasm/", "/v2/"} {
		e := f.failed(holder("thief"), pull.Request{URL: r.URL() + path, SHA256: m.SHA256})
		if e.Reason != wasmev1.ReasonImageNotFound && e.Reason != wasmev1.ReasonDigestMismatch {
			t.Errorf("%s: %s: %s", path, e.Reason, e.Message)
		}
	}
}

func TestWhatIsNotAllowedAnyMoreIsNotRemembered(t *testing.T) {
	wasm := moduletest.Wasm("allowed")
	r := moduletest.StartRegistry(t)
	req := pull.Request{URL: r.PutFile("/filter.wasm", wasm), SHA256: moduletest.SHA256(wasm)}
	before := startResolver(t, 4)
	before.resolved(holder("a"), req)
	f := startResolverWith(t, before.dir, 4, pull.Options{AllowedRegistries: []string{"ghcr.io"}, Limits: module.DefaultLimits})
	if e := f.failed(holder("a"), req); e.Reason != wasmev1.ReasonRegistryForbidden {
		t.Errorf("%s: %s", e.Reason, e.Message)
	}
}

func TestAURLRecoversByItself(t *testing.T) {
	wasm := moduletest.Wasm("recovers")
	wrong := func(t *testing.T, r *registry.Registry) {
		t.Helper()
		r.PutFile("/filter.wasm", moduletest.Wasm("wrong"))
	}
	right := func(t *testing.T, r *registry.Registry) {
		t.Helper()
		r.PutFile("/filter.wasm", wasm)
	}
	for name, c := range map[string]struct {
		breakIt, fixIt func(*testing.T, *registry.Registry)
		reason         string
		step           time.Duration
	}{
		"server down":    {down, up, wasmev1.ReasonRegistryUnavailable, time.Second},
		"status 500":     {inject(registry.Status(500)), heal, wasmev1.ReasonRegistryUnavailable, time.Second},
		"not there yet":  {inject(registry.Status(404)), heal, wasmev1.ReasonImageNotFound, time.Second},
		"another module": {wrong, right, wasmev1.ReasonDigestMismatch, pollInterval / 10},
	} {
		t.Run(name, func(t *testing.T) {
			r := moduletest.StartRegistry(t)
			req := pull.Request{URL: r.PutFile("/filter.wasm", wasm), SHA256: moduletest.SHA256(wasm)}
			c.breakIt(t, r)
			f := startResolver(t, 4)
			if e := f.failed(holder("a"), req); e.Reason != c.reason {
				t.Errorf("%s: %s", e.Reason, e.Message)
			}
			c.fixIt(t, r)
			f.stepUntilWoken(c.step, holder("a"))
			if f.Resolve(holder("a"), req).Module == nil {
				t.Error("no module")
			}
		})
	}
}

func TestABrokenModuleWithTheRightDigestIsFetchedOnce(t *testing.T) {
	broken := moduletest.WithExports(moduletest.Export("_start"))
	r := moduletest.StartRegistry(t)
	req := pull.Request{URL: r.PutFile("/filter.wasm", broken), SHA256: moduletest.SHA256(broken)}
	f := startResolver(t, 4)
	for range 3 {
		if e := f.failed(holder("a"), req); e.Reason != wasmev1.ReasonInvalidModule || !e.Terminal {
			t.Fatalf("%+v", e)
		}
		f.clock.Step(10 * pollInterval)
		f.settled(req)
	}
	moduletest.WantRequests(t, r, "", "", 1)
}

func TestAModuleOfAURLThatTheStoreLostIsFetchedAgain(t *testing.T) {
	wasm := moduletest.Wasm("lost")
	r := moduletest.StartRegistry(t)
	req := pull.Request{URL: r.PutFile("/filter.wasm", wasm), SHA256: moduletest.SHA256(wasm)}
	f := startResolver(t, 4)
	f.resolved(holder("a"), req)
	f.lose(req.SHA256)
	if got := f.Resolve(holder("a"), req); !got.Pending() {
		t.Errorf("%+v", got)
	}
	f.resolved(holder("a"), req)
	moduletest.WantRequests(t, r, http.MethodGet, "/filter.wasm", 2)
}

func TestURLsKeepToTheSlotsOfTheirNamespaceAndHost(t *testing.T) {
	const urls = 24
	for name, c := range map[string]struct{ namespaces, most int }{
		"one namespace":    {1, slotsPerNamespace},
		"two namespaces":   {2, 2 * slotsPerNamespace},
		"three namespaces": {3, slotsPerHost},
	} {
		t.Run(name, func(t *testing.T) {
			wasm := moduletest.Wasm(name)
			r := moduletest.StartRegistry(t)
			f := startResolver(t, DefaultWorkers)
			var under, most atomic.Int32
			release := make(chan struct{})
			r.Inject(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					now := under.Add(1)
					for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); {
						seen = most.Load()
					}
					<-release
					under.Add(-1)
					next.ServeHTTP(w, req)
				})
			})
			owner := func(i int) apitypes.NamespacedName {
				return apitypes.NamespacedName{Namespace: fmt.Sprint(i % c.namespaces), Name: fmt.Sprint(i)}
			}
			reqs := make([]pull.Request, urls)
			for i := range reqs {
				reqs[i] = pull.Request{URL: r.PutFile(fmt.Sprint("/", i), wasm), SHA256: moduletest.SHA256(wasm)}
				f.Resolve(owner(i), reqs[i])
			}
			f.until("taking all slots", func() bool { return int(under.Load()) == c.most })
			close(release)
			for i, req := range reqs {
				f.until("resolving", func() bool { return f.Resolve(owner(i), req).Module != nil })
			}
			if got := int(most.Load()); got != c.most {
				t.Errorf("%d at once, not %d", got, c.most)
			}
		})
	}
}

func TestAPanicAtAURLEndsOneRequest(t *testing.T) {
	f := startResolver(t, 4)
	f.panicIf(func() bool { return true })
	req := pull.Request{URL: "https://example.com/filter.wasm?token=hidden", SHA256: moduletest.SHA256("")}
	e := f.failed(holder("a"), req)
	if !strings.Contains(e.Message, "the operator failed on it") || strings.Contains(e.Message, "hidden") {
		t.Errorf("%s: %s", e.Reason, e.Message)
	}
	f.settled(req)
}

func TestBadURLsFailWithoutAServer(t *testing.T) {
	f := startResolver(t, 4)
	if e := f.failed(holder("a"), pull.Request{URL: "ftp://example.com/", SHA256: moduletest.SHA256("")}); e.Reason != wasmev1.ReasonInvalidSpec || !e.Terminal {
		t.Errorf("%+v", e)
	}
}
