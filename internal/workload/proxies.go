package workload

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/version"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// What users put on objects, and Istio reads.
const (
	// UseWaypointLabel, on a Service or its namespace, is the name of the Gateway that is
	// the Service's waypoint.
	UseWaypointLabel = "istio.io/use-waypoint"
	// UseWaypointNamespaceLabel, beside it, is the namespace of that Gateway.
	UseWaypointNamespaceLabel = "istio.io/use-waypoint-namespace"
	// DeploymentNameAnnotation, on a Gateway, is the name of the Deployment that Istio
	// makes for it.
	DeploymentNameAnnotation = "gateway.istio.io/name-override"

	// noWaypoint, as the name of the waypoint, is for none.
	noWaypoint = "none"
)

// GatewayKind is the kind of Gateways that targetRefs reference.
var GatewayKind = schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: wasmev1.TargetKindGateway}

// NewGateway returns an empty object for the metadata of a Gateway: nothing else of
// one is read.
func NewGateway() *metav1.PartialObjectMetadata { return metadataOf(GatewayKind) }

// NewService returns an empty object for the metadata of a Service.
func NewService() *metav1.PartialObjectMetadata {
	return metadataOf(corev1.SchemeGroupVersion.WithKind(wasmev1.TargetKindService))
}

func metadataOf(kind schema.GroupVersionKind) *metav1.PartialObjectMetadata {
	object := &metav1.PartialObjectMetadata{}
	object.SetGroupVersionKind(kind)
	return object
}

// Proxies are the pods that run the filter of a targetRef: those of a Gateway, which
// is a gateway or a waypoint.
type Proxies struct {
	// Gateway that the pods belong to; without a name when it is not known.
	Gateway types.NamespacedName
	// Deployment is what Istio makes for the Gateway if it is a waypoint.
	Deployment string
	// Istio is the oldest version of Istio that the pods run; nil when it is not known.
	Istio *version.Version
	// Missing says why the Gateway is not known; empty when it is.
	Missing string
}

// NotThere is why the proxies of what does not exist are not known.
const NotThere = "it does not exist"

// ProxiesOfGateway returns the proxies of a Gateway with such annotations.
func ProxiesOfGateway(gateway types.NamespacedName, annotations map[string]string) Proxies {
	proxies := Proxies{Gateway: gateway, Deployment: gateway.Name}
	if name := annotations[DeploymentNameAnnotation]; name != "" {
		proxies.Deployment = name
	}
	return proxies
}

// WaypointOf returns the waypoint that the labels of a Service, or those of its
// namespace, choose for the Service, and whether they choose one. It is decided as by
// fetchWaypointForTarget of istiod.
func WaypointOf(namespace string, labels map[string]string) (waypoint types.NamespacedName, chosen bool) {
	name, labelled := labels[UseWaypointLabel]
	if !labelled {
		return types.NamespacedName{}, false
	}
	if name == noWaypoint {
		return types.NamespacedName{}, true
	}
	if other, elsewhere := labels[UseWaypointNamespaceLabel]; elsewhere {
		namespace = other
	}
	return types.NamespacedName{Namespace: namespace, Name: name}, true
}

// Key returns the target that Owners returns for the pods, and whether they are known.
func (p Proxies) Key() (owner Target, known bool) {
	if p.Gateway.Name == "" {
		return Target{}, false
	}
	return Target{Kind: wasmev1.TargetKindGateway, Namespace: p.Gateway.Namespace, Name: p.Gateway.Name}, true
}

// OldestIstio returns the oldest version of Istio that pods run, by the tags of their
// proxies' images; nil when no tag shows one.
func OldestIstio(pods []*corev1.Pod) *version.Version {
	var oldest *version.Version
	for _, pod := range pods {
		if sidecar := Sidecar(pod); sidecar != nil {
			oldest = Older(oldest, IstioVersion(sidecar.Image))
		}
	}
	return oldest
}

// Older returns the older one of two versions that are known.
func Older(a, b *version.Version) *version.Version {
	if a == nil || b != nil && b.LessThan(a) {
		return b
	}
	return a
}

// IstioVersion returns the version in the tag of an image such as
// docker.io/istio/proxyv2:1.31.0-distroless; nil when it has none.
func IstioVersion(image string) *version.Version {
	image, _, _ = strings.Cut(image, "@")
	_, tag, tagged := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
	if !tagged {
		return nil
	}
	found, err := version.ParseGeneric(tag)
	if err != nil || found.Major() != 1 {
		return nil
	}
	return found
}

// TrimReference is a cache transform for the metadata of Services and Gateways: it
// keeps the identity and what chooses proxies.
func TrimReference(item any) (any, error) {
	object, ok := item.(*metav1.PartialObjectMetadata)
	if !ok {
		return item, nil
	}
	object.ObjectMeta = metav1.ObjectMeta{
		Namespace: object.Namespace, Name: object.Name, UID: object.UID, ResourceVersion: object.ResourceVersion,
		Labels:      picked(object.Labels, UseWaypointLabel, UseWaypointNamespaceLabel),
		Annotations: picked(object.Annotations, DeploymentNameAnnotation),
	}
	return object, nil
}
