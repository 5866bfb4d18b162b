package trust

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"k8s.io/utils/lru"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

const (
	// simpleSigning is the media type of what cosign signs.
	simpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	// bundlePrefix begins the media types of Sigstore bundles, of every version.
	bundlePrefix = "application/vnd.dev.sigstore.bundle"
)

// The annotations of a layer in the simple signing format.
const (
	signatureAnnotation   = "dev.cosignproject.cosign/signature"
	certificateAnnotation = "dev.sigstore.cosign/certificate"
	rekorAnnotation       = "dev.sigstore.cosign/bundle"
	timestampAnnotation   = "dev.sigstore.cosign/rfc3161timestamp"
)

// MaxLayerBytes is the size of the largest layer that is read: a bundle, or what was signed.
const MaxLayerBytes = 1 << 20

// HasSignatures reports whether a layer is a signature.
func HasSignatures(layer v1.Descriptor) bool {
	return layer.MediaType == simpleSigning || strings.HasPrefix(string(layer.MediaType), bundlePrefix)
}

// TagOf returns the tag under which cosign puts the signatures of an image.
func TagOf(image v1.Hash) string { return image.Algorithm + "-" + image.Hex + ".sig" }

// Signature is one that a registry has for an image. Nothing of it is verified.
type Signature struct {
	// payload is what was signed in the simple signing format; nil in a bundle.
	payload []byte
	bundle  *bundle.Bundle
	// verified has what was found of it (verification), since that takes milliseconds and
	// is asked for again and again; nil when nothing is remembered.
	verified *lru.Cache
}

// maxVerified is the number of roots and images for which it is remembered.
const maxVerified = 8

// ParseLayer reads the signature in a layer, whose digest was checked.
func ParseLayer(layer v1.Descriptor, content []byte) (parsed Signature, err error) {
	defer survive(&err)
	defer func() { parsed.verified = lru.New(maxVerified) }()
	if layer.MediaType == simpleSigning {
		return parseSimpleSigning(layer.Annotations, content)
	}
	read := &bundle.Bundle{}
	if err := read.UnmarshalJSON(content); err != nil {
		return Signature{}, fmt.Errorf("reading a Sigstore bundle: %w", err)
	}
	return Signature{bundle: read}, nil
}

// survive is deferred around what reads signatures: they were written by anyone who can
// push to the registry, so a panic of a parser means that a signature cannot be read.
func survive(err *error) {
	if cause := recover(); cause != nil {
		*err = fmt.Errorf("it could not be read: %v", cause)
	}
}

// parseSimpleSigning makes a bundle of cosign's annotations.
func parseSimpleSigning(annotations map[string]string, payload []byte) (Signature, error) {
	signed, err := base64.StdEncoding.DecodeString(annotations[signatureAnnotation])
	if err != nil || len(signed) == 0 {
		return Signature{}, fmt.Errorf("reading the annotation %s: it is not in base64", signatureAnnotation)
	}
	material, err := verificationMaterial(annotations)
	if err != nil {
		return Signature{}, err
	}
	mediaType, err := bundle.MediaTypeString("0.1")
	if err != nil {
		return Signature{}, err
	}
	digest := sha256.Sum256(payload)
	read, err := bundle.NewBundle(&protobundle.Bundle{
		MediaType: mediaType, VerificationMaterial: material,
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: digest[:]}, Signature: signed,
		}},
	})
	if err != nil {
		return Signature{}, fmt.Errorf("reading the annotations of a signature: %w", err)
	}
	return Signature{payload: slices.Clone(payload), bundle: read}, nil
}

// verificationMaterial returns the certificate of a signature, or that it is by a key, and
// what proves when it was made.
func verificationMaterial(annotations map[string]string) (*protobundle.VerificationMaterial, error) {
	material := &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{}}}
	if text := annotations[certificateAnnotation]; text != "" {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return nil, fmt.Errorf("reading the annotation %s: it is not in PEM", certificateAnnotation)
		}
		material.Content = &protobundle.VerificationMaterial_X509CertificateChain{
			X509CertificateChain: &protocommon.X509CertificateChain{Certificates: []*protocommon.X509Certificate{{RawBytes: block.Bytes}}},
		}
	}
	if text := annotations[rekorAnnotation]; text != "" {
		entry, err := logEntry(text)
		if err != nil {
			return nil, fmt.Errorf("reading the annotation %s: %w", rekorAnnotation, err)
		}
		material.TlogEntries = append(material.TlogEntries, entry)
	}
	if text := annotations[timestampAnnotation]; text != "" {
		var timestamp struct{ SignedRFC3161Timestamp []byte }
		if err := json.Unmarshal([]byte(text), &timestamp); err != nil {
			return nil, fmt.Errorf("reading the annotation %s: %w", timestampAnnotation, err)
		}
		material.TimestampVerificationData = &protobundle.TimestampVerificationData{
			Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: timestamp.SignedRFC3161Timestamp}},
		}
	}
	return material, nil
}

// logEntry reads cosign's form of an entry of the transparency log, with the log's promise
// to include it.
func logEntry(text string) (*protorekor.TransparencyLogEntry, error) {
	var entry struct {
		SignedEntryTimestamp []byte
		Payload              struct {
			Body           []byte
			IntegratedTime int64
			LogIndex       int64
			LogID          string
		}
	}
	if err := json.Unmarshal([]byte(text), &entry); err != nil {
		return nil, err
	}
	var body struct{ Kind, APIVersion string }
	if err := json.Unmarshal(entry.Payload.Body, &body); err != nil {
		return nil, err
	}
	id, err := hex.DecodeString(entry.Payload.LogID)
	if err != nil {
		return nil, err
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex: entry.Payload.LogIndex, LogId: &protocommon.LogId{KeyId: id},
		KindVersion:    &protorekor.KindVersion{Kind: body.Kind, Version: body.APIVersion},
		IntegratedTime: entry.Payload.IntegratedTime, CanonicalizedBody: entry.Payload.Body,
		InclusionPromise: &protorekor.InclusionPromise{SignedEntryTimestamp: entry.SignedEntryTimestamp},
	}, nil
}

// signedDigest returns the digest of the image that a payload in the simple signing format
// is about.
func signedDigest(payload []byte) (string, error) {
	var content struct {
		Critical struct {
			Type  string
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			}
		}
	}
	if err := json.Unmarshal(payload, &content); err != nil {
		return "", err
	}
	if content.Critical.Type != "cosign container image signature" && content.Critical.Type != "atomic container signature" {
		return "", errors.New("it is not about an image")
	}
	return content.Critical.Image.Digest, nil
}

// predicates are the statements about an image that count as its signature. Others, such as
// the result of a scan, may say that it is bad.
var predicates = map[string]wasmev1.SignatureForm{
	"https://sigstore.dev/cosign/sign/v1": wasmev1.SignatureBundle,
	"https://slsa.dev/provenance/v1":      wasmev1.SignatureAttestation,
	"https://slsa.dev/provenance/v0.2":    wasmev1.SignatureAttestation,
}
