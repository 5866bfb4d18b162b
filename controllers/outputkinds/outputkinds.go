// Package outputkinds follows which of Istio's kinds the API server serves: Istio
// may be installed after the operator, and removed before it. It starts and stops
// the watch of each kind, and wakes all FilterDeployments when the answer changes.
package outputkinds

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	"github.com/wasme-io/wasme-operator/internal/ownership"
)

// State is what is known of a kind.
type State int32

// The states of a kind.
const (
	// Unknown: not asked yet.
	Unknown State = iota
	// Missing: not served, or not to be listed.
	Missing
	// Served: served, watched, and the cache is complete.
	Served
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

// Kinds are all kinds of outputs, by the name that a FilterDeployment asks for
// them with.
type Kinds map[wasmev1.Output]*Kind

// New returns the kinds, none of which was asked about yet. They ask through the
// given discovery client once they are set up.
func New(discovery discovery.DiscoveryInterface) Kinds {
	kinds := Kinds{}
	for name, kind := range istio.Kinds {
		kinds[name] = &Kind{kind: kind, discovery: discovery}
	}
	return kinds
}

// State returns what is known of a kind now.
func (k Kinds) State(kind wasmev1.Output) State {
	return k[kind].State()
}

// Known reports whether every kind was asked about: an output may be of any.
func (k Kinds) Known() bool {
	for _, kind := range k {
		if kind.State() == Unknown {
			return false
		}
	}
	return true
}

// SetupWithManager has the manager follow the kinds, and watcher watch those that
// are served. When the answer changes, wakeAll is called to wake all
// FilterDeployments.
func (k Kinds) SetupWithManager(manager ctrl.Manager, watcher controller.Controller, wakeAll func(context.Context) error) error {
	for _, kind := range k {
		kind.cache, kind.controller, kind.wakeAll = manager.GetCache(), watcher, wakeAll
		if err := manager.Add(kind); err != nil {
			return fmt.Errorf("following %s: %w", kind.kind.Resource, err)
		}
	}
	return nil
}

// Kind follows whether the API server serves one kind.
type Kind struct {
	kind       istio.Kind
	discovery  discovery.DiscoveryInterface
	cache      cache.Cache
	controller controller.Controller
	wakeAll    func(context.Context) error
	state      atomic.Int32

	mu       sync.Mutex // one Check at a time
	watching bool
	// rounds counts the looks at a cache that was not complete.
	rounds int
}

// State returns what is known now.
func (o *Kind) State() State {
	return State(o.state.Load())
}

// Assume sets what is known, for a caller that does not follow the kind.
func (o *Kind) Assume(state State) {
	o.state.Store(int32(state))
}

// MissingError says why outputs of the kind cannot be written while it is Missing.
func (o *Kind) MissingError() error {
	return fmt.Errorf("the API server does not serve %s (%s), or refuses to list it: install the CRDs of an Istio that has it", o.kind.Kind, o.kind.GroupVersion())
}

// Start asks until the context ends.
func (o *Kind) Start(ctx context.Context) error {
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
func (o *Kind) Check(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	served, err := o.served()
	if err != nil {
		return err
	}
	state := Missing
	switch {
	case served:
		if err := o.watch(); err != nil {
			return err
		}
		if o.synced(ctx) {
			state = Served
		} else if o.rounds++; o.rounds < syncRounds && o.State() == Unknown {
			return nil // a large cluster takes its time
		}
	case o.watching:
		o.watching = false
		if err := o.cache.RemoveInformer(ctx, o.kind.New()); err != nil {
			return fmt.Errorf("ending the watch of %s: %w", o.kind.Resource, err)
		}
	}
	before := State(o.state.Swap(int32(state)))
	if before == state {
		return nil
	}
	if err := o.wakeAll(ctx); err != nil {
		o.state.Store(int32(before)) // the next check wakes them
		return err
	}
	return nil
}

func (o *Kind) served() (bool, error) {
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

func (o *Kind) watch() error {
	if o.watching {
		return nil
	}
	owner := handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, object client.Object) []reconcile.Request {
		name, made := ownership.FilterDeploymentOf(object)
		if !made {
			return nil
		}
		return []reconcile.Request{{NamespacedName: name}}
	})
	if err := o.controller.Watch(source.Kind[client.Object](o.cache, o.kind.New(), owner)); err != nil {
		return fmt.Errorf("watching %s: %w", o.kind.Resource, err)
	}
	o.watching = true
	return nil
}

func (o *Kind) synced(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	informer, err := o.cache.GetInformer(ctx, o.kind.New(), cache.BlockUntilSynced(false))
	if err != nil {
		log.FromContext(ctx).Error(err, "Listing outputs", "kind", o.kind.Kind)
		return false
	}
	return toolscache.WaitForCacheSync(ctx.Done(), informer.HasSynced)
}
