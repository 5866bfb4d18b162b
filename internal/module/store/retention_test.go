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
		"never":                       {func(retention) {}, 0, false, false},
		"by a holder":                 {func(r retention) { r.retain(a, "x", begin) }, 100 * ServedAfterRelease, true, true},
		"just released":               {func(r retention) { r.retain(a, "x", begin); r.release(a, begin) }, 0, false, true},
		"for as long as may be":       {func(r retention) { r.retain(a, "x", begin); r.release(a, begin) }, ServedAfterRelease - 1, false, true},
		"too long ago":                {func(r retention) { r.retain(a, "x", begin); r.release(a, begin) }, ServedAfterRelease, false, false},
		"by the other holder":         {func(r retention) { r.retain(a, "x", begin); r.retain(b, "x", begin); r.release(a, begin) }, ServedAfterRelease, true, true},
		"twice by one holder":         {func(r retention) { r.retain(a, "x", begin); r.retain(a, "x", begin); r.release(a, begin) }, ServedAfterRelease, false, false},
		"released by nobody":          {func(r retention) { r.release(a, begin) }, 0, false, false},
		"until its holder moved":      {func(r retention) { r.retain(a, "x", begin); r.retain(a, "y", begin) }, 0, false, true},
		"before its holder moved":     {func(r retention) { r.retain(a, "x", begin); r.retain(a, "y", begin) }, ServedAfterRelease, false, false},
		"released and retained again": {func(r retention) { r.retain(a, "x", begin); r.release(a, begin); r.retain(b, "x", begin) }, ServedAfterRelease, true, true},
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
	r.retain(holder("a"), "x", begin)
	r.retain(holder("b"), "y", begin)
	if got, held := r.holder("y"); got != holder("b") || !held {
		t.Errorf("got %v, %t", got, held)
	}
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
	r.retain(holder("a"), "z", begin)
	r.release(holder("a"), begin.Add(ServedAfterRelease+2))
	// The time of y is over too, but not longer than that.
	if _, kept := r.until["y"]; !kept || len(r.until) != 2 || len(r.byHolder) != 0 || len(r.holders) != 0 {
		t.Errorf("%v", r)
	}
}
