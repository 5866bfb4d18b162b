package moduletest

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
)

// Assembly is a module to assemble: it imports functions of env, and exports its own and
// its memory. The zero value is a module that exports the ABI 0.2.1 and a malloc that
// always returns the same place.
type Assembly struct {
	// ABIs are the versions that it exports; 0.2.1 when nil.
	ABIs []string
	// Imports are functions of env, in the order of their indices.
	Imports []Import
	// Functions are exported by their names. The index of the first is the number of
	// imports.
	Functions []Function
	// Pages are those that the memory begins with; 1 when 0.
	Pages uint64
	// Globals is the number of i32 variables, all 0 at first.
	Globals uint64
	// Data is in the memory from DataAt.
	Data string
	// WithoutMalloc leaves malloc out.
	WithoutMalloc bool
}

// Import is a function that is imported from a module, env when empty. Types have one
// letter a parameter or result: w for i32, l for i64.
type Import struct{ Module, Name, Params, Results string }

// Function is a function with its type and its instructions.
type Function struct {
	Name, Params, Results string
	Code                  [][]byte
}

// DataAt is where Data is, and Free where an assembled malloc points: 32 KiB of every
// memory.
const (
	DataAt = 1024
	Free   = 32 << 10
)

// The callbacks of most tests.
const (
	OnVMStart        = "proxy_on_vm_start"
	OnConfigure      = "proxy_on_configure"
	OnRequestHeaders = "proxy_on_request_headers"
	OnTick           = "proxy_on_tick"
	OnDelete         = "proxy_on_delete"
)

// Answering returns a callback that has the type of proxy_on_vm_start and
// proxy_on_configure: it runs some instructions and then returns a number.
func Answering(name string, answer int32, code ...[]byte) Function {
	return Function{Name: name, Params: "ww", Results: "w", Code: append(code, I32(answer))}
}

// Handling returns a callback of the type of proxy_on_request_headers that runs some
// instructions and lets the headers pass.
func Handling(name string, code ...[]byte) Function {
	return Function{Name: name, Params: "www", Results: "w", Code: append(code, I32(0))}
}

// I32 returns the instruction that pushes a number.
func I32(value int32) []byte { return append([]byte{0x41}, signed(int64(value))...) }

// I64 returns the instruction that pushes a number of 64 bits.
func I64(value int64) []byte { return append([]byte{0x42}, signed(value)...) }

// Call returns the instruction that calls a function.
func Call(index uint64) []byte { return binary.AppendUvarint([]byte{0x10}, index) }

// Local returns the instruction that pushes a parameter.
func Local(index uint64) []byte { return binary.AppendUvarint([]byte{0x20}, index) }

// Global returns the instruction that pushes a variable.
func Global(index uint64) []byte { return binary.AppendUvarint([]byte{0x23}, index) }

// SetGlobal returns the instruction that pops a variable.
func SetGlobal(index uint64) []byte { return binary.AppendUvarint([]byte{0x24}, index) }

// Load returns the instructions that push a number from memory.
func Load(at int32) []byte { return slices.Concat(I32(at), []byte{0x28, 0x02, 0x00}) }

// Instructions without operands.
var (
	Unreachable = []byte{0x00}
	Drop        = []byte{0x1a}
	Add         = []byte{0x6a}
	Equal       = []byte{0x46}
	Grow        = []byte{0x40, 0x00}
	LessThan    = []byte{0x48}
	// Begin begins a loop, BranchIf goes back to its start, and End ends it.
	Begin    = []byte{0x03, 0x40}
	BranchIf = []byte{0x0d, 0x00}
	End      = []byte{0x0b}
	// Forever is a loop that never ends.
	Forever = []byte{0x03, 0x40, 0x0c, 0x00, 0x0b}
)

// Count returns the instructions that add 1 to a variable.
func Count(global uint64) []byte {
	return slices.Concat(Global(global), I32(1), Add, SetGlobal(global))
}

// If returns instructions that run when a variable has a value.
func If(global uint64, value int32, code ...[]byte) []byte {
	return slices.Concat(Global(global), I32(value), Equal, []byte{0x04, 0x40}, slices.Concat(code...), []byte{0x0b})
}

// Loop returns instructions that run again and again, forever.
func Loop(code ...[]byte) []byte {
	return slices.Concat([]byte{0x03, 0x40}, slices.Concat(code...), []byte{0x0c, 0x00, 0x0b})
}

// Assemble returns the module.
func (a Assembly) Assemble() []byte {
	functions := slices.Clone(a.Functions)
	if !a.WithoutMalloc {
		functions = append(functions, Function{Name: "malloc", Params: "w", Results: "w", Code: [][]byte{I32(Free)}})
	}
	abis := a.ABIs
	if abis == nil {
		abis = []string{"0.2.1"}
	}
	for _, abi := range abis {
		functions = append(functions, Function{Name: "proxy_abi_version_" + strings.ReplaceAll(abi, ".", "_")})
	}
	var kinds, imports, indices, exports, bodies, globals [][]byte
	typeOf := func(params, results string) []byte {
		kinds = append(kinds, slices.Concat([]byte{0x60}, valueTypes(params), valueTypes(results)))
		return binary.AppendUvarint(nil, uint64(len(kinds)-1))
	}
	for _, i := range a.Imports {
		imports = append(imports, slices.Concat(Name(cmp.Or(i.Module, "env")), Name(i.Name), []byte{0x00}, typeOf(i.Params, i.Results)))
	}
	for i, f := range functions {
		indices = append(indices, typeOf(f.Params, f.Results))
		index := binary.AppendUvarint([]byte{exportedFunction}, uint64(len(a.Imports)+i))
		if f.Name != "" {
			exports = append(exports, append(Name(f.Name), index...))
		}
		body := slices.Concat([]byte{0x00}, slices.Concat(f.Code...), []byte{0x0b})
		bodies = append(bodies, append(binary.AppendUvarint(nil, uint64(len(body))), body...))
	}
	exports = append(exports, append(Name("memory"), 0x02, 0x00))
	for range a.Globals {
		globals = append(globals, []byte{0x7f, 0x01, 0x41, 0x00, 0x0b})
	}
	memory := binary.AppendUvarint([]byte{0x00}, max(a.Pages, 1))
	data := slices.Concat([]byte{0x00}, I32(DataAt), []byte{0x0b}, Name(a.Data))
	const kindSection, importSection, functionSection, memorySection, globalSection, codeSection, dataSection = 1, 2, 3, 5, 6, 10, 11
	return slices.Concat([]byte(CorePreamble),
		vector(kindSection, kinds), vector(importSection, imports), vector(functionSection, indices), vector(memorySection, [][]byte{memory}),
		vector(globalSection, globals), vector(exportSection, exports), vector(codeSection, bodies), vector(dataSection, [][]byte{data}))
}

// vector returns a section of several entries.
func vector(id byte, entries [][]byte) []byte {
	return Section(id, append(binary.AppendUvarint(nil, uint64(len(entries))), slices.Concat(entries...)...))
}

func valueTypes(letters string) []byte {
	types := binary.AppendUvarint(nil, uint64(len(letters)))
	for _, letter := range letters {
		kind := byte(0x7f)
		if letter == 'l' {
			kind = 0x7e
		}
		types = append(types, kind)
	}
	return types
}

// signed returns a number in signed LEB128.
func signed(value int64) []byte {
	var encoded []byte
	for {
		low := byte(value & 0x7f)
		value >>= 7
		if value == 0 && low&0x40 == 0 || value == -1 && low&0x40 != 0 {
			return append(encoded, low)
		}
		encoded = append(encoded, low|0x80)
	}
}
