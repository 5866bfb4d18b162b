package serve

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// What one client address may take of the server. Behind a node that translates
// addresses, all pods of the node are one address: a node has 110 pods by default, and
// each of them one connection.
const (
	// maxConnections is the number of connections at once, and maxPerAddress that from
	// one address. A connection costs 9 to 57 KiB (measured), so all of them 115 MiB.
	maxConnections = 2048
	maxPerAddress  = 256
	// maxTransfers is the number of modules that are sent at once: with more, none of
	// them would arrive within the 15 s that pilot-agent gives each attempt. On a link
	// that needs 20 s for 400 clients, 256 of them got their module with 32 at a time,
	// and one without a limit. maxTransfersPerAddress leaves room for others.
	maxTransfers           = 32
	maxTransfersPerAddress = 8
	// transferWait is how long a request waits for its turn.
	transferWait = 8 * time.Second
)

// Why a request is refused that asks for a well-formed digest.
var (
	errBusy = errors.New("too many modules are being sent")
	errHeld = errors.New("too many requests are waiting for modules")
)

// client returns what counts as one client address: an IPv4 address, or a /64 of IPv6.
func client(address netip.Addr) netip.Prefix {
	bits := 32
	if address = address.Unmap(); address.Is6() {
		bits = 64
	}
	prefix, _ := address.WithZone("").Prefix(bits) // zero for no address
	return prefix
}

func clientOf(r *http.Request) netip.Prefix {
	at, _ := netip.ParseAddrPort(r.RemoteAddr)
	return client(at.Addr())
}

// limitedListener closes connections beyond maxConnections and maxPerAddress. A
// pilot-agent tries again, for about 8 s.
type limitedListener struct {
	net.Listener

	mu      sync.Mutex
	all     int
	clients map[netip.Prefix]int
}

func limited(listener net.Listener) *limitedListener {
	return &limitedListener{Listener: listener, clients: map[netip.Prefix]int{}}
}

// Accept implements net.Listener.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		at, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
		from := client(at.Addr())
		if l.admit(from) {
			return &limitedConn{Conn: conn, closed: sync.OnceFunc(func() { l.leave(from) })}, nil
		}
		refusedConnectionsTotal.Inc()
		_ = conn.Close()
	}
}

func (l *limitedListener) admit(from netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= maxConnections || l.clients[from] >= maxPerAddress {
		return false
	}
	l.all++
	l.clients[from]++
	return true
}

func (l *limitedListener) leave(from netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.clients[from]--; l.clients[from] == 0 {
		delete(l.clients, from)
	}
}

// limitedConn is a connection that counts until it is closed.
type limitedConn struct {
	net.Conn
	closed func()
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

// transfers admits requests in their order: as many at once as the server sends
// modules, and fewer of one client address.
type transfers struct {
	all *semaphore.Weighted

	mu      sync.Mutex
	clients map[netip.Prefix]*clientTransfers
}

type clientTransfers struct {
	slots *semaphore.Weighted
	// users is the number of requests that have or want a slot.
	users int
}

func newTransfers() *transfers {
	return &transfers{all: semaphore.NewWeighted(maxTransfers), clients: map[netip.Prefix]*clientTransfers{}}
}

// enter waits for a turn, and returns what ends it. The error is errBusy.
func (t *transfers) enter(ctx context.Context, from netip.Prefix) (leave func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, transferWait)
	defer cancel()
	own := t.use(from)
	if own.slots.Acquire(ctx, 1) != nil {
		t.unuse(from)
		return nil, errBusy
	}
	if t.all.Acquire(ctx, 1) != nil {
		own.slots.Release(1)
		t.unuse(from)
		return nil, errBusy
	}
	return func() {
		t.all.Release(1)
		own.slots.Release(1)
		t.unuse(from)
	}, nil
}

func (t *transfers) use(from netip.Prefix) *clientTransfers {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.clients[from]
	if own == nil {
		own = &clientTransfers{slots: semaphore.NewWeighted(maxTransfersPerAddress)}
		t.clients[from] = own
	}
	own.users++
	return own
}

func (t *transfers) unuse(from netip.Prefix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if own := t.clients[from]; own.users > 1 {
		own.users--
		return
	}
	delete(t.clients, from)
}
