// Package ownership marks the objects that the operator makes for a
// FilterDeployment, and tells them from the objects of others.
//
// Every output and every ControllerRevision has an owner reference, two labels
// by which the cache selects it, and an annotation with the FilterDeployment's
// name. Claim writes these marks, Of reads them.
package ownership

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// The marks of what the operator makes. No name of a label or annotation of ours
// may contain "istio.io" by accident: istiod pushes to proxies when such
// metadata of an output changes.
const (
	// ManagedByLabel is on every object that the operator makes, with the value of ManagedBy.
	ManagedByLabel = "app.kubernetes.io/managed-by"
	// managedBy is the value of ManagedByLabel for an installation without a class.
	managedBy = "wasme-operator"

	// OwnerLabel holds a hash of the FilterDeployment's name, which may be longer
	// than a label value can be.
	OwnerLabel = "wasme.io/filterdeployment"
	// OwnerAnnotation holds the FilterDeployment's name.
	OwnerAnnotation = "wasme.io/filterdeployment"
)

// ManagedBy returns the value of ManagedByLabel on every object that an installation
// with a class makes; without a class, it is empty.
func ManagedBy(class string) string {
	if class == "" {
		return managedBy
	}
	return managedBy + "." + class
}

// Labels returns the labels by which the objects made for a FilterDeployment are found.
func Labels(fd *wasmev1.FilterDeployment) map[string]string {
	return map[string]string{ManagedByLabel: ManagedBy(fd.Labels[wasmev1.ClassLabel]), OwnerLabel: render.LabelHash(fd.Name)}
}

// Owner says whose an object is, as seen from a FilterDeployment.
type Owner int

const (
	// Foreign are objects made by something else.
	Foreign Owner = iota
	// Ours are objects owned by this FilterDeployment.
	Ours
	// Orphaned are objects made for a FilterDeployment of this name whose UID is
	// gone: after a restore, or a deletion that orphaned them.
	Orphaned
	// Others are objects owned by another FilterDeployment.
	Others
)

// Of returns whose an object is, as seen from fd.
func Of(object metav1.Object, fd *wasmev1.FilterDeployment) Owner {
	owner := metav1.GetControllerOf(object)
	named := object.GetLabels()[OwnerLabel] == render.LabelHash(fd.Name) && object.GetAnnotations()[OwnerAnnotation] == fd.Name
	switch {
	case owner != nil && owner.UID == fd.UID:
		return Ours
	case named && (owner == nil || isFilterDeployment(*owner) && owner.Name == fd.Name):
		return Orphaned
	case owner != nil && isFilterDeployment(*owner):
		return Others
	default:
		return Foreign
	}
}

// MayTake reports whether the operator may change an object on behalf of fd: it
// is fd's, or was made for a FilterDeployment of its name that is gone.
func MayTake(object metav1.Object, fd *wasmev1.FilterDeployment) bool {
	owner := Of(object, fd)
	return owner == Ours || owner == Orphaned
}

// FilterDeploymentOf returns the name of the FilterDeployment that an object was
// made for, and whether it was. An object that lost its owner reference still
// has the annotation.
func FilterDeploymentOf(object metav1.Object) (types.NamespacedName, bool) {
	name := object.GetAnnotations()[OwnerAnnotation]
	return types.NamespacedName{Namespace: object.GetNamespace(), Name: name}, name != ""
}

// Claim puts the operator's labels, annotations and owner reference on an object
// and leaves those of others. It reports whether that changed anything.
func Claim(object metav1.Object, fd *wasmev1.FilterDeployment, annotations map[string]string) bool {
	labels := merged(object.GetLabels(), Labels(fd))
	notes := merged(object.GetAnnotations(), annotations)
	notes[OwnerAnnotation] = fd.Name
	owners := withOwner(object.GetOwnerReferences(), fd)
	changed := !maps.Equal(labels, object.GetLabels()) ||
		!maps.Equal(notes, object.GetAnnotations()) ||
		!equality.Semantic.DeepEqual(owners, object.GetOwnerReferences())
	object.SetLabels(labels)
	object.SetAnnotations(notes)
	object.SetOwnerReferences(owners)
	return changed
}

func merged(base, over map[string]string) map[string]string {
	out := make(map[string]string, len(base)+len(over)+1)
	maps.Copy(out, base)
	maps.Copy(out, over)
	return out
}

func isFilterDeployment(reference metav1.OwnerReference) bool {
	return reference.Kind == wasmev1.FilterDeploymentKind && reference.APIVersion == wasmev1.GroupVersion.String()
}

// withOwner replaces the references to FilterDeployments by one to fd. Those of
// others stay, in their order.
func withOwner(references []metav1.OwnerReference, fd *wasmev1.FilterDeployment) []metav1.OwnerReference {
	reference := metav1.OwnerReference{
		APIVersion:         wasmev1.GroupVersion.String(),
		Kind:               wasmev1.FilterDeploymentKind,
		Name:               fd.Name,
		UID:                fd.UID,
		Controller:         new(true),
		BlockOwnerDeletion: new(true),
	}
	place := slices.IndexFunc(references, isFilterDeployment)
	if place < 0 {
		return append(slices.Clone(references), reference)
	}
	out := append(slices.Clone(references[:place]), reference)
	for _, other := range references[place:] {
		if !isFilterDeployment(other) {
			out = append(out, other)
		}
	}
	return out
}
