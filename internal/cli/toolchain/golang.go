package toolchain

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/mod/semver"
)

var (
	goTool = tool{name: "go", install: "install Go " + minGo + " or later from https://go.dev/dl"}
	// TinyGo calls the compiler of Go, too.
	tinyGoTool = tool{name: "tinygo", install: "install TinyGo 0.32 or later from https://tinygo.org/getting-started/install"}
)

// minGo is the first Go that builds modules which a proxy can call (-buildmode=c-shared).
const minGo = "1.24"

// goFlags replace the user's flags, so that they do not change the module. -trimpath
// leaves paths out; the version control's state is no part of a module.
const goFlags = "GOFLAGS=-trimpath -buildvcs=false"

func buildGo(ctx context.Context, j *job) (string, error) {
	env := []string{"GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0", goFlags}
	version, err := j.outputOf(ctx, goTool, env, "env", "GOVERSION")
	if err != nil {
		return "", err
	}
	if tooOld(version) {
		return "", fmt.Errorf("the installed Go is %s: %s", version, goTool.install)
	}
	// Names of functions stay in: a preflight shows them where a module crashes. They
	// take 2 % of it.
	return j.output(), j.run(ctx, goTool, env, "build", "-buildmode=c-shared", "-ldflags=-buildid=", "-o", j.output(), ".")
}

// tooOld reports whether a Go, such as "go1.23.4", is older than minGo. What is no
// release, such as "devel go1.27-abc", is not.
func tooOld(version string) bool {
	v := "v" + strings.TrimPrefix(version, "go")
	return semver.IsValid(v) && semver.Compare(v, "v"+minGo) < 0
}

func buildTinyGo(ctx context.Context, j *job) (string, error) {
	if _, err := goTool.path(); err != nil {
		return "", err
	}
	return j.output(), j.run(ctx, tinyGoTool, []string{goFlags}, "build", "-target=wasi", "-scheduler=none", "-no-debug", "-o", j.output(), ".")
}
