package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PolicyMode says what follows when a FilterDeployment breaks a policy.
//
// +kubebuilder:validation:Enum=Enforce;Warn
// +kubebuilder:validation:MaxLength=16
type PolicyMode string

// The modes of policies.
const (
	// PolicyEnforce keeps new revisions from all proxies.
	PolicyEnforce PolicyMode = "Enforce"
	// PolicyWarn reports it in Admitted, and rolls the revision out.
	PolicyWarn PolicyMode = "Warn"
)

// ModuleSource is a place that modules come from, after the field of spec.filter.
//
// +kubebuilder:validation:Enum=Image;URL;ConfigMap
// +kubebuilder:validation:MaxLength=16
type ModuleSource string

// The sources of modules.
const (
	// SourceImage is an image in a registry.
	SourceImage ModuleSource = "Image"
	// SourceURL is a URL with the digest of the module.
	SourceURL ModuleSource = "URL"
	// SourceConfigMap is a ConfigMap.
	SourceConfigMap ModuleSource = "ConfigMap"
)

// Capability is something that a module can do because of what it imports.
//
// +kubebuilder:validation:Enum=HTTPCalls;GRPCCalls;LocalResponses;SharedData;SharedQueues;Metrics;ForeignFunctions;ReadProperties;SetProperties;ChangeHeaders
// +kubebuilder:validation:MaxLength=32
type Capability string

// The capabilities.
const (
	// CapabilityHTTPCalls is calling out over HTTP.
	CapabilityHTTPCalls Capability = "HTTPCalls"
	// CapabilityGRPCCalls is calling out over gRPC.
	CapabilityGRPCCalls Capability = "GRPCCalls"
	// CapabilityLocalResponses is answering requests itself.
	CapabilityLocalResponses Capability = "LocalResponses"
	// CapabilitySharedData is writing data that other modules of the proxy can read.
	CapabilitySharedData Capability = "SharedData"
	// CapabilitySharedQueues is sending messages to other modules of the proxy.
	CapabilitySharedQueues Capability = "SharedQueues"
	// CapabilityMetrics is writing metrics of the proxy.
	CapabilityMetrics Capability = "Metrics"
	// CapabilityForeignFunctions is calling functions of the proxy that are not part of
	// proxy-wasm.
	CapabilityForeignFunctions Capability = "ForeignFunctions"
	// CapabilityReadProperties is reading properties of the proxy and of requests.
	CapabilityReadProperties Capability = "ReadProperties"
	// CapabilitySetProperties is setting properties, which other filters read.
	CapabilitySetProperties Capability = "SetProperties"
	// CapabilityChangeHeaders is changing headers and trailers.
	CapabilityChangeHeaders Capability = "ChangeHeaders"
)

// FilterPolicySpec says which filters may run. A filter must meet all policies that
// apply to it.
type FilterPolicySpec struct {
	// mode says what follows when a filter breaks the policy: Enforce keeps its new
	// revisions from all proxies, Warn only reports it in the condition Admitted. What
	// proxies run already stays.
	// +optional
	// +kubebuilder:default=Enforce
	Mode PolicyMode `json:"mode,omitempty"`

	// sources are the places that modules may come from. Default: all.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=3
	Sources []ModuleSource `json:"sources,omitempty"`

	// images say which images may be used, and who must have signed them. An image must
	// match at least one entry, and meet every entry that it matches. Default: all
	// images. They do not apply to modules from a url or a configMap: see sources.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Images []ImageRule `json:"images,omitempty"`

	// trustedRoot is the Sigstore instance whose certificates and logs keyless signatures
	// must come from. Default: the public instance of Sigstore, or the one of the
	// operator's --tuf-url, whose trusted root the operator fetches.
	// +optional
	TrustedRoot *TrustedRoot `json:"trustedRoot,omitempty"`

	// deniedCapabilities are what modules must not be able to do, by what they import.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	DeniedCapabilities []Capability `json:"deniedCapabilities,omitempty"`

	// failStrategies are the values that spec.filter.failStrategy may have. Default: all.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=3
	FailStrategies []FailStrategy `json:"failStrategies,omitempty"`
}

// ImageRule says who must have signed some images.
type ImageRule struct {
	// patterns match the names of images, with the registry and without tag and digest,
	// such as `ghcr.io/acme/*` or `ghcr.io/acme/**`: `*` stands for anything within a
	// part of the path, `**` for any parts. There are no other wildcards.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=512
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[A-Za-z0-9._:/*-]+$')",message="this is not a pattern: use letters, digits and ._:/- with the wildcards * and **"
	// +kubebuilder:validation:items:XValidation:rule="!self.matches('[^/][*][*]|[*][*][^/]')",message="** must be a whole part of the path: use * within a part"
	Patterns []string `json:"patterns"`

	// signers must have signed the image. Default: nobody.
	// +optional
	Signers *Signers `json:"signers,omitempty"`
}

// Signers are those who must have signed an image.
//
// +kubebuilder:validation:XValidation:rule="has(self.allOf) && size(self.allOf) > 0 || has(self.anyOf)",message="signers names nobody: set allOf, anyOf or both"
type Signers struct {
	// allOf are signers of whom each must have signed.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	AllOf []Signer `json:"allOf,omitempty"`

	// anyOf are signers of whom some must have signed.
	// +optional
	AnyOf *AnyOfSigners `json:"anyOf,omitempty"`
}

// AnyOfSigners are signers of whom a number must have signed.
//
// +kubebuilder:validation:XValidation:rule="!has(self.minimum) || self.minimum <= size(self.signers)",message="minimum is larger than the number of signers: lower it, or add signers",fieldPath=".minimum"
type AnyOfSigners struct {
	// minimum is how many of the signers must have signed, each with a key or an identity
	// of its own. Default: 1.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16
	Minimum *int32 `json:"minimum,omitempty"`

	// signers are those who count.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Signers []Signer `json:"signers"`
}

// Signer is somebody who signs images with cosign or with GitHub's attestations. It has
// exactly one of key and keyless.
//
// +kubebuilder:validation:XValidation:rule="has(self.key) != has(self.keyless)",message="a signer must have exactly one of key and keyless: set one of them and leave the other out"
type Signer struct {
	// name of the signer in messages.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`

	// key is the signer's public key. Signatures by a key are not looked up in a
	// transparency log.
	// +optional
	Key *SignerKey `json:"key,omitempty"`

	// keyless is the signer's identity in the certificates of a Sigstore instance.
	// +optional
	Keyless *SignerIdentity `json:"keyless,omitempty"`
}

// SignerKey is a public key.
type SignerKey struct {
	// pem is the key in PEM (PKIX), as `cosign generate-key-pair` writes it to cosign.pub.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=8192
	PEM string `json:"pem"`
}

// SignerIdentity is an identity in a certificate. It has exactly one of subject and
// subjectRegExp.
//
// +kubebuilder:validation:XValidation:rule="has(self.subject) != has(self.subjectRegExp)",message="keyless must have exactly one of subject and subjectRegExp: set one of them and leave the other out"
type SignerIdentity struct {
	// issuer is the OpenID Connect issuer that vouched for the identity, such as
	// `https://token.actions.githubusercontent.com`.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Issuer string `json:"issuer"`

	// subject is the identity: an email address, or the URI of a workflow, such as
	// `https://github.com/acme/filters/.github/workflows/release.yaml@refs/heads/main`.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Subject string `json:"subject,omitempty"`

	// subjectRegExp is a regular expression (RE2) that the whole subject must match. The
	// expressions of a policy have up to 16384 instructions, some one for each letter.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	SubjectRegExp string `json:"subjectRegExp,omitempty"`
}

// TrustedRoot is the trusted root of a Sigstore instance.
type TrustedRoot struct {
	// inline is the trusted root in JSON, as `cosign trusted-root create` or `gh
	// attestation trusted-root` write it. It may have several, one after the other.
	// It is part of the policy, so that nobody can change one without the other.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=131072
	Inline string `json:"inline"`
}

// ClusterFilterPolicySpec says which filters may run in some namespaces.
type ClusterFilterPolicySpec struct {
	FilterPolicySpec `json:",inline"`

	// namespaceSelector selects namespaces by their labels, which are read every 30 s.
	// Default: all.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.matchLabels) || self.matchLabels.all(key, key.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'))",message="a key of matchLabels is not a label key: use one such as app or app.kubernetes.io/name"
	// +kubebuilder:validation:XValidation:rule="!has(self.matchExpressions) || self.matchExpressions.all(e, (e.operator in ['In', 'NotIn']) == (has(e.values) && size(e.values) > 0))",message="the values of an expression do not fit its operator: give In and NotIn values, and Exists and DoesNotExist none"
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`
}

// FilterPolicy says which filters may run in its namespace.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories=wasme
// +kubebuilder:printcolumn:name="MODE",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=`.metadata.creationTimestamp`
type FilterPolicy struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the object's metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says which filters may run.
	// +required
	Spec FilterPolicySpec `json:"spec"`
}

// FilterPolicyList is a list of FilterPolicies.
//
// +kubebuilder:object:root=true
type FilterPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []FilterPolicy `json:"items"`
}

// ClusterFilterPolicy says which filters may run in the cluster.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=wasme
// +kubebuilder:printcolumn:name="MODE",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=`.metadata.creationTimestamp`
type ClusterFilterPolicy struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the object's metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says which filters may run, and where.
	// +required
	Spec ClusterFilterPolicySpec `json:"spec"`
}

// ClusterFilterPolicyList is a list of ClusterFilterPolicies.
//
// +kubebuilder:object:root=true
type ClusterFilterPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []ClusterFilterPolicy `json:"items"`
}
