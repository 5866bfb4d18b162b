package cli

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"github.com/wasme-io/wasme-operator/internal/cli/image"
	"github.com/wasme-io/wasme-operator/internal/cli/toolchain"
)

// buildFlags are those of all languages.
type buildFlags struct {
	app          *app
	stores       *storeFlag
	tag          string
	config       string
	builderImage string
	tempDir      string
	form         string
}

func newBuild(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "build",
		Short: "Build a filter and keep it as an image in the local store",
		Long: `Builds the project in a folder with the compiler that is installed, or in a builder image, and keeps
the module as an image in the local store, with the folder's runtime-config.json and tests. It
prints the digest of the image: the same sources and tools give the same one.`,
		Example: `  wasme build go . -t registry.example.com/filters/hello:v1
  wasme build precompiled filter.wasm -t registry.example.com/filters/hello:v1 --format compat`,
		// So that an unknown language is named, and not the first flag behind it.
		DisableFlagParsing: true,
		Args:               cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			known := strings.Join(buildNames(), "|")
			switch {
			case len(args) == 0:
				return misused("no language is named: use wasme build %s DIR", known)
			case slices.Contains(args, "--help"), slices.Contains(args, "-h"):
				return c.Help()
			}
			return misused("%q is not a language: use wasme build %s DIR", args[0], known)
		},
	}
	for _, language := range buildable {
		c.AddCommand(newBuildOf(a, language))
	}
	return c
}

// buildable is what wasme build takes: the languages, and modules that are there already.
var buildable = slices.Concat(toolchain.Languages, []toolchain.Language{toolchain.Precompiled})

func buildNames() []string {
	var names []string
	for _, language := range buildable {
		names = append(names, string(language))
	}
	return names
}

func newBuildOf(a *app, language toolchain.Language) *cobra.Command {
	b := &buildFlags{app: a}
	c := &cobra.Command{
		Use:     string(language) + " DIR",
		Short:   "Build a filter in " + string(language),
		Example: fmt.Sprintf("  wasme build %s . -t registry.example.com/filters/hello:v1", language),
		Args:    cobra.ExactArgs(1),
	}
	b.addTo(c)
	if language == toolchain.Precompiled {
		c.Use, c.Short = string(language)+" FILE|DIR", "Keep a .wasm file that is there already"
		c.Flags().Lookup("image").Hidden = true
	}
	c.RunE = func(c *cobra.Command, args []string) error { return b.run(c.Context(), language, args[0]) }
	return c
}

func (b *buildFlags) addTo(c *cobra.Command) {
	b.stores = newStoreFlag(c)
	c.Flags().StringVarP(&b.tag, "tag", "t", "", "name of the image, such as registry.example.com/filters/hello:v1")
	c.Flags().StringVarP(&b.config, "config", "c", "", "runtime configuration (default: runtime-config.json in the folder, if there is one)")
	c.Flags().StringVarP(&b.builderImage, "image", "i", "", "builder image to build in, with docker or podman (default: the compiler that is installed)")
	c.Flags().StringVar(&b.tempDir, "tmp-dir", "", "folder for temporary files (default: the system's)")
	c.Flags().StringVar(&b.form, "format", string(image.Wasme), "form of the image: wasme, compat or cncf")
}

// run builds a module and keeps it.
func (b *buildFlags) run(ctx context.Context, language toolchain.Language, path string) error {
	tag, form, err := b.parse()
	if err != nil {
		return err
	}
	m, err := b.compile(ctx, language, path)
	if err != nil {
		return err
	}
	if err := b.readConfig(m); err != nil {
		return err
	}
	if form == image.CNCF && (len(m.RootIDs) > 0 || m.Tests != nil) {
		b.app.say("note: an image of the form cncf holds the module only: root ids and tests are left out")
	}
	return b.keep(ctx, tag, form, m)
}

func (b *buildFlags) parse() (name.Tag, image.Form, error) {
	if b.tag == "" {
		return name.Tag{}, "", misused("the image has no name: set --tag")
	}
	tag, err := (&registryFlags{}).parseTag(b.tag)
	if err != nil {
		return name.Tag{}, "", err
	}
	form, err := image.ParseForm(b.form)
	if err != nil {
		return name.Tag{}, "", misused("%w", err)
	}
	return tag, form, nil
}

// readConfig reads the runtime configuration that the flag names.
func (b *buildFlags) readConfig(m *image.Module) error {
	if b.config == "" {
		return nil
	}
	content, err := os.ReadFile(b.config)
	if err == nil {
		err = configure(m, content)
	}
	if err != nil {
		return fmt.Errorf("reading the runtime configuration %s: %w", b.config, err)
	}
	return nil
}

func (b *buildFlags) keep(ctx context.Context, tag name.Tag, form image.Form, m *image.Module) error {
	made, err := image.Write(form, m)
	if err != nil {
		return err
	}
	local, err := b.stores.open()
	if err != nil {
		return err
	}
	if err := local.Put(ctx, tag, made); err != nil {
		return err
	}
	b.app.say("kept %s in %s", tag.Name(), local.Dir())
	return b.app.printDigest(made)
}

// compile builds the project in a folder.
func (b *buildFlags) compile(ctx context.Context, language toolchain.Language, path string) (*image.Module, error) {
	options := toolchain.Options{Log: b.app.ErrOut, TempDir: b.tempDir}
	build := func() ([]byte, error) { return toolchain.Build(ctx, language, path, options) }
	switch {
	case b.builderImage == "":
	case language == toolchain.Precompiled:
		b.app.say("note: --image does nothing: the module is built already")
	default:
		build = func() ([]byte, error) { return toolchain.BuildInImage(ctx, b.builderImage, language, path, options) }
	}
	wasm, err := build()
	if err != nil {
		return nil, err
	}
	return project(wasm, path)
}
