package controllers

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// Pods are watched to ask their sidecars what they run.
// +kubebuilder:rbac:groups="",resources=pods,verbs=list;watch

const (
	// podTargetIndex finds the pods of a target: `<kind>/<name>`.
	podTargetIndex = "target"

	sidecarContainer = "istio-proxy"
	statsPortName    = "http-envoy-prom"
	// agentPortAnnotation moves the port of pilot-agent's own metrics.
	agentPortAnnotation = "status.sidecar.istio.io/port"
	// gatewayLabel is on the pods of gateways and waypoints (Gateway API).
	gatewayLabel = "gateway.networking.k8s.io/gateway-name"
)

// indexPods makes the pods of a target be found in the cache.
func indexPods(ctx context.Context, indexer client.FieldIndexer) error {
	err := indexer.IndexField(ctx, &corev1.Pod{}, podTargetIndex, func(object client.Object) []string {
		var keys []string
		for _, target := range podTargets(object.(*corev1.Pod)) {
			keys = append(keys, target.Kind+"/"+target.Name)
		}
		return keys
	})
	if err != nil {
		return fmt.Errorf("indexing pods: %w", err)
	}
	return nil
}

// podTargets are what a pod belongs to: its workload, as injection derives it
// from the pod's owner, and the Gateway that it is a proxy of.
func podTargets(pod *corev1.Pod) []render.Target {
	var targets []render.Target
	add := func(kind, name string) {
		targets = append(targets, render.Target{Kind: kind, Namespace: pod.Namespace, Name: name})
	}
	if kind, name := workloadOf(pod); kind != "" {
		add(kind, name)
	}
	if gateway := pod.Labels[gatewayLabel]; gateway != "" {
		add(wasmev1.TargetKindGateway, gateway)
	}
	return targets
}

// workloadOf is what a pod's controller belongs to; of a Deployment's pods that
// is a ReplicaSet, but not of those in the cache.
func workloadOf(pod *corev1.Pod) (kind, name string) {
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil {
		return "", ""
	}
	switch owner.Kind {
	case "ReplicaSet":
		if name, ofDeployment := strings.CutSuffix(owner.Name, "-"+pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey]); ofDeployment {
			return "Deployment", name
		}
	case "Deployment", "DaemonSet", "StatefulSet":
		return owner.Kind, owner.Name
	}
	return "", ""
}

// trimPod keeps what tells to whom a pod belongs and where its sidecar can be
// asked. There may be 10,000 pods: what is the same in most of them is shared,
// and a map of one label would be a tenth of the whole.
func trimPod(item any) (any, error) {
	pod, ok := item.(*corev1.Pod)
	if !ok {
		return item, nil
	}
	trimmed := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			DeletionTimestamp: pod.DeletionTimestamp,
			Labels:            picked(pod.Labels, gatewayLabel),
			Annotations:       picked(pod.Annotations, agentPortAnnotation),
		},
		Status: corev1.PodStatus{PodIP: pod.Status.PodIP},
	}
	if kind, name := workloadOf(pod); kind != "" {
		trimmed.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: name, Controller: &controls}}
	}
	if sidecar := sidecarOf(pod); sidecar != nil {
		trimmed.Spec.Containers = trimSidecar(sidecar)
	}
	if ready := readyCondition(pod); ready != nil {
		trimmed.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready.Status, LastTransitionTime: ready.LastTransitionTime}}
	}
	return trimmed, nil
}

// What pods in the cache share; nobody changes it.
var (
	controls       = true
	defaultSidecar = sidecarAt(dataplane.DefaultStatsPort)
)

func sidecarAt(port int32) []corev1.Container {
	return []corev1.Container{{Name: sidecarContainer, Ports: []corev1.ContainerPort{{Name: statsPortName, ContainerPort: port}}}}
}

// trimSidecar keeps the stats port.
func trimSidecar(sidecar *corev1.Container) []corev1.Container {
	for _, p := range sidecar.Ports {
		if p.Name == statsPortName && p.ContainerPort != dataplane.DefaultStatsPort {
			return sidecarAt(p.ContainerPort)
		}
	}
	return defaultSidecar
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

// sidecarOf is a pod's proxy: an init container in today's injection, an
// ordinary container before that and in gateways.
func sidecarOf(pod *corev1.Pod) *corev1.Container {
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if containers[i].Name == sidecarContainer {
				return &containers[i]
			}
		}
	}
	return nil
}

func readyCondition(pod *corev1.Pod) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == corev1.PodReady {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

func isReady(pod *corev1.Pod) bool {
	ready := readyCondition(pod)
	return ready != nil && ready.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil
}

// probed is where a pod's sidecar can be asked. An address or port that is none
// is the zero value, with which the probe fails.
func probed(pod *corev1.Pod) dataplane.Pod {
	out := dataplane.Pod{UID: pod.UID}
	out.Address, _ = netip.ParseAddr(pod.Status.PodIP)
	for _, port := range sidecarOf(pod).Ports {
		if port.Name == statsPortName {
			out.StatsPort = uint16(port.ContainerPort) //nolint:gosec // the API server takes 1 to 65535 only
		}
	}
	if port, err := strconv.ParseUint(pod.Annotations[agentPortAnnotation], 10, 16); err == nil {
		out.AgentPort = uint16(port)
	}
	return out
}

// podChanged tells whether an update of a pod matters.
func podChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, after := e.ObjectOld.(*corev1.Pod), e.ObjectNew.(*corev1.Pod)
		return isReady(before) != isReady(after) || before.Status.PodIP != after.Status.PodIP
	}}
}

// selectingPod finds the FilterDeployments whose filter a pod is to run.
func (r *FilterDeploymentReconciler) selectingPod(ctx context.Context, object client.Object) []reconcile.Request {
	var requests []reconcile.Request
	for _, target := range podTargets(object.(*corev1.Pod)) {
		if target.Kind == wasmev1.TargetKindGateway {
			requests = append(requests, r.referencing(ctx, target)...)
			continue
		}
		workload := workloadObjects[target.Kind]()
		if err := r.Client.Get(ctx, types.NamespacedName{Namespace: target.Namespace, Name: target.Name}, workload); err != nil {
			continue // a workload that comes brings its FilterDeployments
		}
		requests = append(requests, r.selecting(ctx, workload)...)
	}
	return requests
}

// referencing finds the FilterDeployments that name a target in their targetRefs.
func (r *FilterDeploymentReconciler) referencing(ctx context.Context, target render.Target) []reconcile.Request {
	var list wasmev1.FilterDeploymentList
	if err := r.Client.List(ctx, &list, client.InNamespace(target.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		log.FromContext(ctx).Error(err, "Listing FilterDeployments", "namespace", target.Namespace)
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		named := slices.ContainsFunc(istioSpec(&list.Items[i]).TargetRefs, func(reference wasmev1.TargetRef) bool {
			return reference.Kind == target.Kind && reference.Name == target.Name
		})
		if named {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return requests
}
