package module

import wasmev1 "github.com/wasme-io/wasme-operator/api/v1"

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

// Bound is a limit on bytes, with the name of what it bounds and the flag that
// sets it, if there is one.
type Bound struct {
	Bytes      int64
	What, Flag string
}

// Manifest returns the bound of a manifest.
func (l Limits) Manifest() Bound {
	return Bound{l.ManifestBytes, "the image's manifest", "--max-manifest-bytes"}
}

// Layers returns the bound of all layers of an image together.
func (l Limits) Layers() Bound {
	return Bound{l.LayerBytes, "the image's layers", "--max-layer-bytes"}
}

// Module returns the bound of a module.
func (l Limits) Module() Bound {
	return Bound{l.ModuleBytes, "the module", "--max-module-bytes"}
}

// Exceeded returns the error for what is larger than the bound.
func (b Bound) Exceeded() *Error {
	if b.Flag == "" {
		return Terminal(wasmev1.ReasonTooLarge, "%s has more than %d bytes", b.What, b.Bytes)
	}
	return Terminal(wasmev1.ReasonTooLarge, "%s: more than %d bytes: make it smaller, or raise the operator's %s", b.What, b.Bytes, b.Flag)
}
