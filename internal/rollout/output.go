package rollout

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	networking "istio.io/api/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// StagedAnnotation holds `<revision> <renewals> <RFC 3339 time>` of what is in an
// EnvoyFilter's staging slot; it is empty while that is idle.
const StagedAnnotation = "wasme.io/staged"

// WorkloadAnnotation holds `<kind>/<name>` of the workload that an output is for.
const WorkloadAnnotation = "wasme.io/workload"

// OutputKey is the kind and name of an output.
type OutputKey struct {
	Kind wasmev1.Output
	Name string
}

// String implements fmt.Stringer.
func (k OutputKey) String() string { return string(k.Kind) + " " + k.Name }

// Output is what an output that exists says of itself.
type Output struct {
	// Revision is the hash of the revision that it holds; empty while one is only staged.
	Revision string
	// Fetch is the last fetch that it asked for.
	Fetch Fetch
	// Staged is what is in its staging slot.
	Staged Fetch
	// Canary is what single pods run.
	Canary Canary
	// Rendering is how it is rendered.
	Rendering Rendering
	// Workload is `<kind>/<name>` of the workload that it is for.
	Workload string
	// Generation counts the changes of its spec.
	Generation int64
}

// OutputOf reads an output's metadata.
func OutputOf(object metav1.Object) Output {
	annotations := object.GetAnnotations()
	return Output{
		Revision:   annotations[revision.HashAnnotation],
		Fetch:      fetchOf(annotations[FetchAnnotation]),
		Staged:     fetchOf(annotations[StagedAnnotation]),
		Canary:     canaryOf(annotations[CanaryAnnotation]),
		Rendering:  renderingOf(annotations[RenderingAnnotation]),
		Workload:   annotations[WorkloadAnnotation],
		Generation: object.GetGeneration(),
	}
}

// asOf returns the output with what it does since some time since now at the latest. A replica
// whose clock was ahead noted a later one, and what waits from there would wait for as long as
// that clock was wrong. The next write corrects the annotations. Fetches are not among them:
// an output that waits for one is not written, and those from the future count as over.
func (o Output) asOf(now time.Time) Output {
	o.Staged.At = notAfter(now, o.Staged.At)
	o.Canary.Since = notAfter(now, o.Canary.Since)
	o.Rendering.Since = notAfter(now, o.Rendering.Since)
	return o
}

// notAfter returns the earlier of two times, in whole seconds as objects have them.
func notAfter(now, at time.Time) time.Time {
	if at.After(now) {
		return now.Truncate(time.Second)
	}
	return at
}

// Outputs are the outputs of a FilterDeployment that exist.
type Outputs map[OutputKey]Output

// Revisions returns the hashes of the revisions that the outputs hold.
func (o Outputs) Revisions() sets.Set[string] {
	held := sets.New[string]()
	for _, output := range o {
		held.Insert(output.Revision)
	}
	return held
}

// have reports whether an output holds or tries a revision.
func (o Outputs) have(hash string) bool {
	for _, output := range o {
		if output.Revision == hash || output.Staged.Revision == hash {
			return true
		}
	}
	return false
}

// keyFor returns the kind and name of the output that is to hold a revision for a target.
func (o Outputs) keyFor(owner types.NamespacedName, inForce *revision.Revision, target workload.Target) OutputKey {
	hashed := hashedKey(owner, inForce, target)
	plain := OutputKey{inForce.OutputKind(), render.Name(target, inForce.Rendered.ID)}
	if _, exists := o[hashed]; exists || !render.FitsName(plain.Name) {
		return hashed
	}
	return plain
}

// hashedKey is for a target whose plain name is taken, or too long.
func hashedKey(owner types.NamespacedName, inForce *revision.Revision, target workload.Target) OutputKey {
	return OutputKey{inForce.OutputKind(), render.HashedName(owner, target, inForce.Rendered.ID)}
}

func workloadNote(target workload.Target) string { return target.Kind + "/" + target.Name }

// Revisions returns what the workload's output is to hold, and what is staged.
func (w *Workload) Revisions() []*revision.Revision {
	return filtered([]*revision.Revision{w.inForce, w.staged}, func(r *revision.Revision) bool { return r != nil })
}

// shape returns the revision that gives the output its kind, name and place: the one that it
// is to hold or, while it holds none, the one that is tried in it.
func (w *Workload) shape() *revision.Revision { return cmp.Or(w.inForce, w.staged) }

// serving returns the hash of the revision that the output is to hold; empty for none.
func (w *Workload) serving() string {
	if w.inForce == nil {
		return ""
	}
	return w.inForce.Hash
}

// tries reports whether its proxies try a revision in the staging slot.
func (w *Workload) tries() bool { return w.staged != nil && w.Phase == Programmed }

// staging returns what StagedAnnotation is to hold.
func (w *Workload) staging() string {
	if w.staged == nil {
		return ""
	}
	return w.stagedFetch.Annotation()
}

// Spec returns the JSON of the spec that the workload's output is to have.
func (w *Workload) Spec(mesh render.Mesh) ([]byte, error) {
	var spec json.Marshaler
	var err error
	switch w.shape().OutputKind() {
	case wasmev1.OutputWasmPlugin:
		spec, err = render.WasmPlugin(mesh, w.inForce.Rendered, w.Target)
	case wasmev1.OutputTrafficExtension:
		spec, err = render.TrafficExtension(mesh, w.inForce.Rendered, w.Target)
	default:
		spec, err = w.envoyFilter(mesh)
	}
	if err != nil {
		return nil, err
	}
	return spec.MarshalJSON()
}

// envoyFilter renders the EnvoyFilter, with a staging slot where revisions are staged.
func (w *Workload) envoyFilter(mesh render.Mesh) (*networking.EnvoyFilter, error) {
	spec, err := w.slots(mesh)
	if err != nil || w.canary.Revision == "" {
		return spec, err
	}
	var live *render.Filter
	if w.inForce != nil {
		live = &w.inForce.Rendered
	}
	return spec, render.AddCanary(spec, mesh, w.owner, live, w.Target, w.staged.Rendered, w.canary.Pods)
}

func (w *Workload) slots(mesh render.Mesh) (*networking.EnvoyFilter, error) {
	if w.inForce == nil {
		return render.StagingEnvoyFilter(mesh, w.owner, w.staged.Rendered, w.Target, w.stagedFetch.renewal(w.staged.Hash))
	}
	spec, err := render.EnvoyFilter(mesh, w.owner, w.inForce.Rendered, w.Target, w.Fetch.renewal(w.inForce.Hash))
	if err != nil || !w.slot {
		return spec, err
	}
	if w.staged == nil {
		return spec, render.AddStagingSlot(spec, mesh, w.owner, w.inForce.Rendered, w.Target, nil, "")
	}
	return spec, render.AddStagingSlot(spec, mesh, w.owner, w.inForce.Rendered, w.Target, &w.staged.Rendered, w.stagedFetch.renewal(w.staged.Hash))
}

// Inputs identify all that the spec of a workload's output is rendered from, with the
// mesh and the FilterDeployment, which do not change.
type Inputs [sha256.Size]byte

// Inputs returns those of the workload's output.
func (w *Workload) Inputs() Inputs {
	t := w.Target
	return sha256.Sum256(fmt.Appendf(nil, "%t %s\n%s\n%s\n%s\n%s\n%s/%s/%s\n%s\n%v",
		w.slot, w.staging(), w.canary.Annotation(), w.shape().OutputKind(), w.serving(), w.Fetch.renewal(w.serving()), t.Kind, t.Namespace, t.Name, labels.Set(t.Selector), t.Proxies))
}

// Annotations returns the annotations that the workload's output is to have,
// beside its owner's.
func (w *Workload) Annotations() map[string]string {
	notes := map[string]string{
		WorkloadAnnotation: workloadNote(w.Target), revision.HashAnnotation: w.serving(), RenderingAnnotation: w.rendering.Annotation(),
	}
	if w.Fetch != (Fetch{}) {
		notes[FetchAnnotation] = w.Fetch.Annotation()
	}
	if w.slot || w.was.Staged != (Fetch{}) {
		notes[StagedAnnotation] = w.staging()
	}
	if w.canary.Revision != "" || w.was.Canary.Revision != "" {
		notes[CanaryAnnotation] = w.canary.Annotation()
	}
	if renewal := w.Fetch.renewal(w.serving()); renewal != "" && w.Output.Kind != wasmev1.OutputEnvoyFilter {
		notes[pushAnnotation] = renewal
	}
	return notes
}

// Fallback returns the output to write where the name of Output belongs to
// another FilterDeployment, and whether there is one.
func (w *Workload) Fallback() (OutputKey, bool) {
	hashed := hashedKey(w.owner, w.shape(), w.Target)
	return hashed, hashed != w.Output
}

// Needed returns the hashes of the revisions that outputs hold, and those of the rollout: the
// last good one must be there when it has to come back.
func (p *Plan) Needed(existing Outputs) sets.Set[string] {
	needed := existing.Revisions()
	if p.Rollout != nil {
		needed.Insert(p.Rollout.From, p.Rollout.To)
	}
	return needed
}

// Obsolete returns the outputs that no workload needs any more, those of another
// kind included. A workload whose new output is not written keeps its old one, and
// one that was deleted keeps it for its pods.
func (p *Plan) Obsolete(existing Outputs) []OutputKey {
	if p.InForce == nil {
		return p.dropped
	}
	if p.Workloads == nil || p.Rejecting {
		return nil
	}
	wanted, keepsOld := map[OutputKey]bool{}, map[string]bool{}
	for i := range p.Workloads {
		w := &p.Workloads[i]
		wanted[w.Output] = true
		if w.Phase != Programmed || w.serving() == "" {
			keepsOld[workloadNote(w.Target)] = true
		}
	}
	for _, deleted := range p.Deleted {
		keepsOld[deleted.Workload] = true
	}
	var obsolete []OutputKey
	for key, output := range existing {
		idle := p.held() && output.Revision == "" && output.Staged.Revision == p.InForce.Hash
		if idle || !wanted[key] && !keepsOld[output.Workload] {
			obsolete = append(obsolete, key)
		}
	}
	return sorted(obsolete)
}

// held reports whether the rollout failed, and stays as it is.
func (p *Plan) held() bool { return p.Rollout != nil && p.Rollout.Phase == wasmev1.RolloutHeld }

// sorted sorts outputs in place.
func sorted(keys []OutputKey) []OutputKey {
	slices.SortFunc(keys, func(a, b OutputKey) int { return compare(a.String(), b.String()) })
	return keys
}
