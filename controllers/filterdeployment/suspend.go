package filterdeployment

import (
	"crypto/sha256"
	"encoding/json"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// suspended returns what makes the status of a FilterDeployment that is suspended.
func (r *Reconciler) suspended(fd *wasmev1.FilterDeployment) func(*wasmev1.FilterDeploymentStatus, int64, time.Time) {
	applied := r.applied.ready(fd)
	return func(status *wasmev1.FilterDeploymentStatus, generation int64, now time.Time) {
		rollout.SetSuspended(status, generation, now, applied)
	}
}

// appliedMemory remembers what this process's last pass over each FilterDeployment
// was about. Setting spec.suspend is itself a change of the spec, so generations
// do not show whether something else has changed with it.
type appliedMemory struct{ memory[appliedSpec] }

type appliedSpec struct {
	uid        types.UID
	generation int64
	// spec is the hash of the spec, without spec.suspend, and ready the status of
	// Ready that the pass found.
	spec  [sha256.Size]byte
	ready metav1.ConditionStatus
}

// keep remembers a pass, whose status was written.
func (a *appliedMemory) keep(fd *wasmev1.FilterDeployment) {
	ready := apimeta.FindStatusCondition(fd.Status.Conditions, wasmev1.ConditionReady)
	if ready == nil {
		return // the status was not written: something else overwrites it
	}
	name := client.ObjectKeyFromObject(fd)
	known := a.of(name)
	if known.uid != fd.UID || known.generation != fd.Generation {
		known = appliedSpec{uid: fd.UID, generation: fd.Generation, spec: hashSpec(fd)}
	}
	known.ready = ready.Status
	a.memory.keep(name, known)
}

// ready returns the status of Ready that the last pass over this spec found;
// empty when the last pass was over another one, or none is remembered.
func (a *appliedMemory) ready(fd *wasmev1.FilterDeployment) metav1.ConditionStatus {
	known := a.of(client.ObjectKeyFromObject(fd))
	if known.uid != fd.UID || known.spec != hashSpec(fd) {
		return ""
	}
	return known.ready
}

func hashSpec(fd *wasmev1.FilterDeployment) [sha256.Size]byte {
	spec := fd.Spec
	spec.Suspend = false
	text, err := json.Marshal(spec)
	if err != nil {
		return [sha256.Size]byte{} // it came as JSON, so this cannot be
	}
	return sha256.Sum256(text)
}
