package migrate

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/legacy"
)

const (
	httpConnectionManager = "envoy.filters.network.http_connection_manager"
	router                = "envoy.filters.http.router"
	// oldManager and oldRouter are the names that Envoy no longer has.
	oldManager = "envoy.http_connection_manager"
	oldRouter  = "envoy.router"
)

var contexts = map[networking.EnvoyFilter_PatchContext]wasmev1.PatchContext{
	networking.EnvoyFilter_ANY:              wasmev1.PatchContextAny,
	networking.EnvoyFilter_SIDECAR_INBOUND:  wasmev1.PatchContextInbound,
	networking.EnvoyFilter_SIDECAR_OUTBOUND: wasmev1.PatchContextOutbound,
	networking.EnvoyFilter_GATEWAY:          wasmev1.PatchContextGateway,
}

// placement is where one patch puts a filter.
type placement struct {
	context  wasmev1.PatchContext
	port     uint32 // 0 for all
	position wasmev1.Position
}

// placed is a Wasm filter with all its places.
type placed struct {
	filter
	field  string
	places []placement
}

// envoyFilter is an EnvoyFilter while it is read.
type envoyFilter struct {
	*reading
	spec *networking.EnvoyFilter
	// extensions are the Wasm filters among the extension configurations, by their names.
	extensions map[string]*fields
	used       map[string]bool
	// filters are by their name and content: several patches may have the same one.
	filters map[string]*placed
	order   []string
}

// readEnvoyFilter reads what an EnvoyFilter asks for; nil when it has no Wasm filter.
func readEnvoyFilter(object istio.Output) *reading {
	e := &envoyFilter{
		reading: &reading{output: wasmev1.OutputEnvoyFilter}, spec: &networking.EnvoyFilter{},
		extensions: map[string]*fields{}, used: map[string]bool{}, filters: map[string]*placed{},
	}
	if err := e.spec.UnmarshalJSON(object.Content().Raw); err != nil || !slices.ContainsFunc(e.spec.GetConfigPatches(), hasWasm) {
		return nil
	}
	e.inert = legacy.MadeEnvoyFilter(object.Content().Raw)
	e.selector = e.spec.GetWorkloadSelector().GetLabels()
	e.readReferences(e.spec.GetTargetRefs())
	e.readPatches()
	for _, key := range e.order {
		e.reading.filters = append(e.reading.filters, e.complete(e.filters[key]))
	}
	return e.reading
}

// hasWasm reports whether a patch is about a Wasm filter of HTTP requests.
func hasWasm(patch *networking.EnvoyFilter_EnvoyConfigObjectPatch) bool {
	switch patch.GetApplyTo() {
	case networking.EnvoyFilter_HTTP_FILTER, networking.EnvoyFilter_EXTENSION_CONFIG:
		return isWasm(patch.GetPatch().GetValue().AsMap())
	}
	return false
}

func (e *envoyFilter) readPatches() {
	for i, patch := range e.spec.GetConfigPatches() {
		path := pathOf(i)
		switch {
		case !hasWasm(patch):
			e.refuse(path, "it is not a Wasm filter (%s), and deleting the EnvoyFilter would lose it: move it to an EnvoyFilter of its own first", patch.GetApplyTo())
		case patch.GetApplyTo() == networking.EnvoyFilter_EXTENSION_CONFIG:
			e.addExtension(path, patch)
		}
	}
	for i, patch := range e.spec.GetConfigPatches() {
		if patch.GetApplyTo() == networking.EnvoyFilter_HTTP_FILTER && hasWasm(patch) {
			e.addFilter(pathOf(i), patch)
		}
	}
	for name, extension := range e.extensions {
		if !e.used[name] {
			e.refuse(extension.path, "no HTTP filter of this object refers to %q: put both into one EnvoyFilter first", name)
		}
	}
}

func pathOf(patch int) string { return fmt.Sprintf("spec.configPatches[%d]", patch) }

func (e *envoyFilter) addExtension(path string, patch *networking.EnvoyFilter_EnvoyConfigObjectPatch) {
	if patch.GetPatch().GetOperation() != networking.EnvoyFilter_Patch_ADD {
		e.refuse(path+".patch.operation", "%s changes what another object has put there: have this object put the filter there by itself", patch.GetPatch().GetOperation())
	}
	e.checkProxy(path+".match.proxy", patch.GetMatch().GetProxy())
	value := e.valueOf(path, patch)
	e.extensions[value.text("name")] = value
}

func (e *envoyFilter) valueOf(path string, patch *networking.EnvoyFilter_EnvoyConfigObjectPatch) *fields {
	return &fields{of: &e.document, path: path + ".patch.value", values: patch.GetPatch().GetValue().AsMap()}
}

// addFilter reads an HTTP filter, which has the Wasm filter or refers to it.
func (e *envoyFilter) addFilter(path string, patch *networking.EnvoyFilter_EnvoyConfigObjectPatch) {
	value := e.valueOf(path, patch)
	key := keyOf(value.values)
	if _, known := e.filters[key]; !known {
		e.order = append(e.order, key)
		e.filters[key] = &placed{filter: e.readFilter(value), field: path}
	}
	e.filters[key].places = append(e.filters[key].places, e.readPlacement(path, patch))
}

func keyOf(value map[string]any) string {
	raw, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("encoding a Struct: %v", err)) // its values always marshal
	}
	return string(raw)
}

func (e *envoyFilter) readFilter(value *fields) filter {
	name := value.text("name")
	if discovery := value.object("config_discovery"); len(discovery.values) > 0 {
		value.end()
		extension, found := e.extensions[name]
		if !found {
			e.refuse(discovery.path, "the extension configuration %q is in no patch of this object: put both into one EnvoyFilter first", name)
			return filter{}
		}
		if e.used[name] {
			e.refuse(discovery.path, "two different HTTP filters refer to %q: give each one of its own", name)
			return filter{}
		}
		e.used[name] = true
		value = extension
	}
	f := readWasm(wasmFilter(value))
	value.end()
	if f.plugin == "" {
		f.plugin = name
	}
	return f
}

// readPlacement reads where a patch puts its filter.
func (e *envoyFilter) readPlacement(path string, patch *networking.EnvoyFilter_EnvoyConfigObjectPatch) placement {
	match := patch.GetMatch()
	e.checkProxy(path+".match.proxy", match.GetProxy())
	context, known := contexts[match.GetContext()]
	if !known {
		e.refuse(path+".match.context", "%s has no counterpart in a FilterDeployment: for a waypoint, reference its Gateway in targetRefs, with SIDECAR_INBOUND", match.GetContext())
	}
	if match.GetRouteConfiguration() != nil || match.GetCluster() != nil || match.GetWaypoint() != nil {
		e.refuse(path+".match", "an HTTP filter is in a listener: match one")
	}
	p := placement{context: context}
	listener := match.GetListener()
	e.checkListener(path+".match.listener", listener)
	p.port = max(listener.GetPortNumber(), listener.GetFilterChain().GetDestinationPort())
	p.position = e.readPosition(path, patch)
	return p
}

// checkProxy refuses a patch for some proxies only.
func (e *envoyFilter) checkProxy(path string, proxy *networking.EnvoyFilter_ProxyMatch) {
	const fix = "a FilterDeployment reaches all proxies of a workload: remove it if the filter may run on all"
	if proxy.GetProxyVersion() != "" {
		e.refuse(path+".proxyVersion", fix)
	}
	if len(proxy.GetMetadata()) > 0 {
		e.refuse(path+".metadata", fix)
	}
}

// checkListener refuses a patch for some listeners or filter chains only.
func (e *envoyFilter) checkListener(path string, listener *networking.EnvoyFilter_ListenerMatch) {
	chain := listener.GetFilterChain()
	for _, one := range []struct{ field, value string }{
		{"name", listener.GetName()}, {"portName", listener.GetPortName()}, {"listenerFilter", listener.GetListenerFilter()},
		{"filterChain.name", chain.GetName()}, {"filterChain.sni", chain.GetSni()},
		{"filterChain.transportProtocol", chain.GetTransportProtocol()}, {"filterChain.applicationProtocols", chain.GetApplicationProtocols()},
	} {
		if one.value != "" {
			e.refuse(path+"."+one.field, "a FilterDeployment can be for ports only: use portNumber, or remove it if the filter may run on all")
		}
	}
	if name := chain.GetFilter().GetName(); name != "" && name != httpConnectionManager && name != oldManager {
		e.refuse(path+".filterChain.filter.name", "%q has no HTTP filters: use %s", name, httpConnectionManager)
	}
}

// readPosition reads the place beside other filters (patchHTTPFilters of istiod).
func (e *envoyFilter) readPosition(path string, patch *networking.EnvoyFilter_EnvoyConfigObjectPatch) wasmev1.Position {
	if class := patch.GetPatch().GetFilterClass(); class != networking.EnvoyFilter_Patch_UNSPECIFIED {
		e.refuse(path+".patch.filterClass", "a FilterDeployment has no such classes: use INSERT_BEFORE or INSERT_AFTER with a subFilter")
	}
	anchor := patch.GetMatch().GetListener().GetFilterChain().GetFilter().GetSubFilter().GetName()
	last := anchor == router || anchor == oldRouter
	operation := patch.GetPatch().GetOperation()
	switch {
	case operation == networking.EnvoyFilter_Patch_INSERT_BEFORE && last:
		return wasmev1.Position{}
	case operation == networking.EnvoyFilter_Patch_INSERT_BEFORE && anchor != "":
		return wasmev1.Position{Before: anchor}
	case operation == networking.EnvoyFilter_Patch_INSERT_BEFORE, operation == networking.EnvoyFilter_Patch_INSERT_FIRST && (anchor == "" || last):
		return wasmev1.Position{First: true}
	case operation == networking.EnvoyFilter_Patch_INSERT_AFTER && anchor != "" && !last:
		return wasmev1.Position{After: anchor}
	}
	e.refuse(path+".patch.operation", "%s beside %q is no place that a FilterDeployment has: use INSERT_FIRST, INSERT_BEFORE or INSERT_AFTER with a subFilter", operation, anchor)
	return wasmev1.Position{}
}

// complete returns a filter with its place.
func (e *envoyFilter) complete(p *placed) filter {
	f := p.filter
	if e.inert {
		f.spec.FailStrategy = "" // that of FilterDeployments, as for those of the predecessor's operator
	}
	position := p.places[0].position
	var in []wasmev1.PatchContext
	ports := make([][]int32, 0, len(p.places))
	for _, place := range p.places {
		if place.position != position {
			e.refuse(p.field, "the filter is in different places for different traffic: write one EnvoyFilter for each first")
		}
		if !slices.Contains(in, place.context) {
			in = append(in, place.context)
		}
		ports = append(ports, portsOf(place))
	}
	f.spec.Ports = e.samePorts(p, ports, len(in))
	f.spec.PatchContext = e.together(p.field, in)
	if position != (wasmev1.Position{}) {
		f.spec.Position = &position
	}
	if priority := priorityOf(e.spec.GetPriority(), position); priority != 0 {
		f.spec.Priority = &priority
	}
	return f
}

func portsOf(place placement) []int32 {
	if place.port == 0 {
		return nil
	}
	return []int32{int32(place.port)} //nolint:gosec // the API server checks ports
}

// samePorts returns the ports of all places; none if one of them has all ports.
func (e *envoyFilter) samePorts(p *placed, ports [][]int32, contexts int) []int32 {
	all := slices.ContainsFunc(ports, func(one []int32) bool { return one == nil })
	together := distinct(slices.Concat(ports...))
	if len(together) > 0 && contexts > 1 {
		e.refuse(p.field, "the filter is for some ports, and on different traffic: write one EnvoyFilter for each kind of traffic first")
	}
	if all {
		return nil
	}
	return together
}

// together returns the traffic that several patches are for.
func (e *envoyFilter) together(field string, in []wasmev1.PatchContext) wasmev1.PatchContext {
	switch {
	case len(in) == 1:
		return in[0]
	case slices.Contains(in, wasmev1.PatchContextAny),
		slices.Contains(in, wasmev1.PatchContextInbound) && slices.Contains(in, wasmev1.PatchContextOutbound):
		return wasmev1.PatchContextAny
	}
	names := make([]string, 0, len(in))
	for _, one := range in {
		names = append(names, string(one))
	}
	e.refuse(field, "the filter is on %s traffic, which no patchContext means: write one EnvoyFilter for each first", strings.Join(names, " and "))
	return ""
}

// priorityOf returns the priority of a FilterDeployment for that of an EnvoyFilter, which
// counts the other way round where filters are inserted before others (internal/render).
func priorityOf(priority int32, position wasmev1.Position) int32 {
	if position.First || position.After != "" {
		return priority
	}
	return -priority
}
