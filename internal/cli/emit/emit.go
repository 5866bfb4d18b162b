// Package emit says which Istio objects the operator makes of a FilterDeployment, once its
// rollout is complete. It is pure, and asks the packages that the operator asks: what is to
// be in each output is decided by internal/rollout and rendered by internal/render.
package emit

import (
	"fmt"
	"maps"
	"time"

	"k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// Input is what the objects follow from.
type Input struct {
	// FilterDeployment that asks for them, and the revision that it asks for.
	FilterDeployment *wasmev1.FilterDeployment
	Asked            *revision.Revision
	// Targets are what it selects.
	Targets []rollout.Target
	// Outputs are those that exist. Taken says that an object with the name of one exists
	// that belongs to another FilterDeployment; nil when there is none.
	Outputs rollout.Outputs
	Taken   func(rollout.OutputKey) bool
	// Mesh is how the operator renders.
	Mesh render.Mesh
	// Unverified says that the operator does not ask pods what they run. Then rollouts are not
	// staged, and outputs have no staging slot.
	Unverified bool
}

// Object is what one workload gets.
type Object struct {
	rollout.Workload
	// Key is the kind and name of the object.
	Key rollout.OutputKey
	// Object is the object itself; nil if the workload cannot run the filter, and Err says why.
	Object istio.Output
	Err    error
}

// Objects returns an object for each target, in their order. Annotations in which the
// operator notes when it wrote something are left out. An object has an owner reference if
// the FilterDeployment has a UID.
func Objects(in Input) []Object {
	plan := rollout.Decide(in.state())
	objects := make([]Object, len(plan.Workloads))
	for i := range plan.Workloads {
		objects[i] = in.object(&plan.Workloads[i])
	}
	return objects
}

// state is that of a rollout which is complete, so that all workloads hold the revision.
func (in *Input) state() rollout.State {
	fd := in.FilterDeployment
	targets := in.Targets
	if targets == nil {
		targets = []rollout.Target{}
	}
	unverified := ""
	if in.Unverified {
		unverified = "pods are not verified"
	}
	return rollout.State{
		Owner:       types.NamespacedName{Namespace: fd.Namespace, Name: fd.Name},
		Status:      wasmev1.FilterDeploymentStatus{Rollout: &wasmev1.RolloutStatus{Phase: wasmev1.RolloutComplete, To: in.Asked.Hash, Step: new(int32(1))}},
		Asked:       in.Asked,
		Distributed: true,
		History:     []revision.Revision{*in.Asked},
		Outputs:     in.Outputs,
		Targets:     targets,
		Strategy:    rollout.StrategyOf(fd),
		Rendering:   in.Mesh.Fingerprint(),
		Unverified:  unverified,
		Now:         time.Unix(0, 0),
	}
}

func (in *Input) object(w *rollout.Workload) Object {
	out := Object{Workload: *w, Key: w.Output}
	if fallback, exists := w.Fallback(); exists && in.Taken != nil && in.Taken(w.Output) {
		out.Key = fallback
	}
	spec, err := w.Spec(in.Mesh)
	if err != nil {
		out.Err = fmt.Errorf("%s %s: %w", w.Kind, w.Name, err)
		return out
	}
	kind := istio.Kinds[out.Key.Kind]
	object := kind.New()
	object.GetObjectKind().SetGroupVersionKind(kind.GroupVersionKind)
	object.SetNamespace(w.Namespace)
	object.SetName(out.Key.Name)
	object.Content().Raw = spec
	in.claim(object, w.Annotations())
	out.Object = object
	return out
}

// claim marks an object as the operator does.
func (in *Input) claim(object istio.Output, annotations map[string]string) {
	notes := maps.Clone(annotations)
	for _, dated := range []string{rollout.FetchAnnotation, rollout.RenderingAnnotation} {
		delete(notes, dated)
	}
	maps.DeleteFunc(notes, func(_, value string) bool { return value == "" })
	ownership.Claim(object, in.FilterDeployment, notes)
	if in.FilterDeployment.UID == "" {
		object.SetOwnerReferences(nil)
	}
}
