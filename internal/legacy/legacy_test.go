package legacy

import (
	"context"
	"errors"
	"testing"

	. "github.com/onsi/gomega"
	networkingapi "istio.io/api/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/yaml"

	"github.com/wasme-io/wasme-operator/internal/workload"
)

// deploymentIn returns the Deployment of wasme's manifests, as far as it matters.
func deploymentIn(namespace string) *appsv1.Deployment {
	pods := map[string]string{"app": "wasme-operator"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "wasme-operator", Labels: map[string]string{"app": "wasme-operator"}},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: pods},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pods}},
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
		{"runs elsewhere, installed by Helm", true, func(d *appsv1.Deployment) { d.Namespace = "elsewhere" }},
		{"does not without replicas", false, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(0)) }},
		{"is not of another name", false, func(d *appsv1.Deployment) { d.Name = "other" }},
		{"is not this operator", false, func(d *appsv1.Deployment) {
			d.Spec.Template.Labels = map[string]string{"app.kubernetes.io/name": "wasme-operator"}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			object := deploymentIn("wasme")
			row.change(object)
			trimmed, err := workload.Trim(object)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(isRunning(trimmed.(client.Object))).To(Equal(row.runs))

			stopped := object.DeepCopy()
			stopped.Spec.Replicas = new(int32(0))
			filter := StartsOrStops()
			g.Expect(filter.Create(event.CreateEvent{Object: object})).To(Equal(row.runs))
			g.Expect(filter.Delete(event.DeleteEvent{Object: object})).To(Equal(row.runs))
			g.Expect(filter.Update(event.UpdateEvent{ObjectOld: object, ObjectNew: stopped})).To(Equal(row.runs))
			g.Expect(filter.Update(event.UpdateEvent{ObjectOld: stopped, ObjectNew: object})).To(Equal(row.runs))
			g.Expect(filter.Update(event.UpdateEvent{ObjectOld: object, ObjectNew: object})).To(BeFalse())
			g.Expect(filter.Generic(event.GenericEvent{Object: object})).To(BeFalse())
		})
	}
	t.Run("is no StatefulSet", func(t *testing.T) {
		d := deploymentIn("wasme")
		if isRunning(&appsv1.StatefulSet{ObjectMeta: d.ObjectMeta, Spec: appsv1.StatefulSetSpec{Template: d.Spec.Template}}) {
			t.Error("it is taken for it")
		}
	})
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

// indexes notes what is indexed.
type indexes struct {
	field   string
	extract client.IndexerFunc
	err     error
}

func (i *indexes) IndexField(_ context.Context, _ client.Object, field string, extract client.IndexerFunc) error {
	i.field, i.extract = field, extract
	return i.err
}

func TestFind(t *testing.T) {
	stopped := deploymentIn("a")
	stopped.Spec.Replicas = new(int32(0))
	var index indexes
	if err := Index(t.Context(), &index); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name    string
		objects []client.Object
		want    *Operator
	}{
		{"finds none", nil, nil},
		{"finds none that is stopped", []client.Object{stopped}, nil},
		{"finds one that runs", []client.Object{stopped, deploymentIn("b")}, &Operator{Namespace: "b", Name: "wasme-operator"}},
		{"finds the first of two", []client.Object{deploymentIn("c"), deploymentIn("b"), deploymentIn("d")}, &Operator{Namespace: "b", Name: "wasme-operator"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			reader := fake.NewClientBuilder().WithObjects(row.objects...).WithIndex(&appsv1.Deployment{}, index.field, index.extract).Build()
			NewWithT(t).Expect(Find(t.Context(), reader)).To(Equal(row.want))
		})
	}
	t.Run("takes an error for none", func(t *testing.T) {
		reader := interceptor.NewClient(fake.NewClientBuilder().Build(), interceptor.Funcs{
			List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error {
				return errors.New("injected")
			},
		})
		NewWithT(t).Expect(Find(t.Context(), reader)).To(BeNil())
	})
}

func TestIndexReportsAnError(t *testing.T) {
	NewWithT(t).Expect(Index(t.Context(), &indexes{err: errors.New("injected")})).To(MatchError("indexing Deployments: injected"))
}

func TestStopCommand(t *testing.T) {
	g := NewWithT(t)
	g.Expect((&Operator{Namespace: "elsewhere", Name: "its-name"}).StopCommand()).To(Equal("kubectl -n elsewhere scale deployment its-name --replicas=0"))
	g.Expect((*Operator)(nil).StopCommand()).To(Equal("kubectl -n wasme scale deployment wasme-operator --replicas=0"))
}
