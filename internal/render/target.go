package render

import (
	"fmt"
	"maps"

	typeapi "istio.io/api/type/v1beta1"

	"github.com/wasme-io/wasme-operator/internal/workload"
)

// ownerOf returns the OWNER that sidecar injection gives a workload's proxies.
func ownerOf(target workload.Target) string {
	kind, _ := workload.KindNamed(target.Kind)
	return fmt.Sprintf("kubernetes://apis/apps/v1/namespaces/%s/%s/%s", target.Namespace, kind.Resource, target.Name)
}

// selectorFor returns the labels that select a workload's pods, and nil for a targetRef.
func selectorFor(target workload.Target) (map[string]string, error) {
	if target.IsReference() {
		return nil, nil
	}
	if len(target.PodLabels) == 0 {
		return nil, fmt.Errorf("the pod template of %s %s has no labels to select its pods by: add one", target.Kind, target.Name)
	}
	return maps.Clone(target.PodLabels), nil
}

// referencesTo returns the targetRefs of the target's output, and nil for a workload.
func referencesTo(target workload.Target) []*typeapi.PolicyTargetReference {
	if !target.IsReference() {
		return nil
	}
	return []*typeapi.PolicyTargetReference{{Group: target.ReferenceGroup(), Kind: target.Kind, Name: target.Name}}
}
