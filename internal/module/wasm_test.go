package module

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

func TestInspect(t *testing.T) {
	for name, c := range map[string]struct {
		module  []byte
		want    []string
		message string
	}{
		"one ABI":               {wasmModule(export("proxy_abi_version_0_2_1")), []string{"0.2.1"}, ""},
		"several, in any order": {wasmModule(export("proxy_abi_version_0_2_1"), export("f"), export("proxy_abi_version_0_1_0")), []string{"0.1.0", "0.2.1"}, ""},
		"exports after others":  {slices.Concat(corePreamble, section(1, []byte{0}), section(0, []byte("\x01xyz")), wasmModule(export("proxy_abi_version_0_2_0"))[8:]), []string{"0.2.0"}, ""},
		"empty":                 {nil, nil, "is not a Wasm module"},
		"text":                  {[]byte("#!/bin/sh\nexit 1\n"), nil, "is not a Wasm module"},
		"shorter than magic":    {[]byte("\x00as"), nil, "is not a Wasm module"},
		"component":             {append(bytes.Clone(componentPreamble), 1, 2, 3), nil, "component model"},
		"another version":       {[]byte("\x00asm\x02\x00\x00\x00"), nil, "unknown version"},
		"no sections":           {corePreamble, nil, "exports no proxy_abi_version_"},
		"no ABI":                {wasmModule(export("_start"), export("memory")), nil, "exports no proxy_abi_version_"},
		"an ABI of the future":  {wasmModule(export("proxy_abi_version_9_9_9")), nil, "exports no proxy_abi_version_"},
		"an ABI that is memory": {wasmModule(append(wasmName("proxy_abi_version_0_2_1"), 2, 0)), nil, "exports no proxy_abi_version_"},
		"section beyond end":    {slices.Concat(corePreamble, []byte{1, 200, 1}), nil, "longer than the module"},
		"truncated exports":     {slices.Concat(corePreamble, section(7, []byte{2, 1})), nil, "reading the module's exports"},
		"a number too long":     {slices.Concat(corePreamble, []byte{1, 0xff, 0xff, 0xff, 0xff, 0xff}), nil, "longer than 32 bits"},
		"a number too large":    {slices.Concat(corePreamble, []byte{1, 0xff, 0xff, 0xff, 0xff, 0x7f}), nil, "longer than 32 bits"},
		"too many exports":      {slices.Concat(corePreamble, section(7, []byte{0xff, 0xff, 0xff, 0x7f})), nil, "too many exports"},
		"an export's long name": {slices.Concat(corePreamble, section(7, []byte{1, 0xff, 0xff, 0xff, 0x7f})), nil, "name is too long"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := inspect(bytes.NewReader(c.module), int64(len(c.module)))
			if !slices.Equal(got, c.want) {
				t.Errorf("%v, not %v", got, c.want)
			}
			wantError(t, err, wasmev1.ReasonInvalidModule, c.message)
		})
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(testModule("seed"))
	f.Add(componentPreamble)
	f.Add(slices.Concat(corePreamble, section(7, []byte{2, 1})))
	f.Fuzz(func(t *testing.T, data []byte) {
		versions, err := inspect(bytes.NewReader(data), int64(len(data)))
		if (err == nil) == (len(versions) == 0) {
			t.Errorf("%v and %v", versions, err)
		}
		if err != nil && asError(err) == nil {
			t.Errorf("not classified: %v", err)
		}
	})
}

// testModule is a module for proxy-wasm that differs by its text.
func testModule(text string) []byte {
	custom := section(0, append(wasmName("text"), text...))
	return append(wasmModule(export("proxy_abi_version_0_2_1")), custom...)
}

// wasmModule is a module with these exports and nothing else.
func wasmModule(exports ...[]byte) []byte {
	content := binary.AppendUvarint(nil, uint64(len(exports)))
	return slices.Concat(corePreamble, section(exportSection, append(content, slices.Concat(exports...)...)))
}

func section(id byte, content []byte) []byte {
	return append(binary.AppendUvarint([]byte{id}, uint64(len(content))), content...)
}

func export(function string) []byte { return append(wasmName(function), exportedFunc, 0) }

func wasmName(text string) []byte {
	return append(binary.AppendUvarint(nil, uint64(len(text))), text...)
}

// wantError checks an error by its reason and a part of its message; an empty
// message means that there is none.
func wantError(t *testing.T, err error, reason, message string) {
	t.Helper()
	if message == "" {
		if err != nil {
			t.Errorf("unexpected: %v", err)
		}
		return
	}
	e := asError(err)
	if e == nil {
		t.Fatalf("%v is no *Error; want %s", err, reason)
	}
	if e.Reason != reason || !strings.Contains(e.Message, message) {
		t.Errorf("%s: %s; want %s: …%s…", e.Reason, e.Message, reason, message)
	}
}
