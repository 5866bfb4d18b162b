package cli

import (
	"fmt"
	"io"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"
)

func newSave(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "save IMAGE...",
		Short: "Save images of the local store as an archive",
		Long:  "Writes images with their names as a tar archive, an OCI image layout, for a machine that reaches no registry.",
		Example: `  wasme save registry.example.com/filters/hello:v1 -o hello.tar
  wasme save registry.example.com/filters/hello:v1 | ssh machine wasme load`,
		Args: cobra.MinimumNArgs(1),
	}
	stores := newStoreFlag(c)
	c.ValidArgsFunction = completeImages(stores, false)
	var output string
	c.Flags().StringVarP(&output, "output", "o", "", "file to write (default: the standard output)")
	c.RunE = func(c *cobra.Command, args []string) error {
		var refs []name.Reference
		for _, arg := range args {
			ref, err := parseReference(arg)
			if err != nil {
				return err
			}
			refs = append(refs, ref)
		}
		local, err := stores.open()
		if err != nil {
			return err
		}
		return a.writeTo(output, func(to io.Writer) error { return explainStore(local.Save(c.Context(), to, refs...)) })
	}
	return c
}

// writeTo has a file written, or the standard output where that is no terminal.
func (a *app) writeTo(path string, write func(io.Writer) error) error {
	if path == "" {
		if _, is := terminalOf(a.Out); is {
			return misused("an archive is not for a terminal: set --output, or redirect the output")
		}
		return write(a.Out)
	}
	file, err := newAtomicFile(path)
	if err != nil {
		return err
	}
	defer file.discard()
	if err := write(file); err != nil {
		return err
	}
	return file.commit()
}

func newLoad(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "load",
		Short:   "Load images from an archive into the local store",
		Long:    "Reads a tar archive that wasme save wrote, or another OCI image layout whose images have whole names, and prints the names.",
		Example: "  wasme load -i hello.tar",
		Args:    cobra.NoArgs,
	}
	stores := newStoreFlag(c)
	var input string
	c.Flags().StringVarP(&input, "input", "i", "", "file to read (default: the standard input)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		from := a.In
		if _, is := terminalOf(a.In); is && input == "" {
			return misused("no archive is named: set --input, or redirect the input")
		}
		if input != "" {
			file, err := os.Open(input)
			if err != nil {
				return err
			}
			defer file.Close()
			from = file
		}
		local, err := stores.open()
		if err != nil {
			return err
		}
		refs, err := local.Load(c.Context(), from)
		for _, ref := range refs {
			fmt.Fprintln(a.Out, ref.Name())
		}
		return err
	}
	return c
}
