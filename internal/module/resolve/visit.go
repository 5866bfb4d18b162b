package resolve

import (
	"context"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
)

// Visit has something else read from an image's registry than the module, unless the
// registry is left alone at this time. The error then says until when, and a registry that
// limits requests is left alone by the resolver, too. Any other
// answer shows that the registry is there; one that is unavailable changes nothing, since not
// all registries have all that is read.
func (r *Resolver) Visit(ctx context.Context, req pull.Request, read func(context.Context) error) (err error) {
	v, held := r.enter(req)
	if held != nil {
		return held
	}
	defer func() { err = r.leave(v, err) }()
	return read(ctx)
}

// visit is one that is under way.
type visit struct {
	host string
	way  way
	// probe says that the registry is asked once, to see whether it answers again.
	probe bool
}

// enter returns an error while the registry is left alone.
func (r *Resolver) enter(req pull.Request) (visit, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	host := req.Host()
	v := visit{host: host, way: wayOf(req, host)}
	now := r.options.Clock.Now()
	open := r.circuits.open(v.way)
	if open == nil {
		return v, nil
	}
	if open.until.After(now) || !r.probes.Free(v.way) {
		return v, open.held(open.err, now)
	}
	v.probe = true
	r.probes.Take(v.way)
	return v, nil
}

// leave notes what a visit says about the way to the registry.
func (r *Resolver) leave(v visit, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v.probe {
		for req := range r.probes.Release(v.way) {
			r.queue.Add(req)
		}
	}
	failure := module.AsError(err)
	switch {
	case err == nil, failure != nil && failure.Reason != wasmev1.ReasonRegistryUnavailable:
		r.circuits.failed.Remove(v.way)
	case failure != nil && failure.RetryAfter > 0:
		now := r.options.Clock.Now()
		told := r.circuits.fail(v.way, v.host, failure, now)
		return r.circuits.of(v.way).held(told, now)
	}
	return err
}

// held returns an error with the time for which a registry is left alone.
func (c *circuit) held(err *module.Error, now time.Time) error {
	held := *err
	held.RetryAfter = max(c.until.Sub(now), minRetry)
	return &held
}
