package workload_test

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/wasme-io/wasme-operator/internal/workload"
)

// injected returns a Ready pod of Deployment details-v1, as injection and the
// kubelet leave it.
func injected() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "n", Name: "details-v1-5d8-x", UID: "u", ResourceVersion: "7",
			Labels:          map[string]string{"app": "details", appsv1.DefaultDeploymentUniqueLabelKey: "5d8"},
			Annotations:     map[string]string{workload.AgentPortAnnotation: "15000", "note": "long"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "details-v1-5d8", UID: "r", Controller: new(true)}},
		},
		Spec: corev1.PodSpec{
			NodeName: "node",
			InitContainers: []corev1.Container{
				{Name: "istio-init"},
				{Name: workload.SidecarContainer, Image: "proxyv2", Ports: []corev1.ContainerPort{{Name: "http-envoy-prom", ContainerPort: 15099}, {Name: "other", ContainerPort: 1}}},
			},
			Containers: []corev1.Container{{Name: "app"}},
		},
		Status: corev1.PodStatus{
			PodIP: "10.0.0.7",
			Conditions: []corev1.PodCondition{
				{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
				{Type: corev1.PodReady, Status: corev1.ConditionTrue, Message: "long"},
			},
		},
	}
}

func trimPod(t *testing.T, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	item, err := workload.TrimPod(pod)
	if err != nil {
		t.Fatal(err)
	}
	return item.(*corev1.Pod)
}

func TestCacheKeepsOfAPodWhatItTakesToAskItsSidecar(t *testing.T) {
	g := NewWithT(t)
	since := metav1.Unix(1000, 0)
	full := injected()
	full.Status.Conditions[1].LastTransitionTime, full.CreationTimestamp = since, metav1.Unix(900, 0)
	limit := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("128Mi")}
	workload.Sidecar(full).Resources = corev1.ResourceRequirements{Limits: limit, Requests: limit}
	pod := trimPod(t, full)
	g.Expect(pod.Labels).To(BeNil())
	g.Expect(pod.OwnerReferences).To(Equal([]metav1.OwnerReference{{Kind: "Deployment", Name: "details-v1", Controller: new(true)}}))
	g.Expect(pod.Annotations).To(Equal(map[string]string{workload.AgentPortAnnotation: "15000"}))
	g.Expect(pod.Spec).To(Equal(corev1.PodSpec{Containers: []corev1.Container{{Name: workload.SidecarContainer, Ports: []corev1.ContainerPort{{Name: "http-envoy-prom", ContainerPort: 15099}}, Resources: corev1.ResourceRequirements{Limits: limit}}}}))
	g.Expect(pod.Status.Conditions).To(Equal([]corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: since}}))
	g.Expect([]string{pod.Namespace, pod.Name, string(pod.UID), pod.ResourceVersion}).To(Equal([]string{"n", "details-v1-5d8-x", "u", "7"}))
	g.Expect(pod.CreationTimestamp.Unix()).To(BeEquivalentTo(900))
	g.Expect(workload.Owners(pod)).To(Equal([]workload.Target{{Kind: "Deployment", Namespace: "n", Name: "details-v1"}}))
	g.Expect(workload.IsReady(pod)).To(BeTrue())
	at := workload.SidecarAddress(pod)
	g.Expect([]any{at.UID, at.Address.String(), at.StatsPort, at.AgentPort}).To(Equal([]any{pod.UID, "10.0.0.7", uint16(15099), uint16(15000)}))
	g.Expect(workload.TrimPod(pod)).To(Equal(pod), "a transform may be given its own result")
	g.Expect(workload.TrimPod("tombstone")).To(Equal("tombstone"))
}

func TestCacheKeepsThatAPod(t *testing.T) {
	t.Run("is of a gateway", func(t *testing.T) {
		g := NewWithT(t)
		pod := injected()
		pod.Labels[workload.GatewayLabel] = "edge"
		trimmed := trimPod(t, pod)
		g.Expect(trimmed.Labels).To(Equal(map[string]string{workload.GatewayLabel: "edge"}))
		g.Expect(workload.Owners(trimmed)).To(Equal(workload.Owners(pod)))
		g.Expect(workload.Sidecar(trimmed).Image).To(Equal(workload.Sidecar(pod).Image))
		g.Expect(workload.Sidecar(trimPod(t, injected())).Image).To(BeEmpty(), "of others it does not matter")
	})
	t.Run("is being deleted", func(t *testing.T) {
		pod := injected()
		pod.DeletionTimestamp = new(metav1.Unix(1000, 0))
		if workload.IsReady(trimPod(t, pod)) {
			t.Error("it is Ready")
		}
	})
	t.Run("is finished", func(t *testing.T) {
		for phase, finished := range map[corev1.PodPhase]bool{corev1.PodSucceeded: true, corev1.PodFailed: true, corev1.PodRunning: false, corev1.PodPending: false} {
			pod := injected()
			pod.Status.Phase = phase
			for _, pod := range []*corev1.Pod{pod, trimPod(t, pod)} {
				if workload.IsFinished(pod) != finished {
					t.Errorf("%s: got %t, want %t", phase, !finished, finished)
				}
			}
		}
	})
	t.Run("has no sidecar, owner or state", func(t *testing.T) {
		NewWithT(t).Expect(trimPod(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bare"}})).To(
			Equal(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bare"}}))
	})
}

func TestPodsInTheCacheShareTheSidecarWithTheUsualStatsPort(t *testing.T) {
	g := NewWithT(t)
	trimmed := func(ports ...corev1.ContainerPort) *corev1.Container {
		pod := injected()
		pod.Spec.InitContainers[1].Ports = ports
		return workload.Sidecar(trimPod(t, pod))
	}
	usual := trimmed(corev1.ContainerPort{Name: workload.StatsPortName, ContainerPort: 15090})
	g.Expect(trimmed(corev1.ContainerPort{Name: workload.StatsPortName, ContainerPort: 15090})).To(BeIdenticalTo(usual))
	g.Expect(trimmed()).To(BeIdenticalTo(usual), "where it is when it has no name")
	g.Expect(trimmed(corev1.ContainerPort{Name: "other", ContainerPort: 15091})).To(BeIdenticalTo(usual))
	g.Expect(trimmed(corev1.ContainerPort{Name: workload.StatsPortName, ContainerPort: 15091}).Ports).To(Equal([]corev1.ContainerPort{{Name: workload.StatsPortName, ContainerPort: 15091}}))
	g.Expect(usual.Ports).To(Equal([]corev1.ContainerPort{{Name: workload.StatsPortName, ContainerPort: 15090}}))
}

// orphaned takes the owner from a pod, whose proxy still has an OWNER.
func orphaned(owner string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.OwnerReferences = nil
		workload.Sidecar(pod).Env = []corev1.EnvVar{{Name: "POD_NAME", Value: pod.Name}, {Name: "ISTIO_META_OWNER", Value: owner}}
	}
}

func TestOwnerOfProxiesIsThatOfInjection(t *testing.T) {
	NewWithT(t).Expect(workload.Target{Kind: "DaemonSet", Namespace: "n", Name: "a"}.ProxyOwner()).To(
		Equal("kubernetes://apis/apps/v1/namespaces/n/daemonsets/a"))
}

func TestPodBelongs(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*corev1.Pod)
		want   []string
	}{
		{"to its Deployment", func(*corev1.Pod) {}, []string{"Deployment/details-v1"}},
		{"to its StatefulSet", func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "StatefulSet" }, []string{"StatefulSet/details-v1-5d8"}},
		{"to its DaemonSet", func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "DaemonSet" }, []string{"DaemonSet/details-v1-5d8"}},
		{"to a gateway, too", func(p *corev1.Pod) { p.Labels[workload.GatewayLabel] = "waypoint" }, []string{"Deployment/details-v1", "Gateway/waypoint"}},
		{"to a gateway alone", func(p *corev1.Pod) { p.OwnerReferences, p.Labels[workload.GatewayLabel] = nil, "waypoint" }, []string{"Gateway/waypoint"}},
		{"to nothing when its ReplicaSet has no Deployment", func(p *corev1.Pod) { delete(p.Labels, appsv1.DefaultDeploymentUniqueLabelKey) }, nil},
		{"to nothing without owner", func(p *corev1.Pod) { p.OwnerReferences = nil }, nil},
		{"to the workload that its proxy was started for when it is left without owner", orphaned("kubernetes://apis/apps/v1/namespaces/n/statefulsets/db"), []string{"StatefulSet/db"}},
		{"to no workload of another namespace", orphaned("kubernetes://apis/apps/v1/namespaces/m/statefulsets/db"), nil},
		{"to nothing that is known when its proxy was started for a Job", orphaned("kubernetes://apis/batch/v1/namespaces/n/jobs/db"), nil},
		{"to its owner, whatever its proxy was started for", func(p *corev1.Pod) {
			owners := p.OwnerReferences
			orphaned("kubernetes://apis/apps/v1/namespaces/n/statefulsets/db")(p)
			p.OwnerReferences = owners
		}, []string{"Deployment/details-v1"}},
		{"to nothing when its owner does not control it", func(p *corev1.Pod) { p.OwnerReferences[0].Controller = nil }, nil},
		{"to nothing that is known when it is a Job's", func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "Job" }, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			pod := injected()
			row.change(pod)
			for what, pod := range map[string]*corev1.Pod{"as it is": pod, "in the cache": trimPod(t, pod)} {
				var got []string
				for _, target := range workload.Owners(pod) {
					if target.Namespace != "n" {
						t.Errorf("namespace %q, want n", target.Namespace)
					}
					got = append(got, target.Kind+"/"+target.Name)
				}
				if got, want := strings.Join(got, " "), strings.Join(row.want, " "); got != want {
					t.Errorf("%s: got %q, want %q", what, got, want)
				}
			}
		})
	}
}

func TestPodThatIsBeingDeletedOrIsNotReadyIsNotAsked(t *testing.T) {
	g := NewWithT(t)
	pod := injected()
	g.Expect(workload.IsReady(pod)).To(BeTrue())
	pod.DeletionTimestamp = new(metav1.Now())
	g.Expect(workload.IsReady(pod)).To(BeFalse())
	pod = injected()
	pod.Status.Conditions[1].Status = corev1.ConditionFalse
	g.Expect(workload.IsReady(pod)).To(BeFalse())
	pod.Status.Conditions = nil
	g.Expect(workload.IsReady(pod)).To(BeFalse())
	g.Expect(workload.ReadyCondition(pod)).To(BeNil())
}

func TestChangeOfAPod(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*corev1.Pod)
		want   bool
	}{
		{"matters when it is no longer Ready", func(p *corev1.Pod) { p.Status.Conditions[1].Status = corev1.ConditionFalse }, true},
		{"matters when it is being deleted", func(p *corev1.Pod) { p.DeletionTimestamp = new(metav1.Now()) }, true},
		{"matters in its address", func(p *corev1.Pod) { p.Status.PodIP = "10.0.0.8" }, true},
		{"does not matter in its other conditions", func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }, false},
		{"does not matter in its labels", func(p *corev1.Pod) { p.Labels["a"] = "b" }, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			changed := injected()
			row.change(changed)
			if got := workload.PodChanged(injected(), changed); got != row.want {
				t.Errorf("got %t, want %t", got, row.want)
			}
			if got := workload.PodChanged(changed, injected()); got != row.want {
				t.Errorf("back again: got %t, want %t", got, row.want)
			}
		})
	}
}

func TestSidecarIs(t *testing.T) {
	proxy := corev1.Container{Name: workload.SidecarContainer}
	app := corev1.Container{Name: "app"}
	for _, row := range []struct {
		name string
		spec corev1.PodSpec
		want bool
	}{
		{"an init container", corev1.PodSpec{InitContainers: []corev1.Container{app, proxy}, Containers: []corev1.Container{app}}, true},
		{"an ordinary container", corev1.PodSpec{InitContainers: []corev1.Container{app}, Containers: []corev1.Container{app, proxy}}, true},
		{"none of another name", corev1.PodSpec{InitContainers: []corev1.Container{app}, Containers: []corev1.Container{app}}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			sidecar := workload.Sidecar(&corev1.Pod{Spec: row.spec})
			if !row.want {
				g.Expect(sidecar).To(BeNil())
				return
			}
			g.Expect(sidecar).To(HaveValue(Equal(proxy)))
		})
	}
}

func TestSidecarIsAskedAt(t *testing.T) {
	for _, row := range []struct {
		name         string
		change       func(*corev1.Pod)
		address      string
		stats, agent uint16
	}{
		{"the ports that the pod names", func(*corev1.Pod) {}, "10.0.0.7", 15099, 15000},
		{"an IPv6 address", func(p *corev1.Pod) { p.Status.PodIP = "fd00::7" }, "fd00::7", 15099, 15000},
		{"no address before there is one", func(p *corev1.Pod) { p.Status.PodIP = "" }, "invalid IP", 15099, 15000},
		{"no stats port where none has the name", func(p *corev1.Pod) { p.Spec.InitContainers[1].Ports[0].Name = "x" }, "10.0.0.7", 0, 15000},
		{"no agent port where it is not moved", func(p *corev1.Pod) { p.Annotations = nil }, "10.0.0.7", 15099, 0},
		{"no agent port that is none", func(p *corev1.Pod) { p.Annotations[workload.AgentPortAnnotation] = "x" }, "10.0.0.7", 15099, 0},
		{"the last port that there can be", func(p *corev1.Pod) { p.Annotations[workload.AgentPortAnnotation] = "65535" }, "10.0.0.7", 15099, 65535},
		{"no port beyond it", func(p *corev1.Pod) { p.Annotations[workload.AgentPortAnnotation] = "65536" }, "10.0.0.7", 15099, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			pod := injected()
			row.change(pod)
			at := workload.SidecarAddress(pod)
			NewWithT(t).Expect([]any{at.UID, at.Address.String(), at.StatsPort, at.AgentPort}).To(
				Equal([]any{pod.UID, row.address, row.stats, row.agent}))
		})
	}
}
