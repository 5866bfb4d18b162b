package module

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
	apitypes "k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/registry"
)

const (
	pollInterval = 10 * time.Minute
	// patience is how long a test waits for what must come.
	patience = 30 * time.Second
)

func TestOneHEADPerPollForAllOwners(t *testing.T) {
	r := startRegistry(t)
	req := Request{Image: push(t, r, "filter:v1", formOf(t, registry.CompatOCI, testModule("shared"))), PlainHTTP: true}
	f := startResolver(t, 4)
	owners := make([]apitypes.NamespacedName, 100)
	for i := range owners {
		owners[i] = holder(fmt.Sprint("owner-", i))
		f.resolved(owners[i], req)
	}
	wantRequests(t, r, http.MethodHead, "/v2/filter/manifests/v1", 1)
	r.ResetRequests()

	f.clock.Step(pollInterval)
	for _, owner := range owners {
		if f.Resolve(owner, req).Module == nil {
			t.Fatal("the old result is gone while it is checked")
		}
	}
	f.settled(req)
	wantRequests(t, r, http.MethodHead, "/v2/filter/manifests/v1", 1)
	wantRequests(t, r, "", "", 1)
}

func TestAMovedTagWakesAllOwners(t *testing.T) {
	r := startRegistry(t)
	req := Request{Image: push(t, r, "filter:v1", formOf(t, registry.CompatOCI, testModule("old"))), PlainHTTP: true}
	f := startResolver(t, 4)
	old := f.resolved(holder("a"), req)
	f.resolved(holder("b"), req)
	f.drain()

	push(t, r, "filter:v1", formOf(t, registry.CompatOCI, testModule("new")))
	f.clock.Step(pollInterval)
	f.Resolve(holder("a"), req)
	f.woken(holder("a"), holder("b"))
	if m := f.Resolve(holder("a"), req).Module; m == nil || m.SHA256 == old.SHA256 {
		t.Errorf("%v", m)
	}
}

func TestRecoversFromFailuresByItself(t *testing.T) {
	for name, c := range map[string]struct {
		breakIt, mend func(t *testing.T, r *registry.Registry)
		reason        string
	}{
		"registry down": {down, up, wasmev1.ReasonRegistryUnavailable},
		"status 500":    {inject(registry.Status(500)), heal, wasmev1.ReasonRegistryUnavailable},
		"status 401":    {inject(registry.Status(401)), heal, wasmev1.ReasonUnauthorized},
		"not pushed":    {inject(registry.Status(404)), heal, wasmev1.ReasonImageNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t)
			req := Request{Image: push(t, r, "filter:v1", formOf(t, registry.CompatOCI, testModule(name))), PlainHTTP: true}
			f := startResolver(t, 4)
			c.breakIt(t, r)
			if e := f.failed(holder("a"), req); e.Reason != c.reason {
				t.Errorf("%s: %s", e.Reason, e.Message)
			}
			c.mend(t, r)
			f.stepUntilWoken(time.Second, holder("a"))
			if m := f.Resolve(holder("a"), req).Module; m == nil {
				t.Error("no module")
			}
		})
	}
}

func TestWhatAFailureDoesToAGoodResult(t *testing.T) {
	badImage := func(t *testing.T, r *registry.Registry) {
		t.Helper()
		push(t, r, "filter:v1", formOf(t, registry.CompatOCI, []byte("text")))
	}
	for name, c := range map[string]struct {
		change func(t *testing.T, r *registry.Registry)
		reason string
	}{
		"registry down": {down, ""},
		"status 500":    {inject(registry.Status(500)), ""},
		"status 401":    {inject(registry.Status(401)), wasmev1.ReasonUnauthorized},
		"status 404":    {inject(registry.Status(404)), wasmev1.ReasonImageNotFound},
		"a bad image":   {badImage, wasmev1.ReasonInvalidModule},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t)
			req := Request{Image: push(t, r, "filter:v1", formOf(t, registry.CompatOCI, testModule(name))), PlainHTTP: true}
			f := startResolver(t, 4)
			f.resolved(holder("a"), req)
			c.change(t, r)
			f.clock.Step(pollInterval)
			f.Resolve(holder("a"), req)
			f.settled(req)
			got := f.Resolve(holder("a"), req)
			if c.reason == "" && got.Module == nil || c.reason != "" && (got.Err == nil || got.Err.Reason != c.reason) {
				t.Errorf("%v %v", got.Module, got.Err)
			}
		})
	}
}

func TestABadImageIsNotPulledAgainUntilItChanges(t *testing.T) {
	r := startRegistry(t)
	req := Request{Image: push(t, r, "filter:v1", formOf(t, registry.CompatOCI, []byte("text"))), PlainHTTP: true}
	f := startResolver(t, 4)
	if e := f.failed(holder("a"), req); e.Reason != wasmev1.ReasonInvalidModule || !e.Terminal {
		t.Fatalf("%+v", e)
	}
	for range 3 {
		r.ResetRequests()
		f.clock.Step(2 * pollInterval)
		f.until("another look", func() bool { return r.Requests(http.MethodHead, "/v2/filter/manifests/v1") > 0 })
		f.settled(req)
		wantRequests(t, r, http.MethodHead, "/v2/filter/manifests/v1", 1)
		wantRequests(t, r, http.MethodGet, "", 1) // the ping
	}
	push(t, r, "filter:v1", formOf(t, registry.CompatOCI, testModule("mended")))
	f.stepUntilWoken(pollInterval, holder("a"))
	if f.Resolve(holder("a"), req).Module == nil {
		t.Error("no module")
	}
}

func TestAnEarlierTurnInTheQueueLosesNoRetry(t *testing.T) {
	r := startRegistry(t)
	bad := Request{Image: push(t, r, "filter:v2", formOf(t, registry.CompatOCI, []byte("text"))), PlainHTTP: true}
	good := Request{Image: push(t, r, "filter:v1", formOf(t, registry.CompatOCI, testModule("v1"))), PlainHTTP: true}
	f := startResolver(t, 4)
	// The queue keeps the first turn of the bad one when nobody wants it any more.
	_ = f.failed(holder("a"), bad)
	f.clock.Step(pollInterval / 3)
	f.resolved(holder("a"), good)
	_ = f.failed(holder("a"), bad)
	f.drain()
	push(t, r, "filter:v2", formOf(t, registry.CompatOCI, testModule("mended")))
	f.stepUntilWoken(pollInterval/30, holder("a"))
	if f.Resolve(holder("a"), bad).Module == nil {
		t.Error("no module")
	}
}

func TestAPanicOfALibraryEndsOneRequest(t *testing.T) {
	r := startRegistry(t)
	req := Request{Image: push(t, r, "filter:v1", formOf(t, registry.CompatOCI, testModule("panic"))), PlainHTTP: true}
	for name, method := range map[string]string{"on HEAD": http.MethodHead, "on GET": http.MethodGet} {
		t.Run(name, func(t *testing.T) {
			f := startResolver(t, 4)
			f.puller.strict = panicsOn{method, f.puller.strict}
			if e := f.failed(holder("a"), req); e.Reason != wasmev1.ReasonInvalidImage || !contains(e.Message, "the operator fails on it") {
				t.Errorf("%s: %s", e.Reason, e.Message)
			}
			f.settled(req)
		})
	}
}

func TestAnImageThatMakesALibraryPanicIsNotPulledAgain(t *testing.T) {
	r := startRegistry(t)
	req := Request{Image: push(t, r, "filter:v1", formOf(t, registry.CompatOCI, testModule("panic"))), PlainHTTP: true}
	f := startResolver(t, 4)
	f.puller.strict = panicsOn{http.MethodGet, f.puller.strict}
	_ = f.failed(holder("a"), req)
	f.settled(req)
	r.ResetRequests()
	f.puller.strict = f.puller.strict.(panicsOn).inner
	f.clock.Step(2 * pollInterval)
	f.until("another look", func() bool { return r.Requests(http.MethodHead, "/v2/filter/manifests/v1") > 0 })
	f.settled(req)
	wantRequests(t, r, http.MethodGet, "", 1) // the ping
}

// panicsOn is a transport that panics at a manifest.
type panicsOn struct {
	method string
	inner  http.RoundTripper
}

func (p panicsOn) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == p.method && isManifest(req.URL.Path) {
		panic("a header that nobody expected")
	}
	return p.inner.RoundTrip(req)
}

func TestATenantLeavesRoomAtASharedRegistry(t *testing.T) {
	r := startRegistry(t)
	good := Request{Image: push(t, r, "filter:v1", formOf(t, registry.CompatOCI, testModule("good"))), PlainHTTP: true}
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	r.Inject(func(next http.Handler) http.Handler {
		held := registry.Hold(release)(next)
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.HasPrefix(req.URL.Path, "/v2/slow/") {
				held.ServeHTTP(w, req)
				return
			}
			next.ServeHTTP(w, req)
		})
	})
	f := startResolver(t, DefaultWorkers)
	for i := range 2 * slotsPerHost {
		owner := apitypes.NamespacedName{Namespace: "tenant", Name: fmt.Sprint(i)}
		f.Resolve(owner, Request{Image: fmt.Sprintf("%s/slow/filter:v%d", r.Host(), i), PlainHTTP: true})
	}
	f.until("taking the tenant's slots", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.namespaces.used["tenant"] == slotsPerNamespace
	})
	f.resolved(holder("good"), good)
}

func TestATenantGetsNothingFromAnothersRight(t *testing.T) {
	r := startRegistry(t, registry.WithBearerAuth(map[string]string{"ann": "secret", "bob": "hidden"}))
	r.Restrict("anns/filter", "ann")
	image := formOf(t, registry.CompatOCI, testModule("private"))
	tag := push(t, r, "anns/filter:v1", image)
	digest := r.Host() + "/anns/filter@" + digestOf(t, image)
	f := startResolver(t, 4)
	f.resolved(holder("ann"), Request{Image: tag, PlainHTTP: true, Credential: annSecret})

	for _, ref := range []string{tag, digest} {
		for who, credential := range map[string]Credential{"anonymous": {}, "bob": {Username: "bob", Password: "hidden"}, "wrong": {Username: "ann", Password: "x"}} {
			if e := f.failed(holder(who+ref), Request{Image: ref, PlainHTTP: true, Credential: credential}); e.Reason != wasmev1.ReasonUnauthorized {
				t.Errorf("%s %s: %s: %s", who, ref, e.Reason, e.Message)
			}
		}
	}
	r.ResetRequests()
	m := f.resolved(holder("ann-2"), Request{Image: digest, PlainHTTP: true, Credential: annSecret})
	if m.Reference != digest {
		t.Errorf("reference %s", m.Reference)
	}
	wantRequests(t, r, http.MethodGet, "/v2/anns/filter/manifests/"+digestOf(t, image), 0)
}

func TestARegistryThatClaimsAnothersDigestGetsNothing(t *testing.T) {
	r, evil := startRegistry(t), startRegistry(t)
	image := formOf(t, registry.CompatOCI, testModule("claimed"))
	f := startResolver(t, 4)
	f.resolved(holder("victim"), Request{Image: push(t, r, "filter:v1", image), PlainHTTP: true})

	claimed := digestOf(t, image)
	evil.Inject(onHead(func(w http.ResponseWriter) {
		w.Header().Set("Docker-Content-Digest", claimed)
		w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
		w.Header().Set("Content-Length", "1")
	}))
	if e := f.failed(holder("thief"), Request{Image: evil.Host() + "/filter:v1", PlainHTTP: true}); e.Reason != wasmev1.ReasonImageNotFound {
		t.Errorf("%s: %s", e.Reason, e.Message)
	}
}

func TestHangingRegistriesHoldUpNoOthers(t *testing.T) {
	for name, c := range map[string]struct {
		registries int
		namespace  func(i int) string
	}{
		"one registry, many tenants":  {1, func(i int) string { return fmt.Sprint("tenant-", i) }},
		"many registries, one tenant": {8, func(int) string { return "tenant" }},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t)
			good := Request{Image: push(t, r, "filter:v1", formOf(t, registry.CompatOCI, testModule("good"))), PlainHTTP: true}
			hanging := make([]*registry.Registry, c.registries)
			for i := range hanging {
				hanging[i] = startRegistry(t)
			}
			// One worker more than what a host or a namespace can take.
			f := startResolver(t, max(slotsPerHost, slotsPerNamespace)+1)
			release := make(chan struct{})
			t.Cleanup(func() { close(release) })
			for i := range 40 {
				registryOfI := hanging[i%len(hanging)]
				registryOfI.Inject(registry.Hold(release))
				owner := apitypes.NamespacedName{Namespace: c.namespace(i), Name: fmt.Sprint(i)}
				f.Resolve(owner, Request{Image: fmt.Sprintf("%s/filter:v%d", registryOfI.Host(), i), PlainHTTP: true})
			}
			f.resolved(holder("good"), good)
		})
	}
}

func TestWhatWaitsForASlotRunsInTheEnd(t *testing.T) {
	r := startRegistry(t)
	image := formOf(t, registry.CompatOCI, testModule("many"))
	release := make(chan struct{})
	r.Inject(registry.Hold(release))
	f := startResolver(t, 16)
	reqs := make([]Request, 50)
	for i := range reqs {
		reqs[i] = Request{Image: push(t, r, fmt.Sprintf("filter-%d:v1", i), image), PlainHTTP: true}
		f.Resolve(apitypes.NamespacedName{Namespace: fmt.Sprint(i % 7), Name: fmt.Sprint(i)}, reqs[i])
	}
	close(release)
	for i, req := range reqs {
		f.until("resolving", func() bool {
			return f.Resolve(apitypes.NamespacedName{Namespace: fmt.Sprint(i % 7), Name: fmt.Sprint(i)}, req).Module != nil
		})
	}
}

func TestAModuleThatTheStoreLostIsPulledAgain(t *testing.T) {
	r := startRegistry(t)
	req := Request{Image: push(t, r, "filter:v1", formOf(t, registry.CompatOCI, testModule("lost"))), PlainHTTP: true}
	f := startResolver(t, 4)
	m := f.resolved(holder("a"), req)
	f.store.mu.Lock()
	f.store.drop(m.SHA256)
	f.store.mu.Unlock()
	if got := f.Resolve(holder("a"), req); !got.Pending() {
		t.Errorf("%+v", got)
	}
	f.resolved(holder("a"), req)
	if !f.store.Has(m.SHA256) {
		t.Error("not held")
	}
}

func TestARestartDownloadsNothing(t *testing.T) {
	r := startRegistry(t)
	req := Request{Image: push(t, r, "filter:v1", registry.Index(formOf(t, registry.CompatOCI, testModule("restart")))), PlainHTTP: true}
	f := startResolver(t, 4)
	before := f.resolved(holder("a"), req)
	r.ResetRequests()
	after := startResolverOn(t, f.store.dir, 4).resolved(holder("a"), req)
	if before.SHA256 != after.SHA256 || before.ManifestDigest != after.ManifestDigest {
		t.Errorf("%+v, then %+v", before, after)
	}
	wantRequests(t, r, http.MethodHead, "", 1)
	wantRequests(t, r, http.MethodGet, "", 1) // the ping
}

func TestTheChildOfAnIndexIsKnownByItsOwnDigest(t *testing.T) {
	r := startRegistry(t)
	image := formOf(t, registry.CompatOCI, testModule("child"))
	f := startResolver(t, 4)
	f.resolved(holder("a"), Request{Image: push(t, r, "filter:v1", registry.Index(image)), PlainHTTP: true})
	r.ResetRequests()
	pinned := r.Host() + "/filter@" + digestOf(t, image)
	if m := f.resolved(holder("b"), Request{Image: pinned, PlainHTTP: true}); m.ManifestDigest != digestOf(t, image) {
		t.Errorf("%+v", m)
	}
	wantRequests(t, r, http.MethodGet, "", 1) // the ping
}

func TestForgottenRequestsAreDropped(t *testing.T) {
	r := startRegistry(t)
	req := Request{Image: push(t, r, "filter:v1", formOf(t, registry.CompatOCI, testModule("dropped"))), PlainHTTP: true}
	other := req
	other.Image = push(t, r, "filter:v2", formOf(t, registry.CompatOCI, testModule("other")))
	f := startResolver(t, 4)
	f.resolved(holder("a"), req)
	f.resolved(holder("b"), req)
	f.resolved(holder("a"), other)
	f.Forget(holder("b"))
	f.Forget(holder("nobody"))
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.entries) != 1 || f.entries[other] == nil || len(f.requests) != 1 {
		t.Errorf("%d entries, %d owners", len(f.entries), len(f.requests))
	}
}

func TestBadSpecsFailWithoutARegistry(t *testing.T) {
	f := startResolver(t, 4)
	if e := f.failed(holder("a"), Request{Image: "Not A Reference"}); e.Reason != wasmev1.ReasonInvalidSpec || !e.Terminal {
		t.Errorf("%+v", e)
	}
}

// resolverTest is a resolver with its store and a clock that stands still.
type resolverTest struct {
	*Resolver
	t     *testing.T
	clock *clocktesting.FakeClock
	wakes chan apitypes.NamespacedName
}

func startResolver(t *testing.T, workers int) *resolverTest {
	t.Helper()
	return startResolverOn(t, t.TempDir(), workers)
}

func startResolverOn(t *testing.T, dir string, workers int) *resolverTest {
	t.Helper()
	f := &resolverTest{t: t, clock: clocktesting.NewFakeClock(time.Now()), wakes: make(chan apitypes.NamespacedName, 1000)}
	f.Resolver = NewResolver(openStore(t, dir, DefaultStoreBytes), NewPuller(PullerOptions{Limits: DefaultLimits}), ResolverOptions{
		PollInterval: pollInterval,
		Workers:      workers,
		Wake:         func(owner apitypes.NamespacedName) { f.wakes <- owner },
		Clock:        f.clock,
	})
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- f.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-stopped)
	})
	return f
}

// resolved resolves, waiting to be woken while the request is pending.
func (f *resolverTest) resolved(owner apitypes.NamespacedName, req Request) *Module {
	f.t.Helper()
	result := f.settle(owner, req)
	if result.Err != nil {
		f.t.Fatalf("%s: %s", result.Err.Reason, result.Err.Message)
	}
	return result.Module
}

func (f *resolverTest) failed(owner apitypes.NamespacedName, req Request) *Error {
	f.t.Helper()
	result := f.settle(owner, req)
	if result.Err == nil {
		f.t.Fatalf("resolved: %+v", result.Module)
	}
	return result.Err
}

func (f *resolverTest) settle(owner apitypes.NamespacedName, req Request) Result {
	f.t.Helper()
	result := f.Resolve(owner, req)
	for result.Pending() {
		f.woken(owner)
		result = f.Resolve(owner, req)
	}
	return result
}

// woken waits until each of the owners was woken; others may be, too.
func (f *resolverTest) woken(owners ...apitypes.NamespacedName) {
	f.t.Helper()
	missing := map[apitypes.NamespacedName]bool{}
	for _, owner := range owners {
		missing[owner] = true
	}
	for deadline := time.After(patience); len(missing) > 0; {
		select {
		case owner := <-f.wakes:
			delete(missing, owner)
		case <-deadline:
			f.t.Fatalf("not woken: %v", missing)
		}
	}
}

func (f *resolverTest) drain() {
	for len(f.wakes) > 0 {
		<-f.wakes
	}
}

// stepUntilWoken lets time pass until owner is woken.
func (f *resolverTest) stepUntilWoken(step time.Duration, owner apitypes.NamespacedName) {
	f.t.Helper()
	f.until("waking "+owner.String(), func() bool {
		f.clock.Step(step)
		select {
		case got := <-f.wakes:
			return got == owner
		default:
			return false
		}
	})
}

// settled waits until no work on a request is queued for now or under way.
func (f *resolverTest) settled(req Request) {
	f.t.Helper()
	f.until("settling", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		e := f.entries[req]
		waits := e.planned && !e.notBefore.After(f.clock.Now())
		return !waits && len(f.hosts.used) == 0
	})
}

func (f *resolverTest) until(what string, done func() bool) {
	f.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); !done(); {
		select {
		case <-tick.C:
		case <-deadline:
			f.t.Fatalf("%s: did not happen", what)
		}
	}
}

func inject(fault registry.Fault) func(*testing.T, *registry.Registry) {
	return func(_ *testing.T, r *registry.Registry) { r.Inject(fault) }
}

func heal(_ *testing.T, r *registry.Registry) { r.Heal() }

func down(_ *testing.T, r *registry.Registry) { r.Down() }

func up(t *testing.T, r *registry.Registry) {
	t.Helper()
	must(t, r.Up())
}

func wantRequests(t *testing.T, r *registry.Registry, method, path string, want int) {
	t.Helper()
	if got := r.Requests(method, path); got != want {
		t.Errorf("%d requests %s %s, not %d", got, method, path, want)
	}
}
