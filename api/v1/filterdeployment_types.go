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
	// PatchContextAny is all of this traffic.
	PatchContextAny PatchContext = "any"
)

// FailStrategy says what a proxy does while the filter cannot run.
//
// +kubebuilder:validation:Enum=FailReload;FailClosed;FailOpen
// +kubebuilder:validation:MaxLength=16
type FailStrategy string

// The fail strategies, named as in Istio's WasmPlugin.
const (
	// FailReload denies requests until the module loads, and starts a new VM after a crash.
	FailReload FailStrategy = "FailReload"
	// FailClosed denies requests until the module loads, and every request after a crash.
	FailClosed FailStrategy = "FailClosed"
	// FailOpen lets requests pass unfiltered.
	FailOpen FailStrategy = "FailOpen"
)

// Phase is the part of an HTTP filter chain that a WasmPlugin or a
// TrafficExtension puts a filter into, named as in Istio.
//
// +kubebuilder:validation:Enum=Authn;Authz;Stats
// +kubebuilder:validation:MaxLength=16
type Phase string

// The phases.
const (
	// PhaseAuthn is before Istio's authentication filters.
	PhaseAuthn Phase = "Authn"
	// PhaseAuthz is after authentication, before Istio's authorization filters.
	PhaseAuthz Phase = "Authz"
	// PhaseStats is after authorization, before Istio's statistics filters.
	PhaseStats Phase = "Stats"
)

// Output is the kind of Istio object that brings a filter to its proxies.
//
// +kubebuilder:validation:Enum=EnvoyFilter;WasmPlugin;TrafficExtension
// +kubebuilder:validation:MaxLength=32
type Output string

// The outputs.
const (
	// OutputEnvoyFilter is networking.istio.io/v1alpha3 EnvoyFilter.
	OutputEnvoyFilter Output = "EnvoyFilter"
	// OutputWasmPlugin is extensions.istio.io/v1alpha1 WasmPlugin.
	OutputWasmPlugin Output = "WasmPlugin"
	// OutputTrafficExtension is extensions.istio.io/v1alpha1 TrafficExtension.
	OutputTrafficExtension Output = "TrafficExtension"
)

// Distribution says where proxies get the module from.
//
// +kubebuilder:validation:Enum=Served;Registry
// +kubebuilder:validation:MaxLength=16
type Distribution string

// The distributions.
const (
	// DistributionServed has proxies fetch the module from the operator, by its digest.
	DistributionServed Distribution = "Served"
	// DistributionRegistry has proxies pull the image, by the digest of its manifest.
	DistributionRegistry Distribution = "Registry"
)

// Verification says whether Ready needs proof that pods run the filter.
//
// +kubebuilder:validation:Enum=Required;NotRequired
// +kubebuilder:validation:MaxLength=16
type Verification string

// The verifications.
const (
	// VerificationRequired makes Ready Unknown while nothing shows whether the filter runs.
	VerificationRequired Verification = "Required"
	// VerificationNotRequired lets Ready be True then.
	VerificationNotRequired Verification = "NotRequired"
)

// The kinds of objects that a targetRef can reference.
const (
	// TargetKindGateway is the Gateway of gateway.networking.k8s.io, which is a gateway
	// or a waypoint.
	TargetKindGateway = "Gateway"
	// TargetKindService is the core Service, whose waypoint runs the filter.
	TargetKindService = "Service"
)

// LabelValue is the value of a label.
//
// +kubebuilder:validation:MaxLength=63
type LabelValue string

// VerifyPodsAnnotation on a FilterDeployment with the value false says that its pods
// are not asked what they run, because the operator cannot reach them.
const VerifyPodsAnnotation = "wasme.io/verify-pods"

// FilterDeploymentSpec says which filter runs on which workloads. The rules over
// filter and deployment together are in hack/crdschema.
type FilterDeploymentSpec struct {
	// filter is the filter to run: its module, its configuration and its place.
	// +required
	Filter FilterSpec `json:"filter"`

	// deployment selects the workloads that run the filter.
	// +optional
	Deployment DeploymentSpec `json:"deployment,omitempty"`

	// rollout says how a new revision reaches the workloads.
	// +optional
	Rollout *RolloutSpec `json:"rollout,omitempty"`

	// suspend keeps everything as it is: the operator looks up no new image, and
	// writes, repairs and deletes nothing. Ready is Unknown for what was changed in the
	// spec at the same time or later, and not applied.
	// +optional
	Suspend bool `json:"suspend,omitempty"`
}

// FilterSpec is a Wasm filter with its configuration. The rules that the renderer
// checks, too, are in hack/crdschema, and so is the one that config and configFrom
// exclude each other, since no rule can see config.
//
// +kubebuilder:validation:XValidation:rule="has(self.image) || !has(self.imagePullOptions)",message="imagePullOptions apply to image only: leave them out",fieldPath=".imagePullOptions"
// +kubebuilder:validation:XValidation:rule="has(self.image) || !has(self.imagePullPolicy)",message="imagePullPolicy applies to image only: leave it out",fieldPath=".imagePullPolicy"
type FilterSpec struct {
	// id identifies the filter on its workloads: its Istio objects are named
	// `<workload>-<id>`. Default: `<name>.<namespace>` of the FilterDeployment.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	ID string `json:"id,omitempty"`

	// image is the OCI reference of the filter's image, by tag or by digest,
	// such as `ghcr.io/acme/add-header:v1`. Set exactly one of image, url and configMap.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Image string `json:"image,omitempty"`

	// url is the HTTP or HTTPS address of the module itself. It needs sha256, the
	// digest of the module. Set exactly one of image, url and configMap.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && self.matches('^https?://[^/?#@]+([/?#]|$)')",message="the operator cannot fetch this URL: begin it with http:// or https:// and a host, without user and password"
	URL string `json:"url,omitempty"`

	// configMap is a key of a ConfigMap in the same namespace, which holds the
	// module as binary data. Set exactly one of image, url and configMap.
	// +optional
	ConfigMap *ConfigMapKey `json:"configMap,omitempty"`

	// sha256 is the digest that the module's bytes must have, in 64 hexadecimal digits.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9a-f]{64}$')",message="sha256 is not a digest: use 64 hexadecimal digits in lower case, without `sha256:`"
	SHA256 string `json:"sha256,omitempty"`

	// config is the plugin configuration that the module reads: a plain string, an
	// object (the module reads its JSON), or a google.protobuf.Any that holds a
	// StringValue or BytesValue (the module reads the bytes as they are) or a Struct
	// (the module reads its JSON). At most 256 KiB.
	// +optional
	Config *Configuration `json:"config,omitempty"`

	// configFrom is where the configuration comes from, instead of config. A
	// WasmPlugin or TrafficExtension can carry it only if it is a JSON object.
	// +optional
	ConfigFrom *ConfigurationSource `json:"configFrom,omitempty"`

	// rootID is the root id of the plugin inside the module. Default: the
	// first root id that the image's runtime configuration lists.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	RootID string `json:"rootID,omitempty"`

	// patchContext says on which traffic the filter runs. Default: inbound.
	// +optional
	// +kubebuilder:default=inbound
	PatchContext PatchContext `json:"patchContext,omitempty"`

	// failStrategy says what a proxy does while the filter cannot run.
	// FailReload (default) and FailClosed deny requests until the module loads.
	// After a crash, FailReload starts a new VM, and FailClosed denies all further
	// requests. FailOpen lets requests pass unfiltered.
	// +optional
	// +kubebuilder:default=FailReload
	FailStrategy FailStrategy `json:"failStrategy,omitempty"`

	// priority orders the filters of one output kind that have the same position:
	// the one with the higher priority runs earlier. Default: 0. With equal
	// priorities, the filter with the older Istio object runs earlier (with position
	// first or after, the one with the younger object); between objects of the same
	// second, the order of their names decides.
	// +optional
	// +kubebuilder:validation:Minimum=-1000
	// +kubebuilder:validation:Maximum=1000
	Priority *int32 `json:"priority,omitempty"`

	// position is the filter's place among a proxy's other HTTP filters.
	// Default: after them, right before the router.
	// +optional
	Position *Position `json:"position,omitempty"`

	// ports limits the filter to traffic to these ports: the container's ports for
	// inbound traffic, the Service's for outbound traffic, and the ones that its
	// pods listen on for a gateway. Default: all.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:Minimum=1
	// +kubebuilder:validation:items:Maximum=65535
	Ports []int32 `json:"ports,omitempty"`

	// vm is the virtual machine that runs the module.
	// +optional
	VM *VMSpec `json:"vm,omitempty"`

	// preflight says what follows when the operator runs the module with its
	// configuration and finds a fault, before any proxy gets it: Enforce keeps the
	// revision from all proxies, Warn only reports the fault in Preflighted, Off runs no
	// module. Put "Off" in quotes: YAML reads a bare one as false. Default: the
	// operator's --preflight, Enforce.
	// +optional
	Preflight Preflight `json:"preflight,omitempty"`

	// preflightTests are tests that the module has to pass in its preflight, too.
	// +optional
	PreflightTests *PreflightTests `json:"preflightTests,omitempty"`

	// imagePullOptions says how the operator reaches the image. With distribution
	// Registry, proxies use pullSecret, too, and none of the other options.
	// +optional
	ImagePullOptions *ImagePullOptions `json:"imagePullOptions,omitempty"`

	// imagePullPolicy says whether the operator follows a tag that moves. Always looks it
	// up every --image-poll-interval. IfNotPresent looks it up once, and keeps the digest
	// that the newest revision of this very image has. Default: Always.
	// +optional
	ImagePullPolicy ImagePullPolicy `json:"imagePullPolicy,omitempty"`
}

// ConfigMapKey references one key of a ConfigMap in the same namespace.
type ConfigMapKey struct {
	// name of the ConfigMap.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// key in its data or binaryData.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key"`
}

// ConfigurationSource is where a configuration comes from.
type ConfigurationSource struct {
	// configMapKeyRef is a key of a ConfigMap in the same namespace. The module
	// reads its content as it is. At most 256 KiB.
	// +required
	ConfigMapKeyRef ConfigMapKey `json:"configMapKeyRef"`
}

// Position is a place among the HTTP filters of a proxy. Exactly one field is set.
//
// +kubebuilder:validation:XValidation:rule="[has(self.first), has(self.before), has(self.after), has(self.phase)].exists_one(given, given)",message="position must have exactly one of first, before, after and phase: set one of them and leave the others out"
type Position struct {
	// first puts the filter before all others. EnvoyFilter only.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self",message="first cannot be false: set it to true or leave it out"
	First bool `json:"first,omitempty"`

	// before puts the filter before the first Envoy filter of this name, such as
	// `envoy.filters.http.ext_authz`. A proxy that has no such filter does not run
	// this one. EnvoyFilter only.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('envoy.') || self.startsWith('envoy.filters.http.')",message="no proxy has an HTTP filter of this name: Envoy's own are all named envoy.filters.http.…"
	Before string `json:"before,omitempty"`

	// after puts the filter after the first Envoy filter of this name, such as
	// `envoy.filters.http.cors`. A proxy that has no such filter does not run this
	// one. EnvoyFilter only.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('envoy.') || self.startsWith('envoy.filters.http.')",message="no proxy has an HTTP filter of this name: Envoy's own are all named envoy.filters.http.…"
	// +kubebuilder:validation:XValidation:rule="self != 'envoy.filters.http.router'",message="no filter runs after the router, which ends the chain: leave position out to run right before it"
	After string `json:"after,omitempty"`

	// phase is the part of the chain: Authn, before Istio's authentication
	// filters; Authz, before its authorization filters; Stats, before its
	// statistics filters. WasmPlugin and TrafficExtension only.
	// +optional
	Phase Phase `json:"phase,omitempty"`
}

// VMSpec is the virtual machine that runs a module.
type VMSpec struct {
	// env lists the environment variables that the module sees.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Env []EnvVar `json:"env,omitempty"`
}

// EnvVar is an environment variable of a module. It has exactly one of value and valueFrom.
//
// +kubebuilder:validation:XValidation:rule="has(self.value) != has(self.valueFrom)",message="a variable must have exactly one of value and valueFrom: set one of them and leave the other out"
type EnvVar struct {
	// name of the variable.
	// +required
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z_][A-Za-z0-9_]*$')",message="this cannot be the name of a variable: use letters, digits and '_', and do not begin with a digit"
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('ISTIO_META_')",message="Istio's agent removes variables whose names begin with ISTIO_META_: choose another name"
	Name string `json:"name"`

	// value of the variable. It appears in the Istio object, so do not put secrets here.
	// +optional
	// +kubebuilder:validation:MaxLength=2048
	Value *string `json:"value,omitempty"`

	// valueFrom says where the value comes from.
	// +optional
	ValueFrom *EnvVarSource `json:"valueFrom,omitempty"`
}

// EnvVarSource says where the value of an environment variable comes from.
//
// +kubebuilder:validation:XValidation:rule="has(self.host)",message="valueFrom does not say where the value comes from: set host to {}"
type EnvVarSource struct {
	// host takes the value of the proxy's own environment variable of the same name.
	// If the proxy has no such variable, the module does not see it either.
	// +optional
	Host *HostVariable `json:"host,omitempty"`
}

// HostVariable is the proxy's own environment variable of the same name. It has no fields yet.
type HostVariable struct{}

// DeploymentSpec selects the workloads that run a filter.
type DeploymentSpec struct {
	// istio selects workloads of an Istio mesh, in the namespace of the FilterDeployment.
	// +optional
	Istio *IstioDeploymentSpec `json:"istio,omitempty"`
}

// IstioDeploymentSpec selects workloads of an Istio mesh, or references gateways
// and Services, and says which kind of Istio object brings them the filter.
//
// +kubebuilder:validation:XValidation:rule="!has(self.selector) || !has(self.labels) || size(self.labels) == 0",message="labels and selector exclude each other: put the labels into selector.matchLabels",fieldPath=".selector"
// +kubebuilder:validation:XValidation:rule="!has(self.targetRefs) || size(self.targetRefs) == 0 || (!has(self.selector) && (!has(self.labels) || size(self.labels) == 0) && (!has(self.kind) || size(self.kind) == 0 || self.kind.lowerAscii() == 'deployment'))",message="targetRefs replace the selection of workloads: leave kind, labels and selector out",fieldPath=".targetRefs"
// +kubebuilder:validation:XValidation:rule="has(self.labels) || has(self.selector) || has(self.targetRefs) || !(has(self.output) || has(self.distribution))",message="this would select every workload of the namespace: set selector to {} if it should, or select some with labels, selector or targetRefs",fieldPath=".selector"
type IstioDeploymentSpec struct {
	// kind of the workloads, in any letter case: Deployment (default), DaemonSet or StatefulSet.
	// +optional
	// +kubebuilder:default=Deployment
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.lowerAscii() in ['', 'deployment', 'daemonset', 'statefulset']",message="kind is not supported: use Deployment, DaemonSet or StatefulSet"
	Kind string `json:"kind,omitempty"`

	// labels that a workload object must have, all of them. When empty, every
	// workload of the kind in the namespace is selected. With output or distribution,
	// labels, selector or targetRefs must be there, even if empty.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	Labels map[string]LabelValue `json:"labels,omitempty"`

	// selector that the labels of a workload object must match, instead of labels.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.matchLabels) || self.matchLabels.all(key, key.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'))",message="a key of matchLabels is not a label key: use one such as app or app.kubernetes.io/name"
	// +kubebuilder:validation:XValidation:rule="!has(self.matchExpressions) || self.matchExpressions.all(e, (e.operator in ['In', 'NotIn']) == (has(e.values) && size(e.values) > 0))",message="the values of an expression do not fit its operator: give In and NotIn values, and Exists and DoesNotExist none"
	Selector *metav1.LabelSelector `json:"selector,omitempty"`

	// targetRefs references objects in the same namespace instead of workloads:
	// Gateways, which are gateways of the Gateway API or waypoints, and Services
	// behind a waypoint.
	// +optional
	// +listType=map
	// +listMapKey=kind
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	TargetRefs []TargetRef `json:"targetRefs,omitempty"`

	// output is the kind of the Istio objects: EnvoyFilter (default), WasmPlugin or
	// TrafficExtension. An EnvoyFilter can carry everything but a phase, and reaches a
	// whole waypoint, but not one of its Services. The other two can carry a configuration only if it is an object.
	// They cannot say what happens to requests until the module loads, nor shorten
	// the wait after a crash.
	// +optional
	Output Output `json:"output,omitempty"`

	// distribution says where proxies get the module from. Served (default): from
	// the operator, by digest. Registry: from the image's registry, by the digest of
	// its manifest, if the image has one of the forms that Istio's agent knows.
	// +optional
	Distribution Distribution `json:"distribution,omitempty"`

	// verification says what Ready does while nothing shows whether the filter runs,
	// because no proxy of a targetRef is known, or because pods do not answer.
	// Required (default): it is Unknown. NotRequired: it does not wait for them. What
	// proxies do show counts in both cases.
	// +optional
	Verification Verification `json:"verification,omitempty"`

	// istioNamespace is the namespace of Istio's control plane. It is accepted for
	// compatibility and has no effect: a flag of the operator sets the mesh's root
	// namespace.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	IstioNamespace string `json:"istioNamespace,omitempty"`
}

// TargetRef references an object in the same namespace whose proxies run the filter.
//
// +kubebuilder:validation:XValidation:rule="self.kind == 'Gateway' ? has(self.group) && self.group == 'gateway.networking.k8s.io' : self.kind == 'Service' && (!has(self.group) || size(self.group) == 0)",message="a targetRef cannot reference this kind: use kind Gateway with group gateway.networking.k8s.io, or kind Service without group"
type TargetRef struct {
	// group of the object: gateway.networking.k8s.io for a Gateway, empty for a Service.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Group string `json:"group,omitempty"`

	// kind of the object: Gateway or Service.
	// +required
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind"`

	// name of the object.
	// +required
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="this cannot be the name of an object: use lower case letters, digits, '-' and single dots, with a letter or digit at both ends and beside each dot"
	Name string `json:"name"`
}

// ClassLabel is the label of a FilterDeployment with the class of the installation that
// looks after it (--class). An installation without a class looks after those without it.
const ClassLabel = "wasme.io/class"

// FilterDeployment runs a Wasm filter on workloads of an Istio mesh.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=fd,categories=wasme
// +kubebuilder:printcolumn:name="READY",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="WORKLOADS",type=string,JSONPath=`.status.summary.workloadsReady`
// +kubebuilder:printcolumn:name="PODS",type=string,JSONPath=`.status.summary.podsReady`
// +kubebuilder:printcolumn:name="IMAGE",type=string,JSONPath=`.spec.filter.image`
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="ROLLOUT",type=string,JSONPath=`.status.rollout.phase`,priority=1
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
	//
	// The default keeps a new object, which has no conditions yet, from looking
	// finished: to kstatus, an object without observedGeneration is current.
	// +optional
	// +kubebuilder:default={"observedGeneration":-1}
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
