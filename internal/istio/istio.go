// Package istio holds Istio's objects as the operator reads and writes them: with typed
// metadata, and the spec as JSON. The operator never looks into a spec that it reads, and
// decoding one into Istio's own types would cost more than everything else that it does
// to an object.
//
// Object and List are generic over the kind. EnvoyFilter, WasmPlugin and TrafficExtension
// are the three kinds, and Kinds describes them at runtime.
package istio

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

var (
	networking = schema.GroupVersion{Group: "networking.istio.io", Version: "v1alpha3"}
	extensions = schema.GroupVersion{Group: "extensions.istio.io", Version: "v1alpha1"}
)

type (
	// EnvoyFilter is a networking.istio.io/v1alpha3 EnvoyFilter.
	EnvoyFilter = Object[envoyFilter]
	// EnvoyFilterList is a list of EnvoyFilters.
	EnvoyFilterList = List[envoyFilter]
	// WasmPlugin is an extensions.istio.io/v1alpha1 WasmPlugin.
	WasmPlugin = Object[wasmPlugin]
	// WasmPluginList is a list of WasmPlugins.
	WasmPluginList = List[wasmPlugin]
	// TrafficExtension is an extensions.istio.io/v1alpha1 TrafficExtension.
	TrafficExtension = Object[trafficExtension]
	// TrafficExtensionList is a list of TrafficExtensions.
	TrafficExtensionList = List[trafficExtension]
)

type (
	envoyFilter      struct{}
	wasmPlugin       struct{}
	trafficExtension struct{}
)

// Object is an object of one of Istio's kinds. It has no status, which is a subresource in
// Istio's CRDs.
type Object[K any] struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// Spec is the JSON of the spec.
	Spec runtime.RawExtension `json:"spec,omitzero"`
}

// DeepCopyObject implements runtime.Object.
func (o *Object[K]) DeepCopyObject() runtime.Object { return o.DeepCopy() }

// DeepCopy returns a copy that shares nothing with the object.
func (o *Object[K]) DeepCopy() *Object[K] {
	return &Object[K]{TypeMeta: o.TypeMeta, ObjectMeta: *o.ObjectMeta.DeepCopy(), Spec: *o.Spec.DeepCopy()}
}

// Content returns the spec, to be read or set.
func (o *Object[K]) Content() *runtime.RawExtension { return &o.Spec }

// List is a list of objects of one kind.
type List[K any] struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`

	Items []*Object[K] `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (l *List[K]) DeepCopyObject() runtime.Object {
	out := &List[K]{TypeMeta: l.TypeMeta, ListMeta: *l.DeepCopy()}
	for _, item := range l.Items {
		out.Items = append(out.Items, item.DeepCopy())
	}
	return out
}

// Output is an object of any kind that the operator writes.
type Output interface {
	client.Object
	// Content returns the spec, to be read or set.
	Content() *runtime.RawExtension
}

// Kind is one of Istio's kinds that the operator writes.
type Kind struct {
	schema.GroupVersionKind

	// Resource is the kind's name in URLs.
	Resource string
	// New returns an empty object, and NewList an empty list.
	New     func() Output
	NewList func() client.ObjectList
}

// Kinds holds each kind by the output that a FilterDeployment asks for.
var Kinds = map[wasmev1.Output]Kind{
	wasmev1.OutputEnvoyFilter:      kindOf[envoyFilter](networking, wasmev1.OutputEnvoyFilter, "envoyfilters"),
	wasmev1.OutputWasmPlugin:       kindOf[wasmPlugin](extensions, wasmev1.OutputWasmPlugin, "wasmplugins"),
	wasmev1.OutputTrafficExtension: kindOf[trafficExtension](extensions, wasmev1.OutputTrafficExtension, "trafficextensions"),
}

// KindOf returns the kind of an object.
func KindOf(object Output) wasmev1.Output {
	switch object.(type) {
	case *WasmPlugin:
		return wasmev1.OutputWasmPlugin
	case *TrafficExtension:
		return wasmev1.OutputTrafficExtension
	default:
		return wasmev1.OutputEnvoyFilter
	}
}

func kindOf[K any](version schema.GroupVersion, name wasmev1.Output, resource string) Kind {
	return Kind{
		GroupVersionKind: version.WithKind(string(name)),
		Resource:         resource,
		New:              func() Output { return &Object[K]{} },
		NewList:          func() client.ObjectList { return &List[K]{} },
	}
}

// AddToScheme adds the kinds to a scheme.
func AddToScheme(scheme *runtime.Scheme) error {
	for _, kind := range Kinds {
		scheme.AddKnownTypeWithName(kind.GroupVersionKind, kind.New())
		scheme.AddKnownTypeWithName(kind.GroupVersion().WithKind(kind.Kind+"List"), kind.NewList())
	}
	metav1.AddToGroupVersion(scheme, networking)
	metav1.AddToGroupVersion(scheme, extensions)
	return nil
}
