package chain

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
)

// envoyFilter is what of an EnvoyFilter says where its filters run.
type envoyFilter struct {
	WorkloadSelector *struct{ Labels map[string]string }
	TargetRefs       []reference
	Priority         int32
	ConfigPatches    []patch

	object istio.Output
}

type patch struct {
	ApplyTo string
	Match   struct {
		Context  string
		Proxy    struct{ Metadata map[string]string }
		Listener struct {
			Name        string
			FilterChain struct {
				Filter struct{ SubFilter struct{ Name string } }
			}
		}
	}
	Patch struct {
		Operation string
		Value     httpFilter
	}
}

// httpFilter is an HTTP filter or an extension configuration, as EnvoyFilters and proxies
// write it; the former may also use the names of fields in protobuf's JSON.
type httpFilter struct {
	Name            string          `json:"name"`
	Disabled        bool            `json:"disabled"`
	TypedConfig     json.RawMessage `json:"typed_config"`
	TypedConfigJSON json.RawMessage `json:"typedConfig"`
	ConfigDiscovery json.RawMessage `json:"config_discovery"`
	DiscoveryJSON   json.RawMessage `json:"configDiscovery"`
}

// wasmType is a part of the types of Wasm filters, in whatever message they are wrapped.
const wasmType = "envoy.extensions.filters.http.wasm.v3.Wasm"

func (f *httpFilter) config() json.RawMessage {
	return slices.Concat(f.TypedConfig, f.TypedConfigJSON)
}

func (f *httpFilter) discovery() json.RawMessage {
	return slices.Concat(f.ConfigDiscovery, f.DiscoveryJSON)
}

// isWasm reports whether it is, or refers to, a Wasm filter.
func (f *httpFilter) isWasm() bool {
	return bytes.Contains(f.config(), []byte(wasmType)) || bytes.Contains(f.discovery(), []byte(wasmType))
}

// plugin returns the name of the plugin in the configuration of a Wasm filter; empty when it
// is none.
func (f *httpFilter) plugin() string {
	var content struct {
		Config struct{ Name string }
		// Value is that of a TypedStruct.
		Value struct{ Config struct{ Name string } }
	}
	if !f.isWasm() || json.Unmarshal(f.config(), &content) != nil {
		return ""
	}
	return cmp.Or(content.Config.Name, content.Value.Config.Name)
}

// sortedEnvoyFilters returns those that reach a workload in the order in which istiod applies
// them (PushContext.EnvoyFilters).
func sortedEnvoyFilters(objects []istio.Output, proxy Proxy) []envoyFilter {
	var all []envoyFilter
	for _, object := range objects {
		one := envoyFilter{object: object}
		if istio.KindOf(object) != wasmev1.OutputEnvoyFilter || json.Unmarshal(object.Content().Raw, &one) != nil {
			continue
		}
		selected := one.WorkloadSelector == nil || selects(one.WorkloadSelector.Labels, proxy.Target)
		if selected && proxy.isReferenced(one.TargetRefs) && proxy.reads(object) {
			all = append(all, one)
		}
	}
	outside := func(one envoyFilter) int {
		if one.object.GetNamespace() == proxy.RootNamespace {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(all, func(a, b envoyFilter) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(outside(a), outside(b)), byAge(a.object, b.object))
	})
	return all
}

// apply puts the Wasm filters of an EnvoyFilter into a chain (patchHTTPFilters).
func (e *envoyFilter) apply(steps []step, proxy Proxy, traffic Traffic) []step {
	extensions := map[string]httpFilter{}
	for _, p := range e.ConfigPatches {
		if p.ApplyTo == "EXTENSION_CONFIG" {
			extensions[p.Patch.Value.Name] = p.Patch.Value
		}
	}
	seen := map[string]bool{} // one for each port is one filter
	for _, p := range e.ConfigPatches {
		value := p.Patch.Value
		if p.ApplyTo != "HTTP_FILTER" || !value.isWasm() || !p.reaches(proxy, traffic) || seen[value.Name] {
			continue
		}
		extension, discovered := extensions[value.Name]
		if discovered && !extension.isWasm() {
			continue // a staging slot that is idle
		}
		seen[value.Name] = true
		f := filterOf(e.object, value.Name)
		f.Tried, f.Place = value.Disabled, p.place()
		if plugin := cmp.Or(extension.plugin(), value.plugin()); revisionOf(plugin) != "" {
			f.Revision = revisionOf(plugin)
		}
		steps = p.insert(steps, step{value.Name, &f})
	}
	return steps
}

// contexts of patches by the traffic that they are for.
var contexts = map[Traffic]string{Inbound: "SIDECAR_INBOUND", Outbound: "SIDECAR_OUTBOUND", Gateway: "GATEWAY"}

func (p *patch) reaches(proxy Proxy, traffic Traffic) bool {
	context := cmp.Or(p.Match.Context, "ANY")
	if context != "ANY" && context != contexts[traffic] || p.Match.Listener.Name == "connect_terminate" {
		return false
	}
	metadata := p.Match.Proxy.Metadata
	if _, single := metadata["NAME"]; single {
		return false // a canary, which only that pod runs
	}
	return cmp.Or(metadata["OWNER"], proxy.Target.ProxyOwner()) == proxy.Target.ProxyOwner() &&
		cmp.Or(metadata["NAMESPACE"], proxy.Target.Namespace) == proxy.Target.Namespace
}

func (p *patch) anchor() string { return p.Match.Listener.FilterChain.Filter.SubFilter.Name }

func (p *patch) place() string {
	anchor := strings.TrimPrefix(p.anchor(), "envoy.filters.http.")
	if anchor == "router" {
		anchor = "the router"
	}
	switch p.Patch.Operation {
	case "INSERT_FIRST":
		return "first"
	case "INSERT_BEFORE":
		return strings.TrimSpace("before " + cmp.Or(anchor, "all"))
	case "INSERT_AFTER":
		return strings.TrimSpace("after " + cmp.Or(anchor, "all"))
	}
	return strings.ToLower(p.Patch.Operation)
}

// insert puts a step into a chain. Without its neighbour it is in no chain.
func (p *patch) insert(steps []step, s step) []step {
	at := 0
	if anchor := p.anchor(); anchor != "" {
		if at = slices.IndexFunc(steps, func(other step) bool { return other.name == anchor }); at < 0 {
			return steps
		}
	}
	switch p.Patch.Operation {
	case "INSERT_BEFORE":
	case "INSERT_FIRST":
		at = 0
	case "INSERT_AFTER":
		at++
		if p.anchor() == "" {
			at = len(steps)
		}
	case "ADD":
		at = len(steps)
	default: // MERGE, REPLACE and REMOVE change what others have put there
		return steps
	}
	return slices.Insert(steps, at, s)
}
