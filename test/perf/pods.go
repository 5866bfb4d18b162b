package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/wasme-io/wasme-operator/internal/dataplane"
)

const (
	// provenBound in seconds is how long pods may take to prove a change, and how
	// long some may hold up the proof of others.
	provenBound = 30
	// roundBound in seconds is how long a round over all pods may take when idle.
	roundBound = 5 * 60
	// proveRounds is how often each side is measured, in turn.
	proveRounds = 5
	// askers is how many pods the prober asks at once, and so the bare client.
	askers = 64
	// idleWindow is how long requests are counted while nothing changes: 1,000 pods
	// are asked twice in it, and a quarter of 10,000 once, each pod at a moment of its own.
	idleWindow = time.Minute

	manyPods = 2000
	deadPods = manyPods / 100
)

// pods measures what it costs to ask pods what they run, with the operator's
// prober in this process and the sidecars in it, too.
func (p *perf) pods(ctx context.Context) error {
	for _, n := range []int{1000, 10_000} {
		if err := p.provePods(ctx, n); err != nil {
			return fmt.Errorf("%d pods: %w", n, err)
		}
	}
	return p.deadPods(ctx)
}

func (p *perf) provePods(ctx context.Context, n int) error {
	f, err := startFleet(ctx, n, 0)
	if err != nil {
		return err
	}
	defer f.stop()
	before := heapInUse()
	if _, err := f.change(ctx); err != nil {
		return err
	}
	if err := settle(ctx); err != nil {
		return err
	}
	taken := heapInUse() - before
	p.table.add(row{
		name:     fmt.Sprintf("memory of the prober, %s pods", thousands(n)),
		measured: fmt.Sprintf("%.1f MiB", taken/(1<<20)),
		beside:   "-",
		value:    taken / float64(n),
		unit:     "%.0f B a pod",
	})
	if err := p.proveChanges(ctx, f); err != nil {
		return err
	}
	return p.idleRound(ctx, f)
}

// proveChanges measures from the moment that another revision is expected until
// it is proven everywhere, in a mesh that takes no time.
func (p *perf) proveChanges(ctx context.Context, f *fleet) error {
	var ours, theirs, whole samples
	for range proveRounds {
		for _, side := range []struct {
			series *samples
			lap    func(context.Context) (time.Duration, error)
		}{
			{&ours, f.change},
			{&theirs, func(ctx context.Context) (time.Duration, error) { return f.fetchAll(ctx, "?"+rowsQuery) }},
			{&whole, func(ctx context.Context) (time.Duration, error) { return f.fetchAll(ctx, "") }},
		} {
			took, err := side.lap(ctx)
			if err != nil {
				return err
			}
			*side.series = append(*side.series, took)
			if err := settle(ctx); err != nil {
				return err
			}
		}
	}
	n := len(f.targets)
	name := fmt.Sprintf("a change proven in %s pods", thousands(n))
	p.table.add(row{
		name: name + ", longest", measured: ours.String(), beside: "-",
		value: longest(ours).Seconds(), unit: seconds, bound: atMost(provenBound),
	})
	// Without a bound: a change is looked for after 250 ms at the earliest, for no mesh
	// is faster, and that is most of it.
	p.table.addRatio(name, ours, "the same pages fetched", theirs, nil)
	p.table.addRatio(name, ours, "whole pages fetched", whole, nil)
	return nil
}

// idleRound measures how many requests are sent while nothing changes, and
// from that how long a round over all pods takes.
func (p *perf) idleRound(ctx context.Context, f *fleet) error {
	counted := f.sidecars.count()
	if err := pause(ctx, idleWindow); err != nil {
		return err
	}
	n, asked := len(f.targets), counted()
	if asked.requests == 0 {
		return errors.New("no pod was asked at all")
	}
	p.table.add(row{
		name:     fmt.Sprintf("a round when idle, %s pods", thousands(n)),
		measured: fmt.Sprintf("%d requests in %s, %.1f a second", asked.requests, asked.length.Round(time.Second), asked.perSecond()),
		beside:   fmt.Sprintf("%d pods asked", asked.pods),
		value:    float64(n) / asked.perSecond(),
		unit:     seconds,
		bound:    atMost(roundBound),
	})
	return nil
}

// deadPods measures how far pods that do not answer hold up those that do: half
// of them accept a request and never answer, half refuse the connection.
func (p *perf) deadPods(ctx context.Context) error {
	f, err := startFleet(ctx, manyPods, deadPods)
	if err != nil {
		return err
	}
	defer f.stop()
	alive, named, err := f.changeBesideDead(ctx)
	if err != nil {
		return err
	}
	for _, end := range []struct {
		what string
		took time.Duration
	}{{"the others proven", alive}, {"the dead named", named}} {
		p.table.add(row{
			name:     fmt.Sprintf("%s pods of which %d are dead, %s", thousands(manyPods), deadPods, end.what),
			measured: milliseconds(end.took),
			beside:   "half accept and never answer, half refuse",
			value:    end.took.Seconds(),
			unit:     seconds,
			bound:    atMost(provenBound),
		})
	}
	return nil
}

// fleet is many pods, and a prober with one owner that wants one plugin of all.
type fleet struct {
	sidecars *sidecars
	prober   *dataplane.Prober
	targets  []dataplane.Expectation
	woken    chan struct{}
	stop     func()
	changes  int
	// running is what the pods run.
	running atomic.Pointer[string]
}

var fleetOwner = types.NamespacedName{Namespace: "shop", Name: "filter"}

func startFleet(ctx context.Context, pods, dead int) (*fleet, error) {
	f := &fleet{woken: make(chan struct{}, 1)}
	f.running.Store(new(string))
	silenced := map[netip.Addr]bool{}
	f.sidecars = &sidecars{plugins: func(address netip.Addr) []string {
		if silenced[address] {
			return []string{silent}
		}
		return strings.Fields(*f.running.Load()) // none before the first
	}}
	if err := f.sidecars.start(); err != nil {
		return nil, err
	}
	refused, err := refusingPort(ctx)
	if err != nil {
		f.sidecars.Close()
		return nil, err
	}
	for i := range pods {
		pod := f.sidecars.place(i)
		pod.UID = types.UID(fmt.Sprintf("00000000-0000-0000-0000-%012d", i))
		// The dead are spread over all.
		switch nth := i * dead / pods; {
		case nth == (i+1)*dead/pods:
		case nth%2 == 0:
			silenced[pod.Address] = true
		default:
			pod.StatsPort = refused
		}
		f.targets = append(f.targets, dataplane.Expectation{Pod: pod, Explain: true})
	}
	f.prober = dataplane.New(func(types.NamespacedName) {
		select {
		case f.woken <- struct{}{}:
		default:
		}
	})
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = f.prober.Start(ctx) // it has no errors
	}()
	f.stop = func() {
		cancel()
		<-ended
		f.sidecars.Close()
	}
	return f, nil
}

// refusingPort is one that nothing listens on.
func refusingPort(ctx context.Context) (uint16, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "0.0.0.0:0")
	if err != nil {
		return 0, fmt.Errorf("looking for a free port: %w", err)
	}
	return listener.Addr().(*net.TCPAddr).AddrPort().Port(), listener.Close()
}

// expect has the owner want a new revision, which the pods run at once.
func (f *fleet) expect() {
	f.changes++
	plugin := fmt.Sprintf("shop/app/filter@%08x", f.changes)
	f.running.Store(&plugin)
	for i := range f.targets {
		f.targets[i].Plugin = "wasm_filter." + plugin
	}
	f.prober.Expect(fleetOwner, f.targets)
}

// change is how long a change takes to be proven everywhere.
func (f *fleet) change(ctx context.Context) (time.Duration, error) {
	return stopwatch(func() error {
		f.expect()
		return f.await(ctx, len(f.targets), proven)
	})
}

// changeBesideDead is how long it takes until the live pods are proven, and the
// dead are named.
func (f *fleet) changeBesideDead(ctx context.Context) (alive, named time.Duration, err error) {
	begin := time.Now()
	f.expect()
	if err := f.await(ctx, manyPods-deadPods, proven); err != nil {
		return 0, 0, err
	}
	alive = time.Since(begin)
	err = f.await(ctx, deadPods, func(v dataplane.Verdict) bool { return v.State == dataplane.StateUnreachable })
	return alive, time.Since(begin), err
}

func proven(v dataplane.Verdict) bool { return v.Proven() }

// await looks, as the controller does, when it is woken, but not all the time.
func (f *fleet) await(ctx context.Context, n int, verdict func(dataplane.Verdict) bool) error {
	const looks = 50 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		there := 0
		for _, v := range f.prober.Expect(fleetOwner, f.targets) {
			if verdict(v) {
				there++
			}
		}
		if there == n {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d pods, with %d there: %w", n, there, ctx.Err())
		case <-f.woken:
		}
		if err := pause(ctx, looks); err != nil {
			return err
		}
	}
}

// fetchAll has a bare client fetch a page of each pod, with the prober's
// concurrency and, as each pod is asked once, a connection for each.
func (f *fleet) fetchAll(ctx context.Context, query string) (time.Duration, error) {
	bare := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	return stopwatch(func() error {
		return parallel(ctx, askers, len(f.targets), func(ctx context.Context, i int) error {
			at := netip.AddrPortFrom(f.targets[i].Pod.Address, f.targets[i].Pod.StatsPort)
			return fetchPage(ctx, bare, "http://"+at.String()+metricsPath+query)
		})
	})
}

func fetchPage(ctx context.Context, from *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	response, err := from.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %d", url, response.StatusCode)
	}
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return fmt.Errorf("reading %s: %w", url, err)
	}
	return nil
}

// heapInUse is what is left on this process's heap after a collection, in bytes.
func heapInUse() float64 {
	runtime.GC()
	runtime.GC() // what finalizers freed
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc)
}

// thousands is a number with commas.
func thousands(n int) string {
	digits := fmt.Sprint(n)
	var out strings.Builder
	for i, digit := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			out.WriteByte(',')
		}
		out.WriteRune(digit)
	}
	return out.String()
}
