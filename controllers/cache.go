package controllers

import (
	"net/http"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
)

// specHashAnnotation stands on cached outputs only, in place of their spec.
const specHashAnnotation = "wasme.io/cached-spec-hash"

// CacheOptions keep the cache small: workloads keep their identity and labels,
// outputs their metadata and a hash of their spec. Reading a kind that is not
// watched fails instead of starting a watch. The namespaces are all when empty.
//
// What holds for outputs are the defaults: a kind that is named here must be
// served when the operator starts, and those of outputs may come later.
func CacheOptions(namespaces []string) cache.Options {
	made := labels.SelectorFromSet(labels.Set{managedByLabel: managedBy})
	options := cache.Options{
		ReaderFailOnMissingInformer: true,
		DefaultLabelSelector:        made,
		DefaultTransform:            trimOutput,
		ByObject: map[client.Object]cache.ByObject{
			&wasmev1.FilterDeployment{}:  {Label: labels.Everything(), Transform: cache.TransformStripManagedFields()},
			&appsv1.Deployment{}:         {Label: labels.Everything(), Transform: trimWorkload},
			&appsv1.DaemonSet{}:          {Label: labels.Everything(), Transform: trimWorkload},
			&appsv1.StatefulSet{}:        {Label: labels.Everything(), Transform: trimWorkload},
			&corev1.Pod{}:                {Label: labels.Everything(), Transform: trimPod},
			&appsv1.ControllerRevision{}: {Transform: cache.TransformStripManagedFields()},
		},
	}
	for _, namespace := range namespaces {
		if options.DefaultNamespaces == nil {
			options.DefaultNamespaces = map[string]cache.Config{}
		}
		options.DefaultNamespaces[namespace] = cache.Config{}
	}
	return options
}

// NamespacedMapper maps the kinds that the operator reads and writes, without
// asking the API server: all are namespaced, and their resources are named as
// usual.
func NamespacedMapper(scheme *runtime.Scheme) func(*rest.Config, *http.Client) (apimeta.RESTMapper, error) {
	return func(*rest.Config, *http.Client) (apimeta.RESTMapper, error) {
		mapper := apimeta.NewDefaultRESTMapper(nil)
		for kind := range scheme.AllKnownTypes() {
			mapper.Add(kind, apimeta.RESTScopeNamespace)
		}
		return mapper, nil
	}
}

func trimWorkload(item any) (any, error) {
	switch workload := item.(type) {
	case *appsv1.Deployment:
		trimMeta(&workload.ObjectMeta)
		// The number of replicas tells whether the predecessor's operator runs.
		workload.Spec = appsv1.DeploymentSpec{Replicas: workload.Spec.Replicas, Template: labelled(workload.Spec.Template)}
		workload.Status = appsv1.DeploymentStatus{}
	case *appsv1.DaemonSet:
		trimMeta(&workload.ObjectMeta)
		workload.Spec = appsv1.DaemonSetSpec{Template: labelled(workload.Spec.Template)}
		workload.Status = appsv1.DaemonSetStatus{}
	case *appsv1.StatefulSet:
		trimMeta(&workload.ObjectMeta)
		workload.Spec = appsv1.StatefulSetSpec{Template: labelled(workload.Spec.Template)}
		workload.Status = appsv1.StatefulSetStatus{}
	}
	return item, nil
}

func trimMeta(meta *metav1.ObjectMeta) {
	*meta = metav1.ObjectMeta{
		Namespace:       meta.Namespace,
		Name:            meta.Name,
		UID:             meta.UID,
		ResourceVersion: meta.ResourceVersion,
		Labels:          meta.Labels,
	}
}

func labelled(template corev1.PodTemplateSpec) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: template.Labels}}
}

func trimOutput(item any) (any, error) {
	object, ok := item.(istio.Output)
	if !ok {
		return item, nil
	}
	annotations := object.GetAnnotations()
	// A transform may be given its own result: the first listing goes through it
	// twice. What the API server sends has managed fields.
	if object.GetManagedFields() == nil && annotations[specHashAnnotation] != "" {
		return object, nil
	}
	object.SetManagedFields(nil)
	object.SetAnnotations(merged(annotations, map[string]string{specHashAnnotation: specHash(object.Content().Raw)}))
	*object.Content() = runtime.RawExtension{}
	return object, nil
}
