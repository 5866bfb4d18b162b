// Package toolchain builds modules with the compilers that are installed, or with those
// in a builder image.
//
//	Detect        which language a project is written in, by its files
//	Build         build it with what is on the PATH (golang.go, rust.go, …: a file a language)
//	BuildInImage  build it in a container
//
// The same files and the same tools give the same bytes, in whichever folder and on
// whichever machine: paths are left out of the module, and versions are those of the
// project's lock file. What a compiler prints is passed through as it is.
package toolchain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/wasme-io/wasme-operator/internal/module"
)

// Language is what a project is written in, as it is called on the command line.
type Language string

// The languages.
const (
	// Go is standard Go, from 1.24.
	Go             Language = "go"
	TinyGo         Language = "tinygo"
	Rust           Language = "rust"
	AssemblyScript Language = "assemblyscript"
	// CPP is C++, with Bazel or with make.
	CPP Language = "cpp"
	// Precompiled is no language: a module that something else has built. Only Detect
	// returns it, and Build takes it.
	Precompiled Language = "precompiled"
)

// Languages are those that have a compiler, in the order in which they are offered.
var Languages = []Language{Go, TinyGo, Rust, AssemblyScript, CPP}

// Names returns the names of Languages.
func Names() []string { return namesOf(Languages) }

func namesOf(languages []Language) []string {
	var names []string
	for _, l := range languages {
		names = append(names, string(l))
	}
	return names
}

// Parse returns the language of a name, which is one of Names. Its error lists them.
func Parse(name string) (Language, error) {
	if !slices.Contains(Languages, Language(name)) {
		return "", fmt.Errorf("%q is not a language that filters can be written in: use one of %s", name, strings.Join(Names(), ", "))
	}
	return Language(name), nil
}

// Options are how a project is built.
type Options struct {
	// Log receives what the compiler prints. With nil that is lost, and so is why a
	// build failed.
	Log io.Writer
	// TempDir is where temporary files go; empty: the system's folder for them.
	TempDir string
}

// builders build a project and return the path of the module.
var builders = map[Language]func(context.Context, *job) (string, error){
	Go:             buildGo,
	TinyGo:         buildTinyGo,
	Rust:           buildRust,
	AssemblyScript: buildAssemblyScript,
	CPP:            buildCPP,
	Precompiled:    findPrecompiled,
}

// Build builds the project in a folder and returns the module. A module that was built
// before is its own project: path is then that of the .wasm file, or of a folder with one.
//
// What the compiler keeps for its next run stays in the folder, where its own commands
// keep it (target, node_modules, bazel-*). When ctx ends, so does the compiler, with all
// processes that it has started. An error says which tool is missing and how to get it.
func Build(ctx context.Context, language Language, path string, o Options) ([]byte, error) {
	build, known := builders[language]
	if !known {
		_, err := Parse(string(language))
		return nil, err
	}
	return produce(path, o, func(j *job) (string, error) { return build(ctx, j) })
}

// produce returns the module that build makes of a project.
func produce(path string, o Options, build func(*job) (string, error)) ([]byte, error) {
	wasm, err := runJob(path, o, build)
	if err != nil {
		return nil, fmt.Errorf("building %s: %w", path, err)
	}
	return wasm, nil
}

func runJob(path string, o Options, build func(*job) (string, error)) ([]byte, error) {
	j, err := newJob(path, o)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(j.temp)
	built, err := build(j)
	if err != nil {
		return nil, err
	}
	return readModule(built)
}

// readModule reads a module and checks that it is one for proxies.
func readModule(path string) ([]byte, error) {
	wasm, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading what was built: %w", err)
	}
	if _, err := module.Inspect(bytes.NewReader(wasm), int64(len(wasm))); err != nil {
		return nil, fmt.Errorf("%s is not a filter: %w", filepath.Base(path), err)
	}
	return wasm, nil
}

// errNeither is the error about a path that is no project.
var errNeither = errors.New("it is neither a folder nor a *.wasm file: name one of them")

// job is one build.
type job struct {
	// dir is the project, and temp a folder that is removed in the end; both absolute.
	dir, temp string
	log       io.Writer
}

func newJob(path string, o Options) (*job, error) {
	dir, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	switch info, err := os.Stat(dir); {
	case err != nil:
		return nil, fmt.Errorf("%w: name the folder of a project; wasme init writes one", err)
	case !info.IsDir() && filepath.Ext(dir) != wasmExtension:
		return nil, errNeither
	}
	temp, err := os.MkdirTemp(o.TempDir, "wasme-build-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for temporary files: %w", err)
	}
	if temp, err = filepath.Abs(temp); err != nil {
		return nil, err
	}
	j := &job{dir: dir, temp: temp, log: o.Log}
	if j.log == nil {
		j.log = io.Discard
	}
	return j, nil
}

// has reports whether the project has a file.
func (j *job) has(name string) bool { return exists(filepath.Join(j.dir, name)) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// output is where builds put modules that go nowhere else.
func (j *job) output() string { return filepath.Join(j.temp, moduleName) }

const moduleName = "filter.wasm"
