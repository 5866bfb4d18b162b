package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/wasme-io/wasme-operator/internal/cli/image"
	"github.com/wasme-io/wasme-operator/internal/cli/traffic"
	"github.com/wasme-io/wasme-operator/internal/preflight/host"
)

// The modules of a replay, by the flags that name them.
const (
	beforeName = "the module of --against"
	afterName  = "the module under test"
)

// replay passes recorded requests through two modules with the same configuration, and
// prints how the one differs from the other, which it is compared with.
func (a *app) replay(ctx context.Context, file string, m, against *image.Module, filter *filterFlags, format *output) error {
	exchanges, err := readTraffic(file)
	if err != nil {
		return err
	}
	report, err := traffic.Replay(ctx, exchanges, subjectOf(beforeName, against, filter), subjectOf(afterName, m, filter))
	switch {
	case ctx.Err() == nil && host.AsFailure(err) != nil:
		return refuse("%w", err)
	case err != nil:
		return err
	}
	if err := a.printReplay(report, format); err != nil {
		return err
	}
	if report.Differing > 0 {
		return refuse("%d of %d requests of %s are treated differently", report.Differing, report.Exchanges, file)
	}
	return nil
}

func (a *app) printReplay(report traffic.Report, format *output) error {
	if format.format == "" {
		return report.Print(a.Out, beforeName, afterName)
	}
	return format.print(a, report, nil)
}

func readTraffic(path string) ([]traffic.Exchange, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading --traffic: %w", err)
	}
	defer file.Close()
	exchanges, err := traffic.Read(file)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading --traffic %s: %w", path, err)
	case len(exchanges) == 0:
		return nil, fmt.Errorf("reading --traffic %s: it has no requests: record some with wasme record", path)
	}
	return exchanges, nil
}

func subjectOf(name string, m *image.Module, with *filterFlags) traffic.Subject {
	filter := with.of(m)
	return traffic.Subject{Name: name, Wasm: m.Wasm, RootID: filter.RootID, Configuration: string(filter.Configuration)}
}
