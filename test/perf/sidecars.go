package main

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/test/sidecar"
)

const (
	metricsPath = "/stats/prometheus"
	// rowsQuery has Envoy answer with the rows of plugins, and two of listeners.
	rowsQuery = "filter=wasm.*vm_reload|listener_manager.lds.update_(success|rejected)"
	// listenerRows are the latter.
	listenerRows = "# TYPE envoy_listener_manager_lds_update_rejected counter\nenvoy_listener_manager_lds_update_rejected{} 0\n" +
		"# TYPE envoy_listener_manager_lds_update_success counter\nenvoy_listener_manager_lds_update_success{} 3\n"
	// wholePage is the size of Envoy's page without a query, as measured.
	wholePage = 41 << 10
	// recordedPlugin is the one in Envoy's page of one plugin.
	recordedPlugin = "bookinfo/details-v1/greeting@14643ae8"
)

// sidecars answer over real HTTP as the Envoys of pods do. Their page is one that
// a real Envoy gave, with the plugin's name replaced. No pilot-agent answers: it is
// asked only while a plugin is not there.
type sidecars struct {
	*sidecar.Server

	// plugins are what the pod at an address runs, without the prefix wasm_filter.
	plugins func(netip.Addr) []string
	// own is Envoy's page of one plugin, others what it shows of two more, rest
	// the page but for plugins.
	own, others, rest string
}

// start starts the server. The caller calls Close.
func (s *sidecars) start() (err error) {
	s.rest = unrelatedRows(wholePage)
	if s.own, err = sidecar.Recorded("envoy-loaded"); err != nil {
		return err
	}
	if s.others, err = sidecar.Recorded("envoy-two"); err != nil {
		return err
	}
	s.others = listenerRows + s.others
	s.Server, err = sidecar.Start(s.answer)
	return err
}

// unrelatedRows have the form of most of what Envoy shows.
func unrelatedRows(size int) string {
	var page strings.Builder
	page.WriteString("# TYPE envoy_cluster_upstream_cx_total counter\n")
	for i := 0; page.Len() < size; i++ {
		fmt.Fprintf(&page, "envoy_cluster_upstream_cx_total{cluster_name=\"outbound|9080||service-%d.shop.svc.cluster.local\"} %d\n", i, i)
	}
	return page.String()
}

func (s *sidecars) answer(w http.ResponseWriter, r *http.Request) {
	plugins := s.plugins(sidecar.PodOf(r))
	if slices.Contains(plugins, silent) {
		sidecar.Silence(w, r)
		return
	}
	sidecar.Page(s.rows(plugins))(w, r)
	if r.URL.RawQuery == "" {
		_, _ = io.WriteString(w, s.rest)
	}
}

func (s *sidecars) rows(plugins []string) string {
	var page strings.Builder
	for _, plugin := range plugins {
		page.WriteString(strings.ReplaceAll(s.own, recordedPlugin, plugin))
	}
	page.WriteString(s.others)
	return page.String()
}

// silent is the plugin of a pod that accepts requests and never answers them.
const silent = "-"

// place is where the pod with this number is asked.
func (s *sidecars) place(number int) dataplane.Pod {
	return dataplane.Pod{Address: podAddress(number), StatsPort: s.Port()}
}

// podAddress is that of the pod with this number, up to 2^16.
func podAddress(number int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 100, byte(number >> 8), byte(number)})
}

// asked are requests of Envoys' pages within a while.
type asked struct {
	length   time.Duration
	requests int
	// pods that were asked at least once.
	pods int
}

// perSecond is the number of requests.
func (a asked) perSecond() float64 { return float64(a.requests) / a.length.Seconds() }

// count counts requests until the returned function is called.
func (s *sidecars) count() func() asked {
	begin := time.Now()
	s.ResetRequests()
	return func() asked {
		requests, pods := s.AllRequests()
		return asked{length: time.Since(begin), requests: requests, pods: pods}
	}
}
