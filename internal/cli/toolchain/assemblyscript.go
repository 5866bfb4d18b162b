package toolchain

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const installNode = "install Node.js with npm from https://nodejs.org"

var (
	nodeTool = tool{name: "node", install: installNode}
	npmTool  = tool{name: "npm", install: installNode}
)

// asbuild is the script of package.json that builds, and asbuilt where it puts the
// module: as wasme has always had it, or as asinit writes projects.
const asbuild = "asbuild"

var asbuilt = []string{filepath.Join("build", "optimized.wasm"), filepath.Join("build", "release.wasm")}

func buildAssemblyScript(ctx context.Context, j *job) (string, error) {
	for _, t := range []tool{nodeTool, npmTool} {
		if _, err := t.path(); err != nil {
			return "", err
		}
	}
	if err := j.checkScript(); err != nil {
		return "", err
	}
	if err := j.installPackages(ctx); err != nil {
		return "", err
	}
	for _, path := range asbuilt {
		// What an earlier build has left is not taken for this one's.
		if err := os.RemoveAll(filepath.Join(j.dir, path)); err != nil {
			return "", fmt.Errorf("removing the module of an earlier build: %w", err)
		}
	}
	if err := j.run(ctx, npmTool, nil, "run", asbuild); err != nil {
		return "", err
	}
	for _, path := range asbuilt {
		if j.has(path) {
			return filepath.Join(j.dir, path), nil
		}
	}
	return "", fmt.Errorf("npm run %s has not written %s: set the compiler's --binaryFile", asbuild, strings.Join(asbuilt, " or "))
}

// checkScript checks that package.json says how to build.
func (j *job) checkScript() error {
	content, err := os.ReadFile(filepath.Join(j.dir, "package.json"))
	if err != nil {
		return fmt.Errorf("reading the project: %w", err)
	}
	var pkg struct {
		Scripts map[string]string `json:"scripts"`
	}
	if err := json.Unmarshal(content, &pkg); err != nil {
		return fmt.Errorf("reading package.json: %w", err)
	}
	if pkg.Scripts[asbuild] == "" {
		return fmt.Errorf("package.json has no script %s: add one that runs asc with --binaryFile %s", asbuild, asbuilt[0])
	}
	return nil
}

// installPackages installs what the project needs, unless npm has done so since the
// lock file was changed: npm keeps a copy of it in node_modules once it is done.
func (j *job) installPackages(ctx context.Context) error {
	flags := []string{"--include=dev", "--no-audit", "--no-fund"}
	if !j.has("package-lock.json") {
		fmt.Fprintln(j.log, "package-lock.json is missing, and is written now: commit it, so that each build takes the same versions")
		return j.run(ctx, npmTool, nil, append([]string{"install"}, flags...)...)
	}
	if newer(filepath.Join(j.dir, "node_modules", ".package-lock.json"), filepath.Join(j.dir, "package-lock.json")) {
		return nil
	}
	return j.run(ctx, npmTool, nil, append([]string{"ci"}, flags...)...)
}

// newer reports whether a file is there and was written after another.
func newer(path, other string) bool {
	first, err := os.Stat(path)
	if err != nil {
		return false
	}
	second, err := os.Stat(other)
	return err == nil && first.ModTime().After(second.ModTime())
}
