package legacy

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	networkingapi "istio.io/api/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/yaml"

	"github.com/wasme-io/wasme-operator/internal/workload"
)

// deploymentIn returns the Deployment of wasme's manifests, as far as it matters.
func deploymentIn(namespace string) *appsv1.Deployment {
	pods := map[string]string{"app": "wasme-operator"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "wasme-operator", UID: types.UID(namespace), Labels: map[string]string{"app": "wasme-operator"}},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: pods},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: pods},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "wasme-operator", Image: "quay.io/solo-io/wasme:0.0.33", Args: []string{"operator", "--log-level=debug"}}}},
			},
		},
	}
}

func TestOperatorIsToldFromOtherDeploymentsAnd(t *testing.T) {
	for _, row := range []struct {
		name   string
		runs   bool
		change func(*appsv1.Deployment)
	}{
		{"runs by default", true, func(*appsv1.Deployment) {}},
		{"runs with a replica", true, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(1)) }},
		{"runs elsewhere, under another name, from a mirror", true, func(d *appsv1.Deployment) {
			d.Namespace, d.Name, d.Spec.Template.Labels = "elsewhere", "filters", nil
			d.Spec.Template.Spec.Containers[0].Image = "mirror.example.com:5000/copies/wasme@sha256:" + strings.Repeat("0", 64)
		}},
		{"runs with the argument in its command", true, func(d *appsv1.Deployment) {
			c := &d.Spec.Template.Spec.Containers[0]
			c.Command, c.Args = append([]string{"/usr/local/bin/wasme"}, c.Args...), nil
		}},
		{"does not without replicas", false, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(0)) }},
		{"is not its cache", false, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Args = []string{"cache"} }},
		{"is not this operator, whatever its name", false, func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.Containers[0].Image = "ghcr.io/acme/wasme-operator:v1"
		}},
		{"is not an image that cannot be read", false, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "wasme:???" }},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			object := deploymentIn("wasme")
			row.change(object)
			g.Expect(IsRunning(object)).To(Equal(row.runs))
			for range 2 { // a transform may be given its own result
				trimmed, err := Transform(workload.Trim)(object)
				g.Expect(err).NotTo(HaveOccurred())
				object = trimmed.(*appsv1.Deployment)
				g.Expect(object.Spec.Template.Spec.Containers).To(BeEmpty())
				g.Expect(IsRunning(object)).To(Equal(row.runs))
			}
		})
	}
	t.Run("is no StatefulSet", func(t *testing.T) {
		d := deploymentIn("wasme")
		if IsRunning(&appsv1.StatefulSet{ObjectMeta: d.ObjectMeta, Spec: appsv1.StatefulSetSpec{Template: d.Spec.Template}}) {
			t.Error("it is taken for it")
		}
	})
}

func TestOperatorIsReportedOnceForEachTimeThatItStarts(t *testing.T) {
	g := NewWithT(t)
	recorder := events.NewFakeRecorder(100)
	operators := newOperators(recorder)
	h := operators.handler()
	reported := func(count, running int) {
		t.Helper()
		g.Expect(operators.running).To(HaveLen(running))
		for range count {
			g.Expect(recorder.Events).To(Receive(And(HavePrefix("Warning PredecessorRunning"), ContainSubstring("kubectl -n wasme scale deployment wasme-operator --replicas=0"))))
		}
		g.Expect(recorder.Events).NotTo(Receive())
	}
	running, stopped := deploymentIn("wasme"), deploymentIn("wasme")
	stopped.Spec.Replicas = new(int32(0))
	h.Create(t.Context(), event.CreateEvent{Object: stopped}, nil)
	reported(0, 0)
	h.Update(t.Context(), event.UpdateEvent{ObjectOld: stopped, ObjectNew: running}, nil)
	h.Update(t.Context(), event.UpdateEvent{ObjectOld: running, ObjectNew: running}, nil)
	reported(1, 1)
	h.Create(t.Context(), event.CreateEvent{Object: deploymentIn("other")}, nil)
	g.Expect(recorder.Events).To(Receive(ContainSubstring("kubectl -n other scale")))
	h.Delete(t.Context(), event.DeleteEvent{Object: deploymentIn("other")}, nil)
	h.Update(t.Context(), event.UpdateEvent{ObjectOld: running, ObjectNew: stopped}, nil)
	reported(0, 0)
	for range 50 {
		h.Update(t.Context(), event.UpdateEvent{ObjectOld: stopped, ObjectNew: running}, nil)
		h.Update(t.Context(), event.UpdateEvent{ObjectOld: running, ObjectNew: stopped}, nil)
	}
	reported(eventBurst-2, 0)
}

// madeByWasme is an EnvoyFilter of wasme 0.0.33.
const madeByWasme = `
configPatches:
- applyTo: HTTP_FILTER
  match:
    context: SIDECAR_INBOUND
    listener:
      filterChain:
        filter:
          name: envoy.http_connection_manager
          subFilter: {name: envoy.router}
  patch:
    operation: INSERT_BEFORE
    value:
      name: envoy.filters.http.wasm
      typedConfig:
        '@type': type.googleapis.com/udpa.type.v1.TypedStruct
        typeUrl: type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
        value:
          config:
            configuration: {'@type': type.googleapis.com/google.protobuf.StringValue, value: world}
            name: bookinfo-custom-filter.bookinfo
            rootId: add_header_root_id
            vmConfig:
              code: {local: {filename: /var/local/lib/wasme-cache/165600e2e4d099b5d32b29fbfcc3a03b9215d70df2523fa9abcf4901408fbac1}}
              runtime: envoy.wasm.runtime.v8
              vmId: bookinfo-custom-filter.bookinfo
workloadSelector: {labels: {app: details, version: v1}}
`

func TestEnvoyFilterIsWasmes(t *testing.T) {
	filterOf := func(f *networkingapi.EnvoyFilter) *networkingapi.EnvoyFilter_ListenerMatch_FilterMatch {
		return f.ConfigPatches[0].GetMatch().GetListener().GetFilterChain().GetFilter()
	}
	for _, row := range []struct {
		name   string
		want   bool
		change func(*networkingapi.EnvoyFilter)
	}{
		{"as it made it", true, func(*networkingapi.EnvoyFilter) {}},
		{"with patches of others before its own", true, func(f *networkingapi.EnvoyFilter) {
			f.ConfigPatches = append([]*networkingapi.EnvoyFilter_EnvoyConfigObjectPatch{{}}, f.ConfigPatches...)
		}},
		{"not without patches", false, func(f *networkingapi.EnvoyFilter) { f.ConfigPatches = nil }},
		{"not with an empty match", false, func(f *networkingapi.EnvoyFilter) { f.ConfigPatches[0].Match = nil }},
		{"not with the names of today", false, func(f *networkingapi.EnvoyFilter) {
			filter := filterOf(f)
			filter.Name, filter.SubFilter.Name = "envoy.filters.network.http_connection_manager", "envoy.filters.http.router"
		}},
		{"not with one of the names of today", false, func(f *networkingapi.EnvoyFilter) {
			filterOf(f).Name = "envoy.filters.network.http_connection_manager"
		}},
		{"not with the other", false, func(f *networkingapi.EnvoyFilter) {
			filterOf(f).SubFilter.Name = "envoy.filters.http.router"
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			spec := &networkingapi.EnvoyFilter{}
			g.Expect(yaml.Unmarshal([]byte(madeByWasme), spec)).To(Succeed())
			row.change(spec)
			content, err := spec.MarshalJSON()
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(MadeEnvoyFilter(content)).To(Equal(row.want))
		})
	}
	t.Run("not when it cannot be read", func(t *testing.T) {
		if MadeEnvoyFilter([]byte(`{"configPatches": 7}`)) {
			t.Error("it is taken for one")
		}
	})
}
