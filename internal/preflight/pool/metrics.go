package pool

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/wasme-io/wasme-operator/internal/preflight"
)

var (
	runsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wasme_preflights_total",
		Help: "Runs of modules before any proxy gets them, by the reason of the verdict; error for runs that failed by themselves.",
	}, []string{"reason"})
	runSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "wasme_preflight_duration_seconds",
		Help:    "Duration of these runs.",
		Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 20, 30, 60},
	})
)

// failure is the reason of runs that failed by themselves.
const failure = "error"

func init() {
	metrics.Registry.MustRegister(runsTotal, runSeconds)
	for _, reason := range append([]string{failure}, preflight.Reasons...) { // a rate needs the 0 before the first
		runsTotal.WithLabelValues(reason)
	}
}

func count(verdict preflight.Verdict, err error, took time.Duration) {
	reason := verdict.Reason
	if err != nil {
		reason = failure
	}
	runsTotal.WithLabelValues(reason).Inc()
	runSeconds.Observe(took.Seconds())
}
