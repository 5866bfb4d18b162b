package pull

import (
	"strings"
	"testing"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

func TestHostAndWhere(t *testing.T) {
	for name, c := range map[string]struct {
		req         Request
		host, where string
	}{
		"an image":                 {Request{Image: "ghcr.io/a/b:v1"}, "ghcr.io", "ghcr.io/a/b:v1"},
		"an image at a port":       {Request{Image: "localhost:5000/a"}, "localhost:5000", "localhost:5000/a"},
		"an image of Docker Hub":   {Request{Image: "a/b"}, "index.docker.io", "a/b"},
		"no image":                 {Request{Image: "Not A Reference"}, "", "Not A Reference"},
		"a URL":                    {Request{URL: "https://Example.com/a?key=1"}, "example.com", "the URL of example.com"},
		"a URL with its own port":  {Request{URL: "https://example.com:443/"}, "example.com", "the URL of example.com"},
		"http with its own port":   {Request{URL: "http://example.com:80/"}, "example.com", "the URL of example.com"},
		"https with http's port":   {Request{URL: "https://example.com:80/"}, "example.com:80", "the URL of example.com:80"},
		"http with https's port":   {Request{URL: "http://example.com:443/"}, "example.com:443", "the URL of example.com:443"},
		"no URL":                   {Request{URL: "ftp://example.com/?key=1"}, "", "the URL of "},
		"a URL before an image":    {Request{URL: "https://example.com/", Image: "ghcr.io/a/b"}, "example.com", "the URL of example.com"},
		"a URL with a user's name": {Request{URL: "https://ann@example.com/"}, "", "the URL of "},
	} {
		t.Run(name, func(t *testing.T) {
			if c.req.Host() != c.host || c.req.Where() != c.where {
				t.Errorf("%q and %q, not %q and %q", c.req.Host(), c.req.Where(), c.host, c.where)
			}
		})
	}
}

func FuzzImageReference(f *testing.F) {
	for _, seed := range []string{
		"ghcr.io/a/b:v1", "a/b", "ghcr.io:443/a/b@sha256:" + moduletest.SHA256(""), "ghcr.io/a/b:v1@sha256:" + moduletest.SHA256(""),
		"[::1]:5000/a", "ghcr.io@evil.example/a", "GHCR.io/a/b", "https://ghcr.io/a/b", "ghcr.io/../a", "ghcr.io/a/b:v1\n",
	} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	client := NewClient(Options{AllowedRegistries: []string{"ghcr.io"}, Limits: module.DefaultLimits})
	f.Fuzz(func(t *testing.T, image string, plainHTTP bool) {
		req := Request{Image: image, PlainHTTP: plainHTTP}
		opened, err := client.OpenImage(req)
		if err != nil {
			if e := module.AsError(err); e == nil || !e.Terminal || e.Reason != wasmev1.ReasonInvalidSpec && e.Reason != wasmev1.ReasonRegistryForbidden {
				t.Errorf("not classified: %v", err)
			}
			return
		}
		if host := strings.TrimSuffix(strings.ToLower(req.Host()), ":443"); host != "ghcr.io" || opened.ref.Context().RegistryStr() != req.Host() {
			t.Errorf("%q leads to %s", image, req.Host())
		}
	})
}
