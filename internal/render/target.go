package render

import (
	"maps"

	typeapi "istio.io/api/type/v1beta1"

	"github.com/wasme-io/wasme-operator/internal/workload"
)

// selectorFor returns the labels that all pods of a workload have; nil for a targetRef.
// A workload may have none: then only the OWNER of its proxies tells its pods from
// others, which an EnvoyFilter can match and the other outputs cannot.
func selectorFor(target workload.Target) map[string]string {
	if target.IsReference() || len(target.Selector) == 0 {
		return nil
	}
	return maps.Clone(target.Selector)
}

// referencesTo returns the targetRefs of the target's output, and nil for a workload.
func referencesTo(target workload.Target) []*typeapi.PolicyTargetReference {
	if !target.IsReference() {
		return nil
	}
	return []*typeapi.PolicyTargetReference{{Group: target.ReferenceGroup(), Kind: target.Kind, Name: target.Name}}
}
