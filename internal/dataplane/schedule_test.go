package dataplane

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

func TestLanes(t *testing.T) {
	p := New(func(types.NamespacedName) {})
	missing := &watch{plugin: greeting, explain: true}
	for name, c := range map[string]struct {
		pod  *pod
		want *lane
	}{
		"new":                      {&pod{}, p.quick},
		"slow":                     {&pod{slow: true}, p.patient},
		"waits for an explanation": {asked(missing, answer(nil)), p.patient},
		"nothing to explain":       {asked(&watch{plugin: greeting}, answer(nil)), p.quick},
	} {
		if p.laneOf(c.pod) != c.want {
			t.Errorf("%s: the other lane", name)
		}
	}
}

func TestThePlanOfTheNextProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(func(types.NamespacedName) {})
		defer p.quick.queue.ShutDown()
		defer p.patient.queue.ShutDown()
		loaded := slices.Repeat([]sight{answer(map[string]uint64{greeting: 0})}, 2)

		open := asked(&watch{plugin: greeting}, answer(nil))
		for attempts, least := range []time.Duration{minRetry, 2 * minRetry, 4 * minRetry} {
			p.planNext(open)
			if delay := time.Until(open.due); open.attempts != attempts+1 || delay < least || delay > least*12/10 {
				t.Errorf("after %d probes: in %s, %d attempts", attempts, delay, open.attempts)
			}
		}

		settled := asked(&watch{plugin: greeting}, loaded...)
		settled.UID, settled.attempts = "u", 7
		p.planNext(settled)
		want := untilTurn(time.Now(), minPeriod, p.turn("u"))
		if delay := time.Until(settled.due); delay != want || settled.attempts != 0 {
			t.Errorf("in %s, not %s; %d attempts", delay, want, settled.attempts)
		}

		settled.watches[0].watched = true
		p.planNext(settled)
		if delay := time.Until(settled.due); delay < watchPeriod || delay > watchPeriod*12/10 {
			t.Errorf("watched: in %s", delay)
		}
	})
}

func TestTurnsAreSpreadOverThePeriod(t *testing.T) {
	p := New(func(types.NamespacedName) {})
	var quarters [4]int
	for i := range 1000 {
		turn := p.turn(types.UID(time.Duration(i).String()))
		if turn < 0 || turn > 1 {
			t.Fatalf("turn %f", turn)
		}
		quarters[min(int(turn*4), 3)]++
	}
	for i, count := range quarters {
		if count < 150 {
			t.Errorf("%d of 1000 pods in quarter %d", count, i)
		}
	}
	now := time.Unix(0, int64(100*time.Minute+30*time.Second))
	if got := untilTurn(now, time.Minute, .5); got != time.Minute {
		t.Errorf("a turn that is now comes again in %s", got)
	}
}
