package resolve

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
)

// Looks at the places of modules, and the pulls among them, by result: success or
// a reason of ModuleResolved.
var (
	lookupsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "wasme_module_lookups_total",
		Help: "Lookups of modules in registries and at URLs, by result; each pull is part of one.",
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
)

// success is the result of a look or pull that did not fail.
const success = "success"

// results are all possible results of lookups and pulls.
var results = []string{
	success, wasmev1.ReasonInvalidSpec, wasmev1.ReasonImageNotFound, wasmev1.ReasonUnauthorized,
	wasmev1.ReasonRegistryUnavailable, wasmev1.ReasonRegistryForbidden, wasmev1.ReasonInvalidImage,
	wasmev1.ReasonInvalidModule, wasmev1.ReasonTooLarge, wasmev1.ReasonDigestMismatch, wasmev1.ReasonStoreUnavailable,
}

func init() {
	metrics.Registry.MustRegister(lookupsTotal, pullsTotal, pullSeconds)
	for _, result := range results { // a rate needs the 0 before the first
		lookupsTotal.WithLabelValues(result)
		pullsTotal.WithLabelValues(result)
	}
}

func resultOf(err *module.Error) string {
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

// countPull counts a pull that began at begin.
func countPull(begin time.Time, err error) {
	result := success
	if err != nil {
		result = asError(err).Reason
	}
	pullsTotal.WithLabelValues(result).Inc()
	pullSeconds.Observe(time.Since(begin).Seconds())
}
