// Package legacy holds everything that is there for the predecessor, solo-io's
// wasme 0.0.33, and can be removed whole: how its operator is noticed, how it is
// stopped, and which EnvoyFilters it made.
//
// Its operator leaves no trace on a FilterDeployment while it runs beside this
// one: its decoder refuses unknown fields, and so every object that has this
// CRD's defaults or this operator's status. It acts again where both are gone.
// So its Deployment is what to look for.
package legacy

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
)

const (
	// operatorName is the name of the Deployment, and the value of the label app
	// of its pods, in wasme's manifests and in its Helm chart.
	operatorName = "wasme-operator"
	// operatorNamespace is that of wasme's manifests.
	operatorNamespace = "wasme"
	// indexField finds, by the value running, the Deployments of wasme's operator
	// that ask for pods.
	indexField = "predecessor"
	running    = "runs"
)

// ErrMadeByWasme is the error for an output whose name belongs to an EnvoyFilter
// that wasme made for no FilterDeployment.
var ErrMadeByWasme = errors.New("was made by wasme itself, for names of Envoy filters that no current proxy has: delete it, or set another spec.filter.id")

// Replaced is the note of an event about an EnvoyFilter of wasme's operator that
// holds a filter of ours now.
const Replaced = "was made by wasme's operator, for names of Envoy filters that no current proxy has; it holds this filter now"

// Operator is a Deployment of wasme's operator.
type Operator client.ObjectKey

// StopCommand returns the command that stops it, or the operator of wasme's
// manifests where none is known.
func (o *Operator) StopCommand() string {
	if o == nil {
		o = &Operator{Namespace: operatorNamespace, Name: operatorName}
	}
	return fmt.Sprintf("kubectl -n %s scale deployment %s --replicas=0", o.Namespace, o.Name)
}

// Find returns a Deployment of wasme's operator that asks for pods, among those
// that reader, an indexed cache, has; nil for none. Nothing else depends on the
// answer, so an error is logged and counts as none.
func Find(ctx context.Context, reader client.Reader) *Operator {
	var list appsv1.DeploymentList
	if err := reader.List(ctx, &list, client.MatchingFields{indexField: running}, client.UnsafeDisableDeepCopy); err != nil {
		log.FromContext(ctx).Error(err, "Looking for the operator of wasme")
		return nil
	}
	if len(list.Items) == 0 {
		return nil
	}
	first := slices.MinFunc(list.Items, func(a, b appsv1.Deployment) int { return cmp.Compare(a.Namespace, b.Namespace) })
	return &Operator{Namespace: first.Namespace, Name: first.Name}
}

// Index lets Find look Deployments up in a cache.
func Index(ctx context.Context, indexer client.FieldIndexer) error {
	err := indexer.IndexField(ctx, &appsv1.Deployment{}, indexField, func(object client.Object) []string {
		if isRunning(object) {
			return []string{running}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("indexing Deployments: %w", err)
	}
	return nil
}

func isRunning(object client.Object) bool {
	deployment, ok := object.(*appsv1.Deployment)
	return ok && deployment.Name == operatorName && deployment.Spec.Template.Labels["app"] == operatorName &&
		(deployment.Spec.Replicas == nil || *deployment.Spec.Replicas > 0)
}

// StartsOrStops lets through what starts or stops wasme's operator.
func StartsOrStops() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc:  func(e event.CreateEvent) bool { return isRunning(e.Object) },
		UpdateFunc:  func(e event.UpdateEvent) bool { return isRunning(e.ObjectOld) != isRunning(e.ObjectNew) },
		DeleteFunc:  func(e event.DeleteEvent) bool { return isRunning(e.Object) },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// MadeEnvoyFilter reports whether wasme made an EnvoyFilter with this spec, in
// JSON: it looks for Envoy's router by a name that Envoy no longer has.
func MadeEnvoyFilter(spec []byte) bool {
	var filter networkingapi.EnvoyFilter
	if err := filter.UnmarshalJSON(spec); err != nil {
		return false
	}
	return slices.ContainsFunc(filter.GetConfigPatches(), func(patch *networkingapi.EnvoyFilter_EnvoyConfigObjectPatch) bool {
		network := patch.GetMatch().GetListener().GetFilterChain().GetFilter()
		return network.GetName() == "envoy.http_connection_manager" && network.GetSubFilter().GetName() == "envoy.router"
	})
}
