// Package background does what FilterDeployments ask for beside their passes, a few things
// at a time, each once for all who ask, and keeps the results.
package background

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/wasme-io/wasme-operator/internal/slots"
)

// Options are what a pool needs. A request is a value whose JSON has all that the result
// depends on.
type Options[Request, Result any] struct {
	// Do does what is asked for. An error has it tried again.
	Do func(context.Context, Request) (Result, error)
	// Wake is called with every owner of a request whose result changed. It must not block
	// for long.
	Wake func(owner types.NamespacedName)
	// Workers is the number of things done at once.
	Workers int
	// PerNamespace is how many of them may be for the FilterDeployments of one namespace,
	// and PerHost how many on one host, so that none holds up the others; 0 for all.
	PerNamespace, PerHost int
	// Host returns where a request is done; nil for here.
	Host func(Request) string
	// MinRetry is the wait after an error, or before a renewal, doubled each time up to
	// MaxRetry.
	MinRetry, MaxRetry time.Duration
	// RetryAfter returns the least wait after an error; nil for none.
	RetryAfter func(error) time.Duration
	// Kept is the number of results that are kept, and KeptBytes how large they may be
	// together by what Size returns; nil when that does not matter. The latest is kept.
	Kept      int
	KeptBytes int64
	Size      func(*Result) int64
	// Clock is for waits; nil for the machine's.
	Clock clock.WithTicker
}

// key identifies a request by its content.
type key [sha256.Size]byte

func keyOf[Request any](asked Request) key {
	text, err := json.Marshal(asked)
	if err != nil {
		panic(err) // requests are plain values
	}
	return sha256.Sum256(text)
}

// Answer is what is known of a request: a result, or why there is none yet; neither while
// it is under way.
type Answer[Result any] struct {
	Result *Result
	Err    error
}

// Pool does things. Its methods may be called concurrently.
type Pool[Request, Result any] struct {
	options Options[Request, Result]
	backoff workqueue.TypedRateLimiter[key]
	queue   workqueue.TypedDelayingInterface[key]
	results *lru.Cache

	mu         sync.Mutex
	requests   map[key]*request[Request]
	owners     map[types.NamespacedName]key
	hosts      slots.Slots[string, key]
	namespaces slots.Slots[string, key]
	keptBytes  int64
}

// request is one that is to be done.
type request[Request any] struct {
	asked  Request
	owners sets.Set[types.NamespacedName]
	err    error
	// renewed says that there is a result already, which its owners want anew from time to
	// time. The request stays until they forget it, for the waits to grow.
	renewed bool
	// planned says that it will be done, or is under way, and parked that it waits for a
	// slot.
	planned, parked bool
}

// New returns a pool, which works once it is started.
func New[Request, Result any](options Options[Request, Result]) *Pool[Request, Result] {
	backoff := workqueue.NewTypedItemExponentialFailureRateLimiter[key](options.MinRetry, options.MaxRetry)
	p := &Pool[Request, Result]{
		options: options, backoff: backoff,
		queue:    workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[key]{Clock: options.Clock}),
		requests: map[key]*request[Request]{}, owners: map[types.NamespacedName]key{},
		hosts:      slots.New[string, key](cmp.Or(options.PerHost, options.Workers)),
		namespaces: slots.New[string, key](cmp.Or(options.PerNamespace, options.Workers)),
	}
	p.results = lru.NewWithEvictionFunc(options.Kept, func(_ lru.Key, result any) { p.keptBytes -= p.size(result.(*Result)) })
	return p
}

func (p *Pool[Request, Result]) size(result *Result) int64 {
	if p.options.Size == nil {
		return 0
	}
	return p.options.Size(result)
}

// keep keeps a result, and drops those that were used least recently.
func (p *Pool[Request, Result]) keep(k key, result *Result) {
	if former, found := p.known(k); found {
		p.keptBytes -= p.size(former)
	}
	p.results.Add(k, result)
	for p.keptBytes += p.size(result); p.keptBytes > p.options.KeptBytes && p.results.Len() > 1; {
		p.results.RemoveOldest()
	}
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: only the leader decides.
func (p *Pool[Request, Result]) NeedLeaderElection() bool { return true }

// Start works until the context ends, and ends what is under way.
func (p *Pool[Request, Result]) Start(ctx context.Context) error {
	var workers sync.WaitGroup
	for range p.options.Workers {
		workers.Go(func() {
			for p.work(ctx) {
			}
		})
	}
	<-ctx.Done()
	p.queue.ShutDown()
	workers.Wait()
	return nil
}

// Known returns the result of a request, if there is one.
func (p *Pool[Request, Result]) Known(asked Request) (*Result, bool) { return p.known(keyOf(asked)) }

func (p *Pool[Request, Result]) known(k key) (*Result, bool) {
	known, found := p.results.Get(k)
	if !found {
		return nil, false
	}
	return known.(*Result), true
}

// Ask returns what is known of a request, and has it done when there is no result. An
// owner has one request: another one ends the first.
func (p *Pool[Request, Result]) Ask(owner types.NamespacedName, asked Request) Answer[Result] {
	k := keyOf(asked)
	p.mu.Lock()
	defer p.mu.Unlock()
	if former, has := p.owners[owner]; has && former != k {
		p.forget(owner)
	}
	waiting := p.requests[k]
	if known, found := p.known(k); found {
		if waiting == nil || !waiting.renewed {
			p.forget(owner)
		}
		return Answer[Result]{Result: known}
	}
	if waiting == nil {
		waiting = p.add(k, asked)
	}
	if !waiting.planned || waiting.renewed { // its result was dropped meanwhile
		waiting.planned, waiting.renewed = true, false
		p.queue.Add(k)
	}
	p.own(owner, k)
	return Answer[Result]{Err: waiting.err}
}

// Renew has a request done again, after a wait that grows each time until the owner
// forgets it, because its result may have changed. What is known stays until then.
func (p *Pool[Request, Result]) Renew(owner types.NamespacedName, asked Request) {
	k := keyOf(asked)
	p.mu.Lock()
	defer p.mu.Unlock()
	waiting := p.requests[k]
	if waiting == nil {
		waiting = p.add(k, asked)
	}
	waiting.renewed = true
	if !waiting.planned {
		waiting.planned = true
		p.queue.AddAfter(k, p.backoff.When(k))
	}
	p.own(owner, k)
}

func (p *Pool[Request, Result]) add(k key, asked Request) *request[Request] {
	added := &request[Request]{asked: asked, owners: sets.New[types.NamespacedName]()}
	p.requests[k] = added
	return added
}

func (p *Pool[Request, Result]) own(owner types.NamespacedName, k key) {
	waiting := p.requests[k]
	if waiting.parked && !waiting.owners.Has(owner) {
		p.queue.Add(k) // the new owner's namespace may have a slot
	}
	waiting.owners.Insert(owner)
	p.owners[owner] = k
}

// Forget ends an owner's request.
func (p *Pool[Request, Result]) Forget(owner types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(owner)
}

func (p *Pool[Request, Result]) forget(owner types.NamespacedName) {
	k, has := p.owners[owner]
	if !has {
		return
	}
	delete(p.owners, owner)
	waiting := p.requests[k]
	if waiting.owners.Delete(owner); waiting.owners.Len() == 0 {
		delete(p.requests, k)
		p.backoff.Forget(k)
	}
}

// work does the next thing, and reports whether there may be more.
func (p *Pool[Request, Result]) work(ctx context.Context) bool {
	k, shutdown := p.queue.Get()
	if shutdown {
		return false
	}
	defer p.queue.Done(k)
	j := p.begin(k)
	if j == nil {
		return true
	}
	result, err := p.do(ctx, j.asked)
	if ctx.Err() != nil {
		return false
	}
	for _, owner := range p.settle(j, result, err) {
		p.options.Wake(owner)
	}
	return true
}

// job is a request that a worker works on, with the slots that it takes.
type job[Request any] struct {
	key             key
	asked           Request
	host, namespace string
}

// begin takes slots for a request. It returns no job when nobody needs the request any
// more, or when it waits for a slot.
func (p *Pool[Request, Result]) begin(k key) *job[Request] {
	p.mu.Lock()
	defer p.mu.Unlock()
	waiting := p.requests[k]
	if waiting == nil {
		p.backoff.Forget(k)
		return nil
	}
	j := &job[Request]{key: k, asked: waiting.asked}
	if p.options.Host != nil {
		j.host = p.options.Host(j.asked)
	}
	if waiting.parked = !p.findSlots(j, waiting.owners); waiting.parked {
		return nil
	}
	p.hosts.Take(j.host)
	p.namespaces.Take(j.namespace)
	return j
}

// findSlots reports whether there is a slot on the host, and one of an owner's namespace.
// When there is not, the request waits for one.
func (p *Pool[Request, Result]) findSlots(j *job[Request], owners sets.Set[types.NamespacedName]) bool {
	if !p.hosts.Free(j.host) {
		p.hosts.Wait(j.host, j.key)
		return false
	}
	for owner := range owners {
		if p.namespaces.Free(owner.Namespace) {
			j.namespace = owner.Namespace
			return true
		}
	}
	for owner := range owners {
		p.namespaces.Wait(owner.Namespace, j.key)
	}
	return false
}

// release gives a job's slots back, and lets those run that waited for them.
func (p *Pool[Request, Result]) release(j *job[Request]) {
	for k := range p.hosts.Release(j.host).Union(p.namespaces.Release(j.namespace)) {
		if waiting := p.requests[k]; waiting != nil && waiting.parked {
			p.queue.Add(k)
		}
	}
}

// do does what is asked for. A panic is an error: it must not end the operator, again and
// again, for everyone.
func (p *Pool[Request, Result]) do(ctx context.Context, asked Request) (result Result, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			log.FromContext(ctx).Error(fmt.Errorf("panic: %v", cause), "Work in the background panicked", "stack", string(debug.Stack()))
			err = errors.New("the operator failed on it: see its log")
		}
	}()
	return p.options.Do(ctx, asked)
}

// settle keeps a result, and returns the owners that the request has by now.
func (p *Pool[Request, Result]) settle(j *job[Request], result Result, err error) []types.NamespacedName {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release(j)
	if err == nil {
		p.keep(j.key, &result)
	}
	waiting := p.requests[j.key]
	if waiting == nil {
		return nil
	}
	owners := waiting.owners.UnsortedList()
	waiting.err = err
	switch {
	case err != nil:
		p.queue.AddAfter(j.key, p.delay(j.key, err))
	case waiting.renewed: // they stay, for the next wait to be longer
		waiting.planned = false
	default:
		p.backoff.Forget(j.key)
		for _, owner := range owners {
			delete(p.owners, owner)
		}
		delete(p.requests, j.key)
	}
	return owners
}

// delay returns the wait after an error.
func (p *Pool[Request, Result]) delay(k key, err error) time.Duration {
	wait := p.backoff.When(k)
	if p.options.RetryAfter != nil {
		wait = max(wait, p.options.RetryAfter(err))
	}
	return wait
}
