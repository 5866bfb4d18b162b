package main

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"

	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// templateHash is that of every ReplicaSet's pods.
const templateHash = "5d8c7b9f64"

// podsMesh has the pods of workloads run what the EnvoyFilters say, at once: in the
// place of istiod and as many sidecars.
type podsMesh struct {
	sidecars

	mu sync.Mutex
	// plugins by workload, `<namespace>/<name>`, and by the EnvoyFilter's name.
	plugins map[string]map[string][]string
	// workloads by the addresses of their pods.
	workloads map[netip.Addr]string
}

// startPodsMesh follows the EnvoyFilters of all namespaces until ctx ends. The
// caller calls Close.
func startPodsMesh(ctx context.Context, config *rest.Config) (*podsMesh, error) {
	m := &podsMesh{plugins: map[string]map[string][]string{}, workloads: map[netip.Addr]string{}}
	from, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	informer := dynamicinformer.NewDynamicSharedInformerFactory(from, 0).
		ForResource(networking.SchemeGroupVersion.WithResource("envoyfilters")).Informer()
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    m.take,
		UpdateFunc: func(_, object any) { m.take(object) },
	})
	if err != nil {
		return nil, fmt.Errorf("following EnvoyFilters: %w", err)
	}
	m.sidecars = sidecars{plugins: m.running}
	if err := m.start(); err != nil {
		return nil, err
	}
	go informer.RunWithContext(ctx)
	return m, nil
}

// pluginName is what a plugin is called in an EnvoyFilter: it names its workload.
var pluginName = regexp.MustCompile(`"wasm_filter\.(([^"/]+/[^"/]+)/[^"]+)"`)

func (m *podsMesh) take(object any) {
	content, err := object.(*unstructured.Unstructured).MarshalJSON()
	if err != nil {
		progress("reading an EnvoyFilter: %v", err)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var plugins []string
	for _, names := range pluginName.FindAllSubmatch(content, -1) { // live, and staged
		plugins = append(plugins, string(names[1]))
		workload, output := string(names[2]), object.(*unstructured.Unstructured).GetName()
		if m.plugins[workload] == nil {
			m.plugins[workload] = map[string][]string{}
		}
		m.plugins[workload][output] = plugins
	}
}

// running is what the pod at an address runs.
func (m *podsMesh) running(address netip.Addr) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Concat(slices.Collect(maps.Values(m.plugins[m.workloads[address]]))...)
}

// createPod creates the pod with this number, Ready, and its ReplicaSet.
func (m *podsMesh) createPod(ctx context.Context, c *cluster, number int, of *appsv1.Deployment) error {
	set, err := c.createReplicaSet(ctx, of)
	if err != nil {
		return err
	}
	return m.createPodOf(ctx, c, number, of, set)
}

// createPodOf creates the pod with this number, Ready.
func (m *podsMesh) createPodOf(ctx context.Context, c *cluster, number int, of *appsv1.Deployment, set *appsv1.ReplicaSet) error {
	place := m.place(number)
	m.mu.Lock()
	m.workloads[place.Address] = of.Namespace + "/" + of.Name
	m.mu.Unlock()
	pod := injectedPod(set, of.Spec.Template, int32(place.StatsPort))
	pod.Name = podName(set, number)
	if err := c.admin.Create(ctx, pod); err != nil {
		return err
	}
	pod.Status = readyStatus(place.Address.String())
	return c.admin.Status().Update(ctx, pod)
}

func podName(set *appsv1.ReplicaSet, number int) string {
	return fmt.Sprintf("%s-%05d", set.Name, number)
}

// injectedPod is about as large as a pod that Istio's injection has been over:
// what is decoded counts, even if little of it is kept.
func injectedPod(of *appsv1.ReplicaSet, template corev1.PodTemplateSpec, statsPort int32) *corev1.Pod {
	app := of.Spec.Template.Labels["app"]
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: of.Namespace,
			Labels: map[string]string{
				"app": app, "pod-template-hash": templateHash, "security.istio.io/tlsMode": "istio",
				"service.istio.io/canonical-name": app, "service.istio.io/canonical-revision": "latest",
			},
			Annotations: map[string]string{
				"istio.io/rev": "default", "kubectl.kubernetes.io/default-container": "app",
				"prometheus.io/path": metricsPath, "prometheus.io/port": "15020", "prometheus.io/scrape": "true",
				"sidecar.istio.io/status": `{"initContainers":["istio-init","istio-proxy"],"containers":["app"],"volumes":["workload-socket","credential-socket","workload-certs","istio-envoy","istio-data","istio-podinfo","istio-token","istiod-ca-cert"],"imagePullSecrets":null,"revision":"default"}`,
			},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(of, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))},
		},
		Spec: *template.Spec.DeepCopy(),
	}
	pod.Spec.InitContainers = []corev1.Container{
		{Name: "istio-init", Image: "docker.io/istio/proxyv2:1.31.0", Args: strings.Fields("istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i * -x -b * -d 15090,15021,15020 --log_output_level=default:info")},
		proxyContainer(app, statsPort),
	}
	for _, mount := range pod.Spec.InitContainers[1].VolumeMounts {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: mount.Name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	}
	return pod
}

func proxyContainer(app string, statsPort int32) corev1.Container {
	always, identity := corev1.ContainerRestartPolicyAlways, int64(1337)
	proxy := corev1.Container{
		Name: "istio-proxy", Image: "docker.io/istio/proxyv2:1.31.0", RestartPolicy: &always,
		Args:            strings.Fields("proxy sidecar --domain $(POD_NAMESPACE).svc.cluster.local --proxyLogLevel=warning --proxyComponentLogLevel=misc:error --log_output_level=default:info"),
		Ports:           []corev1.ContainerPort{{Name: "http-envoy-prom", ContainerPort: statsPort, Protocol: corev1.ProtocolTCP}},
		SecurityContext: &corev1.SecurityContext{RunAsUser: &identity, RunAsGroup: &identity, RunAsNonRoot: new(true), ReadOnlyRootFilesystem: new(true)},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi")},
		},
		Env: []corev1.EnvVar{
			{Name: "PROXY_CONFIG", Value: "{}"},
			{Name: "PILOT_CERT_PROVIDER", Value: "istiod"}, {Name: "CA_ADDR", Value: "istiod.istio-system.svc:15012"},
			{Name: "ISTIO_META_POD_PORTS", Value: `[{"name":"http","containerPort":8080,"protocol":"TCP"}]`},
			{Name: "ISTIO_META_APP_CONTAINERS", Value: "app"}, {Name: "ISTIO_META_CLUSTER_ID", Value: "Kubernetes"},
			{Name: "ISTIO_META_INTERCEPTION_MODE", Value: "REDIRECT"}, {Name: "ISTIO_META_WORKLOAD_NAME", Value: app},
			{Name: "ISTIO_META_OWNER", Value: "kubernetes://apis/apps/v1/namespaces/shop/deployments/" + app},
			{Name: "ISTIO_META_MESH_ID", Value: "cluster.local"}, {Name: "TRUST_DOMAIN", Value: "cluster.local"},
		},
	}
	for name, path := range map[string]string{"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace", "INSTANCE_IP": "status.podIP", "SERVICE_ACCOUNT": "spec.serviceAccountName", "HOST_IP": "status.hostIP", "ISTIO_META_NODE_NAME": "spec.nodeName"} {
		proxy.Env = append(proxy.Env, corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}})
	}
	for _, volume := range []string{"workload-socket", "credential-socket", "workload-certs", "istio-envoy", "istio-data", "istio-podinfo", "istio-token", "istiod-ca-cert"} {
		proxy.VolumeMounts = append(proxy.VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: "/var/run/secrets/" + volume})
	}
	return proxy
}

func readyStatus(address string) corev1.PodStatus {
	now := metav1.Now()
	running := func(name string) corev1.ContainerStatus {
		return corev1.ContainerStatus{
			Name: name, Ready: true, Started: new(true), Image: "example.com/shop/" + name + ":v1", ImageID: "example.com/shop/" + name + "@sha256:" + strings.Repeat("0", 64),
			ContainerID: "containerd://" + strings.Repeat("0", 64), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		}
	}
	status := corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &now, PodIP: address, PodIPs: []corev1.PodIP{{IP: address}},
		InitContainerStatuses: []corev1.ContainerStatus{running("istio-init"), running("istio-proxy")},
		ContainerStatuses:     []corev1.ContainerStatus{running("app")},
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
		status.Conditions = append(status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	return status
}

// awaitServiceAccount waits for the account without which no pod is admitted.
func (c *cluster) awaitServiceAccount(ctx context.Context, namespace string) error {
	return poll(ctx, "the service account of "+namespace, patience, func(ctx context.Context) (bool, error) {
		err := c.admin.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "default"}, &corev1.ServiceAccount{})
		return err == nil, client.IgnoreNotFound(err)
	})
}
