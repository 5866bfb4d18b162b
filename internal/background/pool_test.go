package background

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// fixture is a pool whose work a test does.
type fixture struct {
	*Pool[string, string]
	t     *testing.T
	woken chan types.NamespacedName

	mu   sync.Mutex
	runs []string
	// answer is what a request comes to.
	answer func(ctx context.Context, asked string) (string, error)
}

const passed = "fine"

func start(t *testing.T, workers int) *fixture {
	t.Helper()
	f := &fixture{t: t, woken: make(chan types.NamespacedName, 10_000)}
	f.answer = func(context.Context, string) (string, error) { return passed, nil }
	f.Pool = New(Options[string, string]{
		Workers: workers, Wake: func(owner types.NamespacedName) { f.woken <- owner },
		MinRetry: time.Millisecond, MaxRetry: 10 * time.Millisecond, Kept: 4096,
		Do: func(ctx context.Context, asked string) (string, error) {
			f.mu.Lock()
			f.runs = append(f.runs, asked)
			answer := f.answer
			f.mu.Unlock()
			return answer(ctx, asked)
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

func (f *fixture) answers(with string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = func(context.Context, string) (string, error) { return with, err }
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

func TestOneRunServesAllOwners(t *testing.T) {
	f := start(t, 4)
	const owners = 1000
	for i := range owners {
		f.Ask(owner(fmt.Sprint(i)), "root")
	}
	for i := range owners {
		for result := f.Ask(owner(fmt.Sprint(i)), "root"); result.Result == nil; result = f.Ask(owner(fmt.Sprint(i)), "root") {
			f.wait()
		}
	}
	if got := f.ran(); len(got) != 1 {
		t.Errorf("%d runs", len(got))
	}
	if len(f.requests) != 0 || len(f.owners) != 0 {
		t.Errorf("%d requests and %d owners are left", len(f.requests), len(f.owners))
	}
}

func TestARunThatFailsByItselfIsTriedAgain(t *testing.T) {
	f := start(t, 1)
	broken := errors.New("no memory")
	f.answer = func(context.Context, string) (string, error) { return "", broken }
	f.Ask(owner("a"), "root")
	f.wait()
	if got := f.Ask(owner("a"), "root"); got.Result != nil || !errors.Is(got.Err, broken) {
		t.Errorf("%+v", got)
	}
	f.mu.Lock()
	f.answer = func(context.Context, string) (string, error) { return passed, nil }
	f.mu.Unlock()
	f.wait()
	if got := f.Ask(owner("a"), "root"); got.Result == nil || *got.Result != passed || got.Err != nil {
		t.Errorf("%+v", got)
	}
}

func TestRunsAreBounded(t *testing.T) {
	f := start(t, 2)
	entered, leave := make(chan struct{}), make(chan struct{})
	f.answer = func(context.Context, string) (string, error) {
		entered <- struct{}{}
		<-leave
		return passed, nil
	}
	for i := range 5 {
		f.Ask(owner(fmt.Sprint(i)), fmt.Sprint(i))
	}
	<-entered
	<-entered
	if got := len(f.ran()); got != 2 {
		t.Errorf("%d runs are under way", got)
	}
	close(leave)
	for range 3 {
		<-entered
	}
	for range 5 {
		f.wait()
	}
}

func TestWhatNobodyNeedsIsNotRun(t *testing.T) {
	f := start(t, 1)
	entered, leave := make(chan struct{}), make(chan struct{})
	f.answer = func(_ context.Context, rootID string) (string, error) {
		if rootID == "first" {
			close(entered)
			<-leave
		}
		return passed, nil
	}
	f.Ask(owner("a"), "first")
	<-entered
	f.Ask(owner("b"), "forgotten")
	f.Ask(owner("c"), "replaced")
	f.Forget(owner("b"))
	f.Ask(owner("c"), "last")
	close(leave)
	f.wait()
	f.wait()
	if got := f.ran(); !slices.Equal(got, []string{"first", "last"}) {
		t.Errorf("%v", got)
	}
}

func TestARequestThatIsForgottenAndMadeAgainMeanwhile(t *testing.T) {
	f := start(t, 1)
	entered, leave := make(chan struct{}), make(chan struct{})
	f.answer = func(context.Context, string) (string, error) {
		entered <- struct{}{}
		<-leave
		return passed, nil
	}
	f.Ask(owner("a"), "root")
	<-entered
	f.Forget(owner("a"))
	f.Ask(owner("a"), "root")
	close(leave)
	if got := f.wait(); got != owner("a") {
		t.Errorf("%v was woken", got)
	}
	if got := f.Ask(owner("a"), "root"); got.Result == nil {
		t.Errorf("%+v", got)
	}
	f.Ask(owner("a"), "another")
	<-entered
}

func TestStoppingEndsRunsThatAreUnderWay(t *testing.T) {
	f := start(t, 1)
	entered := make(chan struct{})
	f.answer = func(ctx context.Context, _ string) (string, error) {
		close(entered)
		<-ctx.Done()
		return "", ctx.Err()
	}
	f.Ask(owner("a"), "root")
	<-entered
}

func TestARenewedResultReplacesTheFormer(t *testing.T) {
	f := start(t, 1)
	f.answers("unsigned", nil)
	f.Ask(owner("a"), "image")
	f.wait()
	for i := range 3 {
		f.answers(fmt.Sprint(i), nil)
		f.Renew(owner("a"), "image")
		if got := f.Ask(owner("a"), "image"); got.Result == nil {
			t.Fatal("what is known is gone while it is renewed")
		}
		f.wait()
		if got := f.Ask(owner("a"), "image"); *got.Result != fmt.Sprint(i) {
			t.Errorf("after renewal %d: %q", i, *got.Result)
		}
	}
	f.Forget(owner("a"))
	if len(f.requests) != 0 || len(f.owners) != 0 {
		t.Errorf("%d requests and %d owners are left", len(f.requests), len(f.owners))
	}
}

func TestARenewalThatFailsKeepsTheFormer(t *testing.T) {
	f := start(t, 1)
	f.Ask(owner("a"), "image")
	f.wait()
	f.answers("", errors.New("away"))
	f.Renew(owner("a"), "image")
	f.wait()
	if got := f.Ask(owner("a"), "image"); got.Result == nil || *got.Result != passed {
		t.Errorf("%+v", got)
	}
	f.answers("back", nil)
	for got := f.Ask(owner("a"), "image"); *got.Result != "back"; got = f.Ask(owner("a"), "image") {
		f.wait()
	}
}
