package store

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// retention records which modules are retained, by whom, and until when after
// their last holder released them.
type retention struct {
	byHolder map[types.NamespacedName]string
	holders  map[string]int
	until    map[string]time.Time
}

func newRetention() retention {
	return retention{
		byHolder: map[types.NamespacedName]string{},
		holders:  map[string]int{},
		until:    map[string]time.Time{},
	}
}

func (r retention) retain(holder types.NamespacedName, sha256 string, now time.Time) {
	if r.byHolder[holder] == sha256 {
		return
	}
	r.release(holder, now)
	r.byHolder[holder] = sha256
	r.holders[sha256]++
}

func (r retention) release(holder types.NamespacedName, now time.Time) {
	sha256, retains := r.byHolder[holder]
	if !retains {
		return
	}
	delete(r.byHolder, holder)
	if r.holders[sha256]--; r.holders[sha256] == 0 {
		delete(r.holders, sha256)
		r.linger(sha256, now)
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

// retained reports whether a module has a holder, or had one until lately.
func (r retention) retained(sha256 string, now time.Time) bool {
	return r.held(sha256) || !r.lingers(sha256, now).IsZero()
}

func (r retention) held(sha256 string) bool { return r.holders[sha256] > 0 }

// holder returns one of those that retain a module.
func (r retention) holder(sha256 string) (types.NamespacedName, bool) {
	for holder, held := range r.byHolder {
		if held == sha256 {
			return holder, true
		}
	}
	return types.NamespacedName{}, false
}

// lingers returns until when a module is retained without a holder; zero when it
// is not.
func (r retention) lingers(sha256 string, now time.Time) time.Time {
	if until := r.until[sha256]; now.Before(until) {
		return until
	}
	return time.Time{}
}
