package module

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"syscall"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

const (
	dialTimeout = 10 * time.Second
	// maxRedirects is more than registries need. net/http's own bound does not
	// hold where a client checks redirects itself, as ggcr's does.
	maxRedirects = 5
	// maxOtherBytes bounds what is neither manifest nor blob: pings and tokens.
	maxOtherBytes = 1 << 20
	// maxHeaderBytes bounds the headers of a response.
	maxHeaderBytes = 64 << 10
)

// newTransport returns a transport that connects to no denied address, whatever
// name or redirect leads there, and through no proxy, which would connect in its stead.
func newTransport(denied []netip.Prefix, insecureSkipVerify bool) *http.Transport {
	dialer := &guardedDialer{denied: unmapPrefixes(denied)}
	return &http.Transport{
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

// check refuses a resolved address (ip:port) in a denied network.
func (g *guardedDialer) check(host, resolved string) error {
	ap, err := netip.ParseAddrPort(resolved)
	if err != nil {
		return fmt.Errorf("checking the address of %s: %w", host, err)
	}
	addr := connectedTo(ap.Addr())
	for _, prefix := range g.denied {
		if prefix.Contains(addr) {
			return refused(wasmev1.ReasonRegistryForbidden, "connecting to %s: its address is in %s, which the operator's --denied-networks forbids", host, prefix)
		}
	}
	return nil
}

// connectedTo is the address that a connection to addr really reaches: IPv4
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

// guard is the transport of one image: it refuses plain HTTP unless the image
// allows it (ggcr falls back to it for hosts that look local), counts
// redirects, and bounds bodies.
type guard struct {
	inner     http.RoundTripper
	plainHTTP bool
	limits    Limits
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	first, redirects := origin(req)
	if redirects > maxRedirects {
		return nil, failed(wasmev1.ReasonRegistryUnavailable, "reaching %s: more than %d redirects", first.URL.Host, maxRedirects)
	}
	if req.URL.Scheme == "http" && !g.plainHTTP {
		return nil, plainHTTPRefused(req.URL.Host)
	}
	resp, err := g.inner.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		// The status says it all: what a remote says beside it is for nobody.
		_ = resp.Body.Close()
		resp.Body, resp.ContentLength = http.NoBody, 0
		return resp, nil
	}
	bound := g.bound(first.URL.Path)
	if resp.ContentLength > bound.bytes {
		_ = resp.Body.Close()
		return nil, bound.exceeded()
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: bound.bytes, bound: bound}
	if req.Method == http.MethodGet && resp.StatusCode == http.StatusOK && isManifest(first.URL.Path) {
		return checkManifest(first.URL.Path, resp)
	}
	return resp, nil
}

// checkManifest reads a manifest before ggcr does, which builds all that a
// manifest lists, and takes a header's word for the digest of an old format.
func checkManifest(urlPath string, resp *http.Response) (*http.Response, error) {
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if digest, pinned := strings.CutPrefix(path.Base(urlPath), "sha256:"); pinned {
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != digest {
			return nil, errors.New("the manifest does not match requested digest")
		}
	}
	if _, err := parseManifest(data); err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(data))
	return resp, nil
}

func plainHTTPRefused(host string) *Error {
	return refused(wasmev1.ReasonRegistryForbidden, "connecting to %s: it speaks plain HTTP: set spec.filter.imagePullOptions.plainHttp, or serve the registry over TLS", host)
}

// origin follows a request's redirects back to the first request.
func origin(req *http.Request) (*http.Request, int) {
	redirects := 0
	for req.Response != nil && req.Response.Request != nil && redirects <= maxRedirects {
		req = req.Response.Request
		redirects++
	}
	return req, redirects
}

// bound is a limit on the bytes of a body, with its name and its flag.
type bound struct {
	bytes      int64
	what, flag string
}

func (g *guard) bound(urlPath string) bound {
	switch {
	case isManifest(urlPath):
		return g.limits.manifest()
	case strings.Contains(urlPath, "/blobs/"):
		return g.limits.layers()
	}
	return bound{bytes: maxOtherBytes, what: "an answer of the registry"}
}

// isManifest: /v2/<repository>/manifests/<reference>; repositories may have
// "manifests" in their names.
func isManifest(urlPath string) bool { return path.Base(path.Dir(urlPath)) == "manifests" }

func (l Limits) manifest() bound {
	return bound{l.ManifestBytes, "the image's manifest", "--max-manifest-bytes"}
}

func (l Limits) layers() bound {
	return bound{l.LayerBytes, "the image's layers", "--max-layer-bytes"}
}

func (l Limits) module() bound {
	return bound{l.ModuleBytes, "the module", "--max-module-bytes"}
}

func (b bound) exceeded() *Error {
	if b.flag == "" {
		return refused(wasmev1.ReasonTooLarge, "%s has more than %d bytes", b.what, b.bytes)
	}
	return refused(wasmev1.ReasonTooLarge, "%s: more than %d bytes: make it smaller, or raise the operator's %s", b.what, b.bytes, b.flag)
}

// boundedBody ends with an error beyond its bound, and marks the errors of the
// connection, so that they can be told from those of the content.
type boundedBody struct {
	io.ReadCloser
	left  int64
	bound bound
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return 0, b.bound.exceeded()
	}
	if err != nil && err != io.EOF {
		err = &connectionError{err}
	}
	return n, err
}

// connectionError is a connection that broke while a body was read.
type connectionError struct{ err error }

func (e *connectionError) Error() string { return "the connection broke: " + e.err.Error() }
func (e *connectionError) Unwrap() error { return e.err }
