package module

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// PullerOptions say where a Puller may connect to and how much it reads.
type PullerOptions struct {
	// DeniedNetworks are the addresses that are never connected to, checked
	// after DNS, for registries, URLs, redirects and token servers (--denied-networks).
	// The unspecified addresses count as loopback, IPv4-mapped ones as IPv4.
	DeniedNetworks []netip.Prefix
	// AllowedRegistries are the hosts (with port, where it is not the scheme's)
	// that images and URLs may name; empty means all (--allowed-registries).
	AllowedRegistries []string
	// Limits bound what is read.
	Limits Limits
}

// DefaultDeniedNetworks is the default of --denied-networks: loopback and
// link-local addresses, where nodes and clouds keep what is not for tenants.
var DefaultDeniedNetworks = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("fe80::/10"),
}

// unpackers is the number of images that are unpacked at once: it bounds the
// memory of decompression. Unpacking reads from disk, so no registry delays it.
const unpackers = 2

// userAgent is who asks.
const userAgent = "wasme-operator"

// Puller reads images from registries, and modules from URLs.
type Puller struct {
	options   PullerOptions
	strict    http.RoundTripper
	insecure  http.RoundTripper
	web       *http.Client
	unpacking chan struct{}
}

// NewPuller returns a Puller within opts.
func NewPuller(opts PullerOptions) *Puller {
	return &Puller{
		options:   opts,
		strict:    newTransport(opts.DeniedNetworks, false),
		insecure:  newTransport(opts.DeniedNetworks, true),
		web:       newWebClient(opts.DeniedNetworks),
		unpacking: make(chan struct{}, unpackers),
	}
}

// source is an image at its registry, reached with one request's credential.
// It keeps the registry's token between calls.
type source struct {
	puller    *Puller
	image     string
	plainHTTP bool
	ref       name.Reference
	remote    *remote.Puller
}

// open checks a request and prepares to reach its registry; it connects to nothing.
func (p *Puller) open(req Request) (*source, error) {
	ref, err := parseReference(req.Image, req.PlainHTTP)
	if err != nil {
		return nil, err
	}
	if err := p.checkAllowed("spec.filter.image", ref.Context().RegistryStr()); err != nil {
		return nil, err
	}
	puller, err := remote.NewPuller(
		remote.WithTransport(&guard{inner: p.transport(req), plainHTTP: req.PlainHTTP, limits: p.options.Limits}),
		remote.WithAuth(req.Credential.authenticator()),
		remote.WithUserAgent(userAgent),
		// The resolver tries again, later and for longer.
		remote.WithRetryPredicate(func(error) bool { return false }),
		remote.WithRetryStatusCodes(),
	)
	if err != nil {
		return nil, refused(wasmev1.ReasonInvalidSpec, "reading spec.filter.image %s: %v", req.Image, err)
	}
	return &source{puller: p, image: req.Image, plainHTTP: req.PlainHTTP, ref: ref, remote: puller}, nil
}

func (p *Puller) transport(req Request) http.RoundTripper {
	if req.InsecureSkipVerify {
		return p.insecure
	}
	return p.strict
}

func parseReference(image string, plainHTTP bool) (name.Reference, error) {
	var opts []name.Option
	if plainHTTP {
		opts = append(opts, name.Insecure)
	}
	ref, err := name.ParseReference(image, opts...)
	if err != nil {
		return nil, refused(wasmev1.ReasonInvalidSpec, "reading spec.filter.image: %v: write it as host/repository:tag or host/repository@sha256:<digest>", err)
	}
	return ref, nil
}

func (p *Puller) checkAllowed(field, host string) error {
	same := func(allowed string) bool { return canonicalHost(allowed) == canonicalHost(host) }
	if allowed := p.options.AllowedRegistries; len(allowed) > 0 && !slices.ContainsFunc(allowed, same) {
		return refused(wasmev1.ReasonRegistryForbidden, "%s: the operator's --allowed-registries does not list %s: use %s", field, host, strings.Join(allowed, ", "))
	}
	return nil
}

// head asks the registry for the digest of the image's manifest. An answer
// proves that the credential may read the image.
func (s *source) head(ctx context.Context) (v1.Hash, error) {
	desc, err := s.remote.Head(ctx, s.ref)
	if err == nil {
		return checkAlgorithm(desc.Digest)
	}
	if !headUnsupported(err) {
		return v1.Hash{}, s.failed("looking up", err)
	}
	got, err := s.remote.Get(ctx, s.ref)
	if err != nil {
		return v1.Hash{}, s.failed("looking up", err)
	}
	return checkAlgorithm(got.Digest)
}

// headUnsupported says whether the registry answers HEAD in a way that GET
// need not share: not at all, or without the headers that matter.
func headUnsupported(err error) bool {
	if status := (*transport.Error)(nil); errors.As(err, &status) {
		return status.StatusCode == http.StatusMethodNotAllowed || status.StatusCode == http.StatusNotImplemented
	}
	return strings.Contains(err.Error(), "response did not include")
}

// checkAlgorithm: status.module and proxies take sha256 only.
func checkAlgorithm(digest v1.Hash) (v1.Hash, error) {
	if digest.Algorithm != "sha256" {
		return v1.Hash{}, refused(wasmev1.ReasonInvalidImage, "the image's digest is not a sha256: push the image with sha256 digests")
	}
	return digest, nil
}

func (s *source) failed(doing string, err error) error {
	if errors.Is(err, http.ErrSchemeMismatch) && !s.plainHTTP {
		return plainHTTPRefused(s.ref.Context().RegistryStr())
	}
	return registryError(doing+" "+s.image, s.ref.Context().RegistryStr(), err)
}

// pull reads the image whose manifest, or index, has that digest, and puts its
// module into store.
func (s *source) pull(ctx context.Context, top v1.Hash, store *Store) (Module, error) {
	digest, m, err := s.resolveIndex(ctx, top)
	if err != nil {
		return Module{}, err
	}
	out, err := store.create()
	if err != nil {
		return Module{}, err
	}
	defer out.discard()
	u := &unpacker{limits: s.puller.options.Limits, out: out, fetch: s.fetcher(ctx, store), slots: s.puller.unpacking}
	if err := u.unpack(m); err != nil {
		return Module{}, err
	}
	pulled, err := out.keep()
	if err != nil {
		return Module{}, err
	}
	pulled.Reference, pulled.ManifestDigest = s.image, digest.String()
	pulled.RootIDs, pulled.AgentRefuses = u.rootIDs, agentRefuses(m, u.taken)
	return pulled, nil
}

// resolveIndex follows indexes down to the manifest of one image.
func (s *source) resolveIndex(ctx context.Context, digest v1.Hash) (v1.Hash, *manifest, error) {
	for range maxIndexDepth {
		desc, err := s.remote.Get(ctx, s.ref.Context().Digest(digest.String()))
		if err != nil {
			return v1.Hash{}, nil, s.failed("pulling the manifest of", err)
		}
		m, err := parseManifest(desc.Manifest)
		if err != nil {
			return v1.Hash{}, nil, err
		}
		if len(m.Manifests) == 0 {
			return digest, m, nil
		}
		child, err := m.child()
		if err != nil {
			return v1.Hash{}, nil, err
		}
		if digest, err = checkAlgorithm(child.Digest); err != nil {
			return v1.Hash{}, nil, err
		}
	}
	return v1.Hash{}, nil, refused(wasmev1.ReasonInvalidImage, "the image's indexes are nested more than %d deep: name the image itself", maxIndexDepth)
}

// fetcher returns a function that brings a blob onto disk and checks its
// digest, so that nothing is unpacked that the manifest does not cover.
func (s *source) fetcher(ctx context.Context, store *Store) func(v1.Descriptor) (*tempFile, error) {
	return func(desc v1.Descriptor) (*tempFile, error) {
		file, err := store.create()
		if err != nil {
			return nil, err
		}
		if err := s.download(ctx, desc, file); err != nil {
			file.discard()
			return nil, err
		}
		return file, nil
	}
}

func (s *source) download(ctx context.Context, desc v1.Descriptor, to io.Writer) error {
	blob, err := s.openBlob(ctx, desc)
	if err != nil {
		return s.failed("pulling a layer of", err)
	}
	defer blob.Close()
	n, err := io.Copy(to, blob)
	pulledBytesTotal.Add(float64(n))
	if err != nil {
		return s.contentError(ctx, err)
	}
	return nil
}

// contentError: what is neither ours nor the connection's is ggcr's check of the digest.
func (s *source) contentError(ctx context.Context, err error) error {
	if asError(err) != nil || brokenConnection(err) != "" || ctx.Err() != nil {
		return s.failed("pulling a layer of", err)
	}
	return failed(wasmev1.ReasonDigestMismatch, "pulling a layer of %s: %s sends content that its digest does not cover", s.image, s.ref.Context().RegistryStr())
}

func (s *source) openBlob(ctx context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	layer, err := s.remote.Layer(ctx, s.ref.Context().Digest(desc.Digest.String()))
	if err != nil {
		return nil, err
	}
	return layer.Compressed()
}
