package pull

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/oci"
	"github.com/wasme-io/wasme-operator/internal/module/store"
)

// maxIndexDepth is the number of indexes that may lead to an image.
const maxIndexDepth = 3

// Image is an image at its registry, reached with one request's credential, or among the
// preloaded ones. It keeps the registry's token between calls.
type Image struct {
	client *Client
	req    Request
	ref    name.Reference
	remote *remote.Puller
	// preloaded is the image in the folder of preloaded images; nil if it is not there.
	preloaded *preloadedImage
}

// OpenImage checks a request for an image and prepares to reach its registry; it
// connects to nothing. The error is a *module.Error.
func (c *Client) OpenImage(req Request) (*Image, error) {
	ref, err := parseReference(req.Image, req.PlainHTTP)
	if err != nil {
		return nil, err
	}
	if err := c.checkAllowed("spec.filter.image", ref.Context().RegistryStr()); err != nil {
		return nil, err
	}
	inner, err := c.transport(req)
	if err != nil {
		return nil, err
	}
	puller, err := remote.NewPuller(
		remote.WithTransport(&guard{inner: inner, plainHTTP: req.PlainHTTP, limits: c.options.Limits}),
		remote.WithAuth(c.authenticator(req, ref.Context().RegistryStr())),
		remote.WithUserAgent(userAgent),
		// The resolver tries again, later and for longer.
		remote.WithRetryPredicate(func(error) bool { return false }),
		remote.WithRetryStatusCodes(),
	)
	if err != nil {
		return nil, module.Terminal(wasmev1.ReasonInvalidSpec, "reading spec.filter.image %s: %v", req.Image, err)
	}
	return &Image{client: c, req: req, ref: ref, remote: puller}, nil
}

// authenticator returns who the registry is asked as. The cloud's credential goes only
// over connections that the usual authorities vouch for, as a FilterDeployment can say
// otherwise.
func (c *Client) authenticator(req Request, host string) authn.Authenticator {
	if c.usesCloud(req, host) {
		return cloudAuthenticator{c.options.Cloud, host}
	}
	return req.Credential.authenticator()
}

func (c *Client) usesCloud(req Request, host string) bool {
	verified := !req.PlainHTTP && !req.InsecureSkipVerify && req.CACertificates == ""
	return req.Credential == Credential{} && verified && c.options.Cloud != nil && c.options.Cloud.Covers(host)
}

func (c *Client) transport(req Request) (http.RoundTripper, error) {
	switch {
	case req.InsecureSkipVerify:
		return c.insecure, nil
	case req.CACertificates != "":
		return c.trusting(req.CACertificates)
	}
	return c.strict, nil
}

// Key returns the name under which the module of the image's manifest with that
// digest (sha256:<64 hex>) is remembered. What a registry proved over a verified
// connection is kept apart from what one claimed over any other, and what one
// repository holds from what others do: a registry may claim any digest.
func (i *Image) Key(digest string) string {
	key := i.ref.Context().Name() + "@" + digest
	switch {
	case i.req.PlainHTTP:
		return "plain-http " + key
	case i.req.InsecureSkipVerify:
		return "unverified " + key
	case i.req.CACertificates != "":
		return fmt.Sprintf("verified by %x %s", sha256.Sum256([]byte(i.req.CACertificates)), key)
	}
	return key
}

// Digest returns the digest of the image's manifest: of the preloaded image, which is for
// everyone, or the registry's answer, which proves that the credential may read the image.
// The error is a *module.Error.
func (i *Image) Digest(ctx context.Context) (v1.Hash, error) {
	if i.client.options.Preloaded == nil {
		return i.registryDigest(ctx)
	}
	found, unreadable := i.client.options.Preloaded.find(i.ref, i.client.options.Limits)
	if i.preloaded = found; found != nil {
		return checkAlgorithm(found.digest)
	}
	digest, err := i.registryDigest(ctx)
	return digest, notPreloaded(err, unreadable)
}

// notPreloaded adds to a registry's error that the image is not preloaded either.
func notPreloaded(err, unreadable error) error {
	failure := module.AsError(err)
	if failure == nil {
		return err
	}
	also := *failure
	also.Message += "; --preloaded-images does not have it either"
	if unreadable != nil {
		also.Message += fmt.Sprintf(", as far as it can be read: %v", unreadable)
	}
	return &also
}

// Preloaded reports whether an image is among the preloaded ones, so that no registry is
// asked.
func (c *Client) Preloaded(req Request) bool {
	if c.options.Preloaded == nil || req.Image == "" {
		return false
	}
	ref, err := parseReference(req.Image, req.PlainHTTP)
	if err != nil {
		return false
	}
	found, _ := c.options.Preloaded.find(ref, c.options.Limits)
	return found != nil
}

func (i *Image) registryDigest(ctx context.Context) (v1.Hash, error) {
	desc, err := i.remote.Head(ctx, i.ref)
	if err == nil {
		return checkAlgorithm(desc.Digest)
	}
	if !headUnsupported(err) {
		return v1.Hash{}, i.failed("looking up", err)
	}
	got, err := i.remote.Get(ctx, i.ref)
	if err != nil {
		return v1.Hash{}, i.failed("looking up", err)
	}
	return checkAlgorithm(got.Digest)
}

// headUnsupported reports whether the registry answers HEAD in a way that GET
// need not share: not at all, or without the headers that matter.
func headUnsupported(err error) bool {
	if status := (*transport.Error)(nil); errors.As(err, &status) {
		return status.StatusCode == http.StatusMethodNotAllowed || status.StatusCode == http.StatusNotImplemented
	}
	return strings.Contains(err.Error(), "response did not include")
}

// checkAlgorithm refuses digests other than sha256: status.module and proxies
// take no others.
func checkAlgorithm(digest v1.Hash) (v1.Hash, error) {
	if digest.Algorithm != "sha256" {
		return v1.Hash{}, module.Terminal(wasmev1.ReasonInvalidImage, "the image's digest is not a sha256: push the image with sha256 digests")
	}
	return digest, nil
}

// denied reports whether the registry did not take the credential.
func denied(err error) bool {
	status := (*transport.Error)(nil)
	return errors.As(err, &status) && status.StatusCode == http.StatusUnauthorized
}

func (i *Image) failed(doing string, err error) error {
	if errors.Is(err, http.ErrSchemeMismatch) && !i.req.PlainHTTP {
		return plainHTTPRefused(i.ref.Context().RegistryStr())
	}
	if host := i.ref.Context().RegistryStr(); denied(err) && i.client.usesCloud(i.req, host) {
		i.client.options.Cloud.Forget(host)
	}
	return registryError(doing+" "+i.req.Image, i.ref.Context().RegistryStr(), err)
}

// Pull reads the image whose manifest or index has that digest, and puts its
// module into the store. The error is a *module.Error.
func (i *Image) Pull(ctx context.Context, top v1.Hash, into *store.Store) (module.Module, error) {
	digest, m, err := i.resolveIndex(ctx, top)
	if err != nil {
		return module.Module{}, err
	}
	out, err := into.Create()
	if err != nil {
		return module.Module{}, err
	}
	defer out.Discard()
	contents, err := i.client.unpacker.Unpack(m, i.fetcher(ctx, into), out)
	if err != nil {
		return module.Module{}, err
	}
	pulled, err := out.Keep()
	if err != nil {
		return module.Module{}, err
	}
	pulled.Reference, pulled.ManifestDigest = i.req.Image, digest.String()
	pulled.RootIDs, pulled.Tests, pulled.AgentRefuses = contents.RootIDs, contents.Tests, contents.AgentRefuses
	return pulled, nil
}

// resolveIndex follows indexes down to the manifest of one image.
func (i *Image) resolveIndex(ctx context.Context, digest v1.Hash) (v1.Hash, *oci.Manifest, error) {
	for range maxIndexDepth {
		manifest, err := i.manifest(ctx, digest)
		if err != nil {
			return v1.Hash{}, nil, i.failed("pulling the manifest of", err)
		}
		m, err := oci.ParseManifest(manifest)
		if err != nil {
			return v1.Hash{}, nil, err
		}
		if !m.IsIndex() {
			return digest, m, nil
		}
		child, err := m.Child()
		if err != nil {
			return v1.Hash{}, nil, err
		}
		if digest, err = checkAlgorithm(child.Digest); err != nil {
			return v1.Hash{}, nil, err
		}
	}
	return v1.Hash{}, nil, module.Terminal(wasmev1.ReasonInvalidImage, "the image's indexes are nested more than %d deep: reference the image itself", maxIndexDepth)
}

func (i *Image) manifest(ctx context.Context, digest v1.Hash) ([]byte, error) {
	if i.preloaded != nil {
		return i.preloaded.manifest(digest)
	}
	desc, err := i.remote.Get(ctx, i.ref.Context().Digest(digest.String()))
	if err != nil {
		return nil, err
	}
	return desc.Manifest, nil
}

// fetcher returns a function that brings a blob onto disk and checks its
// digest, so that nothing is unpacked that the manifest does not cover.
func (i *Image) fetcher(ctx context.Context, into *store.Store) func(v1.Descriptor) (oci.Blob, error) {
	return func(desc v1.Descriptor) (oci.Blob, error) {
		file, err := into.Create()
		if err != nil {
			return nil, err
		}
		if err := i.download(ctx, desc, file); err != nil {
			file.Discard()
			return nil, err
		}
		return file, nil
	}
}

func (i *Image) download(ctx context.Context, desc v1.Descriptor, to io.Writer) error {
	blob, err := i.openBlob(ctx, desc)
	if err != nil {
		return i.failed("pulling a layer of", err)
	}
	defer blob.Close()
	n, err := io.Copy(to, blob)
	pulledBytesTotal.Add(float64(n))
	if err != nil {
		return i.contentError(ctx, err)
	}
	return nil
}

// contentError classifies an error in a blob's content. What is neither ours nor
// the connection's is ggcr's check of the digest.
func (i *Image) contentError(ctx context.Context, err error) error {
	if module.AsError(err) != nil || brokenConnection(err) != "" || ctx.Err() != nil {
		return i.failed("pulling a layer of", err)
	}
	return module.Temporary(wasmev1.ReasonDigestMismatch, "pulling a layer of %s: %s sends content that does not match its digest", i.req.Image, i.ref.Context().RegistryStr())
}

func (i *Image) openBlob(ctx context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	if i.preloaded != nil {
		return i.preloaded.blob(desc)
	}
	layer, err := i.remote.Layer(ctx, i.ref.Context().Digest(desc.Digest.String()))
	if err != nil {
		return nil, err
	}
	return layer.Compressed()
}
