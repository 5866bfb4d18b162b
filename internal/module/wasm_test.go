package module_test

import (
	"bytes"
	"slices"
	"testing"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

func TestInspect(t *testing.T) {
	for name, c := range map[string]struct {
		module  []byte
		want    []string
		message string
	}{
		"one ABI":               {moduletest.WithExports(moduletest.Export("proxy_abi_version_0_2_1")), []string{"0.2.1"}, ""},
		"several, in any order": {moduletest.WithExports(moduletest.Export("proxy_abi_version_0_2_1"), moduletest.Export("f"), moduletest.Export("proxy_abi_version_0_1_0")), []string{"0.1.0", "0.2.1"}, ""},
		"exports after others":  {slices.Concat([]byte(moduletest.CorePreamble), moduletest.Section(1, []byte{0}), moduletest.Section(0, []byte("\x01xyz")), moduletest.WithExports(moduletest.Export("proxy_abi_version_0_2_0"))[8:]), []string{"0.2.0"}, ""},
		"empty":                 {nil, nil, "is not a Wasm module"},
		"text":                  {[]byte("#!/bin/sh\nexit 1\n"), nil, "is not a Wasm module"},
		"shorter than magic":    {[]byte("\x00as"), nil, "is not a Wasm module"},
		"component":             {append([]byte(moduletest.ComponentPreamble), 1, 2, 3), nil, "component model"},
		"another version":       {[]byte("\x00asm\x02\x00\x00\x00"), nil, "unknown version"},
		"no sections":           {[]byte(moduletest.CorePreamble), nil, "exports no proxy_abi_version_"},
		"no ABI":                {moduletest.WithExports(moduletest.Export("_start"), moduletest.Export("memory")), nil, "exports no proxy_abi_version_"},
		"an ABI of the future":  {moduletest.WithExports(moduletest.Export("proxy_abi_version_9_9_9")), nil, "exports no proxy_abi_version_"},
		"an ABI that is memory": {moduletest.WithExports(append(moduletest.Name("proxy_abi_version_0_2_1"), 2, 0)), nil, "exports no proxy_abi_version_"},
		"section beyond end":    {slices.Concat([]byte(moduletest.CorePreamble), []byte{1, 200, 1}), nil, "longer than the module"},
		"truncated exports":     {slices.Concat([]byte(moduletest.CorePreamble), moduletest.Section(7, []byte{2, 1})), nil, "reading the module's exports"},
		"a number too long":     {slices.Concat([]byte(moduletest.CorePreamble), []byte{1, 0xff, 0xff, 0xff, 0xff, 0xff}), nil, "longer than 32 bits"},
		"a number too large":    {slices.Concat([]byte(moduletest.CorePreamble), []byte{1, 0xff, 0xff, 0xff, 0xff, 0x7f}), nil, "longer than 32 bits"},
		"too many exports":      {slices.Concat([]byte(moduletest.CorePreamble), moduletest.Section(7, []byte{0xff, 0xff, 0xff, 0x7f})), nil, "too many exports"},
		"an export's long name": {slices.Concat([]byte(moduletest.CorePreamble), moduletest.Section(7, []byte{1, 0xff, 0xff, 0xff, 0x7f})), nil, "name is too long"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := module.Inspect(bytes.NewReader(c.module), int64(len(c.module)))
			if !slices.Equal(got, c.want) {
				t.Errorf("%v, not %v", got, c.want)
			}
			moduletest.WantError(t, err, wasmev1.ReasonInvalidModule, c.message)
		})
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(moduletest.Wasm("seed"))
	f.Add([]byte(moduletest.ComponentPreamble))
	f.Add(slices.Concat([]byte(moduletest.CorePreamble), moduletest.Section(7, []byte{2, 1})))
	f.Fuzz(func(t *testing.T, data []byte) {
		versions, err := module.Inspect(bytes.NewReader(data), int64(len(data)))
		if (err == nil) == (len(versions) == 0) {
			t.Errorf("%v and %v", versions, err)
		}
		if err != nil && module.AsError(err) == nil {
			t.Errorf("not classified: %v", err)
		}
	})
}
