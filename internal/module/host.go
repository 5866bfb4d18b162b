package module

import (
	"net"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"golang.org/x/net/idna"
)

// CanonicalHost returns the one name for all ways to write a registry's host and port:
// they differ in case, in a dot at the end, in a standard port, and in characters that
// connections map to others. Docker Hub goes by several names, of which the one that
// references have (name.DefaultRegistry) is returned.
func CanonicalHost(written string) string {
	at := url.URL{Host: written}
	host, port := strings.ToLower(at.Hostname()), strings.TrimLeft(at.Port(), "0")
	if ascii, err := idna.Lookup.ToASCII(host); err == nil { // as net/http does
		host = ascii
	}
	host = strings.TrimSuffix(host, ".")
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
