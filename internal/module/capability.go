package module

import (
	"bufio"
	"errors"
	"io"
	"slices"

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

const (
	importSection = 2
	// maxImports is far more than a proxy has functions.
	maxImports = 10_000
)

// The kinds of imports (5.5.5 of the core specification, and tags of the exception
// handling proposal).
const (
	importedFunction = iota
	importedTable
	importedMemory
	importedGlobal
	importedTag
)

// ImportedFunctions returns the names of the functions that a module imports, without the
// modules that they come from, in the order of the imports. The error is an *Error with
// the reason InvalidModule, unless r fails.
func ImportedFunctions(r io.ReaderAt, size int64) ([]string, error) {
	if err := checkPreamble(r); err != nil {
		return nil, err
	}
	section, err := findSection(io.NewSectionReader(r, int64(len(corePreamble)), size-int64(len(corePreamble))), importSection)
	if err == nil && section.Size() == 0 {
		return nil, nil
	}
	var names []string
	if err == nil {
		names, err = readImports(bufio.NewReader(section))
	}
	if err != nil {
		return nil, Terminal(wasmev1.ReasonInvalidModule, "reading the module's imports: %v: build the module again", err)
	}
	return names, nil
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
		if _, err := readName(r); err != nil {
			return nil, err
		}
		name, err := readName(r)
		if err != nil {
			return nil, err
		}
		kind, err := r.ReadByte()
		if err != nil {
			return nil, err
		}
		if kind == importedFunction {
			names = append(names, name)
		}
		if err := skipImported(r, kind); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// skipImported reads the type of an import.
func skipImported(r *bufio.Reader, kind byte) error {
	switch kind {
	case importedFunction:
		_, _, err := readU32(r)
		return err
	case importedTable:
		if _, err := r.Discard(1); err != nil {
			return err
		}
		return skipLimits(r)
	case importedMemory:
		return skipLimits(r)
	case importedGlobal:
		_, err := r.Discard(2)
		return err
	case importedTag:
		if _, err := r.Discard(1); err != nil {
			return err
		}
		_, _, err := readU32(r)
		return err
	}
	return errors.New("an import of an unknown kind")
}

// skipLimits reads the limits of a table or a memory: a flag, the least, and perhaps the most.
func skipLimits(r *bufio.Reader) error {
	flags, err := r.ReadByte()
	if err != nil {
		return err
	}
	if _, _, err := readU32(r); err != nil || flags&1 == 0 {
		return err
	}
	_, _, err = readU32(r)
	return err
}
