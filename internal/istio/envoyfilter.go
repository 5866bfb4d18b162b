// Package istio holds the objects of Istio as the operator reads and writes
// them: the metadata typed, the spec as JSON. The operator never looks into a
// spec that it reads, and to decode one into Istio's own types costs more than
// all else that it does to an object.
package istio

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is that of EnvoyFilter.
var GroupVersion = schema.GroupVersion{Group: "networking.istio.io", Version: "v1alpha3"}

// EnvoyFilter is a networking.istio.io/v1alpha3 EnvoyFilter. Its status is
// left out: Istio's CRD has it as a subresource.
type EnvoyFilter struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// Spec is the JSON of the spec.
	Spec runtime.RawExtension `json:"spec,omitzero"`
}

// DeepCopyObject implements runtime.Object.
func (in *EnvoyFilter) DeepCopyObject() runtime.Object { return in.DeepCopy() }

// DeepCopy returns a copy that shares nothing.
func (in *EnvoyFilter) DeepCopy() *EnvoyFilter {
	return &EnvoyFilter{TypeMeta: in.TypeMeta, ObjectMeta: *in.ObjectMeta.DeepCopy(), Spec: *in.Spec.DeepCopy()}
}

// EnvoyFilterList is a list of EnvoyFilters.
type EnvoyFilterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`

	Items []*EnvoyFilter `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (in *EnvoyFilterList) DeepCopyObject() runtime.Object {
	out := &EnvoyFilterList{TypeMeta: in.TypeMeta, ListMeta: *in.DeepCopy()}
	for _, item := range in.Items {
		out.Items = append(out.Items, item.DeepCopy())
	}
	return out
}

// AddToScheme makes the types known to a scheme.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &EnvoyFilter{}, &EnvoyFilterList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
