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

// Phase is the part of an HTTP filter chain that a WasmPlugin or a
// TrafficExtension puts a filter into; names as in Istio.
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

// EnvValueSource says where the value of an environment variable comes from.
//
// +kubebuilder:validation:Enum=Host
// +kubebuilder:validation:MaxLength=16
type EnvValueSource string

// EnvFromHost is the proxy's own environment variable of the same name.
const EnvFromHost EnvValueSource = "Host"

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
	// DistributionServed: proxies fetch the module from the operator, by digest.
	DistributionServed Distribution = "Served"
	// DistributionRegistry: proxies pull the image, by the digest of its manifest.
	DistributionRegistry Distribution = "Registry"
)

// The kinds of objects that a targetRef may name.
const (
	// TargetKindGateway is gateway.networking.k8s.io Gateway: a gateway or a waypoint.
	TargetKindGateway = "Gateway"
	// TargetKindService is the core Service: its waypoint runs the filter.
	TargetKindService = "Service"
)

// LabelValue is the value of a label.
//
// +kubebuilder:validation:MaxLength=63
type LabelValue string

// FilterDeploymentSpec says which filter runs on which workloads. The rules over
// filter and deployment together stand in hack/crdschema.
type FilterDeploymentSpec struct {
	// filter is the filter to run: its image, its configuration, its place.
	// +required
	Filter FilterSpec `json:"filter"`

	// deployment selects the workloads that run the filter.
	// +optional
	Deployment DeploymentSpec `json:"deployment,omitempty"`

	// suspend keeps everything as it is: no new image is looked up, and nothing
	// is written, repaired or deleted.
	// +optional
	Suspend bool `json:"suspend,omitempty"`
}

// FilterSpec is a Wasm filter with its configuration. Not both of config and
// configFrom: hack/crdschema says so, as no rule can see config.
//
// +kubebuilder:validation:XValidation:rule="[has(self.image), has(self.url), has(self.configMap)].exists_one(given, given)",message="the module comes from exactly one of image, url and configMap"
// +kubebuilder:validation:XValidation:rule="!has(self.url) || has(self.sha256)",message="url needs sha256, the digest of the module that is meant",fieldPath=".url"
// +kubebuilder:validation:XValidation:rule="has(self.image) || !has(self.imagePullOptions)",message="imagePullOptions are for image: leave them out",fieldPath=".imagePullOptions"
// +kubebuilder:validation:XValidation:rule="!has(self.ports) || size(self.ports) == 0 || !has(self.patchContext) || self.patchContext != 'any'",message="a port is another one on inbound and on outbound traffic: with ports, set patchContext to inbound, outbound or gateway",fieldPath=".ports"
type FilterSpec struct {
	// id names the filter on its workloads: the Istio objects are called
	// `<workload>-<id>`. Default: `<name>.<namespace>` of the FilterDeployment.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",message="id becomes part of object names: use lower case letters, digits, '-' and '.', with a letter or digit at both ends"
	ID string `json:"id,omitempty"`

	// image is the OCI reference of the filter's image, by tag or by digest,
	// such as `ghcr.io/acme/add-header:v1`. Exactly one of image, url and configMap.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Image string `json:"image,omitempty"`

	// url is where the module itself is fetched from, by HTTP or HTTPS; sha256
	// must say which module it is. Exactly one of image, url and configMap.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && self.matches('^https?://[^/?#@]+([/?#]|$)')",message="url begins with http:// or https:// and a host, without user and password"
	URL string `json:"url,omitempty"`

	// configMap is a key of a ConfigMap of the namespace that holds the module,
	// as binary data. Exactly one of image, url and configMap.
	// +optional
	ConfigMap *ConfigMapKey `json:"configMap,omitempty"`

	// sha256 is the digest that the module's bytes must have, in 64 hexadecimal digits.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9a-f]{64}$')",message="sha256 is 64 hexadecimal digits in lower case, without `sha256:`"
	SHA256 string `json:"sha256,omitempty"`

	// config is what the module reads as its plugin configuration: a plain
	// string, an object (read as JSON), or a google.protobuf.Any holding a
	// StringValue or BytesValue (read raw) or a Struct (read as JSON). At most 256 KiB.
	// +optional
	Config *Configuration `json:"config,omitempty"`

	// configFrom is where the configuration comes from instead of config. A
	// WasmPlugin or TrafficExtension takes it only if it is a JSON object.
	// +optional
	ConfigFrom *ConfigurationSource `json:"configFrom,omitempty"`

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

	// priority orders the filters of one output kind that stand in the same
	// position: a higher one runs earlier. Default: 0. Of equal ones, that runs
	// earlier whose Istio object is older (with position first or after: younger);
	// of objects of the same second, the order of their names decides.
	// +optional
	// +kubebuilder:validation:Minimum=-1000
	// +kubebuilder:validation:Maximum=1000
	Priority *int32 `json:"priority,omitempty"`

	// position is the filter's place among a proxy's other HTTP filters.
	// Default: after them, right before the router.
	// +optional
	Position *Position `json:"position,omitempty"`

	// ports limits the filter to traffic to these ports: on inbound traffic
	// the container's, on outbound traffic the Service's, on a gateway those
	// that its pods listen on. Default: all.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:Minimum=1
	// +kubebuilder:validation:items:Maximum=65535
	Ports []int32 `json:"ports,omitempty"`

	// vm is the virtual machine that runs the module.
	// +optional
	VM *VMSpec `json:"vm,omitempty"`

	// imagePullOptions says how the operator reaches the image. With distribution
	// Registry proxies use pullSecret, too, and nothing else of it.
	// +optional
	ImagePullOptions *ImagePullOptions `json:"imagePullOptions,omitempty"`
}

// ConfigMapKey names one key of a ConfigMap of the namespace.
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
	// configMapKeyRef is a key of a ConfigMap of the namespace; its content is
	// the configuration, as it is. At most 256 KiB.
	// +required
	ConfigMapKeyRef ConfigMapKey `json:"configMapKeyRef"`
}

// Position is a place among the HTTP filters of a proxy. Exactly one field is set.
//
// +kubebuilder:validation:XValidation:rule="[has(self.first), has(self.before), has(self.after), has(self.phase)].exists_one(given, given)",message="position has exactly one of first, before, after and phase"
type Position struct {
	// first: before all other filters. EnvoyFilter only.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self",message="first is true, or left out"
	First bool `json:"first,omitempty"`

	// before the first Envoy filter of this name, such as
	// `envoy.filters.http.ext_authz`; nowhere while there is none. EnvoyFilter only.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('envoy.') || self.startsWith('envoy.filters.http.')",message="before is a name as proxies use it today; Envoy's own HTTP filters are all called envoy.filters.http.…"
	Before string `json:"before,omitempty"`

	// after the first Envoy filter of this name, such as
	// `envoy.filters.http.cors`; nowhere while there is none. EnvoyFilter only.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('envoy.') || self.startsWith('envoy.filters.http.')",message="after is a name as proxies use it today; Envoy's own HTTP filters are all called envoy.filters.http.…"
	// +kubebuilder:validation:XValidation:rule="self != 'envoy.filters.http.router'",message="after cannot be the router, which ends the chain; leave position out to stand right before it"
	After string `json:"after,omitempty"`

	// phase is the part of the chain: Authn, before Istio's authentication
	// filters; Authz, before its authorization filters; Stats, before its
	// statistics filters. WasmPlugin and TrafficExtension only.
	// +optional
	Phase Phase `json:"phase,omitempty"`
}

// VMSpec is the virtual machine that runs a module.
type VMSpec struct {
	// env are the environment variables that the module sees.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Env []EnvVar `json:"env,omitempty"`
}

// EnvVar is an environment variable of a module. Exactly one of value and valueFrom.
//
// +kubebuilder:validation:XValidation:rule="has(self.value) != has(self.valueFrom)",message="a variable has either value or valueFrom"
type EnvVar struct {
	// name of the variable.
	// +required
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z_][A-Za-z0-9_]*$')",message="name consists of letters, digits and '_', and does not begin with a digit"
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('ISTIO_META_')",message="names that begin with ISTIO_META_ are for Istio's agent, which takes them away; choose another name"
	Name string `json:"name"`

	// value of the variable. It stands in the Istio object, so it is no place for secrets.
	// +optional
	// +kubebuilder:validation:MaxLength=2048
	Value *string `json:"value,omitempty"`

	// valueFrom Host takes the value of the proxy's own environment variable of
	// that name. A variable that the proxy does not have is not set.
	// +optional
	ValueFrom EnvValueSource `json:"valueFrom,omitempty"`
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

// IstioDeploymentSpec selects workloads of an Istio mesh, or names gateways and
// Services, and says by which kind of object they get the filter.
//
// +kubebuilder:validation:XValidation:rule="!has(self.selector) || !has(self.labels) || size(self.labels) == 0",message="labels and selector exclude each other: say all in selector.matchLabels",fieldPath=".selector"
// +kubebuilder:validation:XValidation:rule="!has(self.targetRefs) || size(self.targetRefs) == 0 || (!has(self.selector) && (!has(self.labels) || size(self.labels) == 0) && (!has(self.kind) || size(self.kind) == 0 || self.kind.lowerAscii() == 'deployment'))",message="targetRefs stand instead of workloads: leave kind, labels and selector out",fieldPath=".targetRefs"
// +kubebuilder:validation:XValidation:rule="!has(self.targetRefs) || (has(self.output) && self.output != 'EnvoyFilter') || self.targetRefs.all(ref, ref.kind != 'Service')",message="the proxy of a Service is a waypoint, which takes no EnvoyFilter: set output to WasmPlugin or TrafficExtension",fieldPath=".targetRefs"
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

	// selector that the labels of a workload object must match, instead of labels.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.matchLabels) || self.matchLabels.all(key, key.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'))",message="the keys of matchLabels must be label keys, such as app or app.kubernetes.io/name"
	// +kubebuilder:validation:XValidation:rule="!has(self.matchExpressions) || self.matchExpressions.all(e, (e.operator in ['In', 'NotIn']) == (has(e.values) && size(e.values) > 0))",message="in matchExpressions the operators In and NotIn need values, Exists and DoesNotExist have none"
	Selector *metav1.LabelSelector `json:"selector,omitempty"`

	// targetRefs name objects of the namespace instead of workloads: Gateways,
	// that is gateways of the Gateway API and waypoints, and Services behind a waypoint.
	// +optional
	// +listType=map
	// +listMapKey=kind
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	TargetRefs []TargetRef `json:"targetRefs,omitempty"`

	// output is the kind of the Istio objects: EnvoyFilter (default), WasmPlugin or
	// TrafficExtension. An EnvoyFilter can carry everything but a phase, and reaches
	// no waypoint. The others carry a configuration that is an object, and neither
	// a default for the time until the module loads nor a short wait after a crash.
	// +optional
	Output Output `json:"output,omitempty"`

	// distribution says where proxies get the module from: Served (default), from
	// the operator, by digest; Registry, from the image's registry, by the digest
	// of its manifest, in the image forms that Istio's agent knows.
	// +optional
	Distribution Distribution `json:"distribution,omitempty"`

	// istioNamespace is the namespace of Istio's control plane. Accepted for
	// compatibility; the operator is told the mesh's root namespace by a flag.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	IstioNamespace string `json:"istioNamespace,omitempty"`
}

// TargetRef names an object of the namespace whose proxies run the filter.
//
// +kubebuilder:validation:XValidation:rule="self.kind == 'Gateway' ? has(self.group) && self.group == 'gateway.networking.k8s.io' : self.kind == 'Service' && (!has(self.group) || size(self.group) == 0)",message="a targetRef is a Gateway of the group gateway.networking.k8s.io or a Service of the core group (leave group out)"
type TargetRef struct {
	// group of the object: gateway.networking.k8s.io for a Gateway; empty for a Service.
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
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",message="name is that of an object: lower case letters, digits, '-' and '.', with a letter or digit at both ends"
	Name string `json:"name"`
}

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
	// finished: kstatus takes an object without observedGeneration for current.
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
