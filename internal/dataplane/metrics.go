package dataplane

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// These metrics show how often sidecars were asked, with what result, and how long it
// took. The endpoint is envoy or agent, and the result is success or a Failure.
var (
	probesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wasme_sidecar_probes_total",
		Help: "Requests that ask sidecars what they run, by endpoint and result.",
	}, []string{"endpoint", "result"})
	probeSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "wasme_sidecar_probe_duration_seconds",
		Help:    "Duration of the requests that ask sidecars what they run, by endpoint.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
	}, []string{"endpoint"})

	envoyProbes = newProbes("envoy")
	agentProbes = newProbes("agent")
)

func init() {
	metrics.Registry.MustRegister(probesTotal, probeSeconds)
}

// probes counts the requests to one endpoint.
type probes struct {
	total   *prometheus.CounterVec
	seconds prometheus.Observer
}

func newProbes(endpoint string) *probes {
	p := &probes{
		total:   probesTotal.MustCurryWith(prometheus.Labels{"endpoint": endpoint}),
		seconds: probeSeconds.WithLabelValues(endpoint),
	}
	for _, result := range []Failure{success, FailureAddress, FailureTimeout, FailureRefused, FailureConnection, FailureStatus, FailureMalformed, FailureTooLarge} {
		p.total.WithLabelValues(string(result)) // a rate needs the 0 before the first probe
	}
	return p
}

// success is the result of a probe that did not fail.
const success = "success"

func (p *probes) observe(failure Failure, took time.Duration) {
	result := string(failure)
	if result == "" {
		result = success
	}
	p.total.WithLabelValues(result).Inc()
	p.seconds.Observe(took.Seconds())
}
