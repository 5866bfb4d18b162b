package chain

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// Proxy is the proxies of a workload.
type Proxy struct {
	Target workload.Target
	// RootNamespace is the mesh's.
	RootNamespace string
}

// step is an HTTP filter in a chain: a Wasm filter, or one of Envoy's that others are placed beside.
type step struct {
	name   string
	filter *Filter
}

// Expected returns the Wasm filters that Istio's objects put into a chain of a workload. Of
// an object it reads what it must to tell a Wasm filter and its place: what several listeners
// or ports have differently is one chain here. The objects are those of the workload's
// namespace and of the root namespace.
func Expected(objects []istio.Output, proxy Proxy, traffic Traffic) []Filter {
	steps := baseChain(pluginsOf(objects, proxy, traffic))
	for _, one := range sortedEnvoyFilters(objects, proxy) {
		steps = one.apply(steps, proxy, traffic)
	}
	var filters []Filter
	for _, s := range steps {
		if s.filter != nil {
			filters = append(filters, *s.filter)
		}
	}
	return filters
}

// baseChain is the chain before EnvoyFilters change it, with the plugins of each phase:
// buildHTTPFilters of istiod's listener_builder.go. Filters that only some proxies have count
// as there.
func baseChain(plugins map[string][]Filter) []step {
	var steps []step
	envoy := func(names ...string) {
		for _, name := range names {
			steps = append(steps, step{name: name})
		}
	}
	phase := func(name string) {
		for _, f := range plugins[name] {
			steps = append(steps, step{f.Name, &f})
		}
	}
	envoy("istio.metadata_exchange", "envoy.filters.http.ext_authz")
	phase("AUTHN")
	envoy("envoy.filters.http.jwt_authn", "istio_authn")
	phase("AUTHZ")
	envoy("envoy.filters.http.rbac")
	phase("STATS")
	phase("UNSPECIFIED")
	envoy("envoy.filters.http.grpc_web", "envoy.filters.http.grpc_stats", "istio.alpn", "envoy.filters.http.fault", "envoy.filters.http.cors", "istio.stats", "envoy.filters.http.router")
	return steps
}

// plugin is what of a WasmPlugin or TrafficExtension says where it runs.
type plugin struct {
	Selector   *struct{ MatchLabels map[string]string }
	TargetRefs []reference
	Phase      any
	Priority   *int32
	Match      []struct{ Mode any }
	// Wasm is what a TrafficExtension has for a Wasm filter.
	Wasm json.RawMessage
}

// pluginsOf returns the filters of the plugins for a workload by their phases, in their order:
// sortByPriority of istiod's push_context.go.
func pluginsOf(objects []istio.Output, proxy Proxy, traffic Traffic) map[string][]Filter {
	type found struct {
		Filter
		priority int32
		object   istio.Output
	}
	phases := map[string][]found{}
	for _, object := range objects {
		kind := istio.KindOf(object)
		var p plugin
		if kind == wasmev1.OutputEnvoyFilter || json.Unmarshal(object.Content().Raw, &p) != nil || !p.reaches(object, kind, proxy, traffic) {
			continue
		}
		phase, priority := nameOf(p.Phase), int32(math.MinInt32)
		if p.Priority != nil {
			priority = *p.Priority
		}
		f := filterOf(object, pluginName(object, kind))
		f.Place = placeOfPlugin(phase, p.Priority)
		phases[phase] = append(phases[phase], found{f, priority, object})
	}
	plugins := map[string][]Filter{}
	for phase, all := range phases {
		slices.SortStableFunc(all, func(a, b found) int {
			return cmp.Or(cmp.Compare(b.priority, a.priority), byAge(a.object, b.object))
		})
		for _, f := range all {
			plugins[phase] = append(plugins[phase], f.Filter)
		}
	}
	return plugins
}

func (p *plugin) reaches(object istio.Output, kind wasmev1.Output, proxy Proxy, traffic Traffic) bool {
	switch {
	case kind == wasmev1.OutputTrafficExtension && len(p.Wasm) == 0, !proxy.isReferenced(p.TargetRefs):
		return false
	case p.Selector != nil && !selects(p.Selector.MatchLabels, proxy.Target):
		return false
	}
	return proxy.reads(object) && (len(p.Match) == 0 || slices.ContainsFunc(p.Match, func(m struct{ Mode any }) bool {
		mode := nameOf(m.Mode)
		return mode == "UNSPECIFIED" || mode == "UNDEFINED" || strings.Contains(mode, "SERVER") && traffic == Inbound || strings.Contains(mode, "CLIENT") && traffic != Inbound
	}))
}

// nameOf returns the name of a value of an enumeration in JSON; UNSPECIFIED for none.
func nameOf(value any) string {
	name, _ := value.(string)
	return strings.TrimSuffix(cmp.Or(name, "UNSPECIFIED"), "_PHASE")
}

func placeOfPlugin(phase string, priority *int32) string {
	place := "phase " + phase
	if phase == "UNSPECIFIED" {
		place = "before the router"
	}
	if priority != nil && *priority != 0 {
		place += fmt.Sprintf(", priority %d", *priority)
	}
	return place
}

// pluginName returns the name of a plugin's filter in proxies, from Istio 1.30 on.
func pluginName(object istio.Output, kind wasmev1.Output) string {
	name := extensionPrefix + object.GetNamespace() + "." + object.GetName()
	if kind == wasmev1.OutputWasmPlugin {
		name += translated
	}
	return name
}

// filterOf returns a filter of an object.
func filterOf(object istio.Output, name string) Filter {
	f := Filter{Name: name, From: Origin{string(istio.KindOf(object)), object.GetNamespace(), object.GetName()}}
	if owner, known := ownership.FilterDeploymentOf(object); known {
		f.From = Origin{wasmev1.FilterDeploymentKind, owner.Namespace, owner.Name}
		f.Revision = object.GetAnnotations()[revision.HashAnnotation]
	}
	return f
}

// reference is one of targetRefs.
type reference struct{ Kind, Name string }

// isReferenced reports whether the proxies are those of a Gateway in targetRefs, or there are none.
func (p Proxy) isReferenced(references []reference) bool {
	gateway := p.Target.PodLabels[workload.GatewayLabel]
	return len(references) == 0 || gateway != "" && slices.Contains(references, reference{wasmev1.TargetKindGateway, gateway})
}

// reads reports whether the proxies get what objects of this namespace say.
func (p Proxy) reads(object istio.Output) bool {
	return object.GetNamespace() == p.Target.Namespace || object.GetNamespace() == p.RootNamespace
}

func selects(labels map[string]string, target workload.Target) bool {
	all := maps.Clone(target.PodLabels)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, target.Selector)
	for key, value := range labels {
		if all[key] != value {
			return false
		}
	}
	return true
}

func byAge(a, b istio.Output) int {
	return cmp.Or(a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time), cmp.Compare(a.GetName()+"."+a.GetNamespace(), b.GetName()+"."+b.GetNamespace()))
}
