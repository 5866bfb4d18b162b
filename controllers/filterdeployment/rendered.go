package filterdeployment

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// renderedSpecs remember what outputs were rendered from, so that a pass in which
// nothing changes renders nothing. They are kept here and not on the outputs: whoever
// may edit an output could forge them there.
type renderedSpecs struct {
	mu    sync.Mutex
	known map[types.NamespacedName]map[rollout.OutputKey]renderedSpec
}

// renderedSpec is the hash of a spec (istio.SpecHash), and what it was rendered from.
type renderedSpec struct {
	inputs rollout.Inputs
	hash   string
}

// holds reports whether an output, as the cache has it, is what the plan says.
func (r *renderedSpecs) holds(fd *wasmev1.FilterDeployment, planned *rollout.Workload, cached istio.Output) bool {
	r.mu.Lock()
	known := r.known[client.ObjectKeyFromObject(fd)][planned.Output]
	r.mu.Unlock()
	if known.hash == "" || known.inputs != planned.Inputs() {
		return false
	}
	object, hash := istio.Untrim(cached)
	return hash == known.hash && !ownership.Claim(object, fd, planned.Annotations())
}

// wrote reports whether the output of a workload was made what the plan says before.
func (r *renderedSpecs) wrote(fd *wasmev1.FilterDeployment, planned *rollout.Workload) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, found := r.known[client.ObjectKeyFromObject(fd)][planned.Output]
	return found && known.inputs == planned.Inputs()
}

// keep remembers the spec of an output that is as planned.
func (r *renderedSpecs) keep(fd *wasmev1.FilterDeployment, key rollout.OutputKey, inputs rollout.Inputs, spec []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := client.ObjectKeyFromObject(fd)
	if r.known == nil {
		r.known = map[types.NamespacedName]map[rollout.OutputKey]renderedSpec{}
	}
	if r.known[name] == nil {
		r.known[name] = map[rollout.OutputKey]renderedSpec{}
	}
	r.known[name][key] = renderedSpec{inputs, istio.SpecHash(spec)}
}

// forget drops what is remembered of one output, or of all when there is no key.
func (r *renderedSpecs) forget(name types.NamespacedName, keys ...rollout.OutputKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(keys) == 0 {
		delete(r.known, name)
	}
	for _, key := range keys {
		delete(r.known[name], key)
	}
}
