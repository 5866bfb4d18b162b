package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/wasme-io/wasme-operator/internal/cli/image"
	"github.com/wasme-io/wasme-operator/internal/cli/view"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/run"
)

// benchRounds is how often each module is measured, in turn with the other one.
const benchRounds = 3

// measured is a module with what it costs.
type measured struct {
	Name string `json:"name"`
	// StreamMicroseconds and the others are the medians of all rounds.
	StreamMicroseconds  float64 `json:"streamMicroseconds"`
	CompileMilliseconds float64 `json:"compileMilliseconds"`
	MemoryBytes         int64   `json:"memoryBytes"`
	StreamedMemoryBytes int64   `json:"streamedMemoryBytes"`
	ProxyMemoryBytes    int64   `json:"proxyMemoryBytes"`

	rounds []preflight.Cost
}

func newBench(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "bench IMAGE|DIR|FILE",
		Short: "Measure what a filter costs, beside another one",
		Long: `Measures how long a stream takes a module, and how much memory it has, in the preflight's host. With
--against it measures another module in turn with it. The times are this machine's, and Envoy's
differ: compare them with each other only.`,
		Example: "  wasme bench . --against registry.example.com/filters/hello:v1",
		Args:    cobra.ExactArgs(1),
	}
	from, filter, format := newSources(a, c), newFilterFlags(c), newOutput(c)
	var against string
	c.Flags().StringVar(&against, "against", "", "image, folder or .wasm file to compare with")
	c.RunE = func(c *cobra.Command, args []string) error {
		named := slices.DeleteFunc([]string{args[0], against}, func(name string) bool { return name == "" })
		results, err := from.bench(c.Context(), filter, named)
		if err != nil {
			return err
		}
		return format.print(a, results, func() *metav1.Table { return benchTable(results) })
	}
	return c
}

func (s *sources) bench(ctx context.Context, filter *filterFlags, named []string) ([]measured, error) {
	results, modules := make([]measured, len(named)), make([]*image.Module, len(named))
	for i, name := range named {
		m, err := s.load(ctx, name)
		if err != nil {
			return nil, err
		}
		results[i].Name, modules[i] = name, m
		// What cannot be interrupted is measured only after it was seen to end.
		if v := run.Run(ctx, m.Wasm, filter.of(m), preflight.DefaultLimits, nil); v.Cost == nil {
			return nil, refuse("measuring %s: %s: %s", name, v.Reason, v.Message)
		}
	}
	for range benchRounds {
		for i, m := range modules {
			v := run.Run(ctx, m.Wasm, filter.of(m), preflight.DefaultLimits, &run.Watch{Compiled: func() {}})
			if v.Cost == nil {
				return nil, refuse("measuring %s: %s: %s", named[i], v.Reason, v.Message)
			}
			results[i].rounds = append(results[i].rounds, *v.Cost)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	for i := range results {
		results[i].sum()
	}
	return results, nil
}

// sum takes the medians of the rounds.
func (m *measured) sum() {
	median := func(of func(preflight.Cost) int64) int64 {
		var values []int64
		for _, round := range m.rounds {
			values = append(values, of(round))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	m.StreamMicroseconds = float64(median(func(c preflight.Cost) int64 { return int64(c.Stream) })) / float64(time.Microsecond)
	m.CompileMilliseconds = float64(median(func(c preflight.Cost) int64 { return int64(c.Compile) })) / float64(time.Millisecond)
	m.MemoryBytes = median(func(c preflight.Cost) int64 { return c.MemoryBytes })
	m.StreamedMemoryBytes = median(func(c preflight.Cost) int64 { return c.StreamedMemoryBytes })
	m.ProxyMemoryBytes = median(func(c preflight.Cost) int64 { return c.ProxyMemoryBytes })
}

func benchTable(results []measured) *metav1.Table {
	table := view.NewTable("Name", "Stream", "Compile", "Memory", "After streams", "Proxy")
	for _, m := range results {
		view.AddRow(table, m.Name, fmt.Sprintf("%.1f us", m.StreamMicroseconds), fmt.Sprintf("%.0f ms", m.CompileMilliseconds),
			view.Size(m.MemoryBytes), view.Size(m.StreamedMemoryBytes), view.Size(m.ProxyMemoryBytes))
	}
	if len(results) == 2 {
		a, b := results[0], results[1]
		ratio := func(x, y float64) string { return fmt.Sprintf("%.2fx", x/y) }
		view.AddRow(table, "ratio", ratio(a.StreamMicroseconds, b.StreamMicroseconds), ratio(a.CompileMilliseconds, b.CompileMilliseconds),
			ratio(float64(a.MemoryBytes), float64(b.MemoryBytes)), ratio(float64(a.StreamedMemoryBytes), float64(b.StreamedMemoryBytes)),
			ratio(float64(a.ProxyMemoryBytes), float64(b.ProxyMemoryBytes)))
	}
	return table
}
