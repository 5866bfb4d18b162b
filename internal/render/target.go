package render

import (
	"cmp"
	"fmt"
	"maps"

	typeapi "istio.io/api/type/v1beta1"
	"k8s.io/apimachinery/pkg/util/version"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// firstAcrossNamespaces is the first version of Istio whose waypoints start with a
// plugin of another namespace: istiod of earlier ones puts it into the waypoint's
// listener, and refuses to deliver it (TrafficExtensionsByName).
var firstAcrossNamespaces = version.MustParseGeneric("1.30.3")

// inEnvoyFilter returns a target as an EnvoyFilter reaches it. Before Istio 1.27,
// istiod ignores the targetRefs of an EnvoyFilter, which then runs on all proxies of
// its namespace. So a gateway is selected by the label that a targetRef stands for. A
// waypoint cannot be: from 1.27 on, only targetRefs reach it. Its OWNER keeps the
// other proxies out.
func (f Filter) inEnvoyFilter(target workload.Target) workload.Target {
	if target.Kind == wasmev1.TargetKindGateway && f.PatchContext == wasmev1.PatchContextGateway {
		target.PodLabels = map[string]string{workload.GatewayLabel: target.Name}
	}
	return target
}

// selectedByLabel reports whether the labels of pods select the target.
func selectedByLabel(target workload.Target) bool {
	return !target.IsReference() || target.PodLabels != nil
}

// ownerOf returns the OWNER that sidecar injection gives a workload's proxies, and
// istiod those of a waypoint; empty for a gateway, because its controller, or who
// installs it, chooses the name of its workload.
func ownerOf(target workload.Target) string {
	kind, name := target.Kind, target.Name
	if target.IsReference() {
		if selectedByLabel(target) {
			return ""
		}
		kind, name = workload.Kinds[0].Name, cmp.Or(target.Proxies.Deployment, target.Name)
	}
	of, _ := workload.KindNamed(kind)
	return fmt.Sprintf("kubernetes://apis/apps/v1/namespaces/%s/%s/%s", target.Namespace, of.Resource, name)
}

// selectorFor returns the labels that select a target's pods, and nil where its
// targetRef does.
func selectorFor(target workload.Target) (map[string]string, error) {
	if !selectedByLabel(target) {
		return nil, nil
	}
	if len(target.PodLabels) == 0 {
		return nil, fmt.Errorf("the pod template of %s %s has no labels to select its pods by: add one", target.Kind, target.Name)
	}
	return maps.Clone(target.PodLabels), nil
}

// referencesTo returns the targetRefs of the target's output, and nil where labels
// select it.
func referencesTo(target workload.Target) []*typeapi.PolicyTargetReference {
	if selectedByLabel(target) {
		return nil
	}
	return []*typeapi.PolicyTargetReference{{Group: target.ReferenceGroup(), Kind: target.Kind, Name: target.Name}}
}

// checkWaypoint returns why the waypoint of a Service must not get a plugin: one that
// waits for a plugin which never comes does not start.
func checkWaypoint(target workload.Target) error {
	of := target.Proxies
	if of.Istio == nil || of.Gateway.Namespace == target.Namespace || of.Istio.AtLeast(firstAcrossNamespaces) {
		return nil
	}
	return fmt.Errorf("the waypoint of Service %s, %s, runs Istio %s, with which it does not start once it has a filter of another namespace: update Istio to %s, or use a waypoint in namespace %s", target.Name, of.Gateway, of.Istio, firstAcrossNamespaces, target.Namespace)
}
