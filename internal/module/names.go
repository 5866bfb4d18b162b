package module

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// names knows which modules are named, by whom, and until when after that.
type names struct {
	byHolder map[types.NamespacedName]string
	holders  map[string]int
	until    map[string]time.Time
}

func newNames() names {
	return names{
		byHolder: map[types.NamespacedName]string{},
		holders:  map[string]int{},
		until:    map[string]time.Time{},
	}
}

func (n names) retain(holder types.NamespacedName, sha256 string, now time.Time) {
	if n.byHolder[holder] == sha256 {
		return
	}
	n.release(holder, now)
	n.byHolder[holder] = sha256
	n.holders[sha256]++
}

func (n names) release(holder types.NamespacedName, now time.Time) {
	sha256, retains := n.byHolder[holder]
	if !retains {
		return
	}
	delete(n.byHolder, holder)
	if n.holders[sha256]--; n.holders[sha256] == 0 {
		delete(n.holders, sha256)
		n.linger(sha256, now)
	}
}

// linger keeps a module named for the time after its last holder let go.
func (n names) linger(sha256 string, now time.Time) {
	n.expire(now)
	n.until[sha256] = now.Add(ServedAfterRelease)
}

// expire forgets the modules whose time is over, so that names stays small.
func (n names) expire(now time.Time) {
	for sha256, until := range n.until {
		if now.After(until) {
			delete(n.until, sha256)
		}
	}
}

func (n names) named(sha256 string, now time.Time) bool {
	return n.held(sha256) || !n.lingers(sha256, now).IsZero()
}

func (n names) held(sha256 string) bool { return n.holders[sha256] > 0 }

// lingers says until when a module stays named without a holder; zero when it
// is not.
func (n names) lingers(sha256 string, now time.Time) time.Time {
	if until := n.until[sha256]; now.Before(until) {
		return until
	}
	return time.Time{}
}
