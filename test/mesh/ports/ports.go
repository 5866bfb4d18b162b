// Licensed under the Apache License, Version 2.0; see LICENSE.

// Package ports hands out loopback addresses and ports that no other run on
// this machine uses, also while nothing listens there yet or, after a crash
// that a test made, any more.
package ports

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Ports lie below the range from which Linux takes the ports of outgoing
// connections (from 32768) and below Kubernetes' node ports (from 30000): a
// port that is free stays free until we listen on it.
const (
	firstPort = 20000
	lastPort  = 29999
	attempts  = 1000

	addressOffset = 1 << 20 // of addresses in the shared file; ports lie below
)

// Pool is what one run has reserved. A reservation is a lock on one byte of a
// file that all runs of a user share, so it ends with the process that holds it
// at the latest, and leaves nothing behind.
type Pool struct {
	mu       sync.Mutex
	file     *os.File
	reserved map[int64]bool
}

// NewPool returns an empty pool.
func NewPool() (*Pool, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("finding the cache folder: %w", err)
	}
	folder := filepath.Join(cache, "wasme-operator")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("preparing the reservation of ports: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(folder, "ports.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("preparing the reservation of ports: %w", err)
	}
	return &Pool{file: file, reserved: map[int64]bool{}}, nil
}

// Port reserves a port of 127.0.0.1 on which nothing listens.
func (p *Pool) Port() (int, error) {
	for range attempts {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		reserved, err := p.reserve(int64(port))
		if err != nil {
			return 0, err
		}
		if reserved && free(net.JoinHostPort("127.0.0.1", strconv.Itoa(port))) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port in %d attempts", attempts)
}

// Address reserves an address of 127.0.0.0/8 on which none of these ports is
// in use: every workload has one of its own, like a pod its IP, and so serves
// at its real port.
func (p *Pool) Address(inUse ...int) (string, error) {
	for range attempts {
		// 127.0.0.0/16 is left to everybody else.
		number := 1<<16 + rand.Int64N(255<<16-1)
		reserved, err := p.reserve(addressOffset + number)
		if err != nil {
			return "", err
		}
		address := net.IPv4(127, byte(number>>16), byte(number>>8), byte(number)).String()
		if reserved && allFree(address, inUse) {
			return address, nil
		}
	}
	return "", fmt.Errorf("no free loopback address in %d attempts", attempts)
}

// Release gives everything back; nothing can be reserved after that.
func (p *Pool) Release() {
	_ = p.file.Close() // nothing was written
}

// reserve locks one byte of the shared file; false when somebody has it already.
func (p *Pool) reserve(offset int64) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reserved[offset] {
		return false, nil
	}
	// Open file description locks, unlike the older kind, also hold between two
	// pools of one process.
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: offset, Len: 1}
	err := unix.FcntlFlock(p.file.Fd(), unix.F_OFD_SETLK, &lock)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reserving a port or address: %w", err)
	}
	p.reserved[offset] = true
	return true, nil
}

func allFree(address string, ports []int) bool {
	for _, port := range ports {
		if !free(net.JoinHostPort(address, strconv.Itoa(port))) {
			return false
		}
	}
	return true
}

func free(address string) bool {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return false
	}
	return listener.Close() == nil
}
