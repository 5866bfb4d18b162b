// Command demo shows what the operator is for, on a real mesh that it starts
// itself: a FilterDeployment changes what Envoy answers, a broken update costs
// no request and is reported, as a crashing module is, and a deletion leaves
// nothing behind.
//
// With KEEP=1 in the environment everything stays up at the end.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
	"github.com/wasme-io/wasme-operator/test/mesh/progress"
)

const introduction = `This demo runs the operator in a real mesh on this machine: a Kubernetes API server, istiod and Envoy
sidecars, as ordinary processes. On a new machine it builds them first; later it takes about a minute.
Each step says what to expect. If that does not happen within a minute or so, the demo fails and says where the logs are.
`

func main() {
	log.SetLogger(logr.Discard()) // errors are returned; the libraries have nothing else to say
	switch err := run(os.Getenv("KEEP") == "1"); {
	case err == nil:
	case errors.Is(err, errInterrupted):
		os.Exit(exitInterrupted)
	default:
		fmt.Fprintln(os.Stderr, "\nThe demo failed:", err)
		os.Exit(1)
	}
}

var errInterrupted = errors.New("interrupted")

// exitInterrupted is the exit status of a shell's command that Ctrl-C ended.
const exitInterrupted = 130

func run(keep bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	out := progress.New(os.Stdout)
	defer out.Close()
	d := &demo{keep: keep, out: out, programs: &binaries.Source{Log: out, Installed: true}}
	d.printf("%s", introduction)
	err := d.runAll(ctx)
	if ctx.Err() != nil {
		d.printf("\nInterrupted: stopping everything that the demo started.\n")
		return cmp.Or(d.cleanUp(), errInterrupted)
	}
	if err != nil {
		return errors.Join(err, d.abandon())
	}
	if keep {
		return d.explainRunning(ctx)
	}
	if err := d.cleanUp(); err != nil {
		return err
	}
	d.printf("%s", whatNext)
	return nil
}

func (d *demo) runAll(ctx context.Context) error {
	for i, step := range d.steps() {
		d.printf("\n%d. %s\n   %s\n", i+1, step.title, step.expect)
		begin := time.Now()
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, step.title, err)
		}
		d.printf("   (%.1f s)\n", time.Since(begin).Seconds())
	}
	return nil
}
