package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/chain"
	"github.com/wasme-io/wasme-operator/internal/cli/traffic/tap"
	"github.com/wasme-io/wasme-operator/internal/cli/view"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

const (
	// askedAtOnce is how many pods are asked at one time.
	askedAtOnce = 8
	// answerTime bounds what one pod may take.
	answerTime = 30 * time.Second
)

// describer is the command describe.
type describer struct {
	*app
	cluster *cluster
	root    *meshFlags
	// sidecars reaches the ports of sidecars.
	sidecars tap.Forwarder
}

func newDescribe(a *app) *cobra.Command {
	d := &describer{app: a}
	c := &cobra.Command{
		Use:   "describe KIND/NAME",
		Short: "Show which Wasm filters run on a workload, and who put them there",
		Long: `Show which Wasm filters requests pass on a workload or a pod, in their order, and who put
them there: a FilterDeployment, a WasmPlugin, a TrafficExtension or an EnvoyFilter.
Responses pass them the other way round.

The first tables are what Istio's objects ask for. The last one is what the sidecars of the
pods really run: each is asked for its configuration through a port-forward, for which you
need the right to create pods/portforward. Filters that proxies only try are marked.

KIND is deploy, ds, sts or pod.`,
		Example: `  wasme describe deploy/details-v1 -n bookinfo
  wasme describe pod/details-v1-7f9c4-x2x5k`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return d.run(c.Context(), args[0]) },
	}
	d.cluster = newCluster(c)
	d.root = newRootFlag(a, c)
	return c
}

func (d *describer) run(ctx context.Context, arg string) error {
	kind, name, err := parseSubject(arg)
	if err != nil {
		return err
	}
	c, namespace, err := d.cluster.client()
	if err != nil {
		return err
	}
	config, err := d.cluster.config()
	if err != nil {
		return err
	}
	d.sidecars = tap.PortForward{Config: config}
	s, err := findSubject(ctx, c, kind, client.ObjectKey{Namespace: namespace, Name: name})
	if err != nil {
		return err
	}
	mesh, _ := d.root.find(ctx, c, &wasmev1.FilterDeployment{})
	objects, err := d.readObjects(ctx, c, namespace, mesh.RootNamespace)
	if err != nil {
		return err
	}
	return d.print(ctx, s, objects, mesh.RootNamespace)
}

// kindsOfSubjects are the kinds as users write them.
var kindsOfSubjects = map[string]string{
	"deploy": "Deployment", "deployment": "Deployment", "ds": "DaemonSet", "daemonset": "DaemonSet",
	"sts": "StatefulSet", "statefulset": "StatefulSet", "po": podKind, "pod": podKind,
}

const podKind = "Pod"

// parseSubject reads KIND/NAME.
func parseSubject(arg string) (kind, name string, err error) {
	written, name, found := strings.Cut(arg, "/")
	written = strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(written), ".apps"), "s")
	kind, known := kindsOfSubjects[written]
	if !known {
		kind, known = kindsOfSubjects[written+"s"]
	}
	if !found || !known || name == "" {
		return "", "", misused("%q is not a workload: write deploy/NAME, ds/NAME, sts/NAME or pod/NAME", arg)
	}
	return kind, name, nil
}

// subject is what is described: a workload with its pods, or one of them.
type subject struct {
	title   string
	target  workload.Target
	pods    []*corev1.Pod
	gateway bool
}

func (s *subject) traffics() []chain.Traffic {
	if s.gateway {
		return []chain.Traffic{chain.Gateway}
	}
	return []chain.Traffic{chain.Inbound, chain.Outbound}
}

func findSubject(ctx context.Context, c client.Client, kind string, at client.ObjectKey) (*subject, error) {
	if kind == podKind {
		return describedPod(ctx, c, at)
	}
	known, _ := workload.KindNamed(kind)
	object := known.New()
	if err := c.Get(ctx, at, object); err != nil {
		return nil, notFound(ctx, c, kind, at, known.NewList(), err)
	}
	s := &subject{title: kind + " " + at.String(), target: workload.TargetOf(object), gateway: workload.Selection{}.LeavesOut(object)}
	s.gateway = s.gateway && !isWaypoint(s.target.PodLabels)
	pods, err := readPods(ctx, c, at.Namespace)
	s.pods = pods.of(s.target)
	return s, err
}

// isWaypoint reports whether pods with such labels are those of a waypoint, whose traffic is
// inbound to Istio. Its controller labels them.
func isWaypoint(labels map[string]string) bool {
	return labels["gateway.istio.io/managed"] == "istio.io-mesh-controller"
}

// describedPod returns a pod, and the workload that it belongs to as far as it is there.
func describedPod(ctx context.Context, c client.Client, at client.ObjectKey) (*subject, error) {
	pod := &corev1.Pod{}
	if err := c.Get(ctx, at, pod); err != nil {
		return nil, notFound(ctx, c, podKind, at, &corev1.PodList{}, err)
	}
	s := &subject{title: "Pod " + at.String(), pods: []*corev1.Pod{pod}, gateway: pod.Labels[workload.GatewayLabel] != "" && !isWaypoint(pod.Labels)}
	if owners := workload.Owners(pod); len(owners) > 0 {
		s.target = owners[0]
		s.title += fmt.Sprintf(" of %s %s", owners[0].Kind, owners[0].Name)
	}
	s.target.Namespace, s.target.PodLabels = at.Namespace, pod.Labels
	return s, nil
}

// notFound returns the error of reading a workload, with a suggestion.
func notFound(ctx context.Context, c client.Client, kind string, at client.ObjectKey, list client.ObjectList, err error) error {
	if !apierrors.IsNotFound(err) {
		return explain(ctx, "reading "+kind+" "+at.Name, err)
	}
	var names []string
	_ = c.List(ctx, list, client.InNamespace(at.Namespace)) // a suggestion can be left out
	_ = meta.EachListItem(list, func(item runtime.Object) error {
		names = append(names, item.(client.Object).GetName())
		return nil
	})
	return fmt.Errorf("namespace %s has no %s %s%s", at.Namespace, kind, at.Name, suggestion(at.Name, names, "choose another namespace with -n"))
}

// readObjects returns Istio's objects that the proxies of a namespace get.
func (d *describer) readObjects(ctx context.Context, c client.Reader, namespace, root string) ([]istio.Output, error) {
	objects, err := readIstioObjects(ctx, c, namespace)
	if err != nil || root == namespace {
		return objects, err
	}
	more, err := readIstioObjects(ctx, c, root)
	if err != nil {
		d.note("%v; what is in there is left out", err)
		return objects, nil
	}
	return append(objects, more...), nil
}

func (d *describer) print(ctx context.Context, s *subject, objects []istio.Output, root string) error {
	on := screenOf(d.Out)
	fmt.Fprintf(d.Out, "%s, %s\n", s.title, view.Count(len(s.pods), "pod"))
	expected := map[chain.Traffic][]chain.Filter{}
	for _, traffic := range s.traffics() {
		expected[traffic] = chain.Expected(objects, chain.Proxy{Target: s.target, RootNamespace: root}, traffic)
		if len(expected[traffic]) == 0 {
			fmt.Fprintf(d.Out, "\nNo Wasm filters on %s requests.\n", traffic)
			continue
		}
		fmt.Fprintf(d.Out, "\nWasm filters on %s requests, in the order in which these pass them:\n", traffic)
		if err := on.table(view.Filters(expected[traffic]), false); err != nil {
			return err
		}
	}
	for _, text := range view.Overlaps(objects, s.target) {
		fmt.Fprintf(d.Out, "\n%s\n", on.wrapped("Overlap: "+text))
	}
	if len(s.pods) == 0 {
		return nil
	}
	fmt.Fprintln(d.Out, "\nWhat the pods run:")
	answers := d.askAll(ctx, s, expected)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return on.table(view.RunningPods(answers, s.traffics()), false)
}

// askAll asks the pods what they run.
func (d *describer) askAll(ctx context.Context, s *subject, expected map[chain.Traffic][]chain.Filter) []view.RunningPod {
	answers := make([]view.RunningPod, len(s.pods))
	var asking errgroup.Group
	asking.SetLimit(askedAtOnce)
	for i, pod := range s.pods {
		asking.Go(func() error {
			answers[i] = d.askPod(ctx, s, pod, expected)
			return nil
		})
	}
	_ = asking.Wait() // each answer has its own error
	return answers
}

func (d *describer) askPod(ctx context.Context, s *subject, pod *corev1.Pod, expected map[chain.Traffic][]chain.Filter) view.RunningPod {
	answer := view.RunningPod{Name: pod.Name}
	if workload.Sidecar(pod) == nil {
		answer.State = "no sidecar"
		return answer
	}
	running, err := d.ask(ctx, pod, s.gateway)
	if err != nil {
		answer.State = "not asked: " + err.Error()
		return answer
	}
	answer.State, answer.Chains = "as listed", map[chain.Traffic][][]chain.Filter{}
	for _, traffic := range s.traffics() {
		if !chain.Same(expected[traffic], running[traffic]) {
			answer.State = "differs"
		}
		for _, filters := range running[traffic] {
			answer.Chains[traffic] = append(answer.Chains[traffic], chain.Attribute(filters, expected[traffic]))
		}
	}
	return answer
}

// ask returns the chains of a pod's proxy.
func (d *describer) ask(ctx context.Context, pod *corev1.Pod, gateway bool) (map[chain.Traffic][][]chain.Filter, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	address, err := d.sidecars.Forward(ctx, client.ObjectKeyFromObject(pod), tap.AdminPort)
	if err != nil {
		return nil, fmt.Errorf("forwarding port %d: %w", tap.AdminPort, err)
	}
	var bodies []io.Reader
	for _, path := range []string{chain.ListenersPath, chain.ExtensionsPath} {
		body, err := get(ctx, "http://"+address+path)
		if err != nil {
			return nil, err
		}
		defer body.Close()
		bodies = append(bodies, body)
	}
	return chain.Running(bodies[0], bodies[1], gateway)
}

func get(ctx context.Context, url string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("the proxy answers %s", response.Status), response.Body.Close())
	}
	return response.Body, nil
}
