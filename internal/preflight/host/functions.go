package host

import (
	"context"
	"slices"
	"strings"

	"github.com/tetratelabs/wazero/api"
)

// What host functions return (specification, proxy_result_t).
const (
	ok                  = 0
	notFound            = 1
	badArgument         = 2
	serializationFailed = 3
	invalidMemoryAccess = 6
	empty               = 7
	casMismatch         = 8
	internalFailure     = 10
	brokenConnection    = 11
	unimplemented       = 12
)

// Function is a function that the host offers to modules.
type Function struct {
	// Module and Name are those under which modules import it.
	Module, Name string
	// ABIs are the versions that have it; all when empty.
	ABIs []string
	// Does says what it does, and Differs how that differs from Envoy; empty for not at all.
	Does, Differs string

	params []api.ValueType
	void   bool
	// atStart says that a module may call it before its start has ended.
	atStart bool
	call    func(*call) uint32
}

// Params returns the types of the parameters.
func (f *Function) Params() []api.ValueType { return f.params }

// Results returns the types of the results.
func (f *Function) Results() []api.ValueType {
	if f.void {
		return nil
	}
	return words(1)
}

// call is one call of a host function.
type call struct {
	vm    *VM
	stack []uint64
}

// word returns an argument of type i32.
func (c *call) word(i int) uint32 { return uint32(c.stack[i]) } //nolint:gosec // i32 is the lower half

// text returns the bytes that two arguments point at, a pointer and a size.
func (c *call) text(i int) (string, bool) { return c.vm.read(c.word(i), c.word(i+1)) }

// texts returns what several pairs of pointer and size point at; false when one is
// out of bounds.
func (c *call) texts(at ...int) ([]string, bool) {
	texts := make([]string, 0, len(at))
	for _, i := range at {
		text, readable := c.text(i)
		if !readable {
			return nil, false
		}
		texts = append(texts, text)
	}
	return texts, true
}

// give returns data to the module by two arguments, where to write its pointer and size.
func (c *call) give(data string, i int) uint32 {
	return stored(c.vm.give(data, c.word(i), c.word(i+1)))
}

// stored returns the result of a write to the module's memory.
func stored(written bool) uint32 {
	if !written {
		return invalidMemoryAccess
	}
	return ok
}

// Functions returns the functions that the host offers, in the order of the
// documentation.
func Functions() []Function {
	return slices.Concat(proxyFunctions, wasiFunctions(), emscriptenFunctions)
}

// offered returns the function that a module of this ABI gets; nil for none.
func (p *Program) offered(from, name string) *Function {
	if from == wasiUnstable {
		from = wasiPreview1
	}
	for _, f := range Functions() {
		if f.Module == from && f.Name == name && (len(f.ABIs) == 0 || slices.Contains(f.ABIs, p.ABI)) {
			return &f
		}
	}
	return nil
}

// offer puts the functions that the module imports into the runtime.
func (p *Program) offer(ctx context.Context) error {
	for _, from := range []string{"env", wasiPreview1, wasiUnstable} {
		builder := p.runtime.NewHostModuleBuilder(from)
		for _, imported := range p.Imports {
			module, name, _ := strings.Cut(imported, ".")
			if module != from {
				continue
			}
			f := p.offered(from, name)
			builder.NewFunctionBuilder().WithGoFunction(api.GoFunc(f.run), f.params, f.Results()).Export(name)
		}
		if _, err := builder.Instantiate(ctx); err != nil {
			return failed(Unsupported, "", "linking the module: %v", err)
		}
	}
	return nil
}

// run calls the function for the VM in the context.
func (f *Function) run(ctx context.Context, stack []uint64) {
	vm := ctx.Value(vmKey{}).(*VM)
	if vm.starting && !f.atStart {
		panic(restricted{f.Module + "." + f.Name})
	}
	result := f.call(&call{vm, stack})
	if !f.void {
		stack[0] = uint64(result)
	}
}

// restricted is the panic of a function that a module must not call while it starts.
type restricted struct{ name string }

// Error implements error: wazero makes it the cause of the trap.
func (r restricted) Error() string {
	return r.name + " must not be called before the module has started"
}

// Types of parameters: w for i32, l for i64.
func types(letters string) []api.ValueType {
	params := make([]api.ValueType, 0, len(letters))
	for _, letter := range letters {
		if letter == 'l' {
			params = append(params, api.ValueTypeI64)
			continue
		}
		params = append(params, api.ValueTypeI32)
	}
	return params
}

var newABIs = []string{abi020, abi021}

// proxyFunctions are those of proxy-wasm.
var proxyFunctions = []Function{
	{Name: "proxy_log", params: types("www"), atStart: true, call: (*call).log, Does: "Logs a line. An unknown level is BadArgument."},
	{Name: "proxy_get_log_level", ABIs: []string{abi021}, params: types("w"), call: (*call).logLevel, Does: "Returns the lowest level that is logged.", Differs: "The level is info, whatever the proxy's."},
	{Name: "proxy_get_current_time_nanoseconds", params: types("w"), call: (*call).currentTime, Does: "Returns the time."},
	{Name: "proxy_get_status", params: types("www"), call: (*call).getStatus, Does: "Returns the code and the message of the call-out that a callback is about."},
	{Name: "proxy_set_effective_context", params: types("w"), call: (*call).setEffectiveContext, Does: "Makes the functions below act on another context until the callback ends. An unknown context is BadArgument."},
	{Name: "proxy_done", params: types(""), call: func(*call) uint32 { return notFound }, Does: "Ends a plugin that asked for time when it was removed.", Differs: "The host removes plugins at once, so it is NotFound."},
	{Name: "proxy_set_tick_period_milliseconds", params: types("w"), call: (*call).setTickPeriod, Does: "Has proxy_on_tick called again and again; 0 ends that.", Differs: "Ticks come when the run makes them, not by the clock."},
	{Name: "proxy_get_property", params: types("wwww"), call: (*call).getProperty, Does: "Returns an attribute of the stream, the plugin or the proxy, or what proxy_set_property set. A whole message is SerializationFailure.", Differs: "Attributes of connections, of the node and of Istio have synthetic values, or are NotFound where a proxy may have them."},
	{Name: "proxy_set_property", params: types("wwww"), call: (*call).setProperty, Does: "Sets an attribute of the stream. Without a stream it is NotFound."},
	{Name: "proxy_get_header_map_value", params: types("wwwww"), call: (*call).getHeader, Does: "Returns the first value of a header. Without one it is NotFound, in ABI 0.1.0 an empty value."},
	{Name: "proxy_get_header_map_pairs", params: types("www"), call: (*call).getHeaders, Does: "Returns all headers."},
	{Name: "proxy_get_header_map_size", params: types("ww"), call: (*call).headersSize, Does: "Returns the size of all headers in bytes."},
	{Name: "proxy_add_header_map_value", params: types("wwwww"), call: (*call).addHeader, Does: "Adds a header line. To a well-known header that is there already, the value is appended after a comma."},
	{Name: "proxy_replace_header_map_value", params: types("wwwww"), call: (*call).replaceHeader, Does: "Sets a header to one value."},
	{Name: "proxy_remove_header_map_value", params: types("www"), call: (*call).removeHeader, Does: "Removes a header."},
	{Name: "proxy_set_header_map_pairs", params: types("www"), call: (*call).setHeaders, Does: "Replaces all headers. More than 1,024, or more than 1 MiB, are taken as none."},
	{Name: "proxy_get_buffer_status", params: types("www"), call: (*call).bufferStatus, Does: "Returns the size of a buffer."},
	{Name: "proxy_get_buffer_bytes", params: types("wwwww"), call: (*call).getBuffer, Does: "Returns a part of a buffer: a body, a configuration, or what a call-out returned."},
	{Name: "proxy_set_buffer_bytes", params: types("wwwww"), call: (*call).setBuffer, Does: "Replaces so many bytes from the start of a body, or puts bytes behind it. In the middle it is BadArgument."},
	{Name: "proxy_send_local_response", params: types("wwwwwwww"), call: (*call).sendLocalResponse, Does: "Answers the request in the upstream's place. A second answer is ignored. In proxy_on_log it is a trap, because Envoy crashes."},
	{Name: "proxy_continue_stream", ABIs: newABIs, params: types("w"), call: (*call).continueStream, Does: "Lets a request or response go on that the filter held. For a response that it does not hold it is a trap, because Envoy crashes."},
	{Name: "proxy_close_stream", ABIs: newABIs, params: types("w"), call: (*call).closeStream, Does: "Resets the stream."},
	{Name: "proxy_continue_request", ABIs: []string{abi010}, params: types(""), call: func(c *call) uint32 { return c.goOn(toUpstream) }, Does: "Lets a request go on that the filter held."},
	{Name: "proxy_continue_response", ABIs: []string{abi010}, params: types(""), call: func(c *call) uint32 { return c.goOn(toClient) }, Does: "Lets a response go on that the filter held."},
	{Name: "proxy_clear_route_cache", ABIs: []string{abi010}, params: types(""), call: func(*call) uint32 { return ok }, Does: "Has the proxy choose the route again.", Differs: "There are no routes."},
	{Name: "proxy_get_configuration", ABIs: []string{abi010}, params: types("ww"), call: (*call).getConfiguration, Does: "Returns the plugin's configuration while it is configured, else the VM's."},
	{Name: "proxy_http_call", params: types("wwwwwwwwww"), call: (*call).httpCall, Does: "Sends a request to a cluster. Without :method, :path or :authority it is BadArgument.", Differs: "Every cluster exists, and the run answers: with 200, 503 or a failure."},
	{Name: "proxy_grpc_call", params: types("wwwwwwwwwwww"), call: (*call).grpcCall, Does: "Calls a gRPC method of a GrpcService or a cluster.", Differs: "As proxy_http_call."},
	{Name: "proxy_grpc_stream", params: types("wwwwwwwww"), call: (*call).grpcStream, Does: "Opens a gRPC stream.", Differs: "As proxy_http_call."},
	{Name: "proxy_grpc_send", params: types("wwww"), call: (*call).grpcSend, Does: "Sends a message on a gRPC stream."},
	{Name: "proxy_grpc_cancel", params: types("w"), call: (*call).grpcCancel, Does: "Ends a gRPC call or stream without a callback."},
	{Name: "proxy_grpc_close", params: types("w"), call: (*call).grpcClose, Does: "Ends the module's side of a gRPC stream, or a call."},
	{Name: "proxy_get_shared_data", params: types("wwwww"), call: (*call).getSharedData, Does: "Returns a value that VMs with this vm_id share."},
	{Name: "proxy_set_shared_data", params: types("wwwww"), call: (*call).setSharedData, Does: "Sets a value that VMs with this vm_id share. With a cas that is not the value's it is CasMismatch.", Differs: "Values and queues have room for 64 MiB."},
	{Name: "proxy_register_shared_queue", params: types("www"), call: (*call).registerQueue, Does: "Makes a queue, and has proxy_on_queue_ready called for what comes in."},
	{Name: "proxy_resolve_shared_queue", params: types("wwwww"), call: (*call).resolveQueue, Does: "Finds a queue of a vm_id."},
	{Name: "proxy_enqueue_shared_queue", params: types("www"), call: (*call).enqueue, Does: "Adds an item to a queue."},
	{Name: "proxy_dequeue_shared_queue", params: types("www"), call: (*call).dequeue, Does: "Takes an item from a queue. An empty one is Empty."},
	{Name: "proxy_define_metric", params: types("wwww"), call: (*call).defineMetric, Does: "Makes a counter, gauge or histogram."},
	{Name: "proxy_increment_metric", params: types("wl"), call: (*call).incrementMetric, Does: "Adds to a counter or gauge. A counter that does not go up is BadArgument, and so is a histogram."},
	{Name: "proxy_record_metric", params: types("wl"), call: (*call).recordMetric, Does: "Sets a gauge, adds to a counter, or records a value of a histogram."},
	{Name: "proxy_get_metric", params: types("ww"), call: (*call).getMetric, Does: "Returns the value of a counter or gauge."},
	{Name: "proxy_call_foreign_function", params: types("wwwwww"), call: (*call).callForeign, Does: "Calls a function that a proxy has besides those of proxy-wasm.", Differs: "compress, uncompress, clear_route_cache, declare_property and set_envoy_filter_state work. Others return InternalFailure, and what the module does then is not held against it."},
}

func init() {
	for i := range proxyFunctions {
		proxyFunctions[i].Module = "env"
	}
}

// emscriptenFunctions are those of Emscripten that Envoy has.
var emscriptenFunctions = []Function{
	{Module: "env", Name: "pthread_equal", params: types("ww"), call: func(c *call) uint32 { return boolean(c.word(0) == c.word(1)) }, Does: "Compares two threads."},
	{Module: "env", Name: "emscripten_notify_memory_growth", params: types("w"), void: true, atStart: true, call: func(*call) uint32 { return 0 }, Does: "Nothing."},
}

func boolean(holds bool) uint32 {
	if holds {
		return 1
	}
	return 0
}

func (c *call) log() uint32 {
	level := Level(c.word(0))
	if level > Critical {
		return badArgument
	}
	text, readable := c.text(1)
	if !readable {
		return invalidMemoryAccess
	}
	c.vm.options.Log(Line{Level: level, Text: text})
	return ok
}

func (c *call) logLevel() uint32 {
	return stored(c.vm.writeU32(c.word(0), uint32(c.vm.options.LogLevel)))
}

func (c *call) currentTime() uint32 {
	return stored(c.vm.writeU64(c.word(0), uint64(c.vm.options.Now().UnixNano())))
}

func (c *call) getStatus() uint32 {
	if !c.vm.writeU32(c.word(0), c.vm.status.code) {
		return invalidMemoryAccess
	}
	return c.give(c.vm.status.message, 1)
}

func (c *call) setEffectiveContext() uint32 {
	id := c.word(0)
	if c.vm.contexts[id] == nil {
		return badArgument
	}
	c.vm.effective = id
	return ok
}

func (c *call) getConfiguration() uint32 {
	if s := c.vm.scope(); s.configuring {
		return c.give(s.plugin.Configuration, 0)
	}
	return c.give(c.vm.options.Configuration, 0)
}
