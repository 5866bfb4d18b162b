package envoy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

// patience bounds what takes a busy machine a moment.
const patience = 2 * time.Minute

// installed returns the path of an Envoy.
func installed(t *testing.T) string {
	t.Helper()
	path, err := binaries.Envoy(t.Context(), os.Stderr, "")
	must(t, err)
	return path
}

// start starts an Envoy that ends with the test.
func start(t *testing.T, setup Setup) *Envoy {
	t.Helper()
	setup.Path = installed(t)
	e, err := Start(t.Context(), setup)
	must(t, err)
	t.Cleanup(func() { must(t, e.Close()) })
	return e
}

// get sends a request, and returns the response with its body.
func get(t *testing.T, address string) (*http.Response, string) {
	t.Helper()
	response, err := http.Get(address)
	must(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	must(t, err)
	return response, string(body)
}

func wantHello(t *testing.T, e *Envoy, want string) {
	t.Helper()
	if response, _ := get(t, e.URL()); response.StatusCode != http.StatusOK || response.Header.Get("hello") != want {
		t.Errorf("%d, hello %q, want 200, %q", response.StatusCode, response.Header.Get("hello"), want)
	}
}

func TestFilterRunsInFrontOfAnEcho(t *testing.T) {
	e := start(t, Setup{Module: moduletest.AddingRequestHeader("x-added", "yes")})
	response, err := http.Post(e.URL()+"/a?b=c", "application/octet-stream", strings.NewReader("\xff"))
	must(t, err)
	defer response.Body.Close()
	var got echoed
	must(t, json.NewDecoder(response.Body).Decode(&got))
	if got.Method != http.MethodPost || got.Path != "/a?b=c" || !bytes.Equal(got.BodyBase64, []byte("\xff")) {
		t.Errorf("the echo got %+v", got)
	}
	if got.Headers["x-added"][0] != "yes" || got.Headers["host"][0] != strings.TrimPrefix(e.URL(), "http://") {
		t.Errorf("the echo got the headers %v", got.Headers)
	}
}

func TestFilterRunsInFrontOfAnUpstream(t *testing.T) {
	served := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s", r.Host, r.URL.Path) }))
	defer served.Close()
	upstream, err := url.Parse(served.URL + "/base")
	must(t, err)
	e := start(t, Setup{Module: moduletest.Greeting("world"), Upstream: upstream})
	if response, body := get(t, e.URL()+"/path"); body != upstream.Host+" /base/path" || response.Header.Get("hello") != "world" {
		t.Errorf("got %q, %v", body, response.Header)
	}
}

func TestSendShowsWhatAFilterDoes(t *testing.T) {
	e := start(t, Setup{Module: moduletest.Greeting("world")})
	x, err := e.Send(t.Context(), Request{Method: "PUT", Path: "/path", Header: http.Header{"X-Mine": {"1"}}, Body: []byte("body")})
	must(t, err)
	if x.Failure != "" || x.Broken != nil || x.Answer.Status != http.StatusOK || x.Arrived == nil {
		t.Fatalf("the exchange is %+v", x)
	}
	if got := x.Answer.Header.Get("hello"); got != "world" || x.Answered.Header.Get("hello") != "" {
		t.Errorf("hello is %q, and before the filter %q", got, x.Answered.Header.Get("hello"))
	}
	if len(x.Lines) != 1 || x.Lines[0].Text != "world" || x.Lines[0].Level != "info" {
		t.Errorf("the lines are %v", x.Lines)
	}
	// Nothing but the filter's doing is a difference.
	x.Answer.Header.Del("hello")
	x.Arrived.Header.Del("Content-Length")
	for name, pair := range map[string][2]http.Header{"request": {x.Sent.Header, x.Arrived.Header}, "response": {x.Answered.Header, x.Answer.Header}} {
		if before, after := fmt.Sprint(pair[0]), fmt.Sprint(pair[1]); before != after {
			t.Errorf("the %s was %s, and is %s", name, before, after)
		}
	}
	if string(x.Arrived.Body) != "body" || !bytes.Equal(x.Answer.Body, x.Answered.Body) {
		t.Errorf("the bodies are %q, %q, %q", x.Arrived.Body, x.Answered.Body, x.Answer.Body)
	}
}

func TestSendShowsAFailure(t *testing.T) {
	e := start(t, Setup{Module: moduletest.Crashing()})
	for i := range 2 {
		x, err := e.Send(t.Context(), Request{Method: "GET", Path: "/"})
		must(t, err)
		crashed := strings.Contains(x.Failure, "proxy_on_request_headers failed") || i > 0 && x.Failure == crashedBefore
		if !crashed || x.Answer.Status != http.StatusServiceUnavailable || x.Arrived != nil {
			t.Errorf("the exchange is %+v", x)
		}
	}
}

func TestSwapFailsNoRequest(t *testing.T) {
	held, release := make(chan struct{}), make(chan struct{})
	served := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/held" {
			close(held)
			<-release
		}
	}))
	defer served.Close()
	upstream, err := url.Parse(served.URL)
	must(t, err)
	e := start(t, Setup{Module: moduletest.Greeting("first"), Upstream: upstream})

	underWay := make(chan string)
	go func() { underWay <- hello(e.URL() + "/held") }()
	<-held
	load := startLoad(e.URL())
	for i := range 5 {
		want := fmt.Sprintf("swap %d", i)
		must(t, e.Swap(t.Context(), moduletest.Greeting(want)))
		wantHello(t, e, want)
	}
	must(t, e.Swap(t.Context(), moduletest.Greeting("swap 4"))) // as it is
	close(release)
	if got := <-underWay; got != "first" {
		t.Errorf("the request under way got %q, want the module that it began with", got)
	}
	sent, failed := load.stop()
	t.Logf("%d requests during 5 swaps", sent)
	if sent == 0 || len(failed) > 0 {
		t.Errorf("%d of %d requests failed: %q", len(failed), sent, failed)
	}
	if modules, err := filepath.Glob(filepath.Join(e.folder, "*.wasm")); err != nil || len(modules) != 1 {
		t.Errorf("the modules %v are left, %v", modules, err)
	}
}

// hello sends a request, and returns the header hello or what went wrong.
func hello(address string) string {
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

// load are clients that send one request after the other.
type load struct {
	end    chan struct{}
	ended  sync.WaitGroup
	mu     sync.Mutex
	sent   int
	failed []string
}

func startLoad(address string) *load {
	l := &load{end: make(chan struct{})}
	for range 2 {
		l.ended.Go(func() {
			for {
				select {
				case <-l.end:
					return
				default:
				}
				got := hello(address)
				l.mu.Lock()
				l.sent++
				if got != "first" && !strings.HasPrefix(got, "swap") {
					l.failed = append(l.failed, got)
				}
				l.mu.Unlock()
			}
		})
	}
	return l
}

func (l *load) stop() (int, []string) {
	close(l.end)
	l.ended.Wait()
	return l.sent, l.failed
}

func TestRefusedModuleKeepsTheFormer(t *testing.T) {
	e := start(t, Setup{Module: moduletest.Greeting("first")})
	for name, row := range map[string]struct {
		module []byte
		reason string
	}{
		"a module that refuses": {moduletest.Refusing("no such greeting"), "no such greeting"},
		"what is no module":     {[]byte("<html>"), "Wasm"},
		"an unknown import":     {mustBuild(t, filters.Import), "import"},
	} {
		err := e.Swap(t.Context(), row.module)
		refused, is := errors.AsType[*Refused](err)
		if !is || !strings.Contains(refused.Error(), row.reason) {
			t.Errorf("%s: Swap = %v, want a refusal with %q", name, err, row.reason)
		}
		wantHello(t, e, "first")
	}
	must(t, e.Swap(t.Context(), moduletest.Greeting("second")))
	wantHello(t, e, "second")
}

func mustBuild(t *testing.T, name string) []byte {
	t.Helper()
	module, err := filters.Build(t.Context(), name)
	must(t, err)
	return module
}

func TestModuleOfGoRuns(t *testing.T) {
	e := start(t, Setup{Module: mustBuild(t, filters.Hello), Plugin: Plugin{RootID: filters.RootID, Configuration: "{}"}})
	wantHello(t, e, "{}")
	flawed := mustBuild(t, filters.Flawed)
	begin := time.Now()
	must(t, e.Swap(t.Context(), flawed))
	t.Logf("a swap took %s", time.Since(begin))
	wantHello(t, e, "flawed")
}

func TestStartShowsWhyEnvoyRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	const unknown = `{static_resources: {listeners: [{name: web, no_such_field: 1, address: {socket_address: {address: 127.0.0.1, port_value: 0}},
		filter_chains: [{filters: [{name: x, typed_config: {"@type": type.googleapis.com/` + connectionManagerType + `, http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/` + routerType + `}}]}}]}]}]}}`
	refused, ended := &Refused{}, &Ended{}
	for name, row := range map[string]struct {
		setup Setup
		as    any
		want  string
	}{
		"a port that is taken":    {Setup{Module: moduletest.Greeting("x"), Port: port}, &ended, fmt.Sprintf("Envoy does not start: cannot bind '127.0.0.1:%d': Address already in use", port)},
		"an unknown field":        {Setup{Module: moduletest.Greeting("x"), Bootstrap: []byte(unknown)}, &ended, "no_such_field"},
		"an argument of no Envoy": {Setup{Module: moduletest.Greeting("x"), Arguments: []string{"--no-such"}}, &ended, "no-such"},
		"a module that refuses":   {Setup{Module: moduletest.Refusing("no such greeting")}, &refused, "Envoy refuses the module: no such greeting"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			row.setup.Path = installed(t)
			_, err := Start(t.Context(), row.setup)
			if !errors.As(err, row.as) || !strings.Contains(err.Error(), row.want) {
				t.Errorf("Start = %v, want %q", err, row.want)
			}
			wantNothingLeft(t)
		})
	}
}

// wantNothingLeft fails if files of an Envoy are left in the test's folder for such.
func wantNothingLeft(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(os.Getenv("TMPDIR"))
	must(t, err)
	for _, entry := range entries {
		t.Errorf("%s is left", entry.Name())
	}
}

func TestBootstrapOfTheUsersGetsTheFilter(t *testing.T) {
	served := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "mine") }))
	defer served.Close()
	content, err := os.ReadFile(filepath.Join("testdata", "two-listeners.in.yaml"))
	must(t, err)
	service, err := url.Parse(served.URL)
	must(t, err)
	own := strings.NewReplacer("port_value: 8001", "port_value: "+service.Port(), "port_value: 8000", "port_value: 0",
		"port_value: 9000", "port_value: 0", "port_value: 9901", "port_value: 0").Replace(string(content))
	e := start(t, Setup{Module: moduletest.Greeting("first"), Bootstrap: []byte(own)})
	x, err := e.Send(t.Context(), Request{Method: "GET", Path: "/"})
	must(t, err)
	if x.OwnUpstream || x.Arrived != nil || string(x.Answer.Body) != "mine" || len(x.Lines) != 1 {
		t.Errorf("the exchange is %+v", x)
	}
	wantHello(t, e, "first")
	must(t, e.Swap(t.Context(), moduletest.Greeting("second")))
	wantHello(t, e, "second")
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, stop := context.WithCancel(t.Context())
	e, err := Start(ctx, Setup{Path: installed(t), Module: moduletest.Greeting("x")})
	must(t, err)
	stop() // Ctrl-C
	must(t, e.Close())
	if !gone(e.process.command.Process.Pid) {
		t.Error("Envoy's process is left")
	}
	wantNothingLeft(t)
}

func TestCtrlCWhileEnvoyStartsLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := Start(ctx, Setup{Path: installed(t), Module: moduletest.Greeting("x")}); !errors.Is(err, context.Canceled) {
		t.Errorf("Start = %v", err)
	}
	wantNothingLeft(t)
}

func TestEnvoyThatEndsIsNoticed(t *testing.T) {
	e := start(t, Setup{Module: moduletest.Greeting("x")})
	must(t, syscall.Kill(e.process.command.Process.Pid, syscall.SIGKILL))
	select {
	case <-e.Done():
	case <-time.After(patience):
		t.Fatal("the end of Envoy was not noticed")
	}
	if ended, is := errors.AsType[*Ended](e.Err()); !is || ended.Early {
		t.Errorf("Err = %v", e.Err())
	}
	if err := e.Swap(t.Context(), moduletest.Greeting("y")); err == nil {
		t.Error("an Envoy that has ended takes a module")
	}
}

// holder is the variable with which this program only runs an Envoy, and says its process id.
const holder = "WASME_TEST_HOLD_ENVOY"

func TestMain(m *testing.M) {
	if path := os.Getenv(holder); path != "" {
		e, err := Start(context.Background(), Setup{Path: path, Module: moduletest.Greeting("x")})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(e.process.command.Process.Pid)
		select {}
	}
	os.Exit(m.Run())
}

// gone reports whether a process has ended; its parent may not have asked for it.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(stat), ") ")
	return err != nil || strings.HasPrefix(after, "Z")
}
