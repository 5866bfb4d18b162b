package module_test

import (
	"bytes"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"syscall"
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
		"one ABI":                    {moduletest.WithExports(moduletest.Export("proxy_abi_version_0_2_1")), []string{"0.2.1"}, ""},
		"several, in any order":      {moduletest.WithExports(moduletest.Export("proxy_abi_version_0_2_1"), moduletest.Export("f"), moduletest.Export("proxy_abi_version_0_1_0")), []string{"0.1.0", "0.2.1"}, ""},
		"exports after others":       {sections(moduletest.Section(1, []byte{0}), moduletest.Section(0, []byte("\x01xyz")), moduletest.WithExports(moduletest.Export("proxy_abi_version_0_2_0"))[8:]), []string{"0.2.0"}, ""},
		"empty":                      {nil, nil, "is not a Wasm module"},
		"text":                       {[]byte("#!/bin/sh\nexit 1\n"), nil, "is not a Wasm module"},
		"shorter than magic":         {[]byte("\x00as"), nil, "is not a Wasm module"},
		"component":                  {append([]byte(moduletest.ComponentPreamble), 1, 2, 3), nil, "component model"},
		"another version":            {[]byte("\x00asm\x02\x00\x00\x00"), nil, "unknown version"},
		"no sections":                {[]byte(moduletest.CorePreamble), nil, "exports no proxy_abi_version_"},
		"no ABI":                     {moduletest.WithExports(moduletest.Export("_start"), moduletest.Export("memory")), nil, "exports no proxy_abi_version_"},
		"an ABI of the future":       {moduletest.WithExports(moduletest.Export("proxy_abi_version_9_9_9")), nil, "exports no proxy_abi_version_"},
		"an ABI that is memory":      {moduletest.WithExports(append(moduletest.Name("proxy_abi_version_0_2_1"), 2, 0)), nil, "exports no proxy_abi_version_"},
		"section beyond end":         {sections([]byte{1, 200, 1}), nil, "longer than the module"},
		"truncated exports":          {sections(moduletest.Section(7, []byte{2, 1})), nil, "reading the module's exports"},
		"a number too long":          {sections([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff}), nil, "longer than 32 bits"},
		"a number too large":         {sections([]byte{1, 0xff, 0xff, 0xff, 0xff, 0x7f}), nil, "longer than 32 bits"},
		"too many exports":           {sections(moduletest.Section(7, []byte{0xff, 0xff, 0xff, 0x7f})), nil, "too many exports"},
		"as many exports as may be":  {sections(moduletest.Section(7, slices.Concat([]byte{0xa0, 0x8d, 0x06}, bytes.Repeat([]byte{0, 0, 0}, 100_000)))), nil, "exports no proxy_abi_version_"},
		"one export more":            {sections(moduletest.Section(7, slices.Concat([]byte{0xa1, 0x8d, 0x06}, bytes.Repeat([]byte{0, 0, 0}, 100_001)))), nil, "too many exports"},
		"a name as long as may be":   {moduletest.WithExports(moduletest.Export(strings.Repeat("x", 64<<10)), moduletest.Export("proxy_abi_version_0_2_1")), []string{"0.2.1"}, ""},
		"a name longer by a byte":    {moduletest.WithExports(moduletest.Export(strings.Repeat("x", 64<<10+1))), nil, "name is too long"},
		"a section longer by a byte": {sections(moduletest.Section(1, []byte{0, 0, 0}), []byte{2, 3, 0, 0}), nil, "longer than the module"},
		"exports longer by a byte":   {sections([]byte{7, 2, 0}), nil, "longer than the module"},
		"a section without its size": {sections([]byte{1}), nil, "reading the module's sections"},
		"the largest number":         {sections([]byte{1, 0xff, 0xff, 0xff, 0xff, 0x0f}), nil, "longer than the module"},
		"a number larger by one":     {sections([]byte{1, 0x80, 0x80, 0x80, 0x80, 0x10}), nil, "longer than 32 bits"},
		"the same ABI twice":         {moduletest.WithExports(moduletest.Export("proxy_abi_version_0_2_1"), moduletest.Export("proxy_abi_version_0_2_1")), []string{"0.2.1"}, ""},
		"an export without its kind": {sections(moduletest.Section(7, []byte{1, 1, 'f'})), nil, "reading the module's exports"},
		"one without its index":      {sections(moduletest.Section(7, []byte{1, 1, 'f', 0})), nil, "reading the module's exports"},
		"exports without a number":   {sections(moduletest.Section(7, []byte{0x80})), nil, "reading the module's exports"},
		"exports after code":         {sections(moduletest.Section(10, []byte{0}), moduletest.WithExports(moduletest.Export("proxy_abi_version_0_2_1"))[8:]), nil, "section 7 is unknown, repeated or out of order"},
		"exports in two sections":    {sections(moduletest.WithExports(moduletest.Export("proxy_abi_version_0_2_1"))[8:], moduletest.WithExports()[8:]), nil, "section 7 is unknown, repeated or out of order"},
		"a section of a later kind":  {sections(moduletest.Section(14, []byte{0}), moduletest.WithExports(moduletest.Export("proxy_abi_version_0_2_1"))[8:]), nil, "section 14 is unknown, repeated or out of order"},
		"more exports than it says":  {sections(moduletest.Section(7, slices.Concat([]byte{1}, moduletest.Export("proxy_abi_version_0_2_1"), moduletest.Export("f")))), nil, "there are bytes left"},
		"an export's long name":      {sections(moduletest.Section(7, []byte{1, 0xff, 0xff, 0xff, 0x7f})), nil, "name is too long"},
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

// sections returns a module of these sections.
func sections(made ...[]byte) []byte {
	return slices.Concat([]byte(moduletest.CorePreamble), slices.Concat(made...))
}

func TestInspectReportsADiskThatFails(t *testing.T) {
	broken := errors.New("broken")
	_, err := module.Inspect(failing{broken}, 100)
	if !errors.Is(err, broken) || module.AsError(err) != nil {
		t.Errorf("%v", err)
	}
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

func TestCodeSizes(t *testing.T) {
	for name, row := range map[string]struct {
		wasm      []byte
		functions int
		largest   int64
		broken    string
	}{
		"none":               {wasm: sections()},
		"two functions":      {wasm: sections(moduletest.Section(10, []byte{2, 2, 0, 0x0b, 3, 0, 1, 0x0b})), functions: 2, largest: 3},
		"fewer than it says": {wasm: sections(moduletest.Section(10, []byte{2, 2, 0, 0x0b})), broken: "reading the module's code: EOF"},
		"more than it says":  {wasm: sections(moduletest.Section(10, []byte{1, 2, 0, 0x0b, 2, 0, 0x0b})), broken: "reading the module's code: there are bytes left"},
		"a body cut off":     {wasm: sections(moduletest.Section(10, []byte{1, 9, 0, 0x0b})), broken: "reading the module's code: EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			functions, largest, err := module.CodeSizes(row.wasm)
			moduletest.WantError(t, err, wasmev1.ReasonInvalidModule, row.broken)
			if err == nil && (functions != row.functions || largest != row.largest) {
				t.Errorf("%d functions, the largest of %d bytes", functions, largest)
			}
		})
	}
}

func TestHasPreamble(t *testing.T) {
	for content, want := range map[string]bool{
		moduletest.CorePreamble:          true,
		string(moduletest.Wasm("whole")): true,
		moduletest.CorePreamble[:7]:      false,
		moduletest.ComponentPreamble:     false,
		"":                               false,
		"<!DOCTYPE html><p>a page":       false,
	} {
		if got := module.HasPreamble(strings.NewReader(content)); got != want {
			t.Errorf("%q: %v", content, got)
		}
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(moduletest.Wasm("seed"))
	f.Add([]byte(moduletest.ComponentPreamble))
	f.Add(sections(moduletest.Section(7, []byte{2, 1})))
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

// unreadableFile fails behind the preamble, as a disk does.
type unreadableFile struct{}

func (unreadableFile) ReadAt(p []byte, offset int64) (int, error) {
	if offset > 0 {
		return 0, &fs.PathError{Op: "read", Path: "module", Err: syscall.EIO}
	}
	return copy(p, "\x00asm\x01\x00\x00\x00"), nil
}

func TestAFileThatCannotBeReadIsNoInvalidModule(t *testing.T) {
	for name, read := range map[string]func() error{
		"exports": func() error { _, err := module.Inspect(unreadableFile{}, 100); return err },
		"imports": func() error { _, err := module.ImportedFunctions(unreadableFile{}, 100); return err },
	} {
		if err := read(); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSectionsAreBounded(t *testing.T) {
	empty := append([]byte("\x00asm\x01\x00\x00\x00"), bytes.Repeat([]byte{0, 1, 0}, 10_001)...)
	if _, err := module.ImportedFunctions(bytes.NewReader(empty), int64(len(empty))); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Error(err)
	}
}
