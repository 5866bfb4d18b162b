package view

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// FilterDeployments returns a table with a row for each FilterDeployment, in the order of
// their namespaces and names. The namespaces are shown if they are several.
func FilterDeployments(items []wasmev1.FilterDeployment, namespaces bool, now time.Time) *metav1.Table {
	columns := []string{"NAME", "READY", "ROLLOUT", "WORKLOADS", "PODS", "AGE", "+REVISION", "+MODULE", "+DIGEST", "+MESSAGE"}
	if namespaces {
		columns = append([]string{"NAMESPACE"}, columns...)
	}
	table := NewTable(columns...)
	sorted := slices.SortedFunc(slices.Values(items), func(a, b wasmev1.FilterDeployment) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for i := range sorted {
		cells := cellsOf(&sorted[i], now)
		if namespaces {
			cells = append([]string{sorted[i].Namespace}, cells...)
		}
		AddRow(table, cells...)
	}
	return table
}

func cellsOf(fd *wasmev1.FilterDeployment, now time.Time) []string {
	ready, workloads, pods, phase, digest := metav1.Condition{Status: metav1.ConditionUnknown}, "", "", "", ""
	if found := apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionReady); found != nil {
		ready = *found
	}
	if summary := fd.Status.Summary; summary != nil {
		workloads, pods = summary.WorkloadsReady, summary.PodsReady
	}
	if fd.Status.Rollout != nil {
		phase = string(fd.Status.Rollout.Phase)
	}
	if fd.Status.Module != nil {
		digest = fd.Status.Module.SHA256
	}
	return []string{
		fd.Name, string(ready.Status), phase, workloads, pods, age(fd.CreationTimestamp, now),
		fd.Status.Revision, revision.Source(fd.Spec.Filter), digest, ready.Message,
	}
}

// Note says why a FilterDeployment is not Ready; empty when it is, and before the operator
// has looked.
func Note(fd *wasmev1.FilterDeployment) string {
	ready := apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionReady)
	if ready == nil || ready.Status == metav1.ConditionTrue {
		return ""
	}
	return fmt.Sprintf("Ready is %s, %s: %s", ready.Status, ready.Reason, ready.Message)
}

// Pods counts the pods of a workload.
type Pods struct {
	// Ready are those that are Ready and have a sidecar; All are all that may serve.
	Ready, All int
}

// Workloads returns a table of the workloads of a FilterDeployment, those that fail first.
// The outputs say which revision each holds. pods is by the keys of the workloads
// (workload.Target.Key); nil when they are not known.
func Workloads(fd *wasmev1.FilterDeployment, outputs rollout.Outputs, pods map[string]Pods) *metav1.Table {
	table := NewTable("WORKLOAD", "STATE", "PODS", "REVISION", "REASON")
	held := heldBy(outputs)
	for _, key := range keysOf(fd, held) {
		state := fd.Status.Workloads[key]
		count := none
		if found, known := pods[key]; known {
			count = fmt.Sprintf("%d/%d", found.Ready, found.All)
		}
		AddRow(table, key, string(state.State), count, describeOutput(held[key]), state.Reason)
	}
	return table
}

var stateOrder = map[wasmev1.WorkloadState]int{wasmev1.WorkloadFailed: -2, wasmev1.WorkloadPending: -1}

// keysOf returns the keys of the workloads that the status or an output has.
func keysOf(fd *wasmev1.FilterDeployment, held map[string]rollout.Output) []string {
	var keys []string
	for key := range fd.Status.Workloads {
		keys = append(keys, key)
	}
	for key := range held {
		if _, known := fd.Status.Workloads[key]; !known {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b string) int {
		return cmp.Or(cmp.Compare(stateOrder[fd.Status.Workloads[a].State], stateOrder[fd.Status.Workloads[b].State]), cmp.Compare(a, b))
	})
	return keys
}

// heldBy returns the outputs by the keys of their workloads.
func heldBy(outputs rollout.Outputs) map[string]rollout.Output {
	held := map[string]rollout.Output{}
	for _, output := range outputs {
		kind, name, found := strings.Cut(output.Workload, "/")
		if !found {
			continue
		}
		key := workload.Target{Kind: kind, Name: name}.Key()
		if known := held[key]; known.Revision == "" { // of two, the one that serves
			held[key] = output
		}
	}
	return held
}

// describeOutput says what an output holds and tries.
func describeOutput(output rollout.Output) string {
	if staged := output.Staged.Revision; staged != "" {
		return cmp.Or(output.Revision, "none") + ", tries " + staged
	}
	return output.Revision
}
