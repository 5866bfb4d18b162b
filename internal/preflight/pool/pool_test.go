package pool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/test/moduletest"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// fixture is a pool whose runs a test answers.
type fixture struct {
	*Pool
	t     *testing.T
	woken chan types.NamespacedName

	mu   sync.Mutex
	runs []string
	// answer is what a run of a root id comes to.
	answer func(ctx context.Context, rootID string) (preflight.Verdict, error)
}

var passed = preflight.Verdict{Reason: wasmev1.ReasonPreflighted, Message: "fine"}

// start starts a pool with a stand-in for the runs.
func start(t *testing.T, workers int) *fixture {
	t.Helper()
	f := &fixture{t: t, woken: make(chan types.NamespacedName, 10_000)}
	f.answer = func(context.Context, string) (preflight.Verdict, error) { return passed, nil }
	path := filepath.Join(t.TempDir(), "module")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.Pool = New(Options{
		Workers: workers, Wake: func(owner types.NamespacedName) { f.woken <- owner },
		Open: func(sha256 string) (*store.File, error) {
			if sha256 == "gone" {
				return nil, fmt.Errorf("opening: %w", fs.ErrNotExist)
			}
			file, err := os.Open(path)
			return &store.File{File: file}, err
		},
		Run: func(ctx context.Context, _ *os.File, _ int64, filter preflight.Filter) (preflight.Verdict, error) {
			f.mu.Lock()
			f.runs = append(f.runs, filter.RootID)
			answer := f.answer
			f.mu.Unlock()
			return answer(ctx, filter.RootID)
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = f.Start(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return f
}

func (f *fixture) ran() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.runs)
}

// wait returns the next owner that is woken.
func (f *fixture) wait() types.NamespacedName {
	f.t.Helper()
	select {
	case owner := <-f.woken:
		return owner
	case <-time.After(patience):
		f.t.Fatal("nobody was woken")
		return types.NamespacedName{}
	}
}

func owner(name string) types.NamespacedName { return types.NamespacedName{Namespace: "n", Name: name} }

func asking(rootID string) Request {
	return Request{SHA256: "module", Filter: preflight.Filter{RootID: rootID}}
}

func TestRequestsDifferByAllThatTheModuleSees(t *testing.T) {
	keys := map[string]string{textOf(t, asking("root")): "base"}
	for name, change := range map[string]func(*Request){
		"module":           func(r *Request) { r.SHA256 = "another" },
		"root id":          func(r *Request) { r.Filter.RootID = "another" },
		"known root ids":   func(r *Request) { r.Filter.KnownRootIDs = []string{"root"} },
		"configuration":    func(r *Request) { r.Filter.Configuration = []byte("{}") },
		"environment":      func(r *Request) { r.Filter.Environment = map[string]string{"A": "b"} },
		"host environment": func(r *Request) { r.Filter.HostEnvironment = []string{"A"} },
		"tests":            func(r *Request) { r.Filter.Tests = []module.Tests{{Name: "t.yaml"}} },
	} {
		changed := asking("root")
		change(&changed)
		text := textOf(t, changed)
		if same, found := keys[text]; found {
			t.Errorf("%s: the same as %s", name, same)
		}
		keys[text] = name
	}
}

func textOf(t *testing.T, r Request) string {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestAModuleIsRunOnceForAll(t *testing.T) {
	f := start(t, 1)
	f.Ask(owner("a"), asking("root"))
	f.wait()
	for _, name := range []string{"a", "b"} {
		if got := f.Ask(owner(name), asking("root")); got.Result == nil || got.Result.Reason != wasmev1.ReasonPreflighted {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := f.ran(); !slices.Equal(got, []string{"root"}) {
		t.Errorf("%v was run", got)
	}
}

func TestAModuleThatTheStoreLostIsAnError(t *testing.T) {
	f := start(t, 1)
	f.Ask(owner("a"), Request{SHA256: "gone"})
	f.wait()
	if got := f.Ask(owner("a"), Request{SHA256: "gone"}); got.Err == nil || !strings.Contains(got.Err.Error(), "pulled again") {
		t.Errorf("%+v", got)
	}
}

func TestRunsAreCountedByReason(t *testing.T) {
	before := moduletest.Gather(t, runsTotal)
	count(passed, nil, time.Second)
	count(preflight.Verdict{}, errors.New("broken"), time.Second)
	after := moduletest.Gather(t, runsTotal)
	for series, value := range after {
		want := before[series]
		if strings.HasSuffix(series, " "+wasmev1.ReasonPreflighted) || strings.HasSuffix(series, " "+failure) {
			want++
		}
		if value != want {
			t.Errorf("%s: %v, not %v", series, value, want)
		}
	}
	if len(after) != len(preflight.Reasons)+1 {
		t.Errorf("%d series", len(after))
	}
}
