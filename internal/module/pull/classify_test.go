package pull

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
)

func TestClassifiesWhatARegistryAnswers(t *testing.T) {
	const remote = "text-of-the-remote"
	text := func(text string) error { return fmt.Errorf("%s: %s", text, remote) }
	status := func(code int) error {
		return &transport.Error{StatusCode: code, Errors: []transport.Diagnostic{{Message: remote}}}
	}
	own := module.Terminal(wasmev1.ReasonTooLarge, "our own words")
	for name, c := range map[string]struct {
		err             error
		reason, message string
		terminal        bool
	}{
		"401":                     {status(401), wasmev1.ReasonUnauthorized, "pulling a/b: ghcr.io denies access (status 401): reference a Secret", false},
		"403":                     {status(403), wasmev1.ReasonUnauthorized, "pulling a/b: ghcr.io denies access (status 403): reference a Secret", false},
		"404":                     {status(404), wasmev1.ReasonImageNotFound, "pulling a/b: ghcr.io does not have it (status 404)", false},
		"405":                     {status(405), wasmev1.ReasonRegistryUnavailable, "pulling a/b: ghcr.io answers with status 405", false},
		"500":                     {status(500), wasmev1.ReasonRegistryUnavailable, "pulling a/b: ghcr.io answers with status 500", false},
		"a wrapped status":        {fmt.Errorf("wrapped: %w", status(404)), wasmev1.ReasonImageNotFound, "status 404", false},
		"another digest":          {text("manifest does not match requested digest"), wasmev1.ReasonDigestMismatch, "a manifest that does not match its digest", false},
		"a token server":          {text("invalid realm in www-authenticate"), wasmev1.ReasonRegistryForbidden, "names a token server that is not allowed", true},
		"a token server's server": {text("refusing token-server redirect"), wasmev1.ReasonRegistryForbidden, "names a token server that is not allowed", true},
		"a redirect":              {text("SSRF protection: redirect"), wasmev1.ReasonRegistryForbidden, "redirects to a private, loopback or link-local address", true},
		"a broken connection":     {&url.Error{Op: "Get", Err: &net.OpError{Op: "read", Err: syscall.ECONNRESET}}, wasmev1.ReasonRegistryUnavailable, "pulling a/b: ghcr.io: the connection broke", false},
		"our own error":           {fmt.Errorf("wrapped: %w", own), wasmev1.ReasonTooLarge, "our own words", true},
		"anything else":           {text("whatever"), wasmev1.ReasonRegistryUnavailable, "pulling a/b: ghcr.io does not answer like a registry", false},
	} {
		t.Run(name, func(t *testing.T) {
			e := registryError("pulling a/b", "ghcr.io", c.err)
			if e.Reason != c.reason || !strings.Contains(e.Message, c.message) || e.Terminal != c.terminal || strings.Contains(e.Message, remote) {
				t.Errorf("%s, terminal %v: %s", e.Reason, e.Terminal, e.Message)
			}
		})
	}
}

func TestNamesTheCauseOfAFailedConnection(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"an expired certificate":      {&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}}, "its certificate is not valid at this time"},
		"a certificate for clients":   {&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.IncompatibleUsage}}, "its certificate is not trusted"},
		"an unknown authority":        {x509.UnknownAuthorityError{}, "its certificate is not trusted"},
		"another host's certificate":  {&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}}}, "its certificate is not trusted"},
		"no such name":                {&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, "its name cannot be resolved"},
		"a port that nobody has":      {&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, "the connection was refused"},
		"a deadline":                  {fmt.Errorf("reading: %w", context.DeadlineExceeded), "it does not answer in time"},
		"a timeout of the connection": {&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, "it does not answer in time"},
		"the end of the operator":     {fmt.Errorf("reading: %w", context.Canceled), "the request was canceled"},
		"our own refusal":             {&net.OpError{Op: "dial", Err: module.Terminal(wasmev1.ReasonRegistryForbidden, "denied")}, ""},
		"a reset":                     {&net.OpError{Op: "read", Err: syscall.ECONNRESET}, "the connection broke"},
		"a body that breaks off":      {fmt.Errorf("reading: %w", &connectionError{io.ErrUnexpectedEOF}), "the connection broke"},
		"content":                     {errors.New("unknown"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := networkCause(c.err); got != c.want && (c.want == "" || !strings.HasPrefix(got, c.want)) {
				t.Errorf("%q, not %q", got, c.want)
			}
		})
	}
}

func TestTheErrorsOfAConnectionAreMarked(t *testing.T) {
	inner := errors.New("reset")
	body := &boundedBody{ReadCloser: io.NopCloser(io.MultiReader(strings.NewReader("abc"), failingReader{inner})), left: 3, bound: module.Limits{ModuleBytes: 3}.Module()}
	content, err := io.ReadAll(body)
	if marked := (*connectionError)(nil); string(content) != "abc" || !errors.As(err, &marked) || !errors.Is(err, inner) || err.Error() != "the connection broke: reset" {
		t.Errorf("%q, %v", content, err)
	}
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

func TestABodyMayHaveItsBoundAndNoMore(t *testing.T) {
	for text, message := range map[string]string{"": "", "abc": "", "abcd": "--max-module-bytes"} {
		body := &boundedBody{ReadCloser: io.NopCloser(strings.NewReader(text)), left: 3, bound: module.Limits{ModuleBytes: 3}.Module()}
		content, err := io.ReadAll(body)
		if message == "" && (err != nil || string(content) != text) || message != "" && (err == nil || !strings.Contains(err.Error(), message)) {
			t.Errorf("%q: %q, %v", text, content, err)
		}
	}
}

func TestWhichBoundABodyHas(t *testing.T) {
	g := &guard{limits: module.Limits{ManifestBytes: 1, LayerBytes: 2}}
	for path, want := range map[string]int64{
		"/v2/a/b/manifests/v1":            1,
		"/v2/a/manifests/manifests/v1":    1,
		"/v2/a/blobs/manifests/v1":        1,
		"/v2/a/b/blobs/sha256:1234":       2,
		"/v2/a/manifests/blobs/sha256:12": 2,
		"/v2/":                            1 << 20,
		"/token":                          1 << 20,
	} {
		if got := g.bound(path); got.Bytes != want {
			t.Errorf("%s: %d, not %d", path, got.Bytes, want)
		}
	}
}

func TestOriginFollowsRedirectsBack(t *testing.T) {
	first := &http.Request{}
	req := first
	for redirects := range maxRedirects + 2 {
		if origin, count := origin(req); redirects <= maxRedirects && (origin != first || count != redirects) || redirects > maxRedirects && count <= maxRedirects {
			t.Errorf("after %d redirects: %d", redirects, count)
		}
		req = &http.Request{Response: &http.Response{Request: req}}
	}
	if origin, count := origin(&http.Request{Response: &http.Response{}}); origin == nil || count != 0 {
		t.Errorf("a response without a request counts %d", count)
	}
}
