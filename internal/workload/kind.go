// Package workload says what a filter runs on: which workloads a
// FilterDeployment selects, which pods belong to them, and where a pod's sidecar
// is asked what it runs.
//
// There is one table of the kinds of workloads (kind.go). Selection reads
// spec.deployment.istio (selection.go). Owners and Sidecar read a pod (pod.go).
// TrimPod and Trim keep in the cache just what these need (trim.go). Nothing
// here talks to an API server.
package workload

import (
	"maps"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Object is an object of one of the kinds.
type Object interface {
	metav1.Object
	runtime.Object
}

// List is a list of objects of one of the kinds.
type List interface {
	metav1.ListInterface
	runtime.Object
}

// Kind is a kind of workload that a filter can run on.
type Kind struct {
	// Name of the kind, such as Deployment.
	Name string
	// Resource is the kind's name in URLs, and in the OWNER of proxies.
	Resource string
	// New returns an empty object, and NewList an empty list.
	New     func() Object
	NewList func() List

	// is reports whether an object is of the kind.
	is func(any) bool
	// pods returns how an object of the kind selects its pods, and their template.
	pods func(any) (*metav1.LabelSelector, *corev1.PodTemplateSpec)
}

// Kinds are the kinds of workloads. The first is the default.
var Kinds = []Kind{
	kind[appsv1.Deployment, appsv1.DeploymentList]("Deployment", "deployments", func(w *appsv1.Deployment) (*metav1.LabelSelector, *corev1.PodTemplateSpec) {
		return w.Spec.Selector, &w.Spec.Template
	}),
	kind[appsv1.DaemonSet, appsv1.DaemonSetList]("DaemonSet", "daemonsets", func(w *appsv1.DaemonSet) (*metav1.LabelSelector, *corev1.PodTemplateSpec) {
		return w.Spec.Selector, &w.Spec.Template
	}),
	kind[appsv1.StatefulSet, appsv1.StatefulSetList]("StatefulSet", "statefulsets", func(w *appsv1.StatefulSet) (*metav1.LabelSelector, *corev1.PodTemplateSpec) {
		return w.Spec.Selector, &w.Spec.Template
	}),
}

func kind[T, L any, P interface {
	*T
	Object
}, PL interface {
	*L
	List
}](name, resource string, pods func(P) (*metav1.LabelSelector, *corev1.PodTemplateSpec)) Kind {
	return Kind{
		Name:     name,
		Resource: resource,
		New:      func() Object { return P(new(T)) },
		NewList:  func() List { return PL(new(L)) },
		is:       func(object any) bool { _, is := object.(P); return is },
		pods:     func(object any) (*metav1.LabelSelector, *corev1.PodTemplateSpec) { return pods(object.(P)) },
	}
}

// KindNamed returns the kind of that name, in any letter case; false for none.
func KindNamed(name string) (Kind, bool) {
	for _, k := range Kinds {
		if strings.EqualFold(k.Name, name) {
			return k, true
		}
	}
	return Kind{}, false
}

// KindOf returns the kind of an object; false when it is no workload.
func KindOf(object any) (Kind, bool) {
	for _, k := range Kinds {
		if k.is(object) {
			return k, true
		}
	}
	return Kind{}, false
}

// podsOf returns how a workload selects its pods, and their template.
func podsOf(object Object) (*metav1.LabelSelector, *corev1.PodTemplateSpec) {
	k, _ := KindOf(object)
	return k.pods(object)
}

// TargetOf returns the target that a workload is.
func TargetOf(object Object) Target {
	k, _ := KindOf(object)
	selector, template := k.pods(object)
	return Target{
		Kind: k.Name, Namespace: object.GetNamespace(), Name: object.GetName(),
		Selector: requiredLabels(selector), PodLabels: maps.Clone(template.Labels),
	}
}

// requiredLabels returns the labels that a selector asks of all pods. A workload
// cannot change them: a rollout that changes other labels of the template leaves
// older pods, which go on serving, with these.
func requiredLabels(selector *metav1.LabelSelector) map[string]string {
	if selector == nil {
		return nil
	}
	required := maps.Clone(selector.MatchLabels)
	for _, expression := range selector.MatchExpressions {
		if expression.Operator == metav1.LabelSelectorOpIn && len(expression.Values) == 1 {
			if required == nil {
				required = map[string]string{}
			}
			required[expression.Key] = expression.Values[0]
		}
	}
	return required
}

// Changed reports whether an update of a workload matters: its own labels select
// it, those of its pods decide which other outputs reach them. Its selector cannot
// change, and its status changes all the time.
func Changed(before, after Object) bool {
	_, old := podsOf(before)
	_, now := podsOf(after)
	return !maps.Equal(before.GetLabels(), after.GetLabels()) || !maps.Equal(old.Labels, now.Labels)
}

// What Istio's chart of a gateway, and its users, put on the pods of gateways that
// injection completes.
const (
	injectionAnnotation = "inject.istio.io/templates"
	gatewayTemplate     = "gateway"
)

// isGateway reports whether the pods of a workload are gateways or waypoints, which
// have no traffic of a sidecar.
func isGateway(object Object) bool {
	_, template := podsOf(object)
	_, ofGatewayAPI := template.Labels[GatewayLabel]
	return ofGatewayAPI || template.Annotations[injectionAnnotation] == gatewayTemplate
}
