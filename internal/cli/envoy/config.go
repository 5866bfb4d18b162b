package envoy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"unicode/utf8"

	"sigs.k8s.io/yaml"
)

// The names that a module and its author see.
const (
	// UpstreamCluster is the cluster of the upstream in the configuration that Bootstrap writes.
	UpstreamCluster = "upstream"
	// PluginName is the name of the plugin.
	PluginName = "filter"
)

const (
	// filterName is the name of the HTTP filter, and of the resource that ECDS brings it by.
	filterName = "wasme"
	// listenerName is the name of a listener that has none of its own.
	listenerName = "wasme"

	typePrefix            = "type.googleapis.com/"
	wasmType              = "envoy.extensions.filters.http.wasm.v3.Wasm"
	routerType            = "envoy.extensions.filters.http.router.v3.Router"
	connectionManagerType = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)

// object and list are JSON.
type (
	object = map[string]any
	list   = []any
)

// Plugin is what a module gets from Envoy.
type Plugin struct {
	// RootID is the root id of the plugin in the module; modules with one plugin take any.
	RootID string
	// Configuration is what the module reads as its configuration.
	Configuration string
}

// Filter is a Wasm filter as an entry of the HTTP filters of a connection manager.
type Filter struct{ entry object }

// FromFile returns a filter whose module Envoy reads from a file when it starts.
func FromFile(plugin Plugin, module string) Filter {
	return Filter{extension(filterName, plugin.wasm(module))}
}

// Discovered returns a filter that Envoy takes from a file that Resource wrote, and takes again
// whenever another file is renamed to that path (ECDS).
func Discovered(path string) Filter {
	return Filter{object{
		"name": filterName,
		"config_discovery": object{
			"type_urls": list{typePrefix + wasmType},
			"config_source": object{
				"path_config_source":    object{"path": path},
				"resource_api_version":  "V3",
				"initial_fetch_timeout": "0s",
			},
		},
	}}
}

// Resource returns the file of a Discovered filter, in JSON: an ECDS response. Envoy shows the
// version of the last one that it took in its statistics.
func Resource(plugin Plugin, module, version string) ([]byte, error) {
	resource := typed("envoy.config.core.v3.TypedExtensionConfig", extension(filterName, plugin.wasm(module)))
	content, err := json.Marshal(object{"version_info": version, "resources": list{resource}})
	if err != nil {
		return nil, fmt.Errorf("writing the filter's configuration: %w", err)
	}
	return content, nil
}

// wasm returns the configuration of Envoy's Wasm filter. A module that crashes gets a new VM,
// as under the operator's default.
func (p Plugin) wasm(module string) object {
	return typed(wasmType, object{"config": object{
		"name": PluginName, "root_id": p.RootID, "configuration": text(p.Configuration),
		"failure_policy": "FAIL_RELOAD", "reload_config": object{"backoff": object{"base_interval": "0.02s"}},
		"vm_config": object{
			"runtime": "envoy.wasm.runtime.v8",
			"code":    object{"local": object{"filename": module}},
		},
	}})
}

// text returns what a module reads as it is. A string of protobuf must be UTF-8.
func text(value string) object {
	if !utf8.ValidString(value) {
		return typed("google.protobuf.BytesValue", object{"value": []byte(value)})
	}
	return typed("google.protobuf.StringValue", object{"value": value})
}

// typed returns a configuration with its type.
func typed(name string, fields object) object {
	fields["@type"] = typePrefix + name
	return fields
}

// extension returns an extension under its name.
func extension(name string, config object) object {
	return object{"name": name, "typed_config": config}
}

// Proxy is an Envoy with one listener on 127.0.0.1 and one upstream.
type Proxy struct {
	// Port is that of the listener; zero: Envoy takes a free one.
	Port int
	// UpstreamPort is the port on 127.0.0.1 of the upstream; zero: Envoy answers all requests
	// itself, with 200.
	UpstreamPort int
}

// Bootstrap returns the configuration of a proxy with a filter, in YAML. Envoy adds as little
// as it can to messages: what the other side sees differently is the filter's doing.
func Bootstrap(proxy Proxy, filter Filter) ([]byte, error) {
	bootstrap := object{"static_resources": proxy.resources()}
	if _, err := insert(bootstrap, filter, nil); err != nil {
		return nil, err
	}
	return marshal(bootstrap)
}

func (p Proxy) resources() object {
	resources := object{"listeners": list{object{
		"name":          listenerName,
		"address":       loopback(p.Port),
		"filter_chains": list{object{"filters": list{extension("envoy.filters.network.http_connection_manager", p.connectionManager())}}},
	}}}
	if p.UpstreamPort != 0 {
		resources["clusters"] = list{object{
			"name": UpstreamCluster, "type": "STATIC", "connect_timeout": "5s",
			"load_assignment": object{"cluster_name": UpstreamCluster, "endpoints": list{object{
				"lb_endpoints": list{object{"endpoint": object{"address": loopback(p.UpstreamPort)}}},
			}}},
		}}
	}
	return resources
}

func (p Proxy) connectionManager() object {
	route := object{"match": object{"prefix": "/"}}
	if p.UpstreamPort != 0 {
		route["route"] = object{"cluster": UpstreamCluster, "timeout": "0s"}
	} else {
		route["direct_response"] = object{"status": http.StatusOK}
	}
	return typed(connectionManagerType, object{
		"stat_prefix":                  "wasme",
		"server_header_transformation": "PASS_THROUGH",
		"route_config":                 object{"virtual_hosts": list{object{"name": "all", "domains": list{"*"}, "routes": list{route}}}},
		"http_filters":                 list{extension("envoy.filters.http.router", typed(routerType, object{"suppress_envoy_headers": true}))},
	})
}

func loopback(port int) object {
	return object{"socket_address": object{"address": "127.0.0.1", "port_value": port}}
}

func marshal(bootstrap object) ([]byte, error) {
	content, err := yaml.Marshal(bootstrap)
	if err != nil {
		return nil, fmt.Errorf("writing Envoy's configuration: %w", err)
	}
	return content, nil
}
