// Package resolve turns requests for modules into checked modules in the store,
// in the background.
//
// Resolve answers at once from what is known (resolver.go). A worker takes a
// request when it is planned and due, and when its registry and a namespace of
// its owners have a free slot, so that none holds up the others (work.go).
// It looks where the request points (lookup.go): a HEAD with the
// request's own credential proves the right to the image, and only an image that
// the store does not know is pulled. A failure is tried again with backoff and
// without end, as the image may be replaced. A registry that limits requests, or
// failed several times in a row, is left alone for a while (circuit.go), by others who
// read from it, too (visit.go). Owners are woken when a result changes.
package resolve

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"

	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/internal/slots"
)

// DefaultWorkers is the number of requests that a Resolver works on at once.
const DefaultWorkers = 16

const (
	// slotsPerHost and slotsPerNamespace are how many workers one registry, or the
	// FilterDeployments of one namespace, can take. A namespace gets fewer, so that
	// its slow pulls leave room at a registry that it shares with others.
	slotsPerHost      = 4
	slotsPerNamespace = 2
	// headTimeout bounds one look at a registry, tokens and redirects included.
	headTimeout = 15 * time.Second
	// pullTimeout bounds a pull, from the manifest to the module in the store.
	pullTimeout = 2 * time.Minute
	// A failure is tried again after minRetry, doubled each time up to
	// maxRetry, and up to a fifth later, so that not all come at once.
	minRetry    = time.Second
	maxRetry    = 5 * time.Minute
	retryJitter = 0.2
)

// Options configure a Resolver.
type Options struct {
	// PollInterval is how old an answer may get before Resolve has it checked
	// again with one HEAD. Zero: an answer that is good stays forever.
	PollInterval time.Duration
	// Workers is the number of requests under way at once.
	Workers int
	// Wake is called with every owner of a request whose result changed. It
	// must not block for long, and may call Resolve.
	Wake func(owner types.NamespacedName)
	// Clock is the time; tests pass their own.
	Clock clock.WithTicker
}

// Result is what is known of a request. While both are nil, it is being resolved.
type Result struct {
	// Module is the module, checked and held by the store. Do not change it:
	// it is shared.
	Module *module.Module
	// Err says why there is no module. The resolver keeps trying.
	Err *module.Error
}

// Pending reports whether nothing is known yet.
func (r Result) Pending() bool { return r.Module == nil && r.Err == nil }

// Resolver resolves requests in the background and remembers the results.
type Resolver struct {
	store   *store.Store
	client  *pull.Client
	options Options
	queue   workqueue.TypedDelayingInterface[pull.Request]
	backoff workqueue.TypedRateLimiter[pull.Request]
	pulls   singleflight.Group

	mu         sync.Mutex
	entries    map[pull.Request]*entry
	requests   map[types.NamespacedName]pull.Request
	hosts      slots.Slots[string, pull.Request]
	namespaces slots.Slots[string, pull.Request]
	circuits   circuits
	probes     slots.Slots[way, pull.Request]
}

// entry is what is known of a request, and who wants to know.
type entry struct {
	req    pull.Request
	owners sets.Set[types.NamespacedName]
	result Result
	// image names the manifest that result is about, good or refused.
	image string
	// final says that result is the answer for as long as the store has its module.
	final bool
	// checked is when the registry was last asked.
	checked time.Time
	// planned says that it is in the queue, not yet begun, and not to begin before
	// notBefore.
	planned   bool
	notBefore time.Time
	// parked says that it is planned and waits for a slot.
	parked bool
	// running says that a worker asks the registry.
	running bool
	// source is kept from one look to the next, for the registry's token.
	source *pull.Image
}

// New returns a Resolver that fetches modules with the client and keeps them in
// the store.
func New(modules *store.Store, client *pull.Client, opts Options) *Resolver {
	return &Resolver{
		store:      modules,
		client:     client,
		options:    opts,
		queue:      workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[pull.Request]{Clock: opts.Clock}),
		backoff:    workqueue.NewTypedItemExponentialFailureRateLimiter[pull.Request](minRetry, maxRetry),
		entries:    map[pull.Request]*entry{},
		requests:   map[types.NamespacedName]pull.Request{},
		hosts:      slots.New[string, pull.Request](slotsPerHost),
		namespaces: slots.New[string, pull.Request](slotsPerNamespace),
		circuits:   newCircuits(),
		probes:     slots.New[way, pull.Request](1),
	}
}

// NeedLeaderElection returns false: every replica resolves.
func (r *Resolver) NeedLeaderElection() bool { return false }

// Start works until ctx ends. It implements manager.Runnable.
func (r *Resolver) Start(ctx context.Context) error {
	var workers sync.WaitGroup
	for range r.options.Workers {
		workers.Go(func() {
			for r.work(ctx) {
			}
		})
	}
	<-ctx.Done()
	r.queue.ShutDown()
	workers.Wait()
	return nil
}

// Resolve returns what is known of req and never blocks on anything remote. It
// starts the work that is needed and wakes owner when the result changes. An
// owner has one request: an earlier one with other values is forgotten.
func (r *Resolver) Resolve(owner types.NamespacedName, req pull.Request) Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.own(owner, req)
	if e.result.Module != nil && !r.store.Has(e.result.Module.SHA256) {
		e.result, e.checked = Result{}, time.Time{}
		r.plan(e)
	}
	if r.due(e) {
		r.plan(e)
	}
	return e.result
}

// own makes owner an owner of req's entry, and of no other.
func (r *Resolver) own(owner types.NamespacedName, req pull.Request) *entry {
	if former, has := r.requests[owner]; has && former != req {
		r.forget(owner)
	}
	e := r.entries[req]
	if e == nil {
		e = &entry{req: req, owners: sets.New[types.NamespacedName]()}
		r.entries[req] = e
	}
	if e.parked && !e.owners.Has(owner) {
		// The new owner's namespace may have a slot.
		r.queue.Add(req)
	}
	e.owners.Insert(owner)
	r.requests[owner] = req
	return e
}

// ResolveContent is Resolve for a module whose bytes the caller has: it returns
// when they are checked and in the store, which takes a write to disk when the
// store does not have them yet. Reference says where they come from, and version
// identifies them for RecallContent. The request that owner had is forgotten. The
// resolver does not try again after a failure.
func (r *Resolver) ResolveContent(owner types.NamespacedName, reference, version string, content []byte) Result {
	r.Forget(owner)
	m, err := r.store.KeepContent(content, r.client.Limits())
	if err == nil {
		err = r.store.Remember(version, m)
	}
	if err != nil {
		return Result{Err: asError(err)}
	}
	m.Reference = reference
	return Result{Module: &m}
}

// RecallContent is ResolveContent for bytes of this version that the store has, and
// reports whether it has.
func (r *Resolver) RecallContent(owner types.NamespacedName, reference, version string) (Result, bool) {
	m, found := r.store.Recall(version)
	if !found {
		return Result{}, false
	}
	r.Forget(owner)
	m.Reference = reference
	return Result{Module: &m}, true
}

// RequestOf returns the request of an owner, if it has one.
func (r *Resolver) RequestOf(owner types.NamespacedName) (pull.Request, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	req, has := r.requests[owner]
	return req, has
}

// Forget drops the owner and its request, unless the request has other owners.
func (r *Resolver) Forget(owner types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(owner)
}

func (r *Resolver) forget(owner types.NamespacedName) {
	req, has := r.requests[owner]
	if !has {
		return
	}
	delete(r.requests, owner)
	e := r.entries[req]
	if e.owners.Delete(owner); e.owners.Len() == 0 {
		delete(r.entries, req)
		r.backoff.Forget(req)
	}
}

// due reports whether the registry should be asked (again).
func (r *Resolver) due(e *entry) bool {
	if e.planned || e.running {
		return false
	}
	interval := r.options.PollInterval
	return e.checked.IsZero() || !e.final && interval > 0 && r.options.Clock.Since(e.checked) >= interval
}

// plan queues the entry's request for the next free worker.
func (r *Resolver) plan(e *entry) {
	e.planned, e.notBefore = true, time.Time{}
	r.queue.Add(e.req)
}
