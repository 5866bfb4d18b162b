package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/wait"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/view"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// deployTimeout is how long a command waits for the cluster unless it is told otherwise.
const deployTimeout = 5 * time.Minute

func newDeploy(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "deploy",
		Short: "Deploy a filter to Istio, or to an Envoy on this machine",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return misused("no platform is named: use wasme deploy istio IMAGE, or wasme deploy envoy IMAGE")
		},
	}
	c.AddCommand(newDeployIstio(a), newDeployEnvoy(a))
	return c
}

// selectFlags choose workloads.
type selectFlags struct {
	id           string
	labels       map[string]string
	workloadType string
}

func (s *selectFlags) addTo(c *cobra.Command) {
	c.Flags().StringVar(&s.id, "id", "", "name of the filter: of its FilterDeployment, and in each proxy")
	c.Flags().StringToStringVarP(&s.labels, "labels", "l", nil, "labels of the workloads (default: all of the namespace)")
	c.Flags().StringVarP(&s.workloadType, "workload-type", "t", "deployment", "kind of the workloads: deployment, daemonset or statefulset")
}

func (s *selectFlags) check() error {
	if s.id == "" {
		return misused("the filter has no name: set --id")
	}
	if wrong := validation.IsDNS1123Subdomain(s.id); len(wrong) > 0 {
		return misused("the id %q cannot be the name of a FilterDeployment: %s", s.id, strings.Join(wrong, "; "))
	}
	return nil
}

// deployFlags are those of wasme deploy istio.
type deployFlags struct {
	selectFlags
	app            *app
	cluster        *cluster
	config, rootID string
	patchContext   string
	istioNamespace string
	pull           wasmev1.ImagePullOptions
	dryRun         string
	output         *output
	wait           bool
	timeout        time.Duration
}

func newDeployIstio(a *app) *cobra.Command {
	d := &deployFlags{app: a}
	c := &cobra.Command{
		Use:   "istio IMAGE",
		Short: "Deploy a filter to workloads in Istio",
		Long: `Applies a FilterDeployment with the name --id, and follows it, with a line for each workload, until
all of them run the filter. The operator has to be installed in the cluster.

It exits with 3 when the filter was refused, or the rollout went back.`,
		Example: `  wasme deploy istio registry.example.com/filters/hello:v1 --id hello -n bookinfo --config world
  wasme deploy istio registry.example.com/filters/hello:v1 --id hello -l app=details --dry-run=client -o yaml`,
		Args: cobra.ExactArgs(1),
	}
	d.addTo(c)
	d.cluster = newCluster(c)
	flags := c.Flags()
	flags.StringVar(&d.config, "config", "", "configuration of the filter")
	flags.StringVar(&d.rootID, "root-id", "", "root id of the filter (default: the first that the image lists)")
	flags.StringVar(&d.patchContext, "patch-context", "inbound", "traffic that the filter sees: inbound, outbound, gateway or any")
	flags.StringVar(&d.istioNamespace, "istio-namespace", "", "namespace of istiod (default istio-system)")
	flags.StringVar(&d.pull.PullSecret, "pull-secret", "", "Secret of the namespace with the credentials for the image")
	flags.BoolVar(&d.pull.PlainHTTP, "plain-http", false, "have the operator pull the image over HTTP, without TLS")
	flags.BoolVar(&d.pull.InsecureSkipVerify, "insecure", false, "have the operator not check the certificate of the registry")
	flags.StringVar(&d.dryRun, "dry-run", "none", "none, client (only print) or server (have the API server check it, and print)")
	d.output = newOutput(c)
	flags.BoolVar(&d.wait, "wait", true, "wait until all workloads run the filter")
	flags.DurationVar(&d.timeout, "timeout", deployTimeout, "how long to wait; 0 waits forever")
	addMeaningless(a, c, cacheFlags...)
	c.ValidArgsFunction = completeImages(&storeFlag{}, false)
	c.RunE = func(c *cobra.Command, args []string) error { return d.run(c.Context(), args[0]) }
	return c
}

// cacheFlags are flags of the predecessor that say nothing here.
var cacheFlags = []string{
	"cache-custom-command", "cache-image-pull-policy", "cache-name", "cache-namespace", "cache-repo", "cache-tag", "cache-timeout",
	"istiod-name", "ignore-version-check",
}

// addMeaningless accepts flags of the predecessor that mean nothing any more, and says so
// when one is set.
func addMeaningless(a *app, c *cobra.Command, names ...string) {
	for _, name := range names {
		c.Flags().String(name, "", "does nothing any more")
		c.Flags().Lookup(name).Hidden = true
	}
	if check := c.Flags().Lookup("ignore-version-check"); check != nil {
		check.NoOptDefVal = "true"
	}
	c.PreRun = func(c *cobra.Command, _ []string) {
		for _, name := range names {
			if c.Flags().Changed(name) {
				a.say("note: --%s does nothing any more", name)
			}
		}
	}
}

func (d *deployFlags) run(ctx context.Context, image string) error {
	if err := d.check(); err != nil {
		return err
	}
	if _, err := parseReference(image); err != nil {
		return err
	}
	namespace, err := d.cluster.namespace()
	if err != nil {
		return err
	}
	fd, err := d.filterDeployment(namespace, image)
	if err != nil {
		return err
	}
	switch d.dryRun {
	case "client":
		return d.app.printObject(fd, d.output)
	case "none", "server":
		return d.apply(ctx, fd)
	}
	return misused("--dry-run is %q: use none, client or server", d.dryRun)
}

// filterDeployment returns the FilterDeployment that the flags describe, with nothing else
// in it: what is applied is only what the flags say.
func (d *deployFlags) filterDeployment(namespace, image string) (*unstructured.Unstructured, error) {
	fd := &wasmev1.FilterDeployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: wasmev1.GroupVersion.String(), Kind: "FilterDeployment"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: d.id},
		Spec: wasmev1.FilterDeploymentSpec{
			Filter:     wasmev1.FilterSpec{ID: d.id, Image: image, RootID: d.rootID, PatchContext: wasmev1.PatchContext(d.patchContext)},
			Deployment: wasmev1.DeploymentSpec{Istio: &wasmev1.IstioDeploymentSpec{Kind: d.workloadType, IstioNamespace: d.istioNamespace}},
		},
	}
	if d.pull.PullSecret != "" || d.pull.PlainHTTP || d.pull.InsecureSkipVerify {
		fd.Spec.Filter.ImagePullOptions = &d.pull
	}
	if err := d.checkSpec(fd.Spec); err != nil {
		return nil, err
	}
	if d.config != "" {
		raw, err := json.Marshal(d.config)
		if err != nil {
			return nil, err
		}
		fd.Spec.Filter.Config = &wasmev1.Configuration{Raw: raw}
	}
	for key, value := range d.labels {
		if fd.Spec.Deployment.Istio.Labels == nil {
			fd.Spec.Deployment.Istio.Labels = map[string]wasmev1.LabelValue{}
		}
		fd.Spec.Deployment.Istio.Labels[key] = wasmev1.LabelValue(value)
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(fd)
	if err != nil {
		return nil, err
	}
	delete(content, "status")
	unstructured.RemoveNestedField(content, "metadata", "creationTimestamp")
	return &unstructured.Unstructured{Object: content}, nil
}

// checkSpec reports what the API server or the operator would refuse.
func (d *deployFlags) checkSpec(spec wasmev1.FilterDeploymentSpec) error {
	if _, known := workload.KindNamed(d.workloadType); !known {
		return misused("--workload-type %q is not known: use deployment, daemonset or statefulset", d.workloadType)
	}
	contexts := []wasmev1.PatchContext{wasmev1.PatchContextInbound, wasmev1.PatchContextOutbound, wasmev1.PatchContextGateway, wasmev1.PatchContextAny}
	if !slices.Contains(contexts, spec.Filter.PatchContext) {
		return misused("--patch-context %q is not known: use inbound, outbound, gateway or any", d.patchContext)
	}
	if err := render.Check(spec); err != nil {
		return misused("%w", err)
	}
	return nil
}

// apply applies the FilterDeployment and follows it.
func (d *deployFlags) apply(ctx context.Context, fd *unstructured.Unstructured) error {
	c, _, err := d.cluster.client()
	if err != nil {
		return err
	}
	options := []client.ApplyOption{client.FieldOwner(fieldManager)}
	if d.dryRun == "server" {
		options = append(options, client.DryRunAll)
	}
	err = c.Apply(ctx, client.ApplyConfigurationFromUnstructured(fd), options...)
	if err != nil {
		return explainApply(ctx, d.id, err)
	}
	if d.output.format != "" || d.dryRun == "server" {
		unstructured.RemoveNestedField(fd.Object, "metadata", "managedFields")
		if err := d.app.printObject(fd, d.output); err != nil || d.dryRun == "server" {
			return err
		}
	}
	d.app.say("applied FilterDeployment %s in namespace %s", d.id, fd.GetNamespace())
	if !d.wait {
		return nil
	}
	f := &follower{app: d.app, lines: d.app.Out, timeout: d.timeout}
	if d.output.format != "" { // the FilterDeployment is there, for a program
		f.lines = d.app.ErrOut
	}
	return f.follow(ctx, c, client.ObjectKeyFromObject(fd))
}

// follower follows a FilterDeployment.
type follower struct {
	app *app
	// lines gets a line for each workload whose state has changed.
	lines io.Writer
	// timeout is how long it follows; 0 is forever.
	timeout time.Duration
}

// follow prints what becomes of the FilterDeployment and of each workload.
func (f *follower) follow(ctx context.Context, c client.WithWatch, at client.ObjectKey) error {
	limited, cancel := watchtools.ContextWithOptionalTimeout(ctx, f.timeout)
	defer cancel()
	told, last := map[string]string{}, view.Progress{}
	err := follow(limited, c, at, func(fd *wasmev1.FilterDeployment, gone bool) (bool, error) {
		if gone {
			return false, fmt.Errorf("waiting for FilterDeployment %s: %w", at.Name, errDeleted)
		}
		progress := view.ProgressOf(fd)
		if progress != last && !progress.Done && !progress.Failed {
			f.app.say("%s", progress.Message)
		}
		last = progress
		f.tell(fd, told)
		if progress.Failed {
			return false, refuse("%s", progress.Message)
		}
		return progress.Done, nil
	})
	if err == nil {
		f.app.say("all workloads run the filter")
	}
	if ctx.Err() == nil && errors.Is(limited.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("FilterDeployment %s is not done after %v: follow it with wasme rollout status %s -n %s", at.Name, f.timeout, at.Name, at.Namespace)
	}
	return err
}

// tell prints a line for each workload whose state has changed.
func (f *follower) tell(fd *wasmev1.FilterDeployment, told map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(fd.Status.Workloads)) {
		state := fd.Status.Workloads[name]
		text := string(state.State)
		if state.Reason != "" {
			text += ": " + state.Reason
		}
		if told[name] != text {
			told[name] = text
			fmt.Fprintf(f.lines, "%s: %s\n", name, text)
		}
	}
}

func newUndeploy(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "undeploy",
		Short: "Remove a filter from Istio",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return misused("no platform is named: use wasme undeploy istio --id ID")
		},
	}
	c.AddCommand(newUndeployIstio(a))
	return c
}

func newUndeployIstio(a *app) *cobra.Command {
	s := &selectFlags{}
	c := &cobra.Command{
		Use:     "istio",
		Short:   "Delete a FilterDeployment, and with it the filter",
		Long:    "Deletes the FilterDeployment with the name --id, and waits until what the operator made for it is gone.",
		Example: "  wasme undeploy istio --id hello -n bookinfo",
		Args:    cobra.NoArgs,
	}
	s.addTo(c)
	k := newCluster(c)
	_ = c.RegisterFlagCompletionFunc("id", k.filterDeployments) // the flag is there
	var dryRun bool
	var timeout time.Duration
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be deleted")
	c.Flags().DurationVar(&timeout, "timeout", deployTimeout, "how long to wait; 0 waits forever")
	addMeaningless(a, c, append([]string{"root-id", "config", "patch-context", "istio-namespace"}, cacheFlags...)...)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := s.check(); err != nil {
			return err
		}
		in, namespace, err := k.client()
		if err != nil {
			return err
		}
		fd, err := findFilterDeployment(c.Context(), in, client.ObjectKey{Namespace: namespace, Name: s.id})
		if err != nil {
			return err
		}
		if err := s.checkWhole(c, fd); err != nil {
			return err
		}
		if dryRun {
			return a.wouldDelete(fd)
		}
		return a.undeploy(c.Context(), in, fd, timeout)
	}
	return c
}

// checkWhole refuses flags that mean only a part of the workloads: a FilterDeployment is
// deleted as a whole.
func (s *selectFlags) checkWhole(c *cobra.Command, fd *wasmev1.FilterDeployment) error {
	istio := ptr.Deref(fd.Spec.Deployment.Istio, wasmev1.IstioDeploymentSpec{})
	labels := map[string]string{}
	for key, value := range istio.Labels {
		labels[key] = string(value)
	}
	switch {
	case c.Flags().Changed("labels") && !maps.Equal(labels, s.labels):
		return misused("--labels cannot limit the removal: change spec.deployment.istio of FilterDeployment %s, or leave --labels out to delete the filter everywhere", fd.Name)
	case c.Flags().Changed("workload-type") && !strings.EqualFold(cmp.Or(istio.Kind, "deployment"), s.workloadType):
		return misused("--workload-type cannot limit the removal: FilterDeployment %s is for workloads of the kind %s: leave --workload-type out to delete it", fd.Name, istio.Kind)
	}
	return nil
}

func (a *app) wouldDelete(fd *wasmev1.FilterDeployment) error {
	fmt.Fprintf(a.Out, "FilterDeployment %s would be deleted\n", fd.Name)
	for _, name := range slices.Sorted(maps.Keys(fd.Status.Workloads)) {
		fmt.Fprintf(a.Out, "%s: the filter would be removed\n", name)
	}
	return nil
}

// deletedPoll is how often wasme looks whether a FilterDeployment is gone.
const deletedPoll = 200 * time.Millisecond

// undeploy deletes a FilterDeployment after what it owns, and waits for that.
func (a *app) undeploy(ctx context.Context, c client.WithWatch, fd *wasmev1.FilterDeployment, timeout time.Duration) error {
	limited, cancel := watchtools.ContextWithOptionalTimeout(ctx, timeout)
	defer cancel()
	doing := "deleting FilterDeployment " + fd.Name
	err := c.Delete(limited, fd, client.PropagationPolicy(metav1.DeletePropagationForeground), client.Preconditions{UID: &fd.UID})
	if client.IgnoreNotFound(err) != nil {
		return explain(ctx, doing, err)
	}
	err = wait.PollUntilContextCancel(limited, deletedPoll, true, func(ctx context.Context) (bool, error) {
		var now wasmev1.FilterDeployment
		err := c.Get(ctx, client.ObjectKeyFromObject(fd), &now)
		return apierrors.IsNotFound(err) || err == nil && now.UID != fd.UID, client.IgnoreNotFound(err)
	})
	if ctx.Err() == nil && errors.Is(limited.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%s: what the operator made for it is not gone within %v: look for finalizers with kubectl get envoyfilters -n %s", doing, timeout, fd.Namespace)
	}
	if err == nil {
		fmt.Fprintf(a.Out, "FilterDeployment %s deleted\n", fd.Name)
	}
	return err
}
