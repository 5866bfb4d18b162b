package filterdeployment

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Pods come, go and answer all the time, and each asks for a pass. What pods ask for is
// gathered, for a second at least where all is Ready. A pass over many pods takes long, so
// there it is gathered for longer: passes take a fiftieth of a processor, and at most 30
// seconds pass before one. What is not Ready yet waits for no more than a second, and for
// less while a step of a staged rollout waits for its pods: passes take a tenth of a
// processor then.
const (
	minPodDelay  = time.Second
	maxPodDelay  = 30 * time.Second
	podDelays    = 50
	minStepDelay = 100 * time.Millisecond
	stepDelays   = 10
)

// pace is how long the last pass over a FilterDeployment took, and whether it was Ready then,
// or a step waits for its pods.
type pace struct {
	took        time.Duration
	ready, step bool
}

// paces remember those of FilterDeployments.
type paces struct{ memory[pace] }

// delay returns how long it is at least from one pass to the next that the time of pods asks
// for; 0 for a FilterDeployment that is not Ready.
func (p *paces) delay(name types.NamespacedName) time.Duration {
	if last := p.of(name); last.ready {
		return min(podDelays*last.took, maxPodDelay)
	}
	return 0
}

// PodDelay returns how long what pods ask for is gathered before a pass.
func (r *Reconciler) PodDelay(name types.NamespacedName) time.Duration {
	last := r.paces.of(name)
	if last.step {
		return min(max(stepDelays*last.took, minStepDelay), minPodDelay)
	}
	return max(r.paces.delay(name), minPodDelay)
}

// podHandler enqueues the FilterDeployments whose filter a pod is to run, after their
// delay.
func (r *Reconciler) podHandler() handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	enqueue := func(ctx context.Context, pod client.Object, q queue) {
		for _, request := range r.ForPod(ctx, pod) {
			q.AddAfter(request, r.PodDelay(request.NamespacedName))
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { enqueue(ctx, e.Object, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) { enqueue(ctx, e.ObjectNew, q) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { enqueue(ctx, e.Object, q) },
	}
}
