package host

import (
	"bytes"
	"compress/zlib"
	"io"
)

// maxInflated bounds what uncompress returns.
const maxInflated = 16 << 20

func (c *call) callForeign() uint32 {
	texts, inBounds := c.texts(0, 2)
	if !inBounds {
		return invalidMemoryAccess
	}
	result, returned := c.vm.foreign(texts[0], texts[1])
	if returned != ok || c.word(4) == 0 || c.word(5) == 0 {
		return returned
	}
	return c.give(result, 4)
}

// foreign calls one of the functions that Envoy registers (foreign.cc of its Wasm
// extension).
func (vm *VM) foreign(name, argument string) (string, uint32) {
	switch name {
	case "clear_route_cache", "declare_property", "set_envoy_filter_state":
		return "", ok
	case "compress":
		var packed bytes.Buffer
		w := zlib.NewWriter(&packed)
		_, err := w.Write([]byte(argument))
		if err != nil || w.Close() != nil {
			return "", serializationFailed
		}
		return packed.String(), ok
	case "uncompress":
		r, err := zlib.NewReader(bytes.NewReader([]byte(argument)))
		if err != nil {
			return "", serializationFailed
		}
		content, err := io.ReadAll(io.LimitReader(r, maxInflated))
		if err != nil {
			return "", serializationFailed
		}
		return string(content), ok
	}
	vm.ask("foreign function " + name)
	return "", internalFailure
}
