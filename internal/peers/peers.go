// Package peers speaks to the module servers of the operator's other replicas
// (package serve). A replica that lacks a module copies it from one that has it.
// An output that references a module waits until every replica that answers has
// it, because a sidecar's request may reach any of them.
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
	// givenUp is how long a module counts as held by all after that.
	givenUp = 10 * time.Minute
	// maxRemembered is the number of modules that are known to be held by all.
	maxRemembered = 10_000
)

// ErrNoPeer is returned when no replica has the module.
var ErrNoPeer = errors.New("no other replica has the module")

// Peers are the module servers of the replicas.
type Peers struct {
	ctx    context.Context
	urls   []*url.URL
	store  *store.Store
	wake   func(types.NamespacedName)
	client *http.Client

	mu sync.Mutex
	// spread has the modules that all replicas hold, and until when that is
	// believed: zero is forever.
	spread  *lru.Cache
	waiting map[string]sets.Set[types.NamespacedName]
}

// New returns the replicas' module servers at these URLs. A host name means all of
// its addresses. The end of the context ends what HeldByAll began; wake is called
// for those who waited.
func New(ctx context.Context, urls []string, modules *store.Store, wake func(types.NamespacedName)) (*Peers, error) {
	p := &Peers{
		ctx:     ctx,
		store:   modules,
		wake:    wake,
		spread:  lru.New(maxRemembered),
		waiting: map[string]sets.Set[types.NamespacedName]{},
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

// HeldByAll reports whether every replica that answers holds the module. While
// that is unknown, it asks in the background, and wakes the owner when it is known
// or when the wait has been long enough.
func (p *Peers) HeldByAll(owner types.NamespacedName, sha256 string) bool {
	if len(p.urls) == 0 {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if until, known := p.spread.Get(sha256); known && (until == time.Time{} || time.Now().Before(until.(time.Time))) {
		return true
	}
	if owners, asking := p.waiting[sha256]; asking {
		owners.Insert(owner)
		return false
	}
	p.waiting[sha256] = sets.New(owner)
	go p.await(sha256)
	return false
}

func (p *Peers) await(sha256 string) {
	var missing error
	until := time.Time{}
	err := wait.PollUntilContextTimeout(p.ctx, askInterval, spreadTimeout, true, func(ctx context.Context) (bool, error) {
		missing = p.missing(ctx, sha256)
		return missing == nil, nil
	})
	if err != nil && p.ctx.Err() == nil {
		log.FromContext(p.ctx).Info("Continuing although a replica does not have a module", "sha256", sha256, "reason", missing.Error())
		until = time.Now().Add(givenUp)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spread.Add(sha256, until)
	for owner := range p.waiting[sha256] {
		p.wake(owner)
	}
	delete(p.waiting, sha256)
}

// missing returns an error that names a replica which answers and does not have
// the module; nil when there is none.
func (p *Peers) missing(ctx context.Context, sha256 string) error {
	servers, err := p.servers(ctx)
	if err != nil {
		return err
	}
	for _, server := range servers {
		asking, cancel := context.WithTimeout(ctx, askTimeout)
		response, err := p.ask(asking, http.MethodHead, server, sha256)
		cancel()
		if err != nil {
			continue // not ready
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %d", server, response.StatusCode)
		}
	}
	return nil
}
