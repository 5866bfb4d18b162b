package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
		return screenOf(a.Out).table(table(), o.wide())
	}
	return misused("the output %q is not known: see --help", o.format)
}

// say prints a line for people, which scripts do not read.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.ErrOut, format+"\n", args...) }
