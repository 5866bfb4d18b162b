package store

import (
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// retention records which modules are retained, by whom, and until when after
// their last holder released them.
type retention struct {
	byHolder map[types.NamespacedName]hold
	// holders are the numbers of those that need a module, and spares of those that
	// retain it while there is room.
	holders, spares map[string]int
	// namespaces are the modules that each namespace needs, with the number of holders.
	namespaces map[string]map[string]int
	until      map[string]time.Time
}

// hold is what one holder retains.
type hold struct {
	sha256 string
	spare  bool
}

func newRetention() retention {
	return retention{
		byHolder:   map[types.NamespacedName]hold{},
		holders:    map[string]int{},
		spares:     map[string]int{},
		namespaces: map[string]map[string]int{},
		until:      map[string]time.Time{},
	}
}

func (r retention) retain(holder types.NamespacedName, retained hold, now time.Time) {
	if r.byHolder[holder] == retained {
		return
	}
	r.release(holder, now)
	r.byHolder[holder] = retained
	if retained.spare {
		r.spares[retained.sha256]++
		return
	}
	r.holders[retained.sha256]++
	if r.namespaces[holder.Namespace] == nil {
		r.namespaces[holder.Namespace] = map[string]int{}
	}
	r.namespaces[holder.Namespace][retained.sha256]++
}

func (r retention) release(holder types.NamespacedName, now time.Time) {
	released, retains := r.byHolder[holder]
	if !retains {
		return
	}
	delete(r.byHolder, holder)
	if released.spare {
		decrease(r.spares, released.sha256)
		return
	}
	own := r.namespaces[holder.Namespace]
	decrease(own, released.sha256)
	if len(own) == 0 {
		delete(r.namespaces, holder.Namespace)
	}
	decrease(r.holders, released.sha256)
	if r.holders[released.sha256] == 0 {
		r.linger(released.sha256, now)
	}
}

func decrease(counts map[string]int, sha256 string) {
	if counts[sha256]--; counts[sha256] == 0 {
		delete(counts, sha256)
	}
}

// linger retains a module for the time after its last holder released it.
func (r retention) linger(sha256 string, now time.Time) {
	r.expire(now)
	r.until[sha256] = now.Add(ServedAfterRelease)
}

// expire forgets the modules whose time is over, so that the map stays small.
func (r retention) expire(now time.Time) {
	for sha256, until := range r.until {
		if now.After(until) {
			delete(r.until, sha256)
		}
	}
}

// retained reports whether a module has a holder, or was needed until lately.
func (r retention) retained(sha256 string, now time.Time) bool {
	return r.held(sha256) || r.spare(sha256) || !r.lingers(sha256, now).IsZero()
}

// held reports whether a module is needed.
func (r retention) held(sha256 string) bool { return r.holders[sha256] > 0 }

// spare reports whether a module is retained while there is room.
func (r retention) spare(sha256 string) bool { return r.spares[sha256] > 0 }

// neededIn returns the modules that a namespace needs.
func (r retention) neededIn(namespace string) []string {
	return slices.Collect(maps.Keys(r.namespaces[namespace]))
}

// holder returns one of those that need a module, or else retain it.
func (r retention) holder(sha256 string) (types.NamespacedName, bool) {
	var found types.NamespacedName
	for holder, retained := range r.byHolder {
		if retained.sha256 != sha256 {
			continue
		}
		if found = holder; !retained.spare {
			break
		}
	}
	return found, found != types.NamespacedName{}
}

// lingers returns until when a module is retained without a holder; zero when it
// is not.
func (r retention) lingers(sha256 string, now time.Time) time.Time {
	if until := r.until[sha256]; now.Before(until) {
		return until
	}
	return time.Time{}
}
