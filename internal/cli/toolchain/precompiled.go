package toolchain

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const wasmExtension = ".wasm"

// findPrecompiled returns the path of a module that is there: the path itself, or the
// only module in the folder.
func findPrecompiled(_ context.Context, j *job) (string, error) {
	info, err := os.Stat(j.dir)
	if err != nil || !info.IsDir() {
		return j.dir, err
	}
	modules, err := modulesIn(j.dir)
	if err != nil {
		return "", err
	}
	switch len(modules) {
	case 0:
		return "", fmt.Errorf("it has no file *%s: name the module itself", wasmExtension)
	case 1:
		return filepath.Join(j.dir, modules[0]), nil
	}
	return "", fmt.Errorf("it has %d modules (%s): name one of them", len(modules), strings.Join(modules, ", "))
}

// modulesIn returns the names of the modules in a folder.
func modulesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if !entry.IsDir() && filepath.Ext(entry.Name()) == wasmExtension {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}
