package filterdeployment

import (
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// renderedSpecs remember what outputs were rendered from, so that a pass in which
// nothing changes renders nothing. They are kept here and not on the outputs: anyone
// who can edit an output could forge them there.
type renderedSpecs struct{ outputMemory[renderedSpec] }

// renderedSpec is the hash of a spec (istio.SpecHash), and what it was rendered from.
type renderedSpec struct {
	inputs rollout.Inputs
	hash   string
}

// holds reports whether an output, as the cache has it, is what the plan says.
func (r *renderedSpecs) holds(fd *wasmev1.FilterDeployment, planned *rollout.Workload, cached istio.Output) bool {
	known, _ := r.of(client.ObjectKeyFromObject(fd), planned.Output)
	if known.hash == "" || known.inputs != planned.Inputs() {
		return false
	}
	object, hash := istio.Untrim(cached)
	return hash == known.hash && !ownership.Claim(object, fd, planned.Annotations())
}

// wrote reports whether the output of a workload was made what the plan says before.
func (r *renderedSpecs) wrote(fd *wasmev1.FilterDeployment, planned *rollout.Workload) bool {
	known, found := r.of(client.ObjectKeyFromObject(fd), planned.Output)
	return found && known.inputs == planned.Inputs()
}

// keep remembers the spec of an output that is as planned.
func (r *renderedSpecs) keep(fd *wasmev1.FilterDeployment, key rollout.OutputKey, inputs rollout.Inputs, spec []byte) {
	r.update(client.ObjectKeyFromObject(fd), key, func(renderedSpec) renderedSpec {
		return renderedSpec{inputs, istio.SpecHash(spec)}
	})
}
