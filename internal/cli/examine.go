package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/util/wait"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/doctor"
	"github.com/wasme-io/wasme-operator/internal/cli/traffic/tap"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

const (
	// installedIn and meshRoot are where a user without the right to list all namespaces looks
	// for the operator and for istiod.
	installedIn = "wasme-system"
	meshRoot    = "istio-system"
	// leasePoll is how often a Lease is read that seems to be old.
	leasePoll = 500 * time.Millisecond
	// maxVersion bounds the answer of /version, which is less than 1 KiB.
	maxVersion = 64 << 10
)

// examiner reads what package doctor judges, and keeps what it finds.
type examiner struct {
	permitted
	config    *rest.Config
	ports     tap.Forwarder
	namespace string
	// ahead is how far this machine's clock is ahead of the API server's.
	ahead    time.Duration
	findings []doctor.Finding
	tell     func(doctor.Finding)
	// pods has those of namespaces that were read.
	pods map[string]podIndex
}

func newExaminer(k *cluster) (*examiner, error) {
	_, namespace, err := k.client()
	if err != nil {
		return nil, err
	}
	config, err := k.config()
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // a diagnosis asks a hundred short questions; the API server has limits of its own
	s := newScheme()
	if err := apiextensionsv1.AddToScheme(s); err != nil {
		return nil, err
	}
	c, err := client.New(config, client.Options{Scheme: s})
	if err != nil {
		return nil, fmt.Errorf("reaching the API server at %s: %w", config.Host, err)
	}
	return &examiner{
		permitted: permitted{c}, config: config, ports: tap.PortForward{Config: config}, namespace: namespace,
		tell: func(doctor.Finding) {}, pods: map[string]podIndex{},
	}, nil
}

func (e *examiner) add(findings ...doctor.Finding) {
	e.findings = append(e.findings, findings...)
	for _, f := range findings {
		e.tell(f)
	}
}

// examine makes all checks. The error is that of the API server, without which there is none.
func (e *examiner) examine(ctx context.Context) error {
	if err := e.server(ctx); err != nil {
		return err
	}
	e.userRights(ctx)
	e.crd(ctx)
	filters, filtersErr := e.filters(ctx)
	e.cluster(ctx, filters)
	for _, o := range e.operators(ctx) {
		e.operator(ctx, o, filters)
	}
	if filtersErr != nil {
		e.add(doctor.Unreadable(doctor.FiltersCheck, filtersErr))
	}
	if len(filters) > 0 || filtersErr == nil && e.serves(filterDeploymentKind) {
		e.add(doctor.FilterDeployments(filters, e.now())...)
	}
	return ctx.Err()
}

var filterDeploymentKind = wasmev1.GroupVersion.WithKind(wasmev1.FilterDeploymentKind)

// now is the time of the API server's clock.
func (e *examiner) now() time.Time { return time.Now().Add(-e.ahead) }

// server asks the API server for its version and, by the way, for the time.
func (e *examiner) server(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	sent := time.Now()
	response, err := e.get(ctx, "version")
	if err != nil {
		return fmt.Errorf("reaching the API server at %s: %w: check that the cluster runs and that the server address in the kubeconfig is right", e.config.Host, err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusUnauthorized {
		return errors.New("asking the API server for its version: it does not accept the kubeconfig's credentials: log in again")
	}
	e.version(response)
	e.clock(response.Header.Get("Date"), sent, time.Now())
	return nil
}

func (e *examiner) get(ctx context.Context, path string) (*http.Response, error) {
	c, err := rest.HTTPClientFor(e.config)
	if err != nil {
		return nil, err
	}
	base, _, err := rest.DefaultServerUrlFor(e.config)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath(path).String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	return c.Do(request)
}

func (e *examiner) version(response *http.Response) {
	var info apiversion.Info
	err := json.NewDecoder(io.LimitReader(response.Body, maxVersion)).Decode(&info)
	if response.StatusCode != http.StatusOK || err != nil {
		e.add(doctor.Unknown(doctor.ServerCheck, "it answers /version with %s", response.Status))
		return
	}
	e.add(doctor.Server(info.GitVersion))
}

// clock compares the time in an answer, which is cut to seconds, with that of its request.
func (e *examiner) clock(date string, sent, received time.Time) {
	said, err := http.ParseTime(date)
	if err != nil {
		return // proxies may leave it out
	}
	const half = time.Second / 2
	took := received.Sub(sent)
	e.ahead = sent.Add(took / 2).Sub(said.Add(half))
	e.add(doctor.Clock(e.ahead, took/2+half))
}

// crd reads the CustomResourceDefinition. Without the right to, the check still says whether
// the API server serves FilterDeployments.
func (e *examiner) crd(ctx context.Context) {
	var crd apiextensionsv1.CustomResourceDefinition
	err := e.Get(ctx, client.ObjectKey{Name: doctor.CRDName}, &crd)
	switch {
	case apierrors.IsNotFound(err), err != nil && !e.serves(filterDeploymentKind):
		e.add(doctor.CRD(nil))
	case err != nil:
		e.add(doctor.Unreadable(doctor.CRDCheck, err))
	default:
		e.add(doctor.CRD(&crd))
	}
}

// filters lists the FilterDeployments of all namespaces, or else those of the user's, with
// why the others are missing.
func (e *examiner) filters(ctx context.Context) ([]wasmev1.FilterDeployment, error) {
	var list wasmev1.FilterDeploymentList
	err := e.List(ctx, &list)
	if _, missing := errors.AsType[*doctor.MissingRight](err); missing {
		err = errors.Join(err, e.List(ctx, &list, client.InNamespace(e.namespace)))
	}
	if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
		return nil, nil // crd says so
	}
	return list.Items, err
}

// cluster checks what is there once: what is left of the predecessor, and Istio.
func (e *examiner) cluster(ctx context.Context, filters []wasmev1.FilterDeployment) {
	deployments, err := e.deployments(ctx)
	if err != nil {
		e.add(doctor.Unreadable(doctor.PredecessorCheck, err))
	} else {
		e.add(doctor.Predecessor(deployments))
	}
	var istiods appsv1.DeploymentList
	var oldest *version.Version
	if err := listAnywhere(ctx, e.permitted, &istiods, meshRoot, client.MatchingLabels{"app": "istiod"}); err != nil {
		e.add(doctor.Unreadable(doctor.IstiodCheck, err))
	} else {
		var found doctor.Finding
		found, oldest = doctor.Istiod(istiods.Items)
		e.add(found)
	}
	e.add(doctor.Kinds(e.lackingKinds(), wantedKinds(filters), oldest))
}

func (e *examiner) deployments(ctx context.Context) ([]appsv1.Deployment, error) {
	var list appsv1.DeploymentList
	err := e.List(ctx, &list)
	return list.Items, err
}

func (e *examiner) lackingKinds() []wasmev1.Output {
	var lacking []wasmev1.Output
	for _, name := range []wasmev1.Output{wasmev1.OutputEnvoyFilter, wasmev1.OutputWasmPlugin, wasmev1.OutputTrafficExtension} {
		if !e.serves(istio.Kinds[name].GroupVersionKind) {
			lacking = append(lacking, name)
		}
	}
	return lacking
}

func wantedKinds(filters []wasmev1.FilterDeployment) []wasmev1.Output {
	var wanted []wasmev1.Output
	for i := range filters {
		wanted = append(wanted, workload.IstioSpec(&filters[i]).Output)
	}
	return wanted
}

// operators returns the installations in the cluster.
func (e *examiner) operators(ctx context.Context) []doctor.Operator {
	operators, err := findOperators(ctx, e.permitted)
	if err != nil {
		e.add(doctor.Unreadable(doctor.OperatorCheck, err))
	} else if len(operators) == 0 {
		e.add(doctor.NoOperator())
	}
	return operators
}

// operator checks one installation.
func (e *examiner) operator(ctx context.Context, o doctor.Operator, filters []wasmev1.FilterDeployment) {
	e.add(o.Replicas(), o.Settings())
	e.leader(ctx, o)
	e.accountRights(ctx, o)
	own := slices.DeleteFunc(slices.Clone(filters), func(fd wasmev1.FilterDeployment) bool { return !o.LooksAfter(&fd) })
	pods := e.podsOf(ctx, o)
	e.outsideMesh(ctx, o, pods)
	e.moduleServer(ctx, o)
	e.add(doctor.Answers(e.askOperator(ctx, o, pods, own)))
	selected := e.selected(ctx, own)
	e.sidecars(ctx, selected)
	e.network(ctx, o, pods, selected)
}

// leader judges the Lease. One that seems old is watched for as long as it holds: either it is
// renewed then, and a clock is wrong, or nobody leads.
func (e *examiner) leader(ctx context.Context, o doctor.Operator) {
	if !o.Elects() {
		e.add(o.WithoutElection())
		return
	}
	lease, err := e.lease(ctx, o)
	if err != nil {
		e.add(doctor.Unreadable(o.LeaderCheck(), err))
		return
	}
	renewed := false
	if lease != nil && lease.Spec.RenewTime != nil && !doctor.IsFresh(lease, e.now()) {
		first := *lease.Spec.RenewTime
		_ = wait.PollUntilContextTimeout(ctx, leasePoll, doctor.LeaseTime(lease), false, func(ctx context.Context) (bool, error) {
			now, err := e.lease(ctx, o)
			if err == nil && now != nil && now.Spec.RenewTime != nil && !now.Spec.RenewTime.Equal(&first) {
				lease, renewed = now, true
			}
			return renewed, err
		}) // its end is an answer, too
	}
	e.add(o.Lease(lease, e.now(), renewed))
}

// lease returns the Lease of an operator's leader; nil when there is none.
func (e *examiner) lease(ctx context.Context, o doctor.Operator) (*coordinationv1.Lease, error) {
	var lease coordinationv1.Lease
	err := e.Get(ctx, client.ObjectKey{Namespace: o.LeaseNamespace(), Name: o.LeaseName()}, &lease)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return &lease, err
}

// podsOf returns the pods of an operator that are neither finished nor being deleted.
func (e *examiner) podsOf(ctx context.Context, o doctor.Operator) []corev1.Pod {
	var list corev1.PodList
	if err := e.List(ctx, &list, client.InNamespace(o.Namespace), client.MatchingLabels(o.Pods.Labels)); err != nil {
		e.add(doctor.Unreadable("pods of "+o.Title(), err))
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil || workload.IsFinished(&p) })
}

func (e *examiner) outsideMesh(ctx context.Context, o doctor.Operator, pods []corev1.Pod) {
	labels, err := e.labelsOf(ctx, o.Namespace)
	if err != nil {
		e.add(doctor.Unreadable(doctor.MeshCheck, err))
		return
	}
	e.add(o.OutsideMesh(labels, pods))
}

func (e *examiner) labelsOf(ctx context.Context, namespace string) (map[string]string, error) {
	var object corev1.Namespace
	err := e.Get(ctx, client.ObjectKey{Name: namespace}, &object)
	return object.Labels, err
}

// moduleServer judges the Service that sidecars fetch modules from.
func (e *examiner) moduleServer(ctx context.Context, o doctor.Operator) {
	server := o.ModuleServer()
	if server.Service.Name == "" {
		e.add(doctor.Unknown(doctor.ServiceCheck, "%s is no address of a Service", server.URL))
		return
	}
	service := &corev1.Service{}
	err := e.Get(ctx, server.Service, service)
	if apierrors.IsNotFound(err) {
		service, err = nil, nil
	}
	var endpoints discoveryv1.EndpointSliceList
	if err == nil {
		err = e.List(ctx, &endpoints, client.InNamespace(server.Service.Namespace), client.MatchingLabels{discoveryv1.LabelServiceName: server.Service.Name})
	}
	if err != nil {
		e.add(doctor.Unreadable(doctor.ServiceCheck, err))
		return
	}
	e.add(server.Endpoints(service, endpoints.Items))
}

// selected returns the pods with a sidecar that FilterDeployments select, in the order of
// their names. Those of targetRefs are left out: only the operator knows them.
func (e *examiner) selected(ctx context.Context, filters []wasmev1.FilterDeployment) []*corev1.Pod {
	found := map[*corev1.Pod]bool{}
	for i := range filters {
		fd := &filters[i]
		selection, err := workload.SelectionOf(fd)
		if err != nil || selection.ByReference() {
			continue // its status says what is wrong with it
		}
		pods := e.podsIn(ctx, fd.Namespace)
		for name := range fd.Status.Workloads {
			for _, pod := range pods[ownerKey(workload.Target{Kind: selection.Kind.Name, Namespace: fd.Namespace, Name: name})] {
				found[pod] = workload.Sidecar(pod) != nil
			}
		}
	}
	var selected []*corev1.Pod
	for pod, has := range found {
		if has {
			selected = append(selected, pod)
		}
	}
	slices.SortFunc(selected, func(a, b *corev1.Pod) int { return strings.Compare(nameOf(a), nameOf(b)) })
	return selected
}

func nameOf(object client.Object) string { return client.ObjectKeyFromObject(object).String() }

func (e *examiner) podsIn(ctx context.Context, namespace string) podIndex {
	if pods, read := e.pods[namespace]; read {
		return pods
	}
	pods, err := readPods(ctx, e.permitted, namespace)
	if err != nil {
		e.add(doctor.Unreadable("pods of namespace "+namespace, err))
	}
	e.pods[namespace] = pods
	return pods
}

// network judges the NetworkPolicies at both ends of the way to the module server.
func (e *examiner) network(ctx context.Context, o doctor.Operator, pods []corev1.Pod, selected []*corev1.Pod) {
	labels, err := e.labelsOf(ctx, o.Namespace)
	policies := map[string][]networkingv1.NetworkPolicy{}
	if err == nil {
		policies[o.Namespace], err = e.policies(ctx, o.Namespace)
	}
	if err != nil {
		e.add(doctor.Unreadable(doctor.NetworkCheck, err))
		return
	}
	operator := doctor.End{Namespace: o.Namespace, NamespaceLabels: labels, Labels: o.Pods.Labels}
	if len(pods) > 0 {
		operator = doctor.EndOf(&pods[0], labels)
	}
	var ends []doctor.End
	for _, in := range byNamespace(selected) {
		namespace := in[0].Namespace
		labels, err := e.labelsOf(ctx, namespace)
		if err == nil {
			policies[namespace], err = e.policies(ctx, namespace)
		}
		if err != nil {
			e.add(doctor.Unreadable(doctor.NetworkCheck, err))
			continue
		}
		for _, pod := range in {
			ends = append(ends, doctor.EndOf(pod, labels))
		}
	}
	e.add(doctor.Network(policies, operator, o.ServedPort(), ends)...)
}

// byNamespace splits pods that are in the order of their namespaces.
func byNamespace(pods []*corev1.Pod) [][]*corev1.Pod {
	var split [][]*corev1.Pod
	for i, pod := range pods {
		if i == 0 || pods[i-1].Namespace != pod.Namespace {
			split = append(split, nil)
		}
		split[len(split)-1] = append(split[len(split)-1], pod)
	}
	return split
}

func (e *examiner) policies(ctx context.Context, namespace string) ([]networkingv1.NetworkPolicy, error) {
	var list networkingv1.NetworkPolicyList
	err := e.List(ctx, &list, client.InNamespace(namespace))
	return list.Items, err
}
