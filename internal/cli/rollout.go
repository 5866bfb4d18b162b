package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/undo"
	"github.com/wasme-io/wasme-operator/internal/cli/view"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// resourceName begins the names that kubectl's messages, and these, give to objects.
const resourceName = "filterdeployment.wasme.io"

// rolloutCommand is what the commands below rollout share.
type rolloutCommand struct {
	*app
	cluster *cluster
}

func newRollout(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "rollout",
		Short: "Follow, pause, retry and undo rollouts",
		Long: `Follow, pause, retry and undo the rollouts of FilterDeployments, like kubectl rollout.

All but status and history change the FilterDeployment. If it comes from Git or a chart,
change it there, too: otherwise it is put back.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newRolloutStatus(a), newPause(a), newResume(a), newRetry(a), newUndo(a), newHistory(a))
	return c
}

// rolloutOf returns a command about one FilterDeployment.
func rolloutOf(a *app, c *cobra.Command, run func(ctx context.Context, r *rolloutCommand, in client.WithWatch, fd *wasmev1.FilterDeployment) error) *cobra.Command {
	r := &rolloutCommand{app: a, cluster: newCluster(c)}
	c.Args = cobra.ExactArgs(1)
	c.ValidArgsFunction = r.cluster.filterDeployments
	c.RunE = func(c *cobra.Command, args []string) error {
		in, namespace, err := r.cluster.client()
		if err != nil {
			return err
		}
		fd, err := findFilterDeployment(c.Context(), in, client.ObjectKey{Namespace: namespace, Name: args[0]})
		if err != nil {
			return err
		}
		return run(c.Context(), r, in, fd)
	}
	return c
}

// done says what was done, in the words of kubectl.
func (r *rolloutCommand) done(fd *wasmev1.FilterDeployment, what string) error {
	fmt.Fprintf(r.Out, "%s/%s %s\n", resourceName, fd.Name, what)
	return nil
}

func newRolloutStatus(a *app) *cobra.Command {
	watch, timeout := true, time.Duration(0)
	c := rolloutOf(a, &cobra.Command{
		Use:   "status NAME",
		Short: "Wait until a rollout is complete",
		Long: `Wait until the rollout of the newest spec is complete, and print how far it is.

The exit code is 0 when it is complete: all workloads run the revision and, if the rollout
is staged, ran it for the bake time. It is 3 when it went back, is held, or waits for a
change of the FilterDeployment. It is 1 after --timeout.`,
		Example: `  wasme rollout status hello
  wasme rollout status hello --timeout 2m
  wasme rollout status hello --watch=false`,
	}, func(ctx context.Context, r *rolloutCommand, in client.WithWatch, fd *wasmev1.FilterDeployment) error {
		if !watch {
			return r.report(fd, view.ProgressOf(fd))
		}
		return r.wait(ctx, in, fd, timeout)
	})
	c.Flags().BoolVarP(&watch, "watch", "w", true, "wait until the rollout is complete")
	c.Flags().DurationVar(&timeout, "timeout", 0, "how long to wait, such as 90s or 5m; 0 waits forever")
	return c
}

// report prints how far a rollout is, and returns an error for one that failed.
func (r *rolloutCommand) report(fd *wasmev1.FilterDeployment, p view.Progress) error {
	switch {
	case p.Failed:
		return refuse("rollout of %q: %s", fd.Name, p.Message)
	case p.Done:
		_, err := fmt.Fprintf(r.Out, "filterdeployment %q %s\n", fd.Name, p.Message)
		return err
	}
	_, err := fmt.Fprintln(r.Out, p.Message)
	return err
}

// wait prints each state of a rollout until it is complete.
func (r *rolloutCommand) wait(ctx context.Context, in client.WithWatch, fd *wasmev1.FilterDeployment, timeout time.Duration) error {
	limited, cancel := watchtools.ContextWithOptionalTimeout(ctx, timeout)
	defer cancel()
	last := view.Progress{}
	err := follow(limited, in, client.ObjectKeyFromObject(fd), func(now *wasmev1.FilterDeployment, gone bool) (bool, error) {
		if gone {
			return false, fmt.Errorf("waiting for FilterDeployment %s: %w", fd.Name, errDeleted)
		}
		progress := view.ProgressOf(now)
		if progress == last {
			return false, nil
		}
		last = progress
		return progress.Done, r.report(now, progress)
	})
	if ctx.Err() == nil && errors.Is(limited.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("waiting for %s: not complete within %v: see wasme status %s, or wait longer with --timeout", fd.Name, timeout, fd.Name)
	}
	return err
}

func newPause(a *app) *cobra.Command {
	return rolloutOf(a, &cobra.Command{
		Use:   "pause NAME",
		Short: "Stop before the next step of a rollout",
		Long: `Set spec.rollout.paused: the step that has begun goes on, and the next one waits for
wasme rollout resume. A revision that fails still goes back.`,
		Example: `  wasme rollout pause hello`,
	}, func(ctx context.Context, r *rolloutCommand, in client.WithWatch, fd *wasmev1.FilterDeployment) error {
		spec := ptr.Deref(fd.Spec.Rollout, wasmev1.RolloutSpec{})
		switch {
		case spec.Strategy == wasmev1.RolloutImmediate:
			return fmt.Errorf("pausing %s: its strategy is Immediate, which has no steps: set spec.rollout.strategy to Staged, or spec.suspend to keep everything as it is", fd.Name)
		case spec.Paused:
			return fmt.Errorf("pausing %s: it is paused already", fd.Name)
		}
		if err := merge(ctx, in, fd, "pausing", `{"spec":{"rollout":{"paused":true}}}`); err != nil {
			return err
		}
		return r.done(fd, "paused")
	})
}

func newResume(a *app) *cobra.Command {
	return rolloutOf(a, &cobra.Command{
		Use:     "resume NAME",
		Short:   "Let a paused rollout go on",
		Long:    `Remove spec.rollout.paused.`,
		Example: `  wasme rollout resume hello`,
	}, func(ctx context.Context, r *rolloutCommand, in client.WithWatch, fd *wasmev1.FilterDeployment) error {
		switch {
		case fd.Spec.Suspend:
			return suspended("resuming", fd)
		case !ptr.Deref(fd.Spec.Rollout, wasmev1.RolloutSpec{}).Paused:
			return fmt.Errorf("resuming %s: it is not paused", fd.Name)
		}
		if err := merge(ctx, in, fd, "resuming", `{"spec":{"rollout":{"paused":null}}}`); err != nil {
			return err
		}
		return r.done(fd, "resumed")
	})
}

func newRetry(a *app) *cobra.Command {
	return rolloutOf(a, &cobra.Command{
		Use:   "retry NAME",
		Short: "Roll out a revision again that was rolled back or held",
		Long: `Set the annotation wasme.io/retry, which begins the rollout of the same revision again
after it was rolled back or held.`,
		Example: `  wasme rollout retry hello
  wasme rollout status hello`,
	}, func(ctx context.Context, r *rolloutCommand, in client.WithWatch, fd *wasmev1.FilterDeployment) error {
		value := view.RetryValue(fd)
		switch {
		case fd.Spec.Suspend:
			return suspended("retrying", fd)
		case value == "":
			return fmt.Errorf("retrying %s: no rollout of it has failed: see wasme rollout status %s", fd.Name, fd.Name)
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{wasmev1.RetryAnnotation: value}}})
		if err != nil {
			return err
		}
		if err := merge(ctx, in, fd, "retrying", string(patch)); err != nil {
			return err
		}
		return r.done(fd, "retries revision "+fd.Status.Rollout.To)
	})
}

func suspended(doing string, fd *wasmev1.FilterDeployment) error {
	return fmt.Errorf("%s %s: spec.suspend keeps everything as it is: set it to false first", doing, fd.Name)
}

// merge changes a FilterDeployment by a merge patch.
func merge(ctx context.Context, in client.Client, fd *wasmev1.FilterDeployment, doing, patch string) error {
	err := in.Patch(ctx, fd, client.RawPatch("application/merge-patch+json", []byte(patch)), client.FieldOwner(fieldManager))
	return explain(ctx, doing+" "+fd.Name, err)
}

func newUndo(a *app) *cobra.Command {
	to := ""
	c := rolloutOf(a, &cobra.Command{
		Use:   "undo NAME",
		Short: "Go back to an earlier revision",
		Long: `Write the spec.filter of an earlier revision back, and its output and distribution. The
operator then rolls it out like any other change.

Without --to-revision, it is the last good revision. The module is the one that the
revision had: where the tag of its image has moved since, spec.filter.image gets its
digest. What selects workloads, rollout and preflight stay as they are.`,
		Example: `  wasme rollout undo hello
  wasme rollout history hello
  wasme rollout undo hello --to-revision 3`,
	}, func(ctx context.Context, r *rolloutCommand, in client.WithWatch, fd *wasmev1.FilterDeployment) error {
		if fd.Spec.Suspend {
			return suspended("undoing the rollout of", fd)
		}
		return r.undo(ctx, in, fd, to)
	})
	c.Flags().StringVar(&to, "to-revision", "", "number or hash of the revision; default: the last good one")
	return c
}

func (r *rolloutCommand) undo(ctx context.Context, in client.Client, fd *wasmev1.FilterDeployment, to string) error {
	history, err := readHistory(ctx, in, fd)
	if err != nil {
		return err
	}
	target, err := targetOf(fd, history, to)
	if err != nil {
		return err
	}
	change, err := undo.To(fd, target, history)
	if err != nil {
		return err
	}
	patch, err := undoPatch(fd, change)
	if err != nil {
		return err
	}
	before := fd.Generation
	err = in.Patch(ctx, fd, client.RawPatch("application/json-patch+json", patch), client.FieldOwner(fieldManager))
	if apierrors.IsConflict(err) {
		return fmt.Errorf("undoing the rollout of %s: it was changed at the same time: run the command again", fd.Name)
	}
	if err != nil {
		return explain(ctx, "undoing the rollout of "+fd.Name, err)
	}
	name := fmt.Sprintf("revision %d (%s)", target.Object.Revision, target.Hash)
	if fd.Generation == before {
		return r.done(fd, "skipped rollback (the spec asks for "+name+" already)")
	}
	for _, note := range change.Notes {
		r.note("%s", note)
	}
	return r.done(fd, "rolled back to "+name)
}

func targetOf(fd *wasmev1.FilterDeployment, history []revision.Revision, to string) (*revision.Revision, error) {
	if to == "" {
		return undo.Previous(fd, history)
	}
	return undo.Find(history, to)
}

// undoPatch returns the JSON patch of an undo. It fails if the FilterDeployment changes at
// the same time, and touches nothing else, so that fields that only a newer operator knows
// stay.
func undoPatch(fd *wasmev1.FilterDeployment, change undo.Change) ([]byte, error) {
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value,omitempty"`
	}
	operations := []operation{
		{"replace", "/metadata/resourceVersion", fd.ResourceVersion}, // the API server refuses another one
		{"replace", "/spec/filter", change.Filter},
	}
	current := workload.IstioSpec(fd)
	for _, field := range []struct{ path, was, now string }{
		{"/spec/deployment/istio/output", string(current.Output), string(change.Output)},
		{"/spec/deployment/istio/distribution", string(current.Distribution), string(change.Distribution)},
	} {
		switch {
		case field.was == field.now:
		case field.now == "":
			operations = append(operations, operation{Op: "remove", Path: field.path})
		default:
			operations = append(operations, operation{"add", field.path, field.now})
		}
	}
	return json.Marshal(operations)
}

func newHistory(a *app) *cobra.Command {
	c := rolloutOf(a, &cobra.Command{
		Use:   "history NAME",
		Short: "List the revisions that the operator has kept",
		Long: `List the revisions that the operator has kept: those that workloads run, the last good
one, and three more.

HASH is the revision in messages and in the metrics of proxies, DIGEST that of the module.
STATE says on how many workloads a revision is live, and why one was rejected.`,
		Example: `  wasme rollout history hello`,
	}, func(ctx context.Context, r *rolloutCommand, in client.WithWatch, fd *wasmev1.FilterDeployment) error {
		history, err := readHistory(ctx, in, fd)
		if err != nil {
			return err
		}
		outputs, err := readOutputs(ctx, in, fd)
		if err != nil {
			return err
		}
		if len(history) == 0 {
			fmt.Fprintf(r.ErrOut, "The operator has kept no revision of %s yet.\n", fd.Name)
			return nil
		}
		return screenOf(r.Out).table(view.History(fd, history, outputs, time.Now()), false)
	})
	return c
}
