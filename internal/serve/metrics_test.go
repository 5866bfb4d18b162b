package serve

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wasme-io/wasme-operator/internal/module"
)

func TestRequestsAreCountedByClientAndCode(t *testing.T) {
	modules, sum := storeWith(t, "a module")
	modules.Retain(holder, sum)
	base := start(t, modules)
	absent := strings.Repeat("1", 64)
	before := counts(t)
	for _, request := range []struct {
		method, path string
		headers      map[string]string
	}{
		{http.MethodGet, module.Path(sum), nil},
		{http.MethodGet, module.Path(sum), map[string]string{"Range": "bytes=2-4"}},
		{http.MethodHead, module.Path(sum), map[string]string{PeerHeader: PeerValue}},
		{http.MethodHead, module.Path(absent), map[string]string{PeerHeader: PeerValue}},
		{http.MethodGet, module.Path(absent), nil},
		{http.MethodPost, module.Path(sum), nil},
		{http.MethodGet, "/", nil},
	} {
		do(t, request.method, base+request.path, request.headers)
	}
	after := counts(t)
	for series, want := range map[string]float64{
		"proxy 200": 1, "proxy 206": 1, "proxy 503": 1, "proxy 405": 1, "proxy 404": 1, "replica 200": 1, "replica 503": 1,
		"sent": float64(len("a module") + len("mod") + len("no FilterDeployment references this module\n") + len("modules are read-only\n") + len(notFound)),
	} {
		if got := after[series] - before[series]; got != want {
			t.Errorf("%s: %v, not %v", series, got, want)
		}
	}
}

func TestARequestThatWaitsIsInFlight(t *testing.T) {
	modules, sum := storeWith(t, "a module")
	server := listen(t, modules)
	server.hold = time.Hour
	base := serve(t, server)
	before := counts(t)["in flight"]
	done := make(chan struct{})
	go func() {
		defer close(done)
		do(t, http.MethodGet, base+module.Path(sum), nil)
	}()
	for counts(t)["in flight"]-before != 1 {
		select {
		case <-done:
			t.Fatal("it was never in flight")
		default:
		}
	}
	modules.Retain(holder, sum)
	<-done
}

func TestRequestsBeyondALimitAreCounted(t *testing.T) {
	for err, want := range map[error]float64{errBusy: 1, errHeld: 1, errors.New("not here yet"): 0} {
		before := counts(t)["refused"]
		unavailable(httptest.NewRecorder(), err)
		if got := counts(t)["refused"] - before; got != want {
			t.Errorf("%v: %v, not %v", err, got, want)
		}
	}
}

// counts returns the metrics by client and code, bytes, refused requests and requests in flight.
func counts(t *testing.T) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(requestsTotal, requestsInFlight, refusedRequestsTotal, sentBytesTotal)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			switch labels := metric.GetLabel(); family.GetName() {
			case "wasme_module_server_requests_total":
				found[labels[0].GetValue()+" "+labels[1].GetValue()] = metric.GetCounter().GetValue()
			case "wasme_module_server_sent_bytes_total":
				found["sent"] = metric.GetCounter().GetValue()
			case "wasme_module_server_refused_requests_total":
				found["refused"] = metric.GetCounter().GetValue()
			default:
				found["in flight"] = metric.GetGauge().GetValue()
			}
		}
	}
	return found
}
