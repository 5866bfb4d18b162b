package cli

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/wasme-io/wasme-operator/internal/cli/view"
)

// build is what is known of how wasme was built.
type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"goVersion"`
	Platform string `json:"platform"`
}

// buildOf returns what this program knows of itself.
func buildOf() build {
	b := build{Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Version = info.Main.Version
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			b.Revision = setting.Value
		}
	}
	return b
}

func newVersion(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "version",
		Short:   "Show the version of wasme",
		Example: "  wasme version -o json",
		Args:    cobra.NoArgs,
	}
	format := newOutput(c)
	c.RunE = func(*cobra.Command, []string) error {
		b := buildOf()
		return format.print(a, b, func() *metav1.Table {
			table := view.NewTable("Version", "Revision", "Go", "Platform")
			view.AddRow(table, b.Version, b.Revision, b.Go, b.Platform)
			return table
		})
	}
	return c
}
