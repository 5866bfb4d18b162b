package serve

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/store"
)

var holder = types.NamespacedName{Namespace: "bookinfo", Name: "details-7d"}

func TestServesAModuleThatIsRetainedAndHere(t *testing.T) {
	modules, sum := storeWith(t, "a module")
	modules.Retain(holder, sum)
	base := start(t, modules)

	resp, body := do(t, http.MethodGet, base+module.Path(sum), nil)
	if resp.StatusCode != http.StatusOK || body != "a module" {
		t.Fatalf("GET: %d %q", resp.StatusCode, body)
	}
	for header, want := range map[string]string{
		"Content-Type":   "application/wasm",
		"Cache-Control":  "public, max-age=31536000, immutable",
		"ETag":           `"sha256:` + sum + `"`,
		"Content-Length": "8",
		"Accept-Ranges":  "bytes",
	} {
		if got := resp.Header.Get(header); got != want {
			t.Errorf("%s: %q, not %q", header, got, want)
		}
	}
}

func TestAnswersByMethodAndHeader(t *testing.T) {
	modules, sum := storeWith(t, "a module")
	modules.Retain(holder, sum)
	base := start(t, modules)
	etag := `"sha256:` + sum + `"`
	for name, c := range map[string]struct {
		method, path string
		headers      map[string]string
		status       int
		body         string
	}{
		"HEAD":                {http.MethodHead, module.Path(sum), nil, 200, ""},
		"range":               {http.MethodGet, module.Path(sum), map[string]string{"Range": "bytes=2-4"}, 206, "mod"},
		"range from the end":  {http.MethodGet, module.Path(sum), map[string]string{"Range": "bytes=-3"}, 206, "ule"},
		"range if the same":   {http.MethodGet, module.Path(sum), map[string]string{"Range": "bytes=2-4", "If-Range": etag}, 206, "mod"},
		"range if another":    {http.MethodGet, module.Path(sum), map[string]string{"Range": "bytes=2-4", "If-Range": `"x"`}, 200, "a module"},
		"unchanged":           {http.MethodGet, module.Path(sum), map[string]string{"If-None-Match": etag}, 304, ""},
		"POST":                {http.MethodPost, module.Path(sum), nil, 405, "modules are read-only\n"},
		"DELETE":              {http.MethodDelete, module.Path(sum), nil, 405, "modules are read-only\n"},
		"no digest":           {http.MethodGet, "/modules/sha256/.wasm", nil, 404, notFound},
		"short digest":        {http.MethodGet, "/modules/sha256/abc.wasm", nil, 404, notFound},
		"upper case":          {http.MethodGet, module.Path(strings.ToUpper(strings.Repeat("ab", 32))), nil, 404, notFound},
		"no suffix":           {http.MethodGet, strings.TrimSuffix(module.Path(sum), ".wasm"), nil, 404, notFound},
		"another path":        {http.MethodGet, "/", nil, 404, notFound},
		"traversal":           {http.MethodGet, "/modules/sha256/..%2f..%2fetc%2fpasswd", nil, 404, notFound},
		"traversal in digest": {http.MethodGet, "/modules/sha256/" + strings.Repeat("../", 21) + "a.wasm", nil, 404, notFound},
	} {
		t.Run(name, func(t *testing.T) {
			resp, body := do(t, c.method, base+c.path, c.headers)
			if resp.StatusCode != c.status || body != c.body {
				t.Errorf("%d %q, not %d %q", resp.StatusCode, body, c.status, c.body)
			}
		})
	}
}

const notFound = "modules are at /modules/sha256/<64 lower case hexadecimal digits>.wasm\n"

func TestMissesAreHeldThenAnsweredWith503(t *testing.T) {
	modules, here := storeWith(t, "here, not retained")
	retained := strings.Repeat("0", 64)
	modules.Retain(holder, retained)
	base := serve(t, listen(t, modules))
	for name, c := range map[string]struct{ sum, body string }{
		"here, not retained": {here, "no FilterDeployment references this module\n"},
		"retained, not here": {retained, "this replica does not have the module yet\n"},
		"neither":            {strings.Repeat("1", 64), "no FilterDeployment references this module\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			resp, body := do(t, http.MethodGet, base+module.Path(c.sum), nil)
			if resp.StatusCode != http.StatusServiceUnavailable || body != c.body || resp.Header.Get("Retry-After") == "" {
				t.Errorf("%d %q Retry-After=%q", resp.StatusCode, body, resp.Header.Get("Retry-After"))
			}
			if waited := time.Since(began); waited < holdTime {
				t.Errorf("held for %s only", waited)
			}
		})
	}
}

func TestServesWhatIsRetainedWhileTheRequestIsHeld(t *testing.T) {
	modules, sum := storeWith(t, "retained late")
	server := listen(t, modules)
	base := serve(t, server)
	go func() {
		waitUntilHeld(server.others)
		modules.Retain(holder, sum)
	}()
	resp, body := do(t, http.MethodGet, base+module.Path(sum), nil)
	for body == "too many requests are waiting for modules\n" { // waitUntilHeld had the slots
		resp, body = do(t, http.MethodGet, base+module.Path(sum), nil)
	}
	if resp.StatusCode != http.StatusOK || body != "retained late" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
}

func TestMoreThanCanBeHeldGet503AtOnce(t *testing.T) {
	const busy = "too many requests are waiting for modules\n"
	modules, here := storeWith(t, "a module")
	modules.Retain(holder, here)
	retained, madeUp := strings.Repeat("0", 64), strings.Repeat("1", 64)
	modules.Retain(types.NamespacedName{Namespace: "bookinfo", Name: "ratings-7d"}, retained)
	for name, c := range map[string]struct {
		fill   func(*Server) *semaphore.Weighted
		sum    string
		status int
		body   string
	}{
		"retained":                 {retainedSlots, retained, 503, busy},
		"made up":                  {otherSlots, madeUp, 503, busy},
		"retained, behind made up": {otherSlots, retained, 503, "this replica does not have the module yet\n"},
		"here, no slots":           {retainedSlots, here, 200, "a module"},
		"here, behind made up":     {otherSlots, here, 200, "a module"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := listen(t, modules)
			server.hold = shortHold
			base := serve(t, server)
			if !c.fill(server).TryAcquire(maxHeld) {
				t.Fatal("the server holds requests already")
			}
			resp, body := do(t, http.MethodGet, base+module.Path(c.sum), nil)
			if resp.StatusCode != c.status || body != c.body {
				t.Errorf("%d %q, not %d %q", resp.StatusCode, body, c.status, c.body)
			}
		})
	}
}

func retainedSlots(s *Server) *semaphore.Weighted { return s.retained }

func otherSlots(s *Server) *semaphore.Weighted { return s.others }

func TestOtherReplicasAreNotHeld(t *testing.T) {
	modules, here := storeWith(t, "a module")
	modules.Retain(holder, here)
	server := listen(t, modules)
	server.hold = time.Hour
	base := serve(t, server)
	for sum, want := range map[string]int{here: http.StatusOK, strings.Repeat("1", 64): http.StatusServiceUnavailable} {
		resp, _ := do(t, http.MethodGet, base+module.Path(sum), map[string]string{PeerHeader: PeerValue})
		if resp.StatusCode != want {
			t.Errorf("%d, not %d", resp.StatusCode, want)
		}
	}
}

func TestARequestGivesItsSlotBack(t *testing.T) {
	modules, _ := storeWith(t, "a module")
	retained := strings.Repeat("0", 64)
	modules.Retain(holder, retained)
	server := listen(t, modules)
	server.hold = shortHold
	base := serve(t, server)
	for name, c := range map[string]struct {
		sum   string
		slots *semaphore.Weighted
	}{
		"retained": {retained, server.retained},
		"made up":  {strings.Repeat("1", 64), server.others},
	} {
		t.Run(name, func(t *testing.T) {
			if resp, body := do(t, http.MethodGet, base+module.Path(c.sum), nil); resp.StatusCode != http.StatusServiceUnavailable {
				t.Fatalf("%d %q", resp.StatusCode, body)
			}
			if !c.slots.TryAcquire(maxHeld) {
				t.Error("a slot is still taken")
			}
		})
	}
}

func TestALargeModuleArrivesWhole(t *testing.T) {
	content := strings.Repeat("0123456789abcdef", 1<<18)
	modules, sum := storeWith(t, content)
	modules.Retain(holder, sum)
	base := start(t, modules)
	if _, got := do(t, http.MethodGet, base+module.Path(sum), nil); got != content {
		t.Errorf("%d bytes of %d", len(got), len(content))
	}
}

func TestStopsWhenItsContextEnds(t *testing.T) {
	modules, _ := storeWith(t, "a module")
	server := listen(t, modules)
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- server.Start(ctx) }()
	cancel()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if _, err := http.Get("http://" + server.Addr()); err == nil {
		t.Error("still listening")
	}
}

func TestAResponseMayEndWhenTheServerStops(t *testing.T) {
	const content = "arrives late"
	modules, _ := storeWith(t, "another module")
	digest := sha256.Sum256([]byte(content))
	sum := hex.EncodeToString(digest[:])
	modules.Retain(holder, sum)
	server := listen(t, modules)
	server.hold = time.Hour
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- server.Start(ctx) }()
	go func() {
		waitUntilHeld(server.retained)
		cancel()
		for { // until the server has begun to stop
			conn, err := net.Dial("tcp", server.Addr())
			if err != nil {
				break
			}
			conn.Close()
			runtime.Gosched()
		}
		if err := modules.Import(strings.NewReader(content), sum, int64(len(content))); err != nil {
			t.Error(err)
		}
	}()
	resp, body := do(t, http.MethodGet, "http://"+server.Addr()+module.Path(sum), nil)
	for resp.StatusCode == http.StatusServiceUnavailable { // waitUntilHeld had the slots
		resp, body = do(t, http.MethodGet, "http://"+server.Addr()+module.Path(sum), nil)
	}
	if resp.StatusCode != http.StatusOK || body != content {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestAResponseThatDoesNotEndIsCutOff(t *testing.T) {
	modules, _ := storeWith(t, "a module")
	sum := strings.Repeat("0", 64)
	modules.Retain(holder, sum)
	server := listen(t, modules)
	server.hold, server.grace = time.Hour, shortHold
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- server.Start(ctx) }()
	go func() {
		waitUntilHeld(server.retained)
		cancel()
	}()
	for { // waitUntilHeld may have the slots
		resp, err := http.Get("http://" + server.Addr() + module.Path(sum))
		if err != nil {
			break
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	if err := <-stopped; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestAPortInUseIsNamed(t *testing.T) {
	modules, _ := storeWith(t, "a module")
	server := listen(t, modules)
	_, err := New(server.Addr(), modules, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "--module-server-bind-address") {
		t.Errorf("%v", err)
	}
}

// shortHold is how long requests are held in tests in which they wait in vain.
const shortHold = 50 * time.Millisecond

// waitUntilHeld returns when a request is held. While all slots can be taken, none is.
func waitUntilHeld(slots *semaphore.Weighted) {
	for slots.TryAcquire(maxHeld) {
		slots.Release(maxHeld)
		runtime.Gosched()
	}
}

// storeWith returns a store that has a module, which nobody retains yet.
func storeWith(t *testing.T, content string) (*store.Store, string) {
	t.Helper()
	modules, err := store.Open(t.TempDir(), store.DefaultBytes, clock.RealClock{})
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(content))
	sum := hex.EncodeToString(digest[:])
	if err := modules.Import(strings.NewReader(content), sum, int64(len(content))); err != nil {
		t.Fatal(err)
	}
	return modules, sum
}

// start starts a server that holds requests for a short time only.
func start(t *testing.T, modules *store.Store) string {
	t.Helper()
	server := listen(t, modules)
	server.hold = shortHold
	return serve(t, server)
}

func listen(t *testing.T, modules *store.Store) *Server {
	t.Helper()
	server, err := New("127.0.0.1:0", modules, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.listener.Close() })
	return server
}

func serve(t *testing.T, server *Server) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- server.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	return "http://" + server.Addr()
}

func do(t *testing.T, method, url string, headers map[string]string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range headers {
		req.Header.Set(key, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}
