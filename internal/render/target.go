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
		target.Selector = map[string]string{workload.GatewayLabel: target.Name}
	}
	return target
}

// ownerOf returns the OWNER of a target's proxies; empty for a gateway, because its
// controller, or who installs it, chooses the name of its workload.
func ownerOf(target workload.Target) string {
	switch {
	case !target.IsReference():
		return target.ProxyOwner()
	case target.Selector != nil:
		return ""
	default:
		waypoint := workload.Target{Kind: "Deployment", Namespace: target.Namespace, Name: cmp.Or(target.Proxies.Deployment, target.Name)}
		return waypoint.ProxyOwner()
	}
}

// selectorFor returns the labels that select all pods of a target; nil where its
// targetRef does. A workload may have none: then only the OWNER of its proxies tells
// its pods from others, which an EnvoyFilter can match and the other outputs cannot.
func selectorFor(target workload.Target) map[string]string {
	if len(target.Selector) == 0 {
		return nil
	}
	return maps.Clone(target.Selector)
}

// referencesTo returns the targetRefs of the target's output; nil for a workload, and
// where labels select a gateway.
func referencesTo(target workload.Target) []*typeapi.PolicyTargetReference {
	if !target.IsReference() || target.Selector != nil {
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
