package online

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace/noop"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/wasme-io/wasme-operator/internal/trust"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/signing"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// fixture is a Sigstore instance with a TUF repository that a test can take away.
type fixture struct {
	*Root
	t        *testing.T
	instance *signing.Instance
	clock    *clocktesting.FakeClock
	woken    chan struct{}
	requests atomic.Int32
	down     atomic.Bool
	// logged is what it has logged. It is complete once somebody is woken.
	logged strings.Builder
}

func start(t *testing.T, valid time.Duration) *fixture {
	t.Helper()
	instance, err := signing.NewInstance()
	moduletest.Must(t, err)
	repository, err := instance.NewRepository(valid)
	moduletest.Must(t, err)
	f := &fixture{t: t, instance: instance, clock: clocktesting.NewFakeClock(time.Now()), woken: make(chan struct{}, 100)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		f.requests.Add(1)
		if f.down.Load() {
			http.Error(w, "remote body", http.StatusServiceUnavailable)
			return
		}
		repository.ServeHTTP(w, request)
	}))
	t.Cleanup(server.Close)
	f.Root = New(Options{
		URL: server.URL, Anchor: repository.Anchor, Transport: server.Client().Transport,
		Wake: func() { f.woken <- struct{}{} }, Clock: f.clock,
	})
	logger := funcr.New(func(_, line string) { f.logged.WriteString(line + "\n") }, funcr.Options{})
	ctx, cancel := context.WithCancel(log.IntoContext(context.Background(), logger))
	ended := make(chan error)
	go func() { ended <- f.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
	return f
}

func (f *fixture) wait() {
	f.t.Helper()
	select {
	case <-f.woken:
	case <-time.After(patience):
		f.t.Fatal("nobody was woken")
	}
}

// step ends the wait before the next fetch.
func (f *fixture) step(by time.Duration) {
	f.t.Helper()
	for end := time.Now().Add(patience); !f.clock.HasWaiters(); {
		if time.Now().After(end) {
			f.t.Fatal("it waits for nothing")
		}
	}
	f.clock.Step(by)
}

func (f *fixture) verifies(roots trust.Roots) bool {
	f.t.Helper()
	image := v1.Hash{Algorithm: "sha256", Hex: moduletest.SHA256("image")}
	layer, err := f.instance.Keyless("me@example.com", "https://issuer.example").SimpleSigning(image)
	moduletest.Must(f.t, err)
	signature, err := trust.ParseLayer(layer.Descriptor(), layer.Content)
	moduletest.Must(f.t, err)
	_, _, err = signature.Keyless(image, roots)
	return err == nil
}

func TestRootIsFetchedWhenItIsNeeded(t *testing.T) {
	f := start(t, time.Hour)
	if got := f.requests.Load(); got != 0 {
		t.Errorf("%d requests before anybody asks", got)
	}
	if roots, err := f.Roots(); roots != nil || err != nil {
		t.Errorf("at first: %v, %v", roots, err)
	}
	f.wait()
	roots, err := f.Roots()
	if err != nil || !f.verifies(roots) {
		t.Errorf("after the fetch: %v, %v", roots, err)
	}
	before := f.requests.Load()
	f.step(renewal)
	f.wait()
	if after := f.requests.Load(); after == before {
		t.Error("it is not fetched again after a day")
	}
}

func TestRootThatCannotBeFetchedIsTriedAgain(t *testing.T) {
	f := start(t, time.Hour)
	f.down.Store(true)
	_, _ = f.Roots()
	f.wait()
	roots, err := f.Roots()
	if roots != nil || err == nil || !strings.Contains(err.Error(), "fetching the trusted root of Sigstore from http://127.0.0.1") || strings.Contains(err.Error(), "remote body") {
		t.Errorf("while it is down: %v, %v", roots, err)
	}
	f.down.Store(false)
	f.step(time.Minute)
	f.wait()
	if roots, err := f.Roots(); err != nil || !f.verifies(roots) {
		t.Errorf("once it is back: %v, %v", roots, err)
	}
	f.down.Store(true)
	f.step(renewal)
	f.wait()
	if roots, err := f.Roots(); err == nil || !f.verifies(roots) {
		t.Errorf("a day later, while it is down: %v, %v", roots, err)
	}
}

func TestRootThatCannotBeRenewedIsReported(t *testing.T) {
	f := start(t, time.Hour)
	_, _ = f.Roots()
	f.wait()
	fetched := f.clock.Now()
	if f.logged.Len() > 0 {
		t.Errorf("logged: %s", &f.logged)
	}
	f.down.Store(true)
	f.step(renewal)
	f.wait()
	if logged := f.logged.String(); !strings.Contains(logged, "Fetching the trusted root failed") || !strings.Contains(logged, "503") || strings.Contains(logged, "remote body") {
		t.Errorf("logged: %s", logged)
	}
	f.wantTimestamp(fetched)
	f.down.Store(false)
	f.step(time.Minute)
	f.wait()
	f.wantTimestamp(f.clock.Now())
}

func (f *fixture) wantTimestamp(want time.Time) {
	f.t.Helper()
	if got := moduletest.Gather(f.t, fetchedTimestamp)["wasme_trusted_root_fetched_timestamp_seconds"]; got != float64(want.Unix()) {
		f.t.Errorf("fetched at %v, not %d", got, want.Unix())
	}
}

func TestExpiredRepositoryIsRefused(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)))
	t.Cleanup(func() { otel.SetTracerProvider(noop.NewTracerProvider()) })
	f := start(t, -time.Hour)
	_, _ = f.Roots()
	f.wait()
	if roots, err := f.Roots(); roots != nil || err == nil {
		t.Errorf("%v, %v", roots, err)
	}
	if got := spans.GetSpans(); len(got) != 1 || got[0].Name != "FetchTrustedRoot" || got[0].Status.Code != codes.Error {
		t.Errorf("the spans are %v", got)
	}
}

func TestPublicInstanceIsTheDefault(t *testing.T) {
	r := New(Options{Clock: clock.RealClock{}})
	if r.options.URL != DefaultURL || len(r.options.Anchor) == 0 {
		t.Errorf("the default is %q", r.options.URL)
	}
}
