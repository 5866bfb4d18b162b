package istio_test

import (
	"encoding/json"
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
)

func TestSchemeKnowsTheKinds(t *testing.T) {
	for name, want := range map[wasmev1.Output]struct{ kind, resource string }{
		wasmev1.OutputEnvoyFilter:      {"networking.istio.io/v1alpha3, Kind=EnvoyFilter", "envoyfilters"},
		wasmev1.OutputWasmPlugin:       {"extensions.istio.io/v1alpha1, Kind=WasmPlugin", "wasmplugins"},
		wasmev1.OutputTrafficExtension: {"extensions.istio.io/v1alpha1, Kind=TrafficExtension", "trafficextensions"},
	} {
		t.Run(string(name), func(t *testing.T) {
			g := NewWithT(t)
			scheme := runtime.NewScheme()
			g.Expect(istio.AddToScheme(scheme)).To(Succeed())
			kind := istio.Kinds[name]
			g.Expect(kind.String()).To(Equal(want.kind))
			g.Expect(kind.Resource).To(Equal(want.resource))
			objects, _, err := scheme.ObjectKinds(kind.New())
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(objects).To(ConsistOf(kind.GroupVersionKind))
			lists, _, err := scheme.ObjectKinds(kind.NewList())
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(lists).To(ConsistOf(kind.GroupVersion().WithKind(kind.Kind + "List")))
		})
	}
}

func TestJSONOfAnObjectKeepsItsSpec(t *testing.T) {
	g := NewWithT(t)
	const text = `{"kind":"EnvoyFilter","apiVersion":"networking.istio.io/v1alpha3","metadata":{"name":"a-f","namespace":"n"},"spec":{"priority":7,"unknown":{"field":[1]}}}`
	var object istio.EnvoyFilter
	g.Expect(json.Unmarshal([]byte(text), &object)).To(Succeed())
	g.Expect(object.Name).To(Equal("a-f"))
	g.Expect(string(object.Content().Raw)).To(Equal(`{"priority":7,"unknown":{"field":[1]}}`))
	g.Expect(json.Marshal(&object)).To(Equal([]byte(text)))
}

func TestCopiesShareNothing(t *testing.T) {
	g := NewWithT(t)
	list := &istio.EnvoyFilterList{ListMeta: metav1.ListMeta{ResourceVersion: "7"}, Items: []*istio.EnvoyFilter{
		{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"a": "b"}}, Spec: runtime.RawExtension{Raw: []byte(`{}`)}},
	}}
	list.Kind, list.Items[0].Kind = "EnvoyFilterList", "EnvoyFilter"
	copied := list.DeepCopyObject().(*istio.EnvoyFilterList)
	g.Expect(copied).To(Equal(list))
	copied.Items[0].Labels["a"] = "changed"
	copied.Items[0].Spec.Raw[0] = '['
	g.Expect(list.Items[0].Labels).To(HaveKeyWithValue("a", "b"))
	g.Expect(string(list.Items[0].Spec.Raw)).To(Equal(`{}`))
}
