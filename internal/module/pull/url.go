package pull

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/store"
)

// headerTimeout is how long a web server may take to begin its answer.
const headerTimeout = 15 * time.Second

// URL is a module at a URL. No credential is ever sent there.
type URL struct {
	client *Client
	req    Request
	host   string
}

// OpenURL checks a request for a URL; it connects to nothing. The error is a
// *module.Error.
func (c *Client) OpenURL(req Request) (*URL, error) {
	at, err := parseURL(req.URL)
	if err != nil {
		return nil, err
	}
	if !module.IsSHA256(req.SHA256) {
		return nil, module.Terminal(wasmev1.ReasonInvalidSpec, "reading spec.filter.sha256: it is required with a url: write the digest of the module in 64 lower case hexadecimal digits")
	}
	if err := c.checkAllowed("spec.filter.url", urlHost(at)); err != nil {
		return nil, err
	}
	return &URL{client: c, req: req, host: urlHost(at)}, nil
}

// Key returns the name under which the module is remembered. A query may hold a key,
// so only its hash is part of the name.
func (u *URL) Key() string {
	public := module.URLWithoutQuery(u.req.URL)
	if public == u.req.URL {
		return public + "@sha256:" + u.req.SHA256
	}
	return fmt.Sprintf("%s?%x@sha256:%s", public, sha256.Sum256([]byte(u.req.URL)), u.req.SHA256)
}

// Pull reads the module into the store, if it has the request's digest. The
// error is a *module.Error.
func (u *URL) Pull(ctx context.Context, into *store.Store) (module.Module, error) {
	file, err := into.Create()
	if err != nil {
		return module.Module{}, err
	}
	defer file.Discard()
	if err := u.download(ctx, file); err != nil {
		return module.Module{}, u.failed(err)
	}
	if file.Digest() != u.req.SHA256 {
		return module.Module{}, u.mismatch(file)
	}
	m, err := file.Keep()
	m.Reference = module.URLWithoutQuery(u.req.URL)
	return m, err
}

func (u *URL) download(ctx context.Context, to io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.req.URL, http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := u.client.web.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	bound := u.client.options.Limits.Module()
	if err := u.check(resp, bound); err != nil {
		return err
	}
	n, err := io.Copy(to, &boundedBody{ReadCloser: resp.Body, left: bound.Bytes, bound: bound})
	pulledBytesTotal.Add(float64(n))
	return err
}

// check judges an answer before its body is read.
func (u *URL) check(resp *http.Response, bound module.Bound) error {
	if limit := limitOf(resp, time.Now()); limit != nil {
		return limit.of(u.host)
	}
	switch coding := resp.Header.Get("Content-Encoding"); {
	case resp.StatusCode != http.StatusOK:
		return u.statusError(resp.StatusCode)
	case coding != "" && coding != "identity":
		return module.Temporary(wasmev1.ReasonRegistryUnavailable, "%s compresses the module (Content-Encoding), although the request forbids it: serve it uncompressed", u.doing())
	case resp.ContentLength > bound.Bytes:
		return bound.Exceeded()
	}
	return nil
}

func (u *URL) statusError(code int) *module.Error {
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return module.Temporary(wasmev1.ReasonUnauthorized, "%s denies access (status %d): a URL is read without a credential: allow that, or push the module as an image and reference its pull Secret", u.doing(), code)
	case http.StatusNotFound, http.StatusGone:
		return module.Temporary(wasmev1.ReasonImageNotFound, "%s does not have it (status %d): fix the URL, or put the module there", u.doing(), code)
	}
	return module.Temporary(wasmev1.ReasonRegistryUnavailable, "%s answers with status %d", u.doing(), code)
}

// mismatch returns the error for content with another digest. It does not show
// the digest of content that is no Wasm: that could reveal a short secret at the URL.
func (u *URL) mismatch(file *store.TempFile) *module.Error {
	if !module.HasPreamble(file) {
		return module.Temporary(wasmev1.ReasonDigestMismatch, "%s sends something other than a Wasm module, such as an HTML page: fix the URL, or put the module there", u.doing())
	}
	return module.Terminal(wasmev1.ReasonDigestMismatch, "%s sends a module with the digest %s: fix spec.filter.sha256 or the URL", u.doing(), file.Digest())
}

// failed turns what net/http returns into a module.Error.
func (u *URL) failed(err error) *module.Error {
	switch {
	case errors.Is(err, http.ErrSchemeMismatch):
		return module.Temporary(wasmev1.ReasonRegistryUnavailable, "%s speaks plain HTTP: begin the URL with http://", u.doing())
	case untrusted(err):
		return module.Temporary(wasmev1.ReasonRegistryUnavailable, "%s: its certificate is not trusted: give it one of a known authority", u.doing())
	}
	if cause := networkCause(err); cause != "" {
		return module.Temporary(wasmev1.ReasonRegistryUnavailable, "%s: %s", u.doing(), cause)
	}
	if e := module.AsError(err); e != nil {
		return e
	}
	return module.Temporary(wasmev1.ReasonRegistryUnavailable, "%s does not answer like a web server", u.doing())
}

// doing returns how messages begin. A query may hold a key, so it stays out.
func (u *URL) doing() string { return "fetching spec.filter.url: " + u.host }

// newWebClient returns the client for URLs.
func newWebClient(opts Options) *http.Client {
	transport := newTransport(opts, false)
	transport.ResponseHeaderTimeout = headerTimeout
	return &http.Client{Transport: transport, CheckRedirect: checkRedirect}
}

// checkRedirect lets a few redirects pass that weaken nothing.
func checkRedirect(req *http.Request, via []*http.Request) error {
	from := urlHost(via[0].URL)
	switch last := via[len(via)-1]; {
	case len(via) > maxRedirects:
		return module.Temporary(wasmev1.ReasonRegistryUnavailable, "fetching spec.filter.url: %s: more than %d redirects", from, maxRedirects)
	case last.URL.Scheme == "https" && req.URL.Scheme != "https":
		return module.Terminal(wasmev1.ReasonRegistryForbidden, "fetching spec.filter.url: %s redirects from https to another scheme, which is not followed: use a URL that stays on https", from)
	case req.URL.User != nil:
		return module.Terminal(wasmev1.ReasonRegistryForbidden, "fetching spec.filter.url: %s redirects to a URL with user and password, which is not followed: use another URL", from)
	}
	// Referer would show the next host the whole URL, its query included.
	req.Header.Del("Referer")
	return nil
}
