package module

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// ServedAfterRelease is how long a module stays named after its last holder
// let go, unless its room is needed: proxies may still be told of it by an
// older configuration.
const ServedAfterRelease = time.Hour

// What a store finds when it opens may belong to holders that are not known
// yet, so it is kept until they are: firstPass after the first was retained,
// time for the others to follow, or settleTime when there are none.
const (
	firstPass  = 30 * time.Second
	settleTime = 5 * time.Minute
)

// DefaultStoreBytes is a sensible bound of a store.
const DefaultStoreBytes = 2 << 30

// maxImages is the number of images and URLs that a store remembers the modules of.
const maxImages = 10_000

// Store keeps modules on disk by the digest of their bytes, and remembers which
// image or URL held which module. One process uses a directory at a time.
//
// A file is written under tmp, synced, and renamed into its place; whatever a
// crash leaves is either whole or in tmp, which is emptied when the store opens.
//
//	<dir>/tmp/*                     being written
//	<dir>/modules/<sha256>.wasm     modules
//	<dir>/images/<sha256>.2.json    image (registry, repository, digest), or URL and digest → module
type Store struct {
	dir      string
	maxBytes int64
	clock    clock.PassiveClock

	mu      sync.Mutex
	modules map[string]*storedModule
	images  *lru.Cache
	// bytes is what modules and temporary files take.
	bytes int64
	names names
	// settles is when the holders of what was found at the start are known.
	settles time.Time
	// changed is closed, and replaced, when a module is named or arrives.
	changed chan struct{}
}

// Why a module is not served.
var (
	ErrNotNamed = errors.New("no FilterDeployment names this module")
	ErrNotHere  = errors.New("this module is not here yet")
)

// storedModule is a module on disk.
type storedModule struct {
	size     int64
	modTime  time.Time
	lastUsed time.Time
	// found: it was there when the store opened.
	found bool
}

// File is an open module. It stays readable when the store drops the module.
type File struct {
	io.ReadSeekCloser
	// SizeBytes is the size of the module.
	SizeBytes int64
	// ModTime is when the module was written.
	ModTime time.Time
}

// OpenStore opens the store in dir, making it where it is missing, and holds
// at most maxBytes in it, what is being written included. It removes what a
// crash left half written and what does not match its digest.
func OpenStore(dir string, maxBytes int64, clk clock.PassiveClock) (*Store, error) {
	s := &Store{
		dir:      dir,
		maxBytes: maxBytes,
		clock:    clk,
		modules:  map[string]*storedModule{},
		names:    newNames(),
		settles:  clk.Now().Add(settleTime),
		changed:  make(chan struct{}),
	}
	s.images = lru.NewWithEvictionFunc(maxImages, func(key lru.Key, _ any) { s.removeImageFile(key) })
	if err := s.scan(); err != nil {
		return nil, fmt.Errorf("opening the module store (--module-store) in %s: %w", dir, err)
	}
	return s, nil
}

// Has says whether the store holds the module with the digest sha256 (64 hex).
func (s *Store) Has(sha256 string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, held := s.modules[sha256]
	return held
}

// Open opens a module that the store holds, named or not. The error is
// fs.ErrNotExist when it does not.
func (s *Store) Open(sha256 string) (*File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stored, held := s.modules[sha256]
	if !held {
		return nil, fmt.Errorf("opening module %s: %w", sha256, fs.ErrNotExist)
	}
	file, err := os.Open(s.modulePath(sha256))
	if err != nil {
		// Someone took the file away: it must be pulled again.
		s.drop(sha256)
		return nil, fmt.Errorf("opening module %s: %w", sha256, fs.ErrNotExist)
	}
	stored.lastUsed = s.clock.Now()
	return &File{ReadSeekCloser: file, SizeBytes: stored.size, ModTime: stored.modTime}, nil
}

// Retain names a module on behalf of holder, whether or not it is held yet: it
// may be served, and is not dropped to make room. A holder names one module; a
// second call with another digest lets go of the first.
func (s *Store) Retain(holder types.NamespacedName, sha256 string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	if passed := now.Add(firstPass); passed.Before(s.settles) {
		s.settles = passed
	}
	s.names.retain(holder, sha256, now)
	s.announce()
}

// Release lets go of what holder retains. The module stays named for
// ServedAfterRelease beyond its last holder, unless its room is needed.
func (s *Store) Release(holder types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names.release(holder, s.clock.Now())
}

// Await opens a module as soon as it is both named and held. When ctx ends
// before, the error is that of OpenNamed.
func (s *Store) Await(ctx context.Context, sha256 string) (*File, error) {
	for {
		changed := s.nextChange()
		file, err := s.OpenNamed(sha256)
		if err == nil {
			return file, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-changed:
		}
	}
}

// OpenNamed opens a module that is both named and held. The error is
// ErrNotNamed or ErrNotHere.
func (s *Store) OpenNamed(sha256 string) (*File, error) {
	if !s.named(sha256) {
		return nil, ErrNotNamed
	}
	file, err := s.Open(sha256)
	if err != nil {
		return nil, ErrNotHere
	}
	return file, nil
}

func (s *Store) named(sha256 string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names.named(sha256, s.clock.Now())
}

// nextChange returns what is closed at the next change.
func (s *Store) nextChange() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// announce wakes those who wait for a module.
func (s *Store) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// reserve makes room for n bytes: it drops modules that have no holder.
func (s *Store) reserve(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.bytes+n > s.maxBytes {
		victim, found := s.victim()
		if !found {
			return failed(wasmev1.ReasonStoreUnavailable, "keeping the module: the operator's --module-store is full: its %d bytes are taken by modules in use: remove filters, or give it more", s.maxBytes)
		}
		s.drop(victim)
	}
	s.bytes += n
	return nil
}

func (s *Store) unreserve(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes -= n
}

// victim is the module to drop first: one that nobody names, else the one that
// was released longest ago; among equals, the least recently used.
func (s *Store) victim() (string, bool) {
	now := s.clock.Now()
	victim := ""
	for sha256, stored := range s.modules {
		kept := s.names.held(sha256) || stored.found && now.Before(s.settles)
		if !kept && (victim == "" || s.compareUse(sha256, victim, now) < 0) {
			victim = sha256
		}
	}
	return victim, victim != ""
}

func (s *Store) compareUse(a, b string, now time.Time) int {
	return cmp.Or(
		s.names.lingers(a, now).Compare(s.names.lingers(b, now)),
		s.modules[a].lastUsed.Compare(s.modules[b].lastUsed),
	)
}

// drop removes a module. Images that held it are forgotten when they are asked for.
func (s *Store) drop(sha256 string) {
	s.bytes -= s.modules[sha256].size
	delete(s.modules, sha256)
	_ = os.Remove(s.modulePath(sha256))
}

// storeError says that the disk does not take or give what it should.
func storeError(doing string, err error) *Error {
	if e := asError(err); e != nil {
		return e
	}
	cause := "the disk failed"
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		cause = errno.Error()
	}
	return failed(wasmev1.ReasonStoreUnavailable, "%s: %s: look after the disk of the operator's --module-store", doing, cause)
}
