// Licensed under the Apache License, Version 2.0; see LICENSE.

package mesh

import (
	"context"
	"fmt"
	"strconv"
	"time"

	istionetworking "istio.io/api/networking/v1alpha3"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// createObjects creates all that belongs to a pod, in the order in which one
// needs another, and sets the pod Ready.
func (r *Running) createObjects(ctx context.Context) error {
	m, w := r.mesh, r.Workload
	if err := m.createMissing(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.Namespace}}); err != nil {
		return err
	}
	if err := m.createMissing(ctx, r.networkObjects()...); err != nil {
		return err
	}
	owner, err := r.createOwners(ctx)
	if err != nil {
		return err
	}
	if err := r.createPod(ctx, owner); err != nil {
		return err
	}
	return r.countPod(ctx)
}

func (r *Running) networkObjects() []client.Object {
	objects := r.listeners()
	if r.Workload.Service != "" {
		objects = append(objects, r.service())
	}
	return objects
}

// listeners tell Envoy where to listen.
func (r *Running) listeners() []client.Object {
	if r.Workload.Gateway {
		return []client.Object{r.gateway(), r.gatewayRoute()}
	}
	return []client.Object{r.sidecarResource()}
}

func (r *Running) gateway() *networkingv1.Gateway {
	w := r.Workload
	return &networkingv1.Gateway{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: r.Pod},
		Spec: istionetworking.Gateway{
			Selector: w.podIdentity(),
			Servers: []*istionetworking.Server{{
				Bind: r.Address, Hosts: []string{"*"},
				Port: &istionetworking.Port{Number: uint32(w.Port), Protocol: "HTTP", Name: "http"},
			}},
		},
	}
}

func (r *Running) gatewayRoute() *networkingv1.VirtualService {
	return &networkingv1.VirtualService{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.Workload.Namespace, Name: r.Pod},
		Spec: istionetworking.VirtualService{
			Gateways: []string{r.Pod}, Hosts: []string{"*"},
			Http: []*istionetworking.HTTPRoute{{Route: []*istionetworking.HTTPRouteDestination{{
				Destination: &istionetworking.Destination{Host: OutboundHost, Port: &istionetworking.PortSelector{Number: OutboundPort}},
			}}}},
		},
	}
}

func (r *Running) service() *corev1.Service {
	w := r.Workload
	port := w.ServicePort
	if port == 0 {
		port = w.Port
	}
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: w.Service},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": w.Labels["app"]},
			Ports:    []corev1.ServicePort{{Name: "http", Port: int32(port), TargetPort: intstr.FromInt(w.Port)}},
		},
	}
}

// sidecarResource makes Envoy listen where the harness wants it; without it
// istiod would have it listen at the pod's invented address.
func (r *Running) sidecarResource() *networkingv1.Sidecar {
	w := r.Workload
	return &networkingv1.Sidecar{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: r.Pod},
		Spec: istionetworking.Sidecar{
			WorkloadSelector: &istionetworking.WorkloadSelector{Labels: w.podIdentity()},
			Ingress: []*istionetworking.IstioIngressListener{{
				Bind:            r.Address,
				Port:            &istionetworking.SidecarPort{Number: uint32(w.Port), Protocol: "HTTP", Name: "http"},
				CaptureMode:     istionetworking.CaptureMode_NONE,
				DefaultEndpoint: fmt.Sprintf("127.0.0.1:%d", r.appPort),
			}},
			Egress: []*istionetworking.IstioEgressListener{{
				Bind:        r.Address,
				Port:        &istionetworking.SidecarPort{Number: OutboundPort, Protocol: "HTTP", Name: "http-out"},
				CaptureMode: istionetworking.CaptureMode_NONE,
				Hosts:       []string{RootNamespace + "/" + OutboundHost},
			}},
		},
	}
}

// createOwners creates the workload object, for a Deployment its ReplicaSet
// too, and returns the owner of the pod.
func (r *Running) createOwners(ctx context.Context) (client.Object, error) {
	object := r.Workload.object()
	if err := r.mesh.createOrGet(ctx, object); err != nil {
		return nil, err
	}
	deployment, ok := object.(*appsv1.Deployment)
	if !ok {
		return object, nil
	}
	replicaSet := r.Workload.replicaSet(deployment)
	return replicaSet, r.mesh.createOrGet(ctx, replicaSet)
}

func (m *Mesh) createOrGet(ctx context.Context, object client.Object) error {
	key := client.ObjectKeyFromObject(object)
	err := m.client.Create(ctx, object)
	if apierrors.IsAlreadyExists(err) {
		err = m.client.Get(ctx, key, object)
	}
	if err != nil {
		return fmt.Errorf("creating %T %s: %w", object, key, err)
	}
	return nil
}

// countPod sets the workload object's status as its controller would: as many
// pods as there were started, all of them ready.
func (r *Running) countPod(ctx context.Context) error {
	object, n := r.Workload.object(), int32(r.Workload.Replica+1)
	if err := r.mesh.client.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
		return fmt.Errorf("reading the workload: %w", err)
	}
	patch := client.MergeFrom(object.DeepCopyObject().(client.Object))
	switch o := object.(type) {
	case *appsv1.Deployment:
		o.Status = appsv1.DeploymentStatus{
			ObservedGeneration: o.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n,
		}
	case *appsv1.DaemonSet:
		o.Status = appsv1.DaemonSetStatus{
			ObservedGeneration: o.Generation, DesiredNumberScheduled: n, CurrentNumberScheduled: n,
			UpdatedNumberScheduled: n, NumberReady: n, NumberAvailable: n,
		}
	case *appsv1.StatefulSet:
		o.Status = appsv1.StatefulSetStatus{
			ObservedGeneration: o.Generation, Replicas: n, CurrentReplicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n,
		}
	}
	if err := r.mesh.client.Status().Patch(ctx, object, patch); err != nil {
		return fmt.Errorf("setting the workload ready: %w", err)
	}
	return nil
}

// object is the workload object as its author would write it: injection is
// seen in pods only.
func (w Workload) object() client.Object {
	meta := metav1.ObjectMeta{Namespace: w.Namespace, Name: w.Name, Labels: w.ObjectLabels}
	if meta.Labels == nil {
		meta.Labels = w.Labels
	}
	template, selector := w.template(), &metav1.LabelSelector{MatchLabels: w.Labels}
	switch w.Kind {
	case DaemonSet:
		return &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}}
	case StatefulSet:
		return &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{
			Selector: selector, Template: template, ServiceName: w.Service,
		}}
	default:
		return &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}}
	}
}

func (w Workload) template() corev1.PodTemplateSpec {
	container := w.appContainer()
	if w.Gateway {
		container = proxyContainer()
	}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: w.Labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{container}},
	}
}

func (w Workload) appContainer() corev1.Container {
	return corev1.Container{
		Name: "app", Image: "example.invalid/echo:v1",
		Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: int32(w.Port)}},
	}
}

func (w Workload) replicaSet(owner *appsv1.Deployment) *appsv1.ReplicaSet {
	template := w.template()
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.Namespace, Name: w.Name + "-" + w.hash(), Labels: w.Labels,
			OwnerReferences: []metav1.OwnerReference{
				*metav1.NewControllerRef(owner, appsv1.SchemeGroupVersion.WithKind(string(Deployment))),
			},
		},
		Spec: appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: w.Labels}, Template: template},
	}
}

// createPod waits for the namespace's default service account, without which
// no pod is admitted.
func (r *Running) createPod(ctx context.Context, owner client.Object) error {
	pod := r.pod(owner)
	err := wait.PollUntilContextTimeout(ctx, retryInterval, readyTimeout, true, func(ctx context.Context) (bool, error) {
		err := r.mesh.client.Create(ctx, pod)
		if apierrors.IsForbidden(err) {
			return false, nil // no service account yet
		}
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("creating the pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	pod.Status = r.podStatus(metav1.Now())
	if err := r.mesh.client.Status().Update(ctx, pod); err != nil {
		return fmt.Errorf("setting the pod %s/%s ready: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

const retryInterval = 50 * time.Millisecond

func (r *Running) pod(owner client.Object) *corev1.Pod {
	w := r.Workload
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.Namespace, Name: r.Pod, Labels: w.podLabels(),
			Annotations: map[string]string{"sidecar.istio.io/status": `{"containers":["istio-proxy"],"revision":"default"}`},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{w.appContainer()}},
	}
	if r.agentPort != 0 {
		pod.Annotations[agentPortAnnotation] = strconv.Itoa(r.agentPort)
	}
	if owner != nil {
		kind := string(w.Kind)
		if w.Kind == Deployment {
			kind = "ReplicaSet"
		}
		pod.OwnerReferences = []metav1.OwnerReference{
			*metav1.NewControllerRef(owner, appsv1.SchemeGroupVersion.WithKind(kind)),
		}
	}
	proxy := proxyContainer()
	proxy.Env = []corev1.EnvVar{{Name: "ISTIO_META_OWNER", Value: w.owner()}}
	switch {
	case w.Gateway:
		pod.Spec.Containers = []corev1.Container{proxy}
	case w.NativeSidecar:
		always := corev1.ContainerRestartPolicyAlways
		proxy.RestartPolicy = &always
		pod.Spec.InitContainers = []corev1.Container{proxy}
	default:
		pod.Spec.Containers = append(pod.Spec.Containers, proxy)
	}
	return pod
}

// proxyContainer has the name and port by which a sidecar's metrics are found.
func proxyContainer() corev1.Container {
	return corev1.Container{
		Name: "istio-proxy", Image: "example.invalid/proxy:v1",
		Ports: []corev1.ContainerPort{{Name: "http-envoy-prom", ContainerPort: metricsPort}},
	}
}

// podStatus is what a kubelet would report of the pod.
func (r *Running) podStatus(now metav1.Time) corev1.PodStatus {
	running := func(name string) corev1.ContainerStatus {
		started := true
		return corev1.ContainerStatus{
			Name: name, Ready: true, Started: &started, Image: "example.invalid/" + name,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		}
	}
	status := corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &now,
		PodIP: r.Address, PodIPs: []corev1.PodIP{{IP: r.Address}},
		ContainerStatuses: []corev1.ContainerStatus{running("app")},
	}
	for _, condition := range []corev1.PodConditionType{
		corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled,
	} {
		status.Conditions = append(status.Conditions,
			corev1.PodCondition{Type: condition, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	proxy := []corev1.ContainerStatus{running("istio-proxy")}
	switch {
	case r.Workload.Gateway:
		status.ContainerStatuses = proxy
	case r.Workload.NativeSidecar:
		status.InitContainerStatuses = proxy
	default:
		status.ContainerStatuses = append(status.ContainerStatuses, proxy...)
	}
	return status
}
