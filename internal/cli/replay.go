package cli

import (
	"cmp"
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
// prints how the one differs from the other, which it is compared with. An empty root id is
// the first that an image lists.
func (a *app) replay(ctx context.Context, file string, m, against *image.Module, config, rootID string) error {
	exchanges, err := readTraffic(file)
	if err != nil {
		return err
	}
	report, err := traffic.Replay(ctx, exchanges, subjectOf(beforeName, against, config, rootID), subjectOf(afterName, m, config, rootID))
	switch {
	case ctx.Err() == nil && host.AsFailure(err) != nil:
		return refuse("%w", err)
	case err != nil:
		return err
	}
	if err := report.Print(a.Out, beforeName, afterName); err != nil {
		return err
	}
	if report.Differing > 0 {
		return refuse("%d of %d requests of %s are treated differently", report.Differing, report.Exchanges, file)
	}
	return nil
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

func subjectOf(name string, m *image.Module, config, rootID string) traffic.Subject {
	if len(m.RootIDs) > 0 {
		rootID = cmp.Or(rootID, m.RootIDs[0])
	}
	return traffic.Subject{Name: name, Wasm: m.Wasm, RootID: rootID, Configuration: config}
}
