package trust

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// Identity is who has signed: a certificate of a trusted Sigstore instance says so.
type Identity struct {
	// Issuer is the OpenID Connect issuer, and Subject an email address or a URI.
	Issuer, Subject string
}

// ParseKey reads a public key in PEM (PKIX).
func ParseKey(text string) (crypto.PublicKey, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("it is not one key in PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, errors.New("it is not a public key (PKIX)")
	}
	if _, err := signature.LoadDefaultVerifier(key); err != nil {
		return nil, errors.New("keys of this type are not supported: use ECDSA, RSA or Ed25519")
	}
	return key, nil
}

// ByKey reports how the signature is attached to the image with that digest, if the key
// has made it. The error says why it has not.
func (s Signature) ByKey(image v1.Hash, key crypto.PublicKey) (wasmev1.SignatureForm, error) {
	verifier, err := signature.LoadDefaultVerifier(key)
	if err != nil {
		return "", err
	}
	trusted := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
		return root.NewExpiringKey(verifier, time.Time{}, time.Time{}), nil
	})
	_, form, err := s.verify(image, trusted, []verify.VerifierOption{verify.WithNoObserverTimestamps()}, verify.WithKey())
	return form, err
}

// Keyless returns who has signed the image with that digest, as a certificate of one of
// the roots says, and how the signature is attached to it. The error says why nobody has.
func (s Signature) Keyless(image v1.Hash, roots Roots) (Identity, wasmev1.SignatureForm, error) {
	failure := errors.New("no Sigstore instance is trusted")
	for _, trusted := range roots {
		found := s.keyless(verification{image, trusted})
		if found.err == nil {
			return found.who, found.form, nil
		}
		failure = found.err
	}
	return Identity{}, "", failure
}

// verification is one with one root. What it finds depends on nothing else: the time that
// counts is that of the signature.
type verification struct {
	image   v1.Hash
	trusted root.TrustedMaterial
}

// verified is what a verification has found.
type verified struct {
	who  Identity
	form wasmev1.SignatureForm
	err  error
}

func (s Signature) keyless(by verification) verified {
	if s.verified == nil {
		return s.verifyKeyless(by)
	}
	if known, found := s.verified.Get(by); found {
		return known.(verified)
	}
	found := s.verifyKeyless(by)
	s.verified.Add(by, found)
	return found
}

func (s Signature) verifyKeyless(by verification) verified {
	result, form, err := s.verify(by.image, by.trusted, demands(by.trusted), verify.WithoutIdentitiesUnsafe())
	if err != nil {
		return verified{err: err}
	}
	certificate := result.Signature.Certificate
	if certificate == nil {
		return verified{err: errors.New("it is by a key, not by an identity")}
	}
	return verified{who: Identity{Issuer: certificate.Issuer, Subject: certificate.SubjectAlternativeName}, form: form}
}

// demands are what a signature must prove with the logs and authorities that an instance
// has: that it is in the transparency log, that the certificate is in the certificate
// transparency log, and when it was made, which was while the certificate was valid.
func demands(trusted root.TrustedMaterial) []verify.VerifierOption {
	var all []verify.VerifierOption
	if len(trusted.CTLogs()) > 0 {
		all = append(all, verify.WithSignedCertificateTimestamps(1))
	}
	if len(trusted.RekorLogs()) > 0 {
		return append(all, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	}
	return append(all, verify.WithSignedTimestamps(1))
}

// verify checks that a signature is about an image.
func (s Signature) verify(image v1.Hash, trusted root.TrustedMaterial, demanded []verify.VerifierOption, by verify.PolicyOption) (result *verify.VerificationResult, form wasmev1.SignatureForm, err error) {
	defer survive(&err)
	artifact, err := s.artifact(image)
	if err != nil {
		return nil, "", err
	}
	verifier, err := verify.NewVerifier(trusted, demanded...)
	if err != nil {
		return nil, "", err
	}
	result, err = verifier.Verify(s.bundle, verify.NewPolicy(artifact, by))
	if err != nil {
		return nil, "", explain(err)
	}
	form, err = s.formOf(result)
	return result, form, err
}

// artifact is what must have been signed.
func (s Signature) artifact(image v1.Hash) (verify.ArtifactPolicyOption, error) {
	if s.payload != nil {
		signed, err := signedDigest(s.payload)
		if err != nil {
			return nil, fmt.Errorf("what was signed cannot be read: %w", err)
		}
		if signed != image.String() {
			return nil, errors.New(anotherImage)
		}
		return verify.WithArtifact(bytes.NewReader(s.payload)), nil
	}
	digest, err := hex.DecodeString(image.Hex)
	if err != nil {
		return nil, fmt.Errorf("the image's digest: %w", err)
	}
	return verify.WithArtifactDigest(image.Algorithm, digest), nil
}

func (s Signature) formOf(result *verify.VerificationResult) (wasmev1.SignatureForm, error) {
	switch {
	case s.payload != nil:
		return wasmev1.SignatureTag, nil
	case result.Statement == nil: // a signature of the manifest itself
		return wasmev1.SignatureBundle, nil
	}
	form, known := predicates[result.Statement.GetPredicateType()]
	if !known {
		return "", errors.New("it is a statement about the image, but neither a signature nor its provenance")
	}
	return form, nil
}

// Why a signature does not count.
const (
	anotherImage = "it is for another image"
	notByKey     = "the signature is not by this key, or was changed"
)

// explain says in our words why a signature does not count. The texts of sigstore-go hold
// what the signature says.
func explain(err error) error {
	text := err.Error()
	for _, row := range []struct{ sign, means string }{
		{"artifact digest", anotherImage},
		{"artifact does not match", anotherImage},
		{"outside certificate validity", "its certificate was not valid when it was made"},
		{"failed to verify log inclusion", "the transparency log of the trusted root does not have it"},
		{"failed to verify timestamps", "it has no trusted timestamp"},
		{"failed to verify leaf certificate", "its certificate is not one of the trusted root, or was not valid when it was made"},
		{"failed to verify signed certificate timestamp", "its certificate is not in a certificate transparency log of the trusted root"},
		{"expected key signature", "it is by an identity, not by a key"},
		{"must provide timestamp", "it is by an identity, not by a key"},
		{"failed to verify signature", notByKey},
	} {
		if strings.Contains(text, row.sign) {
			return errors.New(row.means)
		}
	}
	return errors.New("it could not be verified")
}
