package store

import (
	"testing"
	"time"
)

func TestRetention(t *testing.T) {
	begin := time.Now()
	a, b := holder("a"), holder("b")
	for name, c := range map[string]struct {
		do       func(retention)
		at       time.Duration
		held     bool
		retained bool
	}{
		"never":                 {func(retention) {}, 0, false, false},
		"by a holder":           {func(r retention) { r.retain(a, hold{sha256: "x"}, begin) }, 100 * ServedAfterRelease, true, true},
		"just released":         {func(r retention) { r.retain(a, hold{sha256: "x"}, begin); r.release(a, begin) }, 0, false, true},
		"for as long as may be": {func(r retention) { r.retain(a, hold{sha256: "x"}, begin); r.release(a, begin) }, ServedAfterRelease - 1, false, true},
		"too long ago":          {func(r retention) { r.retain(a, hold{sha256: "x"}, begin); r.release(a, begin) }, ServedAfterRelease, false, false},
		"by the other holder": {func(r retention) {
			r.retain(a, hold{sha256: "x"}, begin)
			r.retain(b, hold{sha256: "x"}, begin)
			r.release(a, begin)
		}, ServedAfterRelease, true, true},
		"twice by one holder": {func(r retention) {
			r.retain(a, hold{sha256: "x"}, begin)
			r.retain(a, hold{sha256: "x"}, begin)
			r.release(a, begin)
		}, ServedAfterRelease, false, false},
		"released by nobody":      {func(r retention) { r.release(a, begin) }, 0, false, false},
		"until its holder moved":  {func(r retention) { r.retain(a, hold{sha256: "x"}, begin); r.retain(a, hold{sha256: "y"}, begin) }, 0, false, true},
		"before its holder moved": {func(r retention) { r.retain(a, hold{sha256: "x"}, begin); r.retain(a, hold{sha256: "y"}, begin) }, ServedAfterRelease, false, false},
		"released and retained again": {func(r retention) {
			r.retain(a, hold{sha256: "x"}, begin)
			r.release(a, begin)
			r.retain(b, hold{sha256: "x"}, begin)
		}, ServedAfterRelease, true, true},
		"while there is room":       {func(r retention) { r.retain(a, hold{"x", true}, begin) }, 100 * ServedAfterRelease, false, true},
		"no longer, while was room": {func(r retention) { r.retain(a, hold{"x", true}, begin); r.release(a, begin) }, 0, false, false},
		"needed, then while room":   {func(r retention) { r.retain(a, hold{sha256: "x"}, begin); r.retain(a, hold{"x", true}, begin) }, 100 * ServedAfterRelease, false, true},
		"while room, then needed":   {func(r retention) { r.retain(a, hold{"x", true}, begin); r.retain(a, hold{sha256: "x"}, begin) }, 100 * ServedAfterRelease, true, true},
		"needed by another": {func(r retention) {
			r.retain(a, hold{"x", true}, begin)
			r.retain(b, hold{sha256: "x"}, begin)
			r.release(a, begin)
		}, 0, true, true},
		"found when the store opened": {func(r retention) { r.linger("x", begin) }, ServedAfterRelease - 1, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRetention()
			c.do(r)
			now := begin.Add(c.at)
			if r.held("x") != c.held || r.retained("x", now) != c.retained {
				t.Errorf("held: %v, not %v; retained: %v, not %v", r.held("x"), c.held, r.retained("x", now), c.retained)
			}
			if until := r.lingers("x", now); !until.IsZero() && until != begin.Add(ServedAfterRelease) {
				t.Errorf("it lingers until %v", until.Sub(begin))
			}
		})
	}
}

func TestRetentionKnowsAHolder(t *testing.T) {
	r, begin := newRetention(), time.Now()
	r.retain(holder("a"), hold{sha256: "x"}, begin)
	r.retain(holder("b"), hold{sha256: "y"}, begin)
	if got, held := r.holder("y"); got != holder("b") || !held {
		t.Errorf("got %v, %t", got, held)
	}
	r.retain(holder("c"), hold{"y", true}, begin)
	if got, held := r.holder("y"); got != holder("b") || !held {
		t.Errorf("got %v, %t, and not the one that needs it", got, held)
	}
	r.release(holder("c"), begin)
	r.release(holder("b"), begin)
	if got, held := r.holder("y"); held {
		t.Errorf("got %v of a module that was released", got)
	}
}

func TestRetentionForgetsWhatIsOver(t *testing.T) {
	r, begin := newRetention(), time.Now()
	for i, sum := range []string{"w", "x", "y"} {
		r.linger(sum, begin.Add(time.Duration(i)))
	}
	r.retain(holder("a"), hold{sha256: "z"}, begin)
	r.release(holder("a"), begin.Add(ServedAfterRelease+2))
	// The time of y is over too, but not longer than that.
	if _, kept := r.until["y"]; !kept || len(r.until) != 2 || len(r.byHolder)+len(r.holders)+len(r.spares)+len(r.namespaces) != 0 {
		t.Errorf("%v", r)
	}
}
