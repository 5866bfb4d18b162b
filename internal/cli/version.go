package cli

import (
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/wasme-io/wasme-operator/internal/cli/view"
	"github.com/wasme-io/wasme-operator/internal/version"
)

func newVersion(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "version",
		Short:   "Show the version of wasme",
		Example: "  wasme version -o json",
		Args:    cobra.NoArgs,
	}
	format := newOutput(c)
	c.RunE = func(*cobra.Command, []string) error {
		b := version.Read()
		return format.print(a, b, func() *metav1.Table {
			table := view.NewTable("Version", "Revision", "Date", "Go", "Platform")
			view.AddRow(table, b.Version, b.Revision, b.Date, b.Go, b.Platform)
			return table
		})
	}
	return c
}
