package module

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/singleflight"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/log"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// DefaultWorkers is the number of requests that a Resolver works on at once.
const DefaultWorkers = 16

const (
	// slotsPerHost and slotsPerNamespace are the parts of the workers that one
	// registry, or the FilterDeployments of one namespace, can take.
	// That of a namespace is the smaller one: its slow pulls leave room at a
	// registry that it shares with others.
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

// ResolverOptions configure a Resolver.
type ResolverOptions struct {
	// PollInterval is how old an answer may get before Resolve has it checked
	// again with one HEAD. Zero: an answer that is good stays for ever.
	PollInterval time.Duration
	// Workers is the number of requests under way at once.
	Workers int
	// Wake is called with every owner of a request whose result changed. It
	// must not block for long, and may call Resolve.
	Wake func(owner types.NamespacedName)
	// Clock is the time; tests pass their own.
	Clock clock.WithTicker
}

// Result is what is known of a request. Both nil: it is being resolved.
type Result struct {
	// Module is the module, checked and held by the store. Do not change it:
	// it is shared.
	Module *Module
	// Err is why there is no module. The resolver goes on trying.
	Err *Error
}

// Pending says that nothing is known yet.
func (r Result) Pending() bool { return r.Module == nil && r.Err == nil }

// Resolver resolves requests in the background and remembers the results.
type Resolver struct {
	store   *Store
	puller  *Puller
	options ResolverOptions
	queue   workqueue.TypedDelayingInterface[Request]
	backoff workqueue.TypedRateLimiter[Request]
	pulls   singleflight.Group

	mu         sync.Mutex
	entries    map[Request]*entry
	requests   map[types.NamespacedName]Request
	hosts      slots
	namespaces slots
}

// entry is what is known of a request, and who wants to know.
type entry struct {
	req    Request
	owners sets.Set[types.NamespacedName]
	result Result
	// image names the manifest that result is about, good or refused.
	image string
	// final: result is the answer for as long as the store holds its module.
	final bool
	// checked is when the registry was last asked.
	checked time.Time
	// planned: in the queue, not yet begun, and not to begin before notBefore.
	planned   bool
	notBefore time.Time
	// parked: planned, and waiting for a slot.
	parked bool
	// running: a worker asks the registry.
	running bool
	// source is kept from one look to the next, for the registry's token.
	source *source
}

// NewResolver returns a Resolver that keeps modules in store.
func NewResolver(store *Store, puller *Puller, opts ResolverOptions) *Resolver {
	return &Resolver{
		store:      store,
		puller:     puller,
		options:    opts,
		queue:      workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[Request]{Clock: opts.Clock}),
		backoff:    workqueue.NewTypedItemExponentialFailureRateLimiter[Request](minRetry, maxRetry),
		entries:    map[Request]*entry{},
		requests:   map[types.NamespacedName]Request{},
		hosts:      newSlots(slotsPerHost),
		namespaces: newSlots(slotsPerNamespace),
	}
}

// NeedLeaderElection says that every replica resolves.
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
func (r *Resolver) Resolve(owner types.NamespacedName, req Request) Result {
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

// own makes owner an owner of the entry of req, and of no other.
func (r *Resolver) own(owner types.NamespacedName, req Request) *entry {
	if former, has := r.requests[owner]; has && former != req {
		r.disown(owner)
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

// Forget drops owner; a request without owners is dropped too.
func (r *Resolver) Forget(owner types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.disown(owner)
}

func (r *Resolver) disown(owner types.NamespacedName) {
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

// due says whether the registry should be asked (again).
func (r *Resolver) due(e *entry) bool {
	if e.planned || e.running {
		return false
	}
	interval := r.options.PollInterval
	return e.checked.IsZero() || !e.final && interval > 0 && r.options.Clock.Since(e.checked) >= interval
}

// plan has the entry's request worked on as soon as a worker is free.
func (r *Resolver) plan(e *entry) {
	e.planned, e.notBefore = true, time.Time{}
	r.queue.Add(e.req)
}

// work takes one request from the queue; false when the queue has shut down.
func (r *Resolver) work(ctx context.Context) bool {
	req, shutdown := r.queue.Get()
	if shutdown {
		return false
	}
	defer r.queue.Done(req)
	if j := r.begin(req); j != nil {
		r.end(ctx, j, counted(r.check(ctx, j)))
	}
	return true
}

// job is an entry that a worker works on, with the slots that it took.
type job struct {
	entry           *entry
	host, namespace string
	source          *source
	// refused is the image that was found to be broken, and why.
	refused    string
	refusedErr *Error
}

// begin takes slots for a request. Nil: it is not wanted any more, or it waits
// for its time, or for a slot of its registry or of its owners' namespaces.
func (r *Resolver) begin(req Request) *job {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entries[req]
	if e == nil || !e.planned {
		return nil
	}
	if early := e.notBefore.Sub(r.options.Clock.Now()); early > 0 {
		// The queue keeps the earlier of two times, and an entry that was
		// dropped leaves its own behind.
		r.queue.AddAfter(req, early)
		return nil
	}
	host := hostOf(req)
	if e.parked = !r.hosts.free(host); e.parked {
		r.hosts.wait(host, req)
		return nil
	}
	namespace, free := r.freeNamespace(e)
	if e.parked = !free; e.parked {
		return nil
	}
	e.planned, e.running = false, true
	r.hosts.take(host)
	r.namespaces.take(namespace)
	return e.job(host, namespace)
}

// job says what a worker needs to know, as the entry may change under it.
func (e *entry) job(host, namespace string) *job {
	j := &job{entry: e, host: host, namespace: namespace, source: e.source}
	if err := e.result.Err; err != nil && err.ofContent() {
		j.refused, j.refusedErr = e.image, err
	}
	return j
}

// freeNamespace finds a namespace of an owner that has a slot, or waits for
// one in all of them.
func (r *Resolver) freeNamespace(e *entry) (string, bool) {
	for owner := range e.owners {
		if r.namespaces.free(owner.Namespace) {
			return owner.Namespace, true
		}
	}
	for owner := range e.owners {
		r.namespaces.wait(owner.Namespace, e.req)
	}
	return "", false
}

// hostOf is the registry of a request's image, or the host of its URL; all that
// cannot be read go by one name.
func hostOf(req Request) string {
	if req.URL != "" {
		at, err := parseURL(req.URL)
		if err != nil {
			return ""
		}
		return urlHost(at)
	}
	ref, err := parseReference(req.Image, req.PlainHTTP)
	if err != nil {
		return ""
	}
	return ref.Context().RegistryStr()
}

// outcome is what a worker found.
type outcome struct {
	// image names the manifest; empty when the registry did not tell.
	image  string
	module *Module
	err    *Error
	// final: looking again finds the same.
	final bool
}

// check looks for the module where the request says that it is.
func (r *Resolver) check(ctx context.Context, j *job) outcome {
	if j.entry.req.URL != "" {
		return r.checkURL(ctx, j)
	}
	return r.checkImage(ctx, j)
}

// checkURL fetches the module of a URL, unless that has been done: the store
// remembers it over a restart. That the store holds a module of the digest is
// no proof that it is to be had at the URL.
func (r *Resolver) checkURL(ctx context.Context, j *job) (found outcome) {
	defer j.survive(ctx, &found)
	target, err := r.puller.openURL(j.entry.req)
	if err != nil {
		return outcome{err: ensureError(err)}
	}
	known, held := r.store.recall(target.key())
	if !held {
		known, err = r.fetched(ctx, target)
	}
	if err != nil {
		failure := ensureError(err)
		// Only a module with the right digest is judged, so that stays.
		return outcome{err: failure, final: failure.Reason == wasmev1.ReasonInvalidModule}
	}
	return outcome{module: &known, final: true}
}

func (r *Resolver) fetched(ctx context.Context, target *target) (Module, error) {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	begin := time.Now()
	m, err := target.fetch(ctx, r.store)
	countPull(begin, err)
	if err != nil {
		return Module{}, err
	}
	return m, r.store.remember(target.key(), m)
}

// checkImage asks the registry with the request's own credential, and pulls
// what is not known yet.
func (r *Resolver) checkImage(ctx context.Context, j *job) (found outcome) {
	defer j.survive(ctx, &found)
	if j.source == nil {
		source, err := r.puller.open(j.entry.req)
		if err != nil {
			return outcome{err: ensureError(err)}
		}
		j.source = source
	}
	headCtx, cancel := context.WithTimeout(ctx, headTimeout)
	defer cancel()
	digest, err := j.source.head(headCtx)
	if err != nil {
		return outcome{err: ensureError(err)}
	}
	image := j.entry.req.imageKey(j.source.ref.Context().Name(), digest.String())
	if image == j.refused {
		return outcome{image: image, err: j.refusedErr}
	}
	found.image = image
	known, err := r.pulled(ctx, j, digest, image)
	if err != nil {
		return outcome{image: image, err: ensureError(err)}
	}
	known.Reference = j.entry.req.Image
	return outcome{image: image, module: &known}
}

// survive is deferred: what makes ggcr or a decoder panic must not end the
// operator, again and again, for everyone.
func (j *job) survive(ctx context.Context, found *outcome) {
	if cause := recover(); cause != nil {
		where := j.entry.req.where()
		log.FromContext(ctx).Error(fmt.Errorf("panic: %v", cause), "Reading a module panicked", "source", where, "stack", string(debug.Stack()))
		found.err = refused(wasmev1.ReasonInvalidImage, "reading %s: the operator fails on it, see its log", where)
	}
}

// where is what the request names, fit for logs.
func (req Request) where() string {
	if req.URL != "" {
		return "the URL of " + hostOf(req)
	}
	return req.Image
}

// imageKey names an image that was seen in a repository, by its digest. What a
// registry proved over a verified connection is not told to those who did not
// verify it, and one repository's digests say nothing about another's: a
// registry may claim any digest.
func (req Request) imageKey(repository, digest string) string {
	switch {
	case req.PlainHTTP:
		return "plain-http " + repository + "@" + digest
	case req.InsecureSkipVerify:
		return "unverified " + repository + "@" + digest
	}
	return repository + "@" + digest
}

// pulled returns the module of an image whose digest the registry has told:
// from the store, or by one pull for all who ask at the same time.
func (r *Resolver) pulled(ctx context.Context, j *job, digest v1.Hash, image string) (Module, error) {
	if known, held := r.store.recall(image); held {
		return known, nil
	}
	m, err, _ := r.pulls.Do(image, func() (any, error) {
		ctx, cancel := context.WithTimeout(ctx, pullTimeout)
		defer cancel()
		begin := time.Now()
		pulled, err := j.source.pull(ctx, digest, r.store)
		countPull(begin, err)
		if err != nil {
			return Module{}, err
		}
		// Who pins the child of an index names it by its own digest.
		child := j.entry.req.imageKey(j.source.ref.Context().Name(), pulled.ManifestDigest)
		return pulled, errors.Join(r.store.remember(image, pulled), r.store.remember(child, pulled))
	})
	return m.(Module), err
}

// end writes down what a worker found and plans the next try.
func (r *Resolver) end(ctx context.Context, j *job, found outcome) {
	for owner := range r.record(ctx, j, found) {
		r.options.Wake(owner)
	}
}

// record returns the owners to wake.
func (r *Resolver) record(ctx context.Context, j *job, found outcome) sets.Set[types.NamespacedName] {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.release(j)
	e := j.entry
	if r.entries[e.req] != e {
		return nil
	}
	e.running = false
	e.checked, e.source, e.final = r.options.Clock.Now(), j.source, found.final
	r.planRetry(e, found.err)
	if e.keeps(found.err) {
		log.FromContext(ctx).V(1).Info("Keeping the module that was found earlier", "source", e.req.where(), "reason", found.err.Reason, "message", found.err.Message)
		return nil
	}
	before := e.result
	e.image, e.result = found.image, Result{Module: found.module, Err: found.err}
	if reflect.DeepEqual(before, e.result) {
		return nil
	}
	return e.owners.Clone()
}

// keeps says whether a good result outlives a failure to confirm it.
func (e *entry) keeps(err *Error) bool {
	return err != nil && e.result.Module != nil && !err.replacesGood()
}

// release gives a job's slots back and lets those run that waited for them.
func (r *Resolver) release(j *job) {
	for req := range r.hosts.release(j.host).Union(r.namespaces.release(j.namespace)) {
		r.queue.Add(req)
	}
}

// planRetry: what time cannot cure is looked at again as often as what is good,
// for the image may be replaced.
func (r *Resolver) planRetry(e *entry, err *Error) {
	if err == nil || e.final {
		r.backoff.Forget(e.req)
		return
	}
	// A new connection, a new token.
	e.source = nil
	delay := r.backoff.When(e.req)
	if err.Terminal {
		delay = max(r.options.PollInterval, delay)
	}
	delay = wait.Jitter(delay, retryJitter)
	e.planned, e.notBefore = true, r.options.Clock.Now().Add(delay)
	r.queue.AddAfter(e.req, delay)
}
