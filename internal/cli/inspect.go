package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/image"
	"github.com/wasme-io/wasme-operator/internal/cli/view"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/preflight/run"
)

// inspected is what inspect says of a module.
type inspected struct {
	Reference   string            `json:"reference"`
	Digest      string            `json:"digest,omitempty"`
	Form        string            `json:"form"`
	SHA256      string            `json:"sha256"`
	Size        int64             `json:"sizeBytes"`
	ABIVersions []string          `json:"abiVersions"`
	RootIDs     []string          `json:"rootIDs,omitempty"`
	Tests       string            `json:"tests,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Preflight   judged            `json:"preflight"`
}

// judged is the verdict of a preflight.
type judged struct {
	Reason   string   `json:"reason"`
	Message  string   `json:"message"`
	Warnings []string `json:"warnings,omitempty"`
	Logs     []string `json:"logs,omitempty"`
	// Cost is that of status.module.cost.
	Cost *wasmev1.ModuleCost `json:"cost,omitempty"`

	verdict preflight.Verdict
}

func judgedAs(v preflight.Verdict) judged {
	return judged{Reason: v.Reason, Message: v.Message, Warnings: v.Warnings, Logs: v.Logs, Cost: v.Cost.Status(), verdict: v}
}

func newInspect(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "inspect IMAGE|FILE",
		Short: "Show what an image or a .wasm file holds, and what it costs",
		Long: `Shows the digest and the form of an image, the root ids, the versions of the ABI and the size of
its module, and runs the module as the operator's preflight does, with --config: what it can do, and
what it costs. The image comes from the local store, or else from its registry.`,
		Example: "  wasme inspect registry.example.com/filters/hello:v1 -o yaml",
		Args:    cobra.ExactArgs(1),
	}
	filter, format := newFilterFlags(c), newOutput(c)
	from := newSources(a, c)
	c.RunE = func(c *cobra.Command, args []string) error {
		m, found, err := from.loadImage(c.Context(), args[0])
		if err != nil {
			return err
		}
		shown, err := inspect(args[0], m, found)
		if err != nil {
			return err
		}
		verdict := run.Run(c.Context(), m.Wasm, filter.of(m), preflight.DefaultLimits, nil)
		if err := c.Context().Err(); err != nil {
			return err
		}
		shown.Preflight = judgedAs(verdict)
		if format.format != "" {
			return format.print(a, shown, nil)
		}
		return shown.write(a.Out)
	}
	return c
}

// inspect returns what can be said without running the module. Found may be nil.
func inspect(reference string, m *image.Module, found v1.Image) (*inspected, error) {
	versions, err := m.ABIVersions()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", reference, err)
	}
	shown := &inspected{Reference: reference, Form: "file", SHA256: m.SHA256(), Size: int64(len(m.Wasm)), ABIVersions: versions, RootIDs: m.RootIDs}
	if m.Tests != nil {
		shown.Tests = m.Tests.Name
	}
	if found == nil {
		return shown, nil
	}
	manifest, err := found.Manifest()
	if err != nil {
		return nil, err
	}
	digest, err := found.Digest()
	if err != nil {
		return nil, err
	}
	shown.Digest, shown.Form, shown.Annotations = digest.String(), string(image.FormOf(manifest)), manifest.Annotations
	return shown, nil
}

// write writes what is known as text, a line for each thing.
func (i *inspected) write(to io.Writer) error {
	lines := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	line := func(name string, values ...string) {
		if value := strings.Join(values, ", "); value != "" {
			fmt.Fprintf(lines, "%s:\t%s\n", name, value)
		}
	}
	line("Reference", i.Reference)
	line("Digest", i.Digest)
	line("Form", i.Form)
	line("Module", fmt.Sprintf("%s, sha256 %s", view.Size(i.Size), i.SHA256))
	line("ABI", i.ABIVersions...)
	line("Root IDs", i.RootIDs...)
	line("Tests", i.Tests)
	for _, name := range slices.Sorted(maps.Keys(i.Annotations)) {
		line("Annotation", name+"="+i.Annotations[name])
	}
	i.Preflight.lines(line)
	return lines.Flush()
}

// lines passes what a verdict says to line.
func (j judged) lines(line func(name string, values ...string)) {
	line("Preflight", fmt.Sprintf("%s: %s", j.Reason, j.Message))
	for _, warning := range j.Warnings {
		line("Warning", "it crashes on "+warning)
	}
	for _, logged := range j.Logs {
		line("Log", logged)
	}
	c := j.verdict.Cost
	if c == nil {
		return
	}
	line("Capabilities", c.Capabilities...)
	line("Time of a stream", c.Stream.Round(time.Microsecond).String())
	line("Time to compile", c.Compile.Round(time.Millisecond).String())
	line("Memory", fmt.Sprintf("%s once it is configured, %s after %d streams", view.Size(c.MemoryBytes), view.Size(c.StreamedMemoryBytes), c.Streams))
	line("Memory of a proxy", fmt.Sprintf("about %s more", view.Size(c.ProxyMemoryBytes)))
}
