package filterdeployment

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/overlap"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/internal/tracing"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// Workloads are watched, because they come, go and change their labels.
// +kubebuilder:rbac:groups=apps,resources=deployments;daemonsets;statefulsets,verbs=list;watch
// Pods are watched to ask their sidecars what they run.
// +kubebuilder:rbac:groups="",resources=pods,verbs=list;watch

// readTargets is the second step: it returns what the filter is to run on, in
// the order of the names, with their Ready pods; nil when the spec selects
// nothing that makes sense. The error is one of the cache.
func (r *Reconciler) readTargets(ctx context.Context, fd *wasmev1.FilterDeployment) (targets []rollout.Target, verdict condition.Verdict, err error) {
	ctx, span := tracing.Begin(ctx, "SelectWorkloads")
	defer func() { tracing.EndStep(span, verdict, err) }()
	selected, verdict := r.selectWorkloads(ctx, fd)
	if selected == nil {
		return nil, verdict, nil
	}
	targets = make([]rollout.Target, len(selected))
	for i, target := range selected {
		pods, unready, err := r.listPods(ctx, target)
		if err != nil {
			return nil, verdict, err
		}
		if target.IsReference() {
			target.Proxies.Istio = workload.OldestIstio(pods)
		}
		targets[i] = rollout.Target{Target: target, Pods: describePods(pods), Unready: unready}
	}
	r.recall(client.ObjectKeyFromObject(fd), targets)
	if oldest := oldestIstio(targets); oldest != nil && verdict.Status == metav1.ConditionTrue {
		verdict.Message += ", whose oldest proxy runs Istio " + oldest.String()
	}
	return targets, verdict, nil
}

func (r *Reconciler) selectWorkloads(ctx context.Context, fd *wasmev1.FilterDeployment) ([]workload.Target, condition.Verdict) {
	selection, err := workload.SelectionOf(fd)
	if err != nil {
		return nil, condition.FalseUntilChanged(wasmev1.ReasonInvalidSpec, err)
	}
	if selection.ByReference() {
		return r.findReferences(ctx, selection)
	}
	if !r.AllowRootNamespace {
		if err := selection.CheckNamespace(r.Mesh.RootNamespace); err != nil {
			return nil, condition.FalseUntilChanged(wasmev1.ReasonRootNamespace, err)
		}
	}
	gateways := 0
	workloads, err := r.listWorkloads(ctx, selection.Kind, fd.Namespace, selection.Selector, func(object workload.Object) bool {
		if selection.LeavesOut(object) {
			gateways++
			return false
		}
		return true
	})
	if err != nil {
		return nil, condition.FalseAndRetried(wasmev1.ReasonWorkloadsUnreadable, err)
	}
	return workloads, selection.Verdict(len(workloads), gateways)
}

// everyWorkload has listWorkloads return all that it finds.
func everyWorkload(workload.Object) bool { return true }

// listWorkloads returns the workloads of a kind in a namespace, or in all when it
// is empty, that are to be kept, in the order of their names.
func (r *Reconciler) listWorkloads(ctx context.Context, kind workload.Kind, namespace string, selector labels.Selector, keep func(workload.Object) bool) ([]workload.Target, error) {
	list := kind.NewList()
	options := []client.ListOption{client.InNamespace(namespace), client.MatchingLabelsSelector{Selector: selector}, client.UnsafeDisableDeepCopy}
	if err := r.Client.List(ctx, list, options...); err != nil {
		return nil, fmt.Errorf("listing the workloads: %w", err)
	}
	workloads := []workload.Target{}
	err := apimeta.EachListItem(list, func(item runtime.Object) error {
		if object := item.(workload.Object); keep(object) {
			workloads = append(workloads, workload.TargetOf(object))
		}
		return nil
	})
	slices.SortFunc(workloads, func(a, b workload.Target) int { return strings.Compare(a.Name, b.Name) })
	return workloads, err
}

// listPods returns the Ready pods of a target, and the others that are neither finished nor
// being deleted, both in the order of their names.
func (r *Reconciler) listPods(ctx context.Context, of workload.Target) (ready []*corev1.Pod, unready []rollout.Unready, err error) {
	if of.IsReference() {
		gateway, known := of.Proxies.Key()
		if !known {
			return nil, nil, nil
		}
		of = gateway
	}
	all, err := r.podsOf(ctx, of.Namespace, ownerKey(of))
	if err != nil {
		return nil, nil, err
	}
	for i := range all {
		switch pod := &all[i]; {
		case workload.IsReady(pod):
			ready = append(ready, pod)
		case pod.DeletionTimestamp == nil && !workload.IsFinished(pod):
			unready = append(unready, unreadyPod(pod))
		}
	}
	slices.SortFunc(ready, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(unready, func(a, b rollout.Unready) int { return strings.Compare(a.Name, b.Name) })
	return ready, unready, nil
}

func unreadyPod(pod *corev1.Pod) rollout.Unready {
	unready := rollout.Unready{Name: pod.Name, Created: pod.CreationTimestamp.Time, Since: pod.CreationTimestamp.Time}
	if ready := workload.ReadyCondition(pod); ready != nil {
		unready.Since = ready.LastTransitionTime.Time
	}
	return unready
}

// describePods returns what pods say of themselves.
func describePods(list []*corev1.Pod) []rollout.Pod {
	pods := make([]rollout.Pod, 0, len(list))
	for _, pod := range list {
		ready := rollout.Pod{Name: pod.Name, ReadySince: workload.ReadyCondition(pod).LastTransitionTime.Time}
		if ready.Sidecar = workload.Sidecar(pod) != nil; ready.Sidecar {
			ready.Address = workload.SidecarAddress(pod)
			ready.MemoryLimit = workload.Sidecar(pod).Resources.Limits.Memory().Value()
		}
		pods = append(pods, ready)
	}
	return pods
}

// unverified says why the pods of a FilterDeployment are not asked what they run;
// empty when they are.
func (r *Reconciler) unverified(fd *wasmev1.FilterDeployment) string {
	switch {
	case r.Prober == nil:
		return "the operator runs with --verify-pods=false"
	case r.UnverifiedNamespaces.Has(fd.Namespace):
		return "the operator's flag --unverified-namespaces has this namespace"
	case fd.Annotations[wasmev1.VerifyPodsAnnotation] == "false":
		return "this FilterDeployment has the annotation " + wasmev1.VerifyPodsAnnotation + "=false"
	default:
		return ""
	}
}

// readDeleted returns the workloads of outputs that no longer exist, and have pods that
// may still serve, in the order of their kinds and names. A workload that exists and is
// not selected any more is not one of them.
func (r *Reconciler) readDeleted(ctx context.Context, namespace string, targets []rollout.Target, existing rollout.Outputs) ([]rollout.Deleted, error) {
	known := sets.New("") // outputs of older versions name no workload
	for _, target := range targets {
		known.Insert(ownerKey(target.Target))
	}
	var deleted []rollout.Deleted
	for _, output := range existing {
		if known.Has(output.Workload) {
			continue
		}
		known.Insert(output.Workload)
		pods, err := r.podsOfDeleted(ctx, namespace, output.Workload)
		if err != nil {
			return nil, err
		}
		if pods > 0 {
			deleted = append(deleted, rollout.Deleted{Workload: output.Workload, Pods: pods})
		}
	}
	slices.SortFunc(deleted, func(a, b rollout.Deleted) int { return strings.Compare(a.Workload, b.Workload) })
	return deleted, nil
}

// podsOfDeleted returns the number of pods that may still serve of a workload
// (`<kind>/<name>`) that does not exist; zero when it does.
func (r *Reconciler) podsOfDeleted(ctx context.Context, namespace, owner string) (int, error) {
	kindName, name, _ := strings.Cut(owner, "/")
	kind, isWorkload := workload.KindNamed(kindName)
	if !isWorkload {
		return 0, nil // what a targetRef referenced
	}
	err := r.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, kind.New())
	if !apierrors.IsNotFound(err) {
		return 0, err
	}
	pods, err := r.podsOf(ctx, namespace, owner)
	serving := 0
	for i := range pods {
		if !workload.IsFinished(&pods[i]) {
			serving++
		}
	}
	return serving, err
}

// podsOf returns the pods of an owner (`<kind>/<name>`), which are shared with the cache.
func (r *Reconciler) podsOf(ctx context.Context, namespace, owner string) ([]corev1.Pod, error) {
	var list corev1.PodList
	options := []client.ListOption{client.InNamespace(namespace), client.MatchingFields{podOwnerIndex: owner}, client.UnsafeDisableDeepCopy}
	if err := r.Client.List(ctx, &list, options...); err != nil {
		return nil, fmt.Errorf("listing the pods of %s: %w", owner, err)
	}
	return list.Items, nil
}

// recall notes what the prober knows of the pods. It asks for all of them at once, since
// the prober is busy with others.
func (r *Reconciler) recall(fd client.ObjectKey, targets []rollout.Target) {
	if r.Prober == nil {
		return
	}
	var addresses []dataplane.Pod
	for i := range targets {
		for j := range targets[i].Pods {
			addresses = append(addresses, targets[i].Pods[j].Address)
		}
	}
	seen := r.Prober.Seen(fd, addresses)
	for i := range targets {
		for j := range targets[i].Pods {
			targets[i].Pods[j].Seen, seen = seen[0], seen[1:]
		}
	}
}

// findOverlaps returns what the outputs reach beside their own workloads.
func (r *Reconciler) findOverlaps(ctx context.Context, fd *wasmev1.FilterDeployment, plan *rollout.Plan) (condition.Verdict, error) {
	if plan.InForce == nil || !overlap.SelectsByLabels(plan.InForce.OutputKind()) || len(workload.IstioSpec(fd).TargetRefs) > 0 {
		return condition.Verdict{}, nil
	}
	namespace := fd.Namespace
	if namespace == r.Mesh.RootNamespace {
		namespace = "" // there an output reaches every namespace
	}
	var workloads []workload.Target
	for _, kind := range workload.Kinds {
		found, err := r.listWorkloads(ctx, kind, namespace, labels.Everything(), everyWorkload)
		if err != nil {
			return condition.Verdict{}, err
		}
		workloads = append(workloads, found...)
	}
	return overlap.Verdict(overlap.Find(overlap.MadeBy(plan), workloads), fd.Namespace), nil
}
