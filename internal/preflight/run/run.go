// Package run runs a module with its configuration, with synthetic streams, and judges
// it.
//
// Run (run.go) compiles the module, starts and configures it twice, as a proxy does,
// which tries a configuration before its workers get it; passes the streams of
// streams.go; changes its configuration; and ends it. verdict.go words what went wrong,
// and cost.go measures. It refuses only what a proxy would refuse, too, or what would
// fail requests there.
package run

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// shares of the time of a run after which it does less, so that a module that is only
// slow gets its verdict: the streams that look for faults, and those that measure.
const (
	faultsShare = 3
	costShare   = 2
	// maxMeasuring bounds the time of the streams that measure.
	maxMeasuring = 3 * time.Second
	// maxRunning bounds the time of a run without compiling.
	maxRunning = 10 * time.Second
)

// name is that of the plugin and of its VM, whatever they are called in proxies: the same
// module and configuration give the same verdict.
const name = "preflight"

// run is one run of a module.
type run struct {
	filter  preflight.Filter
	limits  preflight.Limits
	begun   time.Time // after it was compiled
	time    time.Duration
	ctx     context.Context
	cancel  context.CancelFunc
	world   *host.World
	program *host.Program
	tests   int // that it has passed
	logs    logs
	unknown []string
	notes   Notes
	passed  func(preflight.Verdict)
	cost    preflight.Cost

	moduleBytes int64
}

// Run runs a module. It takes as long as compiling does, which cannot be interrupted, and
// Time(limits) after that, at most: with a watch, whoever watches has to see to that.
func Run(ctx context.Context, wasm []byte, filter preflight.Filter, limits preflight.Limits, watch *Watch) preflight.Verdict {
	r, failed := begin(ctx, wasm, filter, limits, watch)
	if failed != nil {
		return *failed
	}
	defer r.end()
	return r.all()
}

// begin compiles a module and begins a run. The verdict is on a module that could not be
// compiled; nil otherwise, and then end frees what the run has.
func begin(ctx context.Context, wasm []byte, filter preflight.Filter, limits preflight.Limits, watch *Watch) (*run, *preflight.Verdict) {
	begun := time.Now()
	if v, capped := checkCode(wasm, limits); capped {
		return nil, &v
	}
	interruption := host.Interruptible
	if watch != nil {
		interruption = host.Uninterruptible
	}
	program, err := host.Compile(ctx, wasm, interruption)
	if err != nil {
		return nil, new(verdictOf(host.AsFailure(err)))
	}
	r := &run{filter: filter, limits: limits, begun: time.Now(), time: Time(limits), program: program, moduleBytes: int64(len(wasm))}
	r.cost.Compile = r.begun.Sub(begun)
	if watch != nil {
		r.notes, r.logs.notes, r.passed = watch.Notes, watch.Notes, watch.Passed
		watch.Compiled()
	}
	r.ctx, r.cancel = context.WithDeadline(ctx, r.begun.Add(r.time))
	r.world = host.NewWorld(r.ctx)
	if len(filter.HostEnvironment) > 0 {
		r.ask("the sidecar's environment variables " + strings.Join(filter.HostEnvironment, ", "))
	}
	return r, nil
}

func (r *run) end() {
	r.cancel()
	_ = r.program.Close(context.WithoutCancel(r.ctx)) // memory only
}

// Time is how long a run may take once the module is compiled.
func Time(limits preflight.Limits) time.Duration { return min(limits.Time, maxRunning) }

// all makes the steps in their order until one fails.
func (r *run) all() preflight.Verdict {
	for _, step := range []func() *preflight.Verdict{r.tryConfiguration, r.test, r.work} {
		if failed := step(); failed != nil {
			failed.Logs = r.logs.kept
			undecided(failed, strings.Join(r.unknown, ", "))
			return *failed
		}
	}
	r.cost.ProxyMemoryBytes = preflight.ProxyMemoryBytes(r.moduleBytes, r.cost.StreamedMemoryBytes, preflight.ProxyWorkers)
	r.cost.Capabilities = capabilities(r.program.Imports, slices.Contains(r.cost.Capabilities, readsBodies))
	v := preflight.Verdict{Reason: wasmev1.ReasonPreflighted, Message: r.praise(), Cost: &r.cost}
	if r.passed != nil {
		r.passed(v)
	}
	v.Warnings = r.warnings()
	return v
}

// praise says what a module has passed.
func (r *run) praise() string {
	if r.tests == 0 {
		return fmt.Sprintf("the module ran %d streams without a fault", r.cost.Streams)
	}
	return fmt.Sprintf("the module passed %d tests and ran %d streams without a fault", r.tests, r.cost.Streams)
}

func (r *run) options() host.Options {
	return host.Options{
		Limits: host.Limits{MemoryBytes: uint64(r.limits.MemoryBytes)}, //nolint:gosec // a flag that is checked
		VMID:   name, Environment: r.filter.Environment, LogLevel: host.Info, Log: r.logs.add, Calling: r.notes.calling, Asked: r.ask, Now: time.Now,
	}
}

func (r *run) plugin() *host.Plugin {
	return &host.Plugin{Name: name, RootID: r.filter.RootID, Configuration: string(r.filter.Configuration)}
}

// start makes a VM with the filter configured.
func (r *run) start() (*host.VM, *host.Plugin, *preflight.Verdict) {
	r.notes.doing("as it started")
	vm, err := r.program.NewVM(r.world, r.options())
	if err != nil {
		return nil, nil, r.failed(wasmev1.ReasonStartFailed, host.AsFailure(err), "as it started")
	}
	plugin := r.plugin()
	if failed := r.configure(vm, plugin, "as it was configured"); failed != nil {
		return nil, nil, failed
	}
	return vm, plugin, nil
}

// configure configures a plugin.
func (r *run) configure(vm *host.VM, plugin *host.Plugin, when string) *preflight.Verdict {
	r.notes.doing(when)
	err := vm.Configure(plugin)
	r.note(vm)
	failure := host.AsFailure(err)
	switch {
	case failure == nil:
		return nil
	case r.deniesRootID(failure):
		return r.failed(wasmev1.ReasonUnknownRootID, failure, fmt.Sprintf("with the root id %q", r.filter.RootID))
	case starting(failure):
		return r.failed(wasmev1.ReasonStartFailed, failure, when)
	case failure.Kind == host.Refused:
		return r.failed(wasmev1.ReasonConfigurationRefused, failure, when)
	default:
		return r.failed(wasmev1.ReasonTrapped, failure, when)
	}
}

// ask keeps what the module asked for that only a proxy knows.
func (r *run) ask(question string) {
	if !slices.Contains(r.unknown, question) {
		r.unknown = append(r.unknown, question)
		r.notes.asked(r.unknown)
	}
}

// note keeps what a VM was seen to do.
func (r *run) note(vm *host.VM) {
	if vm.ReadBody && !slices.Contains(r.cost.Capabilities, readsBodies) {
		r.cost.Capabilities = append(r.cost.Capabilities, readsBodies)
	}
}

// rootIDWords are what SDKs say when they do not know a root id.
var rootIDWords = []string{"root id", "rootid", "root context", "context factory"}

// deniesRootID reports whether a failure is about the root id: the image lists others and
// the module does not start, or the last that it logged says so.
func (r *run) deniesRootID(f *host.Failure) bool {
	if starting(f) && len(r.filter.KnownRootIDs) > 0 && !slices.Contains(r.filter.KnownRootIDs, r.filter.RootID) {
		return true
	}
	logged := r.logs.kept
	if len(logged) == 0 {
		return false
	}
	line := logged[len(logged)-1]
	text := strings.NewReplacer("_", " ", "-", " ").Replace(strings.ToLower(line))
	return strings.Contains(line, r.filter.RootID) && slices.ContainsFunc(rootIDWords, func(words string) bool { return strings.Contains(text, words) })
}

// starting reports whether a module failed before it was asked about its configuration.
func starting(f *host.Failure) bool {
	return f.Callback == "proxy_on_vm_start" || f.Callback == "proxy_on_context_create"
}

// tryConfiguration does what a proxy does before its workers get a configuration.
func (r *run) tryConfiguration() *preflight.Verdict {
	vm, _, failed := r.start()
	if failed != nil {
		return failed
	}
	_ = vm.Close() // memory only
	return nil
}

// work does what one worker of a proxy does: streams, a changed configuration, the end.
func (r *run) work() *preflight.Verdict {
	vm, plugin, failed := r.start()
	if failed != nil {
		return failed
	}
	defer vm.Close()
	r.cost.MemoryBytes = int64(vm.MemoryBytes()) //nolint:gosec // at most 1 GiB
	next := r.plugin()
	for _, step := range []func() *preflight.Verdict{
		func() *preflight.Verdict { return r.findFaults(vm, plugin) },
		func() *preflight.Verdict { return r.measure(vm, plugin) },
		func() *preflight.Verdict { return r.configure(vm, next, "when its configuration was changed under it") },
		func() *preflight.Verdict { return r.pass(vm, next, 0) },
	} {
		if failed := step(); failed != nil {
			return failed
		}
	}
	r.notes.doing("as it ended")
	for _, ended := range []*host.Plugin{plugin, next} {
		vm.Remove(ended)
		if f := vm.Failure(); f != nil {
			return r.failed(wasmev1.ReasonTrapped, f, "as it ended")
		}
	}
	return nil
}

// overlapping is the number of streams that are under way at a time.
const overlapping = 8

// findFaults passes all synthetic streams, several at a time, their parts in a mixed
// order, which is the same in each run.
func (r *run) findFaults(vm *host.VM, plugin *host.Plugin) *preflight.Verdict {
	order := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a reproducible order, no secret
	type open struct {
		drive  *host.Drive
		number int
	}
	var streams []open
	next := 0
	for next < count || len(streams) > 0 {
		if r.spent(faultsShare) {
			next = count
		}
		if next < count && len(streams) < overlapping {
			streams = append(streams, open{vm.NewDrive(plugin, synthetic(next).exchange), next})
			next++
		}
		if len(streams) == 0 {
			break
		}
		i := order.IntN(len(streams))
		under := streams[i]
		r.notes.passing(under.number+1, synthetic(under.number).name)
		if !under.drive.Step() {
			r.serve(vm, under.number)
			under.drive.Settle()
			if under.drive.Step() {
				continue
			}
			under.drive.Close()
			streams = slices.Delete(streams, i, i+1)
			r.cost.Streams++
		}
		if f := vm.Failure(); f != nil {
			return r.failed(wasmev1.ReasonTrapped, f, inStream(under.number+1, synthetic(under.number).name))
		}
	}
	r.note(vm)
	return nil
}

// serve does what happens beside streams: call-outs are answered, in turn well, badly and
// not at all; queues are delivered, and ticks come.
func (r *run) serve(vm *host.VM, number int) {
	for i, made := range vm.Calls() {
		vm.Answer(made, answer(number+i, made))
	}
	r.world.DeliverQueues()
	vm.Tick()
	r.note(vm)
}

// answer returns what a call-out is answered with; nil for a failure.
func answer(i int, made *host.Call) *host.Message {
	switch {
	case i%3 == 2:
		return nil
	case made.GRPC:
		return &host.Message{Headers: host.Headers{{Name: "content-type", Value: "application/grpc"}}, Body: [][]byte{{}}}
	case i%3 == 1:
		return &host.Message{Headers: host.Headers{{Name: ":status", Value: "503"}}}
	}
	return &host.Message{
		Headers: host.Headers{{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/json"}},
		Body:    [][]byte{[]byte(`{"ok":true}`)},
	}
}

// pass passes one synthetic stream as a whole.
func (r *run) pass(vm *host.VM, plugin *host.Plugin, number int) *preflight.Verdict {
	stream := synthetic(number)
	r.notes.passing(r.cost.Streams+1, stream.name)
	drive := vm.NewDrive(plugin, stream.exchange)
	for drive.Step() {
	}
	if drive.Waiting() {
		r.serve(vm, number)
		for drive.Step() {
		}
	}
	drive.Close()
	if f := vm.Failure(); f != nil {
		return r.failed(wasmev1.ReasonTrapped, f, inStream(r.cost.Streams+1, stream.name))
	}
	r.cost.Streams++
	return nil
}

// spent reports whether the run has used up one of so many shares of its time.
func (r *run) spent(shares int) bool {
	return time.Since(r.begun) > r.time/time.Duration(shares)
}

// warnings passes hostile streams, each through a VM of its own, and returns which of them
// crash the module.
func (r *run) warnings() []string {
	var crashes []string
	for _, s := range hostile() {
		vm, plugin, failed := r.start()
		if failed != nil {
			break // the time is over, or the shared data of earlier streams; it was started often enough
		}
		r.notes.doing(s.name)
		vm.NewDrive(plugin, s.exchange).Run()
		if vm.Failure() != nil && len(vm.Unknown) == 0 {
			crashes = append(crashes, s.name)
		}
		_ = vm.Close() // memory only
	}
	return crashes
}
