package host

import (
	"encoding/binary"
	"strings"

	"github.com/tetratelabs/wazero/experimental"
	"golang.org/x/sys/unix"
)

// Bounds of a serialized header map, as in Envoy (limits.h of proxy-wasm-cpp-host).
const (
	maxPairsBytes = 1 << 20
	maxPairs      = 1024
)

// linearMemory is the memory of a VM. It is reserved as a whole, so that it grows
// without being copied and takes only what is touched. It does not grow beyond its
// limit, and remembers whether it was asked to.
type linearMemory struct {
	limit    uint64
	exceeded bool
	reserved []byte
	bytes    []byte
}

var _ experimental.LinearMemory = (*linearMemory)(nil)

func newLinearMemory(limit uint64) (*linearMemory, error) {
	reserved, err := unix.Mmap(-1, 0, int(limit), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) //nolint:gosec // at most 1 GiB
	return &linearMemory{limit: limit, reserved: reserved}, err
}

// Allocate implements experimental.MemoryAllocator.
func (m *linearMemory) Allocate(_, _ uint64) experimental.LinearMemory { return m }

// Reallocate implements experimental.LinearMemory.
func (m *linearMemory) Reallocate(size uint64) []byte {
	if size > m.limit {
		m.exceeded = true
		return nil
	}
	m.bytes = m.reserved[:size]
	return m.bytes
}

// Free implements experimental.LinearMemory.
func (m *linearMemory) Free() {
	if m.reserved != nil {
		_ = unix.Munmap(m.reserved) // it was mapped
		m.reserved, m.bytes = nil, nil
	}
}

// read returns a copy of a part of the module's memory; false when it is out of bounds.
func (vm *VM) read(pointer, size uint32) (string, bool) {
	bytes, ok := vm.instance.Memory().Read(pointer, size)
	return string(bytes), ok
}

// write copies data to the module's memory; false when it is out of bounds.
func (vm *VM) write(pointer uint32, data []byte) bool {
	return vm.instance.Memory().Write(pointer, data)
}

func (vm *VM) writeU32(pointer, value uint32) bool {
	return vm.instance.Memory().WriteUint32Le(pointer, value)
}

func (vm *VM) writeU64(pointer uint32, value uint64) bool {
	return vm.instance.Memory().WriteUint64Le(pointer, value)
}

// give copies data to memory that the module allocates, and writes where it is and
// how long. Empty data is given as the pointer 0, without an allocation.
func (vm *VM) give(data string, pointerAt, sizeAt uint32) bool {
	var pointer uint32
	if data != "" {
		allocated, ok := vm.allocate(len(data))
		if !ok || !vm.write(allocated, []byte(data)) {
			return false
		}
		pointer = allocated
	}
	return vm.writeU32(pointerAt, pointer) && vm.writeU32(sizeAt, uint32(len(data))) //nolint:gosec // data is bounded by what a module has sent
}

// packPairs serializes a header map: the number of pairs, the sizes of each name and
// value, then names and values, each ended by a zero byte.
func packPairs(headers Headers) string {
	var packed strings.Builder
	number := func(n int) {
		var bytes [4]byte
		binary.LittleEndian.PutUint32(bytes[:], uint32(n)) //nolint:gosec // sizes of header maps
		packed.Write(bytes[:])
	}
	number(len(headers))
	for _, line := range headers {
		number(len(line.Name))
		number(len(line.Value))
	}
	for _, line := range headers {
		packed.WriteString(line.Name + "\x00" + line.Value + "\x00")
	}
	return packed.String()
}

// unpackPairs reads what packPairs writes. Like Envoy, it takes anything that is not
// well formed as no headers at all.
func unpackPairs(packed string) Headers {
	const word = 4
	if len(packed) < word || len(packed) > maxPairsBytes {
		return nil
	}
	number := func(at int) int { return int(binary.LittleEndian.Uint32([]byte(packed[at : at+word]))) }
	count := number(0)
	if count > maxPairs || len(packed) < word+2*word*count {
		return nil
	}
	rest := packed[word+2*word*count:]
	take := func(size int) (string, bool) {
		if size >= len(rest) || rest[size] != 0 {
			return "", false
		}
		text := rest[:size]
		rest = rest[size+1:]
		return text, true
	}
	headers := make(Headers, 0, count)
	for i := range count {
		name, named := take(number(word + 2*word*i))
		value, valued := take(number(2*word + 2*word*i))
		if !named || !valued {
			return nil
		}
		headers = append(headers, Header{strings.ToLower(name), value})
	}
	if rest != "" {
		return nil
	}
	return headers
}
