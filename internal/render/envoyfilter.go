package render

import (
	"fmt"

	"google.golang.org/protobuf/types/known/structpb"
	networking "istio.io/api/networking/v1alpha3"
	"k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

const (
	wasmType = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"
	rbacType = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"

	httpConnectionManager = "envoy.filters.network.http_connection_manager"
	// router ends every HTTP filter chain.
	router = "envoy.filters.http.router"

	// fetchTimeout gives pilot-agent time while the module server is still fetching
	// the module itself. Without it, pilot-agent waits 5 s.
	fetchTimeout = "20s"

	// reloadBackoff is how long a worker thread denies requests after a crash under
	// FailReload. Envoy's own default is 1 s.
	reloadBackoff = "0.02s"

	// renewalVariable is where istiod puts the version of a WasmPlugin. When it
	// changes, an agent fetches the module again if it does not have it.
	renewalVariable = "ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION"
)

var contexts = map[wasmev1.PatchContext]networking.EnvoyFilter_PatchContext{
	wasmev1.PatchContextInbound:  networking.EnvoyFilter_SIDECAR_INBOUND,
	wasmev1.PatchContextOutbound: networking.EnvoyFilter_SIDECAR_OUTBOUND,
	wasmev1.PatchContextGateway:  networking.EnvoyFilter_GATEWAY,
	wasmev1.PatchContextAny:      networking.EnvoyFilter_ANY,
}

var failurePolicies = map[wasmev1.FailStrategy]string{
	wasmev1.FailReload: "FAIL_RELOAD",
	wasmev1.FailClosed: "FAIL_CLOSED",
	wasmev1.FailOpen:   "FAIL_OPEN",
}

// Mesh is what rendering must know about the mesh.
type Mesh struct {
	// ClusterID is the cluster's name in the mesh, as its proxies report it.
	ClusterID string
	// RootNamespace is the namespace whose objects reach every namespace.
	RootNamespace string
	// ModuleServerURL is where proxies fetch modules, without a slash at the end.
	ModuleServerURL string
}

// EnvoyFilter renders the spec of the EnvoyFilter that makes the proxies of one
// target, a workload or a Gateway, run a filter. The owner is the FilterDeployment.
// A renewal that was not used before makes the proxies' agents fetch the module
// again, if they do not have it; it is empty for none. Envoy does not see it, and it
// is not part of the revision. The error says what is wrong with the target, or what
// part of the filter an EnvoyFilter cannot carry.
func EnvoyFilter(mesh Mesh, owner types.NamespacedName, filter Filter, target workload.Target, renewal string) (*networking.EnvoyFilter, error) {
	if err := filter.checkCarried(wasmev1.OutputEnvoyFilter, target); err != nil {
		return nil, err
	}
	target = filter.inEnvoyFilter(target)
	name := ecdsName(owner, target, filter)
	patches, err := slotPatches(mesh, filter, target, name,
		extensionConfig(mesh, filter, name, PluginName(owner, target, filter.Revision()), renewal),
		extensionReference(name, defaultConfig(filter.FailStrategy)))
	if err != nil {
		return nil, err
	}
	return newEnvoyFilter(filter, target, patches), nil
}

// newEnvoyFilter returns one for the proxies of a target.
func newEnvoyFilter(filter Filter, target workload.Target, patches []*networking.EnvoyFilter_EnvoyConfigObjectPatch) *networking.EnvoyFilter {
	rendered := &networking.EnvoyFilter{
		TargetRefs:    referencesTo(target),
		Priority:      filter.Place.envoyFilterPriority(),
		ConfigPatches: patches,
	}
	if labels := selectorFor(target); labels != nil {
		rendered.WorkloadSelector = &networking.WorkloadSelector{Labels: labels}
	}
	return rendered
}

// StagingEnvoyFilter renders an EnvoyFilter that has a staging slot (AddStagingSlot) and
// nothing beside it: proxies try the filter, and no request passes one. The error is
// EnvoyFilter's.
func StagingEnvoyFilter(mesh Mesh, owner types.NamespacedName, filter Filter, target workload.Target, renewal string) (*networking.EnvoyFilter, error) {
	if err := filter.checkCarried(wasmev1.OutputEnvoyFilter, target); err != nil {
		return nil, err
	}
	rendered := newEnvoyFilter(filter, filter.inEnvoyFilter(target), nil)
	return rendered, AddStagingSlot(rendered, mesh, owner, filter, target, &filter, renewal)
}

// AddStagingSlot adds a second place to an EnvoyFilter that was rendered for a filter: right
// beside it, but disabled, so that no request passes it. There a proxy fetches, starts and
// configures the staged filter, while the first one serves. The slot has names of its own,
// so that neither shares a VM, a row in the metrics or an ECDS resource with the first one.
// A nil staged filter leaves it idle. The renewal is EnvoyFilter's, for the staged filter.
func AddStagingSlot(to *networking.EnvoyFilter, mesh Mesh, owner types.NamespacedName, filter Filter, target workload.Target, staged *Filter, renewal string) error {
	target = filter.inEnvoyFilter(target)
	name := ecdsName(owner, target, filter) + stagingSuffix
	extension := map[string]any{"name": name, "typed_config": allowAll()}
	if staged != nil {
		extension = extensionConfig(mesh, *staged, name, StagedPluginName(owner, target, staged.Revision()), renewal)
	}
	reference := extensionReference(name, allowAll())
	reference["disabled"] = true
	patches, err := slotPatches(mesh, filter, target, name, extension, reference)
	to.ConfigPatches = append(to.ConfigPatches, patches...)
	return err
}

// AddCanary has single pods run another filter: in the place of the one that the EnvoyFilter
// was rendered for, or where that would be if it has none, which nil says. It replaces an
// HTTP filter, so that the listeners of these pods change.
func AddCanary(to *networking.EnvoyFilter, mesh Mesh, owner types.NamespacedName, filter *Filter, target workload.Target, canary Filter, pods []string) error {
	shape := canary
	if filter != nil {
		shape = *filter
	}
	target = shape.inEnvoyFilter(target)
	live := ecdsName(owner, target, shape)
	name := live + canarySuffix
	patches, err := slotPatches(mesh, shape, target, name,
		extensionConfig(mesh, canary, name, CanaryPluginName(owner, target, canary.Revision()), ""),
		extensionReference(name, defaultConfig(canary.FailStrategy)))
	if err != nil {
		return err
	}
	for _, pod := range pods {
		for _, patch := range patches {
			one := patch.DeepCopy()
			one.Match.Proxy.Metadata["NAME"] = pod
			if filter != nil && one.ApplyTo == networking.EnvoyFilter_HTTP_FILTER && one.Patch.Operation != networking.EnvoyFilter_Patch_REMOVE {
				one.Patch.Operation = networking.EnvoyFilter_Patch_REPLACE
				one.Match.GetListener().FilterChain.Filter.SubFilter = &networking.EnvoyFilter_ListenerMatch_SubFilterMatch{Name: live}
			}
			to.ConfigPatches = append(to.ConfigPatches, one)
		}
	}
	return nil
}

// slotPatches returns the patches for one place of a filter: its extension configuration
// and the HTTP filters that refer to it.
func slotPatches(mesh Mesh, filter Filter, target workload.Target, name string, extension, reference map[string]any) ([]*networking.EnvoyFilter_EnvoyConfigObjectPatch, error) {
	config, err := structpb.NewStruct(extension)
	if err != nil {
		return nil, fmt.Errorf("rendering the extension configuration: %w", err)
	}
	httpFilter, err := structpb.NewStruct(reference)
	if err != nil {
		return nil, fmt.Errorf("rendering the HTTP filter: %w", err)
	}
	patches := []*networking.EnvoyFilter_EnvoyConfigObjectPatch{{
		ApplyTo: networking.EnvoyFilter_EXTENSION_CONFIG,
		Match:   &networking.EnvoyFilter_EnvoyConfigObjectMatch{Proxy: proxyMatch(mesh, target)},
		Patch:   &networking.EnvoyFilter_Patch{Operation: networking.EnvoyFilter_Patch_ADD, Value: config},
	}}
	patches = append(patches, httpFilterPatches(mesh, filter, target, httpFilter)...)
	if len(filter.Place.Ports) == 0 && runsInbound(filter.PatchContext) {
		patches = append(patches, tunnelPatch(mesh, target, name))
	}
	return patches, nil
}

// proxyMatch returns the metadata of the proxies that the patches are for. It leaves
// out proxies of other workloads that have the same labels and more, and those of
// virtual machines and other clusters. Objects of the root namespace reach all
// namespaces, so they need the namespace as well.
func proxyMatch(mesh Mesh, target workload.Target) *networking.EnvoyFilter_ProxyMatch {
	metadata := map[string]string{"CLUSTER_ID": mesh.ClusterID}
	if owner := ownerOf(target); owner != "" {
		metadata["OWNER"] = owner
	}
	if target.Namespace == mesh.RootNamespace {
		metadata["NAMESPACE"] = target.Namespace
	}
	return &networking.EnvoyFilter_ProxyMatch{Metadata: metadata}
}

// httpFilterPatches returns the patches that put the filter into its place: one for
// each port, or one for all ports.
func httpFilterPatches(mesh Mesh, filter Filter, target workload.Target, reference *structpb.Struct) []*networking.EnvoyFilter_EnvoyConfigObjectPatch {
	operation, anchor := filter.Place.insertion()
	patch := func(listener *networking.EnvoyFilter_ListenerMatch) *networking.EnvoyFilter_EnvoyConfigObjectPatch {
		return &networking.EnvoyFilter_EnvoyConfigObjectPatch{
			ApplyTo: networking.EnvoyFilter_HTTP_FILTER,
			Match: &networking.EnvoyFilter_EnvoyConfigObjectMatch{
				Context:     contexts[filter.PatchContext],
				Proxy:       proxyMatch(mesh, target),
				ObjectTypes: &networking.EnvoyFilter_EnvoyConfigObjectMatch_Listener{Listener: listener},
			},
			Patch: &networking.EnvoyFilter_Patch{Operation: operation, Value: reference},
		}
	}
	if len(filter.Place.Ports) == 0 {
		return []*networking.EnvoyFilter_EnvoyConfigObjectPatch{patch(listenerMatch(anchor))}
	}
	var patches []*networking.EnvoyFilter_EnvoyConfigObjectPatch
	for _, port := range filter.Place.Ports {
		patches = append(patches, patch(portMatch(listenerMatch(anchor), filter.PatchContext, port)))
	}
	return patches
}

func runsInbound(context wasmev1.PatchContext) bool {
	return context == wasmev1.PatchContextInbound || context == wasmev1.PatchContextAny
}

// tunnelListener ends the tunnels of HBONE. Its chain is one of inbound traffic to
// istiod, but its requests are CONNECTs, and those of the workload come out of them.
const tunnelListener = "connect_terminate"

// tunnelPatch takes the filter out of the tunnels' chain, into which an insertion that
// matches no port puts it, too.
func tunnelPatch(mesh Mesh, target workload.Target, name string) *networking.EnvoyFilter_EnvoyConfigObjectPatch {
	match := listenerMatch(name)
	match.Name = tunnelListener
	return &networking.EnvoyFilter_EnvoyConfigObjectPatch{
		ApplyTo: networking.EnvoyFilter_HTTP_FILTER,
		Match: &networking.EnvoyFilter_EnvoyConfigObjectMatch{
			Context:     networking.EnvoyFilter_SIDECAR_INBOUND,
			Proxy:       proxyMatch(mesh, target),
			ObjectTypes: &networking.EnvoyFilter_EnvoyConfigObjectMatch_Listener{Listener: match},
		},
		Patch: &networking.EnvoyFilter_Patch{Operation: networking.EnvoyFilter_Patch_REMOVE},
	}
}

// listenerMatch matches the filter called anchor in an HTTP filter chain, or the chain
// itself when anchor is empty.
func listenerMatch(anchor string) *networking.EnvoyFilter_ListenerMatch {
	manager := &networking.EnvoyFilter_ListenerMatch_FilterMatch{Name: httpConnectionManager}
	if anchor != "" {
		manager.SubFilter = &networking.EnvoyFilter_ListenerMatch_SubFilterMatch{Name: anchor}
	}
	return &networking.EnvoyFilter_ListenerMatch{
		FilterChain: &networking.EnvoyFilter_ListenerMatch_FilterChainMatch{Filter: manager},
	}
}

// portMatch narrows a match to a port. For inbound traffic, each filter chain matches
// its port, whatever listener it is in: the one that iptables lead to
// (virtualInbound), one that binds the port itself (captureMode NONE), or the internal
// one behind HBONE, which has no port of its own. For outbound and gateway traffic the
// chains match no port, but their listener has it.
func portMatch(match *networking.EnvoyFilter_ListenerMatch, context wasmev1.PatchContext, port uint32) *networking.EnvoyFilter_ListenerMatch {
	if context == wasmev1.PatchContextInbound {
		match.FilterChain.DestinationPort = port
	} else {
		match.PortNumber = port
	}
	return match
}

// extensionReference returns the HTTP filter. It refers to the extension
// configuration by name and says what runs until the first one is accepted.
func extensionReference(name string, defaultConfig map[string]any) map[string]any {
	return map[string]any{
		"name": name,
		"config_discovery": map[string]any{
			"config_source": map[string]any{
				"ads":                   map[string]any{},
				"initial_fetch_timeout": "0s",
				"resource_api_version":  "V3",
			},
			"default_config": defaultConfig,
			"type_urls":      []any{wasmType, rbacType},
		},
	}
}

// defaultConfig returns an RBAC filter. Without rules it allows every request, and
// with an ALLOW action but no policy it denies every request.
func defaultConfig(strategy wasmev1.FailStrategy) map[string]any {
	if strategy == wasmev1.FailOpen {
		return allowAll()
	}
	return map[string]any{
		"@type": rbacType,
		"rules": map[string]any{"action": "ALLOW", "policies": map[string]any{}},
	}
}

func allowAll() map[string]any { return map[string]any{"@type": rbacType} }

// extensionConfig returns the ECDS resource with a name, whose plugin is called plugin.
func extensionConfig(mesh Mesh, filter Filter, name, plugin, renewal string) map[string]any {
	vm := map[string]any{
		"vm_id":   vmID(name, filter.Env),
		"runtime": "envoy.wasm.runtime.v8",
		"code":    remoteCode(mesh, filter),
	}
	if variables := environment(filter.Env, renewal); len(variables) > 0 {
		vm["environment_variables"] = variables
	}
	config := map[string]any{
		"name":           plugin,
		"root_id":        filter.RootID,
		"failure_policy": failurePolicies[filter.FailStrategy],
		"vm_config":      vm,
	}
	if filter.Configuration != nil {
		config["configuration"] = filter.configurationAny()
	}
	if filter.FailStrategy == wasmev1.FailReload {
		config["reload_config"] = map[string]any{"backoff": map[string]any{"base_interval": reloadBackoff}}
	}
	return map[string]any{
		"name":         name,
		"typed_config": map[string]any{"@type": wasmType, "config": config},
	}
}

// environment returns the variables of the VM, and the renewal, which pilot-agent removes.
func environment(env []wasmev1.EnvVar, renewal string) map[string]any {
	values, host := map[string]any{}, []any{}
	for _, variable := range env {
		if variable.Value != nil {
			values[variable.Name] = *variable.Value
		} else {
			host = append(host, variable.Name)
		}
	}
	if renewal != "" {
		values[renewalVariable] = renewal
	}
	variables := map[string]any{}
	if len(values) > 0 {
		variables["key_values"] = values
	}
	if len(host) > 0 {
		variables["host_env_keys"] = host
	}
	return variables
}

// remoteCode returns the source that pilot-agent fetches and replaces with a local
// file. Envoy's API requires a cluster, which is never used.
func remoteCode(mesh Mesh, filter Filter) map[string]any {
	uri, sha256 := moduleSource(mesh, filter)
	return map[string]any{"remote": map[string]any{
		"sha256":   sha256,
		"http_uri": map[string]any{"uri": uri, "timeout": fetchTimeout, "cluster": "_"},
	}}
}
