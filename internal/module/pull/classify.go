package pull

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
)

// registryError turns what ggcr returns into a module.Error. Status codes and types
// decide, never bodies or headers: they are the remote's to write, and ggcr's
// texts hold them. What was done when it failed goes into the message.
func registryError(doing, registry string, err error) *module.Error {
	if limit := (*limitError)(nil); errors.As(err, &limit) {
		return limit.of(registry)
	}
	if status := (*transport.Error)(nil); errors.As(err, &status) {
		return statusError(doing, registry, status.StatusCode)
	}
	if e := refusedByLibrary(doing, registry, err); e != nil {
		return e
	}
	if cause := networkCause(err); cause != "" {
		return module.Temporary(wasmev1.ReasonRegistryUnavailable, "%s: %s: %s", doing, registry, cause)
	}
	if e := module.AsError(err); e != nil {
		return e
	}
	return module.Temporary(wasmev1.ReasonRegistryUnavailable, "%s: %s does not answer like a registry", doing, registry)
}

func statusError(doing, registry string, code int) *module.Error {
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return module.Temporary(wasmev1.ReasonUnauthorized, "%s: %s denies access (status %d): reference a Secret with the right to pull in spec.filter.imagePullOptions.pullSecret", doing, registry, code)
	case http.StatusNotFound:
		return module.Temporary(wasmev1.ReasonImageNotFound, "%s: %s does not have it (status 404): check spec.filter.image, or push the image", doing, registry)
	}
	return module.Temporary(wasmev1.ReasonRegistryUnavailable, "%s: %s answers with status %d", doing, registry, code)
}

// refusedByLibrary finds the refusals for which ggcr has no type. Their texts
// hold what the registry sent, so ours take their place.
func refusedByLibrary(doing, registry string, err error) *module.Error {
	text := err.Error()
	switch {
	case strings.Contains(text, "does not match requested digest"):
		return module.Temporary(wasmev1.ReasonDigestMismatch, "%s: %s sends a manifest that does not match its digest", doing, registry)
	case strings.Contains(text, "invalid realm in www-authenticate"), strings.Contains(text, "refusing token-server redirect"):
		return module.Terminal(wasmev1.ReasonRegistryForbidden, "%s: %s names a token server that is not allowed: it has plain HTTP (without spec.filter.imagePullOptions.plainHttp), or a private, loopback or link-local address (see --denied-networks)", doing, registry)
	case strings.Contains(text, "SSRF protection: redirect"):
		return module.Terminal(wasmev1.ReasonRegistryForbidden, "%s: %s redirects to a private, loopback or link-local address, which is not allowed (see --denied-networks)", doing, registry)
	}
	return nil
}

// networkCause returns in our words why a connection failed; empty when err is no
// failure of the network, or is our own refusal.
func networkCause(err error) string {
	var (
		invalid x509.CertificateInvalidError
		dns     *net.DNSError
		netErr  net.Error
	)
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired: // or not valid yet
		return "its certificate is not valid at this time: renew it, or correct the clock of the operator's node"
	case untrusted(err):
		return "its certificate is not trusted: give it one of a known authority, or reference its authority in spec.filter.imagePullOptions.caCertificates"
	case errors.As(err, &dns):
		return "its name cannot be resolved"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection was refused"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return "it does not answer in time"
	case errors.Is(err, context.Canceled):
		return "the request was canceled"
	case module.AsError(err) != nil:
		return ""
	}
	return brokenConnection(err)
}

func untrusted(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		authority    x509.UnknownAuthorityError
	)
	return errors.As(err, &verification) || errors.As(err, &authority)
}

func brokenConnection(err error) string {
	var (
		broken *connectionError
		op     *net.OpError
	)
	if errors.As(err, &broken) || errors.As(err, &op) {
		return "the connection broke"
	}
	return ""
}
