package workload

import (
	"net/netip"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
)

// What Istio's injection and the Gateway API put on pods.
const (
	// SidecarContainer is the name of the proxy's container.
	SidecarContainer = "istio-proxy"
	// StatsPortName is the name of the port at which Envoy serves its metrics.
	StatsPortName = "http-envoy-prom"
	// AgentPortAnnotation moves the port of pilot-agent's own metrics.
	AgentPortAnnotation = "status.sidecar.istio.io/port"
	// GatewayLabel is on the pods of gateways and waypoints, with the Gateway's name.
	GatewayLabel = "gateway.networking.k8s.io/gateway-name"
	// ownerVariable is the sidecar's environment variable with the OWNER of its proxy:
	// `kubernetes://apis/apps/v1/namespaces/<namespace>/<resource>/<name>`.
	ownerVariable = "ISTIO_META_OWNER"
)

// Owners returns what a pod belongs to: its workload, as injection derives it
// from the pod's owner, and the Gateway that it is a proxy of. They have no
// PodLabels.
func Owners(pod *corev1.Pod) []Target {
	var owners []Target
	if kind, name := controllerOf(pod); kind != "" {
		owners = append(owners, Target{Kind: kind, Namespace: pod.Namespace, Name: name})
	}
	if gateway := pod.Labels[GatewayLabel]; gateway != "" {
		owners = append(owners, Target{Kind: wasmev1.TargetKindGateway, Namespace: pod.Namespace, Name: gateway})
	}
	return owners
}

// controllerOf returns the workload that controls a pod. The controller of a
// Deployment's pod is a ReplicaSet, except in the cache (TrimPod). A pod whose
// workload was deleted without its pods has none, but its proxy still reports the
// workload that it was started for, and outputs of that workload still reach it.
func controllerOf(pod *corev1.Pod) (kind, name string) {
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil {
		return ownerOfProxy(pod)
	}
	if owner.Kind == "ReplicaSet" {
		if name, ofDeployment := strings.CutSuffix(owner.Name, "-"+pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey]); ofDeployment {
			return "Deployment", name
		}
		return "", ""
	}
	if _, known := KindNamed(owner.Kind); known {
		return owner.Kind, owner.Name
	}
	return "", ""
}

// ownerOfProxy returns the workload that injection wrote into a pod's sidecar.
func ownerOfProxy(pod *corev1.Pod) (kind, name string) {
	sidecar := Sidecar(pod)
	if sidecar == nil {
		return "", ""
	}
	for _, variable := range sidecar.Env {
		if variable.Name != ownerVariable {
			continue
		}
		for _, k := range Kinds {
			if name, found := strings.CutPrefix(variable.Value, ownerPrefix(pod.Namespace, k)); found {
				return k.Name, name
			}
		}
	}
	return "", ""
}

// ProxyOwner returns the OWNER that injection gives the proxies of a workload.
func (t Target) ProxyOwner() string {
	k, _ := KindNamed(t.Kind)
	return ownerPrefix(t.Namespace, k) + t.Name
}

func ownerPrefix(namespace string, k Kind) string {
	return "kubernetes://apis/apps/v1/namespaces/" + namespace + "/" + k.Resource + "/"
}

// Sidecar returns a pod's proxy: an init container in today's injection, an
// ordinary container before that and in gateways; nil for none.
func Sidecar(pod *corev1.Pod) *corev1.Container {
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if containers[i].Name == SidecarContainer {
				return &containers[i]
			}
		}
	}
	return nil
}

// ReadyCondition returns a pod's condition Ready; nil when it has none.
func ReadyCondition(pod *corev1.Pod) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == corev1.PodReady {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// IsReady reports whether a pod is Ready and not being deleted.
func IsReady(pod *corev1.Pod) bool {
	ready := ReadyCondition(pod)
	return ready != nil && ready.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil
}

// IsFinished reports whether the containers of a pod have ended for good. Any other
// pod may serve, or serve again: one that is being deleted until it is gone, and one
// that is not Ready as soon as it is.
func IsFinished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// PodChanged reports whether an update of a pod matters.
func PodChanged(before, after *corev1.Pod) bool {
	return IsReady(before) != IsReady(after) || IsFinished(before) != IsFinished(after) || before.Status.PodIP != after.Status.PodIP
}

// SidecarAddress returns where the sidecar of a pod that has one can be asked.
// An invalid address or port is the zero value, with which asking fails.
func SidecarAddress(pod *corev1.Pod) dataplane.Pod {
	out := dataplane.Pod{UID: pod.UID}
	out.Address, _ = netip.ParseAddr(pod.Status.PodIP)
	for _, port := range Sidecar(pod).Ports {
		if port.Name == StatsPortName {
			out.StatsPort = uint16(port.ContainerPort) //nolint:gosec // the API server takes 1 to 65535 only
		}
	}
	if port, err := strconv.ParseUint(pod.Annotations[AgentPortAnnotation], 10, 16); err == nil {
		out.AgentPort = uint16(port)
	}
	return out
}
