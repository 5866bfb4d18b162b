package render

import (
	"strings"

	"k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// maxNameLength is the longest name of a Kubernetes object.
const maxNameLength = 253

// Name returns the usual name of a target's output: `<workload>-<filter id>`, and
// `<kind>.<name>-<filter id>` for a targetRef, so that a Gateway and a workload with
// the same name get different ones. When that name is too long or belongs to
// another FilterDeployment, the output gets the HashedName.
func Name(target workload.Target, filterID string) string {
	if target.IsReference() {
		return strings.ToLower(target.Kind) + "." + target.Name + "-" + filterID
	}
	return target.Name + "-" + filterID
}

// FitsName reports whether a name is short enough for a Kubernetes object.
func FitsName(name string) bool {
	return len(name) <= maxNameLength
}

// HashedName returns the name of an output that cannot have its usual name: the start
// of the usual name, and a hash of the FilterDeployment and the target's kind and name.
func HashedName(owner types.NamespacedName, target workload.Target, filterID string) string {
	return NameWithHash(Name(target, filterID), owner.Namespace, owner.Name, target.Kind, target.Name)
}

// NameWithHash returns a name of at most 253 characters: as much of the start as
// fits, and a hash of the values.
func NameWithHash(start string, values ...any) string {
	suffix := "-" + hash(values...)
	start = start[:min(len(start), maxNameLength-len(suffix))]
	return strings.TrimRight(start, "-.") + suffix
}

// stagingSuffix and canarySuffix end the names of what is in a staging slot, and of what
// single pods run.
const (
	stagingSuffix = "/next"
	canarySuffix  = "/canary"
)

// LabelHash returns a label value for a name, which can be longer than the 63
// characters of a label value.
func LabelHash(name string) string {
	return hash(name)
}

func filterID(owner types.NamespacedName, id string) string {
	if id != "" {
		return id
	}
	return owner.Name + "." + owner.Namespace
}

func ecdsName(owner types.NamespacedName, target workload.Target, filter Filter) string {
	return strings.Join([]string{owner.Namespace, owner.Name, target.Kind, target.Name, filter.placement()}, "/")
}

// vmID returns the name of the VM. Envoy up to 1.38 keeps a VM whose name stays, even
// when its environment changes.
func vmID(ecdsName string, env []wasmev1.EnvVar) string {
	if len(env) == 0 {
		return ecdsName
	}
	return ecdsName + "/" + hash(env)
}

// PluginName returns the name of the plugin, which proxies report. Istio turns what
// follows `wasm_filter.`, up to the next dot, into a label of its metrics. So each
// dot of a name becomes '_', which no Kubernetes name contains.
func PluginName(owner types.NamespacedName, target workload.Target, revision string) string {
	return pluginName(owner, target, "", revision)
}

// StagedPluginName is PluginName for the plugin in the staging slot.
func StagedPluginName(owner types.NamespacedName, target workload.Target, revision string) string {
	return pluginName(owner, target, stagingSuffix, revision)
}

// CanaryPluginName is PluginName for the plugin that single pods run.
func CanaryPluginName(owner types.NamespacedName, target workload.Target, revision string) string {
	return pluginName(owner, target, canarySuffix, revision)
}

func pluginName(owner types.NamespacedName, target workload.Target, suffix, revision string) string {
	name := owner.Namespace + "/" + target.Name + "/" + owner.Name + suffix + "@" + revision
	return "wasm_filter." + strings.ReplaceAll(name, ".", "_")
}
