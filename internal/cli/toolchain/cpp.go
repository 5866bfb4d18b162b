package toolchain

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

var (
	bazelTool     = tool{name: "bazel", install: "install Bazelisk from https://bazel.build/install/bazelisk"}
	bazeliskTool  = tool{name: "bazelisk", install: bazelTool.install}
	makeTool      = tool{name: "make", install: "install make with the package manager of your system"}
	bazelProjects = []string{"MODULE.bazel", "WORKSPACE", "WORKSPACE.bazel"}
)

// buildCPP builds with Bazel, or else with make. The module is called filter.wasm, for
// Bazel a target at the top of the project, and for make a file there.
func buildCPP(ctx context.Context, j *job) (string, error) {
	switch {
	case slices.ContainsFunc(bazelProjects, j.has):
		return filepath.Join(j.dir, "bazel-bin", moduleName), j.run(ctx, installedBazel(), nil, "build", "//:"+moduleName)
	case j.has("Makefile"):
		return j.make(ctx)
	}
	return "", errors.New("it has neither MODULE.bazel nor WORKSPACE nor a Makefile: wasme init --language=cpp writes a project that builds")
}

// installedBazel is Bazel under the name that it has here.
func installedBazel() tool {
	if _, err := bazeliskTool.path(); err == nil {
		return bazeliskTool
	}
	return bazelTool
}

func (j *job) make(ctx context.Context) (string, error) {
	if err := j.run(ctx, makeTool, nil, moduleName); err != nil {
		return "", err
	}
	if !j.has(moduleName) {
		return "", fmt.Errorf("make %s has not written %[1]s: let the rule write it beside the Makefile", moduleName)
	}
	return filepath.Join(j.dir, moduleName), nil
}
