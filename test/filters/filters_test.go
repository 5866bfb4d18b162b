// Licensed under the Apache License, Version 2.0; see LICENSE.

package filters_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/wasme-io/wasme-operator/test/filters"
)

func TestEveryFilterSpeaksTheABI(t *testing.T) {
	for _, name := range []string{filters.Hello, filters.Refuse, filters.Trap, filters.Loop, filters.Import, filters.Environ, filters.Tracking, filters.Flawed, filters.Telemetry} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			runtime := newHost(ctx, t)
			module := compile(t, runtime, name)
			for _, export := range []string{"_initialize", "proxy_abi_version_0_2_1", "proxy_on_configure", "proxy_on_memory_allocate"} {
				if module.ExportedFunctions()[export] == nil {
					t.Errorf("no export %s", export)
				}
			}
			_, err := runtime.InstantiateModule(ctx, module, wazero.NewModuleConfig().WithStartFunctions("_initialize"))
			if failed := err != nil; failed != (name == filters.Import) {
				t.Errorf("instantiating it: %v", err)
			}
		})
	}
}

func TestTheSameSourceGivesTheSameBytes(t *testing.T) {
	if !bytes.Equal(build(t, filters.Hello), build(t, filters.Hello)) {
		t.Error("two builds differ")
	}
}

func TestLoopNeverStarts(t *testing.T) {
	ctx := t.Context()
	runtime := newHost(ctx, t)
	module, err := runtime.InstantiateModule(ctx, compile(t, runtime, filters.Loop), wazero.NewModuleConfig().WithStartFunctions("_initialize"))
	if err != nil {
		t.Fatal(err)
	}
	bounded, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	_, err = module.ExportedFunction("proxy_on_vm_start").Call(bounded, 1, 0)
	if err == nil || !errors.Is(bounded.Err(), context.DeadlineExceeded) {
		t.Errorf("it returned: %v", err)
	}
}

func build(t *testing.T, name string) []byte {
	t.Helper()
	module, err := filters.Build(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return module
}

func compile(t *testing.T, runtime wazero.Runtime, name string) wazero.CompiledModule {
	t.Helper()
	module, err := runtime.CompileModule(t.Context(), build(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return module
}

// newHost offers what the filters import, and does nothing.
func newHost(ctx context.Context, t *testing.T) wazero.Runtime {
	t.Helper()
	// An interpreter starts at once; nothing here runs long.
	runtime := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().WithCloseOnContextDone(true))
	t.Cleanup(func() { _ = runtime.Close(context.Background()) }) // memory only
	wasi_snapshot_preview1.MustInstantiate(ctx, runtime)
	host := runtime.NewHostModuleBuilder("env")
	const i32, i64 = api.ValueTypeI32, api.ValueTypeI64
	for name, parameters := range map[string][]api.ValueType{
		"proxy_log":                  bytes.Repeat([]api.ValueType{i32}, 3),
		"proxy_get_buffer_bytes":     bytes.Repeat([]api.ValueType{i32}, 5),
		"proxy_get_property":         bytes.Repeat([]api.ValueType{i32}, 4),
		"proxy_get_header_map_value": bytes.Repeat([]api.ValueType{i32}, 5),
		"proxy_add_header_map_value": bytes.Repeat([]api.ValueType{i32}, 5),
		"proxy_send_local_response":  bytes.Repeat([]api.ValueType{i32}, 8),
		"proxy_define_metric":        bytes.Repeat([]api.ValueType{i32}, 4),
		"proxy_increment_metric":     {i32, i64},
		"proxy_record_metric":        {i32, i64},
	} {
		host.NewFunctionBuilder().WithGoFunction(
			api.GoFunc(func(_ context.Context, stack []uint64) { stack[0] = 1 }), // not found
			parameters, []api.ValueType{i32},
		).Export(name)
	}
	if _, err := host.Instantiate(ctx); err != nil {
		t.Fatal(err)
	}
	return runtime
}
