package traffic

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/host"
	"github.com/wasme-io/wasme-operator/internal/preflight/run"
)

// Subject is a module with what it is configured with.
type Subject struct {
	// Name is what users call it.
	Name string
	// Wasm is the content of the .wasm file.
	Wasm []byte
	// RootID and Configuration are as in a FilterDeployment.
	RootID, Configuration string
}

// Replay passes exchanges through two modules, in their order, and reports where the second
// differs from the first. Both see the time at which each request was recorded, for as long
// as it is under way, and the same answers to what they ask of the proxy. Each module runs
// twice: what differs between its two runs is chance, and is not compared.
//
// The error is about a module that cannot start; then it wraps a *host.Failure.
func Replay(ctx context.Context, exchanges []Exchange, before, after Subject) (Report, error) {
	r := &replay{comparison: newComparison()}
	defer r.close()
	for i, subject := range []Subject{before, after} {
		if err := r.start(ctx, i, subject); err != nil {
			return Report{}, fmt.Errorf("starting %s: %w", subject.Name, err)
		}
	}
	for i, e := range exchanges {
		if err := r.pass(i, e); err != nil {
			return Report{}, err
		}
		if ctx.Err() != nil {
			return Report{}, context.Cause(ctx)
		}
	}
	return r.comparison.report(exchanges, r.notes()), nil
}

// replay is one replay: each subject runs twice.
type replay struct {
	programs   []*host.Program
	runs       [2][2]*instance
	comparison *comparison
}

func (r *replay) start(ctx context.Context, place int, subject Subject) error {
	program, err := host.Compile(ctx, subject.Wasm, host.Interruptible)
	if err != nil {
		return err
	}
	r.programs = append(r.programs, program)
	for twin := range r.runs[place] {
		i := &instance{parent: ctx, subject: subject, program: program}
		if err := i.start(); err != nil {
			return err
		}
		r.runs[place][twin] = i
	}
	return nil
}

// pass passes the exchange of that number through all runs.
func (r *replay) pass(number int, e Exchange) error {
	var results [2][2]facts
	for place, twins := range r.runs {
		for twin, i := range twins {
			result, err := i.pass(e)
			if err != nil {
				return fmt.Errorf("starting %s again after request %d: %w", i.subject.Name, number+1, err)
			}
			results[place][twin] = result
		}
	}
	r.comparison.add(number, e.Request.Target(), results)
	return nil
}

func (r *replay) close() {
	for _, twins := range r.runs {
		for _, i := range twins {
			if i != nil {
				i.stop()
			}
		}
	}
	for _, program := range r.programs {
		_ = program.Close(context.Background()) // memory only
	}
}

// notes are what the runs have seen that limits what the replay shows.
func (r *replay) notes() []string {
	var asked []string
	calls := 0
	for _, twins := range r.runs {
		calls += twins[0].calls
		for _, question := range twins[0].asked {
			if !slices.Contains(asked, question) {
				asked = append(asked, question)
			}
		}
	}
	var notes []string
	if calls > 0 {
		notes = append(notes, fmt.Sprintf("the modules called out %d times: each call was answered with 200 and no body", calls))
	}
	if len(asked) > 0 {
		notes = append(notes, "the modules asked for what only a proxy knows, and got no answer: "+strings.Join(asked, ", "))
	}
	return notes
}

// maxExchangeTime bounds a module's work on one exchange.
const maxExchangeTime = 10 * time.Second

// instance is one run of a subject. Its VM starts anew after a failure, as in a proxy.
type instance struct {
	parent  context.Context
	subject Subject
	program *host.Program
	cancel  context.CancelFunc
	world   *host.World
	vm      *host.VM // nil once it is stopped
	plugin  *host.Plugin
	now     time.Time
	calls   int
	asked   []string // what only a proxy knows
}

func (i *instance) start() error {
	ctx, cancel := context.WithCancel(i.parent)
	i.cancel, i.world = cancel, host.NewWorld(ctx)
	defer time.AfterFunc(maxExchangeTime, cancel).Stop()
	vm, err := i.program.NewVM(i.world, host.Options{
		Limits: host.Limits{MemoryBytes: uint64(preflight.DefaultLimits.MemoryBytes)}, //nolint:gosec // a constant
		VMID:   "replay", LogLevel: host.Info, Log: func(host.Line) {}, Now: func() time.Time { return i.now },
		Asked: func(question string) { i.asked = append(i.asked, question) },
	})
	if err != nil {
		cancel()
		return err
	}
	i.vm, i.plugin = vm, &host.Plugin{Name: "replay", RootID: i.subject.RootID, Configuration: i.subject.Configuration}
	if err := vm.Configure(i.plugin); err != nil {
		i.stop()
		return err
	}
	return nil
}

func (i *instance) stop() {
	if i.vm != nil {
		_ = i.vm.Close() // memory only
	}
	i.vm = nil
	i.cancel()
}

// pass passes one exchange. The error is about the start after a failure.
func (i *instance) pass(e Exchange) (facts, error) {
	i.now = e.Started
	timer := time.AfterFunc(maxExchangeTime, i.cancel)
	found := facts{}
	drive := i.vm.NewDrive(i.plugin, exchangeOf(e))
	for drive.Step() || i.serve(drive, found) {
		i.answer(found)
		drive.Settle()
	}
	found.addOutcome(drive.Close(), i.vm.Failure())
	i.world.DeliverQueues()
	timer.Stop()
	if i.vm.Failure() == nil {
		return found, nil
	}
	i.stop()
	return found, i.start()
}

// serve answers what the module asks while it holds an exchange, and reports whether that
// may have let it go on.
func (i *instance) serve(drive *host.Drive, found facts) bool {
	if !drive.Waiting() {
		return false
	}
	answered := i.answer(found)
	drive.Settle()
	if answered || !drive.Waiting() {
		return true
	}
	ticked := i.vm.Tick()
	drive.Settle()
	return ticked && !drive.Waiting()
}

// answer answers the calls of the module, and reports whether there were any.
func (i *instance) answer(found facts) bool {
	calls := i.vm.Calls()
	for _, made := range calls {
		i.calls++
		found.addCall(made)
		response := &host.Message{Headers: host.Headers{{Name: ":status", Value: "200"}}}
		if made.GRPC {
			response.Body = [][]byte{{}}
		}
		i.vm.Answer(made, response)
	}
	return len(calls) > 0
}

// exchangeOf returns an exchange as a stream has it. Where a filter has answered in the
// application's place, the application's answer is an empty 200 for both modules.
func exchangeOf(e Exchange) host.Exchange {
	response := Message{Headers: host.Headers{{Name: ":status", Value: "200"}, {Name: "content-length", Value: "0"}}}
	if e.Response != nil {
		response = *e.Response
	}
	return host.Exchange{Request: e.Request.asReceived(), Response: response.asReceived(), Properties: run.Measured(0).Properties}
}

// asReceived returns a message as Envoy has one of HTTP/1.1: a body ends after its last byte.
func (m Message) asReceived() host.Message {
	received := host.Message{Headers: slices.Clone(m.Headers), Body: slices.Clone(m.Body), Trailers: slices.Clone(m.Trailers)}
	if n := len(m.Body); n > 0 && len(m.Body[n-1]) > 0 && len(m.Trailers) == 0 {
		received.Body = append(received.Body, nil)
	}
	return received
}
