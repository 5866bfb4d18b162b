// Package revision is about the revisions of a FilterDeployment: what a
// ControllerRevision holds, which of them is the newest, and which may go.
//
// A Revision is one content of a FilterDeployment, its filter and the module
// that its source resolved to, that outputs hold or are to hold. Its Hash is
// over all that proxies see; it appears in the plugin's name, so that pods prove
// which revision they run. Each Revision is kept as an owned ControllerRevision
// before any output holds it, so "last good" is content: an operator that
// restarts can repair it, extend it to a new workload and serve its module.
package revision

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/render"
)

const (
	// HashAnnotation holds the Hash of the revision that an output or a
	// ControllerRevision holds.
	HashAnnotation = "wasme.io/revision"

	// historyLimit is the number of revisions that are kept beside those that outputs hold.
	historyLimit = 3
)

// Content is what a ControllerRevision keeps: enough to write, extend and serve
// a revision while the spec asks for another one.
type Content struct {
	// Filter is spec.filter as it was, with its URL without the query, which may hold a key.
	Filter wasmev1.FilterSpec `json:"filter"`
	// Module is what its source resolved to.
	Module wasmev1.ModuleStatus `json:"module"`
	// Output and Distribution are those of spec.deployment.istio; empty for the defaults.
	Output       wasmev1.Output       `json:"output,omitempty"`
	Distribution wasmev1.Distribution `json:"distribution,omitempty"`
}

// OutputKind returns the kind of the outputs that hold the revision.
func (c Content) OutputKind() wasmev1.Output {
	return cmp.Or(c.Output, wasmev1.OutputEnvoyFilter)
}

// Revision is one content of a FilterDeployment that was, or is to be, emitted.
type Revision struct {
	Content
	// Rendered is what proxies see of the filter.
	Rendered render.Filter
	// Hash is over Rendered (render.Filter.Revision), and Digest is the whole of it.
	Hash, Digest string
	// Object is the ControllerRevision; nil until there is one.
	Object *appsv1.ControllerRevision
}

// New returns the revision of a FilterDeployment with that content. The error
// names the field of the spec that is wrong (render.NewFilter).
func New(owner types.NamespacedName, content Content) (Revision, error) {
	content.Filter.URL = module.URLWithoutQuery(content.Filter.URL)
	// How a module is tried, what it cost, who has signed it and whether its tag is looked up
	// again make no other revision.
	content.Filter.Preflight, content.Filter.PreflightTests, content.Module.Cost, content.Module.Signature = "", nil, nil, nil
	content.Filter.ImagePullPolicy = ""
	filter, err := render.NewFilter(owner, content.Filter, content.Distribution, content.Module)
	if err != nil {
		return Revision{}, err
	}
	return Revision{Content: content, Rendered: filter, Hash: filter.Revision(), Digest: filter.Digest()}, nil
}

// Decode reads a ControllerRevision. One that Trim has shortened has the hash and the digest
// that its annotations tell, and no configuration.
func Decode(object *appsv1.ControllerRevision) (Revision, error) {
	var content Content
	if err := json.Unmarshal(object.Data.Raw, &content); err != nil {
		return Revision{}, fmt.Errorf("reading ControllerRevision %s: %w", object.Name, err)
	}
	if content.Module.SHA256 == "" || content.Module.SizeBytes == nil {
		return Revision{}, fmt.Errorf("reading ControllerRevision %s: it names no module", object.Name)
	}
	owner := types.NamespacedName{Namespace: object.Namespace, Name: object.Annotations[ownership.OwnerAnnotation]}
	known, err := New(owner, content)
	if err != nil {
		return Revision{}, fmt.Errorf("reading ControllerRevision %s: %w", object.Name, err)
	}
	known.Object = object
	if !known.Whole() {
		known.Hash, known.Digest = object.Annotations[HashAnnotation], object.Annotations[CutDigestAnnotation]
	}
	return known, nil
}

// CheckUnique returns an error if a history has another revision with the same Hash. Proxies,
// outputs and the status tell revisions apart by it, so the new one would count as tried and
// admitted before it was. That happens by intent only: the Hash has 32 bits.
func CheckUnique(history []Revision, asked Revision) error {
	for i := range history {
		if history[i].Hash == asked.Hash && history[i].Digest != asked.Digest {
			return fmt.Errorf("another revision of this FilterDeployment has the hash %s, too: change anything in spec.filter.config", asked.Hash)
		}
	}
	return nil
}

// SortNewestFirst orders revisions by their numbers. Two have the same number
// when the second was made while the cache did not have the first.
func SortNewestFirst(history []Revision) {
	slices.SortFunc(history, func(a, b Revision) int {
		return cmp.Or(
			cmp.Compare(b.Object.Revision, a.Object.Revision),
			b.Object.CreationTimestamp.Compare(a.Object.CreationTimestamp.Time),
			cmp.Compare(a.Object.Name, b.Object.Name),
		)
	})
}

// Newest returns the first of a history, the newest first; nil for none.
func Newest(history []Revision) *Revision {
	if len(history) == 0 {
		return nil
	}
	return &history[0]
}

// Desired returns the ControllerRevision that keeps a revision and makes it the
// newest of the history: the one in the history that has its content, or a new
// one. Its name follows from its content.
func Desired(fd *wasmev1.FilterDeployment, asked Revision, history []Revision) (*appsv1.ControllerRevision, error) {
	desired, err := objectFor(fd, asked)
	if err != nil {
		return nil, err
	}
	for _, known := range history {
		if known.Object.Name == desired.Name {
			data := desired.Data
			desired = known.Object.DeepCopy()
			desired.Data = data // a cache may have less
			delete(desired.Annotations, CutAnnotation)
			delete(desired.Annotations, CutDigestAnnotation)
			break
		}
	}
	if last := Newest(history); last != nil && last.Object.Name != desired.Name {
		desired.Revision = last.Object.Revision + 1
	}
	return desired, nil
}

func objectFor(fd *wasmev1.FilterDeployment, asked Revision) (*appsv1.ControllerRevision, error) {
	data, err := json.Marshal(asked.Content)
	if err != nil {
		return nil, fmt.Errorf("encoding the revision: %w", err)
	}
	object := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{Namespace: fd.Namespace, Name: render.NameWithHash(fd.Name, string(data))},
		Data:       runtime.RawExtension{Raw: data},
		Revision:   1,
	}
	ownership.Claim(object, fd, map[string]string{HashAnnotation: asked.Hash})
	return object, nil
}

// Obsolete returns the revisions that may be deleted: those older than the
// history that is kept, but none that an output holds, because its module must
// be served. Of those that are the same to proxies, the newest is enough for
// that. held has the hashes that outputs hold.
func Obsolete(history []Revision, held sets.Set[string]) []Revision {
	needed := held.Clone()
	var obsolete []Revision
	for i, known := range history {
		if i < historyLimit || needed.Has(known.Hash) {
			needed.Delete(known.Hash)
			continue
		}
		obsolete = append(obsolete, known)
	}
	return obsolete
}

// Source returns what a module comes from: the image, the URL without its query, or
// `configmap/<name>/<key>`.
func Source(filter wasmev1.FilterSpec) string {
	if filter.ConfigMap != nil {
		return "configmap/" + filter.ConfigMap.Name + "/" + filter.ConfigMap.Key
	}
	return cmp.Or(filter.Image, module.URLWithoutQuery(filter.URL))
}

// Pinned returns the reference that a filter's image is looked up by. With the policy
// IfNotPresent it has the digest of the newest revision of the very same image, if a
// history, the newest first, has one.
func Pinned(history []Revision, filter wasmev1.FilterSpec) string {
	if filter.ImagePullPolicy != wasmev1.PullIfNotPresent {
		return filter.Image
	}
	reference, err := name.ParseReference(filter.Image)
	if err != nil {
		return filter.Image // which is refused where it is looked up
	}
	for _, known := range history {
		if known.Filter.Image == filter.Image && known.Module.ManifestDigest != "" {
			return reference.Context().Digest(cmp.Or(known.Module.IndexDigest, known.Module.ManifestDigest)).String()
		}
	}
	return filter.Image
}

// ResolvedBefore returns the newest revision of a history that has the filter's
// very source and whose module usable accepts; nil for none. Where proxies are
// to pull the image themselves, only a revision that they pulled counts: others
// do not show that they accept it.
func ResolvedBefore(history []Revision, filter wasmev1.FilterSpec, distribution wasmev1.Distribution, usable func(wasmev1.ModuleStatus) bool) *Revision {
	for i, known := range history {
		pulled := distribution != wasmev1.DistributionRegistry || known.Distribution == wasmev1.DistributionRegistry
		if pulled && sameSource(known.Filter, filter) && usable(known.Module) {
			return &history[i]
		}
	}
	return nil
}

func sameSource(a, b wasmev1.FilterSpec) bool {
	return Source(a) == Source(b) && equality.Semantic.DeepEqual(a.ImagePullOptions, b.ImagePullOptions) &&
		(a.URL == "" || a.SHA256 == b.SHA256)
}
