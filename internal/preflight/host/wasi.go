package host

import (
	"crypto/rand"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
)

// The names under which modules import WASI. Envoy offers the same functions under both.
const (
	wasiPreview1 = "wasi_snapshot_preview1"
	wasiUnstable = "wasi_unstable"
)

// Errors of WASI, as Envoy returns them (exports.cc of proxy-wasm-cpp-host).
const (
	wasiOK     = 0
	wasiBadFD  = 8
	wasiFault  = 21
	wasiInval  = 28
	wasiNoEnt  = 44
	wasiNotDir = 20
	wasiNoSys  = 52
	wasiNotSup = 58
)

const (
	stdout    = 1
	stderr    = 2
	maxRandom = 64 << 10
	maxWrite  = 1 << 20
)

// returns makes a function that does nothing and returns one result.
func returns(result uint32) func(*call) uint32 { return func(*call) uint32 { return result } }

// onOutput makes a function that succeeds for standard output and error, and does nothing.
func onOutput(c *call) uint32 {
	if fd := c.word(0); fd != stdout && fd != stderr {
		return wasiBadFD
	}
	return wasiOK
}

// wasiFunctions returns Envoy's subset of WASI. There are no files and no sockets.
func wasiFunctions() []Function {
	const (
		nothing = "Does nothing."
		noFiles = "Fails: there are no files."
		noSocks = "Fails: there are no sockets."
	)
	functions := []Function{
		{Name: "fd_write", params: types("wwww"), call: (*call).fdWrite, Does: "Logs what is written to standard output (info) and standard error (error)."},
		{Name: "fd_pwrite", params: types("wwwlw"), call: (*call).fdPwrite, Does: "As fd_write."},
		{Name: "fd_fdstat_get", params: types("ww"), call: (*call).fdstat, Does: "Says that standard output and error can be written."},
		{Name: "fd_read", params: types("wwww"), call: returns(wasiNoSys), Does: noFiles},
		{Name: "fd_seek", params: types("wlww"), call: returns(wasiOK), Does: nothing},
		{Name: "fd_close", params: types("w"), call: returns(wasiOK), Does: nothing},
		{Name: "fd_fdstat_set_flags", params: types("ww"), call: returns(wasiNoSys), Does: noFiles},
		{Name: "fd_fdstat_set_rights", params: types("wll"), call: onOutput, Does: nothing},
		{Name: "fd_advise", params: types("wllw"), call: returns(wasiOK), Does: nothing},
		{Name: "fd_allocate", params: types("wll"), call: onOutput, Does: nothing},
		{Name: "fd_datasync", params: types("w"), call: onOutput, Does: nothing},
		{Name: "fd_sync", params: types("w"), call: onOutput, Does: nothing},
		{Name: "fd_filestat_get", params: types("ww"), call: returns(wasiBadFD), Does: noFiles},
		{Name: "fd_filestat_set_size", params: types("wl"), call: onOutput, Does: nothing},
		{Name: "fd_filestat_set_times", params: types("wllw"), call: onOutput, Does: nothing},
		{Name: "fd_pread", params: types("wwwlw"), call: returns(wasiNoSys), Does: noFiles},
		{Name: "fd_readdir", params: types("wwwlw"), call: zeroAt(4, wasiNotDir), Does: noFiles},
		{Name: "fd_renumber", params: types("ww"), call: (*call).fdRenumber, Does: noFiles},
		{Name: "fd_tell", params: types("ww"), call: (*call).fdTell, Does: "Says that standard output and error are at 0."},
		{Name: "fd_prestat_get", params: types("ww"), call: returns(wasiBadFD), Does: noFiles},
		{Name: "fd_prestat_dir_name", params: types("www"), call: returns(wasiNoSys), Does: noFiles},
		{Name: "path_open", params: types("wwwwwllww"), call: returns(wasiNoEnt), Does: noFiles},
		{Name: "path_create_directory", params: types("www"), call: returns(wasiNotSup), Does: noFiles},
		{Name: "path_filestat_get", params: types("wwwww"), call: returns(wasiNotSup), Does: noFiles},
		{Name: "path_filestat_set_times", params: types("wwwwllw"), call: returns(wasiNotSup), Does: noFiles},
		{Name: "path_link", params: types("wwwwww"), call: returns(wasiNotSup), Does: noFiles},
		{Name: "path_readlink", params: types("wwwwww"), call: zeroAt(5, wasiNotSup), Does: noFiles},
		{Name: "path_remove_directory", params: types("www"), call: returns(wasiNotSup), Does: noFiles},
		{Name: "path_rename", params: types("wwwwww"), call: returns(wasiNotSup), Does: noFiles},
		{Name: "path_symlink", params: types("wwwww"), call: returns(wasiNotSup), Does: noFiles},
		{Name: "path_unlink_file", params: types("www"), call: returns(wasiNotSup), Does: noFiles},
		{Name: "sock_accept", params: types("www"), call: returns(wasiNotSup), Does: noSocks, Differs: "Envoy 1.36 refuses a module that imports it."},
		{Name: "sock_recv", params: types("wwwwww"), call: zeroAt(4, wasiNotSup), Does: noSocks},
		{Name: "sock_send", params: types("wwwww"), call: zeroAt(4, wasiNotSup), Does: noSocks},
		{Name: "sock_shutdown", params: types("ww"), call: returns(wasiNotSup), Does: noSocks},
		{Name: "environ_get", params: types("ww"), call: (*call).environ, Does: "Returns the VM's environment."},
		{Name: "environ_sizes_get", params: types("ww"), call: (*call).environSizes, Does: "Returns the size of the VM's environment."},
		{Name: "args_get", params: types("ww"), call: returns(wasiOK), Does: "Returns no arguments."},
		{Name: "args_sizes_get", params: types("ww"), call: (*call).argsSizes, Does: "Returns that there are no arguments."},
		{Name: "clock_time_get", params: types("wlw"), call: (*call).clockTime, Does: "Returns the time; the clocks of CPU time are not supported."},
		{Name: "clock_res_get", params: types("ww"), call: (*call).clockResolution, Does: "Returns a nanosecond."},
		{Name: "random_get", params: types("ww"), call: (*call).random, Does: "Returns at most 64 KiB of random bytes."},
		{Name: "sched_yield", params: types(""), call: returns(wasiOK), Does: nothing},
		{Name: "poll_oneoff", params: types("wwww"), call: zeroAt(3, wasiOK), Does: "Returns at once, without an event."},
		{Name: "proc_exit", params: types("w"), void: true, call: returns(0), Does: "Nothing: the module goes on."},
	}
	// These Envoy lets no module call before it has started.
	late := []string{"fd_read", "fd_seek", "fd_close", "path_open", "path_filestat_get", "sched_yield", "proc_exit"}
	for i := range functions {
		functions[i].Module = wasiPreview1
		functions[i].atStart = !slices.Contains(late, functions[i].Name)
	}
	return functions
}

// zeroAt makes a function that writes 0 where an argument points and returns one result.
func zeroAt(argument int, result uint32) func(*call) uint32 {
	return func(c *call) uint32 {
		if !c.vm.writeU32(c.word(argument), 0) {
			return wasiFault
		}
		return result
	}
}

func (c *call) fdWrite() uint32 { return c.writeOutput(3) }

func (c *call) fdPwrite() uint32 { return c.writeOutput(4) }

// writeOutput logs the bytes that a list of (pointer, size) names.
func (c *call) writeOutput(writtenAt int) uint32 {
	level := Info
	switch c.word(0) {
	case stdout:
	case stderr:
		level = Error
	default:
		return wasiBadFD
	}
	var text strings.Builder
	const entry = 8
	for i := range c.word(2) {
		vector, inBounds := c.vm.read(c.word(1)+i*entry, entry)
		if !inBounds {
			return wasiFault
		}
		pointer, size := binary.LittleEndian.Uint32([]byte(vector)), binary.LittleEndian.Uint32([]byte(vector[4:]))
		part, inBounds := c.vm.read(pointer, size)
		if !inBounds || text.Len()+len(part) > maxWrite {
			return wasiFault
		}
		text.WriteString(part)
	}
	if text.Len() > 0 {
		line, whole := strings.CutSuffix(text.String(), "\n")
		c.vm.options.Log(Line{level, line, !whole})
	}
	return wasiStored(c.vm.writeU32(c.word(writtenAt), uint32(text.Len()))) //nolint:gosec // at most maxWrite
}

func wasiStored(written bool) uint32 {
	if !written {
		return wasiFault
	}
	return wasiOK
}

func (c *call) fdstat() uint32 {
	if fd := c.word(0); fd != stdout && fd != stderr {
		return wasiBadFD
	}
	const rightToWrite = 64
	stat := slices.Concat(make([]byte, 8), binary.LittleEndian.AppendUint64(nil, rightToWrite), make([]byte, 8))
	return wasiStored(c.vm.write(c.word(1), stat))
}

func (c *call) fdRenumber() uint32 {
	output := func(fd uint32) bool { return fd == stdout || fd == stderr }
	if !output(c.word(0)) || !output(c.word(1)) {
		return wasiBadFD
	}
	return wasiNotSup
}

func (c *call) fdTell() uint32 {
	if result := onOutput(c); result != wasiOK {
		return result
	}
	return wasiStored(c.vm.writeU64(c.word(1), 0))
}

// variables returns the environment as "NAME=value", in the order of the names.
func (vm *VM) variables() []string {
	var variables []string
	for _, name := range slices.Sorted(maps.Keys(vm.options.Environment)) {
		variables = append(variables, name+"="+vm.options.Environment[name])
	}
	return variables
}

func (c *call) environ() uint32 {
	const pointer = 4
	at, buffer := c.word(0), c.word(1)
	for _, variable := range c.vm.variables() {
		if !c.vm.writeU32(at, buffer) || !c.vm.write(buffer, []byte(variable+"\x00")) {
			return wasiFault
		}
		at += pointer
		buffer += uint32(len(variable)) + 1 //nolint:gosec // the API bounds them
	}
	return wasiOK
}

func (c *call) environSizes() uint32 {
	size := 0
	variables := c.vm.variables()
	for _, variable := range variables {
		size += len(variable) + 1
	}
	return wasiStored(c.vm.writeU32(c.word(0), uint32(len(variables))) && c.vm.writeU32(c.word(1), uint32(size))) //nolint:gosec // the API bounds them
}

func (c *call) argsSizes() uint32 {
	return wasiStored(c.vm.writeU32(c.word(0), 0) && c.vm.writeU32(c.word(1), 0))
}

// lastClock is the last of the clocks that Envoy has: realtime and monotonic.
const lastClock = 1

func (c *call) clockTime() uint32 {
	if c.word(0) > lastClock {
		return wasiNotSup
	}
	return wasiStored(c.vm.writeU64(c.word(2), uint64(c.vm.options.Now().UnixNano())))
}

func (c *call) clockResolution() uint32 {
	if c.word(0) > lastClock {
		return wasiNotSup
	}
	return wasiStored(c.vm.writeU64(c.word(1), 1))
}

func (c *call) random() uint32 {
	if c.word(1) > maxRandom {
		return wasiInval
	}
	bytes := make([]byte, c.word(1))
	_, _ = rand.Read(bytes) // never fails
	return wasiStored(c.vm.write(c.word(0), bytes))
}
