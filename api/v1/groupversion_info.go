// Package v1 is version v1 of the wasme.io API: FilterDeployment, which says
// which Wasm filter runs on which workloads of an Istio mesh.
//
// It imports apimachinery only, so that other programs can use the types
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

// FilterDeploymentKind is the kind of FilterDeployment, as owner references name it.
const FilterDeploymentKind = "FilterDeployment"

var (
	schemeBuilder = runtime.NewSchemeBuilder(addKnownTypes)

	// AddToScheme adds the types of this package to a scheme.
	AddToScheme = schemeBuilder.AddToScheme
)

func addKnownTypes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &FilterDeployment{}, &FilterDeploymentList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
