package controllers

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// Labels and annotations of what the operator makes. None may contain
// "istio.io": istiod pushes to proxies when such metadata of an output changes.
const (
	managedByLabel = "app.kubernetes.io/managed-by"
	managedBy      = "wasme-operator"

	// ownerLabel is a hash of the FilterDeployment's name, which may be longer
	// than a label value; ownerAnnotation is the name.
	ownerLabel      = "wasme.io/filterdeployment"
	ownerAnnotation = "wasme.io/filterdeployment"

	// workloadAnnotation is <kind>/<name> of the workload of an output.
	workloadAnnotation = "wasme.io/workload"
	// revisionAnnotation is the revision that an output or a ControllerRevision holds.
	revisionAnnotation = "wasme.io/revision"
)

// madeFor are the labels by which the objects made for a FilterDeployment are found.
func madeFor(fd *wasmev1.FilterDeployment) client.MatchingLabels {
	return client.MatchingLabels{managedByLabel: managedBy, ownerLabel: render.LabelHash(fd.Name)}
}

// ownership is whose an object is, as seen from a FilterDeployment.
type ownership int

const (
	// foreign: made by something else.
	foreign ownership = iota
	// ours: owned by this FilterDeployment.
	ours
	// orphan: made for a FilterDeployment of this name, whose UID is gone: a
	// restore, or a deletion that orphaned it.
	orphan
	// others: owned by another FilterDeployment.
	others
)

func ownershipOf(object metav1.Object, fd *wasmev1.FilterDeployment) ownership {
	owner := metav1.GetControllerOf(object)
	named := object.GetLabels()[ownerLabel] == render.LabelHash(fd.Name) && object.GetAnnotations()[ownerAnnotation] == fd.Name
	switch {
	case owner != nil && owner.UID == fd.UID:
		return ours
	case named && (owner == nil || isFilterDeployment(*owner) && owner.Name == fd.Name):
		return orphan
	case owner != nil && isFilterDeployment(*owner):
		return others
	default:
		return foreign
	}
}

// claim puts our labels, annotations and owner reference on an object, and
// leaves those of others. It reports whether that changed anything.
func claim(object metav1.Object, fd *wasmev1.FilterDeployment, annotations map[string]string) bool {
	labels := merged(object.GetLabels(), madeFor(fd))
	notes := merged(object.GetAnnotations(), annotations)
	notes[ownerAnnotation] = fd.Name
	owners := ownersWith(object.GetOwnerReferences(), fd)
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

// ownersWith replaces the references to FilterDeployments by one to fd. Those of
// others stay, in their order.
func ownersWith(references []metav1.OwnerReference, fd *wasmev1.FilterDeployment) []metav1.OwnerReference {
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
