// Command soak runs the operator for as long as asked in a real mesh under traffic, has
// faults happen to everything around it, and fails on a request or a rollback that no fault
// explains, on a replica that ends, panics or is busy at rest, on growth, and on a status that
// disagrees with what Envoy itself reports.
//
// It goes in rounds. In each of them faults begin and end, drawn from a seed; then everything must
// come to rest, and at this quiet point statuses, pods and objects are compared, failed requests
// are explained or not, and memory, goroutines, files and objects are counted.
//
// schedule.go decides what happens when, causes.go which fault explains which failure,
// growth.go what has grown, agree.go what a status disagrees with.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

func main() {
	log.SetLogger(logr.Discard())
	length := flag.Duration("for", 10*time.Minute, "how long faults happen; the round that is under way then is completed")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "what faults are drawn from: the same seed draws the same ones")
	flag.Parse()
	if err := run(*length, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// judgedLength is how long a run must be to say whether anything grows.
const judgedLength = time.Hour

// errProblems is returned when the run was completed and has found something.
var errProblems = errors.New("the soak has found problems")

func run(length time.Duration, seed uint64) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	folder, err := os.MkdirTemp("", "wasme-soak-")
	if err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	say("seed %d, for %s; logs in %s/logs", seed, length, folder)
	w, err := startWorld(ctx, folder, os.Stderr)
	defer func() {
		stopped := w.stop()
		if err == nil && stopped == nil {
			stopped = os.RemoveAll(folder)
		}
		err = errors.Join(err, stopped)
	}()
	if err != nil {
		return err
	}
	s := &soak{world: w, seed: seed, samples: map[string][]sample{}, targets: map[string]*sync.Mutex{}}
	if err := s.warm(ctx); err != nil {
		return err
	}
	faulty, heal := context.WithCancel(ctx)
	err = s.rounds(faulty, length)
	heal()
	s.happening.Wait()
	s.summarise()
	if err == nil && length >= judgedLength && len(s.notJudged()) > 0 {
		return errProblems
	}
	return err
}

// say prints a line with the time.
func say(format string, args ...any) {
	fmt.Printf("%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}
