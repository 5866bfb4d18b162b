package serve

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// What is asked of the server, and what it sends. Other replicas are told apart:
// they ask whether a module is here yet, and 503 is an answer as good as 200.
var (
	requestsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wasme_module_server_requests_total",
		Help: "Requests to the module server that were answered, by client (proxy or replica) and status code.",
	}, []string{"client", "code"})
	requestsInFlight = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "wasme_module_server_requests_in_flight",
		Help: "Requests that the module server answers now, those included that wait for their module.",
	})
	refusedRequestsTotal = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "wasme_module_server_refused_requests_total",
		Help: "Requests that the module server answered with 503 because too many were being answered, or were waiting for modules.",
	})
	refusedConnectionsTotal = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "wasme_module_server_refused_connections_total",
		Help: "Connections that the module server closed at once, because there were too many, or too many of one address.",
	})
	sentBytesTotal = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "wasme_module_server_sent_bytes_total",
		Help: "Bytes of the bodies that the module server sent.",
	})
)

const (
	clientProxy   = "proxy"
	clientReplica = "replica"
)

// codes are those of the server's own answers, and of net/http's to ranges and
// conditions.
var codes = []int{
	http.StatusOK, http.StatusPartialContent, http.StatusNotModified, http.StatusNotFound, http.StatusMethodNotAllowed,
	http.StatusPreconditionFailed, http.StatusRequestedRangeNotSatisfiable, http.StatusServiceUnavailable,
}

func init() {
	metrics.Registry.MustRegister(requestsTotal, requestsInFlight, refusedRequestsTotal, refusedConnectionsTotal, sentBytesTotal)
	for _, code := range codes { // a rate needs the 0 before the first
		requestsTotal.WithLabelValues(clientProxy, strconv.Itoa(code))
		requestsTotal.WithLabelValues(clientReplica, strconv.Itoa(code))
	}
}

// instrumented counts what a handler is asked.
func instrumented(handler http.Handler) http.Handler {
	client := promhttp.WithLabelFromRequest("client", func(r *http.Request) string {
		if isPeer(r) {
			return clientReplica
		}
		return clientProxy
	})
	return promhttp.InstrumentHandlerInFlight(requestsInFlight, promhttp.InstrumentHandlerCounter(requestsTotal, handler, client))
}
