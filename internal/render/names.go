package render

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// maxNameLength is the longest name of a Kubernetes object.
const maxNameLength = 253

// Workload is a workload that a filter runs on.
type Workload struct {
	// Kind is Deployment, DaemonSet or StatefulSet.
	Kind string
	// Namespace and Name of the workload.
	Namespace, Name string
	// PodLabels are the labels of the pod template.
	PodLabels map[string]string
}

// plurals are the resources of the workload kinds, as injection writes them
// into a proxy's OWNER.
var plurals = map[string]string{
	"Deployment":  "deployments",
	"DaemonSet":   "daemonsets",
	"StatefulSet": "statefulsets",
}

// owner is the OWNER that sidecar injection gives to the workload's proxies.
func (w Workload) owner() string {
	return fmt.Sprintf("kubernetes://apis/apps/v1/namespaces/%s/%s/%s", w.Namespace, plurals[w.Kind], w.Name)
}

// Name is the usual name of a workload's output: `<workload>-<filter id>`. It
// may be longer than a name can be, or taken by another FilterDeployment; then
// the output goes by HashedName.
func Name(workload, filterID string) string {
	return workload + "-" + filterID
}

// FitsName tells whether a name is short enough for a Kubernetes object.
func FitsName(name string) bool {
	return len(name) <= maxNameLength
}

// HashedName is the name of an output whose usual name cannot be had: the start
// of the usual name and a hash of FilterDeployment, kind and workload.
func HashedName(owner types.NamespacedName, workload Workload, filterID string) string {
	return NameWithHash(Name(workload.Name, filterID), owner.Namespace, owner.Name, workload.Kind, workload.Name)
}

// NameWithHash is a name of at most 253 characters: what fits of the start, and
// a hash of the values.
func NameWithHash(start string, values ...any) string {
	suffix := "-" + hash(values...)
	start = start[:min(len(start), maxNameLength-len(suffix))]
	return strings.TrimRight(start, "-.") + suffix
}

// LabelHash is a label value that stands for a name, which may be longer than
// a label value can be (63 characters).
func LabelHash(name string) string {
	return hash(name)
}

func filterID(owner types.NamespacedName, id string) string {
	if id != "" {
		return id
	}
	return owner.Name + "." + owner.Namespace
}

func ecdsName(owner types.NamespacedName, workload Workload, filter Filter) string {
	return strings.Join([]string{owner.Namespace, owner.Name, workload.Kind, workload.Name, filter.placement()}, "/")
}

// pluginName is what proxies report. Istio turns what follows `wasm_filter.` up
// to the next dot into a label of its metrics, so the dots of names become '_',
// which no Kubernetes name holds.
func pluginName(owner types.NamespacedName, workload Workload, filter Filter) string {
	name := fmt.Sprintf("%s/%s/%s@%s", owner.Namespace, workload.Name, owner.Name, filter.Revision())
	return "wasm_filter." + strings.ReplaceAll(name, ".", "_")
}
