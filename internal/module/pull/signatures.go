package pull

import (
	"bytes"
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

// maxSignatures is how many signatures of an image are read. Each takes up to 1 MiB, and
// some milliseconds to verify.
const maxSignatures = 32

// Signatures are what a registry has beside an image. Nothing of it is verified.
type Signatures struct {
	Signatures []trust.Signature
	// Unreadable are what should be signatures, and is not in a form that they have.
	Unreadable []error
}

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
		return i.unreadable(err, into)
	}
	manifest, err := oci.ParseManifest(got.Manifest)
	if err != nil {
		return i.unreadable(err, into)
	}
	for _, layer := range manifest.Layers {
		if !trust.HasSignatures(layer) || len(into.Signatures)+len(into.Unreadable) == maxSignatures {
			continue
		}
		content, err := i.readLayer(ctx, layer)
		if err != nil {
			return err
		}
		if signature, err := trust.ParseLayer(layer, content); err != nil {
			into.Unreadable = append(into.Unreadable, err)
		} else {
			into.Signatures = append(into.Signatures, signature)
		}
	}
	return nil
}

// unreadable notes a manifest that cannot be read. Whether that is because of its content
// or because of the registry decides: the registry is asked again.
func (i *Image) unreadable(err error, into *Signatures) error {
	failure := i.failed("reading a signature of", err)
	if about := module.AsError(failure); about != nil && (about.Reason == wasmev1.ReasonInvalidImage || about.Reason == wasmev1.ReasonDigestMismatch) {
		into.Unreadable = append(into.Unreadable, err)
		return nil
	}
	return failure
}

func (i *Image) readLayer(ctx context.Context, layer v1.Descriptor) ([]byte, error) {
	blob, err := i.openBlob(ctx, layer)
	if err != nil {
		return nil, i.failed("reading a signature of", err)
	}
	defer blob.Close()
	var content bytes.Buffer
	n, err := io.Copy(&content, io.LimitReader(blob, trust.MaxLayerBytes+1))
	if err != nil {
		return nil, i.contentError(ctx, err)
	}
	if n > trust.MaxLayerBytes {
		return nil, module.Temporary(wasmev1.ReasonTooLarge, "reading a signature of %s: it is larger than %d bytes: remove it from the registry", i.req.Image, trust.MaxLayerBytes)
	}
	return content.Bytes(), nil
}
