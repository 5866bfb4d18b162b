// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package binaries provides the programs that a mesh consists of. It builds
// them from the versions pinned under hack/build, once per machine and user:
// what is built lies in the user's cache folder under a key made of everything
// that went into it. Only Go is needed, and Python for Envoy.
package binaries

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
)

// Program is one program, built from a module under hack/build.
type Program struct {
	// Name of the executable.
	Name string
	// Takes is how long a build with an empty Go build cache takes on two cores.
	Takes string

	folder  string // under hack/build
	module  string // whose version is the program's
	pkg     string
	ldflags func(version string) string
}

// The programs of the control plane and of the mesh.
var (
	Etcd = Program{
		Name: "etcd", Takes: "30 s", folder: "etcd", module: "go.etcd.io/etcd/server/v3",
		pkg: "go.etcd.io/etcd/server/v3", ldflags: stripped,
	}
	APIServer = Program{
		Name: "kube-apiserver", Takes: "4 min", folder: "kubernetes", module: "k8s.io/kubernetes",
		pkg: "k8s.io/kubernetes/cmd/kube-apiserver", ldflags: kubernetesVersion,
	}
	ControllerManager = Program{
		Name: "kube-controller-manager", Takes: "75 s", folder: "kubernetes", module: "k8s.io/kubernetes",
		pkg: "k8s.io/kubernetes/cmd/kube-controller-manager", ldflags: kubernetesVersion,
	}
	Kubectl = Program{
		Name: "kubectl", Takes: "20 s", folder: "kubernetes", module: "k8s.io/kubernetes",
		pkg: "k8s.io/kubernetes/cmd/kubectl", ldflags: kubernetesVersion,
	}
	Istiod = Program{
		Name: "pilot-discovery", Takes: "4 min", folder: "istio", module: "istio.io/istio",
		pkg: "istio.io/istio/pilot/cmd/pilot-discovery", ldflags: stripped,
	}
	PilotAgent = Program{
		Name: "pilot-agent", Takes: "20 s", folder: "istio", module: "istio.io/istio",
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

// Path returns the program's path, building it first when this machine has
// not got it yet. It says on log what it builds and how long that took.
// Concurrent calls, also of other processes, build one after the other.
func (p Program) Path(ctx context.Context, log io.Writer) (string, error) {
	folder, err := buildFolder(p.folder)
	if err != nil {
		return "", err
	}
	version, err := requiredVersion(filepath.Join(folder, "go.mod"), p.module)
	if err != nil {
		return "", err
	}
	key, err := keyOf([]string{filepath.Join(folder, "go.mod"), filepath.Join(folder, "go.sum")},
		p.pkg, p.ldflags(version), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if err != nil {
		return "", err
	}
	title := fmt.Sprintf("building %s %s (about %s the first time)", p.Name, version, p.Takes)
	return cached(ctx, log, p.Name, key, title, func(target string) error {
		return goBuild(ctx, folder, target, p.pkg, p.ldflags(version))
	})
}

func goBuild(ctx context.Context, folder, target, pkg, ldflags string) error {
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", ldflags, "-o", target, pkg)
	build.Dir = folder
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off")
	return run(build)
}

// run runs a command and, when it fails, says what it printed.
func run(command *exec.Cmd) error {
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("running %s: %w\n%s", strings.Join(command.Args, " "), err, output)
	}
	return nil
}

// IstioFile returns the path of a file in the source of the Istio that Istiod
// and PilotAgent are built from.
func IstioFile(ctx context.Context, path string) (string, error) {
	folder, err := buildFolder("istio")
	if err != nil {
		return "", err
	}
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "istio.io/istio")
	list.Dir = folder
	list.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off")
	source, err := list.Output()
	if err != nil {
		return "", fmt.Errorf("locating the source of Istio: %w", err)
	}
	if len(strings.TrimSpace(string(source))) == 0 {
		return "", errors.New("locating the source of Istio: not downloaded; build pilot-discovery first")
	}
	return filepath.Join(strings.TrimSpace(string(source)), path), nil
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

// RepositoryRoot is the nearest folder, from the working directory upwards,
// that holds hack/build.
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

// keyOf hashes files and words into a name for what is made of them.
func keyOf(files []string, words ...string) (string, error) {
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

// Folder is where built programs are kept: bin below the project's folder in
// the user's cache folder. It may be removed at any time.
func Folder() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache folder: %w", err)
	}
	return filepath.Join(cache, "wasme-operator", "bin"), nil
}

// cached returns the path of name under key, calling provide to write it when
// it is not there. provide writes aside; the rename makes the result appear whole.
func cached(ctx context.Context, log io.Writer, name, key, title string, provide func(target string) error) (string, error) {
	bin, err := Folder()
	if err != nil {
		return "", err
	}
	path := filepath.Join(bin, key, name)
	if present(path) {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("preparing the cache for %s: %w", name, err)
	}
	// One lock for all: each build uses every core.
	unlock, err := lock(ctx, log, filepath.Join(bin, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if present(path) {
		return path, nil
	}
	fmt.Fprintln(log, title)
	start := time.Now()
	aside := path + ".new"
	defer os.Remove(aside)
	if err := provide(aside); err != nil {
		return "", fmt.Errorf("%s: %w", title, err)
	}
	if err := os.Chmod(aside, 0o755); err != nil {
		return "", fmt.Errorf("making %s executable: %w", name, err)
	}
	if err := os.Rename(aside, path); err != nil {
		return "", fmt.Errorf("keeping %s: %w", name, err)
	}
	fmt.Fprintf(log, "%s is ready after %s\n", name, time.Since(start).Round(time.Second/10))
	return path, nil
}

func present(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// lock takes a file's lock, waiting for other processes that build.
func lock(ctx context.Context, log io.Writer, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the build lock: %w", err)
	}
	waiting := false
	err = wait.PollUntilContextCancel(ctx, 200*time.Millisecond, true, func(context.Context) (bool, error) {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			if !waiting {
				fmt.Fprintln(log, "waiting for another build to end")
			}
			waiting = true
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("taking the build lock %s: %w", path, err), file.Close())
	}
	return func() { _ = file.Close() }, nil // closing gives the lock back; nothing was written
}

// Own builds a package of this repository, such as ./test/mesh/cmd/meshpart,
// to target. It is built each time: Go's build cache makes that quick, and it
// is never out of date.
func Own(ctx context.Context, pkg, target string) error {
	return own(ctx, pkg, target)
}

func own(ctx context.Context, pkg, target string, flags ...string) error {
	root, err := RepositoryRoot()
	if err != nil {
		return err
	}
	arguments := append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", target}, flags...)
	build := exec.CommandContext(ctx, "go", append(arguments, pkg)...)
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	return run(build)
}
