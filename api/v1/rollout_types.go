package v1

import (
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RolloutStrategy says how a new revision reaches the workloads.
//
// +kubebuilder:validation:Enum=Immediate;Staged
// +kubebuilder:validation:MaxLength=16
type RolloutStrategy string

// The rollout strategies.
const (
	// RolloutImmediate writes a new configuration to all workloads at once, and spreads
	// a new module over them in waves, whatever becomes of it.
	RolloutImmediate RolloutStrategy = "Immediate"
	// RolloutStaged writes a new revision to one workload first, and then to others in
	// waves. A step begins when the pods of the ones before run the revision well. It is
	// the default.
	RolloutStaged RolloutStrategy = "Staged"
)

// RolloutFailure says what follows when a step of a staged rollout fails.
//
// +kubebuilder:validation:Enum=RollBack;Hold
// +kubebuilder:validation:MaxLength=16
type RolloutFailure string

// What follows a failed step.
const (
	// RolloutRollBack has the workloads run the last good revision again.
	RolloutRollBack RolloutFailure = "RollBack"
	// RolloutHold leaves everything as it is.
	RolloutHold RolloutFailure = "Hold"
)

// RetryAnnotation on a FilterDeployment begins the rollout of a revision again that was
// rolled back. Its value is the revision; a second retry needs another value, such as
// `<revision>/2`.
// A value of more than MaxRetryLength characters is ignored.
const RetryAnnotation = "wasme.io/retry"

// MaxRetryLength is the longest value of RetryAnnotation.
const MaxRetryLength = 128

// RolloutSpec says how a new revision reaches the workloads.
//
// +kubebuilder:validation:XValidation:rule="!has(self.strategy) || self.strategy != 'Immediate' || !(has(self.bakeTime) || has(self.maxPods) || has(self.canaryPods) || has(self.analysis) || has(self.onFailure) || has(self.paused))",message="the fields of rollout apply to staged rollouts: leave them out, or set strategy to Staged",fieldPath=".strategy"
// +kubebuilder:validation:XValidation:rule="!has(self.analysis) || has(self.canaryPods)",message="an analysis compares canaries with the other pods: set canaryPods",fieldPath=".canaryPods"
type RolloutSpec struct {
	// strategy is Staged or Immediate; default Staged. Where pods are not verified, it is
	// Immediate.
	// +optional
	Strategy RolloutStrategy `json:"strategy,omitempty"`

	// bakeTime is how long the pods of a step must run the revision well before the next
	// step begins; default 10s.
	// +optional
	// +kubebuilder:validation:Format=duration
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('1h')",message="bakeTime must be 0s to 1h"
	BakeTime *metav1.Duration `json:"bakeTime,omitempty"`

	// maxPods is how many pods may load the revision at one time, after the first
	// workload; default 256.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	MaxPods *int32 `json:"maxPods,omitempty"`

	// canaryPods is how many pods of the first workload serve with the revision for bakeTime
	// before its other pods do, if it has more than that; default none. Only an EnvoyFilter
	// can reach single pods.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10
	CanaryPods *int32 `json:"canaryPods,omitempty"`

	// analysis compares the requests of the canaries with those of the other pods, before
	// these run the revision; default none.
	// +optional
	Analysis *RolloutAnalysis `json:"analysis,omitempty"`

	// onFailure is RollBack or Hold; default RollBack.
	// +optional
	OnFailure RolloutFailure `json:"onFailure,omitempty"`

	// paused stops before the next step.
	// +optional
	Paused bool `json:"paused,omitempty"`
}

// RolloutAnalysis says by how much the requests of canaries may be worse than those of the
// other pods of their workload, by Istio's metrics of both. The canaries fail if one of the
// limits is exceeded by more than chance explains; without enough requests they wait.
//
// +kubebuilder:validation:XValidation:rule="has(self.maxErrorRatioIncrease) || has(self.maxLatencyIncrease)",message="set maxErrorRatioIncrease, maxLatencyIncrease, or both"
type RolloutAnalysis struct {
	// maxErrorRatioIncrease is by how many percentage points the share of requests that fail
	// may be higher: with an HTTP status of 500 or more, or a gRPC status that is an error of
	// the server. Default any.
	// +optional
	MaxErrorRatioIncrease Percentage `json:"maxErrorRatioIncrease,omitempty"`

	// maxLatencyIncrease is by how much the mean duration of requests may be longer, such as
	// 20%. A canary that was as slow before is not blamed. Default any.
	// +optional
	MaxLatencyIncrease Percentage `json:"maxLatencyIncrease,omitempty"`

	// minRequests is how many requests the canaries must have had, and so must the other
	// pods; default 100.
	// +optional
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=1000000
	MinRequests *int32 `json:"minRequests,omitempty"`
}

// Percentage is a number with a percent sign, such as 0.5%, 20% or 150%.
//
// +kubebuilder:validation:Pattern=`^(0|[1-9][0-9]{0,3})(\.[0-9]{1,2})?%$`
// +kubebuilder:validation:MaxLength=8
type Percentage string

// Fraction returns 0.2 for 20%; nil when it is empty or not a percentage.
func (p Percentage) Fraction() *float64 {
	number, found := strings.CutSuffix(string(p), "%")
	percent, err := strconv.ParseFloat(number, 64)
	if !found || err != nil {
		return nil
	}
	return new(percent / 100)
}

// RolloutPhase is how far a rollout is.
//
// +kubebuilder:validation:Enum=Progressing;Baking;Paused;Held;RolledBack;Complete
// +kubebuilder:validation:MaxLength=16
type RolloutPhase string

// The phases of a rollout.
const (
	// RolloutProgressing waits until the pods of the step run the revision.
	RolloutProgressing RolloutPhase = "Progressing"
	// RolloutBaking means that they do, and waits for bakeTime.
	RolloutBaking RolloutPhase = "Baking"
	// RolloutPaused waits until paused is no longer set.
	RolloutPaused RolloutPhase = "Paused"
	// RolloutHeld means that a step failed, and that everything stays as it is.
	RolloutHeld RolloutPhase = "Held"
	// RolloutRolledBack means that a step failed, and that the workloads are to run the
	// last good revision.
	RolloutRolledBack RolloutPhase = "RolledBack"
	// RolloutComplete means that all workloads run the revision, and did so for bakeTime.
	RolloutComplete RolloutPhase = "Complete"
)

// RolloutStatus is how far a staged rollout is. It is kept from one process of the
// operator to the next.
type RolloutStatus struct {
	// phase is how far it is.
	// +required
	Phase RolloutPhase `json:"phase"`

	// from is the last good revision; empty when there is none.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	From string `json:"from,omitempty"`

	// to is the revision that is rolled out.
	// +required
	// +kubebuilder:validation:MaxLength=64
	To string `json:"to"`

	// step counts the steps that began.
	// +required
	// +kubebuilder:validation:Minimum=0
	Step *int32 `json:"step"`

	// since is when the phase began.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`

	// verified says that pods proved the last good revision when the rollout began. Then
	// it is a failure when none of the pods of a step answers any more.
	// +optional
	Verified bool `json:"verified,omitempty"`

	// rejected is the revision that was rolled back.
	// +optional
	Rejected *RejectedRevision `json:"rejected,omitempty"`

	// retried is the value of the annotation wasme.io/retry that was followed last.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	Retried string `json:"retried,omitempty"`
}

// Reasons of a RejectedRevision beside those of the condition Loaded.
const (
	// ReasonPodsNotReady: the pods that tried it, or ran it first, were not Ready any more.
	ReasonPodsNotReady = "PodsNotReady"
	// ReasonErrorRatioIncreased: more requests to the canaries failed than to other pods.
	ReasonErrorRatioIncreased = "ErrorRatioIncreased"
	// ReasonLatencyIncreased: requests to the canaries took longer than those to other pods.
	ReasonLatencyIncreased = "LatencyIncreased"
)

// RejectedRevision is a revision that was rolled back, and is not rolled out again by itself.
type RejectedRevision struct {
	// revision identifies it.
	// +required
	// +kubebuilder:validation:MaxLength=64
	Revision string `json:"revision"`

	// reason is one of the condition Loaded, PodsNotReady, ErrorRatioIncreased or
	// LatencyIncreased.
	// +required
	// +kubebuilder:validation:MaxLength=64
	Reason string `json:"reason"`

	// message says what happened, and where.
	// +required
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message"`

	// at is when it was rolled back.
	// +required
	At metav1.Time `json:"at"`
}
