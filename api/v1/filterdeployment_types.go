package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PatchContext says on which traffic of a workload a filter runs.
//
// +kubebuilder:validation:Enum=inbound;outbound;gateway;any
// +kubebuilder:validation:MaxLength=16
type PatchContext string

// The patch contexts.
const (
	// PatchContextInbound is traffic that a sidecar receives for its workload.
	PatchContextInbound PatchContext = "inbound"
	// PatchContextOutbound is traffic that a sidecar sends for its workload.
	PatchContextOutbound PatchContext = "outbound"
	// PatchContextGateway is traffic that a gateway proxy receives.
	PatchContextGateway PatchContext = "gateway"
	// PatchContextAny is all of them.
	PatchContextAny PatchContext = "any"
)

// FailStrategy says what a proxy does when the filter cannot run.
//
// +kubebuilder:validation:Enum=FailReload;FailClosed;FailOpen
// +kubebuilder:validation:MaxLength=16
type FailStrategy string

// The fail strategies; names as in Istio's WasmPlugin.
const (
	// FailReload denies requests until the module loads, and starts a new VM after a crash.
	FailReload FailStrategy = "FailReload"
	// FailClosed denies requests until the module loads, and all after a crash.
	FailClosed FailStrategy = "FailClosed"
	// FailOpen lets requests pass unfiltered.
	FailOpen FailStrategy = "FailOpen"
)

// LabelValue is the value of a label.
//
// +kubebuilder:validation:MaxLength=63
type LabelValue string

// FilterDeploymentSpec says which filter runs on which workloads.
type FilterDeploymentSpec struct {
	// filter is the filter to run: its image, its configuration, its place.
	// +required
	Filter FilterSpec `json:"filter"`

	// deployment selects the workloads that run the filter.
	// +optional
	Deployment DeploymentSpec `json:"deployment,omitempty"`
}

// FilterSpec is a Wasm filter with its configuration.
type FilterSpec struct {
	// id names the filter on its workloads: the Istio objects are called
	// `<workload>-<id>`. Default: `<name>.<namespace>` of the FilterDeployment.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",message="id becomes part of object names: use lower case letters, digits, '-' and '.', with a letter or digit at both ends"
	ID string `json:"id,omitempty"`

	// image is the OCI reference of the filter's image, by tag or by digest,
	// such as `ghcr.io/acme/add-header:v1`.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Image string `json:"image"`

	// config is what the module reads as its plugin configuration: a plain
	// string, an object (read as JSON), or a google.protobuf.Any holding a
	// StringValue or BytesValue (read raw) or a Struct (read as JSON). At most 256 KiB.
	// +optional
	Config *Configuration `json:"config,omitempty"`

	// rootID is the root id of the plugin inside the module. Default: the
	// first of the root ids that the image's runtime configuration lists.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	RootID string `json:"rootID,omitempty"`

	// patchContext says on which traffic the filter runs. Default: inbound.
	// +optional
	// +kubebuilder:default=inbound
	PatchContext PatchContext `json:"patchContext,omitempty"`

	// failStrategy says what a proxy does when the filter cannot run:
	// FailReload (default) and FailClosed deny requests while the module does
	// not load, and FailReload starts a new VM after a crash where FailClosed
	// goes on denying; FailOpen lets requests pass unfiltered.
	// +optional
	// +kubebuilder:default=FailReload
	FailStrategy FailStrategy `json:"failStrategy,omitempty"`

	// imagePullOptions says how the operator reaches the image.
	// +optional
	ImagePullOptions *ImagePullOptions `json:"imagePullOptions,omitempty"`
}

// ImagePullOptions says how the operator reaches an image.
type ImagePullOptions struct {
	// pullSecret names a Secret of the namespace: of type
	// kubernetes.io/dockerconfigjson, or with the keys `username` and `password`
	// and the annotation `wasme.io/registry: <host>`, the registry it is for.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	PullSecret string `json:"pullSecret,omitempty"`

	// insecureSkipVerify accepts any certificate of this image's registry.
	// +optional
	InsecureSkipVerify bool `json:"insecureSkipVerify,omitempty"`

	// plainHttp allows plain HTTP to this image's registry.
	// +optional
	PlainHTTP bool `json:"plainHttp,omitempty"`
}

// DeploymentSpec selects the workloads that run a filter.
type DeploymentSpec struct {
	// istio selects workloads of an Istio mesh, in the namespace of the FilterDeployment.
	// +optional
	Istio *IstioDeploymentSpec `json:"istio,omitempty"`
}

// IstioDeploymentSpec selects workloads of an Istio mesh.
type IstioDeploymentSpec struct {
	// kind of the workloads, in any letter case: Deployment (default), DaemonSet or StatefulSet.
	// +optional
	// +kubebuilder:default=Deployment
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.lowerAscii() in ['', 'deployment', 'daemonset', 'statefulset']",message="kind must be Deployment, DaemonSet or StatefulSet"
	Kind string `json:"kind,omitempty"`

	// labels that a workload object must have, all of them. Empty: every
	// workload of the kind in the namespace.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	Labels map[string]LabelValue `json:"labels,omitempty"`

	// istioNamespace is the namespace of Istio's control plane. Accepted for
	// compatibility; the operator is told the mesh's root namespace by a flag.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	IstioNamespace string `json:"istioNamespace,omitempty"`
}

// FilterDeploymentStatus is what the operator found and did.
type FilterDeploymentStatus struct {
	// observedGeneration is the metadata.generation that this status describes.
	// +optional
	// +kubebuilder:validation:Minimum=0
	ObservedGeneration *int64 `json:"observedGeneration,omitempty"`

	// conditions: ModuleResolved, WorkloadsSelected and Programmed for the
	// steps; Ready, Reconciling and Stalled over them, as kstatus reads them;
	// Contested while something else acts on the object.
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

	// workloads holds the state of each selected workload by its name; failing
	// ones first, at most 500.
	// +optional
	// +kubebuilder:validation:MaxProperties=500
	Workloads map[string]WorkloadStatus `json:"workloads,omitempty"`
}

// ModuleStatus is a resolved module.
type ModuleStatus struct {
	// reference is the image reference that was resolved.
	// +required
	// +kubebuilder:validation:MaxLength=1024
	Reference string `json:"reference"`

	// manifestDigest is the digest of the image's manifest: that of the child
	// where the reference names an index.
	// +required
	// +kubebuilder:validation:MaxLength=71
	ManifestDigest string `json:"manifestDigest"`

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
	// WorkloadPending: not yet attempted.
	WorkloadPending WorkloadState = "Pending"
	// WorkloadSucceeded: the output is as the spec asks.
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

// FilterDeployment runs a Wasm filter on workloads of an Istio mesh.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=fd,categories=wasme
// +kubebuilder:printcolumn:name="READY",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="WORKLOADS",type=string,JSONPath=`.status.summary.workloadsReady`
// +kubebuilder:printcolumn:name="IMAGE",type=string,JSONPath=`.spec.filter.image`
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="DIGEST",type=string,JSONPath=`.status.module.sha256`,priority=1
// +kubebuilder:printcolumn:name="MESSAGE",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
type FilterDeployment struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the object's metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says which filter runs on which workloads.
	// +required
	Spec FilterDeploymentSpec `json:"spec"`

	// status is what the operator found and did.
	// +optional
	Status FilterDeploymentStatus `json:"status,omitempty"`
}

// FilterDeploymentList is a list of FilterDeployments.
//
// +kubebuilder:object:root=true
type FilterDeploymentList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []FilterDeployment `json:"items"`
}
