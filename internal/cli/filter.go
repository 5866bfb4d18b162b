package cli

import (
	"github.com/spf13/cobra"

	"github.com/wasme-io/wasme-operator/internal/cli/image"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/preflight"
)

// filterFlags say with what a module runs.
type filterFlags struct {
	config, rootID string
}

func newFilterFlags(c *cobra.Command) *filterFlags {
	f := &filterFlags{}
	c.Flags().StringVar(&f.config, "config", "", "configuration of the filter")
	c.Flags().StringVar(&f.rootID, "root-id", "", "root id of the filter (default: the first that the image lists)")
	return f
}

// of returns the configuration of a module, as a proxy gets it.
func (f *filterFlags) of(m *image.Module) preflight.Filter {
	filter := preflight.Filter{RootID: f.rootID, KnownRootIDs: m.RootIDs, Configuration: []byte(f.config)}
	if f.rootID == "" && len(m.RootIDs) > 0 {
		filter.RootID = m.RootIDs[0]
	}
	if m.Tests != nil {
		filter.Tests = []module.Tests{*m.Tests}
	}
	return filter
}
