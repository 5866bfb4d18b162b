package workload

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/lru"

	"github.com/wasme-io/wasme-operator/internal/dataplane"
)

// Trim is a cache transform: of a workload it keeps the identity, the labels, those
// of its pod template, how it selects its pods, and what makes it a gateway. Of a
// Deployment it keeps the number of replicas too, which says whether the
// predecessor's operator runs.
func Trim(item any) (any, error) {
	switch workload := item.(type) {
	case *appsv1.Deployment:
		trimMeta(&workload.ObjectMeta)
		selector, template := trimPods(workload)
		workload.Spec = appsv1.DeploymentSpec{Replicas: workload.Spec.Replicas, Selector: selector, Template: template}
		workload.Status = appsv1.DeploymentStatus{}
	case *appsv1.DaemonSet:
		trimMeta(&workload.ObjectMeta)
		selector, template := trimPods(workload)
		workload.Spec = appsv1.DaemonSetSpec{Selector: selector, Template: template}
		workload.Status = appsv1.DaemonSetStatus{}
	case *appsv1.StatefulSet:
		trimMeta(&workload.ObjectMeta)
		selector, template := trimPods(workload)
		workload.Spec = appsv1.StatefulSetSpec{Selector: selector, Template: template}
		workload.Status = appsv1.StatefulSetStatus{}
	}
	return item, nil
}

func trimMeta(meta *metav1.ObjectMeta) {
	*meta = metav1.ObjectMeta{
		Namespace:       meta.Namespace,
		Name:            meta.Name,
		UID:             meta.UID,
		ResourceVersion: meta.ResourceVersion,
		Labels:          meta.Labels,
	}
}

// trimPods returns how a workload selects its pods, and what is kept of their
// template. Mostly they have the same labels, which are kept once then.
func trimPods(workload Object) (*metav1.LabelSelector, corev1.PodTemplateSpec) {
	selector, template := podsOf(workload)
	kept := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{
		Labels:      template.Labels,
		Annotations: picked(template.Annotations, injectionAnnotation),
	}}
	if selector != nil && maps.Equal(selector.MatchLabels, template.Labels) {
		selector.MatchLabels = template.Labels
	}
	return selector, kept
}

// TrimPod is a cache transform: it keeps what says to whom a pod belongs and
// where its sidecar can be asked. There may be 10,000 pods: what is the same in
// most of them is shared, and a map of one label would be a tenth of the whole.
func TrimPod(item any) (any, error) {
	pod, ok := item.(*corev1.Pod)
	if !ok {
		return item, nil
	}
	trimmed := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			CreationTimestamp: pod.CreationTimestamp, DeletionTimestamp: pod.DeletionTimestamp,
			Labels:      picked(pod.Labels, GatewayLabel),
			Annotations: picked(pod.Annotations, AgentPortAnnotation),
		},
		Status: corev1.PodStatus{PodIP: pod.Status.PodIP},
	}
	if IsFinished(pod) {
		trimmed.Status.Phase = pod.Status.Phase
	}
	if kind, name := controllerOf(pod); kind != "" {
		trimmed.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: name, Controller: &controls}}
	}
	if sidecar := Sidecar(pod); sidecar != nil {
		trimmed.Spec.Containers = trimSidecar(sidecar)
		if trimmed.Labels[GatewayLabel] != "" { // whose version of Istio matters
			trimmed.Spec.Containers = slices.Clone(trimmed.Spec.Containers)
			trimmed.Spec.Containers[0].Image = sidecar.Image
		}
	}
	if ready := ReadyCondition(pod); ready != nil {
		trimmed.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready.Status, LastTransitionTime: ready.LastTransitionTime}}
	}
	return trimmed, nil
}

// controls is shared by the pods in the cache; nobody changes it.
var controls = true

// sidecars are the containers that pods in the cache share: most sidecars of a mesh are alike.
var sidecars = lru.New(1024)

// trimSidecar keeps the stats port and the memory limit.
func trimSidecar(sidecar *corev1.Container) []corev1.Container {
	type kept struct {
		port   int32
		memory string
	}
	k := kept{port: dataplane.DefaultStatsPort, memory: sidecar.Resources.Limits.Memory().String()}
	for _, p := range sidecar.Ports {
		if p.Name == StatsPortName {
			k.port = p.ContainerPort
		}
	}
	if shared, found := sidecars.Get(k); found {
		return shared.([]corev1.Container)
	}
	trimmed := []corev1.Container{{Name: SidecarContainer, Ports: []corev1.ContainerPort{{Name: StatsPortName, ContainerPort: k.port}}}}
	if memory, found := sidecar.Resources.Limits[corev1.ResourceMemory]; found {
		trimmed[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: memory}
	}
	sidecars.Add(k, trimmed)
	return trimmed
}

func picked(from map[string]string, keys ...string) map[string]string {
	var out map[string]string
	for _, key := range keys {
		if value, found := from[key]; found {
			if out == nil {
				out = map[string]string{}
			}
			out[key] = value
		}
	}
	return out
}
