package store

import "github.com/prometheus/client_golang/prometheus"

var (
	storeBytes    = prometheus.NewDesc("wasme_module_store_bytes", "Bytes in the module store, what is being written included.", nil, nil)
	neededBytes   = prometheus.NewDesc("wasme_module_store_needed_bytes", "Bytes of the modules in the store that are in use, and so are not evicted.", nil, nil)
	evictions     = prometheus.NewDesc("wasme_module_store_evictions_total", "Modules that were evicted to make room for others.", nil, nil)
	refusals      = prometheus.NewDesc("wasme_module_store_refusals_total", "Times that a module was not stored, because all room was taken by modules in use.", nil, nil)
	storeMaxBytes = prometheus.NewDesc("wasme_module_store_max_bytes", "Bytes that the module store may hold (--module-store-max-bytes).", nil, nil)
)

// Describe implements prometheus.Collector: the store's size and bound.
func (s *Store) Describe(ch chan<- *prometheus.Desc) {
	ch <- storeBytes
	ch <- neededBytes
	ch <- storeMaxBytes
	ch <- evictions
	ch <- refusals
}

// Collect implements prometheus.Collector.
func (s *Store) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	held, needed, evicted, refused := s.bytes, s.needed(), s.evictions, s.refusals
	s.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(evictions, prometheus.CounterValue, float64(evicted))
	ch <- prometheus.MustNewConstMetric(refusals, prometheus.CounterValue, float64(refused))
	ch <- prometheus.MustNewConstMetric(storeBytes, prometheus.GaugeValue, float64(held))
	ch <- prometheus.MustNewConstMetric(neededBytes, prometheus.GaugeValue, float64(needed))
	ch <- prometheus.MustNewConstMetric(storeMaxBytes, prometheus.GaugeValue, float64(s.maxBytes))
}

// needed returns the number of bytes of the modules in the store that holders need, which are
// not evicted.
func (s *Store) needed() int64 {
	total := int64(0)
	for sha256 := range s.retention.holders {
		if stored := s.stored(sha256); stored != nil {
			total += stored.size
		}
	}
	return total
}
