// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package ports hands out loopback addresses and ports that nothing else on
// this machine gets, also while nothing listens there yet or, after a crash
// that a test made, any more.
//
// A reservation is a socket that is bound to the port and does not listen. As
// long as it is open, the system gives the port neither to another reservation,
// of whatever process, nor to an outgoing connection. A server can listen there
// nevertheless, because servers set SO_REUSEADDR: those written in Go do, and
// Envoy does. The system closes the socket when the process ends, so nothing is
// left behind.
package ports

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// Ports lie below the range from which Linux takes the ports of outgoing
// connections (from 32768) and below Kubernetes' node ports (from 30000), so
// that nothing meets a reservation by chance.
const (
	firstPort = 20000
	lastPort  = 29999
	attempts  = 1000
	// addressPort is reserved at each address: it marks the address as taken.
	addressPort = firstPort - 1
)

var localhost = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// Pool is a set of reservations. The zero value is an empty one. Its methods
// may be called concurrently.
type Pool struct {
	mu      sync.Mutex
	sockets []int
}

// Port reserves a port of 127.0.0.1 on which nothing listens.
func (p *Pool) Port() (int, error) {
	for range attempts {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		reserved, err := p.reserve(localhost, port)
		if err != nil {
			return 0, err
		}
		if reserved {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port in %d attempts", attempts)
}

// Address reserves an address of 127.0.0.0/8 together with these of its ports:
// every workload has an address of its own, like a pod its IP, and so serves at
// its real ports.
func (p *Pool) Address(ports ...int) (string, error) {
	for range attempts {
		// 127.0.0.0/16 is left to everybody else.
		number := 1<<16 + rand.IntN(255<<16-1)
		address := netip.AddrFrom4([4]byte{127, byte(number >> 16), byte(number >> 8), byte(number)})
		reserved, err := p.reserve(address, append([]int{addressPort}, ports...)...)
		if err != nil {
			return "", err
		}
		if reserved {
			return address.String(), nil
		}
	}
	return "", fmt.Errorf("no free loopback address in %d attempts", attempts)
}

// Release gives everything back.
func (p *Pool) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	closeAll(p.sockets)
	p.sockets = nil
}

// reserve reserves all of these ports of an address or, when one of them is in
// use, none of them; it reports whether it did.
func (p *Pool) reserve(address netip.Addr, ports ...int) (bool, error) {
	var sockets []int
	for _, port := range ports {
		socket, err := bind(address, port)
		if err != nil {
			closeAll(sockets)
			if errors.Is(err, unix.EADDRINUSE) {
				return false, nil
			}
			return false, fmt.Errorf("reserving %s: %w", netip.AddrPortFrom(address, uint16(port)), err)
		}
		sockets = append(sockets, socket)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sockets = append(p.sockets, sockets...)
	return true, nil
}

// bind opens a socket that holds the port. SO_REUSEADDR is set after the call of
// bind: so the call fails when any other socket has the port, and afterwards
// servers, which set it too, may listen.
func bind(address netip.Addr, port int) (socket int, err error) {
	socket, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	err = unix.Bind(socket, &unix.SockaddrInet4{Port: port, Addr: address.As4()})
	if err == nil {
		err = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err != nil {
		_ = unix.Close(socket)
	}
	return socket, err
}

func closeAll(sockets []int) {
	for _, socket := range sockets {
		_ = unix.Close(socket) // nothing was written
	}
}
