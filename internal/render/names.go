package render

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// maxNameLength is the longest name of a Kubernetes object.
const maxNameLength = 253

// Name is the usual name of a target's output: `<workload>-<filter id>`, and
// `<kind>.<name>-<filter id>` for a targetRef, so that a Gateway and a workload
// of one name get different ones. It may be longer than a name can be, or taken
// by another FilterDeployment; then the output goes by HashedName.
func Name(target Target, filterID string) string {
	if target.isReference() {
		return strings.ToLower(target.Kind) + "." + target.Name + "-" + filterID
	}
	return target.Name + "-" + filterID
}

// FitsName tells whether a name is short enough for a Kubernetes object.
func FitsName(name string) bool {
	return len(name) <= maxNameLength
}

// HashedName is the name of an output whose usual name cannot be had: the start
// of the usual name and a hash of FilterDeployment, kind and name of the target.
func HashedName(owner types.NamespacedName, target Target, filterID string) string {
	return NameWithHash(Name(target, filterID), owner.Namespace, owner.Name, target.Kind, target.Name)
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

func ecdsName(owner types.NamespacedName, target Target, filter Filter) string {
	return strings.Join([]string{owner.Namespace, owner.Name, target.Kind, target.Name, filter.placement()}, "/")
}

// PluginName is what proxies report. Istio turns what follows `wasm_filter.` up
// to the next dot into a label of its metrics, so the dots of names become '_',
// which no Kubernetes name holds.
func PluginName(owner types.NamespacedName, target Target, filter Filter) string {
	name := fmt.Sprintf("%s/%s/%s@%s", owner.Namespace, target.Name, owner.Name, filter.Revision())
	return "wasm_filter." + strings.ReplaceAll(name, ".", "_")
}
