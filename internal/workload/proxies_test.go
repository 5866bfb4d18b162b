package workload_test

import (
	"fmt"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/wasme-io/wasme-operator/internal/workload"
)

func TestWaypointOfAService(t *testing.T) {
	for _, row := range []struct {
		name   string
		labels map[string]string
		want   types.NamespacedName
		chosen bool
	}{
		{"without a label", map[string]string{"app": "a"}, types.NamespacedName{}, false},
		{"in its namespace", map[string]string{workload.UseWaypointLabel: "w"}, types.NamespacedName{Namespace: "n", Name: "w"}, true},
		{"in another", map[string]string{workload.UseWaypointLabel: "w", workload.UseWaypointNamespaceLabel: "m"}, types.NamespacedName{Namespace: "m", Name: "w"}, true},
		{"only a namespace", map[string]string{workload.UseWaypointNamespaceLabel: "m"}, types.NamespacedName{}, false},
		{"none, whatever its namespace chooses", map[string]string{workload.UseWaypointLabel: "none"}, types.NamespacedName{}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got, chosen := workload.WaypointOf("n", row.labels); got != row.want || chosen != row.chosen {
				t.Errorf("got %v, %t", got, chosen)
			}
		})
	}
}

func TestProxiesOfAGateway(t *testing.T) {
	g := NewWithT(t)
	name := types.NamespacedName{Namespace: "n", Name: "w"}
	g.Expect(workload.ProxiesOfGateway(name, nil)).To(Equal(workload.Proxies{Gateway: name, Deployment: "w"}))
	g.Expect(workload.ProxiesOfGateway(name, map[string]string{workload.DeploymentNameAnnotation: "d"}).Deployment).To(Equal("d"))

	owner, known := workload.ProxiesOfGateway(name, nil).Key()
	g.Expect(known).To(BeTrue())
	g.Expect(owner).To(Equal(workload.Target{Kind: "Gateway", Namespace: "n", Name: "w"}))
	_, known = workload.Proxies{}.Key()
	g.Expect(known).To(BeFalse())
}

func TestOldestIstioIsThatOfTheImages(t *testing.T) {
	for _, row := range []struct {
		images []string
		want   string
	}{
		{nil, ""},
		{[]string{"docker.io/istio/proxyv2:1.31.0"}, "1.31.0"},
		{[]string{"proxyv2:1.30.2-distroless"}, "1.30.2"},
		{[]string{"localhost:5000/istio/proxyv2:1.31"}, "1.31"},
		{[]string{"istio/proxyv2:1.31.1@sha256:00"}, "1.31.1"},
		{[]string{"istio/proxyv2:1.31.1", "istio/proxyv2:1.9.9", "istio/proxyv2:1.30.0"}, "1.9.9"},
		{[]string{"istio/proxyv2:latest", "istio/proxyv2:1.31.1"}, "1.31.1"},
		{[]string{"localhost:5000/istio/proxyv2", "istio/proxyv2@sha256:00", "istio/proxyv2:20260907.1", "auto", ""}, ""},
	} {
		t.Run(fmt.Sprint(row.images), func(t *testing.T) {
			pods := []*corev1.Pod{{}} // one without a proxy
			for _, image := range row.images {
				pods = append(pods, &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: workload.SidecarContainer, Image: image}}}})
			}
			got := ""
			if oldest := workload.OldestIstio(pods); oldest != nil {
				got = oldest.String()
			}
			if got != row.want {
				t.Errorf("got %q, not %q", got, row.want)
			}
		})
	}
}

func TestCacheKeepsWhatLeadsToProxies(t *testing.T) {
	g := NewWithT(t)
	gateway := workload.NewGateway()
	gateway.ObjectMeta = metav1.ObjectMeta{
		Namespace: "n", Name: "w", UID: "u", ResourceVersion: "7", Generation: 3,
		Labels:        map[string]string{workload.UseWaypointLabel: "w", "app": "a"},
		Annotations:   map[string]string{workload.DeploymentNameAnnotation: "d", "note": "long"},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
	}
	trimmed, err := workload.TrimReference(gateway)
	g.Expect(err).NotTo(HaveOccurred())
	want := workload.NewGateway()
	want.ObjectMeta = metav1.ObjectMeta{
		Namespace: "n", Name: "w", UID: "u", ResourceVersion: "7",
		Labels:      map[string]string{workload.UseWaypointLabel: "w"},
		Annotations: map[string]string{workload.DeploymentNameAnnotation: "d"},
	}
	g.Expect(trimmed).To(Equal(want))
	g.Expect(workload.TrimReference("tombstone")).To(Equal("tombstone"))
}
