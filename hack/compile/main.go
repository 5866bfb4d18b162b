// Command compile builds a command of this repository, and shows for how long:
// on a new machine that takes a while, in which `go run` would say nothing. It
// depends on little, so that it is compiled soon itself.
//
//	go run ./hack/compile TARGET PACKAGE
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
	"github.com/wasme-io/wasme-operator/test/mesh/progress"
)

// usual is how long it takes on two cores with an empty Go build cache.
const usual = 90 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) (err error) {
	if len(arguments) != 2 {
		return errors.New("usage: compile TARGET PACKAGE")
	}
	target, pkg := arguments[0], arguments[1]
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	out := progress.New(os.Stdout)
	defer out.Close()
	end := out.Begin("compiling "+pkg, usual)
	defer func() { end(err) }()
	if err := binaries.Own(ctx, pkg, target); err != nil {
		return errors.Join(fmt.Errorf("compiling %s: %w", pkg, err), context.Cause(ctx))
	}
	return nil
}
