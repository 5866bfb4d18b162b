package host_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tetratelabs/wazero/api"

	"github.com/wasme-io/wasme-operator/internal/preflight/host"
	. "github.com/wasme-io/wasme-operator/test/moduletest" //nolint:revive // an assembler reads like a language
)

const memoryBytes = 1 << 20

// plain is an exchange without a body.
var plain = host.Exchange{
	Request:  host.Message{Headers: host.Headers{{Name: ":method", Value: "GET"}, {Name: ":path", Value: "/"}, {Name: ":authority", Value: "a"}}},
	Response: host.Message{Headers: host.Headers{{Name: ":status", Value: "200"}}},
}

// start starts a module and configures it, with a bound on its time.
func start(tb testing.TB, module []byte) (*host.VM, *host.Plugin, error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	tb.Cleanup(cancel)
	program, err := host.Compile(ctx, module, host.Interruptible)
	if err != nil {
		return nil, nil, err
	}
	tb.Cleanup(func() { _ = program.Close(context.Background()) })
	vm, err := program.NewVM(host.NewWorld(ctx), host.Options{
		Limits: host.Limits{MemoryBytes: memoryBytes}, VMID: "vm", Log: func(host.Line) {}, Now: time.Now,
	})
	if err != nil {
		return nil, nil, err
	}
	plugin := &host.Plugin{Name: "plugin", RootID: "root", Configuration: "configuration"}
	return vm, plugin, vm.Configure(plugin)
}

// calling returns a module that calls a host function with these arguments on each request
// and as it is configured.
func calling(f host.Function, args []int32) []byte {
	abi := "0.2.1"
	if len(f.ABIs) > 0 {
		abi = f.ABIs[0]
	}
	var code [][]byte
	letters := ""
	for i, kind := range f.Params() {
		if kind == api.ValueTypeI64 {
			letters += "l"
			code = append(code, I64(int64(args[i%len(args)])))
			continue
		}
		letters += "w"
		code = append(code, I32(args[i%len(args)]))
	}
	code = append(code, Call(0))
	results := "w"
	if len(f.Results()) == 0 {
		results = ""
	} else {
		code = append(code, Drop)
	}
	request := Handling(OnRequestHeaders, code...)
	if abi == "0.1.0" {
		request.Params = "ww"
	}
	return Assembly{
		ABIs: []string{abi}, Imports: []Import{{Module: f.Module, Name: f.Name, Params: letters, Results: results}},
		Functions: []Function{request, Answering(OnConfigure, 1, code...)},
		Data:      strings.Repeat("\x02\x00\x00\x00", 32),
	}.Assemble()
}

// checkSurvival fails when the host itself broke.
func checkSurvival(t *testing.T, what string, err error) {
	t.Helper()
	failure := host.AsFailure(err)
	switch {
	case err == nil:
	case failure == nil:
		t.Errorf("%s: %v is no failure", what, err)
	case strings.Contains(failure.Message, "runtime error") || failure.Kind == host.Invalid:
		t.Errorf("%s: %v", what, failure)
	}
}

func TestEveryFunctionSurvivesWildPointers(t *testing.T) {
	patterns := [][]int32{
		{0}, {1}, {-1}, {math.MinInt32}, {math.MaxInt32}, {DataAt}, {Free, 4}, {4, Free}, {64<<10 - 4, 4}, {64<<10 - 4, 8}, {DataAt, -1}, {0, DataAt, 128, Free}, {3, DataAt, 4, DataAt, 4, Free},
	}
	for _, f := range host.Functions() {
		t.Run(f.Module+"."+f.Name, func(t *testing.T) {
			t.Parallel()
			for _, pattern := range patterns {
				vm, plugin, err := start(t, calling(f, pattern))
				checkSurvival(t, fmt.Sprint(pattern), err)
				if err != nil {
					continue
				}
				vm.NewDrive(plugin, plain).Run()
				if failed := vm.Failure(); failed != nil {
					checkSurvival(t, fmt.Sprint(pattern), failed)
				}
			}
		})
	}
}

func FuzzHostCall(f *testing.F) {
	functions := host.Functions()
	for i := range functions {
		f.Add(uint8(i), int32(DataAt), int32(4), int32(DataAt), int32(-1), int32(Free), int32(0))
	}
	f.Fuzz(func(t *testing.T, index uint8, a, b, c, d, e, g int32) {
		chosen := functions[int(index)%len(functions)]
		vm, plugin, err := start(t, calling(chosen, []int32{a, b, c, d, e, g}))
		checkSurvival(t, chosen.Name, err)
		if err != nil {
			return
		}
		vm.NewDrive(plugin, plain).Run()
		for _, made := range vm.Calls() {
			vm.Answer(made, &host.Message{Headers: host.Headers{{Name: ":status", Value: "200"}}, Body: [][]byte{[]byte("x")}})
		}
		vm.Tick()
		if failed := vm.Failure(); failed != nil {
			checkSurvival(t, chosen.Name, failed)
		}
	})
}

func FuzzModule(f *testing.F) {
	f.Add(Assembly{}.Assemble())
	f.Add(calling(host.Functions()[0], []int32{0}))
	f.Add(Wasm("seed"))
	f.Fuzz(func(t *testing.T, module []byte) {
		vm, plugin, err := start(t, module)
		if err != nil {
			if host.AsFailure(err) == nil {
				t.Errorf("%v is no failure", err)
			}
			return
		}
		vm.NewDrive(plugin, plain).Run()
	})
}

func TestAllocationsThatCallTheHostEnd(t *testing.T) {
	// malloc asks for a property, whose value is allocated by malloc.
	getProperty := slices.Concat(I32(DataAt), I32(14), I32(Free), I32(Free+4), Call(0), Drop)
	vm, plugin, err := start(t, Assembly{
		Imports:       []Import{{Name: "proxy_get_property", Params: "wwww", Results: "w"}},
		Functions:     []Function{{Name: "malloc", Params: "w", Results: "w", Code: [][]byte{getProperty, I32(Free)}}, Handling(OnRequestHeaders, getProperty)},
		WithoutMalloc: true, Data: "plugin_root_id",
	}.Assemble())
	if err != nil {
		t.Fatal(err)
	}
	vm.NewDrive(plugin, plain).Run()
	if failure := vm.Failure(); failure != nil {
		t.Error(failure)
	}
}
