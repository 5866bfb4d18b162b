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

	// conditions holds ModuleResolved, Preflighted, WorkloadsSelected, Programmed and Loaded for
	// the steps, and Ready, Reconciling and Stalled, which sum them up as kstatus
	// reads them. Contested is there while something else acts on the object or its
	// outputs, and Overlapping while an output reaches pods of a workload that it was
	// not made for.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// module is the module of the revision in force.
	// +optional
	Module *ModuleStatus `json:"module,omitempty"`

	// revision identifies what the outputs hold: a hash over everything that a proxy
	// sees (module, root id, configuration, fail strategy, placement). It appears in
	// the plugin name that proxies report.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Revision string `json:"revision,omitempty"`

	// rollout is how far a staged rollout is.
	// +optional
	Rollout *RolloutStatus `json:"rollout,omitempty"`

	// summary counts the workloads.
	// +optional
	Summary *WorkloadSummary `json:"summary,omitempty"`

	// reason is the error, if there is one: the message of Ready while Ready is False.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason,omitempty"`

	// workloads holds the state of each selected workload by its name, and of each
	// targetRef by `<kind>/<name>`. It holds 500 at most, and those that fail first.
	// +optional
	// +kubebuilder:validation:MaxProperties=500
	Workloads map[string]WorkloadStatus `json:"workloads,omitempty"`
}

// ModuleStatus is a resolved module.
type ModuleStatus struct {
	// reference is what was resolved: the image reference, the URL without its query, or
	// `configmap/<name>/<key>`.
	// +required
	// +kubebuilder:validation:MaxLength=2048
	Reference string `json:"reference"`

	// manifestDigest is the digest of the image's manifest. If the reference is that
	// of an index, it is the digest of the manifest that was chosen from it. Only
	// images have one.
	// +optional
	// +kubebuilder:validation:MaxLength=71
	ManifestDigest string `json:"manifestDigest,omitempty"`

	// indexDigest is the digest that the reference has, if it is that of an index.
	// +optional
	// +kubebuilder:validation:MaxLength=71
	IndexDigest string `json:"indexDigest,omitempty"`

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

	// signature says who has signed the image, where a policy asks for it.
	// +optional
	Signature *ModuleSignature `json:"signature,omitempty"`

	// cost is what the module cost in its preflight.
	// +optional
	Cost *ModuleCost `json:"cost,omitempty"`
}

// SignatureForm is how a signature is attached to an image.
//
// +kubebuilder:validation:Enum=Tag;Bundle;Attestation
// +kubebuilder:validation:MaxLength=16
type SignatureForm string

// The forms of signatures.
const (
	// SignatureTag is cosign's tag sha256-<digest>.sig.
	SignatureTag SignatureForm = "Tag"
	// SignatureBundle is a Sigstore bundle that refers to the image.
	SignatureBundle SignatureForm = "Bundle"
	// SignatureAttestation is a Sigstore bundle with a provenance, as GitHub writes it.
	SignatureAttestation SignatureForm = "Attestation"
)

// ModuleSignature is the signature of an image that policies have accepted.
type ModuleSignature struct {
	// by are the signers of the policies that have signed, by their names.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=63
	By []string `json:"by"`

	// form is how the first of the signatures is attached to the image.
	// +required
	Form SignatureForm `json:"form"`

	// verifiedAt is when the operator first verified it for this revision.
	// +required
	VerifiedAt metav1.Time `json:"verifiedAt"`
}

// ModuleCost is what a module cost where the operator ran it. A proxy has a Wasm runtime
// of its own, so its figures differ; those of two modules compare.
type ModuleCost struct {
	// compileMilliseconds is how long compiling took.
	// +required
	// +kubebuilder:validation:Minimum=0
	CompileMilliseconds *int64 `json:"compileMilliseconds"`

	// streamMicroseconds is how long the module took for one request and its response.
	// +required
	// +kubebuilder:validation:Minimum=0
	StreamMicroseconds *int64 `json:"streamMicroseconds"`

	// memoryBytes is the module's memory once it was configured. A proxy needs that for
	// each of its worker threads.
	// +required
	// +kubebuilder:validation:Minimum=0
	MemoryBytes *int64 `json:"memoryBytes"`

	// streamedMemoryBytes is the module's memory after 10,000 streams.
	// +required
	// +kubebuilder:validation:Minimum=0
	StreamedMemoryBytes *int64 `json:"streamedMemoryBytes"`

	// proxyMemoryBytes is an estimate of how much more memory a proxy with two worker threads
	// takes with the module, as the first module in it.
	// +optional
	// +kubebuilder:validation:Minimum=0
	ProxyMemoryBytes *int64 `json:"proxyMemoryBytes,omitempty"`

	// capabilities are what the module can do, by what it imports.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=64
	Capabilities []string `json:"capabilities,omitempty"`
}

// WorkloadSummary counts the workloads of a FilterDeployment.
type WorkloadSummary struct {
	// workloads is the number of selected workloads.
	// +required
	// +kubebuilder:validation:Minimum=0
	Workloads *int64 `json:"workloads"`

	// programmed is the number of workloads whose output matches the spec.
	// +required
	// +kubebuilder:validation:Minimum=0
	Programmed *int64 `json:"programmed"`

	// workloadsReady is `<programmed>/<workloads>`, such as 5/6.
	// +required
	// +kubebuilder:validation:MaxLength=32
	WorkloadsReady string `json:"workloadsReady"`

	// pods is the number of the workloads' pods that should run the filter: those
	// that are Ready and have a sidecar.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Pods *int64 `json:"pods,omitempty"`

	// podsLoaded is the number of these pods whose proxies run the revision.
	// +optional
	// +kubebuilder:validation:Minimum=0
	PodsLoaded *int64 `json:"podsLoaded,omitempty"`

	// podsReady is `<podsLoaded>/<pods>`, such as 12/12.
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
	// WorkloadPending says that nothing was written for the workload yet, or that its
	// pods are loading the filter.
	WorkloadPending WorkloadState = "Pending"
	// WorkloadSucceeded says that the output matches the spec, and that the pods run
	// it, as far as they can be asked.
	WorkloadSucceeded WorkloadState = "Succeeded"
	// WorkloadFailed says that something is wrong, which reason explains.
	WorkloadFailed WorkloadState = "Failed"
)

// WorkloadStatus is the state of a filter on one workload.
type WorkloadStatus struct {
	// state is Pending, Succeeded or Failed.
	// +required
	State WorkloadState `json:"state"`

	// reason says why the workload failed or is waiting.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason,omitempty"`
}
