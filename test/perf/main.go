// Command perf holds the operator to its numbers: it runs the operator as its
// users do, as a process against a real API server and real Envoys, measures,
// prints a table and fails when a bound is broken.
//
// A speed is always a ratio to the least that the job can cost, done beside it in
// the same run: a bare client that writes the same objects, an EnvoyFilter
// changed by hand, nginx with the same file, a bare client that fetches the same
// pages. Nothing else should load the machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
)

// errBroken is returned when every row was measured and one breaks its bound.
var errBroken = errors.New("a bound is broken")

// perf is one run of the program.
type perf struct {
	table table
	// idle is how long writes are counted while nothing changes.
	idle time.Duration
}

// scenario measures the rows that share what it starts.
type scenario struct {
	name string
	run  func(*perf, context.Context) error
}

func scenarios() []scenario {
	return []scenario{
		{"fanout", (*perf).fanout},
		{"traffic", (*perf).traffic},
		{"rollouts", (*perf).rollouts},
		{"analyses", (*perf).analyses},
		{"scale", (*perf).scale},
		{"churn", (*perf).churn},
		{"large", (*perf).large},
		{"modules", (*perf).modules},
		{"preflights", (*perf).preflights},
		{"siege", (*perf).siege},
		{"polls", (*perf).polls},
		{"handover", (*perf).handover},
		{"pods", (*perf).pods},
	}
}

func main() {
	ctrl.SetLogger(logr.Discard())
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() error {
	p := &perf{}
	names := make([]string, 0, len(scenarios()))
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	rows := flag.String("rows", strings.Join(names, ","), "comma-separated groups of rows to measure")
	flag.DurationVar(&p.idle, "idle", 10*time.Minute, "how long writes are counted while nothing changes")
	flag.Parse()
	chosen := strings.Split(*rows, ",")
	for _, name := range chosen {
		if !slices.Contains(names, name) {
			return fmt.Errorf("--rows: there is no %q; choose from %s", name, strings.Join(names, ", "))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return p.measure(ctx, chosen)
}

// measure continues after a scenario that fails: the others are worth knowing, too.
func (p *perf) measure(ctx context.Context, chosen []string) error {
	var failures []error
	for _, s := range scenarios() {
		if !slices.Contains(chosen, s.name) || ctx.Err() != nil {
			continue
		}
		progress("measuring %s (load of the machine: %s)", s.name, load())
		if err := s.run(p, ctx); err != nil {
			failures = append(failures, fmt.Errorf("measuring %s: %w", s.name, err))
		}
	}
	if err := p.table.print(os.Stdout); err != nil {
		return err
	}
	if p.table.broken() {
		failures = append(failures, errBroken)
	}
	return errors.Join(failures...)
}

// progress says on standard error what is being done.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

// load is the system's load average over the last minute.
func load() string {
	content, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	minute, _, _ := strings.Cut(string(content), " ")
	return minute
}
