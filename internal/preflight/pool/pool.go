// Package pool has modules preflighted in the background, a few at a time, each module
// with each configuration once, and keeps the verdicts.
package pool

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/lru"

	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/internal/preflight"
)

const (
	// A run that failed by itself is tried again after minRetry, doubled each time up to
	// maxRetry.
	minRetry = time.Second
	maxRetry = 5 * time.Minute
	// maxVerdicts is how many verdicts are kept, of about 2 KiB each.
	maxVerdicts = 4096
)

// Options are what a pool needs.
type Options struct {
	// Open opens a module by its digest (64 hex). The error is fs.ErrNotExist when it is
	// not there.
	Open func(sha256 string) (*store.File, error)
	// Run runs a module (child.Runner).
	Run func(ctx context.Context, file *os.File, size int64, filter preflight.Filter) (preflight.Verdict, error)
	// Wake is called with every owner of a request whose result changed. It must not block
	// for long.
	Wake func(owner types.NamespacedName)
	// Workers is the number of runs at once.
	Workers int
}

// Request is what is to be run.
type Request struct {
	// SHA256 is the digest of the module, 64 hexadecimal digits.
	SHA256 string
	Filter preflight.Filter
}

// key identifies a request by its content.
type key [sha256.Size]byte

func (r Request) key() key {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and bytes always marshal
	}
	return sha256.Sum256(text)
}

// Result is what is known of a request: a verdict, or why there is none yet; neither
// while it is under way.
type Result struct {
	Verdict *preflight.Verdict
	Err     error
}

// Pool runs modules. Its methods may be called concurrently.
type Pool struct {
	options  Options
	queue    workqueue.TypedRateLimitingInterface[key]
	verdicts *lru.Cache

	mu       sync.Mutex
	requests map[key]*request
	owners   map[types.NamespacedName]key
}

// request is one that has no verdict yet.
type request struct {
	Request
	owners sets.Set[types.NamespacedName]
	err    error
}

// New returns a pool, which works once it is started.
func New(options Options) *Pool {
	backoff := workqueue.NewTypedItemExponentialFailureRateLimiter[key](minRetry, maxRetry)
	return &Pool{
		options: options, queue: workqueue.NewTypedRateLimitingQueue(backoff), verdicts: lru.New(maxVerdicts),
		requests: map[key]*request{}, owners: map[types.NamespacedName]key{},
	}
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: only the leader decides.
func (p *Pool) NeedLeaderElection() bool { return true }

// Start runs modules until the context ends, and ends those that are under way.
func (p *Pool) Start(ctx context.Context) error {
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

// Known returns the verdict on a request, if it was run.
func (p *Pool) Known(asked Request) (*preflight.Verdict, bool) {
	known, found := p.verdicts.Get(asked.key())
	if !found {
		return nil, false
	}
	return known.(*preflight.Verdict), true
}

// Ask returns what is known of a request, and has it run when there is no verdict. An
// owner has one request: another one ends the first.
func (p *Pool) Ask(owner types.NamespacedName, asked Request) Result {
	k := asked.key()
	p.mu.Lock()
	defer p.mu.Unlock()
	if former, has := p.owners[owner]; has && former != k {
		p.forget(owner)
	}
	if known, found := p.Known(asked); found {
		p.forget(owner)
		return Result{Verdict: known}
	}
	waiting := p.requests[k]
	if waiting == nil {
		waiting = &request{Request: asked, owners: sets.New[types.NamespacedName]()}
		p.requests[k] = waiting
		p.queue.Add(k)
	}
	waiting.owners.Insert(owner)
	p.owners[owner] = k
	return Result{Err: waiting.err}
}

// Forget ends an owner's request.
func (p *Pool) Forget(owner types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(owner)
}

func (p *Pool) forget(owner types.NamespacedName) {
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

// work runs the next request, and reports whether there may be more.
func (p *Pool) work(ctx context.Context) bool {
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
	begin := time.Now()
	verdict, err := p.run(ctx, waiting.Request)
	if ctx.Err() != nil {
		return false
	}
	count(verdict, err, time.Since(begin))
	p.settle(k, verdict, err)
	return true
}

func (p *Pool) run(ctx context.Context, asked Request) (preflight.Verdict, error) {
	file, err := p.options.Open(asked.SHA256)
	if errors.Is(err, fs.ErrNotExist) {
		return preflight.Verdict{}, errors.New("the module is not in the store any more, and is pulled again")
	}
	if err != nil {
		return preflight.Verdict{}, err
	}
	defer file.Close()
	return p.options.Run(ctx, file.File, file.SizeBytes, asked.Filter)
}

// settle keeps a result, and wakes the owners that the request has by now.
func (p *Pool) settle(k key, verdict preflight.Verdict, err error) {
	p.mu.Lock()
	var owners []types.NamespacedName
	if waiting := p.requests[k]; waiting != nil {
		owners = waiting.owners.UnsortedList()
		waiting.err = err
	}
	if err != nil {
		p.queue.AddRateLimited(k)
	} else {
		p.verdicts.Add(k, &verdict)
		p.queue.Forget(k)
		for _, owner := range owners {
			delete(p.owners, owner)
		}
		delete(p.requests, k)
	}
	p.mu.Unlock()
	for _, owner := range owners {
		p.options.Wake(owner)
	}
}
