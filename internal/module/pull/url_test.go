package pull

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

func TestFetchesAModule(t *testing.T) {
	wasm := moduletest.Wasm("at a URL")
	for name, options := range map[string][]registry.Option{"http": nil, "https": {registry.WithTLS()}} {
		t.Run(name, func(t *testing.T) {
			r := moduletest.StartRegistry(t, options...)
			req := Request{URL: r.PutFile("/a/filter.wasm", wasm) + "?key=1", SHA256: moduletest.SHA256(wasm)}
			m, err := fetch(t, trusting(r, Options{Limits: module.DefaultLimits}), req)
			moduletest.Must(t, err)
			if m.SHA256 != req.SHA256 || m.SizeBytes != int64(len(wasm)) || !slices.Equal(m.ABIVersions, []string{"0.2.1"}) {
				t.Errorf("%+v", m)
			}
			if m.Reference != r.URL()+"/a/filter.wasm" || m.ManifestDigest != "" || m.RootIDs != nil || m.AgentRefuses != "" {
				t.Errorf("%+v", m)
			}
		})
	}
}

func TestKeyOfAURLShowsNoQuery(t *testing.T) {
	keyOf := func(text string) string {
		t.Helper()
		u, err := NewClient(Options{Limits: module.DefaultLimits}).OpenURL(Request{URL: text, SHA256: strings.Repeat("a", 64)})
		moduletest.Must(t, err)
		return u.Key()
	}
	plain, one, other := keyOf("https://h/m.wasm"), keyOf("https://h/m.wasm?key=hush"), keyOf("https://h/m.wasm?key=else")
	if plain != "https://h/m.wasm@sha256:"+strings.Repeat("a", 64) {
		t.Errorf("without a query: %s", plain)
	}
	if one == other || one == plain || strings.Contains(one, "hush") || !strings.HasPrefix(one, "https://h/m.wasm?") {
		t.Errorf("with one query %s, with another %s", one, other)
	}
}

func TestRefusesWhatAURLGives(t *testing.T) {
	wasm := moduletest.Wasm("at a URL")
	sum := moduletest.SHA256(wasm)
	other, text, foreign := moduletest.Wasm("another"), "<!DOCTYPE html><p>"+registry.SecretBody, moduletest.WithExports(moduletest.Export("_start"))
	send := func(content []byte) registry.Fault {
		return answer("/filter.wasm", func(w http.ResponseWriter) { _, _ = w.Write(content) })
	}
	for name, c := range map[string]struct {
		fault           registry.Fault
		sum             string
		reason, message string
		terminal        bool
	}{
		"404":                    {registry.Status(404), sum, wasmev1.ReasonImageNotFound, "does not have it (status 404): fix the URL", false},
		"410":                    {registry.Status(410), sum, wasmev1.ReasonImageNotFound, "does not have it (status 410)", false},
		"401":                    {registry.Status(401), sum, wasmev1.ReasonUnauthorized, "without a credential", false},
		"403":                    {registry.Status(403), sum, wasmev1.ReasonUnauthorized, "without a credential", false},
		"429":                    {registry.Status(429), sum, wasmev1.ReasonRegistryUnavailable, "status 429", false},
		"500":                    {registry.Status(500), sum, wasmev1.ReasonRegistryUnavailable, "status 500", false},
		"204":                    {answer("/filter.wasm", func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) }), sum, wasmev1.ReasonRegistryUnavailable, "status 204", false},
		"a part":                 {answer("/filter.wasm", func(w http.ResponseWriter) { w.WriteHeader(http.StatusPartialContent); _, _ = w.Write(wasm) }), sum, wasmev1.ReasonRegistryUnavailable, "status 206", false},
		"a redirect nowhere":     {answer("/filter.wasm", func(w http.ResponseWriter) { w.WriteHeader(http.StatusFound) }), sum, wasmev1.ReasonRegistryUnavailable, "status 302", false},
		"no web server":          {answer("/filter.wasm", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }), sum, wasmev1.ReasonRegistryUnavailable, "does not answer like a web server", false},
		"another module":         {send(other), sum, wasmev1.ReasonDigestMismatch, "a module with the digest " + moduletest.SHA256(other) + ": fix spec.filter.sha256", true},
		"a page in HTML":         {send([]byte(text)), sum, wasmev1.ReasonDigestMismatch, "something other than a Wasm module", false},
		"nothing":                {send(nil), sum, wasmev1.ReasonDigestMismatch, "something other than a Wasm module", false},
		"half of it":             {send(wasm[:len(wasm)/2]), sum, wasmev1.ReasonDigestMismatch, "a module with the digest ", true},
		"cut off":                {answer("/filter.wasm", func(w http.ResponseWriter) { w.Header().Set("Content-Length", "100000"); _, _ = w.Write(wasm) }), sum, wasmev1.ReasonRegistryUnavailable, "the connection broke", false},
		"a page with its digest": {send([]byte(text)), moduletest.SHA256(text), wasmev1.ReasonInvalidModule, "does not begin with \\0asm", true},
		"not for proxies":        {send(foreign), moduletest.SHA256(foreign), wasmev1.ReasonInvalidModule, "build it for proxy-wasm", true},
		"a component":            {send([]byte(moduletest.ComponentPreamble)), moduletest.SHA256(string([]byte(moduletest.ComponentPreamble))), wasmev1.ReasonInvalidModule, "component", true},
		"packed with gzip":       {send(moduletest.Gzip(wasm)), moduletest.SHA256(string(moduletest.Gzip(wasm))), wasmev1.ReasonInvalidModule, "does not begin with \\0asm", true},
		"endless":                {answer("/filter.wasm", endless), sum, wasmev1.ReasonTooLarge, "--max-module-bytes", true},
		"endless when packed":    {answer("/filter.wasm", packed(moduletest.Bomb(moduletest.Gzip, wasm, make([]byte, 10<<20)))), sum, wasmev1.ReasonRegistryUnavailable, "(Content-Encoding)", false},
		"packed on the way":      {answer("/filter.wasm", packed(moduletest.Gzip(wasm))), sum, wasmev1.ReasonRegistryUnavailable, "serve it uncompressed", false},
		"a redirect loop":        {redirectTo(func(req *http.Request) string { return req.URL.Path }), sum, wasmev1.ReasonRegistryUnavailable, "more than 5 redirects", false},
		"a file of its disk":     {redirectTo(func(*http.Request) string { return "file:///etc/passwd" }), sum, wasmev1.ReasonRegistryUnavailable, "does not answer like a web server", false},
		"a user's password":      {redirectTo(func(req *http.Request) string { return "http://ann:secret@" + req.Host + "/" }), sum, wasmev1.ReasonRegistryForbidden, "user and password", true},
	} {
		t.Run(name, func(t *testing.T) {
			r := moduletest.StartRegistry(t)
			url := r.PutFile("/filter.wasm", wasm)
			r.Inject(c.fault)
			_, err := fetch(t, NewClient(Options{Limits: module.Limits{ModuleBytes: 1 << 20}}), Request{URL: url + "?token=hidden", SHA256: c.sum})
			moduletest.WantError(t, err, c.reason, c.message)
			if e := module.AsError(err); e != nil && e.Terminal != c.terminal {
				t.Errorf("terminal: %v", e.Terminal)
			}
			for _, secret := range []string{registry.SecretBody, "hidden", moduletest.SHA256(text)} {
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
	r := moduletest.StartRegistry(t)
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
	_, err := fetch(t, NewClient(Options{Limits: module.DefaultLimits}), Request{URL: url, SHA256: moduletest.SHA256("")})
	moduletest.WantError(t, err, wasmev1.ReasonTooLarge, "--max-module-bytes")
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
	wasm := moduletest.Wasm("slow")
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	for name, c := range map[string]struct {
		fault  registry.Fault
		header time.Duration
	}{
		"before the header": {registry.Hold(release), 50 * time.Millisecond},
		"in the body":       {startThenHold(wasm[:8]), headerTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			r := moduletest.StartRegistry(t)
			url := r.PutFile("/filter.wasm", wasm)
			r.Inject(c.fault)
			p := NewClient(Options{Limits: module.DefaultLimits})
			transport := p.web.Transport.(*http.Transport)
			if transport.ResponseHeaderTimeout != headerTimeout {
				t.Errorf("it waits %v for a header", transport.ResponseHeaderTimeout)
			}
			transport.ResponseHeaderTimeout = c.header
			total := 2 * time.Second
			if c.header == headerTimeout {
				total = 200 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), total)
			defer cancel()
			_, err := fetchWithin(ctx, t, p, Request{URL: url, SHA256: moduletest.SHA256(wasm)})
			moduletest.WantError(t, err, wasmev1.ReasonRegistryUnavailable, "it does not answer in time")
			if c.header != headerTimeout && ctx.Err() != nil {
				t.Error("it waited until the context ended")
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
	wasm := moduletest.Wasm("redirected")
	sum := moduletest.SHA256(wasm)
	var sent http.Header
	plain, secure := moduletest.StartRegistry(t), moduletest.StartRegistry(t, registry.WithTLS())
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
			from := moduletest.StartRegistry(t, c.options...)
			url := from.PutFile("/filter.wasm", nil)
			from.Inject(redirectTo(func(*http.Request) string { return c.to + "/filter.wasm" }))
			sent = nil
			_, err := fetch(t, trusting(from, Options{Limits: module.DefaultLimits}, secure), Request{URL: url + "?token=hidden", SHA256: sum})
			moduletest.WantError(t, err, wasmev1.ReasonRegistryForbidden, c.message)
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
	wasm := moduletest.Wasm("far away")
	r := moduletest.StartRegistry(t)
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
		_, err := fetch(t, NewClient(Options{Limits: module.DefaultLimits}), Request{URL: fmt.Sprint(r.URL(), "/", redirects), SHA256: moduletest.SHA256(wasm)})
		moduletest.WantError(t, err, wasmev1.ReasonRegistryUnavailable, message)
	}
}

func TestDeniedNetworksOfURLs(t *testing.T) {
	inside := moduletest.StartRegistry(t)
	inside.PutFile("/filter.wasm", moduletest.Wasm("inside"))
	front := moduletest.StartRegistry(t)
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
			_, err := fetch(t, NewClient(Options{DeniedNetworks: DefaultDeniedNetworks, Limits: module.DefaultLimits}), Request{URL: c.url + "/filter.wasm", SHA256: moduletest.SHA256("")})
			moduletest.WantError(t, err, wasmev1.ReasonRegistryForbidden, "--denied-networks")
		})
	}
	moduletest.WantRequests(t, inside, "", "", 0)
	moduletest.WantRequests(t, front, "", "", 2)
}

func TestCertificatesOfURLs(t *testing.T) {
	plain, secure := moduletest.StartRegistry(t), moduletest.StartRegistry(t, registry.WithTLS())
	for url, message := range map[string]string{
		secure.URL(): "its certificate is not trusted: give it one of a known authority",
		strings.Replace(plain.URL(), "http", "https", 1): "speaks plain HTTP: begin the URL with http://",
	} {
		_, err := fetch(t, NewClient(Options{Limits: module.DefaultLimits}), Request{URL: url + "/filter.wasm", SHA256: moduletest.SHA256("")})
		moduletest.WantError(t, err, wasmev1.ReasonRegistryUnavailable, message)
		if strings.Contains(err.Error(), "imagePullOptions") {
			t.Errorf("a fix that a URL does not have: %v", err)
		}
	}
	moduletest.WantRequests(t, plain, "", "", 0)
}

func TestAFullStoreTakesNoModuleFromAURL(t *testing.T) {
	wasm := moduletest.Wasm("no room")
	r := moduletest.StartRegistry(t)
	full := openStore(t, int64(len(wasm))-1)
	from, err := NewClient(Options{Limits: module.DefaultLimits}).OpenURL(Request{URL: r.PutFile("/filter.wasm", wasm), SHA256: moduletest.SHA256(wasm)})
	moduletest.Must(t, err)
	_, err = from.Pull(t.Context(), full.Store)
	moduletest.WantError(t, err, wasmev1.ReasonStoreUnavailable, "--module-store is full")
	moduletest.WantFiles(t, full.dir)
}

func TestWhichURLsAreAllowed(t *testing.T) {
	p := NewClient(Options{AllowedRegistries: []string{"example.com", "files.example.com:8443"}, Limits: module.DefaultLimits})
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
		_, err := p.OpenURL(Request{URL: url, SHA256: moduletest.SHA256("")})
		moduletest.WantError(t, err, c.reason, c.message)
	}
	for _, sum := range []string{"", "abc", strings.ToUpper(moduletest.SHA256("x")), "sha256:" + moduletest.SHA256("x"), moduletest.SHA256("x") + "\n"} {
		_, err := p.OpenURL(Request{URL: "https://example.com/", SHA256: sum})
		moduletest.WantError(t, err, wasmev1.ReasonInvalidSpec, "spec.filter.sha256")
	}
}

func FuzzURL(f *testing.F) {
	for _, seed := range []string{"https://example.com/a?b#c", "http://example.com:80", "https://example.com:443@x/", "https://[::1%25eth0]:80/", `https://a\b/`, "HTTPS://EXAMPLE.COM./"} {
		f.Add(seed)
	}
	p := NewClient(Options{AllowedRegistries: []string{"example.com"}, Limits: module.DefaultLimits})
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := p.OpenURL(Request{URL: text, SHA256: moduletest.SHA256("")}); err != nil {
			if module.AsError(err) == nil {
				t.Errorf("not classified: %v", err)
			}
			return
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, text, http.NoBody)
		moduletest.Must(t, err)
		if host := strings.TrimSuffix(req.URL.Hostname(), "."); !strings.EqualFold(host, "example.com") || req.URL.User != nil {
			t.Errorf("%q leads to %s", text, req.URL.Redacted())
		}
	})
}

// fetch fetches as the resolver does, into a store of its own, and checks that
// a failure leaves nothing there.
func fetch(t *testing.T, client *Client, req Request) (module.Module, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return fetchWithin(ctx, t, client, req)
}

func fetchWithin(ctx context.Context, t *testing.T, client *Client, req Request) (module.Module, error) {
	t.Helper()
	into := openStore(t, store.DefaultBytes)
	from, err := client.OpenURL(req)
	moduletest.Must(t, err)
	m, err := from.Pull(ctx, into.Store)
	into.wantOnly(t, m, err)
	return m, err
}

// trusting returns a Client that trusts the certificates of these registries.
func trusting(r *registry.Registry, opts Options, more ...*registry.Registry) *Client {
	pool := x509.NewCertPool()
	for _, r := range append(more, r) {
		if cert := r.Certificate(); cert != nil {
			pool.AddCert(cert)
		}
	}
	p := NewClient(opts)
	p.web.Transport.(*http.Transport).TLSClientConfig.RootCAs = pool
	return p
}
