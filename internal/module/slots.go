package module

import "k8s.io/apimachinery/pkg/util/sets"

// slots bound how much work is under way for each key, such as a host. Work
// that finds no slot waits here and not in a worker.
type slots struct {
	limit   int
	used    map[string]int
	waiting map[string]sets.Set[Request]
}

func newSlots(limit int) slots {
	return slots{limit: limit, used: map[string]int{}, waiting: map[string]sets.Set[Request]{}}
}

func (s slots) free(key string) bool { return s.used[key] < s.limit }

func (s slots) take(key string) { s.used[key]++ }

// wait remembers a request until a slot of key is given back. All slots of key
// are taken, so that will be.
func (s slots) wait(key string, req Request) {
	if s.waiting[key] == nil {
		s.waiting[key] = sets.New[Request]()
	}
	s.waiting[key].Insert(req)
}

// release gives a slot back and returns the requests that waited for it.
func (s slots) release(key string) sets.Set[Request] {
	if s.used[key]--; s.used[key] == 0 {
		delete(s.used, key)
	}
	waiting := s.waiting[key]
	delete(s.waiting, key)
	return waiting
}
