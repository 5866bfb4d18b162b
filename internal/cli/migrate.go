package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/migrate"
	"github.com/wasme-io/wasme-operator/internal/cli/view"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// migrator is the command migrate.
type migrator struct {
	*app
	cluster    *cluster
	root       *meshFlags
	format     *output
	everywhere bool
	images     migrate.Images
	apply      bool
	clean      bool
	dryRun     string
	timeout    time.Duration
}

func newMigrate(a *app) *cobra.Command {
	m := &migrator{app: a}
	c := &cobra.Command{
		Use:   "migrate [OBJECT...]",
		Short: "Replace Wasm filters written by hand, or by wasme 0.0.33, by FilterDeployments",
		Long: `Find what wasme deploy istio of wasme 0.0.33 left, and WasmPlugins and EnvoyFilters that
someone wrote, and show the FilterDeployments that would replace them. What a
FilterDeployment cannot express is refused, with the field and the reason.

With --apply, it replaces one object after the other. It creates the FilterDeployment, whose
rollout goes from workload to workload, and deletes the old object when all of them run the
filter. Until then both run. When the filter is refused or its rollout goes back, it deletes
the FilterDeployment, and the old object stays. After Ctrl-C, run it again.

OBJECT is a NAME, KIND/NAME or NAMESPACE/NAME; default: all that are found. An object whose
FilterDeployment would reach other pods than it does is replaced only when it is named.

It exits with 3 when --apply left something as it was.`,
		Example: `  wasme migrate -A
  wasme migrate -n bookinfo -o yaml
  wasme migrate -n bookinfo --apply --image hello=registry.example.com/filters/hello:v1
  wasme migrate -n bookinfo --apply --clean`,
		RunE: func(c *cobra.Command, args []string) error { return m.run(c.Context(), args) },
	}
	m.cluster, m.format = newCluster(c), newOutput(c, "wide")
	m.root = newRootFlag(a, c)
	flags := c.Flags()
	flags.BoolVarP(&m.everywhere, "all-namespaces", "A", false, "look into all namespaces")
	flags.StringToStringVar(&m.images.Of, "image", nil, "OBJECT=IMAGE: the image with the module of an object that does not say it, or of a FilterDeployment")
	flags.StringVar(&m.images.Pull.PullSecret, "pull-secret", "", "Secret of the namespace with the credentials for these images")
	flags.BoolVar(&m.images.Pull.PlainHTTP, "plain-http", false, "have the operator pull these images over HTTP, without TLS")
	flags.BoolVar(&m.images.Pull.InsecureSkipVerify, "insecure", false, "have the operator not check the certificates of their registries")
	flags.BoolVar(&m.apply, "apply", false, "replace the objects")
	flags.BoolVar(&m.clean, "clean", false, "also remove wasme's annotations from pod templates, which restarts the pods")
	flags.StringVar(&m.dryRun, "dry-run", "none", "none, or server (have the API server check the FilterDeployments)")
	flags.DurationVar(&m.timeout, "timeout", deployTimeout, "how long to wait for one FilterDeployment, or for the restart of one workload; 0 waits forever")
	return c
}

func (m *migrator) check() error {
	switch {
	case m.dryRun != "none" && m.dryRun != "server":
		return misused("--dry-run is %q: use none or server", m.dryRun)
	case m.apply && m.dryRun == "server":
		return misused("--apply changes the cluster, and --dry-run does not: leave one of them out")
	case m.apply && m.format.format != "":
		return misused("--apply prints what it does: leave out -o %s", m.format.format)
	}
	for object, image := range m.images.Of {
		if _, err := parseReference(image); err != nil {
			return fmt.Errorf("--image %s: %w", object, err)
		}
	}
	return nil
}

func (m *migrator) run(ctx context.Context, args []string) error {
	if err := m.check(); err != nil {
		return err
	}
	c, namespace, err := m.cluster.client()
	if err != nil {
		return err
	}
	if m.everywhere {
		namespace = ""
	}
	found, err := m.find(ctx, c, namespace)
	if err != nil {
		return err
	}
	steps, unused := migrate.Plan(found, m.images)
	if len(unused) > 0 {
		return misused("--image %s: there is no such object, or it says itself where its module comes from", unused[0])
	}
	if steps, err = chosen(steps, args); err != nil {
		return err
	}
	if m.dryRun == "server" {
		m.try(ctx, c, steps)
	}
	leftovers := leftoversIn(found, namespace, args)
	if !m.apply {
		return m.show(found, steps, leftovers)
	}
	err = m.replaceAll(ctx, c, steps, args)
	if m.clean && ctx.Err() == nil {
		err = errors.Join(err, m.cleanAll(ctx, c, leftovers, found.RootNamespace))
	}
	return err
}

// find reads what is in a namespace, or in all when it is empty. An object of the root
// namespace may reach all of them.
func (m *migrator) find(ctx context.Context, c client.Reader, namespace string) (*migrate.Inventory, error) {
	mesh, _ := m.root.find(ctx, c, &wasmev1.FilterDeployment{})
	found := &migrate.Inventory{RootNamespace: mesh.RootNamespace}
	var err error
	if found.Objects, err = readIstioObjects(ctx, c, namespace); err != nil {
		return nil, err
	}
	reached := namespace
	if namespace == mesh.RootNamespace {
		reached = ""
	}
	if found.Workloads, err = readWorkloads(ctx, c, reached); err != nil {
		return nil, err
	}
	var pods corev1.PodList
	if err := c.List(ctx, &pods, client.InNamespace(reached)); err != nil {
		return nil, explain(ctx, "listing the pods", err)
	}
	for i := range pods.Items {
		found.Pods = append(found.Pods, &pods.Items[i])
	}
	var fds wasmev1.FilterDeploymentList
	err = c.List(ctx, &fds, client.InNamespace(namespace))
	if err != nil && (m.apply || !meta.IsNoMatchError(err)) { // what would be done can be shown before the operator is installed
		return nil, explain(ctx, "listing the FilterDeployments", err)
	}
	found.FilterDeployments = fds.Items
	var cached corev1.ConfigMap
	_ = c.Get(ctx, client.ObjectKey{Namespace: migrate.CacheNamespace, Name: migrate.CacheName}, &cached) // a hint can be left out
	found.CachedImages = migrate.ImagesIn(&cached)
	return found, nil
}

// readWorkloads returns the workloads of all kinds in a namespace, or in all.
func readWorkloads(ctx context.Context, c client.Reader, namespace string) ([]workload.Object, error) {
	var all []workload.Object
	for _, kind := range workload.Kinds {
		list := kind.NewList()
		if err := c.List(ctx, list.(client.ObjectList), client.InNamespace(namespace)); err != nil {
			return nil, explain(ctx, "listing the "+kind.Resource, err)
		}
		if err := meta.EachListItem(list, func(item runtime.Object) error {
			all = append(all, item.(workload.Object))
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// chosen returns the steps for the objects that were named; all when none was.
func chosen(steps []migrate.Step, names []string) ([]migrate.Step, error) {
	if len(names) == 0 {
		return steps, nil
	}
	var some []migrate.Step
	for i := range steps {
		if isNamed(&steps[i], names) {
			some = append(some, steps[i])
		}
	}
	var known []string
	for i := range steps {
		for _, object := range steps[i].Objects {
			known = append(known, object.GetName())
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(some, func(s migrate.Step) bool { return isNamed(&s, []string{name}) }) {
			return nil, fmt.Errorf("there is nothing to migrate with the name %s%s", name, suggestion(name, known, "see wasme migrate"))
		}
	}
	return some, nil
}

func isNamed(step *migrate.Step, names []string) bool {
	return slices.ContainsFunc(step.Objects, func(object istio.Output) bool {
		return slices.ContainsFunc(names, func(name string) bool { return migrate.Is(object, name) })
	})
}

// show prints what would be done.
func (m *migrator) show(found *migrate.Inventory, steps []migrate.Step, leftovers []leftover) error {
	if m.format.format != "" && !m.format.wide() {
		return m.printAll(steps)
	}
	if len(steps)+len(leftovers) == 0 {
		m.say("There is nothing to migrate.")
		return nil
	}
	if err := screenOf(m.Out).table(m.table(steps, leftovers), m.format.wide()); err != nil {
		return err
	}
	if len(found.CachedImages) > 0 {
		m.note("once nothing in the mesh uses the cache of wasme 0.0.33, remove it with kubectl delete namespace %s", migrate.CacheNamespace)
	}
	if len(steps) > 0 {
		m.note("--apply replaces them one after the other, and until a new filter is Ready both run")
	}
	return nil
}

// printAll prints the FilterDeployments.
func (m *migrator) printAll(steps []migrate.Step) error {
	printed := 0
	for i := range steps {
		if err := steps[i].Err; err != nil {
			m.note("%s: %s", titleOf(&steps[i]), inOneLine(err))
			continue
		}
		for _, note := range steps[i].Notes {
			m.note("%s: %s", titleOf(&steps[i]), note)
		}
		for _, fd := range steps[i].FilterDeployments {
			object, err := bare(fd)
			if err != nil {
				return err
			}
			if printed > 0 && m.format.format == "yaml" {
				fmt.Fprintln(m.Out, "---")
			}
			printed++
			if err := m.printObject(object, m.format); err != nil {
				return err
			}
		}
	}
	return nil
}

// table has a row for each object, and for each workload that has something to clean.
func (m *migrator) table(steps []migrate.Step, leftovers []leftover) *metav1.Table {
	columns := []string{"Object", "Kind", "Workloads", "Replaced by", "Note"}
	if m.everywhere {
		columns = append([]string{"Namespace"}, columns...)
	}
	table := view.NewTable(columns...)
	row := func(namespace string, cells ...string) {
		if m.everywhere {
			cells = append([]string{namespace}, cells...)
		}
		view.AddRow(table, cells...)
	}
	for i := range steps {
		s := &steps[i]
		for _, object := range s.Objects {
			row(object.GetNamespace(), object.GetName(), string(istio.KindOf(object)), orNone(condition.Enumerate(s.Workloads, ", ", strings.Clone)), orNone(namesOf(s)), noteOf(s))
		}
	}
	for _, l := range leftovers {
		row(l.object.GetNamespace(), l.object.GetName(), workload.TargetOf(l.object).Kind, "-", "-", "its pods mount the cache of wasme 0.0.33: --clean ends that, and restarts them")
	}
	return table
}

func orNone(text string) string { return cmp.Or(text, "-") }

func namesOf(s *migrate.Step) string {
	names := make([]string, 0, len(s.FilterDeployments))
	for _, fd := range s.FilterDeployments {
		names = append(names, fd.Name)
	}
	return strings.Join(names, ", ")
}

// noteOf says why a step cannot be done, or what is worth knowing before.
func noteOf(s *migrate.Step) string {
	notes := slices.Clone(s.Notes)
	if s.Err != nil {
		notes = append([]string{"not replaced: " + inOneLine(s.Err)}, notes...)
	}
	return orNone(strings.Join(notes, "; "))
}

// inOneLine returns the text of an error that joins others.
func inOneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// titleOf names the objects of a step.
func titleOf(s *migrate.Step) string {
	first := s.Objects[0]
	title := fmt.Sprintf("%s %s/%s", istio.KindOf(first), first.GetNamespace(), first.GetName())
	if more := len(s.Objects) - 1; more > 0 {
		title += fmt.Sprintf(" and %d more", more)
	}
	return title
}

// try has the API server check what would be created.
func (m *migrator) try(ctx context.Context, c client.Client, steps []migrate.Step) {
	for i := range steps {
		s := &steps[i]
		if s.Err != nil || s.Kept {
			continue
		}
		for _, fd := range s.FilterDeployments {
			s.Err = errors.Join(s.Err, m.write(ctx, c, fd, false, client.DryRunAll))
		}
	}
}
