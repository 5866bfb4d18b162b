// Package undo says how a FilterDeployment goes back to an earlier revision: which one, and
// what its spec has to be for that. It is pure.
//
// A ControllerRevision keeps spec.filter, the output kind and the distribution, and the
// module that the source had then. What selects workloads, and how rollouts go, is no part
// of a revision and stays as it is.
package undo

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"k8s.io/apimachinery/pkg/api/equality"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// Find returns the revision of a history with that number or hash.
func Find(history []revision.Revision, which string) (*revision.Revision, error) {
	var numbers []string
	for i := range history {
		number := strconv.FormatInt(history[i].Object.Revision, 10)
		if which == number || which == history[i].Hash {
			return &history[i], nil
		}
		numbers = append(numbers, number)
	}
	if len(numbers) == 0 {
		return nil, fmt.Errorf("finding revision %s: the operator has kept no revision yet", which)
	}
	return nil, fmt.Errorf("finding revision %s: it was not kept: choose one of %s", which, strings.Join(numbers, ", "))
}

// Previous returns the revision that an undo goes back to: the one that the last rollout
// came from or, if there is none, the newest one that the spec does not ask for. The history
// has the newest first.
func Previous(fd *wasmev1.FilterDeployment, history []revision.Revision) (*revision.Revision, error) {
	asked := askedBy(fd, history)
	others := slices.DeleteFunc(slices.Clone(history), func(known revision.Revision) bool { return known.Hash == asked })
	if len(others) == 0 {
		return nil, fmt.Errorf("undoing the rollout of %s: the operator has kept no revision but the one that the spec asks for: change the spec yourself", fd.Name)
	}
	if current := fd.Status.Rollout; current != nil && current.From != "" {
		if from := slices.IndexFunc(others, func(known revision.Revision) bool { return known.Hash == current.From }); from >= 0 {
			return &others[from], nil
		}
	}
	return &others[0], nil
}

// askedBy returns the hash of the revision that the spec asks for: the newest one, unless
// the operator could not resolve the spec; empty then.
func askedBy(fd *wasmev1.FilterDeployment, history []revision.Revision) string {
	newest := revision.Newest(history)
	istio := workload.IstioSpec(fd)
	if newest == nil || !sameFilter(fd.Spec.Filter, newest.Filter) ||
		cmp.Or(istio.Output, wasmev1.OutputEnvoyFilter) != newest.OutputKind() {
		return ""
	}
	return newest.Hash
}

// sameFilter reports whether a spec is that of a revision, which has its URL without the
// query, the content of configFrom in its place, and nothing about the preflight.
func sameFilter(spec, kept wasmev1.FilterSpec) bool {
	spec.URL = module.URLWithoutQuery(spec.URL)
	spec.Preflight, spec.PreflightTests = "", nil
	if spec.ConfigFrom != nil {
		spec.ConfigFrom, spec.Config, kept.Config = nil, nil, nil
	}
	return equality.Semantic.DeepEqual(spec, kept)
}

// Change is what an undo writes.
type Change struct {
	// Filter becomes spec.filter.
	Filter wasmev1.FilterSpec
	// Output and Distribution become those of spec.deployment.istio; empty for the defaults.
	Output       wasmev1.Output
	Distribution wasmev1.Distribution
	// Notes say what is not as it was before, for the user.
	Notes []string
}

// To returns what makes a FilterDeployment ask for an earlier revision again. Where the tag
// of its image has another image since, the change references the image by its digest. The
// error is about a revision that this version of wasme cannot write whole.
func To(fd *wasmev1.FilterDeployment, target *revision.Revision, history []revision.Revision) (Change, error) {
	if err := checkKnown(target); err != nil {
		return Change{}, err
	}
	change := Change{Filter: *target.Filter.DeepCopy(), Output: target.Output, Distribution: target.Distribution}
	filter, current := &change.Filter, fd.Spec.Filter
	filter.Preflight, filter.PreflightTests = current.Preflight, current.PreflightTests.DeepCopy()
	if current.URL != "" && module.URLWithoutQuery(current.URL) == filter.URL {
		filter.URL = current.URL
	}
	if current.ConfigFrom != nil {
		change.Notes = append(change.Notes, "spec.filter.config has the configuration as it was; configFrom is gone")
	}
	if pinned := pinnedImage(target, history); pinned != "" {
		filter.Image = pinned
		change.Notes = append(change.Notes, fmt.Sprintf("the tag of %s has another image since: spec.filter.image references the former one by its digest", target.Filter.Image))
	}
	if filter.ConfigMap != nil {
		change.Notes = append(change.Notes, fmt.Sprintf("the module is what ConfigMap %s holds now", filter.ConfigMap.Name))
	}
	return change, nil
}

// checkKnown returns an error for a revision with fields that this version does not know,
// and would drop.
func checkKnown(target *revision.Revision) error {
	decoder := json.NewDecoder(bytes.NewReader(target.Object.Data.Raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&revision.Content{}); err != nil {
		return fmt.Errorf("reading revision %d: the operator is newer than this wasme (%w): update wasme", target.Object.Revision, err)
	}
	return nil
}

// pinnedImage returns the image of a revision by its digest if another revision shows that
// its tag has moved since; empty otherwise.
func pinnedImage(target *revision.Revision, history []revision.Revision) string {
	digest := target.Module.ManifestDigest
	moved := slices.ContainsFunc(history, func(other revision.Revision) bool {
		return other.Object.Revision > target.Object.Revision && other.Filter.Image == target.Filter.Image && other.Module.ManifestDigest != digest
	})
	reference, err := name.ParseReference(target.Filter.Image)
	if !moved || digest == "" || err != nil {
		return ""
	}
	return reference.Context().Name() + "@" + digest
}
