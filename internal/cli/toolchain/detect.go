package toolchain

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
)

// manifests are the files by which a project says what it is.
var manifests = []struct {
	name     string
	language Language
}{
	{"go.mod", Go},
	{"Cargo.toml", Rust},
	{"asconfig.json", AssemblyScript},
	{"package.json", AssemblyScript},
}

// buildFiles are those of C++ projects. A project in another language can have them, too.
var buildFiles = []string{"MODULE.bazel", "WORKSPACE", "WORKSPACE.bazel", "BUILD", "BUILD.bazel", "Makefile"}

// tinyGoSDK is the SDK that only TinyGo compiles.
const tinyGoSDK = "github.com/tetratelabs/proxy-wasm-go-sdk"

// Detect returns the language of the project in a folder, by its files: those of a
// language first, then those of C++, then a module that is there already. A path of a
// .wasm file is Precompiled.
func Detect(path string) (Language, error) {
	language, err := detect(path)
	if err != nil {
		return "", fmt.Errorf("finding the language of %s: %w", path, err)
	}
	return language, nil
}

func detect(path string) (Language, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", err
	case !info.IsDir() && filepath.Ext(path) == wasmExtension:
		return Precompiled, nil
	case !info.IsDir():
		return "", errNeither
	}
	switch found, names := languagesOf(path); len(found) {
	case 0:
		return detectByBuild(path)
	case 1:
		if found[0] == Go {
			return goOrTinyGo(filepath.Join(path, "go.mod"))
		}
		return found[0], nil
	default:
		return "", fmt.Errorf("it has %s: name one of %s", strings.Join(names, " and "), strings.Join(namesOf(found), ", "))
	}
}

// languagesOf returns the languages of the manifests in a folder, and their names.
func languagesOf(dir string) (found []Language, names []string) {
	for _, m := range manifests {
		if exists(filepath.Join(dir, m.name)) && !slices.Contains(found, m.language) {
			found, names = append(found, m.language), append(names, m.name)
		}
	}
	return found, names
}

// goOrTinyGo tells them apart by the SDK that go.mod requires.
func goOrTinyGo(path string) (Language, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	file, err := modfile.ParseLax("go.mod", content, nil)
	if err != nil {
		return "", err
	}
	if slices.ContainsFunc(file.Require, func(r *modfile.Require) bool { return r.Mod.Path == tinyGoSDK }) {
		return TinyGo, nil
	}
	return Go, nil
}

func detectByBuild(dir string) (Language, error) {
	if slices.ContainsFunc(buildFiles, func(name string) bool { return exists(filepath.Join(dir, name)) }) || hasCPP(dir) {
		return CPP, nil
	}
	if modules, err := modulesIn(dir); err != nil || len(modules) > 0 {
		return Precompiled, err
	}
	return "", errors.New("it has neither go.mod, Cargo.toml, package.json, MODULE.bazel, a Makefile nor a *.wasm file: name the folder of a project; wasme init writes one")
}

func hasCPP(dir string) bool {
	for _, pattern := range []string{"*.cc", "*.cpp"} {
		if found, err := filepath.Glob(filepath.Join(dir, pattern)); err == nil && len(found) > 0 {
			return true
		}
	}
	return false
}
