package pull

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"path"
	"strings"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/oci"
)

const (
	// maxRedirects is more than registries need. net/http's own bound does not
	// hold where a client checks redirects itself, as ggcr's does.
	maxRedirects = 5
	// maxOtherBytes bounds what is neither manifest nor blob: pings and tokens.
	maxOtherBytes = 1 << 20
)

// guard is the transport of one image: it refuses plain HTTP unless the image
// allows it (ggcr falls back to it for hosts that look local), counts
// redirects, and bounds bodies.
type guard struct {
	inner     http.RoundTripper
	plainHTTP bool
	limits    module.Limits
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	first, redirects := origin(req)
	if redirects > maxRedirects {
		return nil, module.Temporary(wasmev1.ReasonRegistryUnavailable, "reaching %s: more than %d redirects", first.URL.Host, maxRedirects)
	}
	if req.URL.Scheme == "http" && !g.plainHTTP {
		return nil, plainHTTPRefused(req.URL.Host)
	}
	resp, err := g.inner.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if limit := limitOf(resp, time.Now()); limit != nil {
		_ = resp.Body.Close()
		return nil, limit
	}
	if resp.StatusCode >= http.StatusBadRequest {
		// The status says it all; what a remote adds to it is shown to nobody.
		_ = resp.Body.Close()
		resp.Body, resp.ContentLength = http.NoBody, 0
		return resp, nil
	}
	bound := g.bound(first.URL.Path)
	if resp.ContentLength > bound.Bytes {
		_ = resp.Body.Close()
		return nil, bound.Exceeded()
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: bound.Bytes, bound: bound}
	if req.Method == http.MethodGet && resp.StatusCode == http.StatusOK && isManifest(first.URL.Path) {
		return checkManifest(first.URL.Path, resp)
	}
	return resp, nil
}

// checkManifest reads a manifest before ggcr does, which builds all that a
// manifest lists, and believes a header about the digest of an old format.
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
	if _, err := oci.ParseManifest(data); err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(data))
	return resp, nil
}

func plainHTTPRefused(host string) *module.Error {
	return module.Terminal(wasmev1.ReasonRegistryForbidden, "connecting to %s: it speaks plain HTTP: set spec.filter.imagePullOptions.plainHttp, or serve the registry over TLS", host)
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

func (g *guard) bound(urlPath string) module.Bound {
	switch {
	case isManifest(urlPath):
		return g.limits.Manifest()
	case strings.Contains(urlPath, "/blobs/"):
		return g.limits.Layers()
	}
	return module.Bound{Bytes: maxOtherBytes, What: "an answer of the registry"}
}

// isManifest reports whether a path is that of a manifest,
// /v2/<repository>/manifests/<reference>; repositories may have "manifests" in
// their names.
func isManifest(urlPath string) bool { return path.Base(path.Dir(urlPath)) == "manifests" }

// boundedBody fails beyond its bound, and marks the errors of the connection, so
// that they differ from those of the content.
type boundedBody struct {
	io.ReadCloser
	left  int64
	bound module.Bound
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return 0, b.bound.Exceeded()
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
