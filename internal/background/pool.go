// Package background does what FilterDeployments ask for beside their passes, a few things
// at a time, each once for all who ask, and keeps the results.
package background

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/lru"
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
	// MinRetry is the wait after an error, or before a renewal, doubled each time up to
	// MaxRetry.
	MinRetry, MaxRetry time.Duration
	// Kept is the number of results that are kept.
	Kept int
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
	queue   workqueue.TypedRateLimitingInterface[key]
	results *lru.Cache

	mu       sync.Mutex
	requests map[key]*request[Request]
	owners   map[types.NamespacedName]key
}

// request is one that is to be done.
type request[Request any] struct {
	asked  Request
	owners sets.Set[types.NamespacedName]
	err    error
	// renewed says that there is a result already, which its owners want anew.
	renewed bool
}

// New returns a pool, which works once it is started.
func New[Request, Result any](options Options[Request, Result]) *Pool[Request, Result] {
	backoff := workqueue.NewTypedItemExponentialFailureRateLimiter[key](options.MinRetry, options.MaxRetry)
	return &Pool[Request, Result]{
		options: options, queue: workqueue.NewTypedRateLimitingQueue(backoff), results: lru.New(options.Kept),
		requests: map[key]*request[Request]{}, owners: map[types.NamespacedName]key{},
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
	if !waiting.renewed {
		waiting.renewed = true
		p.queue.AddRateLimited(k)
	}
	p.own(owner, k)
}

func (p *Pool[Request, Result]) add(k key, asked Request) *request[Request] {
	added := &request[Request]{asked: asked, owners: sets.New[types.NamespacedName]()}
	p.requests[k] = added
	return added
}

func (p *Pool[Request, Result]) own(owner types.NamespacedName, k key) {
	p.requests[k].owners.Insert(owner)
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
		p.queue.Forget(k)
	}
}

// work does the next thing, and reports whether there may be more.
func (p *Pool[Request, Result]) work(ctx context.Context) bool {
	k, shutdown := p.queue.Get()
	if shutdown {
		return false
	}
	defer p.queue.Done(k)
	p.mu.Lock()
	waiting := p.requests[k]
	p.mu.Unlock()
	if waiting == nil { // nobody needs it any more
		p.queue.Forget(k)
		return true
	}
	result, err := p.options.Do(ctx, waiting.asked)
	if ctx.Err() != nil {
		return false
	}
	for _, owner := range p.settle(k, result, err) {
		p.options.Wake(owner)
	}
	return true
}

// settle keeps a result, and returns the owners that the request has by now.
func (p *Pool[Request, Result]) settle(k key, result Result, err error) []types.NamespacedName {
	p.mu.Lock()
	defer p.mu.Unlock()
	var owners []types.NamespacedName
	waiting := p.requests[k]
	if waiting != nil {
		owners = waiting.owners.UnsortedList()
		waiting.err = err
	}
	if err != nil {
		p.queue.AddRateLimited(k)
		return owners
	}
	p.results.Add(k, &result)
	if waiting != nil && waiting.renewed {
		waiting.renewed = false // they stay, for the next wait to be longer
		return owners
	}
	p.queue.Forget(k)
	for _, owner := range owners {
		delete(p.owners, owner)
	}
	delete(p.requests, k)
	return owners
}
