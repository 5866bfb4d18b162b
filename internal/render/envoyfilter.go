package render

import (
	"fmt"
	"maps"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"
	networking "istio.io/api/networking/v1alpha3"
	"k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

const (
	wasmType = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"
	rbacType = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"

	// fetchTimeout leaves pilot-agent time for a module that the server holds
	// back while it fetches it; 5 s when left out.
	fetchTimeout = "20s"

	// reloadBackoff is how long a worker denies requests after a crash under
	// FailReload; Envoy's own default is 1 s.
	reloadBackoff = "0.02s"
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

// Mesh is what rendering must know of the mesh.
type Mesh struct {
	// ClusterID is the cluster's name in the mesh, as its proxies report it.
	ClusterID string
	// RootNamespace is the namespace whose objects reach every namespace.
	RootNamespace string
	// ModuleServerURL is where proxies fetch modules, without a slash at the end.
	ModuleServerURL string
}

// EnvoyFilter renders the spec of the EnvoyFilter that makes the proxies of one
// workload run a filter. The owner is the FilterDeployment. The error says what
// is wrong with the workload.
func EnvoyFilter(mesh Mesh, owner types.NamespacedName, filter Filter, workload Workload) (*networking.EnvoyFilter, error) {
	if len(workload.PodLabels) == 0 {
		return nil, fmt.Errorf("the pod template of %s %s has no labels to select its pods by; add one", workload.Kind, workload.Name)
	}
	name := ecdsName(owner, workload, filter)
	extension, err := structpb.NewStruct(extensionConfig(mesh, owner, filter, workload, name))
	if err != nil {
		return nil, fmt.Errorf("rendering the extension configuration: %w", err)
	}
	reference, err := structpb.NewStruct(extensionReference(filter, name))
	if err != nil {
		return nil, fmt.Errorf("rendering the HTTP filter: %w", err)
	}
	return &networking.EnvoyFilter{
		WorkloadSelector: &networking.WorkloadSelector{Labels: maps.Clone(workload.PodLabels)},
		ConfigPatches: []*networking.EnvoyFilter_EnvoyConfigObjectPatch{{
			ApplyTo: networking.EnvoyFilter_EXTENSION_CONFIG,
			Match:   &networking.EnvoyFilter_EnvoyConfigObjectMatch{Proxy: proxyMatch(mesh, workload)},
			Patch:   &networking.EnvoyFilter_Patch{Operation: networking.EnvoyFilter_Patch_ADD, Value: extension},
		}, {
			ApplyTo: networking.EnvoyFilter_HTTP_FILTER,
			Match:   routerMatch(mesh, filter, workload),
			Patch:   &networking.EnvoyFilter_Patch{Operation: networking.EnvoyFilter_Patch_INSERT_BEFORE, Value: reference},
		}},
	}, nil
}

// proxyMatch keeps the patches off other proxies whose labels are a superset,
// and off virtual machines and other clusters. Objects of the root namespace
// reach all namespaces.
func proxyMatch(mesh Mesh, workload Workload) *networking.EnvoyFilter_ProxyMatch {
	metadata := map[string]string{"OWNER": workload.owner(), "CLUSTER_ID": mesh.ClusterID}
	if workload.Namespace == mesh.RootNamespace {
		metadata["NAMESPACE"] = workload.Namespace
	}
	return &networking.EnvoyFilter_ProxyMatch{Metadata: metadata}
}

// routerMatch is the place right before the router, which ends every HTTP filter chain.
func routerMatch(mesh Mesh, filter Filter, workload Workload) *networking.EnvoyFilter_EnvoyConfigObjectMatch {
	listener := &networking.EnvoyFilter_ListenerMatch{
		FilterChain: &networking.EnvoyFilter_ListenerMatch_FilterChainMatch{
			Filter: &networking.EnvoyFilter_ListenerMatch_FilterMatch{
				Name:      "envoy.filters.network.http_connection_manager",
				SubFilter: &networking.EnvoyFilter_ListenerMatch_SubFilterMatch{Name: "envoy.filters.http.router"},
			},
		},
	}
	return &networking.EnvoyFilter_EnvoyConfigObjectMatch{
		Context:     contexts[filter.PatchContext],
		Proxy:       proxyMatch(mesh, workload),
		ObjectTypes: &networking.EnvoyFilter_EnvoyConfigObjectMatch_Listener{Listener: listener},
	}
}

// extensionReference is the HTTP filter: it names the extension configuration
// and says what runs until the first one is accepted.
func extensionReference(filter Filter, name string) map[string]any {
	return map[string]any{
		"name": name,
		"config_discovery": map[string]any{
			"config_source": map[string]any{
				"ads":                   map[string]any{},
				"initial_fetch_timeout": "0s",
				"resource_api_version":  "V3",
			},
			"default_config": defaultConfig(filter.FailStrategy),
			"type_urls":      []any{wasmType, rbacType},
		},
	}
}

// defaultConfig is an RBAC filter: without rules it allows all, with an ALLOW
// action and no policy it denies all.
func defaultConfig(strategy wasmev1.FailStrategy) map[string]any {
	if strategy == wasmev1.FailOpen {
		return map[string]any{"@type": rbacType}
	}
	return map[string]any{
		"@type": rbacType,
		"rules": map[string]any{"action": "ALLOW", "policies": map[string]any{}},
	}
}

func extensionConfig(mesh Mesh, owner types.NamespacedName, filter Filter, workload Workload, name string) map[string]any {
	config := map[string]any{
		"name":           pluginName(owner, workload, filter),
		"root_id":        filter.RootID,
		"failure_policy": failurePolicies[filter.FailStrategy],
		"vm_config": map[string]any{
			"vm_id":   name,
			"runtime": "envoy.wasm.runtime.v8",
			"code":    moduleSource(mesh, filter.ModuleSHA256),
		},
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

// moduleSource is what pilot-agent fetches and replaces by a local file. The
// cluster is never used, yet Envoy's API wants one.
func moduleSource(mesh Mesh, sha256 string) map[string]any {
	return map[string]any{"remote": map[string]any{
		"sha256": sha256,
		"http_uri": map[string]any{
			"uri":     strings.TrimRight(mesh.ModuleServerURL, "/") + ModulePath(sha256),
			"timeout": fetchTimeout,
			"cluster": "_",
		},
	}}
}

// ModulePath is the path of a module on the module server.
func ModulePath(sha256 string) string {
	return "/modules/sha256/" + sha256 + ".wasm"
}
