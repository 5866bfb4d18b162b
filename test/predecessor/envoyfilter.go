// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package predecessor has what wasme 0.0.33 left in clusters.
package predecessor

import "fmt"

// Filter is what `wasme deploy istio` was told.
type Filter struct {
	// ID, RootID and Configuration are its flags --id, --root-id and --config.
	ID, RootID, Configuration string
	// App is the label app of the workload.
	App string
	// SHA256 is the digest of the module, which is the name of its file in the cache.
	SHA256 string
}

// EnvoyFilter returns the spec, as YAML, of the EnvoyFilter that it made for a workload.
func (f Filter) EnvoyFilter() string {
	return fmt.Sprintf(`
workloadSelector: {labels: {app: %[4]s}}
configPatches:
- applyTo: HTTP_FILTER
  match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {name: envoy.http_connection_manager, subFilter: {name: envoy.router}}}}}
  patch:
    operation: INSERT_BEFORE
    value:
      name: envoy.filters.http.wasm
      typedConfig:
        '@type': type.googleapis.com/udpa.type.v1.TypedStruct
        typeUrl: type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
        value: {config: {name: %[1]s, rootId: %[2]s, configuration: {'@type': type.googleapis.com/google.protobuf.StringValue, value: %[3]s},
          vmConfig: {vmId: %[1]s, runtime: envoy.wasm.runtime.v8, code: {local: {filename: /var/local/lib/wasme-cache/%[5]s}}}}}
`, f.ID, f.RootID, f.Configuration, f.App, f.SHA256)
}
