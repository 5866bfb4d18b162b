package dataplane

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// How often sidecars were asked, by what came of it, and how long that took.
// The endpoint is envoy or agent; the result is success or a Failure.
var (
	probesTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wasme_sidecar_probes_total",
		Help: "Requests to sidecars for what they run, by endpoint and result.",
	}, []string{"endpoint", "result"})
	probeSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "wasme_sidecar_probe_duration_seconds",
		Help:    "Duration of the requests to sidecars for what they run, by endpoint.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
	}, []string{"endpoint"})

	envoyProbes = newProbes("envoy")
	agentProbes = newProbes("agent")
)

func init() {
	metrics.Registry.MustRegister(probesTotal, probeSeconds)
}

// probes are those of one endpoint.
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
		p.total.WithLabelValues(string(result)) // a rate needs the 0 before the first
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
