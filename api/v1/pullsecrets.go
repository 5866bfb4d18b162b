package v1

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
