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
// gathered, for a second at least. A pass over many pods takes long, so for a
// FilterDeployment with many of them that is Ready it is gathered for longer: passes take
// a fiftieth of a processor, and at most 30 seconds pass before one. What is not Ready yet
// waits for no more than a second, since each pass is a step of its rollout.
const (
	minPodDelay = time.Second
	maxPodDelay = 30 * time.Second
	podDelays   = 50
)

// paces remember how long passes take over FilterDeployments that are Ready.
type paces struct{ memory[time.Duration] }

func (p *paces) keep(name types.NamespacedName, took time.Duration, ready bool) {
	if !ready {
		p.forget(name)
		return
	}
	p.memory.keep(name, took)
}

// delay returns how long it is at least from one pass to the next that pods or the time of
// pods ask for; 0 for a FilterDeployment that is not Ready.
func (p *paces) delay(name types.NamespacedName) time.Duration {
	return min(podDelays*p.of(name), maxPodDelay)
}

// PodDelay returns how long what pods ask for is gathered before a pass.
func (r *Reconciler) PodDelay(name types.NamespacedName) time.Duration {
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
