package controllers

import (
	"fmt"
	"slices"
	"strings"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
)

// istioRevisionLabel is Istio's. An istiod that has a revision, as all have that
// are installed by Istio's charts, ignores objects that carry this label with
// another one (LabelsInRevision in its pkg/config); a revision tag matches none.
// All read what carries no such label, so outputs are made without it: a
// workload may move from one revision to the next and keeps its filters.
//
// The label is not the operator's, so it is kept where someone puts it: a
// platform may put it on whatever goes to its namespaces, and would win.
const istioRevisionLabel = "istio.io/rev"

// revisionLabelled are the outputs that only the istiods of one revision read,
// by name.
func (o outputs) revisionLabelled() []outputKey {
	var keys []outputKey
	for key, object := range o {
		if _, labelled := object.GetLabels()[istioRevisionLabel]; labelled {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b outputKey) int { return strings.Compare(a.String(), b.String()) })
	return keys
}

// revisionLabelVerdict says what the label does to the first of the outputs,
// how many more there are, and how to remove it.
func (o outputs) revisionLabelVerdict(labelled []outputKey) verdict {
	first := labelled[0]
	object, kind := o[first], istio.Kinds[first.kind]
	more := ""
	if len(labelled) > 1 {
		more = fmt.Sprintf(" (and %d more outputs)", len(labelled)-1)
	}
	return succeeded(wasmev1.ReasonRevisionLabel, "%s%s has the label %s=%s, which is not the operator's: no istiod of another revision reads it; remove it: kubectl label %s.%s %s -n %s %s-",
		first, more, istioRevisionLabel, object.GetLabels()[istioRevisionLabel], kind.Resource, kind.Group, first.name, object.GetNamespace(), istioRevisionLabel)
}
