package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/cost"
	"github.com/wasme-io/wasme-operator/internal/cli/view"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// differ is the command diff.
type differ struct {
	*app
	cluster *cluster
	mesh    *meshFlags
	files   []string
}

func newDiff(a *app) *cobra.Command {
	d := &differ{app: a}
	c := &cobra.Command{
		Use:   "diff -f FILE",
		Short: "Show what applying a FilterDeployment would change, and what that costs",
		Long: `Show what applying FilterDeployments would change on which workloads, in which steps, and
what it would cost: which pods fetch a module (FETCH), and how often their connections
drain (DRAINS). Nothing is written to the cluster.

` + resolveHelp + `

The exit code is 0 when nothing would change, and 3 when something would.`,
		Example: `  wasme diff -f hello.yaml
  kustomize build . | wasme diff -f -`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return d.run(c.Context()) },
	}
	d.cluster = newCluster(c)
	d.mesh = newMeshFlags(a, c)
	addFiles(c, &d.files)
	return c
}

func (d *differ) run(ctx context.Context) error {
	files, namespace, err := d.readFiles(d.files, d.cluster, false)
	if err != nil {
		return err
	}
	asked, err := files.filterDeployments(namespace)
	if err != nil {
		return err
	}
	c, _, err := d.cluster.client()
	if err != nil {
		return err
	}
	different := 0
	var failures []error
	for _, fd := range asked {
		picture, err := d.observe(ctx, c, fd, d.mesh)
		if err != nil {
			failures = append(failures, fmt.Errorf("comparing %s: %w", fd.Name, err))
			continue
		}
		differs, err := d.diff(fd, picture)
		failures = append(failures, err)
		if differs {
			different++
		}
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	if different > 0 {
		return refuse("%d of %d FilterDeployments would change", different, len(asked))
	}
	return nil
}

// diff prints what would change for one FilterDeployment, and reports whether anything would.
func (d *differ) diff(fd *wasmev1.FilterDeployment, p *picture) (bool, error) {
	text, err := view.SpecDiff(p.live, fd)
	if err != nil {
		return false, err
	}
	var changes []cost.Change
	if !fd.Spec.Suspend { // everything stays as it is
		changes = cost.Changes(p.input, p.emitted(), p.history)
	}
	if text == "" && len(changes) == 0 {
		return false, nil
	}
	on := screenOf(d.Out)
	fmt.Fprintf(d.Out, "%s %s/%s\n%s", wasmev1.FilterDeploymentKind, fd.Namespace, fd.Name, text)
	if len(changes) == 0 {
		fmt.Fprintln(d.Out, "\nNothing changes on workloads.")
		return true, nil
	}
	fmt.Fprintln(d.Out)
	if err := on.table(view.Changes(changes), false); err != nil {
		return true, err
	}
	bakeTime := rollout.StrategyOf(fd).BakeTime.String()
	for _, line := range []string{view.Steps(cost.StepsOf(p.input, changes), bakeTime), view.Total(changes)} {
		if line != "" {
			fmt.Fprintf(d.Out, "%s\n", on.wrapped(line))
		}
	}
	for _, c := range changes {
		if c.Err != nil {
			d.note("%v", c.Err)
		}
	}
	return true, nil
}
