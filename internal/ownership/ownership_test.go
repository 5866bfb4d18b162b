package ownership

import (
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

func live() *wasmev1.FilterDeployment {
	return &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "f", UID: "live"}}
}

func TestWhoseAnObjectIs(t *testing.T) {
	for name, tc := range map[string]struct {
		want   Owner
		change func(*metav1.ObjectMeta)
	}{
		"ours as it is made":                        {Ours, func(*metav1.ObjectMeta) {}},
		"ours without labels and annotations":       {Ours, func(f *metav1.ObjectMeta) { f.Labels, f.Annotations = nil, nil }},
		"nobody's when its owner is gone":           {Orphaned, func(f *metav1.ObjectMeta) { f.OwnerReferences[0].UID = "dead" }},
		"nobody's without owner":                    {Orphaned, func(f *metav1.ObjectMeta) { f.OwnerReferences = nil }},
		"another FilterDeployment's":                {Others, func(f *metav1.ObjectMeta) { f.OwnerReferences[0].UID, f.OwnerReferences[0].Name = "other", "g" }},
		"an earlier one's, without our labels":      {Others, func(f *metav1.ObjectMeta) { f.OwnerReferences[0].UID = "dead"; f.Labels = nil }},
		"someone else's without owner and labels":   {Foreign, func(f *metav1.ObjectMeta) { f.OwnerReferences, f.Labels = nil, nil }},
		"someone else's without owner, annotations": {Foreign, func(f *metav1.ObjectMeta) { f.OwnerReferences, f.Annotations = nil, nil }},
		"someone else's when that is the controller": {Foreign, func(f *metav1.ObjectMeta) {
			f.OwnerReferences[0].Kind, f.OwnerReferences[0].UID = "Deployment", "other"
		}},
		"someone else's kind of that name": {Foreign, func(f *metav1.ObjectMeta) {
			f.OwnerReferences[0].APIVersion, f.OwnerReferences[0].UID = "example.com/v1", "other"
		}},
		"someone else's when ours is no controller": {Foreign, func(f *metav1.ObjectMeta) { f.OwnerReferences[0].Controller = nil; f.Labels = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			var object metav1.ObjectMeta
			Claim(&object, live(), nil)
			tc.change(&object)
			g.Expect(Of(&object, live())).To(Equal(tc.want))
			g.Expect(MayTake(&object, live())).To(Equal(tc.want == Ours || tc.want == Orphaned))
		})
	}
}

func TestClaimKeepsWhatOthersPutThere(t *testing.T) {
	g := NewWithT(t)
	stranger := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "c", UID: "c"}
	former := metav1.OwnerReference{APIVersion: wasmev1.GroupVersion.String(), Kind: wasmev1.FilterDeploymentKind, Name: "f", UID: "dead"}
	object := metav1.ObjectMeta{
		Namespace: "n", Labels: map[string]string{"theirs": "l", OwnerLabel: "wrong"}, Annotations: map[string]string{"theirs": "a"},
		OwnerReferences: []metav1.OwnerReference{stranger, former, stranger, former},
	}
	g.Expect(Claim(&object, live(), map[string]string{"note": "x"})).To(BeTrue())
	ours := metav1.OwnerReference{
		APIVersion: "wasme.io/v1", Kind: "FilterDeployment", Name: "f", UID: "live", Controller: new(true), BlockOwnerDeletion: new(true),
	}
	g.Expect(object.OwnerReferences).To(Equal([]metav1.OwnerReference{stranger, ours, stranger}))
	g.Expect(object.Labels).To(Equal(map[string]string{"theirs": "l", "app.kubernetes.io/managed-by": "wasme-operator", OwnerLabel: Labels(live())[OwnerLabel]}))
	g.Expect(object.Annotations).To(Equal(map[string]string{"theirs": "a", "note": "x", "wasme.io/filterdeployment": "f"}))

	g.Expect(Claim(&object, live(), map[string]string{"note": "x"})).To(BeFalse(), "nothing changes")
	g.Expect(Claim(&object, live(), map[string]string{"note": "y"})).To(BeTrue(), "an annotation changes")
	delete(object.Labels, ManagedByLabel)
	g.Expect(Claim(&object, live(), nil)).To(BeTrue(), "a label was lost")
	object.OwnerReferences = nil
	g.Expect(Claim(&object, live(), nil)).To(BeTrue(), "the owner was lost")
	g.Expect(object.OwnerReferences).To(Equal([]metav1.OwnerReference{ours}))
}

func TestAnObjectThatLostItsOwnerStillNamesIt(t *testing.T) {
	g := NewWithT(t)
	object := metav1.ObjectMeta{Namespace: "n"}
	_, made := FilterDeploymentOf(&object)
	g.Expect(made).To(BeFalse())
	Claim(&object, live(), nil)
	object.OwnerReferences = nil
	name, made := FilterDeploymentOf(&object)
	g.Expect(made).To(BeTrue())
	g.Expect(name).To(Equal(types.NamespacedName{Namespace: "n", Name: "f"}))
}
