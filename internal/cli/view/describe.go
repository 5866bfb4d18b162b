package view

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/wasme-io/wasme-operator/internal/cli/chain"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/overlap"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// Filters returns a table of the Wasm filters of a chain, in their order.
func Filters(filters []chain.Filter) *metav1.Table {
	table := NewTable("#", "FROM", "REVISION", "PLACE")
	for i, f := range filters {
		place := f.Place
		if f.Tried {
			place += ", only tried: no request passes it"
		}
		AddRow(table, strconv.Itoa(i+1), f.From.String(), f.Revision, place)
	}
	return table
}

// RunningPod is what a pod says that it runs.
type RunningPod struct {
	Name string
	// State says whether that is what Istio's objects ask for, or why it is not known.
	State string
	// Chains are those with Wasm filters, by the traffic that passes them.
	Chains map[chain.Traffic][][]chain.Filter
}

// RunningPods returns a table of what pods run.
func RunningPods(pods []RunningPod, traffics []chain.Traffic) *metav1.Table {
	columns := []string{"POD"}
	for _, traffic := range traffics {
		columns = append(columns, strings.ToUpper(string(traffic)))
	}
	table := NewTable(append(columns, "STATE")...)
	for _, pod := range pods {
		cells := []string{pod.Name}
		for _, traffic := range traffics {
			cells = append(cells, describeChains(pod.Chains[traffic]))
		}
		AddRow(table, append(cells, pod.State)...)
	}
	return table
}

// describeChains names the filters of chains in their order.
func describeChains(chains [][]chain.Filter) string {
	var all []string
	for _, filters := range chains {
		var labels []string
		for _, f := range filters {
			labels = append(labels, f.Label())
		}
		all = append(all, strings.Join(labels, " > "))
	}
	return strings.Join(all, " | ")
}

// Overlaps says of each FilterDeployment whose outputs reach a workload that they were not
// made for, in the words of its condition Overlapping.
func Overlaps(objects []istio.Output, target workload.Target) []string {
	made := map[types.NamespacedName][]overlap.Made{}
	for _, object := range objects {
		owner, owned := ownership.FilterDeploymentOf(object)
		if m, selects := madeBy(object); owned && selects {
			made[owner] = append(made[owner], m)
		}
	}
	var texts []string
	for owner, outputs := range made {
		if verdict := overlap.Verdict(overlap.Find(outputs, []workload.Target{target}), owner.Namespace); verdict.Reason != "" {
			texts = append(texts, "FilterDeployment "+owner.String()+": "+verdict.Message)
		}
	}
	slices.SortFunc(texts, cmp.Compare)
	return texts
}

// madeBy returns an output that selects by labels, and the workload that it was made for.
func madeBy(object istio.Output) (overlap.Made, bool) {
	var spec struct {
		Selector struct{ MatchLabels map[string]string }
	}
	kind, name, found := strings.Cut(object.GetAnnotations()[rollout.WorkloadAnnotation], "/")
	key := rollout.OutputKey{Kind: istio.KindOf(object), Name: object.GetName()}
	if !found || !overlap.SelectsByLabels(key.Kind) || json.Unmarshal(object.Content().Raw, &spec) != nil || len(spec.Selector.MatchLabels) == 0 {
		return overlap.Made{}, false
	}
	target := workload.Target{Kind: kind, Namespace: object.GetNamespace(), Name: name, Selector: spec.Selector.MatchLabels}
	return overlap.Made{Output: key, For: target}, true
}
