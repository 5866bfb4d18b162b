// Licensed under the Apache License, Version 2.0; see LICENSE.

package foreign

// Callouts is the cluster that modules ask over HTTP, and GRPC the one that they ask over
// gRPC: "allow" and status 0 let a request pass.
const (
	Callouts = "callouts"
	GRPC     = "grpc"
)

// Probe runs host functions as the request header x-probe or its configuration says; its
// source explains how. It has no configuration of its own, and takes any root id.
const (
	Probe    = "c/probe"
	Probe020 = "c/probe-0.2.0"
	Probe010 = "c/probe-0.1.0"
)

// All are the modules that Build knows.
var All = []Module{
	{Name: Probe, Language: C, Does: "runs the host functions that it is told to, by ABI 0.2.1"},
	{Name: Probe020, Language: C, Does: "the same by ABI 0.2.0"},
	{Name: Probe010, Language: C, Does: "the same by ABI 0.1.0"},

	{Name: "rust/auth", Language: Rust, Does: "holds requests until a service has answered, and answers 403 unless it says allow"},
	{Name: "rust/body", Language: Rust, Configuration: "append", Refused: []string{"turn"},
		Does: "replaces, appends to or prepends to a whole request body, and turns a whole response body to upper case"},
	{Name: "rust/chunks", Language: Rust, Does: "changes each chunk of a body, and trailers"},
	{Name: "rust/config", Language: Rust, Configuration: `{"x-one": "1", "x-two": "2"}`, Refused: []string{"", "{", "[]", `{"x-one": 1}`},
		Does: "adds the response headers in its configuration"},
	{Name: "rust/grpc-auth", Language: Rust, Does: "holds requests until a gRPC service has answered, and answers 403 unless its status is 0"},
	{Name: "rust/headers", Language: Rust, Does: "adds, replaces and removes headers of requests and responses"},
	{Name: "rust/hello", Language: Rust, Configuration: "hello", Does: "logs, and answers 401 to requests without x-secret"},
	{Name: "rust/postpone", Language: Rust, Does: "holds requests until the next tick"},
	{Name: "rust/properties", Language: Rust, Does: "copies properties to headers"},

	{Name: "assemblyscript/auth", Language: AssemblyScript, RootID: "auth", Configuration: "any",
		Does: "holds requests until a service has answered, and answers 403 unless with 200"},
	{Name: "assemblyscript/deny", Language: AssemblyScript, RootID: "deny", Configuration: "x-user", Refused: []string{""},
		Does: "answers 401 to requests without the header that its configuration names"},
	{Name: "assemblyscript/headers", Language: AssemblyScript, RootID: "headers", Configuration: "everybody",
		Does: "adds its configuration to responses, and changes request headers"},
	{Name: "assemblyscript/metrics", Language: AssemblyScript, RootID: "metrics", Configuration: "any", Does: "counts requests, and logs"},
	{Name: "assemblyscript/properties", Language: AssemblyScript, RootID: "properties", Configuration: "any",
		Does: "holds requests until the next tick, and adds properties to them and to responses"},

	{Name: "go/auth", Language: Go, Does: "holds requests until a service has answered, and answers 403 unless it says allow"},
	{Name: "go/body", Language: Go, Does: "replaces, appends to or prepends to a whole request body"},
	{Name: "go/headers", Language: Go, Does: "adds, replaces and removes request headers, and sets all response headers"},
	{Name: "go/json", Language: Go, Configuration: `{"required": ["id"]}`, Refused: []string{"", "{"},
		Does: "holds requests until their body is whole, and answers 400 unless it is a JSON object with the required fields"},
	{Name: "go/metrics", Language: Go, Does: "counts requests by user, and adds the counts to responses"},
	{Name: "go/properties", Language: Go, Does: "logs properties, and sets one"},
	{Name: "go/queue", Language: Go, Does: "sends paths through a shared queue to itself"},
	{Name: "go/shareddata", Language: Go, Does: "counts requests in shared data"},
	{Name: "go/ticks", Language: Go, Does: "calls a foreign function and a service at its first tick"},
}
