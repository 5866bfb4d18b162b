package pull

import (
	"net/url"
	"strings"
	"unicode"

	"github.com/google/go-containerregistry/pkg/name"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
)

// Request says where a module is, an image or a URL, and how it is reached.
// Requests that are equal lead to the same module.
type Request struct {
	// URL is where the module itself is, by http or https; it takes the place of Image.
	URL string
	// SHA256 is the digest that the module at URL has, in 64 lower case
	// hexadecimal digits. Images have none.
	SHA256 string
	// Image is the OCI reference, by tag or by digest. What follows is for images.
	Image string
	// PlainHTTP allows plain HTTP to the image's registry.
	PlainHTTP bool
	// InsecureSkipVerify accepts any certificate of the image's registry.
	InsecureSkipVerify bool
	// CACertificates are certificates in PEM of authorities that are trusted for the
	// image's registry, too; empty for none.
	CACertificates string
	// Credential is shown to the registry; the zero value is anonymous.
	Credential Credential
	// Once says that the first image that the registry names is the answer: nobody asks
	// again whether the tag has moved, or whether the image may still be read.
	Once bool
}

// Host returns the registry of the image, or the host of the URL, with its port
// where that is not the scheme's; empty when neither can be read.
func (req Request) Host() string {
	if req.URL != "" {
		at, err := parseURL(req.URL)
		if err != nil {
			return ""
		}
		return urlHost(at)
	}
	ref, err := parseReference(req.Image, req.PlainHTTP)
	if err != nil {
		return ""
	}
	return ref.Context().RegistryStr()
}

// Where returns what the request names, fit for logs: a URL's query may hold a key.
func (req Request) Where() string {
	if req.URL != "" {
		return "the URL of " + req.Host()
	}
	return req.Image
}

func parseReference(image string, plainHTTP bool) (name.Reference, error) {
	var opts []name.Option
	if plainHTTP {
		opts = append(opts, name.Insecure)
	}
	ref, err := name.ParseReference(image, opts...)
	if err != nil {
		return nil, module.Terminal(wasmev1.ReasonInvalidSpec, "reading spec.filter.image: %v: write it as host/repository:tag or host/repository@sha256:<digest>", err)
	}
	return ref, checkName(ref.Context())
}

// checkName refuses names that resolvers and servers read in their own ways: they would lead
// to another image than the one that policies and Secrets know by that name.
func checkName(image name.Repository) error {
	host := (&url.URL{Host: image.RegistryStr()}).Hostname()
	if strings.HasSuffix(host, ".") || strings.ContainsFunc(host, func(r rune) bool { return r > unicode.MaxASCII }) {
		return module.Terminal(wasmev1.ReasonInvalidSpec, "reading spec.filter.image: write the name of the registry in ASCII, and without a dot at its end")
	}
	for part := range strings.SplitSeq(image.RepositoryStr(), "/") {
		if part == "" || part == "." || part == ".." {
			return module.Terminal(wasmev1.ReasonInvalidSpec, "reading spec.filter.image: a part of the repository's name is empty or consists of dots: leave it out")
		}
	}
	return nil
}

func parseURL(text string) (*url.URL, error) {
	at, err := url.Parse(text)
	if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Hostname() == "" || at.User != nil {
		return nil, module.Terminal(wasmev1.ReasonInvalidSpec, "reading spec.filter.url: write it as https://host/path or http://host/path, without user and password")
	}
	return at, nil
}

// urlHost returns the host of a URL, with its port where that is not the scheme's.
func urlHost(at *url.URL) string {
	standard := ":443"
	if at.Scheme == "http" {
		standard = ":80"
	}
	return strings.TrimSuffix(strings.ToLower(at.Host), standard)
}
