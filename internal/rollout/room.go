package rollout

import (
	"k8s.io/utils/ptr"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

const (
	// fetchingBytes is what the pods of a FilterDeployment that load at one time
	// may fetch together: 27 MB/s within the 20 s that a fetch may take.
	fetchingBytes = 512 << 20
	// MaxLoadingPods is how many pods may load, and drain, at one time.
	MaxLoadingPods = 256
)

// room counts the pods that load at one time.
type room struct{ taken, size int }

func roomFor(module wasmev1.ModuleStatus) room {
	bytes := max(1, ptr.Deref(module.SizeBytes, 0))
	return room{size: int(min(max(1, fetchingBytes/bytes), MaxLoadingPods))}
}

// take takes room for the pods of a workload and reports whether there was any.
// A workload that is larger than the room has it to itself.
func (r *room) take(pods int) bool {
	if pods > 0 && r.taken > 0 && r.taken+pods > r.size {
		return false
	}
	r.taken += pods
	return true
}
