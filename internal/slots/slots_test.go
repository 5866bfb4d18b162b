package slots

import (
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
)

func TestSlots(t *testing.T) {
	s := New[string, int](2)
	s.Take("a")
	if !s.Free("a") {
		t.Error("there is no second slot")
	}
	s.Take("a")
	if s.Free("a") || !s.Free("b") {
		t.Error("a key has more slots than its own two")
	}
	s.Wait("a", 1)
	s.Wait("a", 2)
	s.Wait("a", 2)
	if got := s.Release("a"); !got.Equal(sets.New(1, 2)) || !s.Free("a") {
		t.Errorf("a slot that is given back wakes %v", got)
	}
	if got := s.Release("a"); got.Len() > 0 || len(s.Used)+len(s.Waiting) > 0 {
		t.Errorf("the last one wakes %v and leaves %v, %v", got, s.Used, s.Waiting)
	}
}
