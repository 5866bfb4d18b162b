package pull

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/oci"
	"github.com/wasme-io/wasme-operator/internal/trust"
)

// maxSignatures is how many signatures of an image are read, those that turn out to be
// unreadable included. Each takes some milliseconds to verify. All together have up to
// maxSignatureBytes, and each up to trust.MaxLayerBytes.
const (
	maxSignatures     = 32
	maxSignatureBytes = 4 << 20
)

// Signatures are what a registry has beside an image. Nothing of it is verified.
type Signatures struct {
	Signatures []trust.Signature
	// Unreadable are what should be signatures, and is not in a form that they have.
	Unreadable []error
	// Bytes is how much was read.
	Bytes int64
}

// full reports whether no more signatures are read.
func (s *Signatures) full() bool { return len(s.Signatures)+len(s.Unreadable) >= maxSignatures }

// Signatures returns the signatures of the image whose manifest or index has that digest:
// those under cosign's tag, and those that refer to the image (OCI 1.1), which a registry
// lists or has in an index under the fallback tag. The error is a *module.Error.
func (i *Image) Signatures(ctx context.Context, image v1.Hash) (Signatures, error) {
	var found Signatures
	manifests, err := i.referrers(ctx, image)
	if err != nil {
		return found, err
	}
	references := []name.Reference{i.ref.Context().Tag(trust.TagOf(image))}
	for _, digest := range manifests {
		references = append(references, i.ref.Context().Digest(digest.String()))
	}
	for _, reference := range references {
		if found.full() {
			break
		}
		if err := i.readSignatures(ctx, reference, &found); err != nil {
			return Signatures{}, err
		}
	}
	return found, nil
}

// referrers returns the digests of manifests that refer to an image and may be signatures.
// Clients that write the index under the fallback tag leave the type out at times.
func (i *Image) referrers(ctx context.Context, image v1.Hash) ([]v1.Hash, error) {
	index, err := remote.Referrers(i.ref.Context().Digest(image.String()), remote.WithContext(ctx), remote.Reuse(i.remote))
	if err != nil {
		return nil, i.failed("looking up the signatures of", err)
	}
	listed, err := index.IndexManifest()
	if err != nil {
		return nil, i.failed("looking up the signatures of", err)
	}
	var digests []v1.Hash
	for _, descriptor := range listed.Manifests {
		if mayBeSignature(descriptor.ArtifactType) && len(digests) < maxSignatures {
			digests = append(digests, descriptor.Digest)
		}
	}
	return digests, nil
}

func mayBeSignature(artifactType string) bool {
	return artifactType == "" || strings.HasPrefix(artifactType, "application/vnd.dev.sigstore.bundle") ||
		strings.HasPrefix(artifactType, "application/vnd.dev.cosign.artifact.sig.") || artifactType == "application/vnd.oci.empty.v1+json"
}

// readSignatures reads those in the layers of a manifest, if there is one.
func (i *Image) readSignatures(ctx context.Context, reference name.Reference, into *Signatures) error {
	got, err := i.remote.Get(ctx, reference)
	if status, is := errors.AsType[*transport.Error](err); is && status.StatusCode == http.StatusNotFound {
		return nil
	}
	if err != nil {
		return unreadable(i.failed(readingSignature, err), into)
	}
	manifest, err := oci.ParseManifest(got.Manifest)
	if err != nil {
		return unreadable(err, into)
	}
	for _, layer := range manifest.Layers {
		if into.full() {
			break
		}
		if !trust.HasSignatures(layer) {
			continue
		}
		if err := i.readSignature(ctx, layer, into); err != nil {
			return err
		}
	}
	return nil
}

// readingSignature is what is done when it fails.
const readingSignature = "reading a signature of"

func (i *Image) readSignature(ctx context.Context, layer v1.Descriptor, into *Signatures) error {
	content, err := i.readLayer(ctx, layer, min(trust.MaxLayerBytes, maxSignatureBytes-into.Bytes))
	into.Bytes += int64(len(content))
	if err != nil {
		return unreadable(err, into)
	}
	signature, err := trust.ParseLayer(layer, content)
	if err != nil {
		into.Unreadable = append(into.Unreadable, err)
		return nil
	}
	into.Signatures = append(into.Signatures, signature)
	return nil
}

// unreadable notes what cannot be read because of its content: others of the image may be
// what is looked for. What fails because of the registry is returned: it is asked again.
func unreadable(failure error, into *Signatures) error {
	if about := module.AsError(failure); about != nil {
		switch about.Reason {
		case wasmev1.ReasonInvalidImage, wasmev1.ReasonDigestMismatch, wasmev1.ReasonTooLarge, wasmev1.ReasonImageNotFound:
			into.Unreadable = append(into.Unreadable, failure)
			return nil
		}
	}
	return failure
}

// readLayer reads a layer of at most limit bytes. The content is returned with an error,
// too, as far as it was read.
func (i *Image) readLayer(ctx context.Context, layer v1.Descriptor, limit int64) ([]byte, error) {
	if layer.Size < 0 || layer.Size > limit {
		return nil, i.largeSignature(layer.Size, limit)
	}
	blob, err := i.openBlob(ctx, layer)
	if err != nil {
		return nil, i.failed(readingSignature, err)
	}
	defer blob.Close()
	content, err := io.ReadAll(io.LimitReader(blob, layer.Size+1))
	if err != nil {
		return content, i.contentError(ctx, err)
	}
	if size := int64(len(content)); size > layer.Size {
		return content, i.largeSignature(size, layer.Size)
	}
	return content, nil
}

func (i *Image) largeSignature(size, limit int64) error {
	return module.Temporary(wasmev1.ReasonTooLarge, "%s %s: it has %d bytes of at most %d", readingSignature, i.req.Image, size, limit)
}
