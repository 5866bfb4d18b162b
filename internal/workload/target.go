package workload

import (
	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// Target is what a filter runs on: a workload, or the object that a targetRef
// references.
type Target struct {
	// Kind is Deployment, DaemonSet or StatefulSet; Gateway or Service for a targetRef.
	Kind string
	// Namespace and Name of the workload or object.
	Namespace, Name string
	// Selector are the labels that a workload's selector asks of all its pods.
	Selector map[string]string
	// PodLabels are the labels of a workload's pod template.
	PodLabels map[string]string
	// Proxies are those of a targetRef; the zero value for a workload.
	Proxies Proxies
}

// referenceGroups holds the API groups of the kinds that a targetRef can reference.
var referenceGroups = map[string]string{
	wasmev1.TargetKindGateway: GatewayKind.Group,
	wasmev1.TargetKindService: "",
}

// Key returns the target's key in status.workloads: the name of a workload, or
// `<kind>/<name>` for a targetRef.
func (t Target) Key() string {
	if t.IsReference() {
		return t.Kind + "/" + t.Name
	}
	return t.Name
}

// IsReference reports whether the target is that of a targetRef, and not a workload.
func (t Target) IsReference() bool {
	_, found := referenceGroups[t.Kind]
	return found
}

// ReferenceGroup returns the API group of the object that a targetRef references.
func (t Target) ReferenceGroup() string { return referenceGroups[t.Kind] }
