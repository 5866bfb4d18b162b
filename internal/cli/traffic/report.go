package traffic

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
)

// MaxDifferences is the number of differences that a Report has.
const MaxDifferences = 100

// Report is what a replay found.
type Report struct {
	// Exchanges is the number of requests that were replayed, and Differing of those that
	// the modules treat differently.
	Exchanges int `json:"exchanges"`
	Differing int `json:"differing"`
	// Differences are the first ones, at most MaxDifferences, and More counts the rest.
	Differences []Difference `json:"differences,omitempty"`
	More        int          `json:"more,omitempty"`
	// Notes say what limits the comparison.
	Notes []string `json:"notes,omitempty"`
}

// Difference is one field in which the results of two modules differ.
type Difference struct {
	// Exchange is the number of the request in the recording, from 1, and Request its method
	// and path.
	Exchange int    `json:"exchange"`
	Request  string `json:"request"`
	// Field is what differs, such as "response header server".
	Field string `json:"field"`
	// Before and After are the quoted values, cut to maxShown characters, or absent.
	Before string `json:"before"`
	After  string `json:"after"`
}

const (
	maxShown = 60
	absent   = "-"
)

// shown returns a value for a table, without control characters. Of a long body, which
// begins to differ at a byte, it shows what follows that.
func shown(value string, found bool, from int) string {
	if !found {
		return absent
	}
	if len(value) <= maxShown {
		return strconv.Quote(value)
	}
	if from < maxShown/2 {
		from = 0
	}
	text := fmt.Sprintf("%q", cut(value[from:]))
	if from == 0 {
		return fmt.Sprintf("%s (%d bytes)", text, len(value))
	}
	return fmt.Sprintf("%s (%d bytes, from byte %d)", text, len(value), from)
}

// cut shortens text to maxShown characters.
func cut(text string) string {
	runes := 0
	for at := range text {
		if runes++; runes > maxShown {
			return text[:at] + "…"
		}
	}
	return text
}

// commonStart returns how many bytes two texts have in common at their beginning.
func commonStart(a, b string) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// Print writes the report as a table, with a summary below. The names are those of the
// modules.
func (r Report) Print(to io.Writer, before, after string) error {
	table := tabwriter.NewWriter(to, 0, 0, 3, ' ', 0)
	if len(r.Differences) > 0 {
		fmt.Fprintln(table, "REQUEST\tTARGET\tDIFFERS IN\tBEFORE\tAFTER")
	}
	for _, d := range r.Differences {
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\n", d.Exchange, printable(cut(d.Request)), printable(cut(d.Field)), d.Before, d.After)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if r.More > 0 {
		fmt.Fprintf(to, "and %d more differences\n", r.More)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(to, "note: %s\n", printable(note))
	}
	_, err := fmt.Fprintln(to, r.summary(before, after))
	return err
}

func (r Report) summary(before, after string) string {
	if r.Differing == 0 {
		return fmt.Sprintf("%s and %s treat all %d requests alike.", before, after, r.Exchanges)
	}
	return fmt.Sprintf("%s and %s treat %d of %d requests differently.", before, after, r.Differing, r.Exchanges)
}

// printable returns text without what a terminal would act on.
func printable(text string) string {
	return strings.Trim(strconv.Quote(text), `"`)
}
