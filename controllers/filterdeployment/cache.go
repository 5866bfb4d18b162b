package filterdeployment

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
	"github.com/wasme-io/wasme-operator/internal/legacy"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// CacheOptions keep the cache small: workloads keep their identity and labels,
// outputs their metadata and a hash of their spec, FilterDeployments and revisions small
// configurations only. Reading a kind that is not
// watched fails instead of starting a watch. No namespaces means all.
//
// What holds for outputs are the defaults: a kind that is named here must be
// served when the operator starts, and those of outputs may come later. The written
// objects are told of what comes in.
//
// Of FilterDeployments, and of what was made for them, the cache has those of the class
// only, so the operator knows of no others.
func CacheOptions(namespaces []string, class string, written *Written) cache.Options {
	made := labels.SelectorFromSet(labels.Set{ownership.ManagedByLabel: ownership.ManagedBy(class)})
	options := cache.Options{
		ReaderFailOnMissingInformer: true,
		DefaultLabelSelector:        made,
		DefaultTransform: func(item any) (any, error) {
			written.Seen(item)
			return istio.Trim(item)
		},
		ByObject: map[client.Object]cache.ByObject{
			&wasmev1.FilterDeployment{}:    {Label: classSelector(class), Transform: trimFilterDeployment},
			&wasmev1.FilterPolicy{}:        {Label: labels.Everything(), Transform: istio.Trim},
			&wasmev1.ClusterFilterPolicy{}: {Label: labels.Everything(), Transform: istio.Trim},
			&corev1.Pod{}:                  {Label: labels.Everything(), Transform: workload.TrimPod},
			&corev1.Service{}:              {Label: labels.Everything(), Transform: workload.TrimReference},
			workload.NewGateway():          {Label: labels.Everything(), Transform: workload.TrimReference},
			&appsv1.ControllerRevision{}: {Transform: func(item any) (any, error) {
				written.Seen(item)
				return revision.Trim(item)
			}},
		},
	}
	for _, kind := range workload.Kinds {
		options.ByObject[kind.New()] = cache.ByObject{Label: labels.Everything(), Transform: legacy.Transform(workload.Trim)}
	}
	for _, namespace := range namespaces {
		if options.DefaultNamespaces == nil {
			options.DefaultNamespaces = map[string]cache.Config{}
		}
		options.DefaultNamespaces[namespace] = cache.Config{}
	}
	return options
}

// trimFilterDeployment leaves out a large configuration, which a pass reads then.
func trimFilterDeployment(item any) (any, error) {
	fd, ok := item.(*wasmev1.FilterDeployment)
	if !ok {
		return item, nil
	}
	fd.SetManagedFields(nil)
	if config := fd.Spec.Filter.Config; config != nil && len(config.Raw) > revision.MaxCachedConfiguration {
		metav1.SetMetaDataAnnotation(&fd.ObjectMeta, revision.CutAnnotation, strconv.Itoa(len(config.Raw)))
		fd.Spec.Filter.Config = nil
	}
	return fd, nil
}

func classSelector(class string) labels.Selector {
	operator, values := selection.Equals, []string{class}
	if class == "" {
		operator, values = selection.DoesNotExist, nil
	}
	requirement, err := labels.NewRequirement(wasmev1.ClassLabel, operator, values)
	utilruntime.Must(err) // the flag was checked
	return labels.NewSelector().Add(*requirement)
}

// NamespacedMapper maps the kinds that the operator reads and writes, without
// asking the API server: all but namespaces are namespaced, and all but Gateways
// have resources that are named as usual.
func NamespacedMapper(scheme *runtime.Scheme) func(*rest.Config, *http.Client) (apimeta.RESTMapper, error) {
	return func(*rest.Config, *http.Client) (apimeta.RESTMapper, error) {
		mapper := apimeta.NewDefaultRESTMapper(nil)
		for kind := range scheme.AllKnownTypes() {
			mapper.Add(kind, apimeta.RESTScopeNamespace)
		}
		mapper.Add(corev1.SchemeGroupVersion.WithKind("Namespace"), apimeta.RESTScopeRoot)
		mapper.Add(wasmev1.GroupVersion.WithKind("ClusterFilterPolicy"), apimeta.RESTScopeRoot)
		gateways := workload.GatewayKind.GroupVersion()
		mapper.AddSpecific(workload.GatewayKind, gateways.WithResource("gateways"), gateways.WithResource("gateway"), apimeta.RESTScopeNamespace)
		return mapper, nil
	}
}

// podOwnerIndex finds the pods of a workload or Gateway: `<kind>/<name>`.
const podOwnerIndex = "owner"

// IndexCache adds the indexes that the controller looks things up by.
func IndexCache(ctx context.Context, indexer client.FieldIndexer) error {
	err := indexer.IndexField(ctx, &corev1.Pod{}, podOwnerIndex, func(object client.Object) []string {
		var keys []string
		for _, owner := range workload.Owners(object.(*corev1.Pod)) {
			keys = append(keys, ownerKey(owner))
		}
		return keys
	})
	if err != nil {
		return fmt.Errorf("indexing pods: %w", err)
	}
	return nil
}

func ownerKey(owner workload.Target) string { return owner.Kind + "/" + owner.Name }
