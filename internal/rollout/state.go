package rollout

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// State is all that a plan depends on.
type State struct {
	// Owner is the FilterDeployment, Generation that of its spec, and Status what
	// its status said before.
	Owner      types.NamespacedName
	Generation int64
	Status     wasmev1.FilterDeploymentStatus

	// Asked is the revision that the spec asks for; nil while it cannot be resolved.
	Asked *revision.Revision
	// Barred is the hash of the revision that the spec asks for while policies or its preflight
	// refuse it; then Asked is nil, too.
	Barred string
	// Distributed says that proxies may ask for the module of Asked (NeedsDistribution).
	// Undistributed says why not, if that is known.
	Distributed   bool
	Undistributed error
	// History has the revisions that were kept, the newest first.
	History []revision.Revision

	// Outputs are those that exist.
	Outputs Outputs
	// Targets are the workloads that are selected, in the order of their names;
	// nil when they are not known.
	Targets []Target
	// Deleted are the workloads that no longer exist and whose outputs stay, because
	// pods of theirs may still serve.
	Deleted []Deleted
	// Blocked, unless it has no reason, says why no output can be written.
	Blocked condition.Verdict

	// Strategy is how a new revision reaches the workloads.
	Strategy Strategy
	// Rendering is the fingerprint of how outputs are rendered now (render.Mesh).
	Rendering string
	// Share is what other FilterDeployments leave to this one.
	Share Share
	// Unverified says why pods are not asked what they run; empty when they are.
	Unverified string
	// Verification says what follows where pods cannot be asked, or do not answer.
	Verification wasmev1.Verification
	// Now is the time of the decision.
	Now time.Time
}

// Target is a workload that is selected, with its Ready pods.
type Target struct {
	workload.Target
	// Pods are the Ready pods, in the order of their names, and Unready the others that are
	// not about to go.
	Pods    []Pod
	Unready []Unready
	// Attempt is what came of writing its output; nil before.
	Attempt *Attempt
}

// Deleted is a workload that was deleted before its pods: with a grace period, or
// without them (--cascade=orphan).
type Deleted struct {
	// Workload is `<kind>/<name>`, and Pods the number of its pods that may still serve.
	Workload string
	Pods     int
}

// Pod is a Ready pod.
type Pod struct {
	Name string
	// ReadySince is when it became Ready.
	ReadySince time.Time
	// Sidecar says that it has a proxy, and Address where that is asked.
	Sidecar bool
	Address dataplane.Pod
	// MemoryLimit is that of the proxy's container, in bytes; 0 for none.
	MemoryLimit int64
	// Seen is what is known of what the proxy runs.
	Seen dataplane.Seen
}

// Unready is a pod that is not Ready. Since is when it was Ready last, or began to start.
type Unready struct {
	Name           string
	Created, Since time.Time
}

// age returns how long the pod has been Ready. The time is its node's: where that clock is far
// ahead, nothing is known of the age, and the pod counts as old.
func (p *Pod) age(now time.Time) time.Duration {
	if age := now.Sub(p.ReadySince); age > -LoadTimeout {
		return age
	}
	return LoadTimeout
}

// Attempt is what came of writing an output.
type Attempt struct {
	// Output that was written, or not, and the fetch that it was to ask for.
	Output OutputKey
	Fetch  Fetch
	// Reason is the reason of a failure, for the condition Programmed, and Err the
	// failure; empty and nil when the output is as planned.
	Reason string
	Err    error
}
