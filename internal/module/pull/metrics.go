package pull

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var pulledBytesTotal = prometheus.NewCounter(prometheus.CounterOpts{
	Name: "wasme_module_pulled_bytes_total",
	Help: "Bytes of layers and modules that were read, in pulls that failed too.",
})

func init() { metrics.Registry.MustRegister(pulledBytesTotal) }
