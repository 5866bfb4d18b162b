package signing

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore/pkg/signature"
	sigdsse "github.com/sigstore/sigstore/pkg/signature/dsse"
	"google.golang.org/protobuf/encoding/protojson"
)

// Predicates of statements about images.
const (
	// Signed is that of cosign 3.
	Signed = "https://sigstore.dev/cosign/sign/v1"
	// Provenance is that of GitHub's attestations.
	Provenance = "https://slsa.dev/provenance/v1"
	// Scanned is that of a scan for vulnerabilities, which is no signature.
	Scanned = "https://cosign.sigstore.dev/attestation/vuln/v1"
)

// BundleType is the media type of Sigstore bundles.
const BundleType = types.MediaType("application/vnd.dev.sigstore.bundle.v0.3+json")

// Layer is a signature as a layer of a manifest.
type Layer struct {
	MediaType   types.MediaType
	Annotations map[string]string
	Content     []byte
}

// Descriptor returns that of the layer.
func (l Layer) Descriptor() v1.Descriptor {
	digest, size, err := v1.SHA256(bytes.NewReader(l.Content))
	if err != nil {
		panic(err) // a reader of bytes
	}
	return v1.Descriptor{MediaType: l.MediaType, Size: size, Digest: digest, Annotations: l.Annotations}
}

// SimpleSigning signs an image as cosign 1 and 2 do.
func (s Signer) SimpleSigning(image v1.Hash) (Layer, error) {
	payload, err := json.Marshal(map[string]any{
		"critical": map[string]any{
			"identity": map[string]any{"docker-reference": "registry.example/filter"},
			"image":    map[string]any{"docker-manifest-digest": image.String()},
			"type":     "cosign container image signature",
		},
		"optional": nil,
	})
	if err != nil {
		return Layer{}, err
	}
	annotations, err := s.annotations(payload)
	return Layer{MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Annotations: annotations, Content: payload}, err
}

func (s Signer) annotations(payload []byte) (map[string]string, error) {
	if s.key != nil {
		signer, err := signature.LoadDefaultSigner(s.key)
		if err != nil {
			return nil, err
		}
		signed, err := signer.SignMessage(bytes.NewReader(payload))
		return map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(signed)}, err
	}
	made, err := s.instance.authority.SignAtTime(s.identity, s.issuer, payload, s.signedAt)
	if err != nil {
		return nil, err
	}
	content, err := made.SignatureContent()
	if err != nil {
		return nil, err
	}
	material, err := s.material(made)
	if err != nil {
		return nil, err
	}
	rekor, err := rekorAnnotation(material.TlogEntries[0])
	if err != nil {
		return nil, err
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: material.GetCertificate().GetRawBytes()})
	all := map[string]string{
		"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(content.Signature()),
		"dev.sigstore.cosign/certificate":    string(certificate),
		"dev.sigstore.cosign/bundle":         rekor,
	}
	if data := material.GetTimestampVerificationData(); data != nil {
		timestamp, err := json.Marshal(map[string][]byte{"SignedRFC3161Timestamp": data.Rfc3161Timestamps[0].SignedTimestamp})
		if err != nil {
			return nil, err
		}
		all["dev.sigstore.cosign/rfc3161timestamp"] = string(timestamp)
	}
	return all, nil
}

// rekorAnnotation is cosign's form of an entry in the transparency log.
func rekorAnnotation(entry *protorekor.TransparencyLogEntry) (string, error) {
	text, err := json.Marshal(map[string]any{
		"SignedEntryTimestamp": entry.GetInclusionPromise().GetSignedEntryTimestamp(),
		"Payload": map[string]any{
			"body": entry.GetCanonicalizedBody(), "integratedTime": entry.GetIntegratedTime(),
			"logIndex": entry.GetLogIndex(), "logID": fmt.Sprintf("%x", entry.GetLogId().GetKeyId()),
		},
	})
	return string(text), err
}

// Bundle signs a statement about an image, as cosign 3 and GitHub do.
func (s Signer) Bundle(image v1.Hash, predicate string) (Layer, error) {
	statement, err := json.Marshal(map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       []any{map[string]any{"name": "", "digest": map[string]string{image.Algorithm: image.Hex}}},
		"predicateType": predicate, "predicate": map[string]any{},
	})
	if err != nil {
		return Layer{}, err
	}
	envelope, material, err := s.attest(statement)
	if err != nil {
		return Layer{}, err
	}
	signatures := make([]*protodsse.Signature, 0, len(envelope.Signatures))
	for _, one := range envelope.Signatures {
		signed, err := base64.StdEncoding.DecodeString(one.Sig)
		if err != nil {
			return Layer{}, err
		}
		signatures = append(signatures, &protodsse.Signature{Sig: signed})
	}
	content, err := protojson.Marshal(&protobundle.Bundle{
		MediaType: string(BundleType), VerificationMaterial: material,
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			PayloadType: envelope.PayloadType, Payload: statement, Signatures: signatures,
		}},
	})
	return Layer{MediaType: BundleType, Content: content}, err
}

const statementType = "application/vnd.in-toto+json"

func (s Signer) attest(statement []byte) (*dsse.Envelope, *protobundle.VerificationMaterial, error) {
	if s.key != nil {
		signer, err := signature.LoadDefaultSigner(s.key)
		if err != nil {
			return nil, nil, err
		}
		envelopes, err := dsse.NewEnvelopeSigner(&sigdsse.SignerAdapter{SignatureSigner: signer, Pub: s.key.Public()})
		if err != nil {
			return nil, nil, err
		}
		envelope, err := envelopes.SignPayload(context.Background(), statementType, statement)
		return envelope, &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{Hint: "key"}}}, err
	}
	made, err := s.instance.authority.AttestAtTime(s.identity, s.issuer, statement, s.signedAt, true)
	if err != nil {
		return nil, nil, err
	}
	content, err := made.SignatureContent()
	if err != nil {
		return nil, nil, err
	}
	material, err := s.material(made)
	return content.EnvelopeContent().RawEnvelope(), material, err
}

// material is the certificate of a signature, and what proves when it was made.
func (s Signer) material(made *ca.TestEntity) (*protobundle.VerificationMaterial, error) {
	content, err := made.VerificationContent()
	if err != nil {
		return nil, err
	}
	entries, err := made.TlogEntries()
	if err != nil {
		return nil, err
	}
	timestamps, err := made.Timestamps()
	if err != nil {
		return nil, err
	}
	entry, err := s.logged(entries[0].TransparencyLogEntry())
	if err != nil {
		return nil, err
	}
	material := &protobundle.VerificationMaterial{
		Content:     &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: content.Certificate().Raw}},
		TlogEntries: []*protorekor.TransparencyLogEntry{entry},
	}
	if !s.withoutTimestamps {
		material.TimestampVerificationData = &protobundle.TimestampVerificationData{
			Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: timestamps[0]}},
		}
	}
	return material, nil
}

// logged completes an entry of the log with what the authority leaves out: its kind, and
// the log's promise to include it.
func (s Signer) logged(entry *protorekor.TransparencyLogEntry) (*protorekor.TransparencyLogEntry, error) {
	var body struct{ Kind, APIVersion string }
	if err := json.Unmarshal(entry.GetCanonicalizedBody(), &body); err != nil {
		return nil, err
	}
	promise, err := s.instance.authority.RekorSignPayload(tlog.RekorPayload{
		Body: base64.StdEncoding.EncodeToString(entry.GetCanonicalizedBody()), IntegratedTime: entry.GetIntegratedTime(),
		LogIndex: entry.GetLogIndex(), LogID: hex.EncodeToString(entry.GetLogId().GetKeyId()),
	})
	if err != nil {
		return nil, err
	}
	entry.KindVersion = &protorekor.KindVersion{Kind: body.Kind, Version: body.APIVersion}
	entry.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: promise}
	return entry, nil
}
