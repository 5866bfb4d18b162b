// Package chain says which Wasm filters requests pass in a proxy, and in which order. It is
// pure. Expected derives that from Istio's objects, as istiod does (expected.go), and Running
// reads it from what a proxy says of its own configuration (running.go).
//
// A request passes the filters of a chain from the first to the last, and its response
// passes them the other way round.
package chain

import (
	"cmp"
	"strings"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// Traffic is what passes a chain.
type Traffic string

// The kinds of traffic. A sidecar has the first two, and a gateway has the last one.
const (
	Inbound  Traffic = "inbound"
	Outbound Traffic = "outbound"
	Gateway  Traffic = "gateway"
)

// Origin is the object that put a filter into a chain.
type Origin struct{ Kind, Namespace, Name string }

// String implements fmt.Stringer.
func (o Origin) String() string {
	if o.Namespace == "" {
		return o.Kind
	}
	return o.Kind + " " + o.Namespace + "/" + o.Name
}

// Filter is a Wasm filter in a chain.
type Filter struct {
	// Name is that of the HTTP filter in proxies.
	Name string
	// From is who put it there: a FilterDeployment, or an object that someone wrote.
	From Origin
	// Revision is that of a FilterDeployment; empty where nothing shows it.
	Revision string
	// Place says where it is among other filters, as its object asks for.
	Place string
	// Tried says that proxies only try it: no request passes it.
	Tried bool
	// Missing says why a proxy does not run it; empty when it does, and in what Expected returns.
	Missing string
}

// Label returns a short name for tables, such as hello@1165a7e6.
func (f Filter) Label() string {
	label := cmp.Or(f.From.Name, f.Name)
	if f.Revision != "" {
		label += "@" + f.Revision
	}
	switch {
	case f.Missing != "":
		label += " (" + f.Missing + ")"
	case f.Tried:
		label += " (tried)"
	}
	return label
}

// Names in proxies.
const (
	// extensionPrefixes begin the names of what istiod makes of plugins, up to Istio 1.29 and
	// from 1.30 on (WasmPluginResourceNamePrefix, TrafficExtensionResourceNamePrefix).
	pluginPrefix    = "extensions.istio.io/wasmplugin/"
	extensionPrefix = "extensions.istio.io/trafficextension/"
	// translated ends those of WasmPlugins that Istio turns into TrafficExtensions.
	translated = "~istio-translated-wasmplugin"
	// stagingSuffix ends those of what is in a staging slot, and canarySuffix those of what
	// single pods run (internal/render).
	stagingSuffix = "/next"
	canarySuffix  = "/canary"
)

// originOf reads who put a filter there from its name in proxies.
func originOf(name string) Origin {
	for _, prefix := range []string{pluginPrefix, extensionPrefix} {
		if rest, found := strings.CutPrefix(name, prefix); found {
			kind := wasmev1.OutputTrafficExtension
			if rest, found = strings.CutSuffix(rest, translated); found || prefix == pluginPrefix {
				kind = wasmev1.OutputWasmPlugin
			}
			namespace, name, _ := strings.Cut(rest, ".")
			return Origin{string(kind), namespace, name}
		}
	}
	own := strings.TrimSuffix(strings.TrimSuffix(name, stagingSuffix), canarySuffix)
	if parts := strings.Split(own, "/"); len(parts) == 5 {
		return Origin{wasmev1.FilterDeploymentKind, parts[0], parts[1]}
	}
	return Origin{Kind: string(wasmev1.OutputEnvoyFilter)}
}

// revisionOf returns the revision in the name of a plugin; empty for none.
func revisionOf(plugin string) string {
	if !strings.HasPrefix(plugin, "wasm_filter.") {
		return ""
	}
	_, revision, _ := strings.Cut(plugin, "@")
	return revision
}

// canonical returns the name of a filter in any version of Istio.
func canonical(name string) string {
	if origin := originOf(name); strings.HasPrefix(name, pluginPrefix) || strings.HasPrefix(name, extensionPrefix) {
		return origin.String()
	}
	return name
}

func (f Filter) is(other Filter) bool {
	sameRevision := f.Revision == "" || other.Revision == "" || f.Revision == other.Revision
	return canonical(f.Name) == canonical(other.Name) && f.Tried == other.Tried && sameRevision
}

// Attribute completes what proxies run by who put it there, which their own names do not
// always show.
func Attribute(running []Filter, expected []Filter) []Filter {
	known := map[string]Origin{}
	for _, f := range expected {
		known[canonical(f.Name)] = f.From
	}
	attributed := make([]Filter, len(running))
	for i, f := range running {
		if from, found := known[canonical(f.Name)]; found {
			f.From = from
		}
		attributed[i] = f
	}
	return attributed
}

// Same reports whether the chains of a proxy have what is expected, in its order. A chain may
// lack filters, which are for other ports, but each filter must be in one.
func Same(expected []Filter, running [][]Filter) bool {
	seen := make([]bool, len(expected))
	for _, filters := range running {
		next := 0
		for _, f := range filters {
			for next < len(expected) && !expected[next].is(f) {
				next++
			}
			if next == len(expected) || f.Missing != "" {
				return false
			}
			seen[next] = true
			next++
		}
	}
	for _, found := range seen {
		if !found {
			return false
		}
	}
	return true
}
