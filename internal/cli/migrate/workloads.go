package migrate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// reach is the workloads that an object reaches.
type reach struct {
	// kinds has the workloads by their kind.
	kinds map[string][]workload.Object
	notes []string
	// differs says that FilterDeployments cannot reach exactly the same pods.
	differs bool
}

// isGateway reports whether the pods of a workload are gateways or waypoints: those that a
// filter for the traffic of sidecars leaves out.
func isGateway(object workload.Object) bool { return workload.Selection{}.LeavesOut(object) }

// named finds the workload that wasme 0.0.33 made an EnvoyFilter for, whose name begins with
// the workload's and ends with the id of the filter.
func (i *Inventory) named(namespace, object, id string, pods map[string]string) (workload.Object, error) {
	name, _ := strings.CutSuffix(object, "-"+id)
	var found workload.Object
	for _, w := range i.Workloads {
		if w.GetNamespace() != namespace || w.GetName() != name {
			continue
		}
		if found == nil || maps.Equal(workload.TargetOf(w).PodLabels, pods) {
			found = w
		}
	}
	if found == nil {
		return nil, fmt.Errorf("it is for the workload %s, which does not exist: delete it with kubectl delete envoyfilter %s -n %s", name, object, namespace)
	}
	return found, nil
}

// reachOf returns the workloads whose pods an object of a namespace selects.
func (i *Inventory) reachOf(namespace string, selector map[string]string, traffic wasmev1.PatchContext) reach {
	r := reach{kinds: map[string][]workload.Object{}}
	matches := labels.SelectorFromSet(selector)
	pods := map[string][]*corev1.Pod{}
	var lost []*corev1.Pod
	for _, pod := range i.podsIn(namespace) {
		owners := workload.Owners(pod)
		for _, owner := range owners {
			pods[owner.Kind+"/"+owner.Name] = append(pods[owner.Kind+"/"+owner.Name], pod)
		}
		if len(owners) == 0 && matches.Matches(labels.Set(pod.Labels)) {
			lost = append(lost, pod)
		}
	}
	var more []*corev1.Pod
	for _, w := range i.trafficIn(namespace, traffic, matches) {
		target := workload.TargetOf(w)
		in, out := divide(pods[target.Kind+"/"+target.Name], matches)
		if len(in) == 0 && !matches.Matches(labels.Set(target.PodLabels)) {
			continue
		}
		r.kinds[target.Kind] = append(r.kinds[target.Kind], w)
		more = append(more, out...)
	}
	r.note(lost, "belong to no Deployment, DaemonSet or StatefulSet, and lose the filter")
	r.note(more, "have other labels than their workload's newest pods, and get the filter, too")
	return r
}

// podsIn returns the pods of a namespace that have a sidecar and may serve.
func (i *Inventory) podsIn(namespace string) []*corev1.Pod {
	var pods []*corev1.Pod
	for _, pod := range i.Pods {
		if pod.Namespace == namespace && !workload.IsFinished(pod) && workload.Sidecar(pod) != nil {
			pods = append(pods, pod)
		}
	}
	return pods
}

// trafficIn returns the workloads of a namespace whose proxies have such traffic. Not every
// gateway can be told from a sidecar, so traffic of gateways is that of all where none can.
func (i *Inventory) trafficIn(namespace string, traffic wasmev1.PatchContext, matches labels.Selector) []workload.Object {
	var all, gateways, sidecars []workload.Object
	for _, w := range i.Workloads {
		if w.GetNamespace() != namespace {
			continue
		}
		all = append(all, w)
		if !isGateway(w) {
			sidecars = append(sidecars, w)
		} else if matches.Matches(labels.Set(workload.TargetOf(w).PodLabels)) {
			gateways = append(gateways, w)
		}
	}
	switch {
	case traffic == wasmev1.PatchContextInbound, traffic == wasmev1.PatchContextOutbound:
		return sidecars
	case traffic == wasmev1.PatchContextGateway && len(gateways) > 0:
		return gateways
	}
	return all
}

func divide(pods []*corev1.Pod, matches labels.Selector) (in, out []*corev1.Pod) {
	for _, pod := range pods {
		if matches.Matches(labels.Set(pod.Labels)) {
			in = append(in, pod)
		} else {
			out = append(out, pod)
		}
	}
	return in, out
}

func (r *reach) note(pods []*corev1.Pod, what string) {
	if len(pods) == 0 {
		return
	}
	r.differs = true
	names := condition.Enumerate(pods, ", ", func(pod *corev1.Pod) string { return pod.Name })
	r.notes = append(r.notes, fmt.Sprintf("the pods %s %s", names, what))
}

// all returns the workloads of all kinds.
func (r *reach) all() []workload.Object {
	var all []workload.Object
	for _, kind := range slices.Sorted(maps.Keys(r.kinds)) {
		all = append(all, r.kinds[kind]...)
	}
	return all
}

// selectorFor returns what selects workloads of one kind by their own labels, and the others
// that it cannot leave out. The labels of the pods come first: they say what was meant, and
// select workloads that come later, too.
func selectorFor(chosen, others []workload.Object, pods map[string]string) (metav1.LabelSelector, []workload.Object) {
	common := labels.Set(maps.Clone(chosen[0].GetLabels()))
	for _, w := range chosen[1:] {
		maps.DeleteFunc(common, func(key, value string) bool { return w.GetLabels()[key] != value })
	}
	var candidates []metav1.LabelSelector
	if len(pods) > 0 && labels.SelectorFromSet(pods).Matches(common) {
		candidates = append(candidates, metav1.LabelSelector{MatchLabels: pods})
	}
	for _, key := range slices.SortedFunc(maps.Keys(common), byMeaning) {
		candidates = append(candidates, metav1.LabelSelector{MatchLabels: map[string]string{key: common[key]}})
	}
	whole := metav1.LabelSelector{MatchLabels: common}
	candidates = append(candidates, whole)
	candidates = append(candidates, anyOf(chosen)...)
	for _, candidate := range candidates {
		if len(hits(candidate, others)) == 0 {
			return candidate, nil
		}
	}
	return whole, hits(whole, others)
}

// anyOf returns selectors that list the values of one label.
func anyOf(chosen []workload.Object) []metav1.LabelSelector {
	var selectors []metav1.LabelSelector
	for _, key := range slices.SortedFunc(maps.Keys(chosen[0].GetLabels()), byMeaning) {
		values := make([]string, 0, len(chosen))
		for _, w := range chosen {
			if value, has := w.GetLabels()[key]; has {
				values = append(values, value)
			}
		}
		if len(values) < len(chosen) {
			continue
		}
		slices.Sort(values)
		selectors = append(selectors, metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: key, Operator: metav1.LabelSelectorOpIn, Values: slices.Compact(values)},
		}})
	}
	return selectors
}

// hits returns the workloads that a selector selects.
func hits(selector metav1.LabelSelector, among []workload.Object) []workload.Object {
	matches, err := metav1.LabelSelectorAsSelector(&selector)
	if err != nil {
		return among // labels that the API server took are valid
	}
	var found []workload.Object
	for _, w := range among {
		if matches.Matches(labels.Set(w.GetLabels())) {
			found = append(found, w)
		}
	}
	return found
}

// meanings are the keys of labels that say what a workload is, and those that change with
// each release of it.
var meanings = map[string]int{
	"app": -4, "app.kubernetes.io/name": -3, "app.kubernetes.io/instance": -2, "istio": -1,
	"helm.sh/chart": 2, "app.kubernetes.io/version": 2, "app.kubernetes.io/managed-by": 2, "version": 1,
}

func byMeaning(a, b string) int {
	return cmp.Or(cmp.Compare(meanings[a], meanings[b]), strings.Compare(a, b))
}
