package pull

import (
	"context"
	"crypto/x509"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"

	"k8s.io/utils/lru"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/oci"
)

// Options say where a Client may connect to and how much it reads.
type Options struct {
	// DeniedNetworks are the addresses that are never connected to, checked
	// after DNS, for registries, URLs, redirects and token servers (--denied-networks).
	// The unspecified addresses count as loopback, IPv4-mapped ones as IPv4, those of
	// NAT64's well-known prefix as IPv4, too.
	DeniedNetworks []netip.Prefix
	// AllowedRegistries are the hosts (with port, where it is not the scheme's)
	// that images and URLs may name; empty means all (--allowed-registries).
	AllowedRegistries []string
	// Cloud has credentials for the registries of the operator's cloud; nil for none.
	Cloud Cloud
	// Preloaded are images that are read without their registries; nil for none.
	Preloaded *Preloaded
	// Limits bound what is read.
	Limits module.Limits
	// Proxy returns the proxy for a request; nil for none. It is asked only for
	// addresses that are not denied.
	Proxy func(*http.Request) (*url.URL, error)
}

// Cloud has credentials for the registries of a cloud: those of the operator's own
// identity there. They are for every image without a credential of its own.
type Cloud interface {
	// Covers reports whether a host is a registry of the cloud.
	Covers(host string) bool
	// Credential returns a credential that holds now. The error is a *module.Error.
	Credential(ctx context.Context, host string) (Credential, error)
	// Forget says that the registry did not take the credential.
	Forget(host string)
}

// DefaultDeniedNetworks is the default of --denied-networks: loopback and link-local
// addresses, and those of the clouds' metadata and identity services that are neither.
// Nodes and clouds keep there what is not for tenants.
var DefaultDeniedNetworks = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fd00:ec2::254/128"),      // AWS
	netip.MustParsePrefix("fd00:ec2::23/128"),       // AWS, the agent of EKS Pod Identity
	netip.MustParsePrefix("fd20:ce::254/128"),       // Google Cloud
	netip.MustParsePrefix("100.100.100.200/32"),     // Alibaba Cloud
	netip.MustParsePrefix("fd00:100::100:200/128"),  // Alibaba Cloud
	netip.MustParsePrefix("168.63.129.16/32"),       // Azure
	netip.MustParsePrefix("192.0.0.192/32"),         // Oracle Cloud
	netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), // Oracle Cloud
	netip.MustParsePrefix("fd00:a9fe:a9fe::1/128"),  // Akamai
	netip.MustParsePrefix("fd00:42::42/128"),        // Scaleway
}

// userAgent is the operator's User-Agent.
const userAgent = "wasme-operator"

// Client reads images from registries, and modules from URLs.
type Client struct {
	options  Options
	strict   http.RoundTripper
	insecure http.RoundTripper
	web      *http.Client
	unpacker *oci.Unpacker

	// private are transports that trust further authorities, by these.
	mu      sync.Mutex
	private *lru.Cache
}

// maxPrivate is the number of such transports that are kept.
const maxPrivate = 64

// NewClient returns a Client within opts.
func NewClient(opts Options) *Client {
	return &Client{
		options:  opts,
		strict:   newTransport(opts, false),
		insecure: newTransport(opts, true),
		web:      newWebClient(opts),
		unpacker: oci.NewUnpacker(opts.Limits),
		private:  lru.New(maxPrivate),
	}
}

// trusting returns a transport that trusts further authorities, in PEM. The error is a
// *module.Error.
func (c *Client) trusting(certificates string) (http.RoundTripper, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, found := c.private.Get(certificates); found {
		return known.(http.RoundTripper), nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a system without any
	}
	if !pool.AppendCertsFromPEM([]byte(certificates)) {
		return nil, module.Terminal(wasmev1.ReasonConfigMapInvalid, "reading spec.filter.imagePullOptions.caCertificates: there is no certificate in it: write at least one in PEM")
	}
	transport := newTransport(c.options, false)
	transport.TLSClientConfig.RootCAs = pool
	c.private.Add(certificates, transport)
	return transport, nil
}

// Transport returns one for other requests, which connects to no denied address either.
func (c *Client) Transport() http.RoundTripper { return c.strict }

// Limits returns the limits on what the client reads.
func (c *Client) Limits() module.Limits { return c.options.Limits }

func (c *Client) checkAllowed(field, host string) error {
	same := func(allowed string) bool { return canonicalHost(allowed) == canonicalHost(host) }
	if allowed := c.options.AllowedRegistries; len(allowed) > 0 && !slices.ContainsFunc(allowed, same) {
		return module.Terminal(wasmev1.ReasonRegistryForbidden, "%s: the operator's --allowed-registries does not list %s: use %s", field, host, strings.Join(allowed, ", "))
	}
	return nil
}
