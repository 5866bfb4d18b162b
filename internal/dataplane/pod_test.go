package dataplane

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const otherFilter = "wasm_filter.bookinfo/details-v1/other@14643ae8"

// answer is what a pod shows, each plugin with the number of its reloads.
func answer(plugins map[string]uint64) sight {
	s := sight{page: page{plugins: map[string]reloads{}}}
	for name, count := range plugins {
		s.plugins[name] = reloads{success: count}
	}
	return s
}

// asked is a pod that was asked and has given these answers.
func asked(w *watch, answers ...sight) *pod {
	p := &pod{watches: []*watch{w}}
	for _, s := range answers {
		p.see(s, time.Now())
		p.judge(time.Now())
	}
	return p
}

func TestVerdictsOnAPod(t *testing.T) {
	now := time.Now()
	both := map[string]uint64{greeting: 0, greetingOld: 0}
	failed := sight{failure: FailureTimeout}
	empty := answer(nil)
	untried := answer(nil)
	untried.agent = &agentCounts{}
	explained := answer(nil)
	explained.agent = &agentCounts{plugins: 1}
	refused := answer(nil)
	refused.agent, refused.listeners = &agentCounts{}, listenerCounts{shown: true, accepted: 1, refused: 1}
	untriedHere := answer(map[string]uint64{greetingOld: 0})
	untriedHere.agent = &agentCounts{}
	explainedLoaded := answer(map[string]uint64{greeting: 0})
	explainedLoaded.agent = &agentCounts{}
	for name, c := range map[string]struct {
		answers []sight
		want    Verdict
	}{
		"no answer":                    {nil, Verdict{}},
		"one answer":                   {[]sight{answer(both)}, Verdict{}},
		"two answers":                  {[]sight{answer(both), answer(both)}, Verdict{State: StateDraining}},
		"a plugin of another filter":   {slices.Repeat([]sight{answer(map[string]uint64{otherFilter: 0})}, 2), Verdict{State: StateNotLoaded}},
		"a plugin that comes":          {[]sight{empty, answer(both)}, Verdict{State: StateNotLoaded}},
		"an old revision that comes":   {[]sight{answer(map[string]uint64{greeting: 0}), answer(map[string]uint64{greeting: 0}), answer(both)}, Verdict{State: StateDraining}},
		"a plugin that goes":           {[]sight{answer(both), answer(both), empty}, Verdict{State: StateNotLoaded}},
		"an Envoy that got no plugin":  {[]sight{untried}, Verdict{State: StateNotLoaded, Fetch: FetchClean, Untried: true}},
		"an Envoy that then got one":   {[]sight{untried, explained}, Verdict{State: StateNotLoaded, Fetch: FetchClean}},
		"an Envoy without a listener":  {[]sight{refused}, Verdict{State: StateNotLoaded, Fetch: FetchClean}},
		"an older revision, and none":  {slices.Repeat([]sight{untriedHere}, 2), Verdict{State: StateOtherRevision, Fetch: FetchClean}},
		"an agent without failures":    {[]sight{explained}, Verdict{State: StateNotLoaded, Fetch: FetchClean}},
		"an agent of what is loaded":   {[]sight{explainedLoaded, explainedLoaded}, Verdict{State: StateLoaded}},
		"a crash":                      {[]sight{answer(map[string]uint64{greeting: 1}), answer(map[string]uint64{greeting: 2})}, Verdict{State: StateLoaded, Crashing: true}},
		"a crash before the first":     {slices.Repeat([]sight{answer(map[string]uint64{greeting: 1})}, 2), Verdict{State: StateLoaded}},
		"few failures":                 {append(slices.Repeat([]sight{answer(both)}, 2), slices.Repeat([]sight{failed}, maxFailures-1)...), Verdict{State: StateDraining}},
		"failures":                     {slices.Repeat([]sight{failed}, maxFailures), Verdict{State: StateUnreachable, Failure: FailureTimeout}},
		"failures with answers within": {[]sight{failed, failed, empty, failed, failed, failed}, Verdict{State: StateNotLoaded}},
	} {
		t.Run(name, func(t *testing.T) {
			w := &watch{plugin: greeting}
			if got := asked(w, c.answers...).verdictOn(w, now); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestACrashIsRememberedFromAnswerToAnswer(t *testing.T) {
	w, now := &watch{plugin: greeting}, time.Now()
	for i, count := range []uint64{1, 2, 2} {
		w.see(answer(map[string]uint64{greeting: count, greetingOld: 0}).plugins, now.Add(time.Duration(i)*time.Minute))
	}
	want := []row{
		{plugin: greeting, reloads: reloads{success: 2}, crashed: now.Add(time.Minute), lasts: true},
		{plugin: greetingOld, lasts: true},
	}
	if diff := cmp.Diff(want, w.rows, cmp.AllowUnexported(row{}, reloads{})); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsKnownOfAFilterWhenItsTargetChanges(t *testing.T) {
	for name, c := range map[string]struct {
		target          Expectation
		news, remembers bool
		want            State
	}{
		"the same":              {Expectation{Plugin: greeting}, false, true, StateLoaded},
		"an explanation":        {Expectation{Plugin: greeting, Explain: true}, true, true, StateLoaded},
		"a closer look":         {Expectation{Plugin: greeting, Watch: true}, true, true, StateLoaded},
		"another revision":      {Expectation{Plugin: greetingOld}, true, true, StateOtherRevision},
		"another filter":        {Expectation{Plugin: otherFilter}, true, false, StateUnknown},
		"a WasmPlugin's plugin": {Expectation{Plugin: "bookinfo.greeting"}, true, false, StateUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			w := &watch{plugin: greeting}
			loaded := answer(map[string]uint64{greeting: 0})
			loaded.agent = &agentCounts{failedFetches: 1}
			p := asked(w, loaded, loaded)
			if got := w.want(c.target); got != c.news {
				t.Errorf("it is news: %v", got)
			}
			if w.plugin != c.target.Plugin || w.explain != c.target.Explain || w.looked != c.remembers {
				t.Errorf("got %+v", w)
			}
			if w.fetch.asked != (c.target.Plugin == greeting) {
				t.Errorf("what pilot-agent said of the plugin before is known: %v", w.fetch.asked)
			}
			if got := p.verdictOn(w, time.Now()); got.State != c.want {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestAnotherRevisionBeforeAnyAnswerIsAsUnknownAsTheFirst(t *testing.T) {
	w := &watch{plugin: greeting}
	p := asked(w)
	w.want(Expectation{Plugin: greetingOld})
	if got := p.verdictOn(w, time.Now()); got != (Verdict{}) {
		t.Errorf("got %+v", got)
	}
}

func TestAnExplanationThatIsNoLongerAskedForIsNoNews(t *testing.T) {
	w := &watch{plugin: greeting, explain: true}
	if w.want(Expectation{Plugin: greeting, Explain: true}) || w.want(Expectation{Plugin: greeting}) || w.explain {
		t.Errorf("got %+v", w)
	}
}

func TestNothingIsKnownOfAPodThatMoved(t *testing.T) {
	w := &watch{plugin: greeting}
	loaded := answer(map[string]uint64{greeting: 0})
	loaded.agent, loaded.viaAgent, loaded.listeners = &agentCounts{}, true, listenerCounts{shown: true, accepted: 1}
	p := asked(w, loaded, loaded, sight{failure: FailureTimeout})
	p.slow = true
	if p.moveTo(p.Pod) || !w.looked {
		t.Error("a pod that did not move is forgotten")
	}
	place := Pod{UID: p.UID, Address: netip.MustParseAddr("10.0.0.2")}
	if !p.moveTo(place) {
		t.Error("a pod that moved is not noticed")
	}
	want := pod{Pod: place, watches: []*watch{{plugin: greeting, verdict: w.verdict}}}
	options := cmp.Options{cmp.AllowUnexported(pod{}, watch{}, row{}, fetches{}, listeners{}, listenerCounts{}, window{}, Traffic{}), cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()}
	if diff := cmp.Diff(want, *p, options); diff != "" {
		t.Error(diff)
	}
}

func TestAPodIsSettledWhenAllOfItIsLoaded(t *testing.T) {
	loaded := answer(map[string]uint64{greeting: 0})
	for name, c := range map[string]struct {
		answers []sight
		want    bool
	}{
		"no answer":    {nil, false},
		"one answer":   {[]sight{loaded}, false},
		"two answers":  {[]sight{loaded, loaded}, true},
		"it drains":    {slices.Repeat([]sight{answer(map[string]uint64{greeting: 0, greetingOld: 0})}, 2), false},
		"not loaded":   {[]sight{answer(nil)}, false},
		"then nothing": {[]sight{loaded, loaded, {failure: FailureRefused}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := asked(&watch{plugin: greeting}, c.answers...).settled(); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
	if p := asked(&watch{plugin: greeting}, loaded, loaded); p != nil {
		p.watches = append(p.watches, &watch{plugin: otherFilter})
		if p.settled() {
			t.Error("a pod of which one plugin is open is settled")
		}
	}
}

func TestWhatPilotAgentCanExplain(t *testing.T) {
	for name, c := range map[string]struct {
		explain bool
		answers []sight
		want    []string
	}{
		"nobody asks":     {false, []sight{answer(nil)}, nil},
		"before a look":   {true, nil, nil},
		"missing":         {true, []sight{answer(nil)}, []string{greeting}},
		"there, one look": {true, []sight{answer(map[string]uint64{greeting: 0})}, []string{greeting}},
		"there":           {true, slices.Repeat([]sight{answer(map[string]uint64{greeting: 0})}, 2), nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := asked(&watch{plugin: greeting, explain: c.explain}, c.answers...).unexplained(); !slices.Equal(got, c.want) {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestOnlyOwnersWithAnotherVerdictAreNamed(t *testing.T) {
	p := &pod{watches: []*watch{{owner: owner("greeting"), plugin: greeting}, {owner: owner("other"), plugin: otherFilter}}}
	both := answer(map[string]uint64{greeting: 0, otherFilter: 0})
	now := time.Now()
	p.see(both, now)
	if got := p.judge(now); got.Len() != 0 {
		t.Errorf("one answer proves something for %v", got)
	}
	p.see(both, now)
	if got := p.judge(now); got.Len() != 2 {
		t.Errorf("two answers prove something for %v", got)
	}
	p.see(answer(map[string]uint64{otherFilter: 0}), now)
	if got := p.judge(now); got.Len() != 1 || !got.Has(owner("greeting")) {
		t.Errorf("a plugin that is gone changes something for %v", got)
	}
	if p.watchOf(owner("other"), otherFilter) != p.watches[1] || p.watchOf(owner("other"), greeting) != nil || p.watchOf(owner("third"), greeting) != nil {
		t.Error("an owner has the watch of another, or of another filter")
	}
}

func TestRowsOfAFilterAreFewAndItsOwnFirst(t *testing.T) {
	plugins := map[string]reloads{greeting: {success: 7}, otherFilter: {}}
	for i := range 2 * maxRows {
		plugins[fmt.Sprintf("wasm_filter.bookinfo/details-v1/greeting@%d", i)] = reloads{}
	}
	var names []string
	rows := rowsOf(greeting, plugins)
	for _, r := range rows {
		names = append(names, r.plugin)
	}
	want := []string{greeting}
	for i := range maxRows - 1 {
		want = append(want, fmt.Sprintf("wasm_filter.bookinfo/details-v1/greeting@%d", i))
	}
	if !slices.Equal(names, want) || rows[0].reloads.success != 7 {
		t.Errorf("got %v, %+v", names, rows[0])
	}
	untagged := map[string]reloads{sanitised(greeting): {success: 1}}
	if rows := rowsOf(greeting, untagged); len(rows) != 1 || rows[0] != (row{plugin: greeting, reloads: reloads{success: 1}}) {
		t.Errorf("under its sanitised name: %+v", rows)
	}
}

func TestDeliveryShowsBetweenTwoQuestionsSomeTimeLater(t *testing.T) {
	now := time.Now()
	w := &watch{plugin: greeting}
	p := &pod{watches: []*watch{w}}
	look := func(passed uint64, later time.Duration) bool {
		now = now.Add(later)
		seen := answer(nil)
		seen.agent = &agentCounts{plugins: passed}
		p.see(seen, now)
		p.judge(now)
		return w.verdict.Delivered
	}
	for i, step := range []struct {
		passed uint64
		later  time.Duration
		want   bool
	}{
		{7, 0, false},
		{7, time.Hour, false},        // nothing was passed on
		{8, time.Second, false},      // just now
		{8, deliveryTime - 1, false}, // Envoy may need that long
		{8, 1, true},                 //
		{9, time.Minute, true},       // others since
		{1, time.Minute, true},       // pilot-agent has started again
	} {
		if got := look(step.passed, step.later); got != step.want {
			t.Errorf("step %d: %t", i, got)
		}
	}
	w.want(Expectation{Plugin: greetingOld, Explain: true})
	if look(9, time.Hour) {
		t.Error("what was delivered before it was expected counts")
	}
}

func TestAnotherAttemptIsNews(t *testing.T) {
	w := &watch{}
	for _, step := range []struct {
		attempt int
		want    bool
	}{{0, true}, {0, false}, {1, true}, {1, false}, {0, false}} {
		if got := w.want(Expectation{Plugin: greeting, Attempt: step.attempt}); got != step.want {
			t.Errorf("attempt %d: %t", step.attempt, got)
		}
	}
}
