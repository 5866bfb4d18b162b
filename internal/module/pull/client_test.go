package pull

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/clock"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

func TestCredentialsGoToNoOtherHost(t *testing.T) {
	var sent http.Header
	wasm := moduletest.Wasm("redirected")
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		sent = req.Header.Clone()
		_, _ = w.Write(wasm)
	}))
	defer storage.Close()
	for name, option := range map[string]registry.Option{"basic": registry.WithBasicAuth(map[string]string{"ann": "secret"}), "bearer": registry.WithBearerAuth(map[string]string{"ann": "secret"})} {
		t.Run(name, func(t *testing.T) {
			r := moduletest.StartRegistry(t, option)
			image := moduletest.Push(t, r, "filter:v1", moduletest.FormOf(t, registry.CNCFArtifact, wasm))
			r.Inject(registry.Redirect(named(storage.URL)))
			sent = nil
			_, err := pull(t, Options{Limits: module.DefaultLimits}, Request{Image: image, PlainHTTP: true, Credential: annSecret})
			moduletest.Must(t, err)
			if sent == nil || sent.Get("Authorization") != "" {
				t.Errorf("sent %v", sent)
			}
		})
	}
}

func TestDeniedNetworks(t *testing.T) {
	outside := outsideLoopback(t)
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("reached") }))
	defer inside.Close()
	wasm := moduletest.FormOf(t, registry.CNCFArtifact, moduletest.Wasm("denied"))
	const realmMessage = "names a token server that is not allowed"
	for name, c := range map[string]struct {
		options []registry.Option
		fault   registry.Fault
		message string
	}{
		"redirect to a name":     {nil, registry.Redirect(named(inside.URL)), "localhost: its address is in "},
		"redirect to an address": {nil, registry.Redirect(inside.URL), "redirects to a private, loopback or link-local address"},
		"token realm by name":    {[]registry.Option{registry.WithBearerAuth(nil), registry.WithTokenRealm(named(inside.URL))}, nil, "localhost: its address is in "},
		"token realm by address": {[]registry.Option{registry.WithBearerAuth(nil), registry.WithTokenRealm(inside.URL)}, nil, realmMessage},
	} {
		t.Run(name, func(t *testing.T) {
			r := moduletest.StartRegistry(t, c.options...)
			moduletest.Push(t, r, "filter:v1", wasm)
			r.Inject(c.fault)
			_, err := pull(t, Options{DeniedNetworks: DefaultDeniedNetworks, Limits: module.DefaultLimits}, Request{Image: outside(r) + "/filter:v1", PlainHTTP: true})
			moduletest.WantError(t, err, wasmev1.ReasonRegistryForbidden, c.message)
			moduletest.WantError(t, err, wasmev1.ReasonRegistryForbidden, "--denied-networks")
		})
	}
}

func TestDeniedAddresses(t *testing.T) {
	custom := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::ffff:192.168.0.0/112")}
	for _, c := range []struct {
		denied  []netip.Prefix
		address string
		refused bool
	}{
		{DefaultDeniedNetworks, "127.0.0.1:80", true},
		{DefaultDeniedNetworks, "127.255.0.9:443", true},
		{DefaultDeniedNetworks, "169.254.169.254:80", true},
		{DefaultDeniedNetworks, "[::1]:80", true},
		{DefaultDeniedNetworks, "[fe80::1%eth0]:80", true},
		{DefaultDeniedNetworks, "[::ffff:127.0.0.1]:80", true},
		{DefaultDeniedNetworks, "[::ffff:169.254.169.254]:80", true},
		{DefaultDeniedNetworks, "0.0.0.0:80", true},
		{DefaultDeniedNetworks, "[::]:80", true},
		{DefaultDeniedNetworks, "169.254.170.23:80", true},
		{DefaultDeniedNetworks, "[fd00:ec2::254]:80", true},
		{DefaultDeniedNetworks, "[fd00:ec2::23]:80", true},
		{DefaultDeniedNetworks, "[fd20:ce::254]:80", true},
		{DefaultDeniedNetworks, "[fd00:100::100:200]:80", true},
		{DefaultDeniedNetworks, "[fd00:c1::a9fe:a9fe]:80", true},
		{DefaultDeniedNetworks, "[fd00:a9fe:a9fe::1]:80", true},
		{DefaultDeniedNetworks, "[fd00:42::42]:80", true},
		{DefaultDeniedNetworks, "[64:ff9b::a9fe:a9fe]:80", true},
		{DefaultDeniedNetworks, "[64:ff9b::7f00:1]:80", true},
		{DefaultDeniedNetworks, "[64:ff9b::]:80", true},
		{DefaultDeniedNetworks, "[64:ff9b::a00:1]:80", false},
		{DefaultDeniedNetworks, "[fd00:ec2::25]:80", false},
		{DefaultDeniedNetworks, "10.0.0.1:80", false},
		{DefaultDeniedNetworks, "[2001:db8::1]:443", false},
		{custom, "10.1.2.3:80", true},
		{custom, "[::ffff:10.1.2.3]:80", true},
		{custom, "192.168.7.7:80", true},
		{custom, "[64:ff9b::a01:203]:80", true},
		{custom, "127.0.0.1:80", false},
		{[]netip.Prefix{netip.MustParsePrefix("64:ff9b::/96")}, "[64:ff9b::a01:203]:80", true},
		{[]netip.Prefix{netip.MustParsePrefix("64:ff9b::/96")}, "10.1.2.3:80", false},
		{nil, "127.0.0.1:80", false},
	} {
		g := &guardedDialer{denied: unmapPrefixes(c.denied)}
		if err := g.check("registry.example.com", c.address); (err != nil) != c.refused {
			t.Errorf("%s: %v", c.address, err)
		}
	}
}

func TestADeniedRegistryIsNotConnectedTo(t *testing.T) {
	r := moduletest.StartRegistry(t)
	for _, host := range []string{r.Host(), named(r.Host())} {
		_, err := pull(t, Options{DeniedNetworks: DefaultDeniedNetworks, Limits: module.DefaultLimits}, Request{Image: host + "/filter:v1", PlainHTTP: true})
		moduletest.WantError(t, err, wasmev1.ReasonRegistryForbidden, "--denied-networks")
	}
	if n := r.Requests("", ""); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestAllowedRegistries(t *testing.T) {
	p := NewClient(Options{AllowedRegistries: []string{"ghcr.io", "docker.io", "registry.example.com:5000"}, Limits: module.DefaultLimits})
	for image, allowed := range map[string]bool{
		"ghcr.io/a/b":                     true,
		"ghcr.io:443/a/b":                 true,
		"a/b":                             true,
		"registry.example.com:5000/a/b":   true,
		"registry.example.com/a/b":        false,
		"ghcr.io:8443/a/b":                false,
		"quay.io/a/b":                     false,
		"ghcr.io.example.com/ghcr.io/a/b": false,
	} {
		_, err := p.OpenImage(Request{Image: image})
		if message := "--allowed-registries"; allowed {
			moduletest.Must(t, err)
		} else {
			moduletest.WantError(t, err, wasmev1.ReasonRegistryForbidden, message)
		}
	}
}

func TestPlainHTTPIsRefusedUnlessAllowed(t *testing.T) {
	r, secure := moduletest.StartRegistry(t), moduletest.StartRegistry(t, registry.WithTLS())
	image := moduletest.FormOf(t, registry.CNCFArtifact, moduletest.Wasm("plain"))
	moduletest.Push(t, r, "filter:v1", image)
	moduletest.Push(t, secure, "filter:v1", image)
	for name, host := range map[string]func(*testing.T) string{
		"loopback":  func(*testing.T) string { return r.Host() },
		"localhost": func(*testing.T) string { return named(r.Host()) },
		"private":   func(t *testing.T) string { t.Helper(); return outsideLoopback(t)(r) },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pull(t, Options{Limits: module.DefaultLimits}, Request{Image: host(t) + "/filter:v1"})
			moduletest.WantError(t, err, wasmev1.ReasonRegistryForbidden, "set spec.filter.imagePullOptions.plainHttp")
		})
	}
	if n := r.Requests("", ""); n != 0 {
		t.Errorf("%d requests over plain HTTP", n)
	}
	t.Run("redirect", func(t *testing.T) {
		secure.Inject(registry.Redirect("http://" + named(r.Host())))
		_, err := pull(t, Options{Limits: module.DefaultLimits}, Request{Image: secure.Host() + "/filter:v1", InsecureSkipVerify: true})
		moduletest.WantError(t, err, wasmev1.ReasonRegistryForbidden, "set spec.filter.imagePullOptions.plainHttp")
	})
	t.Run("token realm", func(t *testing.T) {
		realm := moduletest.StartRegistry(t, registry.WithTLS(), registry.WithBearerAuth(nil), registry.WithTokenRealm("http://token.example.com/"))
		_, err := pull(t, Options{Limits: module.DefaultLimits}, Request{Image: realm.Host() + "/filter:v1", InsecureSkipVerify: true})
		moduletest.WantError(t, err, wasmev1.ReasonRegistryForbidden, "spec.filter.imagePullOptions.plainHttp")
	})
}

// patience is how long a test waits for an event that must happen.
const patience = 30 * time.Second

// pull pulls an image as the resolver does, into a store of its own, and
// checks that a failure leaves nothing there.
func pull(t *testing.T, opts Options, req Request) (module.Module, error) {
	t.Helper()
	return pullWith(t, NewClient(opts), req)
}

func pullWith(t *testing.T, client *Client, req Request) (module.Module, error) {
	t.Helper()
	into := openStore(t, store.DefaultBytes)
	m, err := pullInto(t, client, req, into.Store)
	into.wantOnly(t, m, err)
	return m, err
}

func pullInto(t *testing.T, client *Client, req Request, into *store.Store) (module.Module, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	from, err := client.OpenImage(req)
	if err != nil {
		return module.Module{}, err
	}
	digest, err := from.Digest(ctx)
	if err != nil {
		return module.Module{}, err
	}
	return from.Pull(ctx, digest, into)
}

// testStore is a store with its folder.
type testStore struct {
	*store.Store
	dir string
}

func openStore(t *testing.T, maxBytes int64) testStore {
	t.Helper()
	dir := t.TempDir()
	opened, err := store.Open(dir, maxBytes, clock.RealClock{})
	moduletest.Must(t, err)
	return testStore{opened, dir}
}

// wantOnly checks that the store has the module and nothing else, or nothing at
// all when there was an error.
func (s testStore) wantOnly(t *testing.T, m module.Module, err error) {
	t.Helper()
	if err == nil {
		moduletest.WantFiles(t, s.dir, "modules/"+m.SHA256+".wasm")
		return
	}
	moduletest.WantFiles(t, s.dir)
	if bytes := moduletest.Gather(t, s)["wasme_module_store_bytes"]; bytes != 0 {
		t.Errorf("%v bytes are still counted", bytes)
	}
}

func ok(err error) {
	if err != nil {
		panic(err)
	}
}

// answer answers requests whose path contains part; pings, when that is empty.
func answer(part string, with func(http.ResponseWriter)) registry.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			asked := part != "" && strings.Contains(req.URL.Path, part)
			if asked && req.Method == http.MethodGet || part == "" && req.URL.Path == "/v2/" {
				with(w)
				return
			}
			next.ServeHTTP(w, req)
		})
	}
}

func endless(w http.ResponseWriter) {
	for chunk := make([]byte, 64<<10); ; {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func redirectTo(location func(*http.Request) string) registry.Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, location(req), http.StatusTemporaryRedirect)
		})
	}
}

// named returns an address or URL on 127.0.0.1 with the name localhost instead.
func named(address string) string { return strings.Replace(address, "127.0.0.1", "localhost", 1) }

// outsideLoopback returns what serves a registry on this machine's own address
// as well, which is not in a denied network.
func outsideLoopback(t *testing.T) func(*registry.Registry) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	moduletest.Must(t, err)
	for _, addr := range addrs {
		ip, isNet := addr.(*net.IPNet)
		if !isNet || ip.IP.IsLoopback() || ip.IP.To4() == nil || ip.IP.IsLinkLocalUnicast() {
			continue
		}
		return func(r *registry.Registry) string {
			listener, err := net.Listen("tcp", net.JoinHostPort(ip.IP.String(), "0"))
			moduletest.Must(t, err)
			server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: r}}
			server.Start()
			t.Cleanup(server.Close)
			return listener.Addr().String()
		}
	}
	t.Skip("this machine has no address beside loopback")
	return nil
}
