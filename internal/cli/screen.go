package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/wasme-io/wasme-operator/internal/cli/view"
)

// screen is where tables are printed: a terminal of some size, or a file or pipe that a
// program reads.
type screen struct {
	out io.Writer
	// columns and lines are the size of the terminal; 0 when there is none.
	columns, lines int
	// drawn is how many lines redraw has printed.
	drawn int
}

func screenOf(out io.Writer) *screen {
	s := &screen{out: out}
	if fd, is := terminalOf(out); is {
		s.columns, s.lines, _ = term.GetSize(fd) // without a size, nothing is cut
	}
	return s
}

// redraws reports whether the screen can show something in the place of what it showed.
func (s *screen) redraws() bool { return s.lines > 0 && os.Getenv("TERM") != "dumb" }

// table prints a table, which fits the terminal unless it is a wide one.
func (s *screen) table(table *metav1.Table, wide bool) error {
	return s.rows(wide)(table)
}

// rows returns what prints tables below each other, with one header and, as far as they fit,
// in the same columns.
func (s *screen) rows(wide bool) func(*metav1.Table) error {
	header, aligned := true, printers.GetNewTabWriter(s.out)
	return func(table *metav1.Table) error {
		if !wide {
			table = view.Fit(table, s.columns)
		}
		err := printers.NewTablePrinter(printers.PrintOptions{Wide: wide, NoHeaders: !header}).PrintObj(table, aligned)
		header = false
		return errors.Join(err, aligned.Flush())
	}
}

// redraw prints text in the place of what it printed last. Lines that the terminal has no
// room for are left out: it could not go back above them.
func (s *screen) redraw(text string) error {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	lines = lines[:min(len(lines), max(s.lines-1, 1))]
	var frame bytes.Buffer
	if s.drawn > 0 {
		fmt.Fprintf(&frame, "\x1b[%dA", s.drawn)
	}
	for _, line := range lines {
		fmt.Fprintf(&frame, "\x1b[2K%s\n", line)
	}
	frame.WriteString("\x1b[J")
	s.drawn = len(lines)
	_, err := s.out.Write(frame.Bytes())
	return err
}

// wrapped breaks a sentence into lines of the terminal.
func (s *screen) wrapped(text string) string {
	if s.columns <= 0 {
		return text
	}
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > s.columns {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return strings.Join(append(lines, line), "\n")
}
