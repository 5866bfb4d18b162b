package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cli-runtime/pkg/printers"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/emit"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// renderer is the command render.
type renderer struct {
	*app
	cluster   *cluster
	mesh      *meshFlags
	files     []string
	workloads []string
	local     bool
}

func newRender(a *app) *cobra.Command {
	r := &renderer{app: a}
	c := &cobra.Command{
		Use:   "render -f FILE",
		Short: "Print the Istio objects that the operator would make",
		Long: `Print the Istio objects that the operator makes of the FilterDeployments in files, once
their rollouts are complete, as YAML. Nothing is written to the cluster.

The workloads are those in the cluster. With --local, no cluster is asked: workloads,
ConfigMaps and whatever else the FilterDeployments refer to are in the files, too.

` + resolveHelp + `

Annotations with times, and the ControllerRevisions that the operator keeps, are left out.`,
		Example: `  wasme render -f hello.yaml
  wasme render -f hello.yaml --workload details-v1
  kustomize build . | wasme render --local -f -`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return r.run(c.Context()) },
	}
	r.cluster = newCluster(c)
	r.mesh = newMeshFlags(a, c)
	addFiles(c, &r.files)
	c.Flags().StringSliceVar(&r.workloads, "workload", nil, "names of the workloads to render for; default: all that are selected")
	c.Flags().BoolVar(&r.local, "local", false, "ask no cluster: the files have the workloads, too")
	return c
}

// addFiles adds the flag -f.
func addFiles(c *cobra.Command, files *[]string) {
	c.Flags().StringSliceVarP(files, "filename", "f", nil, "file, folder or URL with FilterDeployments; - for the standard input")
}

func (r *renderer) run(ctx context.Context) error {
	files, namespace, err := r.readFiles(r.files, r.cluster, r.local)
	if err != nil {
		return err
	}
	asked, err := files.filterDeployments(namespace)
	if err != nil {
		return err
	}
	var from client.Reader = files.in(namespace)
	if !r.local {
		if from, _, err = r.cluster.client(); err != nil {
			return err
		}
	}
	made := make([][]emit.Object, len(asked))
	var failures []error
	for i, fd := range asked {
		made[i], err = r.render(ctx, from, fd)
		failures = append(failures, err)
	}
	objects := slices.Concat(made...)
	if err = r.check(objects); err == nil {
		err = r.print(objects)
	}
	return errors.Join(append(failures, err)...)
}

// readFiles returns the objects in files, and the namespace of those that have none.
func (a *app) readFiles(paths []string, k *cluster, local bool) (manifests, string, error) {
	if len(paths) == 0 {
		return nil, "", misused("there is no file: name one with -f, or the standard input with -f -")
	}
	files, err := a.readManifests(paths)
	if err != nil {
		return nil, "", err
	}
	if local {
		return files, cmp.Or(*k.flags.Namespace, corev1.NamespaceDefault), nil
	}
	namespace, err := k.namespace()
	return files, namespace, err
}

// render returns the objects of one FilterDeployment.
func (r *renderer) render(ctx context.Context, from client.Reader, fd *wasmev1.FilterDeployment) ([]emit.Object, error) {
	picture, err := r.observe(ctx, from, fd, r.mesh)
	if err != nil {
		return nil, fmt.Errorf("rendering %s: %w", fd.Name, err)
	}
	objects := picture.emitted()
	if len(objects) == 0 {
		r.note("%s: %s", fd.Name, picture.selection.Message)
	}
	return objects, nil
}

// check finds a workload of --workload that no FilterDeployment selects.
func (r *renderer) check(objects []emit.Object) error {
	var names []string
	for _, o := range objects {
		names = append(names, o.Name)
	}
	for _, wanted := range r.workloads {
		if !slices.Contains(names, wanted) {
			slices.Sort(names)
			return fmt.Errorf("--workload %s: it is not selected%s", wanted, suggestion(wanted, names, "selected are "+condition.Enumerate(slices.Compact(names), ", ", strings.Clone)))
		}
	}
	return nil
}

// print prints the objects of the workloads that --workload names. A workload that cannot run
// the filter keeps the others from nothing.
func (r *renderer) print(objects []emit.Object) error {
	printer := &printers.YAMLPrinter{}
	var failures []error
	for _, o := range objects {
		switch {
		case len(r.workloads) > 0 && !slices.Contains(r.workloads, o.Name):
		case o.Err != nil:
			failures = append(failures, o.Err)
		default:
			failures = append(failures, printer.PrintObj(o.Object, r.Out))
		}
	}
	return errors.Join(failures...)
}

// note prints what is worth knowing, and no error.
func (a *app) note(format string, args ...any) { a.say("note: "+format, args...) }

// picture is all that the operator would know of a FilterDeployment if it was applied.
type picture struct {
	// live is the one in the cluster; nil if there is none.
	live *wasmev1.FilterDeployment
	// input has the one that is asked for.
	input emit.Input
	// selection is the condition WorkloadsSelected.
	selection condition.Verdict
	history   []revision.Revision
	// objects are those of Istio in the namespace.
	objects []istio.Output
}

func (p *picture) emitted() []emit.Object { return emit.Objects(p.input) }

// observe finds out what the operator would know of a FilterDeployment from a file.
func (a *app) observe(ctx context.Context, from client.Reader, fd *wasmev1.FilterDeployment, mesh *meshFlags) (*picture, error) {
	p := &picture{}
	live := &wasmev1.FilterDeployment{}
	err := from.Get(ctx, client.ObjectKeyFromObject(fd), live)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, explain(ctx, "reading it", err)
	}
	if err == nil && live.UID != "" {
		p.live = live
		fd.UID = live.UID
	}
	if p.history, err = readHistory(ctx, from, fd); err != nil {
		return nil, err
	}
	asked, err := a.resolveRevision(ctx, from, fd, p.history)
	if err != nil {
		return nil, err
	}
	targets, selection, err := readTargets(ctx, from, fd)
	if err != nil {
		return nil, err
	}
	p.selection = selection
	if p.objects, err = readIstioObjects(ctx, from, fd.Namespace); err != nil {
		return nil, err
	}
	rendering, verifies := mesh.find(ctx, from, fd)
	p.input = emit.Input{
		FilterDeployment: fd, Asked: asked, Outputs: outputsOf(fd, p.objects), Taken: takenBy(fd, p.objects), Mesh: rendering, Unverified: !verifies,
	}
	p.input.Targets, err = withPods(ctx, from, fd.Namespace, targets)
	return p, err
}

// takenBy reports which names belong to other FilterDeployments.
func takenBy(fd *wasmev1.FilterDeployment, objects []istio.Output) func(rollout.OutputKey) bool {
	taken := map[rollout.OutputKey]bool{}
	for _, object := range objects {
		if ownership.Of(object, fd) == ownership.Others {
			taken[keyOf(object)] = true
		}
	}
	return func(key rollout.OutputKey) bool { return taken[key] }
}
