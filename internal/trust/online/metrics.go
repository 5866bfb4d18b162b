package online

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var fetchedTimestamp = prometheus.NewGauge(prometheus.GaugeOpts{
	Name: "wasme_trusted_root_fetched_timestamp_seconds",
	Help: "When the trusted root of Sigstore was last fetched, in seconds since 1970; 0 before the first time.",
})

func init() { metrics.Registry.MustRegister(fetchedTimestamp) }
