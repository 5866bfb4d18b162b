// Package oci says what images that hold a Wasm module look like, and takes the
// module out of them. It reads manifests and layers that someone else brought
// onto disk, and reaches nothing by itself.
//
// A module comes in one of two ways:
//
//	artifact   one layer is the module itself, by its media type:
//	           wasme's (+wasm, a runtime configuration beside it) and the CNCF's
//	compat     the layers are archives, as container builders make them, with
//	           /plugin.wasm and perhaps /runtime-config.json
//
// Manifests are manifest.go's matter, layers unpack.go's, the runtime
// configuration runtimeconfig.go's. What comes from a registry is hostile:
// every list, archive and stream is bounded while it is read. agent.go says
// whether Istio's pilot-agent, which may pull the same image by itself, would
// find the same module in it.
package oci
