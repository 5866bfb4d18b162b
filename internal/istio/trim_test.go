package istio

import (
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTheCacheKeepsMetadataAndAHashOfTheSpec(t *testing.T) {
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
			Name: "a-f", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{specHashAnnotation: hash},
		}))
		g.Expect(object.Spec.Raw).To(BeEmpty())
	}
	g.Expect(Trim("tombstone")).To(Equal("tombstone"))

	copied, got := Untrim(object)
	g.Expect(got).To(Equal(hash))
	g.Expect(copied.GetAnnotations()).To(BeEmpty())
	g.Expect(object.Annotations).To(HaveKey(specHashAnnotation), "the cached object is not changed")
}

func TestAnInvalidSpecEqualsNone(t *testing.T) {
	NewWithT(t).Expect(SpecHash([]byte("{"))).To(BeEmpty())
}
