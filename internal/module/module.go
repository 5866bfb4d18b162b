// Package module finds Wasm modules: it turns an image reference and a
// credential, a URL and a digest, or a module's bytes into a module that is
// checked and kept on disk.
//
//	Resolve ─▶ queue ─▶ HEAD with the request's own credential ─▶ digest
//	             │                                                  │
//	             │   unpack, bounded ◀── pull ◀── not held yet ◀────┘
//	             │          │
//	             ╰─▶ GET ───┴─▶ inspect ─▶ Store       Keep ─▶ inspect ─▶ Store
//
// A Resolver answers at once from what it knows and works in the background; a
// Puller speaks to registries and web servers, within limits; a Store keeps the
// bytes.
package module

// Request says where a module is, an image or a URL, and how it is reached.
// Requests that are equal share their work and their result.
type Request struct {
	// URL is where the module itself is, by http or https, in place of Image.
	URL string
	// SHA256 is the digest that the module at URL has, in 64 lower case
	// hexadecimal digits. Images have none.
	SHA256 string
	// Image is the OCI reference, by tag or by digest. What follows is for images.
	Image string
	// PlainHTTP allows plain HTTP to the image's registry.
	PlainHTTP bool
	// InsecureSkipVerify accepts any certificate of the image's registry.
	InsecureSkipVerify bool
	// Credential is what the registry is shown; the zero value is anonymous.
	Credential Credential
}

// Module is a Wasm module that the operator has checked. It is written into
// ControllerRevisions, so its JSON form is stable.
type Module struct {
	// Reference is the image reference, or the URL, that was resolved, as it was
	// given; of a module that was brought (Resolver.Keep), its reference.
	Reference string `json:"reference"`
	// ManifestDigest is the digest of the image's manifest, such as
	// sha256:<64 hex>: that of the child where the reference names an index.
	// Only images have one.
	ManifestDigest string `json:"manifestDigest,omitempty"`
	// SHA256 is the digest of the module's bytes, 64 hexadecimal digits.
	SHA256 string `json:"sha256"`
	// SizeBytes is the size of the module.
	SizeBytes int64 `json:"sizeBytes"`
	// ABIVersions are the versions of the proxy-wasm ABI that the module
	// exports, ascending, such as 0.2.1; at least one.
	ABIVersions []string `json:"abiVersions,omitempty"`
	// RootIDs are the root ids that the image's runtime configuration lists, in its order.
	RootIDs []string `json:"rootIDs,omitempty"`
	// AgentRefuses says why Istio's pilot-agent would not take this very module
	// out of the image by itself, as a part of a sentence about the image: "it
	// is …". Empty when it would, and when there is no image.
	AgentRefuses string `json:"agentRefuses,omitempty"`
}

// Limits bound what is read from elsewhere, before and while it is read.
type Limits struct {
	// ManifestBytes is the largest manifest (--max-manifest-bytes).
	ManifestBytes int64
	// LayerBytes is the largest sum of an image's layers, both as they are
	// sent and unpacked (--max-layer-bytes).
	LayerBytes int64
	// ModuleBytes is the largest module (--max-module-bytes).
	ModuleBytes int64
	// ArchiveEntries is the largest number of files in an image's layers
	// (--max-archive-entries).
	ArchiveEntries int
}

// DefaultLimits are the defaults of the operator's flags. LayerBytes is what
// Istio's own agent takes as its bound.
var DefaultLimits = Limits{
	ManifestBytes:  4 << 20,
	LayerBytes:     256 << 20,
	ModuleBytes:    64 << 20,
	ArchiveEntries: 100_000,
}
