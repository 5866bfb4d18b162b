// Package moduletest makes Wasm modules, archives and images for tests, good and
// hostile, and checks the errors of internal/module. It imports no package below
// internal/module, so that their own tests can use it.
package moduletest

import (
	"encoding/binary"
	"slices"
)

// The preambles of a core module and of a component.
const (
	CorePreamble      = "\x00asm\x01\x00\x00\x00"
	ComponentPreamble = "\x00asm\x0d\x00\x01\x00"
)

// The numbers of the export section, and of a function in it.
const (
	exportSection    = 7
	exportedFunction = 0
)

// Wasm returns a module for proxy-wasm. Modules differ by their texts.
func Wasm(text string) []byte {
	custom := Section(0, append(Name("text"), text...))
	return append(WithExports(Export("proxy_abi_version_0_2_1")), custom...)
}

// WithExports returns a module with these exports and nothing else.
func WithExports(exports ...[]byte) []byte {
	content := binary.AppendUvarint(nil, uint64(len(exports)))
	return slices.Concat([]byte(CorePreamble), Section(exportSection, append(content, slices.Concat(exports...)...)))
}

// Section returns a section of a module.
func Section(id byte, content []byte) []byte {
	return append(binary.AppendUvarint([]byte{id}, uint64(len(content))), content...)
}

// Export returns the entry of an exported function.
func Export(function string) []byte { return append(Name(function), exportedFunction, 0) }

// Name returns a name as modules encode it.
func Name(text string) []byte {
	return append(binary.AppendUvarint(nil, uint64(len(text))), text...)
}
