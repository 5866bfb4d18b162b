package host

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/wasme-io/wasme-operator/internal/module"
)

// Program is a compiled module.
type Program struct {
	// ABI is the version that proxies take of those that the module exports: the first.
	ABI string
	// Imports are the functions that the module imports, as "env.proxy_log", sorted.
	Imports []string

	runtime  wazero.Runtime
	compiled wazero.CompiledModule
}

// Limits bound what a module may take.
type Limits struct {
	// MemoryBytes is the largest linear memory of a VM, which is in pages of 64 KiB.
	MemoryBytes uint64
}

const pageBytes = 64 << 10

// maxPages is what Envoy allows a module: 1 GiB (limits.h of proxy-wasm-cpp-host).
const maxPages = 1 << 30 / pageBytes

// features are those of WebAssembly that V8 has on, as far as wazero knows them.
const features = api.CoreFeaturesV2 | experimental.CoreFeaturesThreads | experimental.CoreFeaturesTailCall |
	experimental.CoreFeaturesExtendedConst | experimental.CoreFeaturesExceptionHandling | experimental.CoreFeaturesTypedFunctionReferences

// Interruption says whether code can be interrupted while it runs.
type Interruption bool

const (
	// Interruptible code ends with the context of its World. Each turn of a loop and each
	// callback pays for it: a cheap stream takes several times as long.
	Interruptible Interruption = true
	// Uninterruptible code ends by itself, or with its process.
	Uninterruptible Interruption = false
)

// Compile compiles a module and checks that a proxy could link it. It cannot be
// interrupted: a hostile module of 1 MB takes 10 s and 320 MiB. The error is a
// *Failure of the kind Invalid, Unsupported, MissingImport or MissingExport.
func Compile(ctx context.Context, wasm []byte, interruption Interruption) (*Program, error) {
	abi, err := module.FirstABI(wasm)
	if err != nil {
		return nil, failed(Invalid, "", "%v", err)
	}
	config := wazero.NewRuntimeConfig().WithCoreFeatures(features).WithCloseOnContextDone(bool(interruption)).WithMemoryLimitPages(maxPages)
	runtime := wazero.NewRuntimeWithConfig(ctx, config)
	p := &Program{ABI: abi, runtime: runtime}
	if err := p.compile(ctx, wasm); err != nil {
		_ = p.Close(ctx) // what is wrong with the module counts
		return nil, err
	}
	return p, nil
}

func (p *Program) compile(ctx context.Context, wasm []byte) error {
	compiled, err := p.runtime.CompileModule(ctx, wasm)
	if err != nil {
		return compileFailure(err)
	}
	p.compiled = compiled
	if err := p.check(); err != nil {
		return err
	}
	return p.offer(ctx)
}

// Close frees the compiled code and ends all VMs.
func (p *Program) Close(ctx context.Context) error { return p.runtime.Close(ctx) }

// unknownToWazero are parts of the errors with which wazero turns down what newer
// proposals of WebAssembly allow.
var unknownToWazero = []string{"is disabled", "not supported", "unsupported", "unknown", "invalid byte", "multiple memories"}

// compileFailure tells what is wrong with a module from what wazero does not know.
func compileFailure(err error) *Failure {
	text := strings.TrimPrefix(err.Error(), "wasm error: ")
	if slices.ContainsFunc(unknownToWazero, func(part string) bool { return strings.Contains(text, part) }) {
		return failed(Unsupported, "", "%s", text)
	}
	return failed(Invalid, "", "%s", text)
}

// check compares imports and exports with what Envoy links.
func (p *Program) check() error {
	if len(p.compiled.ImportedMemories()) > 0 {
		return failed(Unsupported, "", "the module imports its memory")
	}
	for _, imported := range p.compiled.ImportedFunctions() {
		from, name, _ := imported.Import()
		p.Imports = append(p.Imports, from+"."+name)
		offered := p.offered(from, name)
		if offered == nil {
			return failed(MissingImport, "", "the module imports %s.%s, which proxies do not offer to ABI %s", from, name, p.ABI)
		}
		if !slices.Equal(imported.ParamTypes(), offered.params) || !slices.Equal(imported.ResultTypes(), offered.Results()) {
			return failed(MissingImport, "", "the module imports %s.%s as %s, but proxies offer %s", from, name,
				signature(imported.ParamTypes(), imported.ResultTypes()), signature(offered.params, offered.Results()))
		}
	}
	slices.Sort(p.Imports)
	return p.checkExports()
}

func (p *Program) checkExports() error {
	exports := p.compiled.ExportedFunctions()
	if exports["malloc"] == nil && exports["proxy_on_memory_allocate"] == nil {
		return failed(MissingExport, "", "the module exports neither malloc nor proxy_on_memory_allocate")
	}
	if p.compiled.ExportedMemories()["memory"] == nil {
		return failed(MissingExport, "", "the module exports no memory with the name memory")
	}
	for name, want := range callbacksOf(p.ABI) {
		found := exports[name]
		if found == nil {
			continue
		}
		if !slices.Equal(found.ParamTypes(), want.params) || !slices.Equal(found.ResultTypes(), want.results) {
			return failed(MissingExport, "", "the module exports %s as %s, but proxies call %s", name,
				signature(found.ParamTypes(), found.ResultTypes()), signature(want.params, want.results))
		}
	}
	return nil
}

// signature returns a function's type as text: "(i32, i64) → i32".
func signature(params, results []api.ValueType) string {
	names := func(types []api.ValueType) string {
		texts := make([]string, 0, len(types))
		for _, t := range types {
			texts = append(texts, api.ValueTypeName(t))
		}
		return strings.Join(texts, ", ")
	}
	if len(results) == 0 {
		return fmt.Sprintf("(%s)", names(params))
	}
	return fmt.Sprintf("(%s) → %s", names(params), names(results))
}

// callback is the type of a function that a proxy calls.
type callback struct{ params, results []api.ValueType }

func words(n int) []api.ValueType { return slices.Repeat([]api.ValueType{api.ValueTypeI32}, n) }

// callbacksOf returns the functions that a proxy calls in a module of an ABI, with
// their types (specification, "Functions exposed by the Wasm module").
func callbacksOf(abi string) map[string]callback {
	calls := map[string]callback{
		"_initialize": {}, "_start": {}, "main": {words(2), words(1)}, "__main_void": {nil, words(1)},
		"malloc": {words(1), words(1)}, "proxy_on_memory_allocate": {words(1), words(1)},
		"proxy_on_vm_start": {words(2), words(1)}, "proxy_on_configure": {words(2), words(1)}, "proxy_validate_configuration": {words(2), words(1)},
		"proxy_on_context_create": {words(2), nil}, "proxy_on_tick": {words(1), nil}, "proxy_on_queue_ready": {words(2), nil},
		"proxy_on_new_connection": {words(1), words(1)}, "proxy_on_downstream_data": {words(3), words(1)}, "proxy_on_upstream_data": {words(3), words(1)},
		"proxy_on_downstream_connection_close": {words(2), nil}, "proxy_on_upstream_connection_close": {words(2), nil},
		"proxy_on_request_headers": {words(3), words(1)}, "proxy_on_request_body": {words(3), words(1)},
		"proxy_on_request_trailers": {words(2), words(1)}, "proxy_on_request_metadata": {words(2), words(1)},
		"proxy_on_response_headers": {words(3), words(1)}, "proxy_on_response_body": {words(3), words(1)},
		"proxy_on_response_trailers": {words(2), words(1)}, "proxy_on_response_metadata": {words(2), words(1)},
		"proxy_on_http_call_response": {words(5), nil}, "proxy_on_grpc_receive": {words(3), nil}, "proxy_on_grpc_close": {words(3), nil},
		"proxy_on_grpc_receive_initial_metadata": {words(3), nil}, "proxy_on_grpc_receive_trailing_metadata": {words(3), nil},
		"proxy_on_done": {words(1), words(1)}, "proxy_on_log": {words(1), nil}, "proxy_on_delete": {words(1), nil},
	}
	if abi == abi010 {
		calls["proxy_on_request_headers"] = callback{words(2), words(1)}
		calls["proxy_on_response_headers"] = callback{words(2), words(1)}
	} else {
		calls["proxy_on_foreign_function"] = callback{words(3), nil}
	}
	return calls
}

// The versions of the ABI.
const (
	abi010 = "0.1.0"
	abi020 = "0.2.0"
	abi021 = "0.2.1"
)
