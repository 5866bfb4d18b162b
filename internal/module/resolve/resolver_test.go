package resolve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
	apitypes "k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

const (
	pollInterval = 10 * time.Minute
	// patience is how long a test waits for what must come.
	patience = 30 * time.Second
)

var annSecret = pull.Credential{Username: "ann", Password: "secret"}

func holder(name string) apitypes.NamespacedName {
	return apitypes.NamespacedName{Namespace: "bookinfo", Name: name}
}

func TestOneHEADPerPollForAllOwners(t *testing.T) {
	r := moduletest.StartRegistry(t)
	req := pull.Request{Image: moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("shared"))), PlainHTTP: true}
	f := startResolver(t, 4)
	owners := make([]apitypes.NamespacedName, 100)
	for i := range owners {
		owners[i] = holder(fmt.Sprint("owner-", i))
		f.resolved(owners[i], req)
	}
	moduletest.WantRequests(t, r, http.MethodHead, "/v2/filter/manifests/v1", 1)
	r.ResetRequests()

	f.clock.Step(pollInterval)
	for _, owner := range owners {
		if f.Resolve(owner, req).Module == nil {
			t.Fatal("the old result is gone while it is checked")
		}
	}
	f.settled(req)
	moduletest.WantRequests(t, r, http.MethodHead, "/v2/filter/manifests/v1", 1)
	moduletest.WantRequests(t, r, "", "", 1)
}

func TestAMovedTagWakesAllOwners(t *testing.T) {
	r := moduletest.StartRegistry(t)
	req := pull.Request{Image: moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("old"))), PlainHTTP: true}
	f := startResolver(t, 4)
	old := f.resolved(holder("a"), req)
	f.resolved(holder("b"), req)
	f.drain()

	moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("new")))
	f.clock.Step(pollInterval)
	f.Resolve(holder("a"), req)
	f.woken(holder("a"), holder("b"))
	if m := f.Resolve(holder("a"), req).Module; m == nil || m.SHA256 == old.SHA256 {
		t.Errorf("%v", m)
	}
}

func TestATagThatIsLookedUpOnceIsNotPolled(t *testing.T) {
	r := moduletest.StartRegistry(t)
	req := pull.Request{Image: r.Host() + "/filter:v1", PlainHTTP: true, Once: true}
	f := startResolver(t, 4)
	if e := f.failed(holder("a"), req); e.Reason != wasmev1.ReasonImageNotFound {
		t.Fatalf("%s: %s", e.Reason, e.Message)
	}
	moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("first")))
	f.stepUntilWoken(time.Second, holder("a"))
	first := f.resolved(holder("a"), req)

	moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("moved")))
	r.ResetRequests()
	f.clock.Step(100 * pollInterval)
	if got := f.resolved(holder("b"), req); got != first {
		t.Errorf("%v, not %v", got, first)
	}
	f.settled(req)
	moduletest.WantRequests(t, r, "", "", 0)
}

func TestRecoversFromFailuresByItself(t *testing.T) {
	for name, c := range map[string]struct {
		breakIt, fixIt func(t *testing.T, r *registry.Registry)
		reason         string
	}{
		"registry down": {down, up, wasmev1.ReasonRegistryUnavailable},
		"status 500":    {inject(registry.Status(500)), heal, wasmev1.ReasonRegistryUnavailable},
		"status 401":    {inject(registry.Status(401)), heal, wasmev1.ReasonUnauthorized},
		"not pushed":    {inject(registry.Status(404)), heal, wasmev1.ReasonImageNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			r := moduletest.StartRegistry(t)
			req := pull.Request{Image: moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm(name))), PlainHTTP: true}
			f := startResolver(t, 4)
			c.breakIt(t, r)
			if e := f.failed(holder("a"), req); e.Reason != c.reason {
				t.Errorf("%s: %s", e.Reason, e.Message)
			}
			c.fixIt(t, r)
			f.stepUntilWoken(time.Second, holder("a"))
			if m := f.Resolve(holder("a"), req).Module; m == nil {
				t.Error("no module")
			}
		})
	}
}

func TestWhichFailuresReplaceAGoodResult(t *testing.T) {
	badImage := func(t *testing.T, r *registry.Registry) {
		t.Helper()
		moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, []byte("text")))
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
			r := moduletest.StartRegistry(t)
			req := pull.Request{Image: moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm(name))), PlainHTTP: true}
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
	r := moduletest.StartRegistry(t)
	req := pull.Request{Image: moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, []byte("text"))), PlainHTTP: true}
	f := startResolver(t, 4)
	if e := f.failed(holder("a"), req); e.Reason != wasmev1.ReasonInvalidModule || !e.Terminal {
		t.Fatalf("%+v", e)
	}
	for range 3 {
		r.ResetRequests()
		f.clock.Step(2 * pollInterval)
		f.until("another look", func() bool { return r.Requests(http.MethodHead, "/v2/filter/manifests/v1") > 0 })
		f.settled(req)
		moduletest.WantRequests(t, r, http.MethodHead, "/v2/filter/manifests/v1", 1)
		moduletest.WantRequests(t, r, http.MethodGet, "", 1) // the ping
	}
	moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("fixed")))
	f.stepUntilWoken(pollInterval, holder("a"))
	if f.Resolve(holder("a"), req).Module == nil {
		t.Error("no module")
	}
}

func TestWhenAFailureIsTriedAgain(t *testing.T) {
	temporary := module.Temporary(wasmev1.ReasonRegistryUnavailable, "")
	terminal := module.Terminal(wasmev1.ReasonInvalidImage, "")
	for name, c := range map[string]struct {
		err      *module.Error
		failures int
		poll     time.Duration
		want     time.Duration
	}{
		"temporary":               {temporary, 1, pollInterval, minRetry},
		"temporary again":         {temporary, 2, pollInterval, 2 * minRetry},
		"temporary for long":      {temporary, 100, pollInterval, maxRetry},
		"terminal":                {terminal, 1, pollInterval, pollInterval},
		"terminal without a poll": {terminal, 1, 0, minRetry},
		"terminal, short polls":   {terminal, 5, 2 * minRetry, 16 * minRetry},
	} {
		t.Run(name, func(t *testing.T) {
			clk := clocktesting.NewFakeClock(time.Now())
			r := New(nil, nil, Options{PollInterval: c.poll, Clock: clk})
			defer r.queue.ShutDown()
			e := &entry{source: &pull.Image{}}
			for range c.failures {
				r.planRetry(e, c.err)
			}
			least, most := clk.Now().Add(c.want), clk.Now().Add(time.Duration(float64(c.want)*(1+retryJitter)))
			if !e.planned || e.notBefore.Before(least) || e.notBefore.After(most) {
				t.Errorf("planned: %v, in %s, not in %s", e.planned, e.notBefore.Sub(clk.Now()), c.want)
			}
			if e.source != nil {
				t.Error("the old connection is kept")
			}
			*e = entry{}
			if r.planRetry(e, nil); e.planned || r.backoff.NumRequeues(e.req) != 0 {
				t.Error("a success is tried again, or its failures count")
			}
		})
	}
	t.Run("final", func(t *testing.T) {
		r := New(nil, nil, Options{PollInterval: pollInterval, Clock: clocktesting.NewFakeClock(time.Now())})
		defer r.queue.ShutDown()
		e := &entry{final: true}
		if r.planRetry(e, terminal); e.planned {
			t.Error("a failure that stays is tried again")
		}
	})
}

func TestAnEarlierTurnInTheQueueDoesNotLoseARetry(t *testing.T) {
	r := moduletest.StartRegistry(t)
	bad := pull.Request{Image: moduletest.Push(t, r, "filter:v2", moduletest.FormOf(t, registry.CompatOCI, []byte("text"))), PlainHTTP: true}
	good := pull.Request{Image: moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("v1"))), PlainHTTP: true}
	f := startResolver(t, 4)
	// The queue keeps the first turn of the bad request after its owner left.
	_ = f.failed(holder("a"), bad)
	f.clock.Step(pollInterval / 3)
	f.resolved(holder("a"), good)
	_ = f.failed(holder("a"), bad)
	f.drain()
	moduletest.Push(t, r, "filter:v2", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("fixed")))
	f.stepUntilWoken(pollInterval/30, holder("a"))
	if f.Resolve(holder("a"), bad).Module == nil {
		t.Error("no module")
	}
}

func TestAPanicOfALibraryEndsOneRequest(t *testing.T) {
	for name, c := range map[string]struct {
		after string
		heads int
	}{"on HEAD": {http.MethodGet, 0}, "on GET": {http.MethodHead, 1}} {
		t.Run(name, func(t *testing.T) {
			r := moduletest.StartRegistry(t)
			req := pull.Request{Image: moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("panic"))), PlainHTTP: true}
			f := startResolver(t, 4)
			f.panicIf(func() bool { return r.Requests(c.after, "") > 0 })
			if e := f.failed(holder("a"), req); e.Reason != wasmev1.ReasonInvalidImage || !strings.Contains(e.Message, "the operator failed on it") {
				t.Errorf("%s: %s", e.Reason, e.Message)
			}
			f.settled(req)
			moduletest.WantRequests(t, r, http.MethodHead, "", c.heads)
		})
	}
}

func TestAnImageThatMakesALibraryPanicIsNotPulledAgain(t *testing.T) {
	r := moduletest.StartRegistry(t)
	req := pull.Request{Image: moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("panic"))), PlainHTTP: true}
	f := startResolver(t, 4)
	f.panicIf(func() bool { return r.Requests(http.MethodHead, "") > 0 })
	_ = f.failed(holder("a"), req)
	f.settled(req)
	r.ResetRequests()
	f.panicIf(nil)
	f.clock.Step(2 * pollInterval)
	f.until("another look", func() bool { return r.Requests(http.MethodHead, "/v2/filter/manifests/v1") > 0 })
	f.settled(req)
	moduletest.WantRequests(t, r, http.MethodGet, "", 1) // the ping
}

func TestATenantLeavesRoomAtASharedRegistry(t *testing.T) {
	r := moduletest.StartRegistry(t)
	good := pull.Request{Image: moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("good"))), PlainHTTP: true}
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
		f.Resolve(owner, pull.Request{Image: fmt.Sprintf("%s/slow/filter:v%d", r.Host(), i), PlainHTTP: true})
	}
	f.until("taking the tenant's slots", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.namespaces.Used["tenant"] == slotsPerNamespace
	})
	f.resolved(holder("good"), good)
}

func TestATenantDoesNotGetAnothersRight(t *testing.T) {
	r := moduletest.StartRegistry(t, registry.WithBearerAuth(map[string]string{"ann": "secret", "bob": "hidden"}))
	r.Restrict("anns/filter", "ann")
	image := moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("private"))
	tag := moduletest.Push(t, r, "anns/filter:v1", image)
	digest := r.Host() + "/anns/filter@" + moduletest.DigestOf(t, image)
	f := startResolver(t, 4)
	f.resolved(holder("ann"), pull.Request{Image: tag, PlainHTTP: true, Credential: annSecret})

	for _, ref := range []string{tag, digest} {
		for who, credential := range map[string]pull.Credential{"anonymous": {}, "bob": {Username: "bob", Password: "hidden"}, "wrong": {Username: "ann", Password: "x"}} {
			if e := f.failed(holder(who+ref), pull.Request{Image: ref, PlainHTTP: true, Credential: credential}); e.Reason != wasmev1.ReasonUnauthorized {
				t.Errorf("%s %s: %s: %s", who, ref, e.Reason, e.Message)
			}
		}
	}
	r.ResetRequests()
	m := f.resolved(holder("ann-2"), pull.Request{Image: digest, PlainHTTP: true, Credential: annSecret})
	if m.Reference != digest {
		t.Errorf("reference %s", m.Reference)
	}
	moduletest.WantRequests(t, r, http.MethodGet, "/v2/anns/filter/manifests/"+moduletest.DigestOf(t, image), 0)
}

func TestARegistryThatClaimsAnothersDigestGetsNothing(t *testing.T) {
	r, evil := moduletest.StartRegistry(t), moduletest.StartRegistry(t)
	image := moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("claimed"))
	f := startResolver(t, 4)
	f.resolved(holder("victim"), pull.Request{Image: moduletest.Push(t, r, "filter:v1", image), PlainHTTP: true})

	claimed := moduletest.DigestOf(t, image)
	evil.Inject(moduletest.OnHEAD(func(w http.ResponseWriter) {
		w.Header().Set("Docker-Content-Digest", claimed)
		w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
		w.Header().Set("Content-Length", "1")
	}))
	if e := f.failed(holder("thief"), pull.Request{Image: evil.Host() + "/filter:v1", PlainHTTP: true}); e.Reason != wasmev1.ReasonImageNotFound {
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
			r := moduletest.StartRegistry(t)
			good := pull.Request{Image: moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("good"))), PlainHTTP: true}
			hanging := make([]*registry.Registry, c.registries)
			for i := range hanging {
				hanging[i] = moduletest.StartRegistry(t)
			}
			// One worker more than what a host or a namespace can take.
			f := startResolver(t, max(slotsPerHost, slotsPerNamespace)+1)
			release := make(chan struct{})
			t.Cleanup(func() { close(release) })
			for i := range 40 {
				registryOfI := hanging[i%len(hanging)]
				registryOfI.Inject(registry.Hold(release))
				owner := apitypes.NamespacedName{Namespace: c.namespace(i), Name: fmt.Sprint(i)}
				f.Resolve(owner, pull.Request{Image: fmt.Sprintf("%s/filter:v%d", registryOfI.Host(), i), PlainHTTP: true})
			}
			f.resolved(holder("good"), good)
		})
	}
}

func TestARequestThatWaitsRunsForANewOwnerWhoseNamespaceHasASlot(t *testing.T) {
	slow, fast := moduletest.StartRegistry(t), moduletest.StartRegistry(t)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	slow.Inject(registry.Hold(release))
	shared := pull.Request{Image: moduletest.Push(t, fast, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("shared"))), PlainHTTP: true}
	f := startResolver(t, DefaultWorkers)
	for i := range slotsPerNamespace {
		f.Resolve(apitypes.NamespacedName{Namespace: "tenant", Name: fmt.Sprint(i)}, pull.Request{Image: fmt.Sprintf("%s/slow:v%d", slow.Host(), i), PlainHTTP: true})
	}
	f.until("taking the tenant's slots", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.namespaces.Used["tenant"] == slotsPerNamespace
	})
	f.Resolve(apitypes.NamespacedName{Namespace: "tenant", Name: "waits"}, shared)
	f.until("waiting for a slot", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.entries[shared].parked
	})
	f.resolved(holder("has a slot"), shared)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.namespaces.Used["tenant"] != slotsPerNamespace {
		t.Error("it ran only when the tenant had a slot again")
	}
}

func TestWhatWaitsForASlotRunsInTheEnd(t *testing.T) {
	r := moduletest.StartRegistry(t)
	image := moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("many"))
	release := make(chan struct{})
	r.Inject(registry.Hold(release))
	f := startResolver(t, 16)
	reqs := make([]pull.Request, 50)
	for i := range reqs {
		reqs[i] = pull.Request{Image: moduletest.Push(t, r, fmt.Sprintf("filter-%d:v1", i), image), PlainHTTP: true}
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
	r := moduletest.StartRegistry(t)
	req := pull.Request{Image: moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("lost"))), PlainHTTP: true}
	f := startResolver(t, 4)
	m := f.resolved(holder("a"), req)
	f.lose(m.SHA256)
	if got := f.Resolve(holder("a"), req); !got.Pending() {
		t.Errorf("%+v", got)
	}
	f.resolved(holder("a"), req)
	if !f.store.Has(m.SHA256) {
		t.Error("not held")
	}
}

func TestARestartDownloadsNothing(t *testing.T) {
	r := moduletest.StartRegistry(t)
	req := pull.Request{Image: moduletest.Push(t, r, "filter:v1", registry.Index(moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("restart")))), PlainHTTP: true}
	f := startResolver(t, 4)
	before := f.resolved(holder("a"), req)
	r.ResetRequests()
	after := startResolverOn(t, f.dir, 4).resolved(holder("a"), req)
	if before.SHA256 != after.SHA256 || before.ManifestDigest != after.ManifestDigest {
		t.Errorf("%+v, then %+v", before, after)
	}
	moduletest.WantRequests(t, r, http.MethodHead, "", 1)
	moduletest.WantRequests(t, r, http.MethodGet, "", 1) // the ping
}

// The registry that is not verified claims the digest of an image that the
// verified one has, and the other way round.
func TestWhatIsNotProvedIsKeptApart(t *testing.T) {
	for name, c := range map[string]struct {
		options []registry.Option
		req     pull.Request
	}{
		"plain HTTP":                {nil, pull.Request{PlainHTTP: true}},
		"an unverified certificate": {[]registry.Option{registry.WithTLS()}, pull.Request{InsecureSkipVerify: true}},
	} {
		t.Run(name, func(t *testing.T) {
			r := moduletest.StartRegistry(t, c.options...)
			image := moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm(name))
			c.req.Image = moduletest.Push(t, r, "filter:v1", image)
			proved := r.Host() + "/filter@" + moduletest.DigestOf(t, image)
			f := startResolver(t, 4)
			content := moduletest.Wasm("proved")
			m, err := f.store.KeepContent(content, module.DefaultLimits)
			moduletest.Must(t, err)
			moduletest.Must(t, f.store.Remember(proved, m))
			if got := f.resolved(holder("a"), c.req); got.SHA256 == m.SHA256 {
				t.Error("what was proved is given to a request without proof")
			}
			if known, _ := f.store.Recall(proved); known.SHA256 != m.SHA256 {
				t.Error("what was not proved is remembered as proved")
			}
		})
	}
}

func TestTheChildOfAnIndexIsKnownByItsOwnDigest(t *testing.T) {
	r := moduletest.StartRegistry(t)
	image := moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("child"))
	f := startResolver(t, 4)
	f.resolved(holder("a"), pull.Request{Image: moduletest.Push(t, r, "filter:v1", registry.Index(image)), PlainHTTP: true})
	r.ResetRequests()
	pinned := r.Host() + "/filter@" + moduletest.DigestOf(t, image)
	if m := f.resolved(holder("b"), pull.Request{Image: pinned, PlainHTTP: true}); m.ManifestDigest != moduletest.DigestOf(t, image) {
		t.Errorf("%+v", m)
	}
	moduletest.WantRequests(t, r, http.MethodGet, "", 1) // the ping
}

func TestForgottenRequestsAreDropped(t *testing.T) {
	r := moduletest.StartRegistry(t)
	req := pull.Request{Image: moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("dropped"))), PlainHTTP: true}
	other := req
	other.Image = moduletest.Push(t, r, "filter:v2", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("other")))
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
	if e := f.failed(holder("a"), pull.Request{Image: "Not A Reference"}); e.Reason != wasmev1.ReasonInvalidSpec || !e.Terminal {
		t.Errorf("%+v", e)
	}
}

func TestARestartRemembersWhatTheAgentRefuses(t *testing.T) {
	r := moduletest.StartRegistry(t)
	req := pull.Request{Image: moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CNCFArtifact, moduletest.Wasm("remembered"))), PlainHTTP: true}
	f := startResolver(t, 1)
	before := f.resolved(holder("a"), req).AgentRefuses
	after := startResolverOn(t, f.dir, 1).resolved(holder("a"), req).AgentRefuses
	if before == "" || after != before {
		t.Errorf("%q, then %q", before, after)
	}
}

func TestResolveContentKeepsTheModule(t *testing.T) {
	wasm := moduletest.Wasm("content")
	f := startResolver(t, 1)
	got := f.ResolveContent(holder("a"), "configmap/filters/plugin.wasm", "version", wasm)
	if got.Err != nil {
		t.Fatal(got.Err)
	}
	m := got.Module
	if m.SHA256 != moduletest.SHA256(wasm) || m.SizeBytes != int64(len(wasm)) || !slices.Equal(m.ABIVersions, []string{"0.2.1"}) {
		t.Errorf("%+v", m)
	}
	if m.Reference != "configmap/filters/plugin.wasm" || m.ManifestDigest != "" || m.AgentRefuses != "" {
		t.Errorf("%+v", m)
	}
	f.store.Retain(holder("reads it"), m.SHA256)
	file, err := f.store.OpenRetained(m.SHA256)
	moduletest.Must(t, err)
	defer file.Close()
	if content, err := io.ReadAll(file); !bytes.Equal(content, wasm) {
		t.Errorf("the store holds %q, %v", content, err)
	}
}

func TestRecallContentKnowsAVersion(t *testing.T) {
	wasm := moduletest.Wasm("content")
	f := startResolver(t, 1)
	if got, found := f.RecallContent(holder("a"), "configmap/filters/plugin.wasm", "version"); found {
		t.Errorf("recalled %+v", got.Module)
	}
	kept := f.ResolveContent(holder("a"), "configmap/filters/plugin.wasm", "version", wasm)
	got, found := f.RecallContent(holder("a"), "configmap/filters/plugin.wasm", "version")
	if !found || !reflect.DeepEqual(got, kept) {
		t.Errorf("recalled %+v, not %+v", got.Module, kept.Module)
	}
	if _, found := f.RecallContent(holder("a"), "configmap/filters/plugin.wasm", "another version"); found {
		t.Error("recalled another version")
	}
}

func TestResolveContentForgetsTheOwnersRequest(t *testing.T) {
	r := moduletest.StartRegistry(t)
	wasm := moduletest.Wasm("moved")
	f := startResolver(t, 1)
	f.resolved(holder("a"), pull.Request{Image: moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CompatOCI, wasm)), PlainHTTP: true})
	if got := f.ResolveContent(holder("a"), "configmap/filters/plugin.wasm", "version", wasm); got.Err != nil {
		t.Fatal(got.Err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.entries) != 0 || len(f.requests) != 0 {
		t.Errorf("%d entries, %d owners", len(f.entries), len(f.requests))
	}
}

// resolverTest is a resolver with its store and a clock that stands still.
type resolverTest struct {
	*Resolver
	t     *testing.T
	dir   string
	clock *clocktesting.FakeClock
	wakes chan apitypes.NamespacedName
	// panics says whether the HTTP library panics at a request.
	panics atomic.Pointer[func() bool]
}

func startResolver(t *testing.T, workers int) *resolverTest {
	t.Helper()
	return startResolverOn(t, t.TempDir(), workers)
}

func startResolverOn(t *testing.T, dir string, workers int) *resolverTest {
	t.Helper()
	return startResolverWith(t, dir, workers, pull.Options{Limits: module.DefaultLimits})
}

func startResolverWith(t *testing.T, dir string, workers int, options pull.Options) *resolverTest {
	t.Helper()
	modules, err := store.Open(dir, store.DefaultBytes, clock.RealClock{})
	moduletest.Must(t, err)
	f := &resolverTest{t: t, dir: dir, clock: clocktesting.NewFakeClock(time.Now()), wakes: make(chan apitypes.NamespacedName, 1000)}
	f.Resolver = New(modules, pull.NewClient(options), Options{
		PollInterval: pollInterval,
		Workers:      workers,
		Wake:         func(owner apitypes.NamespacedName) { f.wakes <- owner },
		Clock:        f.clock,
	})
	ctx, cancel := context.WithCancel(httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{GetConn: f.panicAtRequest}))
	stopped := make(chan error)
	go func() { stopped <- f.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		moduletest.Must(t, <-stopped)
	})
	return f
}

// panicIf makes the HTTP library panic at each request for which the condition holds.
func (f *resolverTest) panicIf(condition func() bool) {
	if condition == nil {
		condition = func() bool { return false }
	}
	f.panics.Store(&condition)
}

func (f *resolverTest) panicAtRequest(string) {
	if condition := f.panics.Load(); condition != nil && (*condition)() {
		panic("a header that nobody expected")
	}
}

// lose has the store lose a module, as when someone removes its file.
func (f *resolverTest) lose(sha256 string) {
	f.t.Helper()
	moduletest.Must(f.t, os.Remove(filepath.Join(f.dir, "modules", sha256+".wasm")))
	f.store.Retain(holder("reads it"), sha256)
	if _, err := f.store.OpenRetained(sha256); !errors.Is(err, store.ErrNotHere) {
		f.t.Fatalf("it is still there: %v", err)
	}
}

// resolved resolves, waiting to be woken while the request is pending.
func (f *resolverTest) resolved(owner apitypes.NamespacedName, req pull.Request) *module.Module {
	f.t.Helper()
	result := f.settle(owner, req)
	if result.Err != nil {
		f.t.Fatalf("%s: %s", result.Err.Reason, result.Err.Message)
	}
	return result.Module
}

func (f *resolverTest) failed(owner apitypes.NamespacedName, req pull.Request) *module.Error {
	f.t.Helper()
	result := f.settle(owner, req)
	if result.Err == nil {
		f.t.Fatalf("resolved: %+v", result.Module)
	}
	return result.Err
}

func (f *resolverTest) settle(owner apitypes.NamespacedName, req pull.Request) Result {
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
func (f *resolverTest) settled(req pull.Request) {
	f.t.Helper()
	f.until("settling", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		e := f.entries[req]
		waits := e.planned && !e.notBefore.After(f.clock.Now())
		return !waits && len(f.hosts.Used) == 0
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
	moduletest.Must(t, r.Up())
}
