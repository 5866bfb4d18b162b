// Package module says what a Wasm module is to the operator: its digest and
// the path under which it is served, the ABI that it must export, the limits on
// what is read to get it, and the errors that say why there is none. It uses no
// client, no disk and no clock.
//
// The packages below it bring modules in. Each imports only those before it:
//
//	module           values and rules; pure
//	module/oci       what images look like and how a module comes out of one; pure
//	module/store     modules on disk: who retains them, what is evicted
//	module/pull      registries and web servers: credentials, allowed hosts, bounded transfers
//	module/resolve   requests → modules, in the background: workers, cache, retries
//
// An image takes this way; a URL has no HEAD and no manifest:
//
//	Resolve ─▶ queue ─▶ HEAD with the request's own credential ─▶ digest
//	                                                                │
//	   store ◀── Inspect ◀── unpack, bounded ◀── pull ◀── unknown ◀─╯
package module

import "strings"

// Module is a Wasm module that the operator has checked. It is written into
// ControllerRevisions, so its JSON form is stable.
type Module struct {
	// Reference is the image reference that was resolved, as it was given, the URL
	// without its query, or the name of the object that the bytes came from.
	Reference string `json:"reference"`
	// ManifestDigest is the digest of the image's manifest, such as
	// sha256:<64 hex>: that of the child where the reference names an index.
	// Only images have one.
	ManifestDigest string `json:"manifestDigest,omitempty"`
	// IndexDigest is the digest that the reference has, where that is an index's.
	IndexDigest string `json:"indexDigest,omitempty"`
	// SHA256 is the digest of the module's bytes, 64 hexadecimal digits.
	SHA256 string `json:"sha256"`
	// SizeBytes is the size of the module.
	SizeBytes int64 `json:"sizeBytes"`
	// ABIVersions are the versions of the proxy-wasm ABI that the module
	// exports, ascending, such as 0.2.1; at least one.
	ABIVersions []string `json:"abiVersions,omitempty"`
	// RootIDs are the root ids that the image's runtime configuration lists, in its order.
	RootIDs []string `json:"rootIDs,omitempty"`
	// Tests are those for the module that the image has; nil for none.
	Tests *Tests `json:"tests,omitempty"`
	// AgentRefuses says why Istio's pilot-agent would not take this very module
	// out of the image by itself, as a part of a sentence about the image: "it
	// is …". It is empty when pilot-agent would, and when there is no image.
	AgentRefuses string `json:"agentRefuses,omitempty"`
}

// Tests are a file with tests for a module, in the schema of internal/preflight/suite.
type Tests struct {
	// Name says by its ending how the content is written.
	Name    string `json:"name"`
	Content []byte `json:"content"`
}

// URLWithoutQuery returns a URL without its query and fragment. A query may hold a
// key, such as the signature of a presigned URL, so no status or log shows it.
func URLWithoutQuery(text string) string {
	if end := strings.IndexAny(text, "?#"); end >= 0 {
		return text[:end]
	}
	return text
}
