package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/view"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// Output formats: all columns, and names only.
const (
	formatWide = "wide"
	formatName = "name"
)

const (
	// ageTick is how often a live table is redrawn when nothing changes but ages.
	ageTick = time.Second
	// podsTick is how often the pods and outputs behind it are read.
	podsTick = 5 * time.Second
)

// status is the command status.
type status struct {
	*app
	cluster    *cluster
	format     *genericclioptions.PrintFlags
	everywhere bool
	watch      bool
}

func newStatus(a *app) *cobra.Command {
	s := &status{app: a, format: genericclioptions.NewPrintFlags("").WithTypeSetter(newScheme())}
	c := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show FilterDeployments, their workloads, pods and rollouts",
		Long: `Show FilterDeployments, or one of them with its workloads.

READY and ROLLOUT are those of its status: see docs/conditions.md and docs/rollouts.md.
PODS are the pods that run what they are to run, of those that are Ready and have a
sidecar; in the table of workloads, the pods that are Ready and have a sidecar, of all.

With --watch, a terminal shows the table live. Otherwise each change is a line.`,
		Example: `  wasme status
  wasme status -A --watch
  wasme status hello -n bookinfo
  wasme status hello -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return s.run(c.Context(), args) },
	}
	s.cluster = newCluster(c)
	c.ValidArgsFunction = s.cluster.filterDeployments
	s.format.AddFlags(c)
	c.Flags().Lookup("template").Usage = "template, or the file with it, for -o go-template, jsonpath and the like"
	c.Flags().Lookup("output").Usage = "print as json, yaml, wide, name, jsonpath, go-template, …"
	c.Flags().BoolVarP(&s.everywhere, "all-namespaces", "A", false, "show the FilterDeployments of all namespaces")
	c.Flags().BoolVarP(&s.watch, "watch", "w", false, "show changes until Ctrl-C")
	return c
}

func (s *status) run(ctx context.Context, args []string) error {
	if len(args) > 0 && s.everywhere {
		return misused("-A shows all namespaces, and %s is in one: leave out -A, or the name", args[0])
	}
	if s.watch && s.formatted() {
		return misused("--watch shows tables: leave out -o %s", *s.format.OutputFormat)
	}
	c, namespace, err := s.cluster.client()
	if err != nil {
		return err
	}
	at := client.ObjectKey{Namespace: namespace}
	if s.everywhere {
		at.Namespace = ""
	}
	if len(args) > 0 {
		at.Name = args[0]
	}
	found, err := s.read(ctx, c, at)
	if err != nil {
		return err
	}
	switch {
	case s.formatted():
		return s.print(found, at)
	case s.watch:
		return s.follow(ctx, c, at, found)
	case len(found) == 0:
		return s.printNone(at)
	}
	once := &details{client: c}
	text, err := s.draw(ctx, once, at, screenOf(s.Out), found)
	fmt.Fprint(s.Out, text)
	return errors.Join(err, once.err)
}

func (s *status) wide() bool { return *s.format.OutputFormat == formatWide }

func (s *status) formatted() bool { return *s.format.OutputFormat != "" && !s.wide() }

// read returns the FilterDeployments of a namespace, or the one with a name.
func (s *status) read(ctx context.Context, c client.Client, at client.ObjectKey) ([]wasmev1.FilterDeployment, error) {
	if at.Name != "" {
		fd, err := findFilterDeployment(ctx, c, at)
		if err != nil {
			return nil, err
		}
		return []wasmev1.FilterDeployment{*fd}, nil
	}
	var list wasmev1.FilterDeploymentList
	err := c.List(ctx, &list, client.InNamespace(at.Namespace))
	return list.Items, explain(ctx, "listing the FilterDeployments", err)
}

func (s *status) printNone(at client.ObjectKey) error {
	where := "in namespace " + at.Namespace
	if at.Namespace == "" {
		where = "in any namespace"
	}
	fmt.Fprintf(s.ErrOut, "There are no FilterDeployments %s.\n", where)
	return nil
}

// print prints the objects in the format that was asked for: one object for a name, and a
// list otherwise.
func (s *status) print(found []wasmev1.FilterDeployment, at client.ObjectKey) error {
	printer, err := s.format.ToPrinter()
	if err != nil {
		return misused("%w, %s", err, formatWide)
	}
	for i := range found {
		found[i].SetGroupVersionKind(wasmev1.GroupVersion.WithKind(wasmev1.FilterDeploymentKind)) // lists leave it out
		if at.Name != "" || *s.format.OutputFormat == formatName {
			err = errors.Join(err, printer.PrintObj(&found[i], s.Out))
		}
	}
	if at.Name != "" || *s.format.OutputFormat == formatName {
		return err
	}
	return printer.PrintObj(&wasmev1.FilterDeploymentList{Items: found}, s.Out)
}

// draw returns the table of FilterDeployments and, for the one with a name, that of its
// workloads.
func (s *status) draw(ctx context.Context, known *details, at client.ObjectKey, on *screen, found []wasmev1.FilterDeployment) (string, error) {
	var text bytes.Buffer
	to := *on
	to.out = &text
	if err := to.table(view.FilterDeployments(found, s.everywhere, time.Now()), s.wide()); err != nil {
		return "", err
	}
	if at.Name == "" || len(found) == 0 {
		return text.String(), nil
	}
	fd := &found[0]
	if note := view.Note(fd); note != "" {
		fmt.Fprintf(&text, "\n%s\n", to.wrapped(note))
	}
	if !known.read(ctx, fd) {
		return text.String(), nil
	}
	workloads := view.Workloads(fd, known.outputs, known.pods.count(fd, known.outputs))
	if len(workloads.Rows) == 0 {
		return text.String(), nil
	}
	fmt.Fprintln(&text)
	err := to.table(workloads, s.wide())
	return text.String(), err
}

// details are what the status of a FilterDeployment does not have of its workloads.
type details struct {
	client  client.Client
	outputs rollout.Outputs
	pods    podIndex
	// err is why they could not be read.
	err  error
	next time.Time
}

// read reads them anew from time to time, as pods may be many, and reports whether they are
// there.
func (d *details) read(ctx context.Context, fd *wasmev1.FilterDeployment) bool {
	if time.Now().Before(d.next) {
		return d.err == nil
	}
	d.next = time.Now().Add(podsTick)
	if d.outputs, d.err = readOutputs(ctx, d.client, fd); d.err == nil {
		d.pods, d.err = readPods(ctx, d.client, fd.Namespace)
	}
	return d.err == nil
}

// follow shows changes until ctx ends: on a terminal in the place of the former table.
func (s *status) follow(ctx context.Context, c client.WithWatch, at client.ObjectKey, found []wasmev1.FilterDeployment) error {
	on := screenOf(s.Out)
	if !on.redraws() {
		return s.followLines(ctx, c, at, on)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	known := &board{items: map[client.ObjectKey]wasmev1.FilterDeployment{}}
	for i := range found {
		known.note(&found[i], false)
	}
	go func() {
		cancel(follow(ctx, c, at, func(fd *wasmev1.FilterDeployment, gone bool) (bool, error) {
			known.note(fd, gone)
			return false, nil
		}))
	}()
	ticker := time.NewTicker(ageTick)
	defer ticker.Stop()
	shown := &details{client: c}
	for {
		text, err := s.draw(ctx, shown, at, on, known.list())
		if err != nil {
			return err
		}
		if shown.err != nil { // it may come back
			text += "\n" + on.wrapped("Error: "+shown.err.Error()) + "\n"
		}
		if err := on.redraw(text); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// followLines prints a line for each change, below one header.
func (s *status) followLines(ctx context.Context, c client.WithWatch, at client.ObjectKey, on *screen) error {
	show := on.rows(s.wide())
	return follow(ctx, c, at, func(fd *wasmev1.FilterDeployment, gone bool) (bool, error) {
		if gone {
			return false, nil
		}
		return false, show(view.FilterDeployments([]wasmev1.FilterDeployment{*fd}, s.everywhere, time.Now()))
	})
}

// board has the FilterDeployments that a live table shows.
type board struct {
	sync.Mutex
	items map[client.ObjectKey]wasmev1.FilterDeployment
}

func (b *board) note(fd *wasmev1.FilterDeployment, gone bool) {
	b.Lock()
	defer b.Unlock()
	b.items[client.ObjectKeyFromObject(fd)] = *fd
	if gone {
		delete(b.items, client.ObjectKeyFromObject(fd))
	}
}

func (b *board) list() []wasmev1.FilterDeployment {
	b.Lock()
	defer b.Unlock()
	return slices.Collect(maps.Values(b.items))
}
