// Package pool has modules preflighted in the background, a few at a time, each module
// with each configuration once, and keeps the verdicts.
package pool

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/wasme-io/wasme-operator/internal/background"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/internal/preflight"
	"github.com/wasme-io/wasme-operator/internal/tracing"
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

// Pool runs modules.
type Pool = background.Pool[Request, preflight.Verdict]

// New returns a pool, which works once it is started.
func New(options Options) *Pool {
	return background.New(background.Options[Request, preflight.Verdict]{
		Do: options.do, Wake: options.Wake, Workers: options.Workers,
		MinRetry: minRetry, MaxRetry: maxRetry, Kept: maxVerdicts,
	})
}

func (o Options) do(ctx context.Context, asked Request) (verdict preflight.Verdict, err error) {
	ctx, span := tracing.Begin(ctx, "RunModule", tracing.Digest("sha256:"+asked.SHA256))
	defer func() {
		span.SetAttributes(tracing.Verdict(verdict.Reason))
		tracing.End(span, err)
	}()
	begin := time.Now()
	verdict, err = o.run(ctx, asked)
	if ctx.Err() == nil {
		count(verdict, err, time.Since(begin))
	}
	return verdict, err
}

func (o Options) run(ctx context.Context, asked Request) (preflight.Verdict, error) {
	file, err := o.Open(asked.SHA256)
	if errors.Is(err, fs.ErrNotExist) {
		return preflight.Verdict{}, errors.New("the module is not in the store any more, and is pulled again")
	}
	if err != nil {
		return preflight.Verdict{}, err
	}
	defer file.Close()
	return o.Run(ctx, file.File, file.SizeBytes, asked.Filter)
}
