// Package host runs a proxy-wasm module the way Envoy does, without an Envoy: on
// wazero, in this process, with synthetic streams. It answers what a module asks of
// its host and reports what the module does to requests and responses.
//
// Its sources are the proxy-wasm specification (github.com/proxy-wasm/spec, ABI
// 0.1.0, 0.2.0, 0.2.1) and, where that is silent, what Envoy was seen to do. The
// table in functions.go says of each function what it does and where it differs
// from Envoy; docs/preflight.md is made from it.
//
// From the outside in:
//
//	Program   a compiled module, its imports and exports checked as Envoy links them
//	World     what VMs share: data and queues by vm_id
//	VM        one instance: start, root contexts with their configurations, ticks, call-outs
//	Stream    one request with its response: the callbacks, one by one
//	Exchange  what client and upstream send; Drive passes it through a Stream as Envoy's
//	          filter manager does, buffering and pausing included
//
// A module that traps, refuses or exceeds a limit ends in a *Failure. Nothing here
// is safe for concurrent use: a proxy runs a VM in one thread, too.
package host
