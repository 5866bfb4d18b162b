package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/printers"
	"sigs.k8s.io/yaml"
)

// output is the flag -o: how a command prints its result.
type output struct {
	format string
}

// newOutput adds the flag -o to a command, with what it takes beside json and yaml.
func newOutput(c *cobra.Command, more ...string) *output {
	o := &output{}
	formats := append([]string{"json", "yaml"}, more...)
	c.Flags().StringVarP(&o.format, "output", "o", "", "print as "+strings.Join(formats, ", "))
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	return o
}

func (o *output) wide() bool { return o.format == "wide" }

// print prints a value as JSON or YAML, or its table.
func (o *output) print(a *app, value any, table func() *metav1.Table) error {
	switch o.format {
	case "json":
		encoder := json.NewEncoder(a.Out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(value)
	case "yaml":
		content, err := yaml.Marshal(value)
		if err != nil {
			return err
		}
		_, err = a.Out.Write(content)
		return err
	case "", "wide":
		return printers.NewTablePrinter(printers.PrintOptions{Wide: o.wide()}).PrintObj(table(), a.Out)
	}
	return misused("the output %q is not known: see --help", o.format)
}

// newTable returns a table with columns; those whose name begins with + are for -o wide.
func newTable(columns ...string) *metav1.Table {
	t := &metav1.Table{}
	for _, column := range columns {
		name, priority := column, int32(0)
		if wide, ok := strings.CutPrefix(column, "+"); ok {
			name, priority = wide, 1
		}
		t.ColumnDefinitions = append(t.ColumnDefinitions, metav1.TableColumnDefinition{Name: name, Type: "string", Priority: priority})
	}
	return t
}

// addRow adds a row with a cell for each column.
func addRow(t *metav1.Table, cells ...any) {
	t.Rows = append(t.Rows, metav1.TableRow{Cells: cells, Object: runtime.RawExtension{}})
}

// say prints a line for people, which scripts do not read.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.ErrOut, format+"\n", args...) }
