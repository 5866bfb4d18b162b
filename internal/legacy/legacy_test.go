package legacy

import (
	"testing"

	. "github.com/onsi/gomega"
	networkingapi "istio.io/api/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/wasme-io/wasme-operator/internal/workload"
)

func TestTheOperatorOfWasmeIsToldFromOtherDeployments(t *testing.T) {
	for name, tc := range map[string]struct {
		runs   bool
		change func(*appsv1.Deployment)
	}{
		"runs by default":                   {true, func(*appsv1.Deployment) {}},
		"runs with a replica":               {true, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(1)) }},
		"runs elsewhere, installed by Helm": {true, func(d *appsv1.Deployment) { d.Namespace = "elsewhere" }},
		"does not without replicas":         {false, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(0)) }},
		"is not of another name":            {false, func(d *appsv1.Deployment) { d.Name = "other" }},
		"is not this operator": {false, func(d *appsv1.Deployment) {
			d.Spec.Template.Labels = map[string]string{"app.kubernetes.io/name": "wasme-operator"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			object := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "wasme", Name: "wasme-operator", Labels: map[string]string{"app": "wasme-operator"}}}
			object.Spec.Template = corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "wasme-operator"}}}
			tc.change(object)
			trimmed, err := workload.Trim(object.DeepCopy())
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(isRunning(trimmed.(client.Object))).To(Equal(tc.runs))

			stopped := object.DeepCopy()
			stopped.Spec.Replicas = new(int32(0))
			filter := StartsOrStops()
			g.Expect(filter.Create(event.CreateEvent{Object: object})).To(Equal(tc.runs))
			g.Expect(filter.Delete(event.DeleteEvent{Object: object})).To(Equal(tc.runs))
			g.Expect(filter.Update(event.UpdateEvent{ObjectOld: object, ObjectNew: stopped})).To(Equal(tc.runs))
			g.Expect(filter.Update(event.UpdateEvent{ObjectOld: stopped, ObjectNew: object})).To(Equal(tc.runs))
			g.Expect(filter.Update(event.UpdateEvent{ObjectOld: object, ObjectNew: object})).To(BeFalse())
			g.Expect(filter.Generic(event.GenericEvent{Object: object})).To(BeFalse())
		})
	}
	NewWithT(t).Expect(isRunning(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "wasme-operator"}})).To(BeFalse())
}

func TestAnEnvoyFilterOfWasmeLooksForNamesThatEnvoyNoLongerHas(t *testing.T) {
	for name, tc := range map[string]struct {
		want   bool
		change func(*networkingapi.EnvoyFilter)
	}{
		"as it made it": {true, func(*networkingapi.EnvoyFilter) {}},
		"with patches of others before its own": {true, func(f *networkingapi.EnvoyFilter) {
			f.ConfigPatches = append([]*networkingapi.EnvoyFilter_EnvoyConfigObjectPatch{{}}, f.ConfigPatches...)
		}},
		"not without patches":     {false, func(f *networkingapi.EnvoyFilter) { f.ConfigPatches = nil }},
		"not with an empty match": {false, func(f *networkingapi.EnvoyFilter) { f.ConfigPatches[0].Match = nil }},
		"not with current names": {false, func(f *networkingapi.EnvoyFilter) {
			filter := f.ConfigPatches[0].GetMatch().GetListener().GetFilterChain().GetFilter()
			filter.Name, filter.SubFilter.Name = "envoy.filters.network.http_connection_manager", "envoy.filters.http.router"
		}},
		"not with the manager alone": {false, func(f *networkingapi.EnvoyFilter) {
			f.ConfigPatches[0].GetMatch().GetListener().GetFilterChain().GetFilter().SubFilter.Name = "envoy.cors"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			var spec networkingapi.EnvoyFilter
			g.Expect(spec.UnmarshalJSON([]byte(`{"configPatches":[{"applyTo":"HTTP_FILTER","match":{"context":"SIDECAR_INBOUND","listener":
				{"filterChain":{"filter":{"name":"envoy.http_connection_manager","subFilter":{"name":"envoy.router"}}}}}}]}`))).To(Succeed())
			tc.change(&spec)
			content, err := spec.MarshalJSON()
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(MadeEnvoyFilter(content)).To(Equal(tc.want))
		})
	}
	NewWithT(t).Expect(MadeEnvoyFilter([]byte("{"))).To(BeFalse())
}

func TestTheCommandStopsWhatRunsOrWhatWasmeInstalls(t *testing.T) {
	g := NewWithT(t)
	g.Expect((&Operator{Namespace: "n", Name: "wasme-operator"}).StopCommand()).To(Equal("kubectl -n n scale deployment wasme-operator --replicas=0"))
	g.Expect((*Operator)(nil).StopCommand()).To(Equal("kubectl -n wasme scale deployment wasme-operator --replicas=0"))
}
