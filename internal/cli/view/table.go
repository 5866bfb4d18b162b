// Package view says what the commands of wasme show of the objects in a cluster: tables,
// and sentences about rollouts. It is pure: objects go in, tables and text come out, and
// what depends on the time takes it as a value.
//
// Columns are in the order of their importance, so that a narrow terminal loses those on
// the right (Fit).
package view

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

const (
	// gap is the number of spaces between columns, and minColumn the least that a column takes
	// with them, as cli-runtime prints tables.
	gap, minColumn = 3, 6
	// minCut is the narrowest that a cell is cut to: less of a sentence says nothing.
	minCut = 12
	// none stands for what is not there.
	none = "-"
)

// NewTable returns a table without rows. Columns whose names begin with "+" are wide ones.
func NewTable(columns ...string) *metav1.Table {
	table := &metav1.Table{}
	for _, name := range columns {
		column := metav1.TableColumnDefinition{Type: "string"}
		if column.Name, _ = strings.CutPrefix(name, "+"); column.Name != name {
			column.Priority = 1
		}
		table.ColumnDefinitions = append(table.ColumnDefinitions, column)
	}
	return table
}

// AddRow adds a row with a text for each column; an empty one is printed as "-".
func AddRow(table *metav1.Table, cells ...string) {
	row := metav1.TableRow{}
	for _, cell := range cells {
		if cell == "" {
			cell = none
		}
		row.Cells = append(row.Cells, cell)
	}
	table.Rows = append(table.Rows, row)
}

// Fit makes a table fit a terminal of so many columns: it cuts the last column where enough
// of it is left, and drops it otherwise, until the rest fits. The first column always stays.
// With a width of 0 the table stays as it is.
func Fit(table *metav1.Table, width int) *metav1.Table {
	if width <= 0 {
		return table
	}
	fitted := withoutWide(table)
	for last := range slices.Backward(fitted.ColumnDefinitions) {
		room := width - widthOf(fitted, last)
		if last == 0 || room >= minCut || room >= columnWidth(fitted, last) {
			cutColumn(fitted, last, max(room, 1))
			break
		}
		fitted.ColumnDefinitions = fitted.ColumnDefinitions[:last]
		for i := range fitted.Rows {
			fitted.Rows[i].Cells = fitted.Rows[i].Cells[:last]
		}
	}
	return fitted
}

// withoutWide returns a copy without the columns that are printed in wide tables only.
func withoutWide(table *metav1.Table) *metav1.Table {
	narrow := table.DeepCopy()
	narrow.ColumnDefinitions = nil
	for i := range narrow.Rows {
		narrow.Rows[i].Cells = nil
	}
	for column, definition := range table.ColumnDefinitions {
		if definition.Priority > 0 {
			continue
		}
		narrow.ColumnDefinitions = append(narrow.ColumnDefinitions, definition)
		for i, row := range table.Rows {
			narrow.Rows[i].Cells = append(narrow.Rows[i].Cells, row.Cells[column])
		}
	}
	return narrow
}

// widthOf returns the width of so many columns, with the gaps behind them.
func widthOf(table *metav1.Table, columns int) int {
	width := 0
	for column := range columns {
		width += max(columnWidth(table, column)+gap, minColumn)
	}
	return width
}

func columnWidth(table *metav1.Table, column int) int {
	widest := utf8.RuneCountInString(table.ColumnDefinitions[column].Name)
	for _, row := range table.Rows {
		widest = max(widest, utf8.RuneCountInString(fmt.Sprint(row.Cells[column])))
	}
	return widest
}

func cutColumn(table *metav1.Table, column, width int) {
	for _, row := range table.Rows {
		row.Cells[column] = cut(fmt.Sprint(row.Cells[column]), width)
	}
}

// cut shortens a text to a width in characters.
func cut(text string, width int) string {
	runes := []rune(text)
	if len(runes) <= width {
		return text
	}
	return string(runes[:max(width-1, 0)]) + "…"
}

// age returns how long ago something was, as kubectl prints it.
func age(since metav1.Time, now time.Time) string {
	if since.IsZero() {
		return none
	}
	return duration.HumanDuration(now.Sub(since.Time))
}

// shortDigest is how many characters of a digest tables show.
const shortDigest = 12

// short returns the beginning of a digest.
func short(digest string) string { return digest[:min(len(digest), shortDigest)] }
