// Package signatures reads the signatures of images in the background, with the
// credentials of those who ask for them. Nothing of them is verified here.
package signatures

import (
	"context"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/wasme-io/wasme-operator/internal/background"
	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/internal/module/resolve"
	"github.com/wasme-io/wasme-operator/internal/tracing"
)

const (
	// workers is the number of looks at the same time, of which one registry, and the
	// FilterDeployments of one namespace, take some only.
	workers      = 8
	perHost      = 4
	perNamespace = 2
	// lookBound is how long a look may take: up to a hundred requests.
	lookBound = time.Minute
	// An image that is not signed yet is looked at again: most are signed right after they
	// are pushed.
	minRetry = 2 * time.Second
	maxRetry = 5 * time.Minute
	// kept is how many results are kept, of some KiB each and keptBytes together, as
	// registries send them.
	kept      = 2048
	keptBytes = 64 << 20
)

// Request is for the signatures of an image with a digest.
type Request struct {
	pull.Request
	Digest v1.Hash
}

// Pool reads signatures.
type Pool = background.Pool[Request, pull.Signatures]

// New returns a pool, which works once it is started. A registry that the resolver leaves
// alone is left alone. Wake is called with every owner of a request whose result changed,
// and must not block for long.
func New(from *pull.Client, resolver *resolve.Resolver, wake func(types.NamespacedName)) *Pool {
	return background.New(background.Options[Request, pull.Signatures]{
		Do: func(ctx context.Context, asked Request) (found pull.Signatures, err error) {
			err = resolver.Visit(ctx, asked.Request, func(ctx context.Context) error {
				found, err = look(ctx, from, asked)
				return err
			})
			return found, err
		},
		Wake: wake, Workers: workers, PerHost: perHost, PerNamespace: perNamespace,
		Host:     func(asked Request) string { return module.CanonicalHost(asked.Host()) },
		MinRetry: minRetry, MaxRetry: maxRetry, RetryAfter: retryAfter,
		Kept: kept, KeptBytes: keptBytes, Size: func(found *pull.Signatures) int64 { return found.Bytes },
	})
}

func look(ctx context.Context, from *pull.Client, asked Request) (found pull.Signatures, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookBound)
	defer cancel()
	ctx, span := tracing.Begin(ctx, "FetchSignatures", tracing.Registry(asked.Host()), tracing.Digest(asked.Digest.String()))
	defer func() { tracing.End(span, err) }()
	image, err := from.OpenImage(asked.Request)
	if err != nil {
		return pull.Signatures{}, err
	}
	return image.Signatures(ctx, asked.Digest)
}

// retryAfter returns how long a registry is left alone.
func retryAfter(err error) time.Duration {
	if failure := module.AsError(err); failure != nil {
		return failure.RetryAfter
	}
	return 0
}
