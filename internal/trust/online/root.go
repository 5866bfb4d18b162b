// Package online fetches the trusted root of a Sigstore instance from its TUF repository,
// once something needs it, and again each day.
package online

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/wasme-io/wasme-operator/internal/tracing"
	"github.com/wasme-io/wasme-operator/internal/trust"
)

const (
	// renewal is how old a trusted root may get: keys are rotated by adding the new one
	// days before it is used.
	renewal = 24 * time.Hour
	// fetchBound is how long a fetch may take, some ten requests.
	fetchBound = time.Minute
)

// retries are the waits after failures.
var retries = wait.Backoff{Duration: 2 * time.Second, Factor: 2, Jitter: 0.2, Steps: 10, Cap: 5 * time.Minute}

// DefaultURL is the TUF repository of the public instance.
const DefaultURL = tuf.DefaultMirror

// Options are what a Root needs.
type Options struct {
	// URL is that of the TUF repository, and Anchor its root.json, with which everything
	// else is verified; empty for the public instance.
	URL    string
	Anchor []byte
	// Transport sends the requests.
	Transport http.RoundTripper
	// Wake is called when the root is there, or could not be fetched. It must not block
	// for long.
	Wake  func()
	Clock clock.Clock
}

// Root is a trusted root. Its methods may be called concurrently.
type Root struct {
	options Options
	wanted  chan struct{}
	want    sync.Once

	mu    sync.Mutex
	roots trust.Roots
	err   error
}

// New returns a Root, which fetches once it is started and asked for.
func New(options Options) *Root {
	if options.URL == "" {
		options.URL, options.Anchor = DefaultURL, tuf.DefaultRoot()
	}
	return &Root{options: options, wanted: make(chan struct{})}
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: only the leader decides.
func (r *Root) NeedLeaderElection() bool { return true }

// Roots returns the trusted root. Without one, the error says why there is none yet; it is
// nil while the first fetch is under way.
func (r *Root) Roots() (trust.Roots, error) {
	r.want.Do(func() { close(r.wanted) })
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.roots, r.err
}

// Start fetches the root until the context ends.
func (r *Root) Start(ctx context.Context) error {
	select {
	case <-r.wanted:
	case <-ctx.Done():
		return nil
	}
	for waits := retries; ; {
		next := renewal
		if err := r.fetch(ctx); err != nil {
			next = waits.Step()
		} else {
			waits = retries
		}
		if ctx.Err() == nil {
			r.options.Wake()
		}
		select {
		case <-r.options.Clock.After(next):
		case <-ctx.Done():
			return nil
		}
	}
}

// fetch keeps the root that there is when it fails. No status has the error then, so it is
// logged.
func (r *Root) fetch(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchBound)
	defer cancel()
	ctx, span := tracing.Begin(ctx, "FetchTrustedRoot")
	defer func() { tracing.End(span, err) }()
	options := tuf.DefaultOptions().WithContext(ctx).WithRoot(r.options.Anchor).WithRepositoryBaseURL(r.options.URL).
		WithDisableLocalCache().WithFetcher(fetcher{ctx, &http.Client{Transport: r.options.Transport}})
	fetched, err := root.FetchTrustedRootWithOptions(options)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.err = fmt.Errorf("fetching the trusted root of Sigstore from %s: %w", r.options.URL, err)
		log.FromContext(ctx).Error(r.err, "Fetching the trusted root failed")
		return r.err
	}
	r.roots, r.err = trust.Roots{fetched}, nil
	fetchedTimestamp.Set(float64(r.options.Clock.Now().Unix()))
	return nil
}

// fetcher downloads the files of a TUF repository.
type fetcher struct {
	ctx    context.Context //nolint:containedctx // the interface has none
	client *http.Client
}

// DownloadFile implements fetcher.Fetcher of go-tuf.
func (f fetcher) DownloadFile(url string, maxLength int64, _ time.Duration) ([]byte, error) {
	request, err := http.NewRequestWithContext(f.ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "wasme-operator")
	response, err := f.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, &metadata.ErrDownloadHTTP{StatusCode: response.StatusCode, URL: url}
	}
	content, err := io.ReadAll(io.LimitReader(response.Body, maxLength+1))
	if err == nil && int64(len(content)) > maxLength {
		err = errors.New("the file is larger than the repository's metadata says")
	}
	return content, err
}
