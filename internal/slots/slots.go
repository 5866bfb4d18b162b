// Package slots bounds how much work is under way for each key, such as a host. Work that
// finds no slot waits here and not in a worker.
package slots

import "k8s.io/apimachinery/pkg/util/sets"

// Slots are those of each key, and what waits for them. They are not for concurrent use.
type Slots[Key, Work comparable] struct {
	limit int
	// Used is how many of each key are taken, and Waiting is the work for each that has
	// none left.
	Used    map[Key]int
	Waiting map[Key]sets.Set[Work]
}

// New returns slots, so many for each key.
func New[Key, Work comparable](limit int) Slots[Key, Work] {
	return Slots[Key, Work]{limit: limit, Used: map[Key]int{}, Waiting: map[Key]sets.Set[Work]{}}
}

// Free reports whether a key has a free slot.
func (s Slots[Key, Work]) Free(key Key) bool { return s.Used[key] < s.limit }

// Take takes a slot.
func (s Slots[Key, Work]) Take(key Key) { s.Used[key]++ }

// Wait remembers work until a slot of key is given back. That will happen, as all slots
// of key are taken.
func (s Slots[Key, Work]) Wait(key Key, work Work) {
	if s.Waiting[key] == nil {
		s.Waiting[key] = sets.New[Work]()
	}
	s.Waiting[key].Insert(work)
}

// Release gives a slot back and returns the work that waited for it.
func (s Slots[Key, Work]) Release(key Key) sets.Set[Work] {
	if s.Used[key]--; s.Used[key] == 0 {
		delete(s.Used, key)
	}
	waiting := s.Waiting[key]
	delete(s.Waiting, key)
	return waiting
}
