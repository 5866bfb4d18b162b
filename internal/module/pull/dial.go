package pull

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
)

const (
	dialTimeout = 10 * time.Second
	// maxHeaderBytes bounds the headers of a response.
	maxHeaderBytes = 64 << 10
)

// newTransport returns a transport that connects to no denied address, whatever
// name or redirect leads there. A proxy would connect for it, so the address is looked
// up before one is asked.
func newTransport(opts Options, insecureSkipVerify bool) *http.Transport {
	dialer := &guardedDialer{denied: unmapPrefixes(opts.DeniedNetworks)}
	return &http.Transport{
		Proxy:                  dialer.guarded(opts.Proxy),
		DialContext:            dialer.DialContext,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           100,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    dialTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		// What is sent is what is counted, and what digests cover.
		DisableCompression: true,
		TLSClientConfig: &tls.Config{
			MinVersion:         tls.VersionTLS12,
			InsecureSkipVerify: insecureSkipVerify, //nolint:gosec // imagePullOptions.insecureSkipVerify of this image asks for it
		},
	}
}

type guardedDialer struct {
	denied []netip.Prefix
}

// DialContext connects unless the address, as resolved, is denied.
func (g *guardedDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{
		Timeout: dialTimeout,
		Control: func(_, resolved string, _ syscall.RawConn) error { return g.check(host, resolved) },
	}
	return dialer.DialContext(ctx, network, address)
}

// guarded returns a proxy function that sends no request for a denied address to a
// proxy. What cannot be looked up here, only the proxy can judge.
func (g *guardedDialer) guarded(proxy func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	if proxy == nil {
		return nil
	}
	return func(req *http.Request) (*url.URL, error) {
		via, err := proxy(req)
		if err != nil || via == nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(req.Context(), dialTimeout)
		defer cancel()
		host := req.URL.Hostname()
		addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return via, nil
		}
		for _, address := range addresses {
			if err := g.check(host, netip.AddrPortFrom(address, 0).String()); err != nil {
				return nil, err
			}
		}
		return via, nil
	}
}

// check refuses a resolved address (ip:port) in a denied network.
func (g *guardedDialer) check(host, resolved string) error {
	ap, err := netip.ParseAddrPort(resolved)
	if err != nil {
		return fmt.Errorf("checking the address of %s: %w", host, err)
	}
	addr := connectedTo(ap.Addr())
	behind := connectedTo(translated(addr))
	for _, prefix := range g.denied {
		if prefix.Contains(addr) || prefix.Contains(behind) {
			return module.Terminal(wasmev1.ReasonRegistryForbidden, "connecting to %s: its address is in %s, which the operator's --denied-networks forbids", host, prefix)
		}
	}
	return nil
}

// connectedTo returns the address that a connection to addr really reaches: IPv4
// behind its mapped form, loopback behind the unspecified address.
func connectedTo(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	switch {
	case addr.IsUnspecified() && addr.Is4():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case addr.IsUnspecified():
		return netip.IPv6Loopback()
	}
	return addr
}

// nat64 is the well-known prefix of RFC 6052. Networks may translate behind a prefix of
// their own, too, which only they know.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// translated returns the IPv4 address to which NAT64 translates an address.
func translated(addr netip.Addr) netip.Addr {
	if !nat64.Contains(addr) {
		return addr
	}
	all := addr.As16()
	return netip.AddrFrom4([4]byte(all[12:]))
}

// unmapPrefixes turns prefixes of IPv4-mapped addresses into those of IPv4.
func unmapPrefixes(prefixes []netip.Prefix) []netip.Prefix {
	unmapped := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		unmapped = append(unmapped, p)
	}
	return unmapped
}
