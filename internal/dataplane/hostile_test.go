package dataplane

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// hostile are sidecars that nobody wants, and what is to be said of them.
func hostile(elsewhere string) map[string]struct {
	answer http.HandlerFunc
	want   Failure
} {
	line := []byte(strings.Repeat("# nothing but comments\n", 40))
	endless := func(piece []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		}
	}
	return map[string]struct {
		answer http.HandlerFunc
		want   Failure
	}{
		"1 GB": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(1<<30))
			endless(line)(w, nil)
		}, FailureTooLarge},
		"endless lines":          {endless(line), FailureTooLarge},
		"one endless line":       {endless([]byte("xxxxxxxxxxxxxxxx")), FailureMalformed},
		"endless rows":           {endless([]byte(`envoy_wasm_vm_reload{wasm_filter="a@1"} 0` + "\n")), FailureTooLarge},
		"a byte at a time":       {trickle, FailureTimeout},
		"no answer":              {silence, FailureTimeout},
		"a header without end":   {hijacked("HTTP/1.1 200 OK\r\n", "x: y\r\n"), FailureConnection},
		"a long line in it":      {hijacked("HTTP/1.1 200 OK\r\nx: ", "yyyyyyyy"), FailureConnection},
		"endless 1xx":            {hijacked("", "HTTP/1.1 103 Early Hints\r\n\r\n"), FailureConnection},
		"another protocol":       {hijacked("", "SSH-2.0-OpenSSH_9.9\r\n"), FailureConnection},
		"a connection that ends": {hijacked("", ""), FailureConnection},
		"half a page":            {hijacked("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nup 1\n", ""), FailureConnection},
		"garbage":                {text("\x00\xff\x7f{{{{"), FailureMalformed},
		"HTML":                   {text("<html></html>"), FailureMalformed},
		"gzip, unasked":          {zipped, FailureMalformed},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere, http.StatusFound)
		}, FailureStatus},
		"not found":       {http.NotFound, FailureStatus},
		"an empty 204":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, FailureStatus},
		"broken chunks":   {hijacked("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\n", ""), FailureConnection},
		"endless trailer": {hijacked("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n5\r\nup 1\n\r\n0\r\n", "x: y\r\n"), FailureConnection},
	}
}

// hijacked writes a beginning and then, if there is one, a piece forever.
func hijacked(beginning, piece string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		connection, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer connection.Close()
		if _, err := io.WriteString(connection, beginning); err != nil || piece == "" {
			return
		}
		pieces := strings.Repeat(piece, 100)
		for err == nil {
			_, err = io.WriteString(connection, pieces)
		}
	}
}

// trickle sends a byte from time to time.
func trickle(w http.ResponseWriter, r *http.Request) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := io.WriteString(w, "#"); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// zipped sends 1 GB in about 1 MB.
func zipped(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Encoding", "gzip")
	packed := gzip.NewWriter(w)
	defer packed.Close()
	zeros := make([]byte, 1<<20)
	for range 1 << 10 {
		if _, err := packed.Write(zeros); err != nil {
			return
		}
	}
}

func TestHostileSidecars(t *testing.T) {
	s := startSidecars(t)
	elsewhere := s.pod(1<<16-1, plugins(greeting))
	scraper := newScraper()
	number := 0
	for name, c := range hostile(fmt.Sprintf("http://%s/stats/prometheus", elsewhere.statsEndpoint())) {
		number++
		at := s.pod(number, c.answer)
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			allocated := allocations()
			patience := patientTime
			if c.want == FailureTimeout {
				patience = quickTime // it is waited out
			}
			got := scraper.look(t.Context(), &job{at: at, lane: &lane{patience: patience}})
			if got.failure != c.want || got.plugins != nil {
				t.Errorf("got %q and %d plugins, want %q", got.failure, len(got.plugins), c.want)
			}
			if took := time.Since(begin); took > 2*patientTime {
				t.Errorf("took %s", took)
			}
			// The server's side is counted, too.
			if got := allocations() - allocated; got > 64<<20 {
				t.Errorf("%d MB were allocated", got>>20)
			}
		})
	}
	if got := s.requests(elsewhere); got > 0 {
		t.Errorf("%d redirects were followed", got)
	}
}

func allocations() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func TestHostileSidecarsDoNotKeepOthersFromBeingProven(t *testing.T) {
	t.Parallel()
	s := startSidecars(t)
	var bad []Expectation
	for _, c := range hostile("http://192.0.2.1/") {
		bad = append(bad, Expectation{Pod: s.pod(len(bad), c.answer), Plugin: greeting, Explain: true})
	}
	good := []Expectation{{Pod: s.pod(len(bad), plugins(greeting)), Plugin: greeting}}
	p := New(func(types.NamespacedName) {})
	p.patient.patience = quickTime
	start(t, p)
	p.Expect(owner("bad"), bad)
	until(t, "proof", func() bool { return proven(p, "good", good) == 1 })
	until(t, "an end of the others", func() bool {
		return !slices.ContainsFunc(p.Expect(owner("bad"), bad), func(v Verdict) bool { return v.State != StateUnreachable })
	})
}

func TestWhatDoesNotListen(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().(*net.TCPAddr).AddrPort()
	listener.Close()
	got := newScraper().look(t.Context(), &job{at: Pod{Address: closed.Addr(), StatsPort: closed.Port()}, lane: &lane{patience: patientTime}})
	if got.failure != FailureRefused {
		t.Errorf("got %q", got.failure)
	}
}

func TestOnlyAddressesOfPodsAreAsked(t *testing.T) {
	s := startSidecars(t)
	for name, address := range map[string]netip.Addr{
		"none":          {},
		"unspecified":   netip.MustParseAddr("0.0.0.0"),
		"unspecified 6": netip.IPv6Unspecified(),
		"multicast":     netip.MustParseAddr("224.0.0.1"),
		"link-local":    netip.MustParseAddr("169.254.169.254"),
		"link-local 6":  netip.MustParseAddr("fe80::1"),
		"mapped":        netip.MustParseAddr("::ffff:169.254.169.254"),
		"with a zone":   netip.MustParseAddr("fd00::1%lo"),
	} {
		t.Run(name, func(t *testing.T) {
			scraper := &scraper{transport: refuses{t}}
			got := scraper.look(t.Context(), &job{at: Pod{Address: address, StatsPort: s.port}, lane: &lane{patience: patientTime}})
			if got.failure != FailureAddress {
				t.Errorf("got %q", got.failure)
			}
		})
	}
}

// refuses is a transport that nobody may use.
type refuses struct{ t *testing.T }

func (r refuses) RoundTrip(request *http.Request) (*http.Response, error) {
	r.t.Errorf("%s was asked", request.URL)
	return nil, errors.New("refused")
}

func TestAPanicWhileReadingAnAnswerEndsOneProbe(t *testing.T) {
	scraper := &scraper{transport: panics{}}
	got := scraper.look(t.Context(), &job{at: Pod{Address: netip.MustParseAddr("127.0.0.1")}, lane: &lane{patience: patientTime}})
	if got.failure != FailureMalformed {
		t.Errorf("got %q", got.failure)
	}
}

// panics is a transport whose answers make their reader panic.
type panics struct{}

func (panics) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(panics{})}, nil
}

func (panics) Read([]byte) (int, error) { panic("a fault of the parser") }

func TestStoppingEndsWhatIsUnderWay(t *testing.T) {
	s := startSidecars(t)
	targets := []Expectation{{Pod: s.pod(1, silence), Plugin: greeting}}
	p := New(func(types.NamespacedName) { t.Error("what was stopped counts") })
	p.quick.patience = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error)
	go func() { stopped <- p.Start(ctx) }()
	p.Expect(owner("greeting"), targets)
	until(t, "a request", func() bool { return s.requests(targets[0].Pod) == 1 })
	cancel()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestMetricsAreNamedByConvention(t *testing.T) {
	envoyProbes.observe("", time.Millisecond)
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	own := families[:0]
	for _, family := range families {
		if strings.HasPrefix(family.GetName(), "wasme_") {
			own = append(own, family)
		}
	}
	if len(own) != 2 {
		t.Errorf("%d metrics", len(own))
	}
	problems, err := promlint.NewWithMetricFamilies(own).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", err, problems)
	}
}

// probeCounts are the metrics' counts by endpoint and result.
func probeCounts(t *testing.T) map[string]int {
	t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, family := range families {
		if family.GetName() != "wasme_sidecar_probes_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetValue())
			}
			counts[strings.Join(labels, " ")] = int(metric.GetCounter().GetValue())
		}
	}
	return counts
}
