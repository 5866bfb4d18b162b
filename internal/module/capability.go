package module

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// capabilityOf says what a module can do with a host function.
var capabilityOf = map[string]wasmev1.Capability{
	"proxy_http_call":                wasmev1.CapabilityHTTPCalls,
	"proxy_grpc_call":                wasmev1.CapabilityGRPCCalls,
	"proxy_grpc_stream":              wasmev1.CapabilityGRPCCalls,
	"proxy_send_local_response":      wasmev1.CapabilityLocalResponses,
	"proxy_set_shared_data":          wasmev1.CapabilitySharedData,
	"proxy_enqueue_shared_queue":     wasmev1.CapabilitySharedQueues,
	"proxy_increment_metric":         wasmev1.CapabilityMetrics,
	"proxy_record_metric":            wasmev1.CapabilityMetrics,
	"proxy_call_foreign_function":    wasmev1.CapabilityForeignFunctions,
	"proxy_set_property":             wasmev1.CapabilitySetProperties,
	"proxy_get_property":             wasmev1.CapabilityReadProperties,
	"proxy_add_header_map_value":     wasmev1.CapabilityChangeHeaders,
	"proxy_replace_header_map_value": wasmev1.CapabilityChangeHeaders,
	"proxy_remove_header_map_value":  wasmev1.CapabilityChangeHeaders,
	"proxy_set_header_map_pairs":     wasmev1.CapabilityChangeHeaders,
}

// CapabilitiesOf returns what a module can do that imports functions of these names, sorted.
func CapabilitiesOf(functions []string) []wasmev1.Capability {
	var found []wasmev1.Capability
	for _, name := range functions {
		if capability, known := capabilityOf[name]; known {
			found = append(found, capability)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// maxImports is far more than a proxy has functions.
const maxImports = 10_000

// The kinds of imports (5.5.5 of the core specification, and tags of the exception
// handling proposal).
const (
	importedFunction = iota
	importedTable
	importedMemory
	importedGlobal
	importedTag
)

// The types of imports that a proxy's engine and this package are sure to read alike: those
// of WebAssembly 2.0, and shared memory. Others have forms of more than one byte, which
// shift all that follows: references with a type behind them (typed function references,
// GC), and limits of 64 bits or with a page size (memory64, custom page sizes).
const (
	referenceTypes = "\x70\x6f"                     // funcref, externref
	valueTypes     = "\x7f\x7e\x7d\x7c\x7b\x70\x6f" // i32, i64, f32, f64, v128, references
	mutabilities   = "\x00\x01"
	limitsFlags    = "\x00\x01\x02\x03" // 1: it has a maximum, 2: it is shared
	tagAttributes  = "\x00"             // an exception
)

// hasMaximum is the flag of limits with a maximum.
const hasMaximum = 1

// ImportedFunctions returns the names of the functions that a module imports, without the
// modules that they come from, in the order of the imports. It turns a module down when it
// does not know the type of any import, as it could miss functions behind it. The error is
// an *Error with the reason InvalidModule, unless the file cannot be read.
func ImportedFunctions(r io.ReaderAt, size int64) ([]string, error) {
	var names []string
	err := readSection(r, size, importSection, func(content *bufio.Reader) (err error) {
		names, err = readImports(content)
		return err
	})
	return names, err
}

func readImports(r *bufio.Reader) ([]string, error) {
	count, _, err := readU32(r)
	if err != nil {
		return nil, err
	}
	if count > maxImports {
		return nil, errors.New("too many imports")
	}
	var names []string
	for range count {
		name, kind, err := readImport(r)
		if err != nil {
			return nil, err
		}
		if kind == importedFunction {
			names = append(names, name)
		}
	}
	return names, nil
}

// readImport reads one import: the module that it comes from and its type, which are
// dropped, its name and its kind.
func readImport(r *bufio.Reader) (name string, kind byte, err error) {
	if _, err := readName(r); err != nil {
		return "", 0, err
	}
	if name, err = readName(r); err != nil {
		return "", 0, err
	}
	if kind, err = r.ReadByte(); err != nil {
		return "", 0, err
	}
	return name, kind, skipImported(r, kind)
}

// skipImported reads the type of an import.
func skipImported(r *bufio.Reader, kind byte) error {
	switch kind {
	case importedFunction:
		return skipU32(r)
	case importedTable:
		if _, err := readOneOf(r, referenceTypes, "table's type"); err != nil {
			return err
		}
		return skipLimits(r)
	case importedMemory:
		return skipLimits(r)
	case importedGlobal:
		if _, err := readOneOf(r, valueTypes, "global's type"); err != nil {
			return err
		}
		_, err := readOneOf(r, mutabilities, "global's mutability")
		return err
	case importedTag:
		if _, err := readOneOf(r, tagAttributes, "tag's attribute"); err != nil {
			return err
		}
		return skipU32(r)
	}
	return errors.New("an import of an unknown kind")
}

// skipLimits reads the limits of a table or a memory: a flag, the least, and perhaps the most.
func skipLimits(r *bufio.Reader) error {
	flags, err := readOneOf(r, limitsFlags, "flag of limits")
	if err != nil {
		return err
	}
	if err := skipU32(r); err != nil || flags&hasMaximum == 0 {
		return err
	}
	return skipU32(r)
}

func skipU32(r io.ByteReader) error {
	_, _, err := readU32(r)
	return err
}

// readOneOf reads a byte that must be one of those that are known.
func readOneOf(r io.ByteReader, known, what string) (byte, error) {
	b, err := r.ReadByte()
	if err == nil && strings.IndexByte(known, b) < 0 {
		err = fmt.Errorf("a %s is %#x, which WebAssembly 2.0 does not have", what, b)
	}
	return b, err
}
