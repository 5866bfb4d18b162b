package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	networkingapi "istio.io/api/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// The operator of wasme 0.0.33 leaves no trace on a FilterDeployment while it
// runs beside this one: its decoder refuses unknown fields, and so every object
// that has this CRD's defaults or this operator's status. It acts again where
// both are gone. So its Deployment is what to look for.

const (
	// predecessorName is the name of the Deployment, and the value of the label
	// app of its pods, in wasme's manifests and in its Helm chart.
	predecessorName = "wasme-operator"
	// predecessorNamespace is that of wasme's manifests.
	predecessorNamespace = "wasme"
	// predecessorIndex finds, by the value predecessorRuns, the Deployments of
	// wasme's operator that ask for pods.
	predecessorIndex = "predecessor"
	predecessorRuns  = "runs"

	// reasonReplaced is that of the event about an EnvoyFilter of wasme's operator.
	reasonReplaced = "Replaced"
)

// errLegacy: the output's name belongs to an EnvoyFilter that wasme made for no
// FilterDeployment.
var errLegacy = errors.New("was made by wasme on its own, for names of Envoy filters that no proxy of today has; delete it, or set another spec.filter.id")

// predecessor is a Deployment of wasme's operator.
type predecessor client.ObjectKey

// stopCommand stops it, or the one of wasme's manifests where none is known.
func (p *predecessor) stopCommand() string {
	if p == nil {
		p = &predecessor{Namespace: predecessorNamespace, Name: predecessorName}
	}
	return fmt.Sprintf("kubectl -n %s scale deployment %s --replicas=0", p.Namespace, p.Name)
}

// predecessor finds a Deployment of wasme's operator that asks for pods, in the
// namespaces that this operator watches; nil for none. Nothing else depends on
// the answer, so that an error is none.
func (r *FilterDeploymentReconciler) predecessor(ctx context.Context) *predecessor {
	var list appsv1.DeploymentList
	if err := r.Client.List(ctx, &list, client.MatchingFields{predecessorIndex: predecessorRuns}, client.UnsafeDisableDeepCopy); err != nil {
		log.FromContext(ctx).Error(err, "Looking for the operator of wasme")
		return nil
	}
	if len(list.Items) == 0 {
		return nil
	}
	first := slices.MinFunc(list.Items, func(a, b appsv1.Deployment) int { return cmp.Compare(a.Namespace, b.Namespace) })
	return &predecessor{Namespace: first.Namespace, Name: first.Name}
}

func indexPredecessor(ctx context.Context, indexer client.FieldIndexer) error {
	err := indexer.IndexField(ctx, &appsv1.Deployment{}, predecessorIndex, func(object client.Object) []string {
		if runningPredecessor(object) {
			return []string{predecessorRuns}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("indexing Deployments: %w", err)
	}
	return nil
}

func runningPredecessor(object client.Object) bool {
	deployment, ok := object.(*appsv1.Deployment)
	return ok && deployment.Name == predecessorName && deployment.Spec.Template.Labels["app"] == predecessorName &&
		(deployment.Spec.Replicas == nil || *deployment.Spec.Replicas > 0)
}

// predecessorChanged lets through what starts or stops the predecessor's operator.
func predecessorChanged() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool { return runningPredecessor(e.Object) },
		UpdateFunc: func(e event.UpdateEvent) bool {
			return runningPredecessor(e.ObjectOld) != runningPredecessor(e.ObjectNew)
		},
		DeleteFunc:  func(e event.DeleteEvent) bool { return runningPredecessor(e.Object) },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// all finds every FilterDeployment.
func (r *FilterDeploymentReconciler) all(ctx context.Context, _ client.Object) []reconcile.Request {
	var list wasmev1.FilterDeploymentList
	if err := r.Client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		log.FromContext(ctx).Error(err, "Listing FilterDeployments")
		return nil
	}
	requests := make([]reconcile.Request, 0, len(list.Items))
	for i := range list.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return requests
}

// isLegacy tells whether wasme made an EnvoyFilter of this spec: it looks for
// Envoy's router by a name that Envoy no longer has.
func isLegacy(content []byte) bool {
	var spec networkingapi.EnvoyFilter
	if err := spec.UnmarshalJSON(content); err != nil {
		return false
	}
	return slices.ContainsFunc(spec.GetConfigPatches(), func(patch *networkingapi.EnvoyFilter_EnvoyConfigObjectPatch) bool {
		filter := patch.GetMatch().GetListener().GetFilterChain().GetFilter()
		return filter.GetName() == "envoy.http_connection_manager" && filter.GetSubFilter().GetName() == "envoy.router"
	})
}
