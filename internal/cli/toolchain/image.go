package toolchain

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os/exec"
	"os/user"
	"time"
)

// Where a builder image finds the project, and where it puts filter.wasm.
const (
	imageSources = "/src/workspace"
	imageOutput  = "/build_output"
)

// recipe is how a language is built in an image.
type recipe struct {
	// tool is BUILD_TOOL, from which the builder images of the former wasme, which have
	// a script as entry point, know what to do.
	tool string
	// script is what any other image runs, such as golang or node: those with a compiler
	// and a shell, and with no entry point or one that runs its arguments.
	script string
}

var recipes = map[Language]recipe{
	Go:             {"go", "GOOS=wasip1 GOARCH=wasm CGO_ENABLED=0 go build -buildmode=c-shared -trimpath -buildvcs=false -ldflags=-buildid= -o $OUT ."},
	TinyGo:         {"tinygo", "tinygo build -target=wasi -scheduler=none -no-debug -o $OUT ."},
	Rust:           {"cargo", "rustup target add wasm32-wasip1; cargo build --release --target wasm32-wasip1 --target-dir /tmp/target && cp /tmp/target/wasm32-wasip1/release/*.wasm $OUT"},
	AssemblyScript: {"npm", "npm ci --include=dev --no-audit --no-fund && npm run asbuild && cp build/optimized.wasm $OUT"},
	CPP:            {"bazel", "bazel build //:filter.wasm && cp -f bazel-bin/filter.wasm $OUT"},
}

// engines are the programs that run containers, the preferred one first.
var engines = []string{"docker", "podman"}

// BuildInImage builds the project in a folder in a container of an image, with docker or,
// where that is not on the PATH, with podman. The container sees the folder, which it can
// change, and nothing else of this machine: neither its environment, nor credentials. It
// has a network, because compilers fetch packages. When ctx ends, it is removed.
func BuildInImage(ctx context.Context, image string, language Language, path string, o Options) ([]byte, error) {
	if _, known := recipes[language]; !known {
		return nil, fmt.Errorf("a builder image cannot build %s: leave out --image", language)
	}
	return produce(path, o, func(j *job) (string, error) { return j.runImage(ctx, language, image) })
}

func (j *job) runImage(ctx context.Context, language Language, image string) (string, error) {
	engine, err := findEngine()
	if err != nil {
		return "", err
	}
	owner, err := user.Current()
	if err != nil {
		return "", fmt.Errorf("finding out whose files the container is to write: %w", err)
	}
	name := "wasme-build-" + rand.Text()[:8]
	err = j.run(ctx, engine, nil, container{
		engine: engine.name, name: name, image: image, language: language,
		sources: j.dir, output: j.temp, owner: owner.Uid + ":" + owner.Gid,
	}.arguments()...)
	if ctx.Err() != nil {
		// The program that has ended was only the client of what runs the container.
		removeContainer(context.WithoutCancel(ctx), engine, name)
	}
	if err != nil {
		return "", err
	}
	if !exists(j.output()) {
		return "", fmt.Errorf("the image %s has not written %s/%s: use an image with a compiler for %s", image, imageOutput, moduleName, language)
	}
	return j.output(), nil
}

func findEngine() (tool, error) {
	for _, name := range engines {
		if _, err := exec.LookPath(name); err == nil {
			return tool{name: name}, nil
		}
	}
	return tool{}, errors.New("neither docker nor podman is installed: install one of them, or leave out --image to build with the compilers on this machine")
}

// removeContainer removes a container that may be gone by itself.
func removeContainer(ctx context.Context, engine tool, name string) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_ = exec.CommandContext(ctx, engine.name, "rm", "--force", name).Run() // there is nothing else to try
}

// container is one that builds.
type container struct {
	engine, name, image string
	language            Language
	// sources and output are absolute paths of this machine, and owner is the user and
	// the group, as uid:gid, whom the files that it writes are to belong to.
	sources, output, owner string
}

// arguments are those of docker or podman that run it.
func (c container) arguments() []string {
	r := recipes[c.language]
	args := []string{
		"run", "--rm", "--name", c.name,
		"--mount", "type=bind,source=" + c.sources + ",target=" + imageSources,
		"--mount", "type=bind,source=" + c.output + ",target=" + imageOutput,
		"--workdir", imageSources,
		"--security-opt", "label=disable", // SELinux would keep it from the two folders
		"--env", "BUILD_TOOL=" + r.tool,
		"--env", "OUT=" + imageOutput + "/" + moduleName,
		"--env", "HOME=/tmp", "--env", "USER=wasme", // the user is nobody whom the image knows
	}
	args = append(args, c.identity()...)
	return append(args, c.image, "sh", "-c", r.script)
}

// identity are the arguments by which what the container writes belongs to the user.
func (c container) identity() []string {
	if c.engine == "podman" {
		return []string{"--userns=keep-id"}
	}
	return []string{"--user", c.owner}
}
