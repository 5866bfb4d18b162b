package controllers

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/istio"
)

// OutputKindState is what is known of the kind of the outputs.
type OutputKindState int32

// The states of the kind of the outputs.
const (
	// OutputKindUnknown: not asked yet.
	OutputKindUnknown OutputKindState = iota
	// OutputKindMissing: not served, or not to be listed.
	OutputKindMissing
	// OutputKindServed: served, watched, and the cache is complete.
	OutputKindServed
)

const (
	// discoveryInterval is how soon a CRD that comes or goes is noticed.
	discoveryInterval = 10 * time.Second
	// syncRounds is the number of looks after which a cache that is still not
	// complete counts as one that cannot be.
	syncRounds = 6
	// syncTimeout bounds the first listing of the outputs.
	syncTimeout = 10 * time.Second
)

// OutputKind follows whether the API server serves EnvoyFilters: Istio may be
// installed after the operator, and removed before it. It starts and stops
// their watch, and wakes all FilterDeployments when the answer changes.
type OutputKind struct {
	discovery  discovery.DiscoveryInterface
	cache      cache.Cache
	controller controller.Controller
	reader     client.Reader
	waker      *Waker
	state      atomic.Int32

	mu       sync.Mutex // one Check at a time
	watching bool
	// rounds counts the looks at a cache that was not complete.
	rounds int
}

// NewOutputKind asks through the given discovery client.
func NewOutputKind(discovery discovery.DiscoveryInterface) *OutputKind {
	return &OutputKind{discovery: discovery}
}

// State is what is known now.
func (o *OutputKind) State() OutputKindState {
	return OutputKindState(o.state.Load())
}

func (o *OutputKind) setup(manager ctrl.Manager, watcher controller.Controller, waker *Waker) error {
	o.cache, o.reader, o.controller, o.waker = manager.GetCache(), manager.GetClient(), watcher, waker
	return manager.Add(o)
}

// Start asks until the context ends.
func (o *OutputKind) Start(ctx context.Context) error {
	// The FilterDeployments must be there to be woken.
	if _, err := o.cache.GetInformer(ctx, &wasmev1.FilterDeployment{}); err != nil {
		return fmt.Errorf("listing FilterDeployments: %w", err)
	}
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		if err := o.Check(ctx); err != nil {
			log.FromContext(ctx).Error(err, "Following the EnvoyFilter kind")
		}
	}, discoveryInterval)
	return nil
}

// Check asks once. While the API server does not answer, the state stays.
func (o *OutputKind) Check(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	served, err := o.served()
	if err != nil {
		return err
	}
	state := OutputKindMissing
	switch {
	case served:
		if err := o.watch(); err != nil {
			return err
		}
		if o.synced(ctx) {
			state = OutputKindServed
		} else if o.rounds++; o.rounds < syncRounds && o.State() == OutputKindUnknown {
			return nil // a large cluster takes its time
		}
	case o.watching:
		o.watching = false
		if err := o.cache.RemoveInformer(ctx, &istio.EnvoyFilter{}); err != nil {
			return fmt.Errorf("ending the watch of EnvoyFilters: %w", err)
		}
	}
	before := OutputKindState(o.state.Swap(int32(state)))
	if before == state {
		return nil
	}
	if err := o.wakeAll(ctx); err != nil {
		o.state.Store(int32(before)) // the next check wakes them
		return err
	}
	return nil
}

func (o *OutputKind) served() (bool, error) {
	resources, err := o.discovery.ServerResourcesForGroupVersion(istio.GroupVersion.String())
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking for the kinds of %s: %w", istio.GroupVersion, err)
	}
	for _, resource := range resources.APIResources {
		if resource.Kind == "EnvoyFilter" {
			return true, nil
		}
	}
	return false, nil
}

func (o *OutputKind) watch() error {
	if o.watching {
		return nil
	}
	owner := handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, object *istio.EnvoyFilter) []reconcile.Request {
		return ownerRequest(object)
	})
	if err := o.controller.Watch(source.Kind(o.cache, &istio.EnvoyFilter{}, owner)); err != nil {
		return fmt.Errorf("watching EnvoyFilters: %w", err)
	}
	o.watching = true
	return nil
}

// ownerRequest is the FilterDeployment that an output was made for; an output
// that lost its owner reference still has its annotation.
func ownerRequest(object *istio.EnvoyFilter) []reconcile.Request {
	name := object.Annotations[ownerAnnotation]
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: object.Namespace, Name: name}}}
}

func (o *OutputKind) synced(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	informer, err := o.cache.GetInformer(ctx, &istio.EnvoyFilter{}, cache.BlockUntilSynced(false))
	if err != nil {
		log.FromContext(ctx).Error(err, "Listing EnvoyFilters")
		return false
	}
	return toolscache.WaitForCacheSync(ctx.Done(), informer.HasSynced)
}

func (o *OutputKind) wakeAll(ctx context.Context) error {
	var list wasmev1.FilterDeploymentList
	if err := o.reader.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing FilterDeployments: %w", err)
	}
	for i := range list.Items {
		o.waker.Wake(client.ObjectKeyFromObject(&list.Items[i]))
	}
	return nil
}
