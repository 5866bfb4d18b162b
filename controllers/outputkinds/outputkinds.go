// Package outputkinds follows which of Istio's kinds the API server serves, and
// whether it serves the Gateways that targetRefs can reference: Istio and the Gateway
// API may be installed after the operator, and removed before it. It starts and stops
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
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
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
	"github.com/wasme-io/wasme-operator/internal/workload"
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
		kinds[name] = &Kind{GroupVersionKind: kind.GroupVersionKind, newObject: func() client.Object { return kind.New() }, discovery: discovery}
	}
	return kinds
}

// NewGateways returns the kind of Gateways, of which only the metadata is watched.
func NewGateways(discovery discovery.DiscoveryInterface) *Kind {
	return &Kind{GroupVersionKind: workload.GatewayKind, newObject: func() client.Object { return workload.NewGateway() }, discovery: discovery}
}

func ownerOfOutput(_ context.Context, object client.Object) []reconcile.Request {
	name, made := ownership.FilterDeploymentOf(object)
	if !made {
		return nil
	}
	return []reconcile.Request{{NamespacedName: name}}
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

// Each goes through the outputs of all kinds that are served that reader, a cache, has in
// a namespace (empty for all) with these labels. They belong to the cache.
func (k Kinds) Each(ctx context.Context, reader client.Reader, namespace string, labels client.MatchingLabels, visit func(wasmev1.Output, istio.Output)) error {
	for name, kind := range k {
		if kind.State() != Served {
			continue
		}
		list := istio.Kinds[name].NewList()
		if err := reader.List(ctx, list, client.InNamespace(namespace), labels, client.UnsafeDisableDeepCopy); err != nil {
			return fmt.Errorf("listing the outputs: %w", err)
		}
		err := apimeta.EachListItem(list, func(item runtime.Object) error {
			visit(name, item.(istio.Output))
			return nil
		})
		if err != nil {
			return fmt.Errorf("listing the outputs: %w", err)
		}
	}
	return nil
}

// SetupWithManager has the manager follow the kinds, and watcher watch those that
// are served. When the answer changes, wakeAll is called to wake all
// FilterDeployments.
func (k Kinds) SetupWithManager(manager ctrl.Manager, watcher controller.Controller, wakeAll func(context.Context) error) error {
	for _, kind := range k {
		if err := kind.SetupWithManager(manager, watcher, ownerOfOutput, wakeAll); err != nil {
			return err
		}
	}
	return nil
}

// Kind follows whether the API server serves one kind.
type Kind struct {
	schema.GroupVersionKind

	newObject  func() client.Object
	discovery  discovery.DiscoveryInterface
	forObject  handler.MapFunc
	cache      cache.Cache
	controller controller.Controller
	wakeAll    func(context.Context) error
	state      atomic.Int32

	mu       sync.Mutex // one Check at a time
	watching bool
	// rounds counts the looks at a cache that was not complete.
	rounds int
}

// SetupWithManager has the manager follow the kind, as Kinds.SetupWithManager does.
// forObject returns what to reconcile for an object that comes, goes or changes.
func (o *Kind) SetupWithManager(manager ctrl.Manager, watcher controller.Controller, forObject handler.MapFunc, wakeAll func(context.Context) error) error {
	o.cache, o.controller, o.forObject, o.wakeAll = manager.GetCache(), watcher, forObject, wakeAll
	if err := manager.Add(o); err != nil {
		return fmt.Errorf("following the kind %s: %w", o.Kind, err)
	}
	return nil
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
	return fmt.Errorf("the API server does not serve %s (%s), or refuses to list it: install the CRDs of an Istio that has it", o.Kind, o.GroupVersion())
}

// Start asks until the context ends.
func (o *Kind) Start(ctx context.Context) error {
	// The FilterDeployments must be there to be woken.
	if _, err := o.cache.GetInformer(ctx, &wasmev1.FilterDeployment{}); err != nil {
		return fmt.Errorf("listing FilterDeployments: %w", err)
	}
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		if err := o.Check(ctx); err != nil {
			log.FromContext(ctx).Error(err, "Following a kind", "kind", o.Kind)
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
		if err := o.cache.RemoveInformer(ctx, o.newObject()); err != nil {
			return fmt.Errorf("ending the watch of %s: %w", o.Kind, err)
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
	version := o.GroupVersion().String()
	resources, err := o.discovery.ServerResourcesForGroupVersion(version)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking for the kinds of %s: %w", version, err)
	}
	return slices.ContainsFunc(resources.APIResources, func(resource metav1.APIResource) bool {
		return resource.Kind == o.Kind
	}), nil
}

func (o *Kind) watch() error {
	if o.watching {
		return nil
	}
	if err := o.controller.Watch(source.Kind[client.Object](o.cache, o.newObject(), handler.EnqueueRequestsFromMapFunc(o.forObject))); err != nil {
		return fmt.Errorf("watching %s: %w", o.Kind, err)
	}
	o.watching = true
	return nil
}

func (o *Kind) synced(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	informer, err := o.cache.GetInformer(ctx, o.newObject(), cache.BlockUntilSynced(false))
	if err != nil {
		log.FromContext(ctx).Error(err, "Listing a kind", "kind", o.Kind)
		return false
	}
	return toolscache.WaitForCacheSync(ctx.Done(), informer.HasSynced)
}
