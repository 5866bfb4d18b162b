//go:build wasip1

// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package abi lets a filter in standard Go speak proxy-wasm ABI 0.2.1: the few
// calls of it that the test filters need. A host runs a module in one thread,
// so nothing here is locked.
package abi

import (
	"encoding/binary"
	"strings"
	"unsafe"
)

// Filter is what a module does.
type Filter struct {
	// RootID is the only root id that the module answers to.
	RootID string
	// Start is called once per VM; false refuses to start. Nil agrees.
	Start func() bool
	// Configure is called with each configuration and returns what handles the
	// streams under it, or an error to refuse it. One VM may hold several
	// configurations at a time: an old one until its last stream ends.
	Configure func(configuration string) (Plugin, error)
}

// Plugin handles streams. Functions left nil let everything pass.
type Plugin struct {
	// RequestHeaders and ResponseHeaders are called when a stream's headers
	// have come in.
	RequestHeaders  func()
	ResponseHeaders func()
	// Log is called when the stream has ended.
	Log func()
}

var (
	filter  Filter
	plugins = map[uint32]Plugin{} // by root context
	roots   = map[uint32]uint32{} // stream context to its root context
)

// Register says what the module does; to be called from an init function.
func Register(f Filter) { filter = f }

// Values of the ABI, from the proxy-wasm specification, version 0.2.1.
const (
	statusOK                        = 0
	actionContinue                  = 0
	actionPause                     = 1
	noGRPCStatus              int32 = -1
	mapRequestHeaders               = 0
	mapResponseHeaders              = 2
	bufferPluginConfiguration       = 7
	propertyRootID                  = "plugin_root_id"
	maxConfiguration                = 1 << 20
	logLevelError             int32 = 4
	metricCounter             int32 = 0
	metricHistogram           int32 = 2
)

// AddRequestHeader adds a header to the request of the current stream.
func AddRequestHeader(name, value string) { add(mapRequestHeaders, name, value) }

// AddResponseHeader adds a header to the response of the current stream.
func AddResponseHeader(name, value string) { add(mapResponseHeaders, name, value) }

func add(headers int32, name, value string) {
	if status := addHeader(headers, name, value); status != statusOK {
		Log("the host did not add the header " + name)
	}
}

// RequestHeader returns a header of the current stream's request; the name is
// in lower case.
func RequestHeader(name string) (string, bool) {
	if getHeader(mapRequestHeaders, name, &returned.data, &returned.size) != statusOK {
		return "", false
	}
	return takeReturned(), true
}

// Answer answers the current stream's request with a status and without a body. It goes no
// further.
func Answer(status int32) {
	answered = true
	if got := sendLocalResponse(status, "", "", 0, 0, noGRPCStatus); got != statusOK {
		Log("the host did not answer")
	}
}

// answered says that the request whose headers have come in was answered.
var answered bool

// NumberProperty returns a property of the current stream that is a whole number; 0 without
// one.
func NumberProperty(path ...string) uint64 {
	if getProperty(strings.Join(path, "\x00"), &returned.data, &returned.size) != statusOK {
		return 0
	}
	const size = 8
	value := []byte(takeReturned())
	if len(value) != size {
		return 0
	}
	return binary.LittleEndian.Uint64(value)
}

// Increment adds one to a counter.
func Increment(counter string) {
	if incrementMetric(metric(metricCounter, counter), 1) != statusOK {
		Log("the host did not count " + counter)
	}
}

// Observe adds a value to a histogram.
func Observe(histogram string, value uint64) {
	if recordMetric(metric(metricHistogram, histogram), value) != statusOK {
		Log("the host did not record " + histogram)
	}
}

// metrics are the ids of those that the host knows, by their names.
var metrics = map[string]uint32{}

func metric(kind int32, name string) uint32 {
	if id, known := metrics[name]; known {
		return id
	}
	if defineMetric(kind, name, &returned.data) == statusOK {
		metrics[name] = returned.data
	}
	return metrics[name]
}

// Log writes to the host's log as an error, the level that hosts show by default.
func Log(message string) { log(logLevelError, message) }

func configuration() string {
	if getBuffer(bufferPluginConfiguration, 0, maxConfiguration, &returned.data, &returned.size) != statusOK {
		return "" // there is none
	}
	return takeReturned()
}

func rootID() string {
	if getProperty(propertyRootID, &returned.data, &returned.size) != statusOK {
		return ""
	}
	return takeReturned()
}

// returned is where the host puts the place and size of what it returns. It is
// no local variable because stacks may move while the host calls back.
var returned struct{ data, size uint32 }

// allocated keeps memory that the host asked for from the garbage collector
// until takeReturned has read it.
var allocated = map[uint32][]byte{}

func takeReturned() string {
	memory := allocated[returned.data]
	delete(allocated, returned.data)
	if uint32(len(memory)) < returned.size {
		return "" // empty values come without memory
	}
	return string(memory[:returned.size])
}

//go:wasmimport env proxy_log
func log(level int32, message string) int32

//go:wasmimport env proxy_get_buffer_bytes
func getBuffer(buffer, start, size int32, data, length *uint32) int32

//go:wasmimport env proxy_get_property
func getProperty(path string, data, length *uint32) int32

//go:wasmimport env proxy_get_header_map_value
func getHeader(headers int32, name string, data, length *uint32) int32

//go:wasmimport env proxy_add_header_map_value
func addHeader(headers int32, name, value string) int32

//go:wasmimport env proxy_send_local_response
func sendLocalResponse(status int32, details, body string, headers, headersSize uint32, grpcStatus int32) int32

//go:wasmimport env proxy_define_metric
func defineMetric(kind int32, name string, id *uint32) int32

//go:wasmimport env proxy_increment_metric
func incrementMetric(id uint32, by int64) int32

//go:wasmimport env proxy_record_metric
func recordMetric(id uint32, value uint64) int32

//go:wasmexport proxy_abi_version_0_2_1
func abiVersion() {}

//go:wasmexport proxy_on_memory_allocate
func onMemoryAllocate(size uint32) uint32 {
	if size == 0 {
		return 0
	}
	memory := make([]byte, size)
	address := uint32(uintptr(unsafe.Pointer(&memory[0])))
	allocated[address] = memory
	return address
}

//go:wasmexport proxy_on_context_create
func onContextCreate(context, parent uint32) {
	if parent != 0 {
		roots[context] = parent
	}
}

//go:wasmexport proxy_on_vm_start
func onVMStart(_, _ uint32) uint32 {
	return yes(filter.Start == nil || filter.Start())
}

//go:wasmexport proxy_on_configure
func onConfigure(root, _ uint32) uint32 {
	if id := rootID(); id != filter.RootID {
		Log("no root id " + id + " in this module")
		return yes(false)
	}
	plugin, err := filter.Configure(configuration())
	if err != nil {
		Log("configuration refused: " + err.Error())
		return yes(false)
	}
	plugins[root] = plugin
	return yes(true)
}

//go:wasmexport proxy_on_request_headers
func onRequestHeaders(stream, _, _ uint32) uint32 {
	answered = false
	if handle := plugins[roots[stream]].RequestHeaders; handle != nil {
		handle()
	}
	if answered {
		return actionPause
	}
	return actionContinue
}

//go:wasmexport proxy_on_response_headers
func onResponseHeaders(stream, _, _ uint32) uint32 {
	if handle := plugins[roots[stream]].ResponseHeaders; handle != nil {
		handle()
	}
	return actionContinue
}

//go:wasmexport proxy_on_done
func onDone(_ uint32) uint32 { return yes(true) }

//go:wasmexport proxy_on_log
func onLog(stream uint32) {
	if handle := plugins[roots[stream]].Log; handle != nil {
		handle()
	}
}

//go:wasmexport proxy_on_delete
func onDelete(context uint32) {
	delete(roots, context)
	delete(plugins, context)
}

func yes(agreed bool) uint32 {
	if agreed {
		return 1
	}
	return 0
}
