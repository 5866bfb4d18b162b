package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// result of the tests of a mutant.
type result int

const (
	survived result = iota
	killed
	timedOut
	notViable
	results
)

const (
	// slowest is how many times longer than unbroken code a mutant may take
	// before it counts as endless, and shortest is the least that it is given.
	slowest  = 4
	shortest = 20 * time.Second
	// memory bounds the address space of the compiler and the tests: a mutant may
	// fill a list without end.
	memory = 8 << 30
)

// tester tests the mutants of one package.
type tester struct {
	pkg  goPackage
	dir  string
	time time.Duration
}

// newTester has the package's own tests pass once, to see how long they take.
func newTester(ctx context.Context, pkg goPackage, dir string) (*tester, error) {
	limit := syscall.Rlimit{Cur: memory, Max: memory}
	if err := syscall.Setrlimit(syscall.RLIMIT_AS, &limit); err != nil {
		return nil, fmt.Errorf("bounding the memory of the tests: %w", err)
	}
	t := &tester{pkg: pkg, dir: dir, time: 5 * time.Minute}
	began := time.Now()
	if output, err := t.goTest(ctx).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("the tests fail without any mutant: %w\n%s", err, output)
	}
	t.time = max(slowest*time.Since(began), shortest)
	return t, nil
}

// testAll tests the mutants, as many at once as there are processors, and
// returns their results in order.
func (t *tester) testAll(ctx context.Context, mutants []mutant) ([]result, error) {
	found := make([]result, len(mutants))
	failures := make([]error, len(mutants))
	next := make(chan int)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for i := range next {
				found[i], failures[i] = t.test(ctx, i, mutants[i])
			}
		})
	}
	for i := range mutants {
		next <- i
	}
	close(next)
	workers.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return found, errors.Join(failures...)
}

func (t *tester) test(ctx context.Context, number int, m mutant) (result, error) {
	if err := ctx.Err(); err != nil {
		return survived, err
	}
	source := filepath.Join(t.dir, fmt.Sprintf("%d.go", number))
	overlay := source + ".json"
	content, err := json.Marshal(map[string]map[string]string{"Replace": {m.path: source}})
	if err != nil {
		return survived, err
	}
	if err := errors.Join(os.WriteFile(source, m.mutated(), 0o600), os.WriteFile(overlay, content, 0o600)); err != nil {
		return survived, err
	}
	output, err := t.goTest(ctx, "-overlay", overlay).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return survived, nil
	case !errors.As(err, &exit):
		return survived, err
	case bytes.Contains(output, []byte("[build failed]")), bytes.Contains(output, []byte("[setup failed]")):
		return notViable, nil
	case bytes.Contains(output, []byte("panic: test timed out")):
		return timedOut, nil
	}
	return killed, ctx.Err()
}

// goTest returns the command that runs the package's tests until the first one
// fails; without vet, which would notice what the tests do not.
func (t *tester) goTest(ctx context.Context, flags ...string) *exec.Cmd {
	args := append([]string{"test", "-count=1", "-vet=off", "-ldflags=-s -w", "-failfast", "-timeout", t.time.String()}, flags...)
	command := exec.CommandContext(ctx, "go", append(args, ".")...)
	command.Dir = t.pkg.Dir
	command.WaitDelay = time.Second
	return command
}
