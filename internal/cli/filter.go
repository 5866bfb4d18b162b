package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/wasme-io/wasme-operator/internal/cli/image"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/preflight"
)

// filterFlags say with what a module runs.
type filterFlags struct {
	config, configFile, rootID string
}

func newFilterFlags(c *cobra.Command) *filterFlags {
	f := &filterFlags{}
	c.PreRunE = func(c *cobra.Command, args []string) error {
		if c.PreRun != nil { // cobra runs one of the two
			c.PreRun(c, args)
		}
		return f.read()
	}
	c.Flags().StringVar(&f.config, "config", "", "configuration of the filter")
	c.Flags().StringVar(&f.configFile, "config-file", "", "file with the configuration of the filter")
	c.Flags().StringVar(&f.rootID, "root-id", "", "root id of the filter (default: the first that the image lists)")
	return f
}

// read reads the file with the configuration, if there is one.
func (f *filterFlags) read() error {
	switch {
	case f.configFile == "":
		return nil
	case f.config != "":
		return misused("--config and --config-file exclude each other: leave one out")
	}
	content, err := os.ReadFile(f.configFile)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	f.config = string(content)
	return nil
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
