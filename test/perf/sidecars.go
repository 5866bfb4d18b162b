package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
)

const (
	metricsPath = "/stats/prometheus"
	// rowsQuery has Envoy answer with the rows of plugins only.
	rowsQuery = "filter=wasm.*vm_(reload|count)"
	// wholePage is the size of Envoy's page without a query, as measured.
	wholePage = 41 << 10
	// recordedPlugin is the one in Envoy's page of one plugin.
	recordedPlugin = "bookinfo/details-v1/greeting@14643ae8"
)

// sidecars answer over real HTTP as the Envoys of pods do: one server that listens
// at every address of 127.0.0.0/8, of which each pod has one. Its page is one that
// a real Envoy gave, with the plugin's name replaced. No pilot-agent answers: it is
// asked only while a plugin is not there.
type sidecars struct {
	// plugin is what the pod at an address runs, without the prefix wasm_filter.;
	// empty for none.
	plugin func(netip.Addr) string

	port   uint16
	server *http.Server
	// own is Envoy's page of one plugin, others what it shows of two more, rest
	// the page but for plugins.
	own, others, rest string

	mu sync.Mutex
	// looks are the requests since the last call of count, by pod.
	looks map[netip.Addr]int
}

// start starts the server. The caller calls stop.
func (s *sidecars) start(ctx context.Context) error {
	s.rest, s.looks = unrelatedRows(wholePage), map[netip.Addr]int{}
	for page, text := range map[string]*string{"envoy-loaded.txt": &s.own, "envoy-two.txt": &s.others} {
		if err := readRecorded(page, text); err != nil {
			return err
		}
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "0.0.0.0:0")
	if err != nil {
		return fmt.Errorf("starting sidecars: %w", err)
	}
	s.port = listener.Addr().(*net.TCPAddr).AddrPort().Port()
	s.server = &http.Server{Handler: http.HandlerFunc(s.answer), ReadHeaderTimeout: time.Minute}
	go func() { _ = s.server.Serve(listener) }()
	return nil
}

func readRecorded(page string, into *string) error {
	root, err := binaries.RepositoryRoot()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(root, "internal", "dataplane", "testdata", page))
	if err != nil {
		return fmt.Errorf("reading a sidecar's page: %w", err)
	}
	*into = string(text)
	return nil
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

func (s *sidecars) stop() { _ = s.server.Close() }

// answer accepts a request and never answers it when it is for a silent pod.
func (s *sidecars) answer(w http.ResponseWriter, r *http.Request) {
	address := podOf(r)
	s.mu.Lock()
	s.looks[address]++
	s.mu.Unlock()
	plugin := s.plugin(address)
	if plugin == silent {
		<-r.Context().Done()
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	_, _ = io.WriteString(w, s.rows(plugin))
	if r.URL.RawQuery == "" {
		_, _ = io.WriteString(w, s.rest)
	}
}

func (s *sidecars) rows(plugin string) string {
	if plugin == "" {
		return s.others
	}
	return strings.ReplaceAll(s.own, recordedPlugin, plugin) + s.others
}

// podOf is the address that a request was sent to.
func podOf(r *http.Request) netip.Addr {
	return r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr).AddrPort().Addr().Unmap()
}

// silent is the plugin of a pod that accepts requests and never answers them.
const silent = "-"

// place is where the pod with this number is asked.
func (s *sidecars) place(number int) dataplane.Pod {
	return dataplane.Pod{Address: podAddress(number), StatsPort: s.port}
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
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.looks)
	return func() asked {
		s.mu.Lock()
		defer s.mu.Unlock()
		sum := asked{length: time.Since(begin), pods: len(s.looks)}
		for _, n := range s.looks {
			sum.requests += n
		}
		return sum
	}
}
