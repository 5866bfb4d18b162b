package controllers

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// OutputKinds follow which kinds of outputs the API server serves.
type OutputKinds map[wasmev1.Output]*OutputKind

// NewOutputKinds asks through the given discovery client.
func NewOutputKinds(discovery discovery.DiscoveryInterface) OutputKinds {
	kinds := OutputKinds{}
	for name, kind := range istio.Kinds {
		kinds[name] = &OutputKind{kind: kind, discovery: discovery}
	}
	return kinds
}

// State is what is known of a kind now.
func (k OutputKinds) State(kind wasmev1.Output) OutputKindState {
	return k[kind].State()
}

// known tells whether every kind was asked about: an output may be of any.
func (k OutputKinds) known() bool {
	for _, kind := range k {
		if kind.State() == OutputKindUnknown {
			return false
		}
	}
	return true
}

func (k OutputKinds) setup(manager ctrl.Manager, watcher controller.Controller, waker *Waker) error {
	for _, kind := range k {
		if err := kind.setup(manager, watcher, waker); err != nil {
			return err
		}
	}
	return nil
}

// OutputKind follows whether the API server serves one of Istio's kinds: Istio
// may be installed after the operator, and removed before it. It starts and
// stops their watch, and wakes all FilterDeployments when the answer changes.
type OutputKind struct {
	kind       istio.Kind
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

// State is what is known now.
func (o *OutputKind) State() OutputKindState {
	return OutputKindState(o.state.Load())
}

// missing is why outputs of the kind cannot be written.
func (o *OutputKind) missing() error {
	return fmt.Errorf("the API server does not serve %s (%s), or refuses to list it; install the CRDs of an Istio that has it", o.kind.Kind, o.kind.GroupVersion())
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
			log.FromContext(ctx).Error(err, "Following a kind of outputs", "kind", o.kind.Kind)
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
		if err := o.cache.RemoveInformer(ctx, o.kind.New()); err != nil {
			return fmt.Errorf("ending the watch of %s: %w", o.kind.Resource, err)
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
	version := o.kind.GroupVersion().String()
	resources, err := o.discovery.ServerResourcesForGroupVersion(version)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking for the kinds of %s: %w", version, err)
	}
	return slices.ContainsFunc(resources.APIResources, func(resource metav1.APIResource) bool {
		return resource.Kind == o.kind.Kind
	}), nil
}

func (o *OutputKind) watch() error {
	if o.watching {
		return nil
	}
	owner := handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, object client.Object) []reconcile.Request {
		return ownerRequest(object)
	})
	if err := o.controller.Watch(source.Kind[client.Object](o.cache, o.kind.New(), owner)); err != nil {
		return fmt.Errorf("watching %s: %w", o.kind.Resource, err)
	}
	o.watching = true
	return nil
}

// ownerRequest is the FilterDeployment that an output was made for; an output
// that lost its owner reference still has its annotation.
func ownerRequest(object client.Object) []reconcile.Request {
	name := object.GetAnnotations()[ownerAnnotation]
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: object.GetNamespace(), Name: name}}}
}

func (o *OutputKind) synced(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	informer, err := o.cache.GetInformer(ctx, o.kind.New(), cache.BlockUntilSynced(false))
	if err != nil {
		log.FromContext(ctx).Error(err, "Listing outputs", "kind", o.kind.Kind)
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
