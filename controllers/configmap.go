package controllers

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// ConfigMaps are read by name, and not cached: the operator sees no other.
// +kubebuilder:rbac:groups="",resources=configmaps,verbs=get

// configMapInterval is how soon a change of a ConfigMap is noticed.
const configMapInterval = 30 * time.Second

// configured is the filter of a spec with the configuration that its configFrom names.
func (r *FilterDeploymentReconciler) configured(ctx context.Context, fd *wasmev1.FilterDeployment) (wasmev1.FilterSpec, error) {
	if fd.Spec.Filter.ConfigFrom == nil {
		return fd.Spec.Filter, nil
	}
	const field = "spec.filter.configFrom.configMapKeyRef"
	content, err := configMapValue(ctx, r.Reader, fd.Namespace, field, fd.Spec.Filter.ConfigFrom.ConfigMapKeyRef)
	if err != nil {
		return wasmev1.FilterSpec{}, err
	}
	if len(content) > wasmev1.MaxConfigurationBytes {
		return wasmev1.FilterSpec{}, configMapError(wasmev1.ReasonConfigMapInvalid, "%s names a value of %d bytes; a configuration has at most %d", field, len(content), wasmev1.MaxConfigurationBytes)
	}
	return render.WithConfiguration(fd.Spec.Filter, content), nil
}

// configMapValue reads one value of a ConfigMap, which the field of the spec names.
func configMapValue(ctx context.Context, reader client.Reader, namespace, field string, from wasmev1.ConfigMapKey) ([]byte, error) {
	var object corev1.ConfigMap
	err := reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: from.Name}, &object)
	if apierrors.IsNotFound(err) {
		return nil, configMapError(wasmev1.ReasonConfigMapNotFound, "%s names ConfigMap %s of namespace %s, which does not exist; create it or mend the name", field, from.Name, namespace)
	}
	if err != nil {
		return nil, configMapError(wasmev1.ReasonConfigMapUnreadable, "%s names ConfigMap %s of namespace %s: %v", field, from.Name, namespace, err)
	}
	if content, found := object.BinaryData[from.Key]; found {
		return content, nil
	}
	if text, found := object.Data[from.Key]; found {
		return []byte(text), nil
	}
	return nil, configMapError(wasmev1.ReasonConfigMapInvalid, "%s names key %q, which ConfigMap %s does not have; add it or mend the key", field, from.Key, from.Name)
}

func configMapError(reason, format string, args ...any) *module.Error {
	return &module.Error{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// readsConfigMap tells whether a spec depends on a ConfigMap, which is not watched.
func readsConfigMap(filter wasmev1.FilterSpec) bool {
	return filter.ConfigFrom != nil || filter.ConfigMap != nil
}
