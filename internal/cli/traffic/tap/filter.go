package tap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// recordingLabel is on the EnvoyFilters of recordings.
	recordingLabel = "wasme.io/recording"
	tapType        = "type.googleapis.com/envoy.extensions.filters.http.tap.v3.Tap"
	connections    = "envoy.filters.network.http_connection_manager"
	router         = "envoy.filters.http.router"
)

var envoyFilterKind = schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1alpha3", Kind: "EnvoyFilter"}

// NewFilterName returns a name for an EnvoyFilter that no other has.
func NewFilterName() string { return "wasme-record-" + utilrand.String(8) }

// envoyFilter returns the EnvoyFilter that puts the taps into the pod's proxy, and into no
// other: a pod shares its labels with the others of its workload, but not its name. It is
// applied last, so that the taps are around all filters that other EnvoyFilters insert.
func (r *Recorder) envoyFilter() *unstructured.Unstructured {
	selector := map[string]any{}
	for key, value := range r.Pod.Labels {
		selector[key] = value
	}
	object := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{
		"workloadSelector": map[string]any{"labels": selector},
		"priority":         int64(math.MaxInt32),
		"configPatches":    r.patches(),
	}}}
	object.SetGroupVersionKind(envoyFilterKind)
	object.SetNamespace(r.Pod.Namespace)
	object.SetName(r.FilterName)
	object.SetLabels(map[string]string{"app.kubernetes.io/managed-by": "wasme", recordingLabel: "true"})
	return object
}

// patches insert both taps: before all filters, and right before the router. A proxy takes
// those of its own context only: sidecars one, gateways the other.
func (r *Recorder) patches() []any {
	var patches []any
	for _, proxies := range []string{"SIDECAR_INBOUND", "GATEWAY"} {
		patches = append(patches,
			r.patch(proxies, "INSERT_FIRST", "wasme.record.first", map[string]any{"name": connections}),
			r.patch(proxies, "INSERT_BEFORE", "wasme.record.last", map[string]any{"name": connections, "subFilter": map[string]any{"name": router}}),
		)
	}
	return patches
}

func (r *Recorder) patch(proxies, operation, name string, filter map[string]any) any {
	return map[string]any{
		"applyTo": "HTTP_FILTER",
		"match": map[string]any{
			"context":  proxies,
			"proxy":    map[string]any{"metadata": map[string]any{"NAME": r.Pod.Name, "NAMESPACE": r.Pod.Namespace}},
			"listener": map[string]any{"filterChain": map[string]any{"filter": maps.Clone(filter)}},
		},
		"patch": map[string]any{
			"operation": operation,
			"value": map[string]any{
				"name": name,
				"typed_config": map[string]any{
					"@type":         tapType,
					"common_config": map[string]any{"admin_config": map[string]any{"config_id": r.FilterName}},
				},
			},
		},
	}
}

func (r *Recorder) insert(ctx context.Context) error {
	if err := r.Client.Create(ctx, r.envoyFilter()); err != nil {
		if ctx.Err() != nil { // it may have been created
			_ = r.remove(ctx) // what matters is the interruption
		}
		if meta.IsNoMatchError(err) {
			return errors.New("this cluster has no EnvoyFilters: recording needs Istio")
		}
		if apierrors.IsForbidden(err) {
			return fmt.Errorf("creating the EnvoyFilter that records: %w: ask for that right, or choose another --context", err)
		}
		return fmt.Errorf("creating the EnvoyFilter that records: %w", err)
	}
	return nil
}

// remove removes the EnvoyFilter, even when the context has ended.
func (r *Recorder) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if err := r.Client.Delete(ctx, r.envoyFilter()); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("removing the EnvoyFilter that records: %w: remove it with %s", err, RemoveCommand(client.ObjectKey{Namespace: r.Pod.Namespace, Name: r.FilterName}))
	}
	return nil
}

// RemoveCommand is the command that removes the EnvoyFilter of a recording.
func RemoveCommand(filter client.ObjectKey) string {
	return fmt.Sprintf("kubectl delete envoyfilter -n %s %s", filter.Namespace, filter.Name)
}
