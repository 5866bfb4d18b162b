// Package agreement runs a proxy-wasm module in a real Envoy that stands alone, and
// sends exchanges through it: what they become there is what internal/preflight/host
// must come to, too.
//
// One test process is the client, the upstream and the services that a module calls.
// It speaks raw HTTP/1.1, so that Envoy and the test see each line and each chunk as
// it was sent. Envoy has one worker. A part of a message is sent when Envoy's counter
// of bytes says that it has read the part before: so each part is one callback of the
// module, always. The functions below never wait for a time to pass, except for
// Setup.Patience.
//
// A filter sees the lines of a message in their order, with these differences. A request
// begins with :authority, :path, :method and :scheme, whose order is Envoy's. It ends with
// x-forwarded-proto, unless it has one: without it, Envoy finds no route once a filter has
// changed a request. A response without a body and without a length has content-length: 0.
package agreement

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// The names that a module sees.
const (
	// PluginName is the name of the plugin.
	PluginName = "plugin"
	// Upstream, Callouts and GRPC are the clusters.
	Upstream = "upstream"
	Callouts = "callouts"
	GRPC     = "grpc"
)

// FailPolicy is what Envoy does when the module has failed.
type FailPolicy string

// The policies (envoy.extensions.wasm.v3.FailurePolicy).
const (
	FailClosed FailPolicy = "FAIL_CLOSED"
	FailOpen   FailPolicy = "FAIL_OPEN"
	FailReload FailPolicy = "FAIL_RELOAD"
)

// Setup is what an Envoy runs.
type Setup struct {
	// Version is one that binaries.Envoy provides; empty: its default.
	Version string
	// Module may be nil when there is an OriginPort: Envoy has no Wasm filter then.
	Module []byte
	// RootID, Configuration, VMID and VMConfiguration are as in envoy.extensions.wasm.v3.
	RootID, Configuration, VMID, VMConfiguration string
	// Environment are the variables that the module sees.
	Environment map[string]string
	// FailPolicy is FailClosed when empty.
	FailPolicy FailPolicy
	// Answer answers the calls to the cluster Callouts; nil answers with 404 and no body.
	Answer func(host.Message) host.Message
	// Serve serves the cluster GRPC, which is HTTP/2; nil answers with 404.
	Serve http.Handler
	// Patience is how long a held exchange may be held before it counts as paused. Zero is
	// for modules without ticks: what they hold when nothing is under way is held forever.
	Patience time.Duration
	// OriginPort is the port on 127.0.0.1 of a server that answers all requests, so that what
	// a module costs can be measured: Envoy keeps connections to it, and logs errors only. URL
	// says where requests go; Send does not work. Zero: the upstream that Send needs.
	OriginPort int
	// Workers is the number of Envoy's worker threads; zero is one, which Send needs.
	Workers int
	// Log receives what is downloaded.
	Log io.Writer
}

// places are the addresses and files of an Envoy.
type places struct {
	listener, barrier, admin   int // ports of 127.0.0.1
	upstream, callouts, grpc   int
	module, accesses, settings string
}

// object and list are JSON.
type (
	object = map[string]any
	list   = []any
)

const typePrefix = "type.googleapis.com/"

// typed returns a configuration with its type.
func typed(name string, fields object) object {
	fields["@type"] = typePrefix + name
	return fields
}

// extension returns an extension under its name.
func extension(name string, config object) object {
	return object{"name": name, "typed_config": config}
}

// bootstrap returns Envoy's whole configuration. It makes Envoy add as little as it can
// to messages; normalised takes away the rest.
func (s *Setup) bootstrap(p places) ([]byte, error) {
	content, err := json.MarshalIndent(object{
		"node":  object{"id": "agreement", "cluster": "agreement"},
		"admin": object{"address": loopback(p.admin)},
		"static_resources": object{
			"listeners": list{
				listener("main", p.listener, s.connectionManager(p)),
				listener("barrier", p.barrier, barrier()),
			},
			"clusters": list{
				s.upstream(p),
				inOrder(cluster(Callouts, p.callouts, object{"http_protocol_options": object{"enable_trailers": true}})),
				inOrder(cluster(GRPC, p.grpc, object{"http2_protocol_options": object{}})),
			},
		},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing Envoy's configuration: %w", err)
	}
	return content, nil
}

func loopback(port int) object {
	return object{"socket_address": object{"address": "127.0.0.1", "port_value": port}}
}

func listener(name string, port int, manager object) object {
	return object{
		"name": name, "address": loopback(port),
		"filter_chains": list{object{"filters": list{extension("envoy.filters.network.http_connection_manager", manager)}}},
	}
}

func (s *Setup) connectionManager(p places) object {
	return typed("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", object{
		"stat_prefix":                  "main",
		"codec_type":                   "HTTP1",
		"http_protocol_options":        object{"enable_trailers": true},
		"generate_request_id":          false,
		"server_header_transformation": "PASS_THROUGH",
		"stream_idle_timeout":          "0s",
		"route_config": object{"virtual_hosts": list{object{
			"name": "all", "domains": list{"*"},
			"routes": list{object{"match": object{"prefix": "/"}, "route": object{"cluster": Upstream, "timeout": "0s"}}},
		}}},
		"http_filters": s.filters(p),
		"access_log": list{extension("envoy.access_loggers.file", typed("envoy.extensions.access_loggers.file.v3.FileAccessLog", object{
			"path":       p.accesses,
			"log_format": object{"text_format_source": object{"inline_string": "%RESPONSE_CODE_DETAILS%\t%RESPONSE_FLAGS%\n"}},
		}))},
	})
}

func (s *Setup) filters(p places) list {
	var filters list
	if s.Module != nil {
		filters = append(filters, extension("envoy.filters.http.wasm", typed("envoy.extensions.filters.http.wasm.v3.Wasm", object{"config": s.plugin(p)})))
	}
	return append(filters,
		// The framing is none of a filter's business.
		extension("envoy.filters.http.header_mutation", typed("envoy.extensions.filters.http.header_mutation.v3.HeaderMutation", object{
			"mutations": object{"response_mutations": list{object{"remove": "transfer-encoding"}}},
		})),
		extension("envoy.filters.http.router", typed("envoy.extensions.filters.http.router.v3.Router", object{"suppress_envoy_headers": true})),
	)
}

func (s *Setup) plugin(p places) object {
	policy := s.FailPolicy
	if policy == "" {
		policy = FailClosed
	}
	return object{
		"name": PluginName, "root_id": s.RootID, "failure_policy": policy, "configuration": text(s.Configuration),
		"vm_config": object{
			"vm_id": s.VMID, "runtime": "envoy.wasm.runtime.v8", "configuration": text(s.VMConfiguration),
			"code":                  object{"local": object{"filename": p.module}},
			"environment_variables": object{"key_values": s.Environment},
		},
	}
}

func text(value string) object {
	return typed("google.protobuf.StringValue", object{"value": value})
}

// upstream returns the cluster that all requests are routed to.
func (s *Setup) upstream(p places) object {
	protocol := object{"http_protocol_options": object{"enable_trailers": true}}
	if s.OriginPort != 0 {
		return keepingConnections(Upstream, s.OriginPort, protocol, object{})
	}
	return cluster(Upstream, p.upstream, protocol)
}

func cluster(name string, port int, protocol object) object {
	// What a filter leaves on a connection is not read as another exchange's.
	return keepingConnections(name, port, protocol, object{"max_requests_per_connection": 1})
}

func keepingConnections(name string, port int, protocol, common object) object {
	options := typed("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", object{
		"explicit_http_config": protocol, "common_http_protocol_options": common,
	})
	return object{
		"name": name, "type": "STATIC", "connect_timeout": "5s",
		"typed_extension_protocol_options": object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
		"load_assignment": object{"cluster_name": name, "endpoints": list{object{
			"lb_endpoints": list{object{"endpoint": object{"address": loopback(port)}}},
		}}},
	}
}

// inOrder has a cluster answer requests in the order in which they are made, one by one.
func inOrder(cluster object) object {
	cluster["circuit_breakers"] = object{"thresholds": list{object{"max_connections": 1}}}
	return cluster
}

// barrier answers each request at once.
func barrier() object {
	return typed("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", object{
		"stat_prefix": "barrier",
		"codec_type":  "HTTP1",
		"route_config": object{"virtual_hosts": list{object{
			"name": "all", "domains": list{"*"},
			"routes": list{object{"match": object{"prefix": "/"}, "direct_response": object{"status": http.StatusNoContent}}},
		}}},
		"http_filters": list{extension("envoy.filters.http.router", typed("envoy.extensions.filters.http.router.v3.Router", object{}))},
	})
}
