// Package peers speaks to the module servers of the operator's other replicas
// (package serve). A replica that lacks a module copies it from one that has it.
// An output that references a module waits until every replica that answers has
// it, because a sidecar's request may reach any of them, and until the URL that
// sidecars ask serves it.
package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/wasme-io/wasme-operator/internal/module"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/internal/serve"
)

const (
	// dialTimeout is short: a replica that does not answer is not ready.
	dialTimeout = time.Second
	// askTimeout is longer than a server holds a request for a module to come.
	askTimeout = 5 * time.Second
	// copyTimeout bounds the transfer of one module.
	copyTimeout = 30 * time.Second
	// spreadTimeout bounds the wait for all replicas: one whose disk is full
	// must not hold up every new module forever. Sidecars ask again after a 503.
	spreadTimeout = time.Minute
	askInterval   = 250 * time.Millisecond
	// tellAfter is how long a module is waited for before it is said why.
	tellAfter = 5 * time.Second
	// givenUp is how long a module counts as served after that, and how long the
	// service is not asked.
	givenUp = 10 * time.Minute
	// maxRemembered is the number of modules that are known to be held by all.
	maxRemembered = 10_000
)

// ErrNoPeer is returned when no replica has the module.
var ErrNoPeer = errors.New("no other replica has the module")

// Peers are the module servers of the replicas.
type Peers struct {
	ctx  context.Context
	urls []*url.URL
	// service is the URL that sidecars ask.
	service string
	store   *store.Store
	wake    func(types.NamespacedName)
	client  *http.Client

	mu sync.Mutex
	// spread has the modules that all replicas hold, and until when that is
	// believed: zero is forever.
	spread  *lru.Cache
	waiting map[string]*awaited
	// tellAfter is the constant but in tests.
	tellAfter time.Duration
	// unasked is until when the service is not asked.
	unasked time.Time
}

// awaited is a module that is not served yet: who waits for it, and why it is not; nil
// while that has not been told.
type awaited struct {
	owners sets.Set[types.NamespacedName]
	why    error
}

// New returns the replicas' module servers at these URLs. A host name means all of
// its addresses. Service is the URL that sidecars ask; empty for none. The end of
// the context ends what Served began; wake is called for those who waited.
func New(ctx context.Context, urls []string, service string, modules *store.Store, wake func(types.NamespacedName)) (*Peers, error) {
	p := &Peers{
		ctx:     ctx,
		service: service,
		store:   modules,
		wake:    wake,
		spread:  lru.New(maxRemembered),
		waiting: map[string]*awaited{},

		tellAfter: tellAfter,
		client: &http.Client{Transport: &http.Transport{
			DialContext:       (&net.Dialer{Timeout: dialTimeout}).DialContext,
			DisableKeepAlives: true, // a replica that is gone must not be asked over a dead connection
		}},
	}
	for _, text := range urls {
		parsed, err := url.Parse(text)
		if err != nil || parsed.Host == "" {
			return nil, fmt.Errorf("%q is not the URL of a module server", text)
		}
		p.urls = append(p.urls, parsed)
	}
	return p, nil
}

// Copy copies a module of that size into the store, from the first replica that
// has it. The error is ErrNoPeer when none has.
func (p *Peers) Copy(ctx context.Context, sha256 string, size int64) error {
	servers, err := p.servers(ctx)
	for _, server := range servers {
		if err = p.copyFrom(ctx, server, sha256, size); err == nil {
			return nil
		}
	}
	return errors.Join(ErrNoPeer, err)
}

func (p *Peers) copyFrom(ctx context.Context, server, sha256 string, size int64) error {
	ctx, cancel := context.WithTimeout(ctx, copyTimeout)
	defer cancel()
	response, err := p.ask(ctx, http.MethodGet, server, sha256)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %d", server, response.StatusCode)
	}
	return p.store.Import(response.Body, sha256, size)
}

func (p *Peers) ask(ctx context.Context, method, server, sha256 string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, server+module.Path(sha256), http.NoBody)
	if err != nil {
		return nil, err
	}
	// A replica that waits for the module itself must not wait for another one.
	request.Header.Set(serve.PeerHeader, serve.PeerValue)
	return p.client.Do(request)
}

// servers returns the replicas' addresses as URLs. A name that does not exist has
// none; the error is that of a name server that does not answer.
func (p *Peers) servers(ctx context.Context) ([]string, error) {
	var all []string
	for _, server := range p.urls {
		addresses, err := net.DefaultResolver.LookupHost(ctx, server.Hostname())
		if failure := (*net.DNSError)(nil); errors.As(err, &failure) && failure.IsNotFound {
			continue
		}
		if err != nil {
			return all, fmt.Errorf("looking up the replicas: %w", err)
		}
		for _, address := range addresses {
			all = append(all, server.Scheme+"://"+net.JoinHostPort(address, port(server)))
		}
	}
	return all, nil
}

func port(server *url.URL) string {
	if server.Port() != "" {
		return server.Port()
	}
	return "80"
}

// Served reports whether every replica that answers holds the module, and the service
// serves it. While that is unknown, it asks in the background, and wakes the owner when it
// is known, or when the wait has been long enough. Why says what keeps it waiting, once
// that has taken some time.
func (p *Peers) Served(owner types.NamespacedName, sha256 string) (served bool, why error) {
	if len(p.urls) == 0 && p.service == "" {
		return true, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if until, known := p.spread.Get(sha256); known && (until == time.Time{} || time.Now().Before(until.(time.Time))) {
		return true, nil
	}
	if waits, asking := p.waiting[sha256]; asking {
		waits.owners.Insert(owner)
		return false, waits.why
	}
	p.waiting[sha256] = &awaited{owners: sets.New(owner)}
	go p.await(sha256)
	return false, nil
}

func (p *Peers) await(sha256 string) {
	missing, unserved := errors.New("the replicas have not answered yet"), error(nil)
	begun, until := time.Now(), time.Time{}
	err := wait.PollUntilContextTimeout(p.ctx, askInterval, spreadTimeout, true, func(ctx context.Context) (bool, error) {
		lacking, unreached := p.missing(ctx, sha256), error(nil)
		if lacking == nil {
			unreached = p.unserved(ctx, sha256)
		}
		if err := ctx.Err(); err != nil {
			return false, err // what failed because the time is over tells nothing
		}
		missing, unserved = lacking, unreached
		why := errors.Join(missing, unserved)
		if why != nil && time.Since(begun) >= p.tellAfter {
			p.tell(sha256, why)
		}
		return why == nil, nil
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil && p.ctx.Err() == nil {
		log.FromContext(p.ctx).Info("Continuing although a module is not served everywhere", "digest", "sha256:"+sha256, "error", errors.Join(missing, unserved).Error())
		until = time.Now().Add(givenUp)
		if unserved != nil {
			p.unasked = until
		}
	}
	p.spread.Add(sha256, until)
	for owner := range p.waiting[sha256].owners {
		p.wake(owner)
	}
	delete(p.waiting, sha256)
}

// tell has those who wait for a module know why.
func (p *Peers) tell(sha256 string, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	waits := p.waiting[sha256]
	if waits.why == nil {
		for owner := range waits.owners {
			p.wake(owner)
		}
	}
	waits.why = why
}

// unserved returns an error when the URL that sidecars ask does not serve the module.
func (p *Peers) unserved(ctx context.Context, sha256 string) error {
	p.mu.Lock()
	unasked := p.unasked
	p.mu.Unlock()
	if p.service == "" || time.Now().Before(unasked) {
		return nil
	}
	status, err := p.head(ctx, p.service, sha256)
	if err != nil {
		return fmt.Errorf("the operator cannot reach its own module server, as sidecars do (--module-server-url): %w", err)
	}
	if status != http.StatusOK {
		return fmt.Errorf("%s, where sidecars ask (--module-server-url), answers %d", p.service, status)
	}
	return nil
}

// head returns the status with which a server answers whether it has the module.
func (p *Peers) head(ctx context.Context, server, sha256 string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	response, err := p.ask(ctx, http.MethodHead, server, sha256)
	if err != nil {
		return 0, err
	}
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode, response.Body.Close()
}

// missing returns an error that names a replica which answers and does not have
// the module; nil when there is none.
func (p *Peers) missing(ctx context.Context, sha256 string) error {
	servers, err := p.servers(ctx)
	if err != nil {
		return err
	}
	for _, server := range servers {
		status, err := p.head(ctx, server, sha256)
		if err != nil {
			continue // not ready
		}
		if status != http.StatusOK {
			return fmt.Errorf("%s answers %d", server, status)
		}
	}
	return nil
}
