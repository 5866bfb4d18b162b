package module

import (
	"net"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// CanonicalHost returns the one name for all ways to write a registry's host and port: they
// differ in case and in a standard port. Docker Hub goes by several names, of which the one
// that references have (name.DefaultRegistry) is returned. A host with a dot at its end, or
// with characters other than ASCII, is another one: where it leads depends on the resolver.
func CanonicalHost(written string) string {
	at := url.URL{Host: written}
	host, port := strings.Map(lower, at.Hostname()), strings.TrimLeft(at.Port(), "0")
	switch host {
	case "docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		host = name.DefaultRegistry
	}
	if port != "" && port != "443" {
		return net.JoinHostPort(host, port)
	}
	if strings.Contains(host, ":") { // an IPv6 address
		return "[" + host + "]"
	}
	return host
}

// lower returns the lower case of an ASCII letter only: some other characters have one that
// is an ASCII letter, and name another host.
func lower(r rune) rune {
	if 'A' <= r && r <= 'Z' {
		return r - 'A' + 'a'
	}
	return r
}
