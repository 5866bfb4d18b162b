// Licensed under the Apache License, Version 2.0; see LICENSE.

package foreign_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tetratelabs/wazero"

	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/test/filters/foreign"
)

func TestEveryModuleIsAFilter(t *testing.T) {
	runtime := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfigInterpreter())
	defer func() {
		if err := runtime.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	for _, m := range foreign.All {
		t.Run(m.Name, func(t *testing.T) {
			content, err := foreign.Build(t.Context(), m.Name)
			if err != nil {
				t.Fatal(err)
			}
			compiled, err := runtime.CompileModule(t.Context(), content)
			if err != nil {
				t.Fatal(err)
			}
			exports := compiled.ExportedFunctions()
			if exports["proxy_on_memory_allocate"] == nil && exports["malloc"] == nil {
				t.Error("it exports no function that allocates memory")
			}
			if !slices.ContainsFunc([]string{"0_1_0", "0_2_0", "0_2_1"}, func(abi string) bool {
				return exports["proxy_abi_version_"+abi] != nil
			}) {
				t.Error("it exports no version of the ABI")
			}
			var want []string
			for _, function := range compiled.ImportedFunctions() {
				_, name, _ := function.Import()
				want = append(want, name)
			}
			imports, err := module.ImportedFunctions(bytes.NewReader(content), int64(len(content)))
			if diff := cmp.Diff(want, imports); err != nil || diff != "" {
				t.Errorf("reading its imports: %v (-engine +operator)\n%s", err, diff)
			}
		})
	}
}

func TestEveryFolderIsListed(t *testing.T) {
	sources := map[foreign.Language]string{
		foreign.C: "*.c", foreign.Rust: "lib.rs", foreign.AssemblyScript: "index.ts", foreign.Go: "main.go",
	}
	var folders, listed []string
	for language, source := range sources {
		found, err := filepath.Glob(filepath.Join(string(language), "*", source))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			folders = append(folders, filepath.ToSlash(filepath.Dir(path)))
		}
	}
	for _, m := range foreign.All {
		listed = append(listed, m.Name)
		if !strings.HasPrefix(m.Name, string(m.Language)+"/") {
			t.Errorf("%s is not in the folder of %s", m.Name, m.Language)
		}
	}
	slices.Sort(folders)
	slices.Sort(listed)
	if diff := cmp.Diff(folders, listed); diff != "" {
		t.Errorf("(-folders +listed)\n%s", diff)
	}
}

func TestBuildKeepsWhatItHasBuilt(t *testing.T) {
	if _, err := foreign.Build(t.Context(), foreign.Probe); err != nil {
		t.Fatal(err)
	}
	kept := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", kept)
	for range 2 {
		if _, err := foreign.Build(t.Context(), foreign.Probe); err != nil {
			t.Fatal(err)
		}
	}
	modules, err := filepath.Glob(filepath.Join(kept, "wasme-operator", "bin", "*", "*.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	if len(modules) != 1 {
		t.Errorf("kept: %v", modules)
	}
	content, err := os.ReadFile(modules[0])
	if err != nil || len(content) == 0 {
		t.Errorf("%d bytes, error %v", len(content), err)
	}
}

func TestAnUnknownNameIsAnError(t *testing.T) {
	if _, err := foreign.Build(t.Context(), "c/none"); err == nil || !strings.Contains(err.Error(), "c/none") {
		t.Errorf("got %v", err)
	}
}
