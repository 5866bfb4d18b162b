package module

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// How often the places of modules were looked at, what of that was a pull, and
// what came of it. The result is success or a reason of ModuleResolved.
var (
	lookupsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wasme_module_lookups_total",
		Help: "Looks at registries and URLs for modules, by result; each pull is part of one.",
	}, []string{"result"})
	pullsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wasme_module_pulls_total",
		Help: "Pulls of images and modules that the store did not hold, by result.",
	}, []string{"result"})
	pullSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "wasme_module_pull_duration_seconds",
		Help:    "Duration of the pulls, from the manifest to the module in the store.",
		Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, pullTimeout.Seconds()},
	})
	pulledBytesTotal = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "wasme_module_pulled_bytes_total",
		Help: "Bytes of layers and modules that were read, in pulls that failed too.",
	})

	storeBytes    = prometheus.NewDesc("wasme_module_store_bytes", "Bytes in the module store, what is being written included.", nil, nil)
	storeMaxBytes = prometheus.NewDesc("wasme_module_store_max_bytes", "Bytes that the module store may hold (--module-store-max-bytes).", nil, nil)
)

// success is the result of what did not fail.
const success = "success"

// results are all that lookups and pulls come to.
var results = []string{
	success, wasmev1.ReasonInvalidSpec, wasmev1.ReasonImageNotFound, wasmev1.ReasonUnauthorized,
	wasmev1.ReasonRegistryUnavailable, wasmev1.ReasonRegistryForbidden, wasmev1.ReasonInvalidImage,
	wasmev1.ReasonInvalidModule, wasmev1.ReasonTooLarge, wasmev1.ReasonDigestMismatch, wasmev1.ReasonStoreUnavailable,
}

func init() {
	metrics.Registry.MustRegister(lookupsTotal, pullsTotal, pullSeconds, pulledBytesTotal)
	for _, result := range results { // a rate needs the 0 before the first
		lookupsTotal.WithLabelValues(result)
		pullsTotal.WithLabelValues(result)
	}
}

func resultOf(err *Error) string {
	if err == nil {
		return success
	}
	return err.Reason
}

// counted counts a lookup.
func counted(found outcome) outcome {
	lookupsTotal.WithLabelValues(resultOf(found.err)).Inc()
	return found
}

// countPull counts a pull that began then.
func countPull(begin time.Time, err error) {
	result := success
	if err != nil {
		result = ensureError(err).Reason
	}
	pullsTotal.WithLabelValues(result).Inc()
	pullSeconds.Observe(time.Since(begin).Seconds())
}

// Describe implements prometheus.Collector: the store's size and bound.
func (s *Store) Describe(ch chan<- *prometheus.Desc) {
	ch <- storeBytes
	ch <- storeMaxBytes
}

// Collect implements prometheus.Collector.
func (s *Store) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	held := s.bytes
	s.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(storeBytes, prometheus.GaugeValue, float64(held))
	ch <- prometheus.MustNewConstMetric(storeMaxBytes, prometheus.GaugeValue, float64(s.maxBytes))
}
