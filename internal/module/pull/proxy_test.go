package pull

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

// startProxy starts an HTTP proxy, whose requests it counts. It resolves every name to
// the given address.
func startProxy(t *testing.T, address string) (via func(*http.Request) (*url.URL, error), asked *atomic.Int64) {
	t.Helper()
	asked = &atomic.Int64{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Method != http.MethodConnect {
			r.URL.Host, r.RequestURI = address, ""
			response, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			defer response.Body.Close()
			w.WriteHeader(response.StatusCode)
			_, _ = io.Copy(w, response.Body)
			return
		}
		to, err := net.Dial("tcp", address)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusOK)
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		go func() { defer to.Close(); _, _ = io.Copy(to, from) }()
		go func() { defer from.Close(); _, _ = io.Copy(from, to) }()
	}))
	t.Cleanup(server.Close)
	at, err := url.Parse(server.URL)
	moduletest.Must(t, err)
	return http.ProxyURL(at), asked
}

func TestRequestsGoThroughAProxy(t *testing.T) {
	wasm := moduletest.Wasm("behind a proxy")
	r := moduletest.StartRegistry(t)
	at := r.PutFile("/filter.wasm", wasm)
	via, asked := startProxy(t, r.Host())
	for name, address := range map[string]string{
		"by address": at,
		// Only the proxy knows this name.
		"by a name of the proxy's": strings.Replace(at, r.Host(), "registry.invalid", 1),
	} {
		t.Run(name, func(t *testing.T) {
			before := asked.Load()
			_, err := fetch(t, NewClient(Options{Limits: module.DefaultLimits, Proxy: via}), Request{URL: address, SHA256: moduletest.SHA256(wasm)})
			moduletest.Must(t, err)
			if asked.Load() == before {
				t.Error("it went another way")
			}
		})
	}
}

func TestNoProxyIsAskedForADeniedAddress(t *testing.T) {
	wasm := moduletest.Wasm("denied")
	r := moduletest.StartRegistry(t)
	at := strings.Replace(r.PutFile("/filter.wasm", wasm), "127.0.0.1", "127.0.0.2", 1)
	via, asked := startProxy(t, r.Host())
	client := NewClient(Options{Limits: module.DefaultLimits, Proxy: via, DeniedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}})
	_, err := fetch(t, client, Request{URL: at, SHA256: moduletest.SHA256(wasm)})
	moduletest.WantError(t, err, wasmev1.ReasonRegistryForbidden, "--denied-networks")
	if asked.Load() > 0 {
		t.Error("the proxy was asked")
	}
}
