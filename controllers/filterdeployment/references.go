package filterdeployment

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/version"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/controllers/outputkinds"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// What targetRefs reference is watched, because it comes and goes. Only metadata is
// read: a Gateway's annotation and a Service's labels lead to the pods.
// +kubebuilder:rbac:groups=gateway.networking.k8s.io,resources=gateways,verbs=list;watch
// +kubebuilder:rbac:groups="",resources=services,verbs=list;watch
// A namespace chooses the waypoint of its Services. It is read by its name, which a Role
// allows, too, only for Services in targetRefs that choose none themselves:
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get

// findReferences completes the targets of targetRefs with their proxies. The verdict
// says what is not there.
func (r *Reconciler) findReferences(ctx context.Context, selection workload.Selection) ([]workload.Target, condition.Verdict) {
	targets := slices.Clone(selection.References)
	var missing []workload.Target
	for i := range targets {
		found, err := r.findReference(ctx, &targets[i])
		if err != nil {
			return nil, condition.FalseAndRetried(wasmev1.ReasonWorkloadsUnreadable, err)
		}
		if !found {
			missing = append(missing, targets[i])
		}
	}
	return targets, selection.ReferencesVerdict(missing)
}

// findReference finds the proxies of a target, and reports whether it exists.
func (r *Reconciler) findReference(ctx context.Context, target *workload.Target) (found bool, err error) {
	name := types.NamespacedName{Namespace: target.Namespace, Name: target.Name}
	if target.Kind == wasmev1.TargetKindGateway {
		target.Proxies, found, err = r.findGateway(ctx, name)
		return found, err
	}
	service := workload.NewService()
	err = r.Client.Get(ctx, name, service)
	if apierrors.IsNotFound(err) {
		target.Proxies.Missing = workload.NotThere
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading Service %s: %w", target.Name, err)
	}
	target.Proxies, err = r.findWaypoint(ctx, service)
	return true, err
}

// findGateway returns the proxies of a Gateway, and whether it exists.
func (r *Reconciler) findGateway(ctx context.Context, name types.NamespacedName) (workload.Proxies, bool, error) {
	gateway := workload.NewGateway()
	if r.Gateways.State() == outputkinds.Missing {
		return workload.Proxies{Missing: "the API server does not serve Gateways"}, false, nil
	}
	err := r.Client.Get(ctx, name, gateway)
	if apierrors.IsNotFound(err) {
		return workload.Proxies{Missing: workload.NotThere}, false, nil
	}
	if err != nil {
		return workload.Proxies{}, false, fmt.Errorf("reading Gateway %s: %w", name, err)
	}
	return workload.ProxiesOfGateway(name, gateway.Annotations), true, nil
}

// findWaypoint returns the proxies of a Service.
func (r *Reconciler) findWaypoint(ctx context.Context, service *metav1.PartialObjectMetadata) (workload.Proxies, error) {
	waypoint, chosen := workload.WaypointOf(service.Namespace, service.Labels)
	if !chosen {
		namespace := &metav1.PartialObjectMetadata{}
		namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
		if err := r.Reader.Get(ctx, client.ObjectKey{Name: service.Namespace}, namespace); err != nil {
			return workload.Proxies{}, fmt.Errorf("reading the namespace of Service %s: %w", service.Name, err)
		}
		waypoint, _ = workload.WaypointOf(service.Namespace, namespace.Labels)
	}
	switch {
	case waypoint.Name == "":
		return workload.Proxies{Missing: "no label " + workload.UseWaypointLabel + " on it or its namespace chooses a waypoint"}, nil
	case !r.watches(waypoint.Namespace):
		return workload.Proxies{Missing: fmt.Sprintf("its waypoint %s is in a namespace that is not in --watch-namespaces", waypoint)}, nil
	}
	proxies, found, err := r.findGateway(ctx, waypoint)
	if !found && err == nil {
		proxies.Missing = fmt.Sprintf("its waypoint, Gateway %s, does not exist", waypoint)
	}
	return proxies, err
}

// watches reports whether the operator watches a namespace.
func (r *Reconciler) watches(namespace string) bool {
	return len(r.WatchNamespaces) == 0 || slices.Contains(r.WatchNamespaces, namespace)
}

// ForReference returns the FilterDeployments whose targetRefs reference a Service or
// Gateway, and those that reference a Service whose waypoint the Gateway may be.
func (r *Reconciler) ForReference(ctx context.Context, object client.Object) []reconcile.Request {
	kind, namespace := object.GetObjectKind().GroupVersionKind().Kind, object.GetNamespace()
	of := workload.Target{Kind: kind, Namespace: namespace, Name: object.GetName()}
	if kind == wasmev1.TargetKindGateway {
		namespace = "" // a waypoint can be that of other namespaces
	}
	requests, err := r.matching(ctx, namespace, func(fd *wasmev1.FilterDeployment) bool { return mayRunOn(fd, of) })
	return logged(ctx, requests, err)
}

// mayRunOn reports whether the targetRefs of a FilterDeployment reference a Gateway or
// Service, or a Service whose waypoint the Gateway may be.
func mayRunOn(fd *wasmev1.FilterDeployment, target workload.Target) bool {
	selection, err := workload.SelectionOf(fd)
	return err == nil && (selection.SelectsTarget(target) || target.Kind == wasmev1.TargetKindGateway && referencesService(fd))
}

// referencesService reports whether targetRefs reference a Service.
func referencesService(fd *wasmev1.FilterDeployment) bool {
	return slices.ContainsFunc(workload.IstioSpec(fd).TargetRefs, func(reference wasmev1.TargetRef) bool {
		return reference.Kind == wasmev1.TargetKindService
	})
}

// oldestIstio returns the oldest version of Istio that proxies of targetRefs run; nil
// when none is known.
func oldestIstio(targets []rollout.Target) *version.Version {
	var oldest *version.Version
	for _, target := range targets {
		oldest = workload.Older(oldest, target.Proxies.Istio)
	}
	return oldest
}
