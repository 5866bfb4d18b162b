package module

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// sha256Pattern is a digest as spec.filter.sha256 has it.
var sha256Pattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// target is a module at a URL. No credential is ever sent there.
type target struct {
	puller *Puller
	req    Request
	host   string
}

// openURL checks a request for a URL; it connects to nothing.
func (p *Puller) openURL(req Request) (*target, error) {
	at, err := parseURL(req.URL)
	if err != nil {
		return nil, err
	}
	if !sha256Pattern.MatchString(req.SHA256) {
		return nil, refused(wasmev1.ReasonInvalidSpec, "reading spec.filter.sha256: a url needs it: write the digest of the module in 64 lower case hexadecimal digits")
	}
	if err := p.checkAllowed("spec.filter.url", urlHost(at)); err != nil {
		return nil, err
	}
	return &target{puller: p, req: req, host: urlHost(at)}, nil
}

func parseURL(text string) (*url.URL, error) {
	at, err := url.Parse(text)
	if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Hostname() == "" || at.User != nil {
		return nil, refused(wasmev1.ReasonInvalidSpec, "reading spec.filter.url: write it as https://host/path or http://host/path, without user and password")
	}
	return at, nil
}

// urlHost is the host of a URL, with its port where that is not the scheme's.
func urlHost(at *url.URL) string {
	standard := ":443"
	if at.Scheme == "http" {
		standard = ":80"
	}
	return strings.TrimSuffix(strings.ToLower(at.Host), standard)
}

// key names the module at this URL: what the store remembers it by.
func (t *target) key() string { return t.req.URL + "@sha256:" + t.req.SHA256 }

// fetch reads the module into store, if it is the one that is meant.
func (t *target) fetch(ctx context.Context, store *Store) (Module, error) {
	file, err := store.create()
	if err != nil {
		return Module{}, err
	}
	defer file.discard()
	if err := t.download(ctx, file); err != nil {
		return Module{}, t.failed(err)
	}
	if file.digest() != t.req.SHA256 {
		return Module{}, t.mismatch(file)
	}
	m, err := file.keep()
	m.Reference = t.req.URL
	return m, err
}

func (t *target) download(ctx context.Context, to io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.req.URL, http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := t.puller.web.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	bound := t.puller.options.Limits.module()
	if err := t.check(resp, bound); err != nil {
		return err
	}
	n, err := io.Copy(to, &boundedBody{ReadCloser: resp.Body, left: bound.bytes, bound: bound})
	pulledBytesTotal.Add(float64(n))
	return err
}

// check judges an answer before its body is read.
func (t *target) check(resp *http.Response, bound bound) error {
	switch coding := resp.Header.Get("Content-Encoding"); {
	case resp.StatusCode != http.StatusOK:
		return t.statusError(resp.StatusCode)
	case coding != "" && coding != "identity":
		return failed(wasmev1.ReasonRegistryUnavailable, "%s packs the module (Content-Encoding), though it is asked not to: serve it as it is", t.doing())
	case resp.ContentLength > bound.bytes:
		return bound.exceeded()
	}
	return nil
}

func (t *target) statusError(code int) *Error {
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return failed(wasmev1.ReasonUnauthorized, "%s refuses it (status %d): a URL is read without a credential: let it be read so, or push the module as an image and name its pull Secret", t.doing(), code)
	case http.StatusNotFound, http.StatusGone:
		return failed(wasmev1.ReasonImageNotFound, "%s does not have it (status %d): mend the URL, or put the module there", t.doing(), code)
	}
	return failed(wasmev1.ReasonRegistryUnavailable, "%s answers with status %d", t.doing(), code)
}

// mismatch is said of what has another digest. The digest of content that is no
// Wasm is not told: it could give away a short secret behind the URL.
func (t *target) mismatch(file *tempFile) *Error {
	if checkPreamble(file) != nil {
		return failed(wasmev1.ReasonDigestMismatch, "%s sends something else than a Wasm module, such as a page in HTML: mend the URL, or put the module there", t.doing())
	}
	return refused(wasmev1.ReasonDigestMismatch, "%s sends a module with the digest %s: mend spec.filter.sha256 or the URL", t.doing(), file.digest())
}

// failed turns what net/http returns into an Error.
func (t *target) failed(err error) *Error {
	switch {
	case errors.Is(err, http.ErrSchemeMismatch):
		return failed(wasmev1.ReasonRegistryUnavailable, "%s speaks plain HTTP: begin the URL with http://", t.doing())
	case untrusted(err):
		return failed(wasmev1.ReasonRegistryUnavailable, "%s: its certificate is not trusted: give it one of a known authority", t.doing())
	}
	if cause := networkCause(err); cause != "" {
		return failed(wasmev1.ReasonRegistryUnavailable, "%s: %s", t.doing(), cause)
	}
	if e := asError(err); e != nil {
		return e
	}
	return failed(wasmev1.ReasonRegistryUnavailable, "%s does not answer as a web server does", t.doing())
}

// doing begins the messages. A query may hold a key: it stays out.
func (t *target) doing() string { return "fetching spec.filter.url: " + t.host }

// newWebClient returns the client for URLs.
func newWebClient(denied []netip.Prefix) *http.Client {
	transport := newTransport(denied, false)
	transport.ResponseHeaderTimeout = headTimeout
	return &http.Client{Transport: transport, CheckRedirect: checkRedirect}
}

// checkRedirect lets a few redirects pass that weaken nothing.
func checkRedirect(req *http.Request, via []*http.Request) error {
	from := urlHost(via[0].URL)
	switch last := via[len(via)-1]; {
	case len(via) > maxRedirects:
		return failed(wasmev1.ReasonRegistryUnavailable, "fetching spec.filter.url: %s: more than %d redirects", from, maxRedirects)
	case last.URL.Scheme == "https" && req.URL.Scheme != "https":
		return refused(wasmev1.ReasonRegistryForbidden, "fetching spec.filter.url: %s redirects from https to another scheme, which is not followed: name a URL that stays with https", from)
	case req.URL.User != nil:
		return refused(wasmev1.ReasonRegistryForbidden, "fetching spec.filter.url: %s redirects to a URL with user and password, which is not followed: name another URL", from)
	}
	// It would tell the next host the whole URL, its query included.
	req.Header.Del("Referer")
	return nil
}
