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
	// template returns the pod template of an object of the kind.
	template func(any) *corev1.PodTemplateSpec
}

// Kinds are the kinds of workloads. The first is the default.
var Kinds = []Kind{
	kind[appsv1.Deployment, appsv1.DeploymentList]("Deployment", "deployments", func(w *appsv1.Deployment) *corev1.PodTemplateSpec { return &w.Spec.Template }),
	kind[appsv1.DaemonSet, appsv1.DaemonSetList]("DaemonSet", "daemonsets", func(w *appsv1.DaemonSet) *corev1.PodTemplateSpec { return &w.Spec.Template }),
	kind[appsv1.StatefulSet, appsv1.StatefulSetList]("StatefulSet", "statefulsets", func(w *appsv1.StatefulSet) *corev1.PodTemplateSpec { return &w.Spec.Template }),
}

func kind[T, L any, P interface {
	*T
	Object
}, PL interface {
	*L
	List
}](name, resource string, template func(P) *corev1.PodTemplateSpec) Kind {
	return Kind{
		Name:     name,
		Resource: resource,
		New:      func() Object { return P(new(T)) },
		NewList:  func() List { return PL(new(L)) },
		is:       func(object any) bool { _, is := object.(P); return is },
		template: func(object any) *corev1.PodTemplateSpec { return template(object.(P)) },
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

// PodLabels returns the labels of a workload's pod template; nil for any other object.
func PodLabels(object any) map[string]string {
	k, is := KindOf(object)
	if !is {
		return nil
	}
	return k.template(object).Labels
}

// TargetOf returns the target that a workload is.
func TargetOf(object Object) Target {
	k, _ := KindOf(object)
	return Target{
		Kind: k.Name, Namespace: object.GetNamespace(), Name: object.GetName(),
		PodLabels: maps.Clone(PodLabels(object)),
	}
}

// Changed reports whether an update of a workload matters: its own labels select
// it, those of its pods go into the output. Its status changes all the time.
func Changed(before, after Object) bool {
	return !maps.Equal(before.GetLabels(), after.GetLabels()) || !maps.Equal(PodLabels(before), PodLabels(after))
}
