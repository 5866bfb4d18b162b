package resolve

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"sigs.k8s.io/controller-runtime/pkg/log"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/internal/tracing"
)

// outcome is what a worker found.
type outcome struct {
	// image names the manifest; empty when the registry did not.
	image  string
	module *module.Module
	err    *module.Error
	// final says that another look would find the same.
	final bool
}

// failure returns the error, which is nil for none.
func (o outcome) failure() error {
	if o.err == nil {
		return nil
	}
	return o.err
}

// check looks for the module where the request points.
func (r *Resolver) check(ctx context.Context, j *job) (found outcome) {
	ctx, span := tracing.Begin(ctx, "LookUpModule", tracing.Registry(j.host))
	defer func() { tracing.End(span, found.failure()) }()
	if j.entry.req.URL != "" {
		return r.checkURL(ctx, j)
	}
	return r.checkImage(ctx, j)
}

// checkURL fetches the module of a URL, unless that has been done: the store
// remembers it across restarts. A module with the digest in the store is no proof
// that the URL has it.
func (r *Resolver) checkURL(ctx context.Context, j *job) (found outcome) {
	defer j.survive(ctx, &found)
	url, err := r.client.OpenURL(j.entry.req)
	if err != nil {
		return outcome{err: asError(err)}
	}
	known, held := r.store.Recall(url.Key())
	if !held {
		known, err = r.fetched(ctx, j, url)
	}
	if err != nil {
		failure := asError(err)
		// Only a module with the right digest is inspected, so the result stays.
		return outcome{err: failure, final: failure.Reason == wasmev1.ReasonInvalidModule}
	}
	return outcome{module: &known, final: true}
}

func (r *Resolver) fetched(ctx context.Context, j *job, url *pull.URL) (module.Module, error) {
	m, err := j.pull(ctx, "sha256:"+j.entry.req.SHA256, func(ctx context.Context) (module.Module, error) {
		return url.Pull(ctx, r.store)
	})
	if err != nil {
		return module.Module{}, err
	}
	return m, r.store.Remember(url.Key(), m)
}

// pull bounds a pull, counts it and traces it, with the digest of what is pulled.
func (j *job) pull(ctx context.Context, digest string, from func(context.Context) (module.Module, error)) (m module.Module, err error) {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	ctx, span := tracing.Begin(ctx, "PullModule", tracing.Registry(j.host), tracing.Digest(digest))
	defer func() { tracing.End(span, err) }()
	begin := time.Now()
	m, err = from(ctx)
	countPull(begin, err)
	return m, err
}

// checkImage asks the registry with the request's own credential, and pulls
// what is not known yet.
func (r *Resolver) checkImage(ctx context.Context, j *job) (found outcome) {
	defer j.survive(ctx, &found)
	if j.source == nil {
		source, err := r.client.OpenImage(j.entry.req)
		if err != nil {
			return outcome{err: asError(err)}
		}
		j.source = source
	}
	headCtx, cancel := context.WithTimeout(ctx, headTimeout)
	defer cancel()
	digest, err := j.source.Digest(headCtx)
	if err != nil {
		return outcome{err: asError(err)}
	}
	image := j.source.Key(digest.String())
	if image == j.broken {
		return outcome{image: image, err: j.brokenErr}
	}
	found.image = image
	known, err := r.pulled(ctx, j, digest, image)
	if err != nil {
		return outcome{image: image, err: asError(err)}
	}
	known.Reference = j.entry.req.Image
	if top := digest.String(); top != known.ManifestDigest {
		known.IndexDigest = top
	}
	return outcome{image: image, module: &known, final: j.entry.req.Once}
}

// survive is deferred around a look: an image that makes ggcr or a decoder panic
// must not end the operator, again and again, for everyone.
func (j *job) survive(ctx context.Context, found *outcome) {
	if cause := recover(); cause != nil {
		where := j.entry.req.Where()
		log.FromContext(ctx).Error(fmt.Errorf("panic: %v", cause), "Reading a module panicked", "image", where, "stack", string(debug.Stack()))
		found.err = module.Terminal(wasmev1.ReasonInvalidImage, "reading %s: the operator failed on it: see its log", where)
	}
}

// pulled returns the module of an image whose digest the registry has named:
// from the store, or by one pull for all who ask at the same time.
func (r *Resolver) pulled(ctx context.Context, j *job, digest v1.Hash, image string) (module.Module, error) {
	if known, held := r.store.Recall(image); held {
		return known, nil
	}
	m, err, _ := r.pulls.Do(image, func() (any, error) {
		pulled, err := j.pull(ctx, digest.String(), func(ctx context.Context) (module.Module, error) {
			return j.source.Pull(ctx, digest, r.store)
		})
		if err != nil {
			return module.Module{}, err
		}
		// A reference that pins the child of an index has the child's digest.
		child := j.source.Key(pulled.ManifestDigest)
		return pulled, errors.Join(r.store.Remember(image, pulled), r.store.Remember(child, pulled))
	})
	return m.(module.Module), err
}

// asError returns the *module.Error in err. An error without one is the disk's:
// all others are classified where they happen.
func asError(err error) *module.Error {
	return store.DiskError("keeping the module", err)
}
