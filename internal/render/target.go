package render

import (
	"fmt"
	"maps"

	typeapi "istio.io/api/type/v1beta1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// Target is what a filter runs on: a workload, or the object that a targetRef
// references.
type Target struct {
	// Kind is Deployment, DaemonSet or StatefulSet; Gateway or Service for a targetRef.
	Kind string
	// Namespace and Name of the workload or object.
	Namespace, Name string
	// PodLabels are the labels of a workload's pod template.
	PodLabels map[string]string
}

// plurals holds the resource names of the workload kinds, as injection writes them
// into a proxy's OWNER.
var plurals = map[string]string{
	"Deployment":  "deployments",
	"DaemonSet":   "daemonsets",
	"StatefulSet": "statefulsets",
}

// groups holds the API groups of the kinds that a targetRef can reference.
var groups = map[string]string{
	wasmev1.TargetKindGateway: "gateway.networking.k8s.io",
	wasmev1.TargetKindService: "",
}

// Key returns the target's key in status.workloads: the name of a workload, or
// `<kind>/<name>` for a targetRef.
func (t Target) Key() string {
	if t.isReference() {
		return t.Kind + "/" + t.Name
	}
	return t.Name
}

// isReference reports whether the target is that of a targetRef, and not a workload.
func (t Target) isReference() bool {
	_, found := groups[t.Kind]
	return found
}

// owner returns the OWNER that sidecar injection gives a workload's proxies.
func (t Target) owner() string {
	return fmt.Sprintf("kubernetes://apis/apps/v1/namespaces/%s/%s/%s", t.Namespace, plurals[t.Kind], t.Name)
}

// selector returns the labels that select a workload's pods, and nil for a targetRef.
func (t Target) selector() (map[string]string, error) {
	if t.isReference() {
		return nil, nil
	}
	if len(t.PodLabels) == 0 {
		return nil, fmt.Errorf("the pod template of %s %s has no labels to select its pods by: add one", t.Kind, t.Name)
	}
	return maps.Clone(t.PodLabels), nil
}

// references returns the targetRefs of the target's output, and nil for a workload.
func (t Target) references() []*typeapi.PolicyTargetReference {
	if !t.isReference() {
		return nil
	}
	return []*typeapi.PolicyTargetReference{{Group: groups[t.Kind], Kind: t.Kind, Name: t.Name}}
}
