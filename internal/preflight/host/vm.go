package host

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// Options are what a proxy hands to a VM.
type Options struct {
	Limits Limits
	// VMID names the VM: VMs with the same one share data and queues in their World.
	VMID string
	// Configuration is that of the VM.
	Configuration string
	// Environment are the variables that the module sees.
	Environment map[string]string
	// LogLevel is the lowest level that the proxy logs, which modules can ask for.
	LogLevel Level
	// Log is called with each line that the module logs. It must not keep the VM waiting.
	Log func(Line)
	// Calling is called with the name of each callback before it runs, and Asked with each
	// question that VM.Unknown gets. Both may be nil.
	Calling, Asked func(string)
	// Now is the time that the module sees.
	Now func() time.Time
}

// Line is what a module logs at once.
type Line struct {
	Level Level
	Text  string
	// Partial says that the line was written to standard output or error, and goes on.
	Partial bool
}

// Level is a level of a log line.
type Level uint32

// The levels (specification, proxy_log_level_t).
const (
	Trace Level = iota
	Debug
	Info
	Warn
	Error
	Critical
)

// VM is one instance of a module.
type VM struct {
	// Unknown are the questions to the host whose answers only a real proxy knows, such as
	// a property that it was not given; what the module does after one shows nothing.
	Unknown []string
	// ReadBody says that the module has read or changed a body.
	ReadBody bool

	ctx      context.Context // of the World, with the VM in it
	program  *Program
	options  Options
	world    *World
	instance api.Module
	memory   *linearMemory
	calls    map[string]api.Function
	failure  *Failure
	// allocators are handles of the function that allocates, of which allocating are in use.
	allocators []api.Function
	allocating int

	contexts  map[uint32]*scope
	nextID    uint32
	current   *scope // the one that the running callback is about
	effective uint32 // the one that the module chose instead; 0 for none
	depth     int    // callbacks and allocations under way, one in another
	starting  bool   // only some host functions may be called

	metrics  metrics
	http     []*Call
	grpc     []*Call
	tokens   [tokenKinds]uint32
	response *Message // of the call-out that the running callback is about
	grpcIn   grpcInput
	status   status
}

// scope is a context: the VM itself (id 0), a plugin, or a stream.
type scope struct {
	id     uint32
	root   *scope // itself for a plugin
	plugin *Plugin
	stream *Stream
	// configuring says that the callback may read the plugin's configuration.
	configuring bool
	tick        time.Duration
}

// status is what proxy_get_status returns.
type status struct {
	code    uint32
	message string
}

// maxDepth bounds calls of the host that call the module that calls the host.
const maxDepth = 32

type vmKey struct{}

// NewVM makes an instance and starts it: _initialize and main, or _start. The error
// is a *Failure. Close ends it.
func (p *Program) NewVM(world *World, options Options) (*VM, error) {
	memory := p.compiled.ExportedMemories()["memory"]
	if least := uint64(memory.Min()) * pageBytes; least > options.Limits.MemoryBytes {
		return nil, failed(MemoryExceeded, "", "the module begins with %d KiB of memory, more than the %d KiB that it may have", least>>10, options.Limits.MemoryBytes>>10)
	}
	reserved, err := newLinearMemory(options.Limits.MemoryBytes)
	if err != nil {
		return nil, failed(Unsupported, "", "reserving the module's memory: %v", err)
	}
	vm := &VM{
		program: p, options: options, world: world, memory: reserved,
		calls: map[string]api.Function{}, contexts: map[uint32]*scope{}, nextID: 1,
	}
	base := &scope{}
	base.root = base
	vm.contexts[0], vm.current = base, base
	vm.ctx = context.WithValue(world.ctx, vmKey{}, vm)
	vm.starting = true
	instance, err := p.runtime.InstantiateModule(experimental.WithMemoryAllocator(vm.ctx, vm.memory), p.compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		vm.memory.Free()
		return nil, vm.trapped("", err)
	}
	vm.instance = instance
	for name := range callbacksOf(p.ABI) {
		if f := instance.ExportedFunction(name); f != nil {
			vm.calls[name] = f
		}
	}
	vm.start(base)
	vm.starting = false
	if vm.failure != nil {
		_ = vm.Close() // its failure is what counts
		return nil, vm.failure
	}
	return vm, nil
}

// start runs what a WASI reactor or command runs first, as Envoy does.
func (vm *VM) start(base *scope) {
	if vm.calls["_initialize"] == nil {
		vm.invoke(base, "_start")
		return
	}
	vm.invoke(base, "_initialize")
	if vm.calls["main"] != nil {
		vm.invoke(base, "main", 0, 0)
		return
	}
	vm.invoke(base, "__main_void")
}

// Close ends the instance and frees its memory.
func (vm *VM) Close() error {
	err := vm.instance.Close(vm.ctx)
	vm.memory.Free()
	return err
}

// MemoryBytes returns the size of the linear memory.
func (vm *VM) MemoryBytes() uint64 { return uint64(len(vm.memory.bytes)) }

// Exceeded reports whether the module has asked for more memory than it may have.
func (vm *VM) Exceeded() bool { return vm.memory.exceeded }

// Failure returns why the VM cannot go on; nil when it can.
func (vm *VM) Failure() *Failure { return vm.failure }

// has reports whether the module has a callback.
func (vm *VM) has(name string) bool { return vm.calls[name] != nil }

// invoke calls a function of the module in a context and returns its result; 0 when
// there is no such function, or the VM has failed. A trap is the VM's failure.
func (vm *VM) invoke(in *scope, name string, args ...uint64) uint64 {
	f := vm.calls[name]
	if f == nil || vm.failure != nil {
		return 0
	}
	if vm.options.Calling != nil {
		vm.options.Calling(name)
	}
	current, effective := vm.current, vm.effective
	vm.current, vm.effective = in, 0
	result, err := vm.call(f, args...)
	vm.current, vm.effective = current, effective
	if err != nil {
		vm.failure = vm.trapped(name, err)
		return 0
	}
	return result
}

// call calls a function; one that is running already is called as another instance.
func (vm *VM) call(f api.Function, args ...uint64) (uint64, error) {
	vm.depth++
	defer func() { vm.depth-- }()
	results, err := f.Call(vm.ctx, args...)
	if err != nil || len(results) == 0 {
		return 0, err
	}
	return results[0], nil
}

// allocate has the module allocate memory, as the callbacks run.
func (vm *VM) allocate(size int) (uint32, bool) {
	name := "malloc"
	if vm.calls[name] == nil {
		name = "proxy_on_memory_allocate"
	}
	if vm.depth >= maxDepth || size > int(vm.memory.limit) { //nolint:gosec // the limit is at most 1 GiB
		return 0, false
	}
	// A handle of its own for each allocation that is under way; making one costs a stack.
	if vm.allocating == len(vm.allocators) {
		vm.allocators = append(vm.allocators, vm.instance.ExportedFunction(name))
	}
	allocator := vm.allocators[vm.allocating]
	vm.allocating++
	defer func() { vm.allocating-- }()
	pointer, err := vm.call(allocator, uint64(size)) //nolint:gosec // not negative
	if err != nil {
		panic(err) // ends the callback, as Envoy does
	}
	return uint32(pointer), pointer != 0 //nolint:gosec // a result of type i32
}

// scope returns the context that a call of the host is about.
func (vm *VM) scope() *scope {
	if chosen, found := vm.contexts[vm.effective]; vm.effective != 0 && found {
		return chosen
	}
	return vm.current
}

func (vm *VM) newScope(plugin *Plugin, stream *Stream, root *scope) *scope {
	for vm.contexts[vm.nextID] != nil || vm.nextID == 0 {
		vm.nextID++
	}
	s := &scope{id: vm.nextID, root: root, plugin: plugin, stream: stream}
	if root == nil {
		s.root = s
	}
	vm.nextID++
	vm.contexts[s.id] = s
	return s
}

// Plugin is a configuration of a filter in a VM.
type Plugin struct {
	// Name is that of the filter in the proxy, RootID selects the filter of a module that
	// has several, and Configuration is its configuration.
	Name, RootID, Configuration string

	scope *scope
}

// Configure starts a plugin: proxy_on_context_create, proxy_on_vm_start,
// proxy_on_configure. The error is a *Failure, of the kind Refused when the module
// returned false.
func (vm *VM) Configure(plugin *Plugin) error {
	plugin.scope = vm.newScope(plugin, nil, nil)
	id := uint64(plugin.scope.id)
	plugin.scope.configuring = true
	vm.invoke(plugin.scope, "proxy_on_context_create", id, 0)
	plugin.scope.configuring = false
	for _, step := range []struct {
		callback    string
		size        int
		configuring bool
	}{
		{"proxy_on_vm_start", len(vm.options.Configuration), false},
		{"proxy_on_configure", len(plugin.Configuration), true},
	} {
		plugin.scope.configuring = step.configuring
		agreed := vm.invoke(plugin.scope, step.callback, id, uint64(step.size)) != 0 //nolint:gosec // a size
		plugin.scope.configuring = false
		switch {
		case vm.failure != nil:
			return vm.failure
		case vm.has(step.callback) && !agreed:
			return failed(Refused, step.callback, "returned false")
		}
	}
	return nil
}

// Remove ends a plugin: proxy_on_done and proxy_on_delete.
func (vm *VM) Remove(plugin *Plugin) {
	vm.invoke(plugin.scope, "proxy_on_done", uint64(plugin.scope.id))
	vm.invoke(plugin.scope, "proxy_on_delete", uint64(plugin.scope.id))
	delete(vm.contexts, plugin.scope.id)
}

// Tick calls proxy_on_tick of all plugins that asked for ticks, in the order in which
// they were configured, and reports whether any did.
func (vm *VM) Tick() bool {
	ticked := false
	for _, id := range slices.Sorted(maps.Keys(vm.contexts)) {
		if s := vm.contexts[id]; s != nil && s.tick > 0 {
			ticked = true
			vm.invoke(s, "proxy_on_tick", uint64(id))
		}
	}
	return ticked
}

// ask notes a question whose answer only a real proxy knows.
func (vm *VM) ask(question string) {
	if len(vm.Unknown) == maxUnknown || slices.Contains(vm.Unknown, question) {
		return
	}
	vm.Unknown = append(vm.Unknown, question)
	if vm.options.Asked != nil {
		vm.options.Asked(question)
	}
}

// maxUnknown bounds the questions that are kept.
const maxUnknown = 16
