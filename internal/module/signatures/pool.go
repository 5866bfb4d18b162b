// Package signatures reads the signatures of images in the background, with the
// credentials of those who ask for them. Nothing of them is verified here.
package signatures

import (
	"context"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/wasme-io/wasme-operator/internal/background"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/internal/tracing"
)

const (
	// workers is the number of looks at the same time.
	workers = 8
	// lookBound is how long a look may take: up to a hundred requests.
	lookBound = time.Minute
	// An image that is not signed yet is looked at again: most are signed right after they
	// are pushed.
	minRetry = 2 * time.Second
	maxRetry = 5 * time.Minute
	// kept is how many results are kept, of some KiB each.
	kept = 2048
)

// Request is for the signatures of an image with a digest.
type Request struct {
	pull.Request
	Digest v1.Hash
}

// Pool reads signatures.
type Pool = background.Pool[Request, pull.Signatures]

// New returns a pool, which works once it is started. Wake is called with every owner of a
// request whose result changed, and must not block for long.
func New(from *pull.Client, wake func(types.NamespacedName)) *Pool {
	return background.New(background.Options[Request, pull.Signatures]{
		Do: func(ctx context.Context, asked Request) (found pull.Signatures, err error) {
			ctx, cancel := context.WithTimeout(ctx, lookBound)
			defer cancel()
			ctx, span := tracing.Begin(ctx, "FetchSignatures", tracing.Registry(asked.Host()), tracing.Digest(asked.Digest.String()))
			defer func() { tracing.End(span, err) }()
			image, err := from.OpenImage(asked.Request)
			if err != nil {
				return pull.Signatures{}, err
			}
			return image.Signatures(ctx, asked.Digest)
		},
		Wake: wake, Workers: workers, MinRetry: minRetry, MaxRetry: maxRetry, Kept: kept,
	})
}
