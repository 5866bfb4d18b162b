package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// row is one line of the table.
type row struct {
	// name says what is measured.
	name string
	// measured and beside are what was seen, and what it is compared with.
	measured, beside string
	// value is what the bound is for.
	value float64
	// unit decides how value and bound are printed.
	unit unit
	// bound: nil for a row that informs only.
	bound *bound
}

// bound is the worst value that is allowed.
type bound struct {
	limit float64
	least bool
}

func atMost(limit float64) *bound  { return &bound{limit: limit} }
func atLeast(limit float64) *bound { return &bound{limit: limit, least: true} }

func (b bound) holds(value float64) bool {
	if b.least {
		return value >= b.limit
	}
	return value <= b.limit
}

// unit is the format of a number.
type unit string

const (
	ratio     unit = "%.2fx"
	count     unit = "%.0f"
	perPoll   unit = "%.2f per poll"
	mebibytes unit = "%.0f MiB"
	seconds   unit = "%.1f s"
	share     unit = "%.2f"
)

func (r row) verdict() string {
	switch {
	case r.bound == nil:
		return ""
	case r.bound.holds(r.value):
		return "ok"
	default:
		return "BROKEN"
	}
}

func (r row) limit() string {
	if r.bound == nil {
		return "-"
	}
	sign := "<= "
	if r.bound.least {
		sign = ">= "
	}
	return sign + fmt.Sprintf(string(r.unit), r.bound.limit)
}

// table is what the program prints.
type table struct{ rows []row }

func (t *table) add(r row) {
	progress("%s: "+string(r.unit)+" (%s; %s)", r.name, r.value, r.measured, r.beside)
	t.rows = append(t.rows, r)
}

// addRatio adds a row that compares the medians of two series.
func (t *table) addRatio(name string, ours samples, besides string, theirs samples, limit *bound) {
	t.add(row{
		name:     name,
		measured: ours.String(),
		beside:   besides + " " + theirs.String(),
		value:    ours.median().Seconds() / theirs.median().Seconds(),
		unit:     ratio,
		bound:    limit,
	})
}

func (t *table) broken() bool {
	return slices.ContainsFunc(t.rows, func(r row) bool { return r.bound != nil && !r.bound.holds(r.value) })
}

func (t *table) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ROW\tMEASURED\tCOMPARED WITH\tVALUE\tBOUND\tOK")
	for _, r := range t.rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t"+string(r.unit)+"\t%s\t%s\n", r.name, r.measured, r.beside, r.value, r.limit(), r.verdict())
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	return nil
}

// samples are the durations of one thing done several times.
type samples []time.Duration

func (s samples) median() time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

// String is the median and the range.
func (s samples) String() string {
	if len(s) == 0 {
		return "none"
	}
	if len(s) == 1 {
		return milliseconds(s[0])
	}
	return fmt.Sprintf("%s (%d-%d)", milliseconds(s.median()), slices.Min(s).Milliseconds(), slices.Max(s).Milliseconds())
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
}
