// Package store keeps modules on disk by the digest of their bytes, within a
// bound, and remembers which image or URL held which module.
//
// Those who serve or roll out a module retain it (retention.go): a retained
// module may be served. One that a holder needs is not evicted. When room is
// needed, the store evicts others: first those that nobody retains, then those that
// were released longest ago, then those that are retained only while there is
// room (store.go). One namespace's modules take no more than its share. What comes in is written to a
// TempFile, which counts against the bound from its first byte, and becomes a
// module only whole (disk.go). The bytes come from a client of package pull,
// from another replica (Import), or from an object in the cluster (KeepContent).
package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module"
)

// ServedAfterRelease is how long a module stays retained after its last holder
// released it, unless its room is needed: an older configuration may still send
// proxies to it.
const ServedAfterRelease = time.Hour

// What a store finds when it opens may belong to holders that are not known
// yet, so it is kept until they are: for firstPass after the first Retain, so
// that the others can follow, or for settleTime when there is none.
const (
	firstPass  = 30 * time.Second
	settleTime = 5 * time.Minute
)

// DefaultBytes is a sensible bound of a store.
const DefaultBytes = 2 << 30

// namespaceShare is the part of the store that the modules which one namespace needs may
// take: others must find room, too.
const namespaceShare = 0.5

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

	// verifying is held while a file is hashed: one at a time.
	verifying sync.Mutex

	mu      sync.Mutex
	modules map[string]*storedModule
	// unverified are files that were there when the store opened, by the digests in
	// their names, and whose content was not hashed yet. Nobody gets one.
	unverified map[string]*storedModule
	images     *lru.Cache
	// bytes is what modules and files take.
	bytes int64
	// evictions and refusals count the modules that were evicted to make room, and the
	// times that there was none to make.
	evictions, refusals uint64
	retention           retention
	// settles is when all holders of what was found at the start are known.
	settles time.Time
	// changed is closed, and replaced, when a module is retained or arrives.
	changed chan struct{}
}

// Why a module is not served.
var (
	ErrNotRetained = errors.New("no FilterDeployment references this module")
	ErrNotHere     = errors.New("this replica does not have the module yet")
)

// storedModule is a module on disk.
type storedModule struct {
	size     int64
	modTime  time.Time
	lastUsed time.Time
	// found says that it was there when the store opened.
	found bool
}

// File is an open module. It stays readable when the store evicts the module.
type File struct {
	*os.File
	// SizeBytes is the size of the module.
	SizeBytes int64
	// ModTime is when the module was written.
	ModTime time.Time
}

// Open opens the store in dir, creates it where it is missing, and keeps at most
// maxBytes in it, what is being written included. It removes what a crash left
// half written. It reads no module, which takes long for many on a slow disk: a module
// is hashed when it is first asked for, or by Verify, and removed when it does not match
// its digest.
func Open(dir string, maxBytes int64, clk clock.PassiveClock) (*Store, error) {
	s := &Store{
		dir:        dir,
		maxBytes:   maxBytes,
		clock:      clk,
		modules:    map[string]*storedModule{},
		unverified: map[string]*storedModule{},
		retention:  newRetention(),
		settles:    clk.Now().Add(settleTime),
		changed:    make(chan struct{}),
	}
	s.images = lru.NewWithEvictionFunc(maxImages, func(key lru.Key, _ any) { s.removeImageFile(key) })
	if err := s.scan(); err != nil {
		return nil, fmt.Errorf("opening the module store (--module-store) in %s: %w", dir, err)
	}
	return s, nil
}

// Has reports whether the store holds the module with the digest sha256 (64 hex).
func (s *Store) Has(sha256 string) bool {
	s.mu.Lock()
	held, waiting := s.modules[sha256] != nil, s.unverified[sha256] != nil
	s.mu.Unlock()
	return held || waiting && s.verify(sha256)
}

// Open opens a module that the store holds, retained or not. The error is
// fs.ErrNotExist when it does not hold it.
func (s *Store) Open(sha256 string) (*File, error) {
	if !s.Has(sha256) {
		return nil, fmt.Errorf("opening module %s: %w", sha256, fs.ErrNotExist)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	stored, held := s.modules[sha256]
	if !held {
		return nil, fmt.Errorf("opening module %s: %w", sha256, fs.ErrNotExist)
	}
	file, err := os.Open(s.modulePath(sha256))
	if err != nil {
		// Someone removed the file: it must be pulled again.
		s.evict(sha256)
		return nil, fmt.Errorf("opening module %s: %w", sha256, fs.ErrNotExist)
	}
	stored.lastUsed = s.clock.Now()
	return &File{File: file, SizeBytes: stored.size, ModTime: stored.modTime}, nil
}

// Retain says that holder needs a module, whether or not the store has it yet:
// it may be served, and is not evicted. A holder retains one module: a second
// call with another digest releases the first.
func (s *Store) Retain(holder types.NamespacedName, sha256 string) {
	s.retain(holder, hold{sha256: sha256})
}

// RetainSpare is Retain for a module that its holder does not need now: it may be served,
// and is evicted when its room is needed.
func (s *Store) RetainSpare(holder types.NamespacedName, sha256 string) {
	s.retain(holder, hold{sha256: sha256, spare: true})
}

func (s *Store) retain(holder types.NamespacedName, retained hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	if passed := now.Add(firstPass); passed.Before(s.settles) {
		s.settles = passed
	}
	s.retention.retain(holder, retained, now)
	s.announce()
}

// Release ends what Retain or RetainSpare began. A module that was needed stays retained
// for ServedAfterRelease after its last holder, unless its room is needed.
func (s *Store) Release(holder types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retention.release(holder, s.clock.Now())
}

// Holder returns one of those that retain a module; false when nobody does.
func (s *Store) Holder(sha256 string) (types.NamespacedName, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.retention.holder(sha256)
}

// CheckShare reports a namespace whose modules would take more than its share with one of
// this digest (64 hex) and number of bytes. The error is a *module.Error.
func (s *Store) CheckShare(namespace, sha256 string, size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	needed := s.retention.neededIn(namespace)
	if slices.Contains(needed, sha256) {
		return nil
	}
	taken := int64(0)
	for _, other := range needed {
		if stored := s.stored(other); stored != nil {
			taken += stored.size
		}
	}
	if share := int64(namespaceShare * float64(s.maxBytes)); taken+size > share {
		return module.Temporary(wasmev1.ReasonStoreUnavailable, "keeping the module: the modules in use in namespace %s take %d bytes, and with this one's %d they would take more than the %d that one namespace may have: remove filters there, or raise --module-store-max-bytes", namespace, taken, size, share)
	}
	return nil
}

// HasRoom reports whether a module of this many bytes fits without an eviction.
func (s *Store) HasRoom(size int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes+size <= s.maxBytes
}

// Await opens a module as soon as it is both retained and in the store. When ctx
// ends before, the error is that of OpenRetained.
func (s *Store) Await(ctx context.Context, sha256 string) (*File, error) {
	for {
		changed := s.nextChange()
		file, err := s.OpenRetained(sha256)
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

// OpenRetained opens a module that is both retained and in the store. The error is
// ErrNotRetained or ErrNotHere.
func (s *Store) OpenRetained(sha256 string) (*File, error) {
	if !s.retained(sha256) {
		return nil, ErrNotRetained
	}
	file, err := s.Open(sha256)
	if err != nil {
		return nil, ErrNotHere
	}
	return file, nil
}

func (s *Store) retained(sha256 string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.retention.retained(sha256, s.clock.Now())
}

// nextChange returns a channel that is closed at the next change.
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

// reserve makes room for n bytes: it evicts modules that nobody needs.
func (s *Store) reserve(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.bytes+n > s.maxBytes {
		victim, found := s.victim()
		if !found {
			s.refusals++
			return module.Temporary(wasmev1.ReasonStoreUnavailable, "keeping the module: the operator's --module-store is full: its %d bytes are taken by modules in use: remove filters, or raise --module-store-max-bytes", s.maxBytes)
		}
		s.evict(victim)
		s.evictions++
	}
	s.bytes += n
	return nil
}

func (s *Store) unreserve(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes -= n
}

// victim returns the module to evict first: one that nobody retains, else the
// one that was released longest ago, else one that is retained while there is room;
// among equals, the least recently used.
func (s *Store) victim() (string, bool) {
	now := s.clock.Now()
	victim := ""
	for _, files := range []map[string]*storedModule{s.modules, s.unverified} {
		for sha256, stored := range files {
			kept := s.retention.held(sha256) || stored.found && now.Before(s.settles)
			if !kept && (victim == "" || s.compareUse(sha256, victim, now) < 0) {
				victim = sha256
			}
		}
	}
	return victim, victim != ""
}

// stored returns a file of the store, verified or not.
func (s *Store) stored(sha256 string) *storedModule {
	return cmp.Or(s.modules[sha256], s.unverified[sha256])
}

func (s *Store) compareUse(a, b string, now time.Time) int {
	return cmp.Or(
		compareBools(s.retention.spare(a), s.retention.spare(b)),
		s.retention.lingers(a, now).Compare(s.retention.lingers(b, now)),
		s.stored(a).lastUsed.Compare(s.stored(b).lastUsed),
	)
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// evict removes a module. Recall forgets the images that held it.
func (s *Store) evict(sha256 string) {
	s.bytes -= s.stored(sha256).size
	delete(s.modules, sha256)
	delete(s.unverified, sha256)
	_ = os.Remove(s.modulePath(sha256))
}

// DiskError returns the *module.Error in err. An error without one is the
// disk's, which failed at what is being done.
func DiskError(doing string, err error) *module.Error {
	if e := module.AsError(err); e != nil {
		return e
	}
	cause := "the disk failed"
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		cause = errno.Error()
	}
	return module.Temporary(wasmev1.ReasonStoreUnavailable, "%s: %s: check the disk of the operator's --module-store", doing, cause)
}
