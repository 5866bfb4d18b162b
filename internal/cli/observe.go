package cli

import (
	"context"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli/view"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// What follows reads what the operator reads of a FilterDeployment, with the rights of the
// user. The operator has it in a cache; a command asks once.

// readHistory returns the revisions of a FilterDeployment, the newest first.
func readHistory(ctx context.Context, c client.Reader, fd *wasmev1.FilterDeployment) ([]revision.Revision, error) {
	var list appsv1.ControllerRevisionList
	err := c.List(ctx, &list, client.InNamespace(fd.Namespace), client.MatchingLabels(ownership.Labels(fd)))
	if err != nil {
		return nil, explain(ctx, "listing the revisions of "+fd.Name, err)
	}
	var history []revision.Revision
	for i := range list.Items {
		if !ownership.MayTake(&list.Items[i], fd) {
			continue
		}
		if known, err := revision.Decode(&list.Items[i]); err == nil { // the operator ignores what cannot be read, too
			history = append(history, known)
		}
	}
	revision.SortNewestFirst(history)
	return history, nil
}

// readIstioObjects returns the objects of the kinds that outputs have in a namespace, or in
// all when it is empty, in the order of kinds and names. A kind that the cluster does not
// have has none.
func readIstioObjects(ctx context.Context, c client.Reader, namespace string, options ...client.ListOption) ([]istio.Output, error) {
	var objects []istio.Output
	for _, name := range []wasmev1.Output{wasmev1.OutputEnvoyFilter, wasmev1.OutputWasmPlugin, wasmev1.OutputTrafficExtension} {
		list := istio.Kinds[name].NewList()
		err := c.List(ctx, list, append(options, client.InNamespace(namespace))...)
		if meta.IsNoMatchError(err) {
			continue
		}
		if err != nil {
			return nil, explain(ctx, "listing the objects of kind "+string(name), err)
		}
		if err := meta.EachListItem(list, func(item runtime.Object) error {
			objects = append(objects, item.(istio.Output))
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return objects, nil
}

// outputsOf returns those of Istio's objects that were made for a FilterDeployment.
func outputsOf(fd *wasmev1.FilterDeployment, objects []istio.Output) rollout.Outputs {
	outputs := rollout.Outputs{}
	for _, object := range objects {
		if object.GetNamespace() == fd.Namespace && ownership.MayTake(object, fd) {
			outputs[keyOf(object)] = rollout.OutputOf(object)
		}
	}
	return outputs
}

func keyOf(object istio.Output) rollout.OutputKey {
	return rollout.OutputKey{Kind: istio.KindOf(object), Name: object.GetName()}
}

// readOutputs returns the outputs of a FilterDeployment.
func readOutputs(ctx context.Context, c client.Reader, fd *wasmev1.FilterDeployment) (rollout.Outputs, error) {
	objects, err := readIstioObjects(ctx, c, fd.Namespace, client.MatchingLabels(ownership.Labels(fd)))
	return outputsOf(fd, objects), err
}

// podIndex has the pods of namespaces by `<kind>/<namespace>/<name>` of what they belong to,
// in the order of their names.
type podIndex map[string][]*corev1.Pod

func ownerKey(t workload.Target) string { return t.Kind + "/" + t.Namespace + "/" + t.Name }

// readPods returns the pods of a namespace that are neither finished nor being deleted.
func readPods(ctx context.Context, c client.Reader, namespace string) (podIndex, error) {
	var list corev1.PodList
	if err := c.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, explain(ctx, "listing the pods of namespace "+namespace, err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	pods := podIndex{}
	for i := range list.Items {
		pod := &list.Items[i]
		if pod.DeletionTimestamp != nil || workload.IsFinished(pod) {
			continue
		}
		for _, owner := range workload.Owners(pod) {
			pods[ownerKey(owner)] = append(pods[ownerKey(owner)], pod)
		}
	}
	return pods, nil
}

// of returns the pods that run a filter for a target.
func (p podIndex) of(target workload.Target) []*corev1.Pod {
	if target.IsReference() {
		gateway, known := target.Proxies.Key()
		if !known {
			return nil
		}
		target = gateway
	}
	return p[ownerKey(target)]
}

// count returns the numbers of pods by the keys of the workloads in a status.
func (p podIndex) count(fd *wasmev1.FilterDeployment, outputs rollout.Outputs) map[string]view.Pods {
	counts := map[string]view.Pods{}
	for _, output := range outputs {
		kind, name, _ := strings.Cut(output.Workload, "/")
		target := workload.Target{Kind: kind, Namespace: fd.Namespace, Name: name}
		if target.IsReference() {
			continue // whose pods only the operator knows without looking for its Gateway
		}
		found := view.Pods{}
		for _, pod := range p.of(target) {
			found.All++
			if workload.IsReady(pod) && workload.Sidecar(pod) != nil {
				found.Ready++
			}
		}
		counts[target.Key()] = found
	}
	return counts
}

// withPods returns targets with their Ready pods.
func withPods(ctx context.Context, c client.Reader, namespace string, targets []workload.Target) ([]rollout.Target, error) {
	namespaces := sets.New(namespace)
	for _, target := range targets {
		if gateway, known := target.Proxies.Key(); known {
			namespaces.Insert(gateway.Namespace)
		}
	}
	pods := podIndex{}
	for in := range namespaces {
		found, err := readPods(ctx, c, in)
		if err != nil {
			return nil, err
		}
		maps.Copy(pods, found) // the keys have the namespaces
	}
	described := make([]rollout.Target, len(targets))
	for i, target := range targets {
		if target.IsReference() {
			target.Proxies.Istio = workload.OldestIstio(pods.of(target))
		}
		described[i] = rollout.Target{Target: target, Pods: pods.describe(target)}
	}
	return described, nil
}

// describe returns the Ready pods among those of a target, as plans know them.
func (p podIndex) describe(target workload.Target) []rollout.Pod {
	var ready []rollout.Pod
	for _, pod := range p.of(target) {
		if workload.IsReady(pod) {
			ready = append(ready, rollout.Pod{Name: pod.Name, Sidecar: workload.Sidecar(pod) != nil})
		}
	}
	return ready
}

// readTargets returns what a FilterDeployment selects, in the order of the names, and the
// condition WorkloadsSelected that follows.
func readTargets(ctx context.Context, c client.Reader, fd *wasmev1.FilterDeployment) ([]workload.Target, condition.Verdict, error) {
	selection, err := workload.SelectionOf(fd)
	if err != nil {
		return nil, condition.Verdict{}, err
	}
	if selection.ByReference() {
		return readReferences(ctx, c, selection)
	}
	list := selection.Kind.NewList()
	if err := c.List(ctx, list, client.InNamespace(fd.Namespace), client.MatchingLabelsSelector{Selector: selection.Selector}); err != nil {
		return nil, condition.Verdict{}, explain(ctx, "listing the workloads", err)
	}
	var targets []workload.Target
	gateways := 0
	err = meta.EachListItem(list, func(item runtime.Object) error {
		object := item.(workload.Object)
		if selection.LeavesOut(object) {
			gateways++
			return nil
		}
		targets = append(targets, workload.TargetOf(object))
		return nil
	})
	slices.SortFunc(targets, func(a, b workload.Target) int { return strings.Compare(a.Name, b.Name) })
	return targets, selection.Verdict(len(targets), gateways), err
}

// readReferences returns the targets of targetRefs with their proxies.
func readReferences(ctx context.Context, c client.Reader, selection workload.Selection) ([]workload.Target, condition.Verdict, error) {
	targets := slices.Clone(selection.References)
	var missing []workload.Target
	for i := range targets {
		proxies, err := readProxies(ctx, c, targets[i])
		if err != nil {
			return nil, condition.Verdict{}, err
		}
		if targets[i].Proxies = proxies; proxies.Missing == workload.NotThere {
			missing = append(missing, targets[i])
		}
	}
	return targets, selection.ReferencesVerdict(missing), nil
}

// readProxies returns the proxies of a Gateway, or of a Service through its waypoint.
func readProxies(ctx context.Context, c client.Reader, of workload.Target) (workload.Proxies, error) {
	name := client.ObjectKey{Namespace: of.Namespace, Name: of.Name}
	if of.Kind == wasmev1.TargetKindGateway {
		return readGateway(ctx, c, name)
	}
	service := workload.NewService()
	if err := c.Get(ctx, name, service); apierrors.IsNotFound(err) {
		return workload.Proxies{Missing: workload.NotThere}, nil
	} else if err != nil {
		return workload.Proxies{}, explain(ctx, "reading Service "+of.Name, err)
	}
	waypoint, chosen := workload.WaypointOf(of.Namespace, service.Labels)
	if !chosen {
		namespace := workload.NewService()
		namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
		if err := c.Get(ctx, client.ObjectKey{Name: of.Namespace}, namespace); err != nil {
			return workload.Proxies{}, explain(ctx, "reading namespace "+of.Namespace, err)
		}
		waypoint, _ = workload.WaypointOf(of.Namespace, namespace.Labels)
	}
	if waypoint.Name == "" {
		return workload.Proxies{Missing: "it has no waypoint"}, nil
	}
	return readGateway(ctx, c, waypoint)
}

func readGateway(ctx context.Context, c client.Reader, name client.ObjectKey) (workload.Proxies, error) {
	gateway := workload.NewGateway()
	err := c.Get(ctx, name, gateway)
	if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
		return workload.Proxies{Missing: workload.NotThere}, nil
	}
	return workload.ProxiesOfGateway(name, gateway.Annotations), explain(ctx, "reading Gateway "+name.Name, err)
}
