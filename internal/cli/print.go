package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// output is the flag -o: how a command prints its result.
type output struct {
	format string
	known  []string
}

// newOutput adds the flag -o to a command, with what it takes beside json and yaml.
func newOutput(c *cobra.Command, more ...string) *output {
	o := &output{known: append([]string{"json", "yaml"}, more...)}
	c.Flags().VarP(o, "output", "o", "print as "+strings.Join(o.known, ", "))
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(o.known, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	return o
}

// Set implements pflag.Value, so that a format that is not known is told before anything is
// done.
func (o *output) Set(format string) error {
	if !slices.Contains(o.known, format) {
		return fmt.Errorf("use one of %s", strings.Join(o.known, ", "))
	}
	o.format = format
	return nil
}

// String implements pflag.Value.
func (o *output) String() string { return o.format }

// Type implements pflag.Value.
func (o *output) Type() string { return "string" }

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
	}
	return screenOf(a.Out).table(table(), o.wide())
}

// printObject prints an object in a format, or else as YAML.
func (a *app) printObject(object *unstructured.Unstructured, format *output) error {
	return (&output{format: cmp.Or(format.format, "yaml")}).print(a, object.Object, nil)
}

// terminalOf returns the file descriptor of a stream that is a terminal.
func terminalOf(stream any) (fd int, is bool) {
	file, is := stream.(*os.File)
	if !is {
		return 0, false
	}
	fd = int(file.Fd())
	return fd, term.IsTerminal(fd)
}

// say prints a line for people, which scripts do not read.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.ErrOut, format+"\n", args...) }
