// Package v1 is version v1 of the wasme.io API: the FilterDeployment, which says
// which Wasm filter runs on which workloads of an Istio mesh, and the FilterPolicy and
// ClusterFilterPolicy, which say which filters may.
//
// In reading order: filterdeployment_types.go is what a user writes, and
// filterdeployment_status.go what the operator answers, with the conditions and
// their reasons in conditions.go. config.go reads the forms that a filter's
// configuration can have, and predecessor.go a status that wasme's own operator
// wrote. filterpolicy_types.go is what administrators write. The comments of the fields are what `kubectl explain` shows, and
// docs/api.md and docs/conditions.md are generated from them. What controller-gen's
// markers cannot express is in hack/crdschema.
//
// The package imports apimachinery only, so that other programs can use the types
// without the operator's dependencies.
//
// +kubebuilder:object:generate=true
// +groupName=wasme.io
package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of the types in this package.
var GroupVersion = schema.GroupVersion{Group: "wasme.io", Version: "v1"}

// FilterDeploymentKind is the kind of a FilterDeployment, as it appears in owner references.
const FilterDeploymentKind = "FilterDeployment"

var (
	schemeBuilder = runtime.NewSchemeBuilder(addKnownTypes)

	// AddToScheme adds the types of this package to a scheme.
	AddToScheme = schemeBuilder.AddToScheme
)

func addKnownTypes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&FilterDeployment{}, &FilterDeploymentList{},
		&FilterPolicy{}, &FilterPolicyList{},
		&ClusterFilterPolicy{}, &ClusterFilterPolicyList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
