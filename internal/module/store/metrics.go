package store

import "github.com/prometheus/client_golang/prometheus"

var (
	storeBytes    = prometheus.NewDesc("wasme_module_store_bytes", "Bytes in the module store, what is being written included.", nil, nil)
	storeMaxBytes = prometheus.NewDesc("wasme_module_store_max_bytes", "Bytes that the module store may hold (--module-store-max-bytes).", nil, nil)
)

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
