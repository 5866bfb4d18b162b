package rollout

import (
	"fmt"

	"k8s.io/utils/ptr"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/revision"
)

const (
	// fetchingBytes is what the pods of a FilterDeployment that load at one time
	// may fetch together: 27 MB/s within the 20 s that a fetch may take.
	fetchingBytes = 512 << 20
	// MaxLoadingPods is how many pods may load, and drain, at one time.
	MaxLoadingPods = 256
)

// room counts the pods that load at one time. Size is what those of this FilterDeployment
// may, and share what others leave to it.
type room struct{ taken, size, share int }

func roomFor(module wasmev1.ModuleStatus, strategy Strategy, share Share) room {
	pods := MaxLoadingPods
	if strategy.Staged {
		pods = strategy.MaxPods
	}
	return room{size: min(int(max(1, fetchingBytes/moduleBytes(module))), pods), share: share.pods(module)}
}

// moduleBytes returns the size of a module, 1 if it is not known.
func moduleBytes(module wasmev1.ModuleStatus) int64 { return max(1, ptr.Deref(module.SizeBytes, 0)) }

// shared reports whether other FilterDeployments leave room for the pods of a workload.
func (r *room) shared(pods int) bool { return pods == 0 || r.taken+pods <= r.share }

// take takes room for the pods of a workload and reports whether there was any.
// A workload that is larger than the room has it to itself.
func (r *room) take(pods int) bool {
	if pods > 0 && r.taken > 0 && r.taken+pods > r.size {
		return false
	}
	r.taken += pods
	return true
}

// maxConfigurations is what the configurations in all outputs of a FilterDeployment may
// take: each output has the whole one, in the API server's memory and istiod's.
const maxConfigurations = 64 << 20

// CheckSize returns an error for a revision whose configuration is too large for so
// many workloads.
func CheckSize(asked *revision.Revision, workloads int) error {
	size := len(asked.Rendered.Configuration)
	if size == 0 || size*workloads <= maxConfigurations {
		return nil
	}
	return fmt.Errorf("spec.filter.config has %d bytes, and each of %d outputs would have them: at most %d workloads can have one so large: make it smaller, select fewer workloads, or let the module fetch it", size, workloads, maxConfigurations/size)
}
