package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sync/errgroup"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/child"
	"github.com/wasme-io/wasme-operator/internal/preflight/host"
	preflightrun "github.com/wasme-io/wasme-operator/internal/preflight/run"
	"github.com/wasme-io/wasme-operator/test/agreement"
	"github.com/wasme-io/wasme-operator/test/filters/foreign"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
)

const (
	// measuredStreams pass each module in an Envoy in each of measuredRounds, over
	// measuredClients connections.
	measuredStreams, measuredRounds, measuredClients = 2520, 7, 2
	// sharedFilters are the FilterDeployments of one image and configuration.
	sharedFilters = 1000
	// rankBound is a rank correlation that tells cheap modules from expensive ones.
	rankBound = 0.6
	// memoryError is how far the memory that proxies are said to need may be off.
	memoryError = 0.25
)

// measuredModules are of all languages and of different costs. They neither hold streams nor
// answer them, which would change what Envoy itself does.
var measuredModules = []string{
	"c/probe", "rust/config", "rust/headers", "rust/properties", "assemblyscript/metrics",
	"go/headers", "go/metrics", "go/properties", "go/queue", "go/shareddata",
}

// preflights measures what running a module costs before any proxy does, and how near what
// it tells of the module is to what Envoy shows.
func (p *perf) preflights(ctx context.Context) error {
	if err := p.cards(ctx); err != nil {
		return err
	}
	return p.sharedPreflight(ctx)
}

// card is one module in a preflight and in an Envoy.
type card struct {
	name  string
	bytes int64
	cost  *preflight.Cost
	// took and most are the time of the preflight and its peak of memory in bytes; starts
	// and peak those of a start of Envoy.
	took, starts time.Duration
	most, peak   float64
	// grown is how much more memory an Envoy has with the module after all streams, in
	// bytes, and stream is the processor time of a stream, in microseconds.
	grown, stream float64

	envoy   *agreement.Envoy
	process procfs.Proc
	// rounds are the processor times of a stream, in microseconds.
	rounds []float64
}

func (p *perf) cards(ctx context.Context) (err error) {
	folder, err := os.MkdirTemp("", "perf-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	manager := filepath.Join(folder, "manager")
	if err := binaries.Own(ctx, "./cmd/manager", manager); err != nil {
		return err
	}
	origin, err := startOrigin()
	if err != nil {
		return err
	}
	defer origin.Close()
	cards := make([]card, 1+len(measuredModules))
	defer func() {
		for i := range cards {
			if cards[i].envoy != nil {
				err = errors.Join(err, cards[i].envoy.Close())
			}
		}
	}()
	if err := cards[0].start(ctx, agreement.Setup{OriginPort: origin.port}); err != nil {
		return err
	}
	for i, name := range measuredModules {
		if err := cards[i+1].measure(ctx, manager, origin.port, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := takeRounds(ctx, cards); err != nil {
		return err
	}
	progress("no module: Envoy %s, %.0f MiB", milliseconds(cards[0].starts), mib(cards[0].peak))
	for _, c := range cards[1:] {
		progress("%s: preflight %s, %.0f MiB; Envoy %s, %.0f MiB, %.1f MiB more with it; a stream %.1f us, in Envoy %.1f us",
			c.name, milliseconds(c.took), mib(c.most), milliseconds(c.starts), mib(c.peak), mib(c.grown), micros(c.cost.Stream), c.stream)
	}
	p.compareCards(cards[1:])
	return nil
}

// takeRounds sends streams through all Envoys in turn, and subtracts what the first one,
// without a module, takes in the same round.
func takeRounds(ctx context.Context, cards []card) error {
	for round := range measuredRounds {
		for i := range cards {
			if err := cards[i].send(ctx, round == 0); err != nil {
				return err
			}
		}
	}
	bare := &cards[0]
	for i := range cards[1:] {
		c := &cards[i+1]
		for round := range c.rounds {
			c.rounds[round] -= bare.rounds[round]
		}
		slices.Sort(c.rounds)
		c.stream = c.rounds[len(c.rounds)/2]
		c.grown -= bare.grown
	}
	return nil
}

// send sends one round of streams, the first of which only has V8 compile what is hot.
func (c *card) send(ctx context.Context, first bool) error {
	before, err := c.processorTime()
	if err != nil {
		return err
	}
	if err := sendStreams(ctx, c.envoy.URL()); err != nil {
		return err
	}
	after, err := c.processorTime()
	if err != nil {
		return err
	}
	if !first {
		c.rounds = append(c.rounds, micros(after-before)/measuredStreams)
	}
	stat, err := c.process.Stat()
	if err != nil {
		return err
	}
	c.grown = float64(stat.ResidentMemory())
	return nil
}

// processorTime is that of all threads of the Envoy, to the nanosecond: the processor time of
// a process has steps of 10 ms, which are 4 us of each stream.
func (c *card) processorTime() (time.Duration, error) {
	threads, err := procfs.AllThreads(c.process.PID)
	if err != nil {
		return 0, err
	}
	total := time.Duration(0)
	for _, thread := range threads {
		stat, err := thread.Schedstat()
		if err != nil {
			return 0, err
		}
		total += time.Duration(stat.RunningNanoseconds)
	}
	return total, nil
}

// withoutStreams is the time of the preflight without its streams, of which every module has
// 10,000 and more.
func (c card) withoutStreams() time.Duration {
	return c.took - time.Duration(c.cost.Streams)*c.cost.Stream
}

func (c card) timeRatio() float64 { return c.withoutStreams().Seconds() / c.starts.Seconds() }

func mib(bytes float64) float64      { return bytes / (1 << 20) }
func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
func (c card) predicted() float64 {
	return float64(preflight.ProxyMemoryBytes(c.bytes, c.cost.StreamedMemoryBytes, 1))
}
func (c card) memoryError() float64 { return math.Abs(c.predicted()/c.grown - 1) }
func (c card) peakRatio() float64   { return c.most / c.peak }

// measure runs a module in a preflight, and then in an Envoy.
func (c *card) measure(ctx context.Context, manager string, port int, name string) error {
	m, err := foreign.Find(name)
	if err != nil {
		return err
	}
	module, err := foreign.Build(ctx, name)
	if err != nil {
		return err
	}
	c.name, c.bytes = name, int64(len(module))
	if err := settle(ctx); err != nil {
		return err
	}
	if err := c.runPreflight(ctx, manager, module, m); err != nil {
		return err
	}
	return c.start(ctx, agreement.Setup{Module: module, RootID: m.RootID, Configuration: m.Configuration, OriginPort: port})
}

// runPreflight does what the operator does to run a module.
func (c *card) runPreflight(ctx context.Context, manager string, module []byte, m foreign.Module) error {
	file, err := temporary(module)
	if err != nil {
		return err
	}
	defer file.Close()
	notes, err := temporary(make([]byte, preflightrun.NotesBytes))
	if err != nil {
		return err
	}
	defer notes.Close()
	input, err := json.Marshal(child.Input{
		Filter: preflight.Filter{RootID: m.RootID, Configuration: []byte(m.Configuration)}, Limits: preflight.DefaultLimits, ModuleBytes: c.bytes,
	})
	if err != nil {
		return err
	}
	command := exec.CommandContext(ctx, manager, child.Name)
	command.Stdin, command.ExtraFiles, command.Stderr = bytes.NewReader(input), []*os.File{file, notes}, os.Stderr
	begin := time.Now()
	written, err := command.Output()
	if err != nil {
		return fmt.Errorf("running the preflight: %w", err)
	}
	c.took = time.Since(begin)
	c.most = float64(command.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) * 1024
	var verdict preflight.Verdict
	for verdicts := json.NewDecoder(bytes.NewReader(written)); verdicts.More(); {
		if err := verdicts.Decode(&verdict); err != nil {
			return err
		}
	}
	if verdict.Reason != wasmev1.ReasonPreflighted {
		return fmt.Errorf("%s: %s", verdict.Reason, verdict.Message)
	}
	c.cost = verdict.Cost
	return nil
}

// temporary returns an open file with that content, which nobody else can open.
func temporary(content []byte) (*os.File, error) {
	file, err := os.CreateTemp("", "preflight-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	if _, err := file.Write(content); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// start starts an Envoy.
func (c *card) start(ctx context.Context, setup agreement.Setup) error {
	if err := settle(ctx); err != nil {
		return err
	}
	setup.Log = os.Stderr
	begin := time.Now()
	var err error
	if c.envoy, err = agreement.Start(ctx, setup); err != nil {
		return err
	}
	c.starts = time.Since(begin)
	if c.process, err = procfs.NewProc(c.envoy.PID()); err != nil {
		return err
	}
	started, err := c.process.NewStatus()
	if err != nil {
		return err
	}
	c.peak = float64(started.VmHWM)
	return nil
}

// sendStreams sends those that a preflight measures a module with.
func sendStreams(ctx context.Context, url string) error {
	group, ctx := errgroup.WithContext(ctx)
	for client := range measuredClients {
		group.Go(func() error {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			for i := client; i < measuredStreams; i += measuredClients {
				if err := sendStream(ctx, transport, url, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// streamHeader tells the origin which stream it is to answer.
const streamHeader = "x-stream"

func sendStream(ctx context.Context, transport *http.Transport, url string, i int) error {
	sent := preflightrun.Measured(i).Request
	method, _ := sent.Headers.Get(":method")
	if method == http.MethodConnect { // which needs an upgrade in Envoy's configuration
		method = http.MethodGet
	}
	path, _ := sent.Headers.Get(":path")
	request, err := http.NewRequestWithContext(ctx, method, url+path[1:], bytes.NewReader(sent.Content()))
	if err != nil {
		return err
	}
	setHeaders(request.Header, sent.Headers)
	request.Header.Set(streamHeader, strconv.Itoa(i))
	response, err := transport.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("sending a request: %w", err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return fmt.Errorf("reading a response: %w", err)
	}
	return nil
}

func setHeaders(target http.Header, headers host.Headers) {
	for _, line := range headers {
		if line.Name[0] != ':' {
			target.Add(line.Name, line.Value)
		}
	}
}

// origin answers each stream as the preflight does.
type origin struct {
	*http.Server
	port int
}

func startOrigin() (*origin, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &origin{
		Server: &http.Server{Handler: http.HandlerFunc(answerStream), ReadHeaderTimeout: patience},
		port:   listener.Addr().(*net.TCPAddr).Port,
	}
	go func() { _ = o.Serve(listener) }() // it ends with Close
	return o, nil
}

func answerStream(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // the client sees it when this fails
	i, err := strconv.Atoi(r.Header.Get(streamHeader))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	response := preflightrun.Measured(i).Response
	status, _ := response.Headers.Get(":status")
	code, err := strconv.Atoi(status)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	setHeaders(w.Header(), response.Headers)
	w.WriteHeader(code)
	_, _ = w.Write(response.Content()) // as above
}

// compareCards adds the rows of all modules.
func (p *perf) compareCards(cards []card) {
	byTime := func(a, b card) int { return cmp.Compare(a.timeRatio(), b.timeRatio()) }
	byPeak := func(a, b card) int { return cmp.Compare(a.peakRatio(), b.peakRatio()) }
	byError := func(a, b card) int { return cmp.Compare(a.memoryError(), b.memoryError()) }
	slow, large, wrong := slices.MaxFunc(cards, byTime), slices.MaxFunc(cards, byPeak), slices.MaxFunc(cards, byError)
	worst := func(c card) string { return fmt.Sprintf(", the worst of %d modules (%s)", len(cards), c.name) }
	p.table.add(row{
		name:     "a preflight's time without its streams, against a start of Envoy with the module" + worst(slow),
		measured: fmt.Sprintf("%s (%s with them)", milliseconds(slow.withoutStreams()), milliseconds(slow.took)), beside: "Envoy " + milliseconds(slow.starts), value: slow.timeRatio(), unit: ratio, bound: atMost(1),
	})
	p.table.add(row{
		name:     "a preflight's peak of memory, against such a start" + worst(large),
		measured: fmt.Sprintf("%.0f MiB", mib(large.most)), beside: fmt.Sprintf("Envoy %.0f MiB", mib(large.peak)), value: large.peakRatio(), unit: ratio, bound: atMost(1),
	})
	p.table.add(row{
		name:     "error of the memory that a proxy is said to need" + worst(wrong),
		measured: fmt.Sprintf("%.0f MiB", mib(wrong.predicted())), beside: fmt.Sprintf("Envoy %.0f MiB more", mib(wrong.grown)), value: wrong.memoryError(), unit: share, bound: atMost(memoryError),
	})
	p.table.add(row{
		name:     fmt.Sprintf("rank correlation of the time of a stream, of %d modules", len(cards)),
		measured: timesOf(cards, func(c card) float64 { return micros(c.cost.Stream) }), beside: "Envoy " + timesOf(cards, func(c card) float64 { return c.stream }),
		value: rankCorrelation(cards), unit: share, bound: atLeast(rankBound),
	})
}

// timesOf returns the range of times in microseconds.
func timesOf(cards []card, of func(card) float64) string {
	least := slices.MinFunc(cards, func(a, b card) int { return cmp.Compare(of(a), of(b)) })
	most := slices.MaxFunc(cards, func(a, b card) int { return cmp.Compare(of(a), of(b)) })
	return fmt.Sprintf("%.0f-%.0f us", of(least), of(most))
}

// rankCorrelation is Spearman's between the times of a stream here and in Envoy: 1 when both
// put the modules in the same order, 0 when one says nothing about the other.
func rankCorrelation(cards []card) float64 {
	ours, envoys := slices.Clone(cards), slices.Clone(cards)
	slices.SortFunc(ours, func(a, b card) int { return cmp.Compare(a.cost.Stream, b.cost.Stream) })
	slices.SortFunc(envoys, func(a, b card) int { return cmp.Compare(a.stream, b.stream) })
	squares := 0.0
	for i, c := range ours {
		j := slices.IndexFunc(envoys, func(e card) bool { return e.name == c.name })
		squares += float64((i - j) * (i - j))
	}
	n := float64(len(cards))
	return 1 - 6*squares/(n*(n*n-1))
}

// sharedPreflight counts the runs for many FilterDeployments with one image and one
// configuration.
func (p *perf) sharedPreflight(ctx context.Context) error {
	c, err := startCluster(ctx)
	if err != nil {
		return err
	}
	defer c.stop()
	operator, err := c.StartOperator(ctx, mesh.OperatorOptions{Preflight: wasmev1.PreflightEnforce})
	if err != nil {
		return err
	}
	const namespace = "shared"
	if err := c.createNamespace(ctx, namespace); err != nil {
		return err
	}
	image, err := c.push(ctx, "")
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := parallel(ctx, creators, sharedFilters, func(ctx context.Context, i int) error {
		return c.admin.Create(ctx, filterDeployment(namespace, fmt.Sprint("filter-", i), image, firstValue, nil))
	}); err != nil {
		return err
	}
	if err := c.awaitAllReady(ctx, 0, 0); err != nil {
		return err
	}
	text, err := operatorsMetrics(ctx, operator)
	if err != nil {
		return err
	}
	runs := 0.0
	for _, n := range sumBy(text, "wasme_preflights_total", "reason") {
		runs += n
	}
	p.table.add(row{
		name:     fmt.Sprintf("preflights of %s FilterDeployments of one image and configuration", thousands(sharedFilters)),
		measured: fmt.Sprintf("all Ready after %s", milliseconds(time.Since(begin))), beside: "-", value: runs, unit: count, bound: atMost(1),
	})
	return nil
}
