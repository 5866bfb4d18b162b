package main

import (
	"slices"
	"testing"
)

func planned(seed uint64, round int, spare bool) []fault {
	return plan(seed, round, spare, recipes(targets()))
}

func TestPlan(t *testing.T) {
	t.Run("is the same for the same seed and round", func(t *testing.T) {
		if first, again := planned(7, 3, false), planned(7, 3, false); !slices.Equal(first, again) {
			t.Errorf("%v, then %v", first, again)
		}
	})
	t.Run("is another one for another seed or round", func(t *testing.T) {
		first := planned(7, 3, false)
		if slices.Equal(first, planned(8, 3, false)) || slices.Equal(first, planned(7, 4, false)) {
			t.Errorf("both have %v", first)
		}
	})
	t.Run("has each kind of fault in enough rounds", func(t *testing.T) {
		seen, lasted := map[kind]bool{}, map[kind]bool{}
		for round := range 500 {
			for _, f := range planned(1, round, false) {
				seen[f.Kind], lasted[f.Kind] = true, lasted[f.Kind] || f.Lasts
			}
		}
		for _, r := range recipes(targets()) {
			if !seen[r.kind] || lasted[r.kind] != r.lasts {
				t.Errorf("%s: seen %t, lasts %t", r.kind, seen[r.kind], lasted[r.kind])
			}
		}
	})
	t.Run("spares the replicas", func(t *testing.T) {
		ends := map[kind]bool{}
		for _, r := range recipes(targets()) {
			ends[r.kind] = r.ends
		}
		for round := range 500 {
			for _, f := range planned(1, round, true) {
				if ends[f.Kind] {
					t.Fatalf("round %d has %s", round, f.Kind)
				}
			}
		}
	})
	t.Run("has few to many faults, in order, within the round and the bounds of their kind", func(t *testing.T) {
		of := map[kind]recipe{}
		for _, r := range recipes(targets()) {
			of[r.kind] = r
		}
		for round := range 500 {
			faults := planned(2, round, false)
			if len(faults) < leastFaults || len(faults) > mostFaults || !slices.IsSortedFunc(faults, func(a, b fault) int { return int(a.At - b.At) }) {
				t.Fatalf("round %d: %v", round, faults)
			}
			for _, f := range faults {
				r := of[f.Kind]
				if f.At < 0 || f.At+f.For > roundTime || f.For < r.least || f.For > r.most || !slices.Contains(r.targets, f.Target) {
					t.Fatalf("round %d: %v", round, f)
				}
			}
		}
	})
}

func TestAFaultLocksWhatItsRecipeSaysInOrder(t *testing.T) {
	of := []recipe{{kind: podAdded, targets: []string{wide}, busy: []string{theIstiod, theAPIServer}}, {kind: imageChanged}}
	if got := (fault{Kind: podAdded, Target: wide}).locked(of); !slices.Equal(got, []string{theAPIServer, theIstiod, wide}) {
		t.Errorf("%v", got)
	}
	if got := (fault{Kind: imageChanged, Target: "staged"}).locked(of); !slices.Equal(got, []string{"staged"}) {
		t.Errorf("%v", got)
	}
}

func TestNothingHappensTwiceAtOneTimeToOneTarget(t *testing.T) {
	busy := map[kind][]string{}
	for _, r := range recipes(targets()) {
		busy[r.kind] = r.busy
	}
	for round := range 500 {
		faults := planned(3, round, false)
		for i, a := range faults {
			for _, b := range faults[i+1:] {
				shared := a.Target == b.Target || slices.Contains(busy[a.Kind], b.Target) || slices.Contains(busy[b.Kind], a.Target)
				if shared && (a.Lasts || b.At < a.At+a.For+apart) {
					t.Fatalf("round %d: %v and %v", round, a, b)
				}
			}
		}
	}
}
