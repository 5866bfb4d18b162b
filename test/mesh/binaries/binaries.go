// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package binaries provides the programs that a mesh consists of. It builds
// them from the versions pinned under hack/build, once per machine and user:
// results are kept in the user's cache folder under a key made of everything
// that went into them. Only Go is needed, and Python for Envoy. A Source may
// use programs that are installed instead, where their versions fit.
package binaries

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/mod/modfile"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/wasme-io/wasme-operator/test/mesh/progress"
)

// Program is one program, built from a module under hack/build.
type Program struct {
	// Name of the executable.
	Name string
	// Takes is how long a build takes on two cores, with a Go build cache that
	// holds no more than the programs above it.
	Takes time.Duration

	folder    string // under hack/build
	module    string // whose version is the program's
	pkg       string
	ldflags   func(version string) string
	installed installed
}

// Helm installs the chart in tests.
var Helm = Program{
	Name: "helm", Takes: time.Minute, folder: "chart", module: "helm.sh/helm/v4",
	pkg: "helm.sh/helm/v4/cmd/helm", ldflags: stripped,
}

// The programs of the control plane and of the mesh.
var (
	Etcd = Program{
		Name: "etcd", Takes: 20 * time.Second, folder: "etcd", module: "go.etcd.io/etcd/server/v3",
		pkg: "go.etcd.io/etcd/server/v3", ldflags: stripped,
		installed: installed{arguments: []string{"--version"}, prefix: "etcd Version: ", older: 1},
	}
	APIServer = Program{
		Name: "kube-apiserver", Takes: 4 * time.Minute, folder: "kubernetes", module: "k8s.io/kubernetes",
		pkg: "k8s.io/kubernetes/cmd/kube-apiserver", ldflags: kubernetesVersion,
		installed: installed{arguments: []string{"--version"}, prefix: "Kubernetes "},
	}
	ControllerManager = Program{
		Name: "kube-controller-manager", Takes: 75 * time.Second, folder: "kubernetes", module: "k8s.io/kubernetes",
		pkg: "k8s.io/kubernetes/cmd/kube-controller-manager", ldflags: kubernetesVersion,
	}
	Kubectl = Program{
		Name: "kubectl", Takes: 20 * time.Second, folder: "kubernetes", module: "k8s.io/kubernetes",
		pkg: "k8s.io/kubernetes/cmd/kubectl", ldflags: kubernetesVersion,
		installed: installed{arguments: []string{"version", "--client"}, prefix: "Client Version: ", older: 1, newer: 1},
	}
	Istiod = Program{
		Name: "pilot-discovery", Takes: 4 * time.Minute, folder: "istio", module: "istio.io/istio",
		pkg: "istio.io/istio/pilot/cmd/pilot-discovery", ldflags: stripped,
	}
	PilotAgent = Program{
		Name: "pilot-agent", Takes: 20 * time.Second, folder: "istio", module: "istio.io/istio",
		pkg: "istio.io/istio/pilot/cmd/pilot-agent", ldflags: stripped,
	}
)

func stripped(string) string { return "-s -w" }

// kubernetesVersion stamps the version in: without it clients see
// v0.0.0-master and some of them refuse such a server.
func kubernetesVersion(version string) string {
	const variable = "k8s.io/component-base/version"
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	return fmt.Sprintf("-s -w -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s", variable, version, major, minor)
}

// Path returns the path of the program in the pinned version, building it first
// when this machine does not have it yet. The log receives what is built and how
// long that took. Concurrent calls, also of other processes, build it once.
func (p Program) Path(ctx context.Context, log io.Writer) (string, error) {
	a, err := p.artifact()
	if err != nil {
		return "", err
	}
	return a.provide(ctx, log, func(target string) error {
		return goBuild(ctx, a.folder, target, p.pkg, p.ldflags(a.version))
	})
}

// artifact describes the build of the pinned version.
func (p Program) artifact() (artifact, error) {
	folder, version, err := p.pinned()
	if err != nil {
		return artifact{}, err
	}
	key, err := KeyOf([]string{filepath.Join(folder, "go.mod"), filepath.Join(folder, "go.sum")},
		p.pkg, p.ldflags(version), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return artifact{
		name: p.Name, key: key, title: fmt.Sprintf("building %s %s", p.Name, version), takes: p.Takes,
		folder: folder, version: version,
	}, err
}

// pinned returns the folder that pins the program's version, and that version.
func (p Program) pinned() (folder, version string, err error) {
	folder, err = buildFolder(p.folder)
	if err != nil {
		return "", "", err
	}
	version, err = requiredVersion(filepath.Join(folder, "go.mod"), p.module)
	return folder, version, err
}

func goBuild(ctx context.Context, folder, target, pkg, ldflags string) error {
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", ldflags, "-o", target, pkg)
	build.Dir = folder
	build.Env = pinnedEnvironment()
	return Run(build)
}

// pinnedEnvironment keeps go to the versions in the go.mod of its folder.
func pinnedEnvironment() []string {
	return append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
}

// IstioFile returns the path of a file in the source of the Istio that Istiod
// and PilotAgent are built from.
func IstioFile(ctx context.Context, path string) (string, error) {
	return sourceFile(ctx, "istio", "istio.io/istio", path)
}

// GitOpsFile returns the path of a file in the source of Argo CD or of one of
// Flux's controllers, at the version in hack/build/gitops.
func GitOpsFile(ctx context.Context, module, path string) (string, error) {
	return sourceFile(ctx, "gitops", module, path)
}

// sourceFile downloads a module at the version in hack/build/<build>, if it is
// not there yet, and returns the path of a file in it.
func sourceFile(ctx context.Context, build, module, path string) (string, error) {
	folder, err := buildFolder(build)
	if err != nil {
		return "", err
	}
	download := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	download.Dir = folder
	download.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off")
	output, err := download.Output()
	if err != nil {
		return "", fmt.Errorf("downloading the source of %s: %w", module, err)
	}
	var source struct{ Dir string }
	if err := json.Unmarshal(output, &source); err != nil {
		return "", fmt.Errorf("locating the source of %s: %w", module, err)
	}
	return filepath.Join(source.Dir, path), nil
}

// buildFolder finds hack/build/<name> in the repository that the working
// directory belongs to.
func buildFolder(name string) (string, error) {
	root, err := RepositoryRoot()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, "hack", "build", name), nil
}

// RepositoryRoot returns the nearest folder, from the working directory
// upwards, that contains hack/build.
func RepositoryRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the repository: %w", err)
	}
	for folder := start; ; folder = filepath.Dir(folder) {
		if _, err := os.Stat(filepath.Join(folder, "hack", "build")); err == nil {
			return folder, nil
		}
		if folder == filepath.Dir(folder) {
			return "", fmt.Errorf("finding the repository: no folder hack/build in %s or above it", start)
		}
	}
}

// requiredVersion reads the version of a module, replacements considered.
func requiredVersion(path, module string) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("reading the pinned versions: %w", err)
	}
	file, err := modfile.Parse(path, content, nil)
	if err != nil {
		return "", fmt.Errorf("reading the pinned versions: %w", err)
	}
	for _, replace := range file.Replace {
		if replace.Old.Path == module {
			return replace.New.Version, nil
		}
	}
	for _, require := range file.Require {
		if require.Mod.Path == module {
			return require.Mod.Version, nil
		}
	}
	return "", fmt.Errorf("reading the pinned versions: %s does not require %s", path, module)
}

// KeyOf hashes files and words into a name for what is made of them.
func KeyOf(files []string, words ...string) (string, error) {
	hash := sha256.New()
	for _, word := range words {
		fmt.Fprintf(hash, "%q\n", word)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("hashing what goes into a build: %w", err)
		}
		fmt.Fprintf(hash, "%d\n", len(content))
		hash.Write(content)
	}
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

// Folder returns the folder that keeps what was built: bin below the project's
// folder in the user's cache folder. It may be removed at any time.
func Folder() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache folder: %w", err)
	}
	return filepath.Join(cache, "wasme-operator", "bin"), nil
}

// artifact is something that is made once per machine and user.
type artifact struct {
	name  string        // of the file
	key   string        // of its folder
	title string        // of what makes it: "building etcd v3.6.8"
	takes time.Duration // 0: not known

	folder, version string // of a Program
}

// Cached returns the path of name under key, calling provide to write it when
// it is not there. title says what provide does.
func Cached(ctx context.Context, log io.Writer, name, key, title string, provide func(target string) error) (string, error) {
	return artifact{name: name, key: key, title: title}.provide(ctx, log, provide)
}

func (a artifact) path() (string, error) {
	bin, err := Folder()
	return filepath.Join(bin, a.key, a.name), err
}

// provide returns the artifact's path, calling write when it is not
// there. write gets another path first; the rename makes the result appear whole.
func (a artifact) provide(ctx context.Context, log io.Writer, write func(target string) error) (_ string, err error) {
	path, err := a.path()
	if err != nil || present(path) {
		return path, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("preparing the cache for %s: %w", a.name, err)
	}
	unlock, err := lock(ctx, log, a.name, path+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if present(path) {
		return path, nil
	}
	end := progress.Begin(log, a.title, a.takes)
	defer func() { end(err) }()
	aside := path + ".new"
	if err := os.RemoveAll(aside); err != nil { // of one that was interrupted
		return "", fmt.Errorf("preparing the cache for %s: %w", a.name, err)
	}
	defer os.RemoveAll(aside)
	if err := write(aside); err != nil {
		return "", fmt.Errorf("%s: %w", a.title, err)
	}
	if err := os.Chmod(aside, 0o755); err != nil {
		return "", fmt.Errorf("making %s executable: %w", a.name, err)
	}
	if err := os.Rename(aside, path); err != nil {
		return "", fmt.Errorf("keeping %s: %w", a.name, err)
	}
	return path, nil
}

func present(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// lock takes a file's lock, waiting for another process that makes the same.
func lock(ctx context.Context, log io.Writer, name, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the build lock: %w", err)
	}
	var end func(error)
	err = wait.PollUntilContextCancel(ctx, 200*time.Millisecond, true, func(context.Context) (bool, error) {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			if end == nil {
				end = progress.Begin(log, "waiting for another process that provides "+name, 0)
			}
			return false, nil
		}
		return err == nil, err
	})
	if end != nil {
		end(err)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("taking the build lock %s: %w", path, err), file.Close())
	}
	return func() { _ = file.Close() }, nil // closing gives the lock back; nothing was written
}

// Own builds a package of this repository, such as ./test/mesh/cmd/meshpart,
// to target. It builds it each time: Go's build cache makes that quick, and the
// result is never out of date.
func Own(ctx context.Context, pkg, target string) error {
	return own(ctx, pkg, target)
}

func own(ctx context.Context, pkg, target string, flags ...string) error {
	// The tag is the Makefile's: a manager without it is larger.
	arguments := append([]string{"build", "-trimpath", "-buildvcs=false", "-tags=grpcnotrace", "-ldflags", "-s -w", "-o", target}, flags...)
	build, err := ownCommand(ctx, append(arguments, pkg)...)
	if err != nil {
		return err
	}
	return Run(build)
}

// ownCommand is go in this repository, in the same environment everywhere, so
// that one build cache serves all builds.
func ownCommand(ctx context.Context, arguments ...string) (*exec.Cmd, error) {
	root, err := RepositoryRoot()
	if err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, "go", arguments...)
	command.Dir = root
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	return command, nil
}
