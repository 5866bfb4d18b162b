package dataplane

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// BenchmarkProveAChange measures from the moment that an owner expects another
// revision until it is proven everywhere. The sidecars run in this process, too:
// about half of the processor's time is theirs.
func BenchmarkProveAChange(b *testing.B) {
	for _, c := range []struct {
		pods int
		// after is how long the mesh takes.
		after time.Duration
	}{{1000, 0}, {10_000, 0}, {10_000, 10 * time.Second}} {
		b.Run(fmt.Sprintf("%d pods change after %s", c.pods, c.after), func(b *testing.B) {
			m := startMany(b, c.pods, 0)
			m.change(0)
			m.awaitProof()
			begin, requests := processorTime(b), m.asked.Load()
			for b.Loop() {
				m.change(c.after)
				m.awaitProof()
			}
			n := float64(b.N)
			b.ReportMetric((processorTime(b)-begin).Seconds()/n, "cpu-s/op")
			b.ReportMetric(float64(m.asked.Load()-requests)/n/float64(c.pods), "requests/pod")
		})
	}
}

// BenchmarkProveBesideTheDead starts among pods of which some accept a
// connection and never answer, and measures until all others are proven.
func BenchmarkProveBesideTheDead(b *testing.B) {
	for _, c := range []struct{ pods, dead int }{{2000, 20}, {2000, 1000}, {10_000, 5000}} {
		b.Run(fmt.Sprintf("%d of %d dead", c.dead, c.pods), func(b *testing.B) {
			for b.Loop() {
				m := startMany(b, c.pods, c.dead)
				m.change(0)
				m.awaitProof()
				b.StopTimer()
				m.stop()
				b.StartTimer()
			}
		})
	}
}

// BenchmarkAskInVain is the most expensive state: no pod ever runs what it
// should, and each is asked every 15 s. One operation is such a period.
func BenchmarkAskInVain(b *testing.B) {
	const pods = 10_000
	m := startMany(b, pods, 0)
	m.change(time.Hour)
	time.Sleep(3 * maxRetry) // until the delays have grown
	begin, requests := processorTime(b), m.asked.Load()
	for b.Loop() {
		time.Sleep(maxRetry)
	}
	n := float64(b.N)
	b.ReportMetric((processorTime(b)-begin).Seconds()/n, "cpu-s/op")
	b.ReportMetric(float64(m.asked.Load()-requests)/n/maxRetry.Seconds(), "requests/s")
}

// BenchmarkMemory measures what a pod with one filter takes once it is proven.
func BenchmarkMemory(b *testing.B) {
	const pods = 10_000
	for b.Loop() {
		m := startMany(b, pods, 0)
		before := heap()
		m.change(0)
		m.awaitProof()
		b.ReportMetric(float64(heap()-before)/pods, "B/pod")
		m.stop()
	}
}

// BenchmarkExpect is what a look of the controller at 10,000 pods takes when
// nothing has changed.
func BenchmarkExpect(b *testing.B) {
	m := startMany(b, 10_000, 0)
	m.change(0)
	m.awaitProof()
	b.ReportAllocs()
	for b.Loop() {
		m.prober.Expect(owner("greeting"), m.targets)
	}
}

func BenchmarkParse(b *testing.B) {
	for name, text := range map[string]string{
		"one plugin":   recorded(b, "envoy-loaded"),
		"four plugins": recorded(b, "envoy-plugins"),
		"hostile":      strings.Repeat(fmt.Sprintf("a{b=%q} 1\n", strings.Repeat("\\", 200)), maxLines+1),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = parsePage(strings.NewReader(text))
			}
		})
	}
}

// many pods, and a prober with one owner.
type many struct {
	b        *testing.B
	prober   *Prober
	targets  []Expectation
	live     int
	revision int
	shown    atomic.Pointer[string]
	asked    atomic.Int64
	woken    chan struct{}
	stop     func()
}

func startMany(b *testing.B, pods, dead int) *many {
	b.Helper()
	s := startSidecars(b)
	m := &many{b: b, live: pods - dead, woken: make(chan struct{}, 1)}
	m.shown.Store(new(string))
	alive := func(w http.ResponseWriter, r *http.Request) {
		m.asked.Add(1)
		text(*m.shown.Load())(w, r)
	}
	for i := range pods {
		answer := alive
		if i*dead/pods != (i+1)*dead/pods {
			answer = silence
		}
		m.targets = append(m.targets, Expectation{Pod: s.pod(i, answer)})
	}
	m.prober = New(func(types.NamespacedName) {
		select {
		case m.woken <- struct{}{}:
		default:
		}
	})
	m.stop = start(b, m.prober)
	return m
}

// change has the owner expect a new revision, which the pods run after a while.
func (m *many) change(after time.Duration) {
	m.revision++
	plugin := fmt.Sprintf("wasm_filter.bookinfo/details-v1/greeting@%08x", m.revision)
	for i := range m.targets {
		m.targets[i].Plugin = plugin
	}
	page := rows(reloads{}, plugin)
	if after == 0 {
		m.shown.Store(&page)
	} else {
		time.AfterFunc(after, func() { m.shown.Store(&page) })
	}
	m.prober.Expect(owner("greeting"), m.targets)
}

// awaitProof looks, as a controller does, when it is woken, but not all the time.
func (m *many) awaitProof() {
	m.b.Helper()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for deadline := time.After(5 * time.Minute); ; {
		select {
		case <-m.woken:
		case <-deadline:
			m.b.Fatal("not proven")
		}
		if proven(m.prober, "greeting", m.targets) >= m.live {
			return
		}
		<-look.C
	}
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
