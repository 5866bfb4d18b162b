package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// Workloads are watched, because they come, go and change their labels.
// +kubebuilder:rbac:groups=apps,resources=deployments;daemonsets;statefulsets,verbs=list;watch

// defaultKind is the kind of workload that a FilterDeployment selects when it names none.
const defaultKind = "Deployment"

var workloadLists = map[string]func() client.ObjectList{
	"Deployment":  func() client.ObjectList { return &appsv1.DeploymentList{} },
	"DaemonSet":   func() client.ObjectList { return &appsv1.DaemonSetList{} },
	"StatefulSet": func() client.ObjectList { return &appsv1.StatefulSetList{} },
}

var workloadObjects = map[string]func() client.Object{
	"Deployment":  func() client.Object { return &appsv1.Deployment{} },
	"DaemonSet":   func() client.Object { return &appsv1.DaemonSet{} },
	"StatefulSet": func() client.Object { return &appsv1.StatefulSet{} },
}

// selectTargets is the second step: it finds what the filter is to run on, in
// the order of the names. It is nil when the spec is no selection.
func (r *FilterDeploymentReconciler) selectTargets(ctx context.Context, fd *wasmev1.FilterDeployment) ([]render.Target, verdict) {
	if references := istioSpec(fd).TargetRefs; len(references) > 0 {
		return referenced(fd.Namespace, references), succeeded(wasmev1.ReasonSelected, "%d targetRefs", len(references))
	}
	kind, err := workloadKind(fd)
	if err != nil {
		return nil, stalled(wasmev1.ReasonInvalidSpec, err)
	}
	selector, err := workloadSelector(fd)
	if err != nil {
		return nil, stalled(wasmev1.ReasonInvalidSpec, err)
	}
	if err := r.checkNamespace(fd, selector); err != nil {
		return nil, stalled(wasmev1.ReasonRootNamespace, err)
	}
	workloads, err := r.listWorkloads(ctx, kind, fd.Namespace, selector)
	if err != nil {
		return nil, failed(wasmev1.ReasonWorkloadsUnreadable, fmt.Errorf("listing the workloads: %w", err))
	}
	if len(workloads) == 0 {
		return workloads, succeeded(wasmev1.ReasonNoWorkloads, "no %s in namespace %s has the labels of spec.deployment.istio (%s) on itself, whatever its pods have; one that comes gets the filter", kind, fd.Namespace, describe(selector))
	}
	return workloads, succeeded(wasmev1.ReasonSelected, "%d of kind %s", len(workloads), kind)
}

// referenced are the targets that targetRefs name.
func referenced(namespace string, references []wasmev1.TargetRef) []render.Target {
	targets := make([]render.Target, 0, len(references))
	for _, reference := range references {
		targets = append(targets, render.Target{Kind: reference.Kind, Namespace: namespace, Name: reference.Name})
	}
	slices.SortFunc(targets, func(a, b render.Target) int { return strings.Compare(a.Key(), b.Key()) })
	return targets
}

func describe(selector labels.Selector) string {
	if selector.Empty() {
		return "none: all are selected"
	}
	return selector.String()
}

// workloadKind reads the kind in any letter case.
func workloadKind(fd *wasmev1.FilterDeployment) (string, error) {
	given := istioSpec(fd).Kind
	if given == "" {
		return defaultKind, nil
	}
	for kind := range workloadLists {
		if strings.EqualFold(kind, given) {
			return kind, nil
		}
	}
	return "", fmt.Errorf("spec.deployment.istio.kind is %q; use Deployment, DaemonSet or StatefulSet", given)
}

func workloadSelector(fd *wasmev1.FilterDeployment) (labels.Selector, error) {
	if given := istioSpec(fd).Selector; given != nil {
		selector, err := metav1.LabelSelectorAsSelector(given)
		if err != nil {
			return nil, fmt.Errorf("spec.deployment.istio.selector: %w", err)
		}
		return selector, nil
	}
	set := labels.Set{}
	for key, value := range istioSpec(fd).Labels {
		set[key] = string(value)
	}
	return labels.SelectorFromSet(set), nil
}

// checkNamespace keeps filters out of the mesh's root namespace, where a label
// selector reaches the pods of every namespace; gateways live there.
func (r *FilterDeploymentReconciler) checkNamespace(fd *wasmev1.FilterDeployment, selector labels.Selector) error {
	if fd.Namespace != r.Mesh.RootNamespace || r.AllowRootNamespace {
		return nil
	}
	if fd.Spec.Filter.PatchContext == wasmev1.PatchContextGateway && !selector.Empty() {
		return nil
	}
	return fmt.Errorf("namespace %s is the mesh's root namespace; there spec.filter.patchContext must be gateway and spec.deployment.istio.labels must select the gateways, unless the operator runs with --allow-root-namespace", fd.Namespace)
}

// listWorkloads finds the workloads of a kind in a namespace, or in all when it
// is empty, in the order of their names.
func (r *FilterDeploymentReconciler) listWorkloads(ctx context.Context, kind, namespace string, selector labels.Selector) ([]render.Target, error) {
	list := workloadLists[kind]()
	options := []client.ListOption{client.InNamespace(namespace), client.MatchingLabelsSelector{Selector: selector}, client.UnsafeDisableDeepCopy}
	if err := r.Client.List(ctx, list, options...); err != nil {
		return nil, err
	}
	workloads := []render.Target{}
	err := apimeta.EachListItem(list, func(item runtime.Object) error {
		object := item.(client.Object)
		workloads = append(workloads, render.Target{
			Kind:      kind,
			Namespace: object.GetNamespace(),
			Name:      object.GetName(),
			PodLabels: maps.Clone(podLabels(object)),
		})
		return nil
	})
	slices.SortFunc(workloads, func(a, b render.Target) int { return strings.Compare(a.Name, b.Name) })
	return workloads, err
}

// podLabels are the labels of a workload's pod template.
func podLabels(object client.Object) map[string]string {
	switch workload := object.(type) {
	case *appsv1.Deployment:
		return workload.Spec.Template.Labels
	case *appsv1.DaemonSet:
		return workload.Spec.Template.Labels
	case *appsv1.StatefulSet:
		return workload.Spec.Template.Labels
	default:
		return nil
	}
}

// selecting finds the FilterDeployments that select a workload.
func (r *FilterDeploymentReconciler) selecting(ctx context.Context, object client.Object) []reconcile.Request {
	var list wasmev1.FilterDeploymentList
	if err := r.Client.List(ctx, &list, client.InNamespace(object.GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
		log.FromContext(ctx).Error(err, "Listing FilterDeployments", "namespace", object.GetNamespace())
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		if selects(&list.Items[i], object) {
			requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: list.Items[i].Namespace, Name: list.Items[i].Name}})
		}
	}
	return requests
}

func selects(fd *wasmev1.FilterDeployment, object client.Object) bool {
	if len(istioSpec(fd).TargetRefs) > 0 {
		return false
	}
	kind, err := workloadKind(fd)
	if err != nil || kind != kindOf(object) {
		return false
	}
	selector, err := workloadSelector(fd)
	return err == nil && selector.Matches(labels.Set(object.GetLabels()))
}

func kindOf(object client.Object) string {
	switch object.(type) {
	case *appsv1.Deployment:
		return "Deployment"
	case *appsv1.DaemonSet:
		return "DaemonSet"
	case *appsv1.StatefulSet:
		return "StatefulSet"
	default:
		return ""
	}
}

// targetChanged tells whether an update of a workload matters: its own labels
// select it, those of its pods go into the output. Statuses change all the time.
func targetChanged(e event.UpdateEvent) bool {
	return !maps.Equal(e.ObjectOld.GetLabels(), e.ObjectNew.GetLabels()) ||
		!maps.Equal(podLabels(e.ObjectOld), podLabels(e.ObjectNew))
}
