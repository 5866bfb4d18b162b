// Command demo shows what the operator is for, on a real mesh that it starts
// itself: a FilterDeployment changes what Envoy answers, a broken update costs
// no request and is told, as a crashing module is, and a deletion leaves nothing behind.
//
// With KEEP=1 in the environment everything stays up at the end.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Getenv("KEEP") == "1"); err != nil {
		fmt.Fprintln(os.Stderr, "\nthe demo failed:", err)
		os.Exit(1)
	}
}

func run(keep bool) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d := &demo{keep: keep}
	defer func() {
		if d.mesh != nil && (!keep || err != nil) {
			err = errors.Join(err, d.mesh.Stop())
		}
	}()
	for i, step := range d.steps() {
		fmt.Printf("\n%d. %s\n", i+1, step.title)
		begin := time.Now()
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, step.title, err)
		}
		fmt.Printf("   (%.1f s)\n", time.Since(begin).Seconds())
	}
	if keep {
		return d.explain(ctx)
	}
	return nil
}
