package resolve

import (
	"context"
	"reflect"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/log"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
)

// work takes one request from the queue and works on it; false when the queue
// has shut down.
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

// job is an entry that a worker works on, with the slots that it takes.
type job struct {
	entry           *entry
	host, namespace string
	source          *pull.Image
	// broken is the image that was found to be broken, and brokenErr says why.
	broken    string
	brokenErr *module.Error
}

// begin takes slots for a request. It returns nil when nobody wants the request
// any more, or when the request waits: for its time, or for a slot of its
// registry or of its owners' namespaces.
func (r *Resolver) begin(req pull.Request) *job {
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
	host := req.Host()
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

// job returns what a worker needs to know, as the entry may change meanwhile.
func (e *entry) job(host, namespace string) *job {
	j := &job{entry: e, host: host, namespace: namespace, source: e.source}
	if err := e.result.Err; err != nil && aboutContent(err) {
		j.broken, j.brokenErr = e.image, err
	}
	return j
}

// freeNamespace returns an owner's namespace that has a slot. When there is none,
// the entry waits for one in all of them.
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

// end records what a worker found, plans the next try, and wakes the owners.
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
		log.FromContext(ctx).V(1).Info("Keeping the module that was found earlier", "source", e.req.Where(), "reason", found.err.Reason, "message", found.err.Message)
		return nil
	}
	before := e.result
	e.image, e.result = found.image, Result{Module: found.module, Err: found.err}
	if reflect.DeepEqual(before, e.result) {
		return nil
	}
	return e.owners.Clone()
}

// keeps reports whether a good result outlives a failure to confirm it.
func (e *entry) keeps(err *module.Error) bool {
	return err != nil && e.result.Module != nil && !replacesGood(err)
}

// release gives a job's slots back and lets those run that waited for them.
func (r *Resolver) release(j *job) {
	for req := range r.hosts.release(j.host).Union(r.namespaces.release(j.namespace)) {
		r.queue.Add(req)
	}
}

// planRetry plans the next try after a failure. After a terminal one it is no
// sooner than the check of a good result: only a change of the image helps.
func (r *Resolver) planRetry(e *entry, err *module.Error) {
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

// replacesGood reports whether a good result gives way to the error: the registry
// has withdrawn the right or the image, or the image that it has now is broken.
func replacesGood(err *module.Error) bool {
	return err.Terminal || err.Reason == wasmev1.ReasonUnauthorized || err.Reason == wasmev1.ReasonImageNotFound
}

// aboutContent reports whether the error is about what the image's digest covers,
// so that it holds as long as the digest does.
func aboutContent(err *module.Error) bool {
	switch err.Reason {
	case wasmev1.ReasonInvalidImage, wasmev1.ReasonInvalidModule, wasmev1.ReasonTooLarge:
		return true
	}
	return false
}
