package istio

import (
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestCacheKeepsOfAnOutputItsMetadataAndAHashOfItsSpec(t *testing.T) {
	g := NewWithT(t)
	object := &EnvoyFilter{ObjectMeta: metav1.ObjectMeta{
		Name: "a-f", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{specHashAnnotation: "by hand"},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}},
	}}
	object.Spec.Raw = []byte(`{"priority": 7, "workloadSelector": {}}`)
	hash := SpecHash([]byte(`{"workloadSelector":{},"priority":7}`))
	g.Expect(hash).NotTo(Equal(SpecHash([]byte(`{"workloadSelector":{}}`))))
	for range 2 { // a transform may be given its own result
		item, err := Trim(object)
		g.Expect(err).NotTo(HaveOccurred())
		object = item.(*EnvoyFilter)
		g.Expect(object.ObjectMeta).To(Equal(metav1.ObjectMeta{
			Name: "a-f", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{specHashAnnotation: hash, specBytesAnnotation: "39"},
		}))
		g.Expect(object.Spec.Raw).To(BeEmpty())
		g.Expect(SpecBytes(object)).To(Equal(39))
	}
	g.Expect(Trim("tombstone")).To(Equal("tombstone"))
}

func TestHashOfASpecIs(t *testing.T) {
	for _, row := range []struct {
		name, spec string
		same       bool
	}{
		{"the same in another order", `{"b": {"d": 1, "c": [1, 2]}, "a": "x"}`, true},
		{"another for another value", `{"a":"y","b":{"c":[1,2],"d":1}}`, false},
		{"another for another list", `{"a":"x","b":{"c":[2,1],"d":1}}`, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := SpecHash([]byte(row.spec)) == SpecHash([]byte(`{"a":"x","b":{"c":[1,2],"d":1}}`)); got != row.same {
				t.Errorf("the same: got %t, want %t", got, row.same)
			}
		})
	}
	t.Run("none for what is no JSON", func(t *testing.T) {
		if got := SpecHash([]byte(`{`)); got != "" {
			t.Errorf("got %q, want none", got)
		}
	})
}

func TestUntrimGivesACopyWithoutTheHash(t *testing.T) {
	g := NewWithT(t)
	original := &WasmPlugin{ObjectMeta: metav1.ObjectMeta{Name: "a-f", Annotations: map[string]string{"note": "x"}}}
	original.Spec.Raw = []byte(`{"url":"http://x"}`)
	item, err := Trim(original.DeepCopy())
	g.Expect(err).NotTo(HaveOccurred())
	cached := item.(Output)
	object, hash := Untrim(cached)
	g.Expect(hash).To(Equal(SpecHash(original.Spec.Raw)))
	g.Expect(object).To(Equal(&WasmPlugin{ObjectMeta: original.ObjectMeta}))
	g.Expect(cached.GetAnnotations()).To(Equal(map[string]string{"note": "x", specHashAnnotation: hash, specBytesAnnotation: "18"}), "the cached one stays")
}
