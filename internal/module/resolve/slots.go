package resolve

import (
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/wasme-io/wasme-operator/internal/module/pull"
)

// slots bounds how much work is under way for each key, such as a host. Work
// that finds no slot waits here and not in a worker.
type slots[K comparable] struct {
	limit   int
	used    map[K]int
	waiting map[K]sets.Set[pull.Request]
}

func newSlots[K comparable](limit int) slots[K] {
	return slots[K]{limit: limit, used: map[K]int{}, waiting: map[K]sets.Set[pull.Request]{}}
}

func (s slots[K]) free(key K) bool { return s.used[key] < s.limit }

func (s slots[K]) take(key K) { s.used[key]++ }

// wait remembers a request until a slot of key is given back. That will happen,
// as all slots of key are taken.
func (s slots[K]) wait(key K, req pull.Request) {
	if s.waiting[key] == nil {
		s.waiting[key] = sets.New[pull.Request]()
	}
	s.waiting[key].Insert(req)
}

// release gives a slot back and returns the requests that waited for it.
func (s slots[K]) release(key K) sets.Set[pull.Request] {
	if s.used[key]--; s.used[key] == 0 {
		delete(s.used, key)
	}
	waiting := s.waiting[key]
	delete(s.waiting, key)
	return waiting
}
