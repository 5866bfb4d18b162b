// Package signing signs images as cosign and GitHub do, with a Sigstore instance of its own
// (certificate authority, transparency log and timestamp authority in memory), and puts
// the signatures into registries.
package signing

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
)

// Instance is a Sigstore instance.
type Instance struct{ authority *ca.VirtualSigstore }

// NewInstance returns another one each time.
func NewInstance() (*Instance, error) {
	authority, err := ca.NewVirtualSigstore()
	if err != nil {
		return nil, fmt.Errorf("making a Sigstore instance: %w", err)
	}
	return &Instance{authority}, nil
}

// TrustedRoot returns what is to be trusted of the instance, in JSON. Its certificates are
// in no certificate transparency log, so that the root has one only on request.
func (i *Instance) TrustedRoot(certificateLog bool) ([]byte, error) {
	var certificateLogs map[string]*root.TransparencyLog
	if certificateLog {
		certificateLogs = identified(i.authority.CTLogs())
	}
	made, err := root.NewTrustedRoot(root.TrustedRootMediaType01, i.authority.FulcioCertificateAuthorities(), certificateLogs,
		i.authority.TimestampingAuthorities(), identified(i.authority.RekorLogs()))
	if err != nil {
		return nil, err
	}
	return made.MarshalJSON()
}

// identified gives logs the bytes of their ids, where the authority has their digits.
func identified(logs map[string]*root.TransparencyLog) map[string]*root.TransparencyLog {
	fixed := maps.Clone(logs)
	for digits, log := range fixed {
		id, err := hex.DecodeString(digits)
		if err != nil {
			panic(err) // made by the authority
		}
		log.ID = id
	}
	return fixed
}

// Signer makes signatures.
type Signer struct {
	instance          *Instance
	identity, issuer  string
	key               *ecdsa.PrivateKey
	signedAt          time.Time
	withoutTimestamps bool
}

// Keyless returns a signer with a certificate of the instance.
func (i *Instance) Keyless(identity, issuer string) Signer {
	return Signer{instance: i, identity: identity, issuer: issuer, signedAt: time.Now().Add(time.Minute)}
}

// At returns the signer when its signatures enter the log at another time. Its
// certificates are valid for 10 minutes from now.
func (s Signer) At(when time.Time) Signer {
	s.signedAt, s.withoutTimestamps = when, true
	return s
}

// NewKey returns a signer with a key, and the public key in PEM.
func NewKey() (Signer, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Signer{}, "", err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	return Signer{key: key}, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})), err
}
