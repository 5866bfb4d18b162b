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
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/prometheus/client_golang/prometheus"
	networkingapi "istio.io/api/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// What makes a Deployment that of wasme's operator, in wasme's manifests and in its Helm
// chart: a container of the image quay.io/solo-io/wasme, or a copy of it elsewhere, that
// is told to be the operator.
const (
	imageName        = "wasme"
	operatorArgument = "operator"
)

// StopCommand stops wasme's operator where its manifests put it.
const StopCommand = "kubectl -n wasme scale deployment wasme-operator --replicas=0"

// markAnnotation is on Deployments of wasme's operator in the cache, which has no containers.
const markAnnotation = "wasme.io/predecessor"

// ErrMadeByWasme is the error for an output whose name belongs to an EnvoyFilter
// that wasme made for no FilterDeployment.
var ErrMadeByWasme = errors.New("was made by wasme itself, for names of Envoy filters that no current proxy has: delete it, or set another spec.filter.id")

// Replaced is the note of an event about an EnvoyFilter of wasme's operator that
// holds a filter of ours now.
const Replaced = "was made by wasme's operator, for names of Envoy filters that no current proxy has; it holds this filter now"

// Transform returns a cache transform that marks the Deployments of wasme's operator and
// then trims as the given one does.
func Transform(trim toolscache.TransformFunc) toolscache.TransformFunc {
	return func(item any) (any, error) {
		marked := isOperator(item)
		trimmed, err := trim(item)
		if deployment, ok := trimmed.(*appsv1.Deployment); ok && marked {
			metav1.SetMetaDataAnnotation(&deployment.ObjectMeta, markAnnotation, operatorArgument)
		}
		return trimmed, err
	}
}

func isOperator(item any) bool {
	deployment, ok := item.(*appsv1.Deployment)
	if !ok {
		return false
	}
	return deployment.Annotations[markAnnotation] == operatorArgument ||
		slices.ContainsFunc(deployment.Spec.Template.Spec.Containers, func(c corev1.Container) bool {
			reference, err := name.ParseReference(c.Image)
			return err == nil && path.Base(reference.Context().RepositoryStr()) == imageName &&
				(slices.Contains(c.Args, operatorArgument) || slices.Contains(c.Command, operatorArgument))
		})
}

// IsRunning reports whether an object is a Deployment of wasme's operator that asks for pods.
func IsRunning(object client.Object) bool {
	deployment, ok := object.(*appsv1.Deployment)
	return ok && isOperator(deployment) && ptr.Deref(deployment.Spec.Replicas, 1) > 0
}

// deployments counts the Deployments of wasme's operator that ask for pods.
var deployments = prometheus.NewGauge(prometheus.GaugeOpts{
	Name: "wasme_predecessor_deployments",
	Help: "Deployments of wasme's operator that ask for pods. It changes the FilterDeployments of this operator.",
})

func init() { metrics.Registry.MustRegister(deployments) }

// eventRunning is the reason of the event about a Deployment of wasme's operator.
const eventRunning = "PredecessorRunning"

// Anyone who can create Deployments can cause these events.
const (
	eventBurst      = 10
	eventsPerSecond = 1.0 / 60
)

// NewHandler returns a handler of Deployments that reports those of wasme's operator: in
// the log, by an event about the Deployment, and as a metric. It wakes no controller.
func NewHandler(recorder events.EventRecorder) handler.EventHandler {
	return newOperators(recorder).handler()
}

func newOperators(recorder events.EventRecorder) *operators {
	return &operators{
		recorder: recorder, running: sets.New[types.NamespacedName](),
		limiter: flowcontrol.NewTokenBucketPassiveRateLimiter(eventsPerSecond, eventBurst),
	}
}

func (o *operators) handler() handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, _ queue) { o.see(ctx, e.Object, IsRunning(e.Object)) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, _ queue) {
			o.see(ctx, e.ObjectNew, IsRunning(e.ObjectNew))
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, _ queue) { o.see(ctx, e.Object, false) },
	}
}

// operators are the Deployments of wasme's operator that ask for pods.
type operators struct {
	recorder events.EventRecorder
	limiter  flowcontrol.PassiveRateLimiter

	mu      sync.Mutex
	running sets.Set[types.NamespacedName]
}

// see takes over what a Deployment is now, and reports it when it begins to run.
func (o *operators) see(ctx context.Context, object client.Object, running bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := client.ObjectKeyFromObject(object)
	if o.running.Has(key) == running {
		return
	}
	if !running {
		o.running.Delete(key)
	} else {
		o.running.Insert(key)
	}
	deployments.Set(float64(o.running.Len()))
	if !running || !o.limiter.TryAccept() {
		return
	}
	note := fmt.Sprintf("this is the operator of wasme, which changes the same FilterDeployments: stop it with kubectl -n %s scale deployment %s --replicas=0", key.Namespace, key.Name)
	log.FromContext(ctx).Info("The operator of wasme is running", "deployment", klog.KObj(object), "note", note)
	o.recorder.Eventf(object, nil, corev1.EventTypeWarning, eventRunning, "Report", "%s", note)
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
