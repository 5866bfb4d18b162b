package module

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apitypes "k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/registry"
)

func TestFetchesAModule(t *testing.T) {
	wasm := testModule("at a URL")
	for name, options := range map[string][]registry.Option{"http": nil, "https": {registry.WithTLS()}} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t, options...)
			req := Request{URL: r.PutFile("/a/filter.wasm", wasm) + "?key=1", SHA256: sumOf(string(wasm))}
			m, err := fetch(t, trusting(r, PullerOptions{Limits: DefaultLimits}), req)
			must(t, err)
			if m.SHA256 != req.SHA256 || m.SizeBytes != int64(len(wasm)) || !slices.Equal(m.ABIVersions, []string{"0.2.1"}) {
				t.Errorf("%+v", m)
			}
			if m.Reference != req.URL || m.ManifestDigest != "" || m.RootIDs != nil || m.AgentRefuses != "" {
				t.Errorf("%+v", m)
			}
		})
	}
}

func TestRefusesWhatAURLGives(t *testing.T) {
	wasm := testModule("at a URL")
	sum := sumOf(string(wasm))
	other, text, foreign := testModule("another"), "<!DOCTYPE html><p>"+registry.SecretBody, wasmModule(export("_start"))
	send := func(content []byte) registry.Fault {
		return answer("/filter.wasm", func(w http.ResponseWriter) { _, _ = w.Write(content) })
	}
	for name, c := range map[string]struct {
		fault           registry.Fault
		sum             string
		reason, message string
		terminal        bool
	}{
		"404":                  {registry.Status(404), sum, wasmev1.ReasonImageNotFound, "does not have it (status 404): mend the URL", false},
		"410":                  {registry.Status(410), sum, wasmev1.ReasonImageNotFound, "does not have it (status 410)", false},
		"401":                  {registry.Status(401), sum, wasmev1.ReasonUnauthorized, "without a credential", false},
		"403":                  {registry.Status(403), sum, wasmev1.ReasonUnauthorized, "without a credential", false},
		"429":                  {registry.Status(429), sum, wasmev1.ReasonRegistryUnavailable, "status 429", false},
		"500":                  {registry.Status(500), sum, wasmev1.ReasonRegistryUnavailable, "status 500", false},
		"204":                  {answer("/filter.wasm", func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) }), sum, wasmev1.ReasonRegistryUnavailable, "status 204", false},
		"a part":               {answer("/filter.wasm", func(w http.ResponseWriter) { w.WriteHeader(http.StatusPartialContent); _, _ = w.Write(wasm) }), sum, wasmev1.ReasonRegistryUnavailable, "status 206", false},
		"a redirect to nought": {answer("/filter.wasm", func(w http.ResponseWriter) { w.WriteHeader(http.StatusFound) }), sum, wasmev1.ReasonRegistryUnavailable, "status 302", false},
		"no web server":        {answer("/filter.wasm", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }), sum, wasmev1.ReasonRegistryUnavailable, "does not answer as a web server does", false},
		"another module":       {send(other), sum, wasmev1.ReasonDigestMismatch, "a module with the digest " + sumOf(string(other)) + ": mend spec.filter.sha256", true},
		"a page in HTML":       {send([]byte(text)), sum, wasmev1.ReasonDigestMismatch, "something else than a Wasm module", false},
		"nothing":              {send(nil), sum, wasmev1.ReasonDigestMismatch, "something else than a Wasm module", false},
		"the half of it":       {send(wasm[:len(wasm)/2]), sum, wasmev1.ReasonDigestMismatch, "a module with the digest ", true},
		"cut off":              {answer("/filter.wasm", func(w http.ResponseWriter) { w.Header().Set("Content-Length", "100000"); _, _ = w.Write(wasm) }), sum, wasmev1.ReasonRegistryUnavailable, "the connection broke", false},
		"a page that is meant": {send([]byte(text)), sumOf(text), wasmev1.ReasonInvalidModule, "does not begin with \\0asm", true},
		"not for proxies":      {send(foreign), sumOf(string(foreign)), wasmev1.ReasonInvalidModule, "build it for proxy-wasm", true},
		"a component":          {send(componentPreamble), sumOf(string(componentPreamble)), wasmev1.ReasonInvalidModule, "component", true},
		"packed with gzip":     {send(gzipped(wasm)), sumOf(string(gzipped(wasm))), wasmev1.ReasonInvalidModule, "does not begin with \\0asm", true},
		"endless":              {answer("/filter.wasm", endless), sum, wasmev1.ReasonTooLarge, "--max-module-bytes", true},
		"endless when packed":  {answer("/filter.wasm", packed(bomb(gzipped, wasm, make([]byte, 10<<20)))), sum, wasmev1.ReasonRegistryUnavailable, "(Content-Encoding)", false},
		"packed on the way":    {answer("/filter.wasm", packed(gzipped(wasm))), sum, wasmev1.ReasonRegistryUnavailable, "serve it as it is", false},
		"a redirect loop":      {redirectTo(func(req *http.Request) string { return req.URL.Path }), sum, wasmev1.ReasonRegistryUnavailable, "more than 5 redirects", false},
		"a file of its disk":   {redirectTo(func(*http.Request) string { return "file:///etc/passwd" }), sum, wasmev1.ReasonRegistryUnavailable, "does not answer as a web server does", false},
		"other people's key":   {redirectTo(func(req *http.Request) string { return "http://ann:secret@" + req.Host + "/" }), sum, wasmev1.ReasonRegistryForbidden, "user and password", true},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t)
			url := r.PutFile("/filter.wasm", wasm)
			r.Inject(c.fault)
			_, err := fetch(t, NewPuller(PullerOptions{Limits: Limits{ModuleBytes: 1 << 20}}), Request{URL: url + "?token=hidden", SHA256: c.sum})
			wantError(t, err, c.reason, c.message)
			if e := asError(err); e != nil && e.Terminal != c.terminal {
				t.Errorf("terminal: %v", e.Terminal)
			}
			for _, secret := range []string{registry.SecretBody, "hidden", sumOf(text)} {
				if err != nil && strings.Contains(err.Error(), secret) {
					t.Errorf("the message holds %s: %v", secret, err)
				}
			}
		})
	}
}

func packed(content []byte) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(content) // the client may refuse it
	}
}

func TestAModuleThatSaysItIsTooLargeIsNotRead(t *testing.T) {
	r := startRegistry(t)
	url := r.PutFile("/filter.wasm", nil)
	sent := make(chan int, 1)
	r.Inject(answer("/filter.wasm", func(w http.ResponseWriter) {
		w.Header().Set("Content-Length", strconv.Itoa(1<<40))
		bytes := 0
		for chunk := make([]byte, 64<<10); ; bytes += len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				sent <- bytes
				return
			}
		}
	}))
	_, err := fetch(t, NewPuller(PullerOptions{Limits: DefaultLimits}), Request{URL: url, SHA256: sumOf("")})
	wantError(t, err, wasmev1.ReasonTooLarge, "--max-module-bytes")
	select {
	case bytes := <-sent:
		// What is in the buffers of the connection.
		if bytes > 16<<20 {
			t.Errorf("%d bytes are read", bytes)
		}
	case <-time.After(patience):
		t.Error("the connection stays open")
	}
}

func TestSlowServers(t *testing.T) {
	wasm := testModule("slow")
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	for name, c := range map[string]struct {
		fault  registry.Fault
		header time.Duration
	}{
		"before the header": {registry.Hold(release), 50 * time.Millisecond},
		"in the body":       {startThenHold(wasm[:8]), headTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t)
			url := r.PutFile("/filter.wasm", wasm)
			r.Inject(c.fault)
			p := NewPuller(PullerOptions{Limits: DefaultLimits})
			transport := p.web.Transport.(*http.Transport)
			if transport.ResponseHeaderTimeout != headTimeout {
				t.Errorf("it waits %v for a header", transport.ResponseHeaderTimeout)
			}
			transport.ResponseHeaderTimeout = c.header
			total := 2 * time.Second
			if c.header == headTimeout {
				total = 200 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), total)
			defer cancel()
			_, err := fetchWithin(ctx, t, p, Request{URL: url, SHA256: sumOf(string(wasm))})
			wantError(t, err, wasmev1.ReasonRegistryUnavailable, "it does not answer in time")
			if c.header != headTimeout && ctx.Err() != nil {
				t.Error("it waited until all of its time was over")
			}
		})
	}
}

// startThenHold sends some bytes and then nothing more until the client goes away.
func startThenHold(start []byte) registry.Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			_, err := w.Write(start)
			ok(err)
			ok(http.NewResponseController(w).Flush())
			<-req.Context().Done()
		})
	}
}

func TestRedirectsOfURLs(t *testing.T) {
	wasm := testModule("redirected")
	sum := sumOf(string(wasm))
	var sent http.Header
	plain, secure := startRegistry(t), startRegistry(t, registry.WithTLS())
	for _, r := range []*registry.Registry{plain, secure} {
		r.PutFile("/filter.wasm", wasm)
		r.Inject(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				sent = req.Header.Clone()
				next.ServeHTTP(w, req)
			})
		})
	}
	for name, c := range map[string]struct {
		options []registry.Option
		to      string
		message string
	}{
		"http to http":   {nil, named(plain.URL()), ""},
		"http to https":  {nil, secure.URL(), ""},
		"https to https": {[]registry.Option{registry.WithTLS()}, secure.URL(), ""},
		"https to http":  {[]registry.Option{registry.WithTLS()}, named(plain.URL()), "redirects from https to another scheme"},
	} {
		t.Run(name, func(t *testing.T) {
			from := startRegistry(t, c.options...)
			url := from.PutFile("/filter.wasm", nil)
			from.Inject(redirectTo(func(*http.Request) string { return c.to + "/filter.wasm" }))
			sent = nil
			_, err := fetch(t, trusting(from, PullerOptions{Limits: DefaultLimits}, secure), Request{URL: url + "?token=hidden", SHA256: sum})
			wantError(t, err, wasmev1.ReasonRegistryForbidden, c.message)
			if (err == nil) != (sent != nil) {
				t.Errorf("sent %v, %v", sent, err)
			}
			for _, key := range []string{"Authorization", "Referer", "Cookie"} {
				if sent.Get(key) != "" {
					t.Errorf("%s is sent: %s", key, sent.Get(key))
				}
			}
		})
	}
}

func TestFiveRedirectsAreTheMost(t *testing.T) {
	wasm := testModule("far away")
	r := startRegistry(t)
	r.PutFile("/0", wasm)
	r.Inject(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			left, err := strconv.Atoi(path.Base(req.URL.Path))
			ok(err)
			if left > 0 {
				http.Redirect(w, req, fmt.Sprint("/", left-1), http.StatusFound)
				return
			}
			next.ServeHTTP(w, req)
		})
	})
	for redirects, message := range map[int]string{5: "", 6: "more than 5 redirects"} {
		_, err := fetch(t, NewPuller(PullerOptions{Limits: DefaultLimits}), Request{URL: fmt.Sprint(r.URL(), "/", redirects), SHA256: sumOf(string(wasm))})
		wantError(t, err, wasmev1.ReasonRegistryUnavailable, message)
	}
}

func TestDeniedNetworksOfURLs(t *testing.T) {
	inside := startRegistry(t)
	inside.PutFile("/filter.wasm", testModule("inside"))
	front := startRegistry(t)
	front.PutFile("/filter.wasm", nil)
	outside := "http://" + outsideLoopback(t)(front)
	for name, c := range map[string]struct{ url, redirect string }{
		"by address":             {inside.URL(), ""},
		"by name":                {named(inside.URL()), ""},
		"by a mapped address":    {strings.Replace(inside.URL(), "127.0.0.1", "[::ffff:127.0.0.1]", 1), ""},
		"redirect to an address": {outside, inside.URL()},
		"redirect to a name":     {outside, named(inside.URL())},
	} {
		t.Run(name, func(t *testing.T) {
			front.Inject(redirectTo(func(*http.Request) string { return c.redirect + "/filter.wasm" }))
			_, err := fetch(t, NewPuller(PullerOptions{DeniedNetworks: DefaultDeniedNetworks, Limits: DefaultLimits}), Request{URL: c.url + "/filter.wasm", SHA256: sumOf("")})
			wantError(t, err, wasmev1.ReasonRegistryForbidden, "--denied-networks")
		})
	}
	wantRequests(t, inside, "", "", 0)
	wantRequests(t, front, "", "", 2)
}

func TestCertificatesOfURLs(t *testing.T) {
	plain, secure := startRegistry(t), startRegistry(t, registry.WithTLS())
	for url, message := range map[string]string{
		secure.URL(): "its certificate is not trusted: give it one of a known authority",
		strings.Replace(plain.URL(), "http", "https", 1): "speaks plain HTTP: begin the URL with http://",
	} {
		_, err := fetch(t, NewPuller(PullerOptions{Limits: DefaultLimits}), Request{URL: url + "/filter.wasm", SHA256: sumOf("")})
		wantError(t, err, wasmev1.ReasonRegistryUnavailable, message)
		if strings.Contains(err.Error(), "imagePullOptions") {
			t.Errorf("a cure that a URL does not have: %v", err)
		}
	}
	wantRequests(t, plain, "", "", 0)
}

func TestAStoreThatIsFullTakesNoURL(t *testing.T) {
	wasm := testModule("no room")
	r := startRegistry(t)
	store := openStore(t, t.TempDir(), int64(len(wasm))-1)
	from, err := NewPuller(PullerOptions{Limits: DefaultLimits}).openURL(Request{URL: r.PutFile("/filter.wasm", wasm), SHA256: sumOf(string(wasm))})
	must(t, err)
	_, err = from.fetch(t.Context(), store)
	wantError(t, err, wasmev1.ReasonStoreUnavailable, "--module-store is full")
	wantFiles(t, store.dir)
}

func TestWhichURLsAreAllowed(t *testing.T) {
	p := NewPuller(PullerOptions{AllowedRegistries: []string{"example.com", "files.example.com:8443"}, Limits: DefaultLimits})
	for url, c := range map[string]struct{ reason, message string }{
		"https://example.com/filter.wasm":           {},
		"https://EXAMPLE.com:443/filter.wasm?a=b#c": {},
		"http://example.com:80/filter.wasm":         {},
		"https://files.example.com:8443/":           {},
		"https://files.example.com/":                {wasmev1.ReasonRegistryForbidden, "spec.filter.url: the operator's --allowed-registries does not list files.example.com"},
		"https://example.com:8443/":                 {wasmev1.ReasonRegistryForbidden, "--allowed-registries"},
		"http://example.com:8080/":                  {wasmev1.ReasonRegistryForbidden, "--allowed-registries"},
		"https://example.com.evil.example/":         {wasmev1.ReasonRegistryForbidden, "--allowed-registries"},
		"https://example.com@evil.example/":         {wasmev1.ReasonInvalidSpec, "without user and password"},
		"https://ann:secret@example.com/":           {wasmev1.ReasonInvalidSpec, "without user and password"},
		`https://evil.example\@example.com/`:        {wasmev1.ReasonInvalidSpec, "spec.filter.url"},
		"":                                          {wasmev1.ReasonInvalidSpec, "spec.filter.url"},
		"https://":                                  {wasmev1.ReasonInvalidSpec, "spec.filter.url"},
		"https:///filter.wasm":                      {wasmev1.ReasonInvalidSpec, "spec.filter.url"},
		"https://:443/filter.wasm":                  {wasmev1.ReasonInvalidSpec, "spec.filter.url"},
		"example.com/filter.wasm":                   {wasmev1.ReasonInvalidSpec, "spec.filter.url"},
		"file:///etc/passwd":                        {wasmev1.ReasonInvalidSpec, "spec.filter.url"},
		"oci://example.com/filter":                  {wasmev1.ReasonInvalidSpec, "spec.filter.url"},
		"https://example.com/\x00":                  {wasmev1.ReasonInvalidSpec, "spec.filter.url"},
	} {
		_, err := p.openURL(Request{URL: url, SHA256: sumOf("")})
		wantError(t, err, c.reason, c.message)
	}
	for _, sum := range []string{"", "abc", strings.ToUpper(sumOf("x")), "sha256:" + sumOf("x"), sumOf("x") + "\n"} {
		_, err := p.openURL(Request{URL: "https://example.com/", SHA256: sum})
		wantError(t, err, wasmev1.ReasonInvalidSpec, "spec.filter.sha256")
	}
}

func FuzzURL(f *testing.F) {
	for _, seed := range []string{"https://example.com/a?b#c", "http://example.com:80", "https://example.com:443@x/", "https://[::1%25eth0]:80/", `https://a\b/`, "HTTPS://EXAMPLE.COM./"} {
		f.Add(seed)
	}
	p := NewPuller(PullerOptions{AllowedRegistries: []string{"example.com"}, Limits: DefaultLimits})
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := p.openURL(Request{URL: text, SHA256: sumOf("")}); err != nil {
			if asError(err) == nil {
				t.Errorf("not classified: %v", err)
			}
			return
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, text, http.NoBody)
		must(t, err)
		if !strings.EqualFold(req.URL.Hostname(), "example.com") || req.URL.User != nil {
			t.Errorf("%q leads to %s", text, req.URL.Redacted())
		}
	})
}

func TestAHundredOwnersOfAURLShareOneFetch(t *testing.T) {
	wasm := testModule("shared")
	r := startRegistry(t)
	req := Request{URL: r.PutFile("/filter.wasm", wasm), SHA256: sumOf(string(wasm))}
	f := startResolver(t, DefaultWorkers)
	owners := make([]apitypes.NamespacedName, 100)
	for i := range owners {
		owners[i] = apitypes.NamespacedName{Namespace: fmt.Sprint("tenant-", i%7), Name: fmt.Sprint(i)}
		f.Resolve(owners[i], req)
	}
	f.until("resolving", func() bool {
		return !slices.ContainsFunc(owners, func(owner apitypes.NamespacedName) bool { return f.Resolve(owner, req).Module == nil })
	})
	wantRequests(t, r, http.MethodGet, "/filter.wasm", 1)
	wantRequests(t, r, "", "", 1)
}

// What a URL gave can be told from its digest: it is asked once, over restarts
// and a server that is gone.
func TestAURLIsNotPolled(t *testing.T) {
	wasm := testModule("once")
	r := startRegistry(t)
	req := Request{URL: r.PutFile("/filter.wasm", wasm), SHA256: sumOf(string(wasm))}
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
	if m := startResolverOn(t, f.store.dir, 4).resolved(holder("a"), req); m.SHA256 != req.SHA256 || m.Reference != req.URL {
		t.Errorf("%+v", m)
	}
	wantRequests(t, r, "", "", 0)
}

func TestKnowingADigestGivesNothing(t *testing.T) {
	wasm := testModule("known")
	r := startRegistry(t)
	f := startResolver(t, 4)
	m := f.resolved(holder("victim"), Request{Image: push(t, r, "filter:v1", formOf(t, registry.CompatOCI, wasm)), PlainHTTP: true})
	f.resolved(holder("victim-2"), Request{URL: r.PutFile("/filter.wasm", wasm), SHA256: m.SHA256})

	for _, path := range []string{"/other.wasm", "/filter.wasm/", "/v2/"} {
		e := f.failed(holder("thief"), Request{URL: r.URL() + path, SHA256: m.SHA256})
		if e.Reason != wasmev1.ReasonImageNotFound && e.Reason != wasmev1.ReasonDigestMismatch {
			t.Errorf("%s: %s: %s", path, e.Reason, e.Message)
		}
	}
}

func TestWhatIsNotAllowedAnyMoreIsNotRemembered(t *testing.T) {
	wasm := testModule("allowed")
	r := startRegistry(t)
	req := Request{URL: r.PutFile("/filter.wasm", wasm), SHA256: sumOf(string(wasm))}
	dir := startResolver(t, 4)
	dir.resolved(holder("a"), req)
	f := startResolverOn(t, dir.store.dir, 4)
	f.puller.options.AllowedRegistries = []string{"ghcr.io"}
	if e := f.failed(holder("a"), req); e.Reason != wasmev1.ReasonRegistryForbidden {
		t.Errorf("%s: %s", e.Reason, e.Message)
	}
}

func TestAURLRecoversByItself(t *testing.T) {
	wasm := testModule("recovers")
	wrong := func(t *testing.T, r *registry.Registry) {
		t.Helper()
		r.PutFile("/filter.wasm", testModule("wrong"))
	}
	right := func(t *testing.T, r *registry.Registry) {
		t.Helper()
		r.PutFile("/filter.wasm", wasm)
	}
	for name, c := range map[string]struct {
		breakIt, mend func(*testing.T, *registry.Registry)
		reason        string
		step          time.Duration
	}{
		"server down":    {down, up, wasmev1.ReasonRegistryUnavailable, time.Second},
		"status 500":     {inject(registry.Status(500)), heal, wasmev1.ReasonRegistryUnavailable, time.Second},
		"not there yet":  {inject(registry.Status(404)), heal, wasmev1.ReasonImageNotFound, time.Second},
		"another module": {wrong, right, wasmev1.ReasonDigestMismatch, pollInterval / 10},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRegistry(t)
			req := Request{URL: r.PutFile("/filter.wasm", wasm), SHA256: sumOf(string(wasm))}
			c.breakIt(t, r)
			f := startResolver(t, 4)
			if e := f.failed(holder("a"), req); e.Reason != c.reason {
				t.Errorf("%s: %s", e.Reason, e.Message)
			}
			c.mend(t, r)
			f.stepUntilWoken(c.step, holder("a"))
			if f.Resolve(holder("a"), req).Module == nil {
				t.Error("no module")
			}
		})
	}
}

func TestABrokenModuleWithTheRightDigestIsFetchedOnce(t *testing.T) {
	broken := wasmModule(export("_start"))
	r := startRegistry(t)
	req := Request{URL: r.PutFile("/filter.wasm", broken), SHA256: sumOf(string(broken))}
	f := startResolver(t, 4)
	for range 3 {
		if e := f.failed(holder("a"), req); e.Reason != wasmev1.ReasonInvalidModule || !e.Terminal {
			t.Fatalf("%+v", e)
		}
		f.clock.Step(10 * pollInterval)
		f.settled(req)
	}
	wantRequests(t, r, "", "", 1)
}

func TestAModuleOfAURLThatTheStoreLostIsFetchedAgain(t *testing.T) {
	wasm := testModule("lost")
	r := startRegistry(t)
	req := Request{URL: r.PutFile("/filter.wasm", wasm), SHA256: sumOf(string(wasm))}
	f := startResolver(t, 4)
	f.resolved(holder("a"), req)
	f.store.mu.Lock()
	f.store.drop(req.SHA256)
	f.store.mu.Unlock()
	if got := f.Resolve(holder("a"), req); !got.Pending() {
		t.Errorf("%+v", got)
	}
	f.resolved(holder("a"), req)
	wantRequests(t, r, http.MethodGet, "/filter.wasm", 2)
}

func TestURLsKeepToTheSlotsOfTheirNamespaceAndHost(t *testing.T) {
	const urls = 24
	for name, c := range map[string]struct{ namespaces, most int }{
		"one namespace":    {1, slotsPerNamespace},
		"two namespaces":   {2, 2 * slotsPerNamespace},
		"three namespaces": {3, slotsPerHost},
	} {
		t.Run(name, func(t *testing.T) {
			wasm := testModule(name)
			r := startRegistry(t)
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
			reqs := make([]Request, urls)
			for i := range reqs {
				reqs[i] = Request{URL: r.PutFile(fmt.Sprint("/", i), wasm), SHA256: sumOf(string(wasm))}
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
	f.puller.web.Transport = roundTripper(func(*http.Request) (*http.Response, error) { panic("a header that nobody expected") })
	req := Request{URL: "https://example.com/filter.wasm?token=hidden", SHA256: sumOf("")}
	e := f.failed(holder("a"), req)
	if !contains(e.Message, "the operator fails on it") || contains(e.Message, "hidden") {
		t.Errorf("%s: %s", e.Reason, e.Message)
	}
	f.settled(req)
}

func TestBadURLsFailWithoutAServer(t *testing.T) {
	f := startResolver(t, 4)
	if e := f.failed(holder("a"), Request{URL: "ftp://example.com/", SHA256: sumOf("")}); e.Reason != wasmev1.ReasonInvalidSpec || !e.Terminal {
		t.Errorf("%+v", e)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return r(req) }

// fetch fetches as the resolver does, into a store of its own, and checks that
// a failure leaves nothing there.
func fetch(t *testing.T, p *Puller, req Request) (Module, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return fetchWithin(ctx, t, p, req)
}

func fetchWithin(ctx context.Context, t *testing.T, p *Puller, req Request) (Module, error) {
	t.Helper()
	store := openStore(t, t.TempDir(), DefaultStoreBytes)
	from, err := p.openURL(req)
	must(t, err)
	m, err := from.fetch(ctx, store)
	if err == nil {
		wantFiles(t, store.dir, "modules/"+m.SHA256+".wasm")
		return m, nil
	}
	wantFiles(t, store.dir)
	if store.bytes != 0 {
		t.Errorf("%d bytes are still counted", store.bytes)
	}
	return m, err
}

// trusting returns a Puller that trusts the certificates of these registries.
func trusting(r *registry.Registry, opts PullerOptions, more ...*registry.Registry) *Puller {
	pool := x509.NewCertPool()
	for _, r := range append(more, r) {
		if cert := r.Certificate(); cert != nil {
			pool.AddCert(cert)
		}
	}
	p := NewPuller(opts)
	p.web.Transport.(*http.Transport).TLSClientConfig.RootCAs = pool
	return p
}
