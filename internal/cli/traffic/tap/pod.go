package tap

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/wasme-io/wasme-operator/internal/workload"
)

// FindPod returns a pod, if it can be recorded.
func FindPod(ctx context.Context, c client.Client, key client.ObjectKey) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	if err := c.Get(ctx, key, pod); err != nil {
		return nil, err
	}
	if why := unusable(pod); why != "" {
		return nil, fmt.Errorf("pod %s %s", key.Name, why)
	}
	return pod, nil
}

// FindPodOf returns the first pod of a Deployment, by name, of those that can be recorded.
func FindPodOf(ctx context.Context, c client.Client, key client.ObjectKey) (*corev1.Pod, error) {
	deployment := &appsv1.Deployment{}
	if err := c.Get(ctx, key, deployment); err != nil {
		return nil, err
	}
	selector, err := metav1.LabelSelectorAsSelector(deployment.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("reading the selector of Deployment %s: %w", key.Name, err)
	}
	pods := &corev1.PodList{} // comes in the order of the names
	if err := c.List(ctx, pods, client.InNamespace(key.Namespace), client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return nil, err
	}
	why := "has no pods: scale it up"
	for i := range pods.Items {
		reason := unusable(&pods.Items[i])
		if reason == "" {
			return &pods.Items[i], nil
		}
		why = fmt.Sprintf("has no pod that can be recorded: pod %s %s", pods.Items[i].Name, reason)
	}
	return nil, fmt.Errorf("Deployment %s %s", key.Name, why) //nolint:staticcheck // the name of a kind
}

// unusable says why a pod cannot be recorded; empty when it can.
func unusable(pod *corev1.Pod) string {
	switch {
	case workload.Sidecar(pod) == nil:
		return fmt.Sprintf("has no proxy (container %s): enable injection for its namespace and restart it", workload.SidecarContainer)
	case !workload.IsReady(pod):
		return "is not ready: wait until it is, or choose another one with pod/NAME"
	}
	return ""
}
