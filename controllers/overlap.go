package controllers

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// An EnvoyFilter names the workload whose proxies it is for. A WasmPlugin or a
// TrafficExtension can only select by pod labels: it reaches each pod that has
// all labels of the workload that it was made for, be it another workload's.

// overlap is a workload whose pods are reached by outputs made for others.
type overlap struct {
	workload render.Target
	// by is the first of these outputs, outputs their number.
	by      outputKey
	outputs int
	// selected: the workload has an output of its own, too.
	selected bool
}

// runs is how often the filter runs on each of the workload's pods.
func (o overlap) runs() int {
	if o.selected {
		return o.outputs + 1
	}
	return o.outputs
}

// identity tells workloads apart.
type identity struct{ kind, namespace, name string }

func identityOf(workload render.Target) identity {
	return identity{workload.Kind, workload.Namespace, workload.Name}
}

// alike are the targets whose pods have the same labels, and so their outputs
// the same selector.
type alike struct {
	labels  map[string]string
	targets []target
}

// label is a label with its value.
type label struct{ key, value string }

// findOverlaps finds the workloads that targets' outputs reach beside their own,
// those first on which the filter runs most often. Workloads are looked up by
// the rarest label of each selector, so the cost is that of going through all
// labels once, and through the workloads that have such a label.
func findOverlaps(targets []target, workloads []render.Target) []overlap {
	groups, groupOf := byLabels(targets)
	having := indexLabels(groups, workloads)
	found := map[identity]overlap{}
	for _, group := range groups {
		selector := labels.ValidatedSetSelector(group.labels)
		for _, workload := range rarest(having, group.labels) {
			if selector.Matches(labels.Set(workload.PodLabels)) {
				group.reach(workload, groupOf[identityOf(workload)], found)
			}
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b overlap) int {
		return cmp.Or(
			cmp.Compare(b.runs(), a.runs()),
			strings.Compare(a.workload.Namespace, b.workload.Namespace),
			strings.Compare(a.workload.Name, b.workload.Name),
			strings.Compare(a.workload.Kind, b.workload.Kind),
		)
	})
}

// byLabels groups the targets by their labels. It leaves out what selects no
// pods by them: failures, targetRefs, EnvoyFilters.
func byLabels(targets []target) ([]*alike, map[identity]*alike) {
	var groups []*alike
	known, groupOf := map[string]*alike{}, map[identity]*alike{}
	for _, t := range targets {
		if t.err != nil || t.waits != "" && t.holds == nil || len(t.workload.PodLabels) == 0 || !goesByLabels(t.output.kind) {
			continue
		}
		key := labels.Set(t.workload.PodLabels).String()
		group := known[key]
		if group == nil {
			group = &alike{labels: t.workload.PodLabels}
			known[key] = group
			groups = append(groups, group)
		}
		group.targets = append(group.targets, t)
		groupOf[identityOf(t.workload)] = group
	}
	return groups, groupOf
}

// goesByLabels tells whether outputs of a kind reach pods by their labels only.
func goesByLabels(kind wasmev1.Output) bool {
	return kind == wasmev1.OutputWasmPlugin || kind == wasmev1.OutputTrafficExtension
}

// indexLabels finds the workloads that have a label of a group.
func indexLabels(groups []*alike, workloads []render.Target) map[label][]render.Target {
	having := map[label][]render.Target{}
	for _, group := range groups {
		for key, value := range group.labels {
			having[label{key, value}] = nil
		}
	}
	for _, workload := range workloads {
		for key, value := range workload.PodLabels {
			if others, wanted := having[label{key, value}]; wanted {
				having[label{key, value}] = append(others, workload)
			}
		}
	}
	return having
}

// rarest are the workloads that have that one of the labels that the fewest have.
func rarest(having map[label][]render.Target, of map[string]string) []render.Target {
	var fewest []render.Target
	first := true
	for key, value := range of {
		if workloads := having[label{key, value}]; first || len(workloads) < len(fewest) {
			fewest, first = workloads, false
		}
	}
	return fewest
}

// reach counts the outputs of the group towards a workload that they select;
// own is the group that has the workload's own output, nil for none.
func (g *alike) reach(workload render.Target, own *alike, found map[identity]overlap) {
	others := g.targets
	self := identityOf(workload)
	by := others[0]
	if own == g {
		if len(others) == 1 {
			return
		}
		if identityOf(by.workload) == self {
			by = others[1]
		}
	}
	o, known := found[self]
	if !known {
		o = overlap{workload: workload, by: by.output, selected: own != nil}
	}
	o.outputs += len(others)
	if own == g {
		o.outputs--
	}
	found[self] = o
}

// seekOverlaps finds out what the outputs in force reach beside their own workloads.
func (r *FilterDeploymentReconciler) seekOverlaps(ctx context.Context, fd *wasmev1.FilterDeployment, p *pass) error {
	if p.inForce == nil || !goesByLabels(p.inForce.output()) || len(istioSpec(fd).TargetRefs) > 0 {
		return nil
	}
	namespace := fd.Namespace
	if namespace == r.Mesh.RootNamespace {
		namespace = "" // there an output reaches every namespace
	}
	var workloads []render.Target
	for kind := range workloadLists {
		found, err := r.listWorkloads(ctx, kind, namespace, labels.Everything())
		if err != nil {
			return fmt.Errorf("listing the workloads: %w", err)
		}
		workloads = append(workloads, found...)
	}
	p.overlap = overlapVerdict(findOverlaps(p.targets, workloads), fd.Namespace)
	return nil
}

// overlapVerdict is without a reason where there are no overlaps.
func overlapVerdict(overlaps []overlap, home string) verdict {
	if len(overlaps) == 0 {
		return verdict{}
	}
	once := slices.IndexFunc(overlaps, func(o overlap) bool { return o.runs() == 1 })
	if once < 0 {
		once = len(overlaps)
	}
	reason, parts := wasmev1.ReasonOtherWorkloads, []string{}
	if once > 0 {
		reason = wasmev1.ReasonRunsRepeatedly
		parts = append(parts, fmt.Sprintf("the filter runs more than once on each request to %d workloads, whose pods other outputs of this FilterDeployment select too: %s", once, describeOverlaps(overlaps[:once], home)))
	}
	if once < len(overlaps) {
		parts = append(parts, fmt.Sprintf("the filter runs on %d workloads that outputs were not made for: %s", len(overlaps)-once, describeOverlaps(overlaps[once:], home)))
	}
	const cure = "a %s reaches all pods with the labels of its workload's pods: tell the pods apart by a label in their templates, or set spec.deployment.istio.output to EnvoyFilter"
	parts = append(parts, fmt.Sprintf(cure, overlaps[0].by.kind))
	return succeeded(reason, "%s", strings.Join(parts, "; "))
}

func describeOverlaps(overlaps []overlap, home string) string {
	return enumerate(overlaps, ", ", func(o overlap) string {
		name := o.workload.Kind + " " + o.workload.Name
		if o.workload.Namespace != home {
			name += " in namespace " + o.workload.Namespace
		}
		times := ""
		if o.runs() > 1 {
			times = fmt.Sprintf("%d times, ", o.runs())
		}
		return fmt.Sprintf("%s (%sby %s)", name, times, o.by)
	})
}

// recordOverlap records each change of what overlaps, but not its end.
func (r *FilterDeploymentReconciler) recordOverlap(fd *wasmev1.FilterDeployment, before []metav1.Condition) {
	old, now := apimeta.FindStatusCondition(before, wasmev1.ConditionOverlapping), apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionOverlapping)
	if now == nil || old != nil && old.Reason == now.Reason && old.Message == now.Message {
		return
	}
	r.Recorder.Eventf(fd, nil, corev1.EventTypeWarning, now.Reason, "Reconcile", "%s", eventNote(now.Message))
}

// reaching finds the FilterDeployments whose filter a workload's pods may get:
// those that select it, and those whose outputs go by the labels of pods.
func (r *FilterDeploymentReconciler) reaching(ctx context.Context, object client.Object) []reconcile.Request {
	requests := append(r.selecting(ctx, object), r.goingByLabels(ctx, object.GetNamespace())...)
	if root := r.Mesh.RootNamespace; root != "" && root != object.GetNamespace() {
		requests = append(requests, r.goingByLabels(ctx, root)...)
	}
	return requests
}

// goingByLabels finds the FilterDeployments of a namespace whose outputs go by
// the labels of pods. A namespace that is not watched has none.
func (r *FilterDeploymentReconciler) goingByLabels(ctx context.Context, namespace string) []reconcile.Request {
	var list wasmev1.FilterDeploymentList
	if err := r.Client.List(ctx, &list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		if spec := istioSpec(&list.Items[i]); goesByLabels(spec.Output) && len(spec.TargetRefs) == 0 {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return requests
}
