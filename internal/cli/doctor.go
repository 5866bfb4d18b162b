package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/wasme-io/wasme-operator/internal/cli/doctor"
)

func newDoctor(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check an installation of the operator",
		Long: `Check an installation of the operator, from outside and inside, with one line for each
check: what was seen and, where it is not right, the fix.

  ok           right
  warn         not as it should be, but filters run
  FAIL         keeps filters from running, now or when pods start
  not checked  could not be seen; the line names the right that is missing

It reads the objects of the cluster, asks the operator's pods and at most 8 sidecars through
port-forwards, and changes nothing. What you have no right to see is not checked, and does
not fail. The namespace of -n is the one for which your own rights are checked.

The exit code is 3 when a check fails.`,
		Example: `  wasme doctor
  wasme doctor -n bookinfo -o json`,
		Args: cobra.NoArgs,
	}
	k := newCluster(c)
	format := newOutput(c)
	c.RunE = func(c *cobra.Command, _ []string) error { return a.diagnose(c.Context(), k, format) }
	return c
}

func (a *app) diagnose(ctx context.Context, k *cluster, format *output) error {
	e, err := newExaminer(k)
	if err != nil {
		return err
	}
	if format.format == "" {
		e.tell = func(f doctor.Finding) {
			if ctx.Err() == nil { // after Ctrl-C, nothing is checked any more
				fmt.Fprintf(a.Out, "%-11s  %s: %s\n", f.Status, f.Check, f)
			}
		}
	}
	if err := e.examine(ctx); err != nil {
		return err
	}
	if format.format != "" {
		if err := format.print(a, e.findings, nil); err != nil {
			return err
		}
	}
	if failed := doctor.Failed(e.findings); failed > 0 {
		return refuse("%d of %d checks failed", failed, len(e.findings))
	}
	return nil
}
