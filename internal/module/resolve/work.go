package resolve

import (
	"context"
	"reflect"
	"time"

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
	j, told := r.begin(req, r.client.Preloaded(req))
	r.wake(told)
	if j != nil {
		r.wake(r.record(ctx, j, counted(r.check(ctx, j))))
	}
	return true
}

func (r *Resolver) wake(owners sets.Set[types.NamespacedName]) {
	for owner := range owners {
		r.options.Wake(owner)
	}
}

// job is an entry that a worker works on, with the slots that it takes.
type job struct {
	entry           *entry
	host, namespace string
	way             way
	// probe says that the registry is asked once, to see whether it answers again.
	probe bool
	// preloaded says that no registry is asked.
	preloaded bool
	source    *pull.Image
	// broken is the image that was found to be broken, and brokenErr says why.
	broken    string
	brokenErr *module.Error
}

// begin takes slots for a request. It returns no job when nobody wants the request
// any more, or when the request waits: for its time, for its registry to be asked
// again, or for a slot of its registry or of its owners' namespaces. Owners that were
// not told yet why it waits are returned, to be woken.
func (r *Resolver) begin(req pull.Request, preloaded bool) (*job, sets.Set[types.NamespacedName]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entries[req]
	if e == nil || !e.planned {
		return nil, nil
	}
	now := r.options.Clock.Now()
	if early := e.notBefore.Sub(now); early > 0 {
		// The queue keeps the earlier of two times, and an entry that was
		// dropped leaves its own behind.
		r.queue.AddAfter(req, early)
		return nil, nil
	}
	j := e.job()
	j.preloaded = preloaded
	open := r.openCircuit(j)
	if open != nil && open.until.After(now) {
		return nil, r.hold(e, open, now)
	}
	j.probe = open != nil
	if e.parked = !r.findSlots(j); e.parked {
		return nil, nil
	}
	e.planned, e.running = false, true
	r.take(j)
	return j, nil
}

// job returns what a worker needs to know, as the entry may change meanwhile.
func (e *entry) job() *job {
	host := e.req.Host()
	j := &job{entry: e, host: host, way: wayOf(e.req, host), source: e.source}
	if err := e.result.Err; err != nil && aboutContent(err) {
		j.broken, j.brokenErr = e.image, err
	}
	return j
}

// openCircuit returns the circuit that is open on a job's way to a registry; nil for none.
func (r *Resolver) openCircuit(j *job) *circuit {
	if j.preloaded {
		return nil
	}
	return r.circuits.open(j.way)
}

// hold plans an entry for when its registry is asked again, and returns the owners
// that are to hear of it.
func (r *Resolver) hold(e *entry, by *circuit, now time.Time) sets.Set[types.NamespacedName] {
	e.notBefore = by.until
	r.queue.AddAfter(e.req, by.until.Sub(now))
	if e.result.Module != nil || e.result.Err != nil && !by.replaces(e.result.Err) {
		return nil
	}
	e.result = Result{Err: by.err}
	return e.owners.Clone()
}

// findSlots reports whether there is a slot for each thing that a job needs. When
// there is not, its request waits for one.
func (r *Resolver) findSlots(j *job) (free bool) {
	req := j.entry.req
	switch {
	case j.probe && !r.probes.Free(j.way):
		r.probes.Wait(j.way, req)
		return false
	case !r.hosts.Free(j.host):
		r.hosts.Wait(j.host, req)
		return false
	}
	j.namespace, free = r.freeNamespace(j.entry)
	return free
}

func (r *Resolver) take(j *job) {
	r.hosts.Take(j.host)
	r.namespaces.Take(j.namespace)
	if j.probe {
		r.probes.Take(j.way)
	}
}

// freeNamespace returns an owner's namespace that has a slot. When there is none,
// the entry waits for one in all of them.
func (r *Resolver) freeNamespace(e *entry) (string, bool) {
	for owner := range e.owners {
		if r.namespaces.Free(owner.Namespace) {
			return owner.Namespace, true
		}
	}
	for owner := range e.owners {
		r.namespaces.Wait(owner.Namespace, e.req)
	}
	return "", false
}

// record records what a worker found, plans the next try, and returns the owners to
// wake.
func (r *Resolver) record(ctx context.Context, j *job, found outcome) sets.Set[types.NamespacedName] {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !j.preloaded {
		found.err = r.circuits.record(j, found, r.options.Clock.Now())
	}
	r.release(j)
	e := j.entry
	if r.entries[e.req] != e {
		return nil
	}
	e.running = false
	e.checked, e.source, e.final = r.options.Clock.Now(), j.source, found.final
	r.planRetry(e, found.err)
	if e.keeps(found.err) {
		log.FromContext(ctx).V(1).Info("Keeping the module that was found earlier", "image", e.req.Where(), "reason", found.err.Reason, "error", found.err.Message)
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
	waiting := r.hosts.Release(j.host).Union(r.namespaces.Release(j.namespace))
	if j.probe {
		waiting = waiting.Union(r.probes.Release(j.way))
	}
	for req := range waiting {
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
