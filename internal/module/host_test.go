package module

import "testing"

func TestCanonicalHost(t *testing.T) {
	for want, writings := range map[string][]string{
		"ghcr.io":               {"ghcr.io", "GHCR.IO", "ghcr.io:443", "ghcr.io:0443", "ghcr.io:"},
		"ghcr.io.":              {"GHCR.io.:443"},
		"gİthub.com":            {"gİtHub.com"},
		"index.docker.io":       {"index.docker.io", "docker.io", "Docker.io", "index.docker.io:443", "registry-1.docker.io", "registry.hub.docker.com"},
		"registry.example:5000": {"registry.example:5000", "Registry.Example:05000"},
		"my_registry":           {"my_registry", "MY_registry:443"},
		"[::1]":                 {"[::1]", "[::1]:443"},
		"[::1]:5000":            {"[::1]:5000"},
		"registry.example:80":   {"registry.example:80"},
	} {
		for _, written := range writings {
			if got := CanonicalHost(written); got != want {
				t.Errorf("%q is %q, want %q", written, got, want)
			}
		}
	}
}
