// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package pki makes the certificates and keys of a test control plane.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"time"

	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// lifetime of every certificate: no test control plane lives longer.
const lifetime = 365 * 24 * time.Hour

// Pair is a certificate and its key, PEM-encoded.
type Pair struct{ Cert, Key []byte }

// Authority issues certificates.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// NewAuthority makes a certificate authority that signs itself.
func NewAuthority() (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the authority's key: %w", err)
	}
	own, err := cert.NewSelfSignedCACert(cert.Config{CommonName: "test authority"}, key)
	if err != nil {
		return nil, fmt.Errorf("making the authority's certificate: %w", err)
	}
	return &Authority{cert: own, key: key}, nil
}

// Certificate is the authority's own, PEM-encoded: what its clients trust.
func (a *Authority) Certificate() []byte {
	encoded, err := cert.EncodeCertificates(a.cert)
	if err != nil {
		panic(err) // a certificate that was parsed can be encoded
	}
	return encoded
}

// Server issues a certificate for a server on 127.0.0.1.
func (a *Authority) Server(name string) (Pair, error) {
	return a.issue(x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:    []string{"localhost", "kubernetes.default.svc"},
	})
}

// Client issues a certificate for a user, a member of groups.
func (a *Authority) Client(user string, groups ...string) (Pair, error) {
	return a.issue(x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func (a *Authority) issue(template x509.Certificate) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("making the key of %s: %w", template.Subject.CommonName, err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return Pair{}, fmt.Errorf("choosing a serial number: %w", err)
	}
	template.SerialNumber = serial
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.NotBefore = time.Now().Add(-time.Minute)
	template.NotAfter = time.Now().Add(lifetime)
	der, err := x509.CreateCertificate(rand.Reader, &template, a.cert, key.Public(), a.key)
	if err != nil {
		return Pair{}, fmt.Errorf("issuing the certificate of %s: %w", template.Subject.CommonName, err)
	}
	issued, err := x509.ParseCertificate(der)
	if err != nil {
		return Pair{}, fmt.Errorf("reading the certificate of %s: %w", template.Subject.CommonName, err)
	}
	return encode(issued, key)
}

func encode(issued *x509.Certificate, key crypto.PrivateKey) (Pair, error) {
	certPEM, err := cert.EncodeCertificates(issued)
	if err != nil {
		return Pair{}, fmt.Errorf("encoding a certificate: %w", err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return Pair{}, fmt.Errorf("encoding a key: %w", err)
	}
	return Pair{Cert: certPEM, Key: keyPEM}, nil
}

// TokenKey makes the RSA key that signs service accounts' tokens, PEM-encoded;
// it serves for checking them, too.
func TokenKey() ([]byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("making the key for tokens: %w", err)
	}
	return keyutil.MarshalPrivateKeyToPEM(key)
}
