package ownership_test

import (
	"maps"
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/render"
)

func owner() *wasmev1.FilterDeployment {
	return &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "f", UID: "live"}}
}

func ownReference() metav1.OwnerReference {
	return metav1.OwnerReference{
		APIVersion: "wasme.io/v1", Kind: "FilterDeployment", Name: "f", UID: "live",
		Controller: new(true), BlockOwnerDeletion: new(true),
	}
}

func TestOutputBelongs(t *testing.T) {
	for _, row := range []struct {
		name   string
		want   ownership.Owner
		change func(*metav1.ObjectMeta)
	}{
		{"to us as it is made", ownership.Ours, func(*metav1.ObjectMeta) {}},
		{"to us without labels and annotations", ownership.Ours, func(o *metav1.ObjectMeta) { o.Labels, o.Annotations = nil, nil }},
		{"to nobody when its owner is gone", ownership.Orphaned, func(o *metav1.ObjectMeta) { o.OwnerReferences[0].UID = "dead" }},
		{"to nobody without owner", ownership.Orphaned, func(o *metav1.ObjectMeta) { o.OwnerReferences = nil }},
		{"to another FilterDeployment", ownership.Others, func(o *metav1.ObjectMeta) { o.OwnerReferences[0].UID, o.OwnerReferences[0].Name = "other", "g" }},
		{"to an earlier FilterDeployment, without our labels", ownership.Others, func(o *metav1.ObjectMeta) { o.OwnerReferences[0].UID = "dead"; o.Labels = nil }},
		{"to someone else without owner and labels", ownership.Foreign, func(o *metav1.ObjectMeta) { o.OwnerReferences, o.Labels = nil, nil }},
		{"to someone else without owner and annotations", ownership.Foreign, func(o *metav1.ObjectMeta) { o.OwnerReferences, o.Annotations = nil, nil }},
		{"to someone else when that is the controller", ownership.Foreign, func(o *metav1.ObjectMeta) {
			o.OwnerReferences[0].Kind, o.OwnerReferences[0].UID = "Deployment", "other"
		}},
		{"to someone else's kind of that name", ownership.Foreign, func(o *metav1.ObjectMeta) {
			o.OwnerReferences[0].APIVersion, o.OwnerReferences[0].UID = "example.com/v1", "other"
		}},
		{"to someone else when ours is not the controller", ownership.Foreign, func(o *metav1.ObjectMeta) {
			o.OwnerReferences[0].Controller = nil
			o.Labels = nil
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			object := &metav1.ObjectMeta{}
			ownership.Claim(object, owner(), nil)
			row.change(object)
			if got := ownership.Of(object, owner()); got != row.want {
				t.Errorf("got %d, want %d", got, row.want)
			}
			mayTake := row.want == ownership.Ours || row.want == ownership.Orphaned
			if got := ownership.MayTake(object, owner()); got != mayTake {
				t.Errorf("may take it: got %t, want %t", got, mayTake)
			}
		})
	}
}

func TestClaim(t *testing.T) {
	marks := map[string]string{"app.kubernetes.io/managed-by": "wasme-operator", "wasme.io/filterdeployment": render.LabelHash("f")}
	other := metav1.OwnerReference{APIVersion: "v1", Kind: "Namespace", Name: "n", UID: "ns"}
	second := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "c", UID: "cm"}
	stale := metav1.OwnerReference{APIVersion: "wasme.io/v1", Kind: "FilterDeployment", Name: "f", UID: "dead"}
	for _, row := range []struct {
		name    string
		before  metav1.ObjectMeta
		notes   map[string]string
		changed bool
		// labels and annotations are those that it has beside the operator's.
		labels, annotations map[string]string
		owners              []metav1.OwnerReference
	}{
		{"marks a new object", metav1.ObjectMeta{}, map[string]string{"note": "x"}, true, nil, map[string]string{"note": "x"}, []metav1.OwnerReference{ownReference()}},
		{"marks it without notes", metav1.ObjectMeta{}, nil, true, nil, nil, []metav1.OwnerReference{ownReference()}},
		{"keeps what others put there", metav1.ObjectMeta{
			Labels: map[string]string{"team": "x"}, Annotations: map[string]string{"kept": "y"}, OwnerReferences: []metav1.OwnerReference{other},
		}, map[string]string{"note": "x"}, true, map[string]string{"team": "x"}, map[string]string{"kept": "y", "note": "x"}, []metav1.OwnerReference{other, ownReference()}},
		{"replaces what others put in its place", metav1.ObjectMeta{
			Labels: map[string]string{"app.kubernetes.io/managed-by": "helm"}, Annotations: map[string]string{"wasme.io/filterdeployment": "g", "note": "old"},
		}, map[string]string{"note": "x"}, true, nil, map[string]string{"note": "x"}, []metav1.OwnerReference{ownReference()}},
		{"replaces an owner that is gone, in its place", metav1.ObjectMeta{
			OwnerReferences: []metav1.OwnerReference{other, stale, second},
		}, nil, true, nil, nil, []metav1.OwnerReference{other, ownReference(), second}},
		{"leaves one owner of several", metav1.ObjectMeta{
			OwnerReferences: []metav1.OwnerReference{stale, second, ownReference()},
		}, nil, true, nil, nil, []metav1.OwnerReference{ownReference(), second}},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			object := row.before.DeepCopy()
			g.Expect(ownership.Claim(object, owner(), row.notes)).To(Equal(row.changed))
			labels, annotations := map[string]string{}, map[string]string{"wasme.io/filterdeployment": "f"}
			maps.Copy(labels, marks)
			maps.Copy(labels, row.labels)
			maps.Copy(annotations, row.annotations)
			g.Expect(object).To(Equal(&metav1.ObjectMeta{Labels: labels, Annotations: annotations, OwnerReferences: row.owners}))
			g.Expect(ownership.Claim(object, owner(), row.notes)).To(BeFalse(), "the second time")
		})
	}
}

func TestClaimReportsAChange(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*metav1.ObjectMeta)
	}{
		{"of a label", func(o *metav1.ObjectMeta) { o.Labels[ownership.ManagedByLabel] = "helm" }},
		{"of an annotation", func(o *metav1.ObjectMeta) { delete(o.Annotations, "note") }},
		{"of the owner's flags", func(o *metav1.ObjectMeta) { o.OwnerReferences[0].BlockOwnerDeletion = nil }},
		{"of the owner", func(o *metav1.ObjectMeta) { o.OwnerReferences = nil }},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			want := &metav1.ObjectMeta{}
			ownership.Claim(want, owner(), map[string]string{"note": "x"})
			object := want.DeepCopy()
			row.change(object)
			g.Expect(ownership.Claim(object, owner(), map[string]string{"note": "x"})).To(BeTrue())
			g.Expect(object).To(Equal(want))
		})
	}
}

func TestClaimSharesNothing(t *testing.T) {
	g := NewWithT(t)
	other := metav1.OwnerReference{APIVersion: "v1", Kind: "Namespace", Name: "n", UID: "ns"}
	references := make([]metav1.OwnerReference, 1, 2)
	references[0] = other
	cached := &metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}, OwnerReferences: references}
	object := *cached
	ownership.Claim(&object, owner(), nil)
	g.Expect(cached.Labels).To(Equal(map[string]string{"a": "b"}))
	g.Expect(cached.Annotations).To(Equal(map[string]string{"c": "d"}))
	g.Expect(references[:2]).To(Equal([]metav1.OwnerReference{other, {}}))
}

func TestFilterDeploymentOf(t *testing.T) {
	g := NewWithT(t)
	object := &metav1.ObjectMeta{Namespace: "n"}
	_, found := ownership.FilterDeploymentOf(object)
	g.Expect(found).To(BeFalse())
	ownership.Claim(object, owner(), nil)
	object.OwnerReferences = nil
	name, found := ownership.FilterDeploymentOf(object)
	g.Expect(found).To(BeTrue())
	g.Expect(name).To(Equal(types.NamespacedName{Namespace: "n", Name: "f"}))
}
