package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/resolve"
	"github.com/wasme-io/wasme-operator/internal/revision"
)

// ConfigMaps with a module or a configuration are read by name.
// +kubebuilder:rbac:groups="",resources=configmaps,verbs=get

// ConfigMaps are not watched, so they are looked at again and again: at their metadata
// first, and at their content, a MiB at most, only when that has changed.

const (
	// maxCertificates is the number of bytes of certificates that an image may bring.
	maxCertificates = 64 << 10
	// A Values keeps the last maxValues values of at most maxValueBytes: 16 MiB.
	maxValues     = 1024
	maxValueBytes = 16 << 10
)

// value is one value of a ConfigMap.
type value struct {
	content []byte
	// version changes with the ConfigMap, and is the same for no other value.
	version string
}

func versionOf(object metav1.Object, key string) string {
	return fmt.Sprintf("configmap:%s/%s/%s", object.GetUID(), object.GetResourceVersion(), key)
}

// Values remembers small values of ConfigMaps.
type Values struct{ known *lru.Cache }

// NewValues returns a Values without any.
func NewValues() *Values { return &Values{lru.New(maxValues)} }

// valueKey is where a value is.
type valueKey struct {
	namespace string
	wasmev1.ConfigMapKey
}

// Configuration returns the content that spec.filter.configFrom references.
func (f *Finder) Configuration(ctx context.Context, namespace string, from wasmev1.ConfigMapKey) ([]byte, error) {
	const field = "spec.filter.configFrom.configMapKeyRef"
	found, err := f.smallValue(ctx, namespace, field, from)
	if err != nil {
		return nil, err
	}
	if len(found.content) > wasmev1.MaxConfigurationBytes {
		return nil, configMapError(wasmev1.ReasonConfigMapInvalid, "%s names a value of %d bytes: a configuration has at most %d", field, len(found.content), wasmev1.MaxConfigurationBytes)
	}
	return found.content, nil
}

// PreflightTests returns the content that preflightTests.configMap references.
func (f *Finder) PreflightTests(ctx context.Context, namespace string, from wasmev1.ConfigMapKey) ([]byte, error) {
	found, err := f.smallValue(ctx, namespace, "spec.filter.preflightTests.configMap", from)
	if err != nil {
		return nil, err
	}
	return found.content, nil
}

// certificates returns the content that imagePullOptions.caCertificates references.
func (f *Finder) certificates(ctx context.Context, namespace string, from wasmev1.ConfigMapKey) (string, error) {
	const field = "spec.filter.imagePullOptions.caCertificates"
	found, err := f.smallValue(ctx, namespace, field, from)
	if err != nil {
		return "", err
	}
	if len(found.content) > maxCertificates {
		return "", configMapError(wasmev1.ReasonConfigMapInvalid, "%s names a value of %d bytes: leave the certificates out that the registry does not need, at most %d bytes are read", field, len(found.content), maxCertificates)
	}
	return string(found.content), nil
}

// findInConfigMap resolves the module that a ConfigMap holds now.
func (f *Finder) findInConfigMap(ctx context.Context, owner types.NamespacedName, filter wasmev1.FilterSpec) (resolve.Result, error) {
	const field = "spec.filter.configMap"
	from := *filter.ConfigMap
	version, err := f.version(ctx, owner.Namespace, field, from)
	if err != nil {
		return resolve.Result{}, err
	}
	if known, found := f.Modules.RecallContent(owner, revision.Source(filter), version); found {
		return known, nil
	}
	read, err := f.value(ctx, owner.Namespace, field, from)
	if err != nil {
		return resolve.Result{}, err
	}
	return f.Modules.ResolveContent(owner, revision.Source(filter), read.version, read.content), nil
}

// findRevisionInConfigMap keeps what a ConfigMap holds if it is still the revision's module.
func (f *Finder) findRevisionInConfigMap(ctx context.Context, owner types.NamespacedName, known revision.Revision) (resolve.Result, error) {
	read, err := f.value(ctx, owner.Namespace, "spec.filter.configMap", *known.Filter.ConfigMap)
	if err != nil {
		return resolve.Result{}, err
	}
	if sum := sha256.Sum256(read.content); hex.EncodeToString(sum[:]) != known.Module.SHA256 {
		return resolve.Result{}, fmt.Errorf("ConfigMap %s has another module than the revision, which only other replicas have", known.Filter.ConfigMap.Name)
	}
	return f.Modules.ResolveContent(owner, revision.Source(known.Filter), read.version, read.content), nil
}

// smallValue reads one value, unless it is remembered and has not changed.
func (f *Finder) smallValue(ctx context.Context, namespace, field string, from wasmev1.ConfigMapKey) (value, error) {
	key := valueKey{namespace, from}
	if known, found := f.Values.known.Get(key); found {
		version, err := f.version(ctx, namespace, field, from)
		if err != nil || version == known.(value).version {
			return known.(value), err
		}
	}
	read, err := f.value(ctx, namespace, field, from)
	if err == nil && len(read.content) <= maxValueBytes {
		f.Values.known.Add(key, read)
	}
	return read, err
}

// version reads the metadata of a ConfigMap.
func (f *Finder) version(ctx context.Context, namespace, field string, from wasmev1.ConfigMapKey) (string, error) {
	object := &metav1.PartialObjectMetadata{}
	object.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	if err := f.readConfigMap(ctx, namespace, field, from.Name, object); err != nil {
		return "", err
	}
	return versionOf(object, from.Key), nil
}

// value reads one value of a ConfigMap, which the field of the spec names.
func (f *Finder) value(ctx context.Context, namespace, field string, from wasmev1.ConfigMapKey) (value, error) {
	var object corev1.ConfigMap
	if err := f.readConfigMap(ctx, namespace, field, from.Name, &object); err != nil {
		return value{}, err
	}
	version := versionOf(&object, from.Key)
	if content, found := object.BinaryData[from.Key]; found {
		return value{content, version}, nil
	}
	if text, found := object.Data[from.Key]; found {
		return value{[]byte(text), version}, nil
	}
	return value{}, configMapError(wasmev1.ReasonConfigMapInvalid, "%s names key %q, which ConfigMap %s does not have: add the key, or fix its name", field, from.Key, from.Name)
}

func (f *Finder) readConfigMap(ctx context.Context, namespace, field, name string, into client.Object) error {
	err := f.Reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, into)
	if apierrors.IsNotFound(err) {
		return configMapError(wasmev1.ReasonConfigMapNotFound, "%s names ConfigMap %s in namespace %s, which does not exist: create it, or fix the name", field, name, namespace)
	}
	if err != nil {
		return configMapError(wasmev1.ReasonConfigMapUnreadable, "%s names ConfigMap %s in namespace %s, which could not be read: %v", field, name, namespace, err)
	}
	return nil
}

func configMapError(reason, format string, args ...any) *module.Error {
	return &module.Error{Reason: reason, Message: fmt.Sprintf(format, args...)}
}
