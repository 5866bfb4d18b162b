package background

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
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
	return startWith(t, Options[string, string]{Workers: workers, MinRetry: time.Millisecond, MaxRetry: 10 * time.Millisecond, Kept: 4096})
}

func startWith(t *testing.T, options Options[string, string]) *fixture {
	t.Helper()
	f := &fixture{t: t, woken: make(chan types.NamespacedName, 10_000)}
	f.answer = func(context.Context, string) (string, error) { return passed, nil }
	options.Wake = func(owner types.NamespacedName) { f.woken <- owner }
	options.Do = func(ctx context.Context, asked string) (string, error) {
		f.mu.Lock()
		f.runs = append(f.runs, asked)
		answer := f.answer
		f.mu.Unlock()
		return answer(ctx, asked)
	}
	f.Pool = New(options)
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

// stepUntilWoken lets time pass in small steps until an owner is woken, and returns how
// much that took: no less than the wait.
func (f *fixture) stepUntilWoken(clock *clocktesting.FakeClock, step time.Duration) time.Duration {
	f.t.Helper()
	const heartbeat = 1 // the queue's own
	begin := clock.Now()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		select {
		case <-f.woken:
			return clock.Since(begin)
		default:
			if clock.Waiters() > heartbeat {
				clock.Step(step)
			}
		}
	}
	f.t.Fatal("nobody was woken")
	return 0
}

func TestTheWaitsBeforeRenewalsGrow(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	const least, most = 2 * time.Second, 20 * time.Second
	f := startWith(t, Options[string, string]{Workers: 1, MinRetry: least, MaxRetry: most, Kept: 1, Clock: clock})
	pass := func() { // as a FilterDeployment's
		if f.Ask(owner("a"), "image").Result != nil {
			f.Renew(owner("a"), "image")
		}
	}
	pass()
	f.wait()
	for _, want := range []time.Duration{least, 2 * least, 4 * least, 8 * least, most, most} {
		pass()
		pass() // another cause
		if got := f.stepUntilWoken(clock, time.Second); got < want {
			t.Errorf("it is renewed after %s, want %s", got, want)
		}
	}
	f.Forget(owner("a"))
	if got := f.backoff.NumRequeues(keyOf("image")); got != 0 || len(f.requests) > 0 {
		t.Errorf("the next wait is the %dth, %d requests are left", got+1, len(f.requests))
	}
}

func TestAnErrorCanAskForALongerWait(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	f := startWith(t, Options[string, string]{
		Workers: 1, MinRetry: time.Second, MaxRetry: time.Minute, Kept: 1, Clock: clock,
		RetryAfter: func(error) time.Duration { return 30 * time.Second },
	})
	f.answers("", errors.New("limited"))
	f.Ask(owner("a"), "image")
	f.wait()
	if got := f.stepUntilWoken(clock, time.Second); got < 30*time.Second {
		t.Errorf("it is tried again after %s", got)
	}
}

func TestASlowNamespaceOrHostHoldsUpNobodyElse(t *testing.T) {
	for name, row := range map[string]struct {
		options Options[string, string]
		slow    func(i int) types.NamespacedName
	}{
		"a namespace": {Options[string, string]{PerNamespace: 2}, func(i int) types.NamespacedName {
			return types.NamespacedName{Namespace: "slow", Name: fmt.Sprint(i)}
		}},
		"a host": {Options[string, string]{PerHost: 2, Host: func(asked string) string { return asked[:4] }}, func(i int) types.NamespacedName {
			return types.NamespacedName{Namespace: fmt.Sprint(i), Name: "x"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			options := row.options
			options.Workers, options.MinRetry, options.MaxRetry, options.Kept = 4, time.Millisecond, time.Millisecond, 100
			f := startWith(t, options)
			leave := make(chan struct{})
			f.answer = func(_ context.Context, asked string) (string, error) {
				if strings.HasPrefix(asked, "slow") {
					<-leave
				}
				return passed, nil
			}
			const slow = 10
			for i := range slow {
				f.Ask(row.slow(i), "slow"+fmt.Sprint(i))
			}
			for i := range slow {
				f.Ask(owner("fast"), "fast"+fmt.Sprint(i))
				if got := f.wait(); got != owner("fast") {
					t.Fatalf("%v was woken", got)
				}
			}
			if got := len(f.ran()); got != slow+2 {
				t.Errorf("%d runs, of which two are slow", got)
			}
			close(leave)
			for range slow {
				f.wait()
			}
			if len(f.hosts.Used)+len(f.namespaces.Used)+len(f.hosts.Waiting)+len(f.namespaces.Waiting) > 0 {
				t.Errorf("slots are left: %v, %v", f.hosts, f.namespaces)
			}
		})
	}
}

func TestAnotherOwnersNamespaceMayHaveASlot(t *testing.T) {
	f := startWith(t, Options[string, string]{Workers: 4, PerNamespace: 1, MinRetry: time.Millisecond, MaxRetry: time.Millisecond, Kept: 100})
	entered, leave := make(chan string), make(chan struct{})
	f.answer = func(_ context.Context, asked string) (string, error) {
		entered <- asked
		<-leave
		return passed, nil
	}
	f.Ask(owner("a"), "first")
	<-entered
	f.Ask(owner("b"), "second")
	for parked := false; !parked; {
		f.Pool.mu.Lock()
		parked = f.namespaces.Waiting["n"].Len() > 0
		f.Pool.mu.Unlock()
	}
	f.Ask(types.NamespacedName{Namespace: "other", Name: "b"}, "second")
	if got := <-entered; got != "second" {
		t.Errorf("%s is done", got)
	}
	close(leave)
	for range 3 {
		f.wait()
	}
}

func TestResultsAreBoundedBySize(t *testing.T) {
	f := startWith(t, Options[string, string]{
		Workers: 1, MinRetry: time.Millisecond, MaxRetry: time.Millisecond, Kept: 3,
		KeptBytes: 10, Size: func(result *string) int64 { return int64(len(*result)) },
	})
	for _, row := range []struct {
		asked, result string
		kept          string
	}{
		{"a", "1234", "a"},
		{"b", "1234", "ab"},
		{"c", "12", "abc"},
		{"d", "", "bcd"},
		{"e", "12345678", "cde"},
		{"f", "12345678901234567890", "f"},
		{"g", "1", "g"},
	} {
		f.answers(row.result, nil)
		f.Ask(owner("x"), row.asked)
		f.wait()
		kept := ""
		for asked := range strings.SplitSeq("abcdefg", "") {
			if _, known := f.Known(asked); known {
				kept += asked
			}
		}
		if kept != row.kept {
			t.Errorf("after %s the results of %s are kept, want %s", row.asked, kept, row.kept)
		}
	}
}

func TestAPanicIsAnError(t *testing.T) {
	f := start(t, 1)
	f.answer = func(context.Context, string) (string, error) { panic("hostile") }
	f.Ask(owner("a"), "image")
	f.wait()
	if got := f.Ask(owner("a"), "image"); got.Err == nil || strings.Contains(got.Err.Error(), "hostile") {
		t.Errorf("%+v", got)
	}
	f.answers(passed, nil)
	for got := f.Ask(owner("a"), "image"); got.Result == nil; got = f.Ask(owner("a"), "image") {
		f.wait()
	}
}
