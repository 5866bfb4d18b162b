package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
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
	// measuredStreams pass each module in an Envoy, over measuredClients connections.
	measuredStreams, measuredClients = 12_600, 2
	// sharedFilters are the FilterDeployments of one image and configuration.
	sharedFilters = 1000
	// rightRanks of the ranks of measuredModules must be Envoy's, and their memory may be
	// memoryError off.
	rightRanks, memoryError = 9, 0.25
)

// measuredModules are of all languages and of different costs, and hold no stream.
var measuredModules = []string{
	"c/probe", "rust/hello", "rust/headers", "rust/body", "rust/config",
	"assemblyscript/metrics", "go/headers", "go/body", "go/json", "go/metrics",
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
}

func (p *perf) cards(ctx context.Context) error {
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
	port := origin.port
	bare := card{name: "no module"}
	if err := bare.runEnvoy(ctx, agreement.Setup{OriginPort: port}); err != nil {
		return err
	}
	cards := make([]card, len(measuredModules))
	for i, name := range measuredModules {
		c := &cards[i]
		if err := c.measure(ctx, manager, port, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		c.grown -= bare.grown
		c.stream -= bare.stream
		progress("%s: preflight %s, %.0f MiB; Envoy %s, %.0f MiB, %.1f MiB more with it; a stream %.1f us, in Envoy %.1f us",
			name, milliseconds(c.took), mib(c.most), milliseconds(c.starts), mib(c.peak), mib(c.grown), micros(c.cost.Stream), c.stream)
	}
	p.compareCards(cards)
	return nil
}

func mib(bytes float64) float64      { return bytes / (1 << 20) }
func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
func (c card) predicted() float64 {
	return float64(preflight.ProxyMemoryBytes(c.bytes, c.cost.StreamedMemoryBytes, 1))
}
func (c card) memoryError() float64 { return math.Abs(c.predicted()/c.grown - 1) }
func (c card) timeRatio() float64   { return c.took.Seconds() / c.starts.Seconds() }
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
	return c.runEnvoy(ctx, agreement.Setup{Module: module, RootID: m.RootID, Configuration: m.Configuration, OriginPort: port})
}

// runPreflight does what the operator does to run a module.
func (c *card) runPreflight(ctx context.Context, manager string, module []byte, m foreign.Module) error {
	file, err := os.CreateTemp("", "module-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if _, err := file.Write(module); err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	input, err := json.Marshal(child.Input{
		Filter: preflight.Filter{RootID: m.RootID, Configuration: []byte(m.Configuration)}, Limits: preflight.DefaultLimits, ModuleBytes: c.bytes,
	})
	if err != nil {
		return err
	}
	command := exec.CommandContext(ctx, manager, child.Name)
	command.Stdin, command.ExtraFiles, command.Stderr = bytes.NewReader(input), []*os.File{file}, os.Stderr
	begin := time.Now()
	written, err := command.Output()
	if err != nil {
		return fmt.Errorf("running the preflight: %w", err)
	}
	c.took = time.Since(begin)
	c.most = float64(command.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) * 1024
	var verdict preflight.Verdict
	if err := json.Unmarshal(written, &verdict); err != nil {
		return err
	}
	if verdict.Reason != wasmev1.ReasonPreflighted {
		return fmt.Errorf("%s: %s", verdict.Reason, verdict.Message)
	}
	c.cost = verdict.Cost
	return nil
}

// runEnvoy starts an Envoy, and sends streams through it.
func (c *card) runEnvoy(ctx context.Context, setup agreement.Setup) (err error) {
	if err := settle(ctx); err != nil {
		return err
	}
	setup.Log = os.Stderr
	begin := time.Now()
	e, err := agreement.Start(ctx, setup)
	if err != nil {
		return err
	}
	c.starts = time.Since(begin)
	defer func() { err = cmp.Or(err, e.Close()) }()
	process, err := procfs.NewProc(e.PID())
	if err != nil {
		return err
	}
	started, err := process.NewStatus()
	if err != nil {
		return err
	}
	c.peak = float64(started.VmHWM)
	if err := sendStreams(ctx, e.URL(), measuredStreams/10); err != nil { // V8 compiles what is hot
		return err
	}
	before, err := process.Stat()
	if err != nil {
		return err
	}
	if err := sendStreams(ctx, e.URL(), measuredStreams); err != nil {
		return err
	}
	after, err := process.Stat()
	if err != nil {
		return err
	}
	c.stream = (after.CPUTime() - before.CPUTime()) / measuredStreams * 1e6
	c.grown = float64(after.ResidentMemory())
	return nil
}

// sendStreams sends those that a preflight measures a module with.
func sendStreams(ctx context.Context, url string, streams int) error {
	group, ctx := errgroup.WithContext(ctx)
	for client := range measuredClients {
		group.Go(func() error {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			for i := client; i < streams; i += measuredClients {
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
	of := fmt.Sprintf(", the worst of %d modules (%%s)", len(cards))
	p.table.add(row{
		name:     "a preflight's time, against a start of Envoy with the module" + fmt.Sprintf(of, slow.name),
		measured: milliseconds(slow.took), beside: "Envoy " + milliseconds(slow.starts), value: slow.timeRatio(), unit: ratio, bound: atMost(1),
	})
	p.table.add(row{
		name:     "a preflight's peak of memory, against such a start" + fmt.Sprintf(of, large.name),
		measured: fmt.Sprintf("%.0f MiB", mib(large.most)), beside: fmt.Sprintf("Envoy %.0f MiB", mib(large.peak)), value: large.peakRatio(), unit: ratio, bound: atMost(1),
	})
	p.table.add(row{
		name:     "error of the memory that a proxy is said to need" + fmt.Sprintf(of, wrong.name),
		measured: fmt.Sprintf("%.0f MiB", mib(wrong.predicted())), beside: fmt.Sprintf("Envoy %.0f MiB more", mib(wrong.grown)), value: wrong.memoryError(), unit: share, bound: atMost(memoryError),
	})
	p.table.add(row{
		name:     fmt.Sprintf("modules that rank by the time of a stream where Envoy ranks them, of %d", len(cards)),
		measured: "-", beside: "-", value: float64(sameRanks(cards)), unit: count, bound: atLeast(rightRanks),
	})
}

// sameRanks returns how many modules have the same place in both orders by the time of a
// stream.
func sameRanks(cards []card) (same int) {
	ours, envoys := slices.Clone(cards), slices.Clone(cards)
	slices.SortFunc(ours, func(a, b card) int { return cmp.Compare(a.cost.Stream, b.cost.Stream) })
	slices.SortFunc(envoys, func(a, b card) int { return cmp.Compare(a.stream, b.stream) })
	for i := range ours {
		if ours[i].name == envoys[i].name {
			same++
		}
	}
	return same
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
