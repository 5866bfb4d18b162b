package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wasme-io/wasme-operator/internal/cli/scaffold"
	"github.com/wasme-io/wasme-operator/internal/cli/toolchain"
)

// defaultLanguage is that of a project for which nobody chose one.
const defaultLanguage = toolchain.Go

// platformIstio is the only platform that there is still a deploy command for.
const platformIstio = "istio"

// initFlags are those of the command init.
type initFlags struct {
	app             *app
	language        string
	platform        string
	platformVersion string
	disablePrompt   bool
}

func newInit(a *app) *cobra.Command {
	i := &initFlags{app: a}
	c := &cobra.Command{
		Use:   "init DIR",
		Short: "Write the project of a new filter",
		Long: `Writes a project into a new folder: a filter that adds the response header hello, with tests, a
runtime-config.json and pinned versions, so that it builds at once. Its README.md says how to build,
test, run, push and deploy it. On a terminal, a menu asks for the language when --language is not set.

The paths of the files go to the standard output, one a line.`,
		Example: `  wasme init hello --language go
  wasme init hello --disable-prompt`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return i.run(c.Context(), args[0]) },
	}
	names := strings.Join(toolchain.Names(), ", ")
	c.Flags().StringVar(&i.language, "language", "", "language of the filter: "+names)
	c.Flags().StringVar(&i.platform, "platform", platformIstio, "where the filter is to run: only "+platformIstio)
	c.Flags().StringVar(&i.platformVersion, "platform-version", "", "without effect: one project suits all versions")
	c.Flags().BoolVar(&i.disablePrompt, "disable-prompt", false, "do not ask: the language is "+string(defaultLanguage)+" unless --language is set")
	return c
}

func (i *initFlags) run(ctx context.Context, dir string) error {
	if i.platform != platformIstio {
		return misused("--platform: %q is not supported: use %s, or deploy the image in your own way, as an Envoy filter", i.platform, platformIstio)
	}
	language, err := i.chosen(ctx)
	if err != nil {
		return err
	}
	files, err := scaffold.Write(dir, language)
	if err != nil {
		return err
	}
	if i.platformVersion != "" {
		i.app.say("note: --platform-version has no effect: the filter runs on every version of Istio that wasme-operator supports")
	}
	return i.report(dir, language, files)
}

// report prints what was written, and for people what to do next.
func (i *initFlags) report(dir string, language toolchain.Language, files []string) error {
	for _, file := range files {
		if _, err := fmt.Fprintln(i.app.Out, filepath.Join(dir, file)); err != nil {
			return err
		}
	}
	i.app.say("\nA filter in %s. Next:", scaffold.Title(language))
	i.app.say("  wasme test %s", dir)
	i.app.say("  wasme run %s --watch", dir)
	i.app.say("%s says how to build, push and deploy it.", filepath.Join(dir, "README.md"))
	return nil
}

// chosen returns the language of the flag, or of the menu.
func (i *initFlags) chosen(ctx context.Context) (toolchain.Language, error) {
	switch {
	case i.language != "":
		language, err := toolchain.Parse(i.language)
		if err != nil {
			return "", misused("--language: %w", err)
		}
		return language, nil
	case i.disablePrompt:
		return defaultLanguage, nil
	case !asksOn(i.app.In):
		return "", misused("no language is named, and there is no terminal to ask on: set --language to one of %s, or --disable-prompt for %s", strings.Join(toolchain.Names(), ", "), defaultLanguage)
	}
	return askLanguage(ctx, i.app.In, i.app.ErrOut)
}

// asksOn reports whether a person can answer on a standard input.
func asksOn(in io.Reader) bool {
	_, is := terminalOf(in)
	return is
}

// askLanguage shows a menu until a line of in has a language's number or name. An empty
// line stands for the default.
func askLanguage(ctx context.Context, in io.Reader, out io.Writer) (toolchain.Language, error) {
	fmt.Fprintln(out, "Which language is the filter to be in?")
	for i, language := range toolchain.Languages {
		fmt.Fprintf(out, "  %d  %s\n", i+1, scaffold.Title(language))
	}
	lines := bufio.NewReader(in)
	for {
		fmt.Fprintf(out, "Number [%d]: ", slices.Index(toolchain.Languages, defaultLanguage)+1)
		line, err := readLine(ctx, lines)
		if errors.Is(err, io.EOF) {
			return "", misused("no language was chosen: choose one, or set --language")
		}
		if err != nil {
			return "", err
		}
		if language, valid := languageOf(line); valid {
			return language, nil
		}
		fmt.Fprintf(out, "There is no %q.\n", line)
	}
}

// languageOf returns the language of an answer.
func languageOf(answer string) (toolchain.Language, bool) {
	if answer == "" {
		return defaultLanguage, true
	}
	if number, err := strconv.Atoi(answer); err == nil {
		if number < 1 || number > len(toolchain.Languages) {
			return "", false
		}
		return toolchain.Languages[number-1], true
	}
	language, err := toolchain.Parse(strings.ToLower(answer))
	return language, err == nil
}

// readLine reads a line, without the spaces around it. A terminal cannot be told to stop
// reading: when ctx ends first, the read goes on until the program ends.
func readLine(ctx context.Context, lines *bufio.Reader) (string, error) {
	type result struct {
		line string
		err  error
	}
	read := make(chan result, 1)
	go func() {
		line, err := lines.ReadString('\n')
		read <- result{strings.TrimSpace(line), err}
	}()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case r := <-read:
		return r.line, r.err
	}
}
