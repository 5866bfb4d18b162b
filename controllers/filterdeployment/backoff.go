package filterdeployment

import (
	"math"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// doubling returns waits that double from the first to the longest.
func doubling(first, longest time.Duration) wait.Backoff {
	return wait.Backoff{Duration: first, Factor: 2, Steps: math.MaxInt32, Cap: longest}
}

// backoffs remember until when to wait with what was tried, by its key.
type backoffs[K comparable] struct {
	mu    sync.Mutex
	known map[K]backoff
}

type backoff struct {
	waits wait.Backoff
	until time.Time
}

// left returns how long it is until the next attempt; 0 when it may be made now.
func (b *backoffs[K]) left(key K, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(0, b.known[key].until.Sub(now))
}

// extend makes the next attempt wait, and each time longer, and returns how long.
// After a quiet time as long as the longest wait, the waits begin again.
func (b *backoffs[K]) extend(key K, waits wait.Backoff, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	known, found := b.known[key]
	if !found || now.Sub(known.until) > waits.Cap {
		known.waits = waits
	}
	left := known.waits.Step()
	known.until = now.Add(left)
	if b.known == nil {
		b.known = map[K]backoff{}
	}
	b.known[key] = known
	return left
}

// end forgets the waits for a key.
func (b *backoffs[K]) end(key K) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.known, key)
}

// endAll forgets the waits for the keys that match.
func (b *backoffs[K]) endAll(match func(K) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key := range b.known {
		if match(key) {
			delete(b.known, key)
		}
	}
}
