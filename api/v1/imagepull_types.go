package v1

// ImagePullPolicy says whether the operator follows a tag that moves.
//
// +kubebuilder:validation:Enum=Always;IfNotPresent
// +kubebuilder:validation:MaxLength=16
type ImagePullPolicy string

// Whether the operator follows a tag that moves.
const (
	// PullAlways looks a tag up again and again, and rolls out what it has then.
	PullAlways ImagePullPolicy = "Always"
	// PullIfNotPresent looks a tag up once, and keeps the image that it had.
	PullIfNotPresent ImagePullPolicy = "IfNotPresent"
)

// ImagePullOptions says how the operator reaches an image.
//
// +kubebuilder:validation:XValidation:rule="!has(self.pullSecret) || size(self.pullSecret) == 0 || !has(self.pullSecrets) || size(self.pullSecrets) == 0",message="pullSecret and pullSecrets exclude each other: put the name into pullSecrets",fieldPath=".pullSecrets"
type ImagePullOptions struct {
	// pullSecret is the name of a Secret in the same namespace: one of type
	// kubernetes.io/dockerconfigjson, or one with the keys `username` and `password`
	// and the annotation `wasme.io/registry: <host>`, which says what registry it is for.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	PullSecret string `json:"pullSecret,omitempty"`

	// pullSecrets are such Secrets, of which the first is used that has a credential for
	// the image's registry. With distribution Registry there can be one.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	PullSecrets []SecretReference `json:"pullSecrets,omitempty"`

	// caCertificates is a key of a ConfigMap in the same namespace, with certificates in
	// PEM of authorities that the operator trusts for this image's registry, too. At most
	// 64 KiB. With distribution Registry, proxies must trust them by other means.
	// +optional
	CACertificates *ConfigMapKey `json:"caCertificates,omitempty"`

	// insecureSkipVerify accepts any certificate from this image's registry.
	// +optional
	InsecureSkipVerify bool `json:"insecureSkipVerify,omitempty"`

	// plainHttp allows plain HTTP to this image's registry.
	// +optional
	PlainHTTP bool `json:"plainHttp,omitempty"`
}

// SecretReference references a Secret in the same namespace.
type SecretReference struct {
	// name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// SecretNames returns the names of the pull Secrets, in their order.
func (o *ImagePullOptions) SecretNames() []string {
	switch {
	case o == nil:
		return nil
	case o.PullSecret != "":
		return []string{o.PullSecret}
	}
	names := make([]string, 0, len(o.PullSecrets))
	for _, secret := range o.PullSecrets {
		names = append(names, secret.Name)
	}
	return names
}
