package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/wasme-io/wasme-operator/internal/cli"
	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

// installedEnvoy returns the path of an Envoy, and gives the user a home of their own.
func installedEnvoy(t *testing.T) string {
	t.Helper()
	path, err := binaries.Envoy(t.Context(), os.Stderr, "")
	moduletest.Must(t, err)
	atHome(t)
	t.Setenv("TMPDIR", t.TempDir())
	return path
}

func TestRunShowsWhatAFilterDoesToARequest(t *testing.T) {
	envoy := installedEnvoy(t)
	filter := write(t, "filter.wasm", moduletest.AddingRequestHeader("x-added", "yes"))
	got := wasme(t, "run", filter, "--envoy", envoy, "--request", "PUT /a?b=c", "--request", "GET /", "-H", "x-user: me", "-d", "body")
	if got.code != 0 || got.err != "" {
		t.Fatalf("%d, %s", got.code, got.err)
	}
	for _, part := range []string{
		"PUT /a?b=c: 200\n  the upstream got\n    + x-added: yes\n      :method: PUT\n", "      x-user: me\n",
		"    body: 4 bytes\n      body\n", `"path": "/a?b=c"`, "\n  log info: yes\n\nGET /: 200\n",
	} {
		if !strings.Contains(got.out, part) {
			t.Errorf("%q is not in\n%s", part, got.out)
		}
	}
	if strings.Contains(got.out, "    - ") {
		t.Errorf("the filter removes nothing, and it shows\n%s", got.out)
	}
	wantNoFiles(t)
}

func TestRunExitsWithTheFiltersFailure(t *testing.T) {
	envoy := installedEnvoy(t)
	crashing := write(t, "filter.wasm", moduletest.Crashing())
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	moduletest.Must(t, err)
	defer taken.Close()
	port := fmt.Sprint(taken.Addr().(*net.TCPAddr).Port)
	for name, row := range map[string]struct {
		args []string
		code int
		want string
	}{
		"a crash":                      {[]string{crashing, "--request", "GET /"}, 3, "Error: the filter failed in 1 of 1 requests\n"},
		"a refusal":                    {[]string{write(t, "filter.wasm", moduletest.Refusing("not today"))}, 3, "Error: Envoy refuses the module: not today;"},
		"a port that is taken":         {[]string{crashing, "--port", port}, 1, "Address already in use: choose another --port\n"},
		"an unknown argument":          {[]string{crashing, "--envoy-run-args", "--concurrency 1", "--envoy-run-args", "--no-such"}, 1, "--no-such"},
		"an Envoy that does not exist": {[]string{crashing, "--envoy", "/nowhere"}, 1, "--envoy"},
	} {
		t.Run(name, func(t *testing.T) {
			got := wasme(t, append([]string{"run", "--envoy", envoy}, row.args...)...)
			if got.code != row.code || !strings.Contains(got.err, row.want) {
				t.Errorf("%d, %s, want %d, %q", got.code, got.err, row.code, row.want)
			}
			wantNoFiles(t)
		})
	}
}

// wantNoFiles fails if files are left in the folder for such.
func wantNoFiles(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(os.TempDir())
	moduletest.Must(t, err)
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "wasme-run-") {
			t.Errorf("%s is left", entry.Name())
		}
	}
}

func TestRunRefusesFlagsThatDoNotGoTogether(t *testing.T) {
	atHome(t)
	filter := write(t, "filter.wasm", quiet)
	for want, args := range map[string][]string{
		"--bootstrap has listeners":     {filter, "--bootstrap", "x", "--port", "1"},
		"leave --port and --upstream":   {filter, "-b", "x", "--upstream", "http://x"},
		"leave --watch, --request":      {filter, "--out", "-", "--watch"},
		"add --request":                 {filter, "-H", "a: b"},
		"example.com/x:v1 is neither":   {"example.com/x:v1", "--watch"},
		"--log-level \"loud\"":          {filter, "--log-level", "loud"},
		"--port 70000 is not a port":    {filter, "--port", "70000"},
		"--upstream \"x\" is not a URL": {filter, "--upstream", "x"},
		"the request \"GET\" has":       {filter, "--request", "GET"},
		"the header \"x\" has":          {filter, "--request", "GET /", "-H", "x"},
	} {
		if got := wasme(t, append([]string{"run"}, args...)...); got.code != 2 || !strings.Contains(got.err, want) {
			t.Errorf("%q: %d, %s, want 2, %q", args, got.code, got.err, want)
		}
	}
}

const bootstrap = `static_resources:
  listeners:
  - name: web
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: mine}}}]}]}
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
`

func TestRunPutsTheFilterIntoABootstrap(t *testing.T) {
	envoy := installedEnvoy(t)
	filter := write(t, "filter.wasm", moduletest.Greeting("me"))
	got := wasmeWith(t, bootstrap, "deploy", "envoy", filter, "--envoy", envoy, "--bootstrap", "-", "-e", "docker.io/istio/proxyv2:1.5.1", "--request", "GET /")
	if got.code != 0 || !strings.Contains(got.out, "      hello: me\n") || !strings.Contains(got.out, "    body: 4 bytes\n      mine\n") {
		t.Errorf("%d\n%s%s", got.code, got.out, got.err)
	}
	if want := "note: --envoy-image does nothing: an Envoy on this machine is used\n"; got.err != want {
		t.Errorf("stderr is %q, want %q", got.err, want)
	}
}

func TestEnvoyTakesTheConfigurationOfOut(t *testing.T) {
	envoy := installedEnvoy(t)
	filter := write(t, "filter.wasm", moduletest.Greeting("me"))
	folder := project(t, moduletest.Greeting("me"))
	own := write(t, "envoy.yaml", []byte(bootstrap))
	home, err := os.UserHomeDir()
	moduletest.Must(t, err)
	for name, row := range map[string]struct {
		file  string
		args  []string
		parts []string
	}{
		"its own":          {"out.yaml", []string{filter}, []string{"filename: " + filter, "port_value: 8080"}},
		"a folder's":       {"out.yaml", []string{folder, "--port", "1234", "--config", "x"}, []string{"filename: " + home, "root_id: root", "value: x", "port_value: 1234"}},
		"the user's":       {"out.yml", []string{filter, "-b", own}, []string{"filename: " + filter, "inline_string: mine"}},
		"the user's, JSON": {"out.json", []string{filter, "-b", own}, []string{`"filename":"` + filter, `"inline_string":"mine"`}},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), row.file)
			done(t, append([]string{"run", "--out", file}, row.args...)...)
			content, err := os.ReadFile(file)
			moduletest.Must(t, err)
			for _, part := range row.parts {
				if !strings.Contains(string(content), part) {
					t.Errorf("%q is not in\n%s", part, content)
				}
			}
			moduletest.Must(t, binaries.Run(exec.CommandContext(t.Context(), envoy, "--mode", "validate", "-c", file)))
		})
	}
	if got := done(t, "run", filter, "--out", "-"); !strings.Contains(got, "filename: "+filter) {
		t.Errorf("standard output is %s", got)
	}
}

// screen is what a command that runs prints.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(content []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(content)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// session is a wasme that runs until Ctrl-C.
type session struct {
	out, err screen
	ctrlC    context.CancelFunc
	code     chan int
}

func begin(t *testing.T, args ...string) *session {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	s := &session{ctrlC: stop, code: make(chan int, 1)}
	go func() {
		s.code <- cli.Run(ctx, args, genericiooptions.IOStreams{In: strings.NewReader(""), Out: &s.out, ErrOut: &s.err})
	}()
	t.Cleanup(stop)
	return s
}

// until waits until a condition holds.
func (s *session) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, 3*time.Minute, true, func(context.Context) (bool, error) {
		if len(s.code) > 0 {
			return false, fmt.Errorf("wasme has ended: %s%s", s.out.String(), s.err.String())
		}
		return holds(), nil
	})
	if err != nil {
		t.Fatalf("%s: %v: %s", what, err, s.err.String())
	}
}

// url waits until wasme says where the filter runs.
func (s *session) url(t *testing.T) string {
	t.Helper()
	s.until(t, "the filter runs", func() bool {
		return strings.Contains(s.out.String(), "\nhttp://") || strings.HasPrefix(s.out.String(), "http://")
	})
	all := strings.TrimSpace(s.out.String())
	return all[strings.LastIndex(all, "\n")+1:]
}

// end presses Ctrl-C.
func (s *session) end(t *testing.T) {
	t.Helper()
	s.ctrlC()
	if code := <-s.code; code != 130 {
		t.Errorf("the exit code is %d, want 130: %s", code, s.err.String())
	}
	wantNoFiles(t)
}

// greetingOf sends a request, and returns the header hello, or what went wrong.
func greetingOf(address string) string {
	response, err := http.Get(address)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != http.StatusOK {
		return fmt.Sprintf("%d, %v", response.StatusCode, err)
	}
	return response.Header.Get("hello")
}

func TestRunWatchesAFile(t *testing.T) {
	envoy := installedEnvoy(t)
	filter := write(t, "filter.wasm", moduletest.Greeting("first"))
	s := begin(t, "run", filter, "--envoy", envoy, "--watch", "--log-level", "error")
	url := s.url(t)
	stop := make(chan struct{})
	var failed []string
	var client sync.WaitGroup
	client.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if got := greetingOf(url); got != "first" && got != "second" && got != "third" {
				failed = append(failed, got)
			}
		}
	})
	replace := func(module []byte) {
		moduletest.Must(t, os.WriteFile(filter+".new", module, 0o600))
		moduletest.Must(t, os.Rename(filter+".new", filter))
	}
	replace(moduletest.Greeting("second"))
	s.until(t, "the new filter runs", func() bool { return greetingOf(url) == "second" })
	replace([]byte("no module"))
	s.until(t, "the broken file is shown", func() bool {
		return strings.Contains(s.err.String(), "is not a Wasm module")
	})
	replace(moduletest.Refusing("not today"))
	s.until(t, "the refusal is shown", func() bool { return strings.Contains(s.err.String(), "Envoy refuses the module: not today") })
	if got := greetingOf(url); got != "second" {
		t.Errorf("after the refusal hello is %q", got)
	}
	moduletest.Must(t, os.WriteFile(filter, moduletest.Greeting("third"), 0o600))
	s.until(t, "the third filter runs", func() bool { return greetingOf(url) == "third" })
	close(stop)
	client.Wait()
	if len(failed) > 0 {
		t.Errorf("requests failed: %q", failed)
	}
	s.end(t)
	if got := greetingOf(url); !strings.Contains(got, "refused") {
		t.Errorf("after Ctrl-C somebody answers: %q", got)
	}
}

func TestRunRebuildsAProject(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a module of Go several times")
	}
	caches, err := exec.CommandContext(t.Context(), "go", "env", "GOCACHE", "GOMODCACHE").Output()
	moduletest.Must(t, err)
	gocache, modcache, _ := strings.Cut(strings.TrimSpace(string(caches)), "\n")
	envoy := installedEnvoy(t)
	t.Setenv("GOCACHE", gocache)
	t.Setenv("GOMODCACHE", modcache)
	folder := filepath.Join(t.TempDir(), "hello")
	done(t, "init", folder, "--language", "go", "--platform", "istio")
	s := begin(t, "run", folder, "--envoy", envoy, "--watch", "--request", "GET /")
	url := s.url(t)
	source := filepath.Join(folder, "main.go")
	content, err := os.ReadFile(source)
	moduletest.Must(t, err)
	moduletest.Must(t, os.WriteFile(source, []byte("broken"), 0o600))
	s.until(t, "the compiler's error is shown", func() bool { return strings.Contains(s.err.String(), "The former filter keeps running: ") })
	if got := greetingOf(url); got != "world" {
		t.Errorf("hello is %q", got)
	}
	moduletest.Must(t, os.WriteFile(source, content, 0o600))
	s.until(t, "the former source builds again", func() bool { return strings.Contains(s.err.String(), "The filter is the same as before.") })
	moduletest.Must(t, os.WriteFile(source, bytes.ReplaceAll(content, []byte(`"world"`), []byte(`"changed"`)), 0o600))
	s.until(t, "the requests are sent again", func() bool { return strings.Contains(s.out.String(), "+ hello: changed\n") })
	t.Log(s.err.String())
	s.end(t)
}
