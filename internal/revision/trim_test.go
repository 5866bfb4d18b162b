package revision_test

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/revision"
)

func withConfig(size int) revision.Content {
	content := contentOf("1")
	content.Filter.Config = &wasmev1.Configuration{Raw: []byte(`"` + strings.Repeat("x", size-2) + `"`)}
	return content
}

func trimmed(t *testing.T, object *appsv1.ControllerRevision) *appsv1.ControllerRevision {
	t.Helper()
	for range 2 { // a transform may be given its own result
		item, err := revision.Trim(object)
		if err != nil {
			t.Fatal(err)
		}
		object = item.(*appsv1.ControllerRevision)
	}
	return object
}

func TestCacheLeavesLargeConfigurationsOut(t *testing.T) {
	g := NewWithT(t)
	small := kept(t, withConfig(revision.MaxCachedConfiguration))
	g.Expect(revision.Decode(trimmed(t, small.Object.DeepCopy()))).To(Equal(small))
	g.Expect(small.Whole()).To(BeTrue())

	large := kept(t, withConfig(revision.MaxCachedConfiguration+1))
	object := large.Object.DeepCopy()
	object.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m"}}
	object = trimmed(t, object)
	g.Expect(object.Annotations).To(HaveKeyWithValue(revision.CutAnnotation, "4097"))
	g.Expect(object.ManagedFields).To(BeNil())
	cut, err := revision.Decode(object)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(cut.Whole()).To(BeFalse())
	g.Expect(cut.Filter.Config).To(BeNil())
	g.Expect(cut.Hash).To(Equal(large.Hash), "the hash is that of the whole")
	g.Expect(cut.Digest).To(Equal(large.Digest))
	g.Expect(cut.Module).To(Equal(large.Module))
}

func TestDesiredIsWhole(t *testing.T) {
	g := NewWithT(t)
	large := kept(t, withConfig(revision.MaxCachedConfiguration+1))
	cut, err := revision.Decode(trimmed(t, large.Object.DeepCopy()))
	g.Expect(err).NotTo(HaveOccurred())
	other := kept(t, contentOf("2"), cut)
	object, err := revision.Desired(fd, revisionOf(t, withConfig(revision.MaxCachedConfiguration+1)), []revision.Revision{other, cut})
	g.Expect(err).NotTo(HaveOccurred())
	want := large.Object.DeepCopy()
	want.Revision = 3
	g.Expect(object).To(Equal(want))
}

func TestCacheKeepsWhatIsNoRevision(t *testing.T) {
	g := NewWithT(t)
	broken := &appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte(`{"filter":`)}}
	g.Expect(trimmed(t, broken.DeepCopy())).To(Equal(broken))
	g.Expect(revision.Trim("tombstone")).To(Equal("tombstone"))
}
