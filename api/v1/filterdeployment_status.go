package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FilterDeploymentStatus is what the operator found and did.
type FilterDeploymentStatus struct {
	// observedGeneration is the metadata.generation that this status describes;
	// -1 before the operator has looked.
	// +optional
	// +kubebuilder:validation:Minimum=-1
	ObservedGeneration *int64 `json:"observedGeneration,omitempty"`

	// conditions: ModuleResolved, WorkloadsSelected, Programmed and Loaded for the
	// steps; Ready, Reconciling and Stalled over them, as kstatus reads them;
	// Contested while something else acts on the object or its outputs;
	// Overlapping while an output reaches pods of a workload that is not its own.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// module is the module of the revision in force.
	// +optional
	Module *ModuleStatus `json:"module,omitempty"`

	// revision names what the outputs hold: a hash over all that a proxy sees
	// (module, root id, configuration, fail strategy, placement). It stands in
	// the plugin name that proxies report.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Revision string `json:"revision,omitempty"`

	// summary counts the workloads.
	// +optional
	Summary *WorkloadSummary `json:"summary,omitempty"`

	// reason is the error, when there is one: the message of Ready while it is False.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason,omitempty"`

	// workloads holds the state of each selected workload by its name, and of
	// each targetRef by `<kind>/<name>`; failing ones first, at most 500.
	// +optional
	// +kubebuilder:validation:MaxProperties=500
	Workloads map[string]WorkloadStatus `json:"workloads,omitempty"`
}

// ModuleStatus is a resolved module.
type ModuleStatus struct {
	// reference is what was resolved: the image reference, the URL, or
	// `configmap/<name>/<key>`.
	// +required
	// +kubebuilder:validation:MaxLength=1024
	Reference string `json:"reference"`

	// manifestDigest is the digest of the image's manifest: that of the child
	// where the reference names an index. Only images have one.
	// +optional
	// +kubebuilder:validation:MaxLength=71
	ManifestDigest string `json:"manifestDigest,omitempty"`

	// sha256 is the digest of the module's bytes, in hexadecimal digits.
	// +required
	// +kubebuilder:validation:MaxLength=64
	SHA256 string `json:"sha256"`

	// sizeBytes is the size of the module.
	// +required
	// +kubebuilder:validation:Minimum=0
	SizeBytes *int64 `json:"sizeBytes"`

	// abiVersions are the versions of the proxy-wasm ABI that the module exports, such as 0.2.1.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=32
	ABIVersions []string `json:"abiVersions,omitempty"`

	// rootIDs are the root ids that the image's runtime configuration lists.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=256
	RootIDs []string `json:"rootIDs,omitempty"`
}

// WorkloadSummary counts the workloads of a FilterDeployment.
type WorkloadSummary struct {
	// workloads is the number of selected workloads.
	// +required
	// +kubebuilder:validation:Minimum=0
	Workloads *int64 `json:"workloads"`

	// programmed is the number of workloads whose output is as the spec asks.
	// +required
	// +kubebuilder:validation:Minimum=0
	Programmed *int64 `json:"programmed"`

	// workloadsReady is programmed and workloads in one string, such as 5/6.
	// +required
	// +kubebuilder:validation:MaxLength=32
	WorkloadsReady string `json:"workloadsReady"`

	// pods is the number of pods of the workloads that are to run the filter:
	// those that are Ready and have a sidecar.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Pods *int64 `json:"pods,omitempty"`

	// podsLoaded is the number of them whose proxies run the revision.
	// +optional
	// +kubebuilder:validation:Minimum=0
	PodsLoaded *int64 `json:"podsLoaded,omitempty"`

	// podsReady is podsLoaded and pods in one string, such as 12/12.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	PodsReady string `json:"podsReady,omitempty"`

	// workloadsOmitted is the number of workloads that status.workloads leaves out.
	// +optional
	// +kubebuilder:validation:Minimum=0
	WorkloadsOmitted *int64 `json:"workloadsOmitted,omitempty"`
}

// WorkloadState is the state of a filter on one workload.
//
// +kubebuilder:validation:Enum=Pending;Succeeded;Failed
// +kubebuilder:validation:MaxLength=16
type WorkloadState string

// The states of a workload.
const (
	// WorkloadPending: not yet attempted, or its pods load the filter.
	WorkloadPending WorkloadState = "Pending"
	// WorkloadSucceeded: the output is as the spec asks, and its pods run it, as
	// far as they can be asked.
	WorkloadSucceeded WorkloadState = "Succeeded"
	// WorkloadFailed: see reason.
	WorkloadFailed WorkloadState = "Failed"
)

// WorkloadStatus is the state of a filter on one workload.
type WorkloadStatus struct {
	// state is Pending, Succeeded or Failed.
	// +required
	State WorkloadState `json:"state"`

	// reason says why a workload failed or waits.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason,omitempty"`
}
