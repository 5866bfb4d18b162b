// Licensed under the Apache License, Version 2.0; see LICENSE.

package mesh

import (
	"errors"
	"fmt"

	extensionsv1alpha1 "istio.io/client-go/pkg/apis/extensions/v1alpha1"
	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	networkingv1alpha3 "istio.io/client-go/pkg/apis/networking/v1alpha3"
	securityv1 "istio.io/client-go/pkg/apis/security/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// Scheme returns a scheme with Kubernetes' own types, Istio's, and the
// operator's.
func Scheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	var failed []error
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, apiextensionsv1.AddToScheme,
		networkingv1.AddToScheme, networkingv1alpha3.AddToScheme, extensionsv1alpha1.AddToScheme, securityv1.AddToScheme,
		wasmev1.AddToScheme,
	} {
		failed = append(failed, add(scheme))
	}
	if err := errors.Join(failed...); err != nil {
		return nil, fmt.Errorf("building the scheme: %w", err)
	}
	return scheme, nil
}

// NewClient returns a client for the types of Scheme. It shows no warnings.
func NewClient(config *rest.Config) (client.WithWatch, error) {
	scheme, err := Scheme()
	if err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.WarningHandler = rest.NoWarnings{}
	made, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	return made, nil
}
