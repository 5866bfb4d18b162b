package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/wasme-io/wasme-operator/internal/cli"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/oci"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

// ran is what a command printed, and its exit code.
type ran struct {
	out, err string
	code     int
}

// wasme runs a command.
func wasme(t *testing.T, args ...string) ran {
	t.Helper()
	return wasmeWith(t, "", args...)
}

// wasmeWith runs a command with that standard input.
func wasmeWith(t *testing.T, in string, args ...string) ran {
	t.Helper()
	var out, errOut bytes.Buffer
	code := cli.Run(t.Context(), args, genericiooptions.IOStreams{In: strings.NewReader(in), Out: &out, ErrOut: &errOut})
	return ran{out.String(), errOut.String(), code}
}

// done runs a command that must succeed, and returns its standard output.
func done(t *testing.T, args ...string) string {
	t.Helper()
	r := wasme(t, args...)
	if r.code != 0 {
		t.Fatalf("wasme %s: %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// atHome gives the user a home of their own, without a store and credentials.
func atHome(t *testing.T) {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("DOCKER_CONFIG", filepath.Join(home, ".docker"))
	t.Setenv("KUBECONFIG", filepath.Join(home, "none"))
}

// write writes a file into a folder of its own and returns its path.
func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	moduletest.Must(t, os.WriteFile(path, content, 0o600))
	return path
}

// quiet is a module that does nothing.
var quiet = moduletest.Assembly{}.Assemble()

// project returns a folder with a module, a runtime configuration and tests.
func project(t *testing.T, wasm []byte) string {
	t.Helper()
	dir := filepath.Dir(write(t, "filter.wasm", wasm))
	moduletest.Must(t, os.WriteFile(filepath.Join(dir, "runtime-config.json"), moduletest.RuntimeConfig("root"), 0o600))
	moduletest.Must(t, os.WriteFile(filepath.Join(dir, "preflight-tests.yaml"), []byte(goodTests), 0o600))
	return dir
}

const goodTests = `test:
- name: leaves the response alone
  response_headers:
    input: {header: [{key: ":status", value: "200"}]}
    result: {has_header: [{key: ":status", value: "200"}], no_header: [{key: hello}]}
`

func TestAnImageGoesFromAFolderToARegistryAndBack(t *testing.T) {
	for _, form := range []string{"wasme", "compat", "cncf"} {
		t.Run(form, func(t *testing.T) {
			atHome(t)
			r := moduletest.StartRegistry(t)
			ref := r.Host() + "/filters/hello:v1"
			digest := done(t, "build", "precompiled", project(t, quiet), "-t", ref, "--format", form)
			if again := done(t, "build", "precompiled", project(t, quiet), "-t", ref, "--format", form); again != digest {
				t.Errorf("the same module gave %s and %s", digest, again)
			}
			done(t, "tag", ref, r.Host()+"/filters/hello:v2")
			if pushed := done(t, "push", r.Host()+"/filters/hello:v2"); pushed != digest {
				t.Errorf("pushed as %s, not %s", pushed, digest)
			}
			atHome(t)
			if pulled := done(t, "pull", r.Host()+"/filters/hello:v2"); pulled != digest {
				t.Errorf("pulled as %s, not %s", pulled, digest)
			}
			list := done(t, "list")
			if !strings.HasPrefix(list, "NAME ") || !strings.Contains(list, r.Host()+"/filters/hello ") || !strings.Contains(list, digest[len("sha256:"):len("sha256:")+8]) {
				t.Error(list)
			}
			var shown struct {
				Form, SHA256, Digest, Tests string
				RootIDs                     []string
				Preflight                   struct{ Reason string }
			}
			moduletest.Must(t, json.Unmarshal([]byte(done(t, "inspect", r.Host()+"/filters/hello:v2", "-o", "json")), &shown))
			if shown.Form != form || shown.SHA256 != moduletest.SHA256(quiet) || shown.Digest != strings.TrimSpace(digest) || shown.Preflight.Reason != "Preflighted" {
				t.Errorf("%+v", shown)
			}
			if whole := form != "cncf"; whole != slices.Equal(shown.RootIDs, []string{"root"}) || whole != (shown.Tests == "preflight-tests.yaml") {
				t.Errorf("%+v", shown)
			}
		})
	}
}

func TestWhichFormsPilotAgentTakes(t *testing.T) {
	for form, refused := range map[string]string{
		"wasme": "", "compat": "", "cncf": "its module is not of the type application/vnd.module.wasm.content.layer.v1+wasm",
	} {
		atHome(t)
		done(t, "build", "precompiled", write(t, "filter.wasm", quiet), "-t", "registry.example.com/hello:v1", "--format", form)
		archive := filepath.Join(t.TempDir(), "saved.tar")
		done(t, "save", "registry.example.com/hello:v1", "-o", archive)
		if got := agentRefuses(t, archive); got != refused {
			t.Errorf("%s: %q", form, got)
		}
	}
}

func TestImagesGoThroughAnArchive(t *testing.T) {
	atHome(t)
	const ref = "registry.example.com/filters/hello:v1"
	digest := done(t, "build", "precompiled", write(t, "filter.wasm", quiet), "-t", ref)
	saved := done(t, "save", ref)
	atHome(t)
	loaded := wasmeWith(t, saved, "load")
	if loaded.code != 0 || loaded.out != ref+"\n" {
		t.Errorf("%+v", loaded)
	}
	if list := done(t, "list", "-o", "json"); !strings.Contains(list, strings.TrimSpace(digest)) {
		t.Error(list)
	}
}

func TestAPushSendsWhatTheRegistryLacks(t *testing.T) {
	atHome(t)
	r := moduletest.StartRegistry(t)
	ref := r.Host() + "/filters/hello:v1"
	done(t, "build", "precompiled", write(t, "filter.wasm", quiet), "-t", ref)
	done(t, "push", ref)
	r.ResetRequests()
	done(t, "push", ref)
	if uploads := r.Requests("POST", "/v2/filters/hello/blobs/uploads/"); uploads != 0 {
		t.Errorf("%d uploads of layers that were there", uploads)
	}
}

func TestPublishedImagesAreListed(t *testing.T) {
	atHome(t)
	r := moduletest.StartRegistry(t)
	moduletest.Push(t, r, "filters/hello:v1", moduletest.FormOf(t, registry.WasmeArtifact, quiet))
	moduletest.Push(t, r, "filters/other:v1", moduletest.FormOf(t, registry.CompatOCI, quiet))
	r.ResetRequests()
	list := done(t, "list", "--published", "--server", r.Host(), "--search", "hello")
	if !strings.Contains(list, "/filters/hello") || strings.Contains(list, "/filters/other") {
		t.Error(list)
	}
	if asked := r.Requests("", "/v2/filters/other/tags/list"); asked != 0 {
		t.Errorf("%d requests about what is not looked for", asked)
	}
	r.Inject(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/v2/filters/hello/tags/list" { // as after its images were deleted
				next = registry.Status(http.StatusNotFound)(next)
			}
			next.ServeHTTP(w, req)
		})
	})
	if list := done(t, "list", "--published", "--server", r.Host()); strings.Contains(list, "/filters/hello") || !strings.Contains(list, "/filters/other") {
		t.Error(list)
	}
}

func TestAnImageIsFoundInTheStoreOfTheFlag(t *testing.T) {
	atHome(t)
	const ref = "registry.example.com/hello:v1"
	store := t.TempDir()
	done(t, "build", "precompiled", write(t, "filter.wasm", quiet), "-t", ref, "--store", store)
	done(t, "test", ref, "--store", store)
	done(t, "bench", ref, "--store", store)
	done(t, "run", ref, "--store", store, "--out", "-")
	done(t, "deploy", "envoy", ref, "--store", store, "--out", "-")
}

func TestFlagsThatDoNothingAreAccepted(t *testing.T) {
	atHome(t)
	wasm := write(t, "filter.wasm", quiet)
	for says, args := range map[string][]string{
		"note: --image does nothing: the module is built already": {"build", "precompiled", wasm, "-t", "registry.example.com/hello:v1", "-i", "builder", "--tmp-dir", t.TempDir()},
		"note: --id does nothing any more":                        {"deploy", "envoy", wasm, "--id", "hello", "--out", "-"},
		"note: --docker-run-args does nothing any more":           {"deploy", "envoy", wasm, "--docker-run-args", "-it", "--out", "-"},
		"note: --envoy-image does nothing":                        {"deploy", "envoy", wasm, "-e", "istio/proxyv2", "--out", "-"},
	} {
		if got := wasme(t, args...); got.code != 0 || !strings.Contains(got.err, says) {
			t.Errorf("%q: %d, %s, want %q", args, got.code, got.err, says)
		}
	}
}

func TestAPasswordThatNobodyWritesEndsWithAnInterruption(t *testing.T) {
	atHome(t)
	in, _ := io.Pipe()
	ctx, interrupt := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() {
		code <- cli.Run(ctx, []string{"login", "-s", "127.0.0.1:1", "-u", "user", "--password-stdin"}, genericiooptions.IOStreams{In: in, Out: io.Discard, ErrOut: io.Discard})
	}()
	interrupt()
	if got := <-code; got != 130 {
		t.Errorf("exit code %d", got)
	}
}

func TestAnInterruptionOfThePasswordRestoresTheTerminal(t *testing.T) {
	atHome(t)
	_, terminal := openTerminal(t)
	before := echoes(t, terminal)
	ctx, interrupt := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() {
		code <- cli.Run(ctx, []string{"login", "-s", "127.0.0.1:1", "-u", "user"}, genericiooptions.IOStreams{In: terminal, Out: io.Discard, ErrOut: io.Discard})
	}()
	moduletest.Must(t, wait.PollUntilContextTimeout(t.Context(), time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		return !echoes(t, terminal), nil
	}))
	interrupt()
	if got := <-code; got != 130 {
		t.Errorf("exit code %d", got)
	}
	if !before || !echoes(t, terminal) {
		t.Error("the terminal does not show what is typed")
	}
}

// echoes reports whether a terminal shows what is typed.
func echoes(t *testing.T, terminal *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	moduletest.Must(t, err)
	return state.Lflag&unix.ECHO != 0
}

func TestALoginIsCheckedAndUsed(t *testing.T) {
	atHome(t)
	r, err := registry.Start(registry.WithBasicAuth(map[string]string{"user": "right"}))
	moduletest.Must(t, err)
	t.Cleanup(r.Close)
	ref := r.Host() + "/filters/hello:v1"
	done(t, "build", "precompiled", write(t, "filter.wasm", quiet), "-t", ref)
	for _, c := range []struct {
		in   string
		args []string
		code int
		says string
	}{
		{"", []string{"push", ref}, 1, "the registry requires a login, or rejected the credentials: run wasme login -s " + r.Host() + ", or set --username"},
		{"wrong\n", []string{"login", "-s", r.Host(), "-u", "user", "--password-stdin"}, 1, "the registry rejected the user or the password: check both"},
		{"", []string{"push", ref}, 1, "run wasme login"},
		{"", []string{"login", "-s", r.Host(), "-u", "user"}, 2, "set --password-stdin"},
		{"", []string{"login", "-s", r.Host(), "-p", "right"}, 2, "set --username"},
		{"right\n", []string{"login", "-s", r.Host(), "-u", "user", "--password-stdin"}, 0, "logged in to " + r.Host()},
		{"", []string{"push", ref}, 0, ""},
		{"", []string{"logout", "-s", r.Host()}, 0, "logged out"},
		{"", []string{"push", ref}, 1, "run wasme login"},
		{"", []string{"push", ref, "-u", "user", "-p", "right"}, 0, ""},
		{"right", []string{"push", ref, "-u", "user", "--password-stdin"}, 0, ""},
	} {
		got := wasmeWith(t, c.in, c.args...)
		if got.code != c.code || !strings.Contains(got.err, c.says) {
			t.Errorf("wasme %q: %d, %s", c.args, got.code, got.err)
		}
		if strings.Contains(got.err+got.out, "right") {
			t.Errorf("wasme %q prints the password", c.args)
		}
	}
}

func TestACertificateIsCheckedUnlessTheUserSaysOtherwise(t *testing.T) {
	atHome(t)
	r, err := registry.Start(registry.WithTLS())
	moduletest.Must(t, err)
	t.Cleanup(r.Close)
	ref := r.Host() + "/filters/hello:v1"
	done(t, "build", "precompiled", write(t, "filter.wasm", quiet), "-t", ref)
	if got := wasme(t, "push", ref); got.code != 1 || !strings.Contains(got.err, "or set --insecure") {
		t.Errorf("%+v", got)
	}
	done(t, "push", ref, "--insecure")
}

func TestBadInputNamesTheFix(t *testing.T) {
	atHome(t)
	r := moduletest.StartRegistry(t)
	locked, err := registry.Start(registry.WithBasicAuth(map[string]string{"user": "right"}))
	moduletest.Must(t, err)
	t.Cleanup(locked.Close)
	encrypted, err := registry.Start(registry.WithTLS())
	moduletest.Must(t, err)
	t.Cleanup(encrypted.Close)
	wasm := write(t, "filter.wasm", quiet)
	const ref = "registry.example.com/hello:v1"
	many := project(t, quiet)
	moduletest.Must(t, os.WriteFile(filepath.Join(many, "other.wasm"), quiet, 0o600))
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no registry":                {[]string{"build", "precompiled", wasm, "-t", "hello:v1"}, 2, `the image "hello:v1" has no registry: write it as REGISTRY/REPOSITORY:TAG`},
		"no tag":                     {[]string{"build", "precompiled", wasm, "-t", "registry.example.com/hello"}, 2, "has no tag"},
		"no name":                    {[]string{"build", "precompiled", wasm}, 2, "set --tag"},
		"a digest to write to":       {[]string{"build", "precompiled", wasm, "-t", "registry.example.com/hello@sha256:" + moduletest.SHA256("x")}, 2, "give it a tag"},
		"not a name":                 {[]string{"pull", "registry.example.com/Hello:v1"}, 2, "is not the name of an image"},
		"an unknown language":        {[]string{"build", "cobol", ".", "-t", ref}, 2, "precompiled"},
		"an unknown form":            {[]string{"build", "precompiled", wasm, "-t", ref, "--format", "zip"}, 2, "use one of wasme, compat, cncf"},
		"no Wasm":                    {[]string{"build", "precompiled", write(t, "filter.wasm", []byte("text")), "-t", ref}, 1, "is not a Wasm module"},
		"not for proxies":            {[]string{"build", "precompiled", write(t, "filter.wasm", moduletest.WithExports(moduletest.Export("main"))), "-t", ref}, 1, "proxy-wasm"},
		"a broken runtime config":    {[]string{"build", "precompiled", wasm, "-t", ref, "-c", write(t, "runtime-config.json", []byte("{"))}, 1, "is not the JSON of a runtime configuration"},
		"another runtime":            {[]string{"build", "precompiled", wasm, "-t", ref, "-c", write(t, "runtime-config.json", []byte(`{"type":"nginx"}`))}, 1, `its type is "nginx": set it to "envoy_proxy"`},
		"no runtime config":          {[]string{"build", "precompiled", wasm, "-t", ref, "-c", "/none.json"}, 1, "/none.json"},
		"several modules":            {[]string{"build", "precompiled", many, "-t", ref}, 1, ".wasm"},
		"not in the store":           {[]string{"push", "registry.example.com/none:v1"}, 1, "is not in the local store: build it with wasme build"},
		"not in the store, to tag":   {[]string{"tag", "registry.example.com/none:v1", ref}, 1, "or run wasme pull; wasme list shows what there is"},
		"not at the registry":        {[]string{"pull", r.Host() + "/none:v1"}, 1, "has no such image"},
		"no registry at the address": {[]string{"pull", "127.0.0.1:1/none:v1"}, 1, "connection refused: check the registry's name and your network"},
		"a test without a login":     {[]string{"test", locked.Host() + "/hello:v1"}, 1, "run wasme login -s " + locked.Host() + "\n"},
		"a test over TLS":            {[]string{"test", encrypted.Host() + "/hello:v1"}, 1, "or set --insecure"},
		"neither project nor module": {[]string{"test", write(t, "filter.bin", quiet)}, 1, "it is neither a folder nor a *.wasm file: name one of them"},
		"no server":                  {[]string{"login", "-u", "user"}, 2, "set --server"},
		"published where":            {[]string{"list", "--published"}, 2, "set --server"},
		"an unknown output":          {[]string{"list", "-o", "xml"}, 2, "use one of json, yaml, wide"},
		"an unknown flag":            {[]string{"list", "--colour"}, 2, "see wasme list --help"},
		"an unknown command":         {[]string{"lst"}, 2, "list"},
		"an argument too many":       {[]string{"list", "x"}, 2, "see wasme list --help"},
		"no such archive":            {[]string{"load", "-i", "/none.tar"}, 1, "/none.tar"},
	} {
		t.Run(name, func(t *testing.T) {
			got := wasme(t, c.args...)
			if got.code != c.code || !strings.Contains(got.err, c.says) || got.out != "" {
				t.Errorf("%d\n%s%s", got.code, got.out, got.err)
			}
		})
	}
}

func TestDamageHidesNoOtherImage(t *testing.T) {
	atHome(t)
	done(t, "build", "precompiled", write(t, "filter.wasm", quiet), "-t", "registry.example.com/good:v1")
	digest := done(t, "build", "precompiled", write(t, "filter.wasm", hello), "-t", "registry.example.com/bad:v1")
	home, err := os.UserHomeDir()
	moduletest.Must(t, err)
	manifest := filepath.Join(home, ".wasme", "store", "blobs", "sha256", strings.TrimSpace(strings.TrimPrefix(digest, "sha256:")))
	moduletest.Must(t, os.Remove(manifest))
	got := wasme(t, "list")
	if got.code != 1 || !strings.Contains(got.out, "registry.example.com/good") || !strings.Contains(got.err, "damaged at registry.example.com/bad:v1") || !strings.Contains(got.err, "pull or build the image again") {
		t.Errorf("%+v", got)
	}
	done(t, "build", "precompiled", write(t, "filter.wasm", hello), "-t", "registry.example.com/bad:v1")
	if list := done(t, "list"); !strings.Contains(list, "registry.example.com/bad") {
		t.Error(list)
	}
}

func TestASaveThatFailsKeepsTheFormerArchive(t *testing.T) {
	atHome(t)
	former := write(t, "saved.tar", []byte("former"))
	if got := wasme(t, "save", "registry.example.com/none:v1", "-o", former); got.code != 1 || !strings.Contains(got.err, "is not in the local store") {
		t.Errorf("%+v", got)
	}
	content, err := os.ReadFile(former)
	if err != nil || string(content) != "former" {
		t.Errorf("%q, %v", content, err)
	}
	moduletest.WantFiles(t, filepath.Dir(former), "saved.tar")
	done(t, "build", "precompiled", write(t, "filter.wasm", quiet), "-t", "registry.example.com/hello:v1")
	if got := wasme(t, "save", "registry.example.com/hello:v1", "-o", os.DevNull); got.code != 1 || !strings.Contains(got.err, "it is not a file: name another one") {
		t.Errorf("%+v", got)
	}
}

func TestAFullDiskIsTold(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("only Linux has /dev/full")
	}
	atHome(t)
	const ref = "registry.example.com/hello:v1"
	done(t, "build", "precompiled", write(t, "filter.wasm", quiet), "-t", ref)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	moduletest.Must(t, err)
	defer full.Close()
	var errOut bytes.Buffer
	code := cli.Run(t.Context(), []string{"save", ref}, genericiooptions.IOStreams{In: strings.NewReader(""), Out: full, ErrOut: &errOut})
	if code != 1 || !strings.Contains(errOut.String(), "no space left on device") {
		t.Errorf("%d: %s", code, errOut.String())
	}
}

func TestAnInterruptedCommandSaysSoByItsCode(t *testing.T) {
	atHome(t)
	r := moduletest.StartRegistry(t)
	ref := moduletest.Push(t, r, "filters/hello:v1", moduletest.FormOf(t, registry.WasmeArtifact, quiet))
	release := make(chan struct{})
	defer close(release)
	r.Inject(registry.Hold(release))
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int)
	go func() {
		code <- cli.Run(ctx, []string{"pull", ref}, genericiooptions.IOStreams{In: strings.NewReader(""), Out: &bytes.Buffer{}, ErrOut: &bytes.Buffer{}})
	}()
	cancel()
	if got := <-code; got != 130 {
		t.Errorf("exit code %d", got)
	}
	if list := done(t, "list", "-o", "json"); list != "[]\n" {
		t.Error(list)
	}
}

// agentRefuses returns what the operator says pilot-agent has against the only image of an
// archive.
func agentRefuses(t *testing.T, archive string) string {
	t.Helper()
	layout := unpackLayout(t, archive)
	manifest, err := oci.ParseManifest(layout.manifest)
	moduletest.Must(t, err)
	contents, err := oci.NewUnpacker(module.DefaultLimits).Unpack(manifest, layout.blob, &bytes.Buffer{})
	moduletest.Must(t, err)
	return contents.AgentRefuses
}
