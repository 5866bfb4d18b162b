package resolve

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

func TestARegistryThatLimitsRequestsIsLeftAlone(t *testing.T) {
	r := moduletest.StartRegistry(t)
	req := func(name string) pull.Request {
		return pull.Request{Image: moduletest.Push(t, r, name+":v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm(name))), PlainHTTP: true}
	}
	good, first, second, other := req("good"), req("first"), req("second"), req("other")
	other.Credential = annSecret
	f := startResolver(t, 4)
	kept := f.resolved(holder("good"), good)
	r.Inject(registry.Limit("600"))
	until := f.clock.Now().Add(10 * time.Minute)

	e := f.failed(holder("first"), first)
	told, found := strings.CutPrefix(e.Message, r.Host()+" limits requests (status 429): it is asked again at ")
	at, err := time.Parse(time.RFC3339, told)
	if !found || err != nil || at.Before(until.Truncate(time.Second)) || at.After(until.Add(2*time.Minute)) || e.Reason != wasmev1.ReasonRegistryUnavailable {
		t.Fatalf("%s: %s, at %s", e.Reason, e.Message, at)
	}
	r.ResetRequests()
	if also := f.failed(holder("second"), second); *also != *e {
		t.Errorf("another image of the registry: %+v", also)
	}
	f.clock.Step(pollInterval - time.Second)
	if f.Resolve(holder("good"), good).Module != kept {
		t.Error("what was good is gone")
	}
	f.settled(good)
	moduletest.WantRequests(t, r, "", "", 0)
	if _ = f.failed(holder("other"), other); r.Requests("", "") == 0 {
		t.Error("another credential is not asked for")
	}

	r.Heal()
	r.ResetRequests()
	f.drain()
	f.clock.SetTime(at.Add(time.Second))
	f.woken(holder("first"), holder("second"))
	if f.Resolve(holder("first"), first).Module == nil || f.Resolve(holder("second"), second).Module == nil {
		t.Error("not resolved when the time had come")
	}
}

func TestARegistryThatLimitsRequestsAgainSaysTheNewTime(t *testing.T) {
	r := moduletest.StartRegistry(t)
	req := pull.Request{Image: r.Host() + "/filter:v1", PlainHTTP: true}
	r.Inject(registry.Limit("600"))
	f := startResolver(t, 4)
	before := f.failed(holder("a"), req)
	f.stepUntilWoken(time.Minute, holder("a"))
	if after := f.failed(holder("a"), req); after.Message == before.Message || !strings.Contains(after.Message, "it is asked again at ") {
		t.Errorf("first %q, then %q", before.Message, after.Message)
	}
}

// Many images of a registry that is down cost it one request at a time, and one each
// when it is back.
func TestManyImagesDoNotHammerARegistry(t *testing.T) {
	const images = 100
	r := moduletest.StartRegistry(t)
	f := startResolver(t, DefaultWorkers)
	r.Inject(registry.Status(http.StatusInternalServerError))
	requests := make([]pull.Request, images)
	for i := range requests {
		name := fmt.Sprint("filter-", i)
		requests[i] = pull.Request{Image: moduletest.Push(t, r, name+":v1", moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm(name))), PlainHTTP: true}
		owner := holder(name)
		owner.Namespace = name
		if e := f.failed(owner, requests[i]); e.Reason != wasmev1.ReasonRegistryUnavailable {
			t.Fatalf("%s: %s", e.Reason, e.Message)
		}
	}
	if asked := r.Requests(http.MethodGet, "/v2/"); asked > openAfter {
		t.Errorf("%d images of a registry that is down: %d requests", images, asked)
	}
	r.ResetRequests()
	for range 60 { // an hour
		f.clock.Step(time.Minute)
		f.quiet()
	}
	if asked := r.Requests(http.MethodGet, "/v2/"); asked < 5 || asked > 20 {
		t.Errorf("%d requests in an hour", asked)
	}

	probing, release := make(chan struct{}, images), make(chan struct{})
	r.Inject(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			probing <- struct{}{}
			registry.Hold(release)(next).ServeHTTP(w, req)
		})
	})
	f.until("a probe", func() bool { f.clock.Step(time.Minute); return len(probing) > 0 })
	f.until("the others waiting for it", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, waiting := range f.probes.Waiting {
			return waiting.Len() > images/2
		}
		return false
	})
	if len(probing) != 1 {
		t.Errorf("%d requests before the first is answered", len(probing))
	}
	r.ResetRequests()
	r.Heal()
	close(release)
	f.until("recovery", func() bool {
		f.clock.Step(time.Minute)
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, req := range requests {
			if f.entries[req].result.Module == nil {
				return false
			}
		}
		return true
	})
	moduletest.WantRequests(t, r, http.MethodHead, "", images)
}

func TestAPreloadedImageWaitsForNoRegistry(t *testing.T) {
	const host = "127.0.0.1:1" // refuses connections
	dir := t.TempDir()
	images, err := layout.Write(dir, empty.Index)
	moduletest.Must(t, err)
	image := moduletest.FormOf(t, registry.CompatOCI, moduletest.Wasm("preloaded"))
	moduletest.Must(t, images.AppendImage(image, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": host + "/preloaded:v1"})))
	preloaded, err := pull.OpenPreloaded(dir)
	moduletest.Must(t, err)
	f := startResolverWith(t, t.TempDir(), 4, pull.Options{Preloaded: preloaded, Limits: module.DefaultLimits})
	missing := pull.Request{Image: host + "/missing:v1"}
	_ = f.failed(holder("missing"), missing)
	open := func() *circuit {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.circuits.open(wayOf(missing, host))
	}
	f.until("the registry failing again and again", func() bool { f.clock.Step(time.Second); return open() != nil })

	before := open()
	f.resolved(holder("preloaded"), pull.Request{Image: host + "/preloaded:v1"})
	if open() != before {
		t.Error("a preloaded image counts as an answer of the registry, or as a failure")
	}
}

func TestWhatOpensACircuit(t *testing.T) {
	unavailable := module.Temporary(wasmev1.ReasonRegistryUnavailable, "")
	limited := &module.Error{Reason: wasmev1.ReasonRegistryUnavailable, RetryAfter: time.Second}
	image, url := pull.Request{Image: "host/a:v1"}, pull.Request{URL: "https://host/a"}
	for name, c := range map[string]struct {
		req      pull.Request
		found    outcome
		failures int
		open     bool
	}{
		"some failures":         {image, outcome{err: unavailable}, openAfter - 1, false},
		"many failures":         {image, outcome{err: unavailable}, openAfter, true},
		"one limit":             {image, outcome{err: limited}, 1, true},
		"a limit during a pull": {image, outcome{err: limited, image: "host/a@sha256:1"}, 1, true},
		"pulls that fail":       {image, outcome{err: unavailable, image: "host/a@sha256:1"}, 100, false},
		"denials":               {image, outcome{err: module.Temporary(wasmev1.ReasonUnauthorized, "")}, 100, false},
		"URLs that fail":        {url, outcome{err: unavailable}, 100, false},
		"a URL's limit":         {url, outcome{err: limited}, 1, true},
		"successes":             {image, outcome{module: &module.Module{}}, 100, false},
	} {
		t.Run(name, func(t *testing.T) {
			circuits := newCircuits()
			j := (&entry{req: c.req}).job()
			for range c.failures {
				_ = circuits.record(j, c.found, time.Now())
			}
			if open := circuits.open(j.way); (open != nil) != c.open {
				t.Errorf("%+v", open)
			}
			_ = circuits.record(j, outcome{module: &module.Module{}}, time.Now())
			if circuits.failed.Len() != 0 {
				t.Error("an answer is not the end of it")
			}
		})
	}
}

func TestCircuitsAreBounded(t *testing.T) {
	circuits := newCircuits()
	for i := range 2 * maxCircuits {
		j := (&entry{req: pull.Request{Image: fmt.Sprintf("host-%d.example.com/a:v1", i)}}).job()
		_ = circuits.record(j, outcome{err: module.Temporary(wasmev1.ReasonRegistryUnavailable, "")}, time.Now())
	}
	if kept := circuits.failed.Len(); kept != maxCircuits {
		t.Errorf("%d are kept", kept)
	}
}

func TestAWayIsAHostAndHowItIsReached(t *testing.T) {
	way := func(req pull.Request) way { return (&entry{req: req}).job().way }
	base := pull.Request{Image: "ghcr.io/a/b:v1"}
	if way(base) != way(pull.Request{Image: "ghcr.io/other:v2"}) {
		t.Error("images of one registry have ways of their own")
	}
	for name, req := range map[string]pull.Request{
		"host":        {Image: "quay.io/a/b:v1"},
		"credential":  {Image: base.Image, Credential: annSecret},
		"plain HTTP":  {Image: base.Image, PlainHTTP: true},
		"unverified":  {Image: base.Image, InsecureSkipVerify: true},
		"authorities": {Image: base.Image, CACertificates: "PEM"},
	} {
		if way(req) == way(base) {
			t.Errorf("another %s is the same way", name)
		}
	}
}

// quiet waits until no work is under way or due.
func (f *resolverTest) quiet() {
	f.t.Helper()
	f.until("quiet", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.hosts.Used) > 0 {
			return false
		}
		for _, e := range f.entries {
			if e.planned && !e.notBefore.After(f.clock.Now()) {
				return false
			}
		}
		return true
	})
}
