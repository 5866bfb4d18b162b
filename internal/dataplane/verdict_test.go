package dataplane

import (
	"cmp"
	"strings"
	"testing"
	"time"
)

const (
	greeting    = "wasm_filter.bookinfo/details-v1/greeting@14643ae8"
	greetingOld = "wasm_filter.bookinfo/details-v1/greeting@febce647"
)

func TestWhichRowsBelongToAPlugin(t *testing.T) {
	for name, c := range map[string]struct {
		wanted, shown string
		want          relation
	}{
		"itself":                                 {greeting, greeting, same},
		"itself, sanitised":                      {greeting, "wasm_filter_bookinfo_details_v1_greeting_14643ae8", same},
		"another revision":                       {greeting, greetingOld, otherRevision},
		"another revision, sanitised":            {greeting, "wasm_filter_bookinfo_details_v1_greeting_febce647", otherRevision},
		"another filter":                         {greeting, "wasm_filter.bookinfo/details-v1/other@14643ae8", unrelated},
		"another workload":                       {greeting, "wasm_filter.bookinfo/details-v2/greeting@14643ae8", unrelated},
		"another namespace":                      {greeting, "wasm_filter.shop/details-v1/greeting@14643ae8", unrelated},
		"a filter whose name goes on":            {greeting, "wasm_filter.bookinfo/details-v1/greeting-two@febce647", unrelated},
		"a filter whose name goes on, sanitised": {greeting, "wasm_filter_bookinfo_details_v1_greeting_two_febce647", unrelated},
		"what is no revision":                    {greeting, "wasm_filter.bookinfo/details-v1/greeting@New", unrelated},
		"no revision at all":                     {greeting, "wasm_filter.bookinfo/details-v1/greeting@", unrelated},
		"a revision without end":                 {greeting, "wasm_filter.bookinfo/details-v1/greeting@" + string(make([]byte, 100)), unrelated},
		"a TrafficExtension":                     {"bookinfo.te", "bookinfo_te", same},
		"a WasmPlugin":                           {"bookinfo.wp.with-dots", "bookinfo_wp_with_dots", same},
		"a WasmPlugin that Istio translated":     {"bookinfo.wp.with-dots", "bookinfo_wp_with_dots_istio_translated_wasmplugin", same},
		"another WasmPlugin":                     {"bookinfo.wp", "bookinfo_wp_with_dots", unrelated},
		"the longest revision":                   {greeting, "wasm_filter.bookinfo/details-v1/greeting@" + strings.Repeat("0", maxRevision), otherRevision},
		"a longer one":                           {greeting, "wasm_filter.bookinfo/details-v1/greeting@" + strings.Repeat("0", maxRevision+1), unrelated},
		"a name that is a revision":              {greeting, "febce647", unrelated},
		"that of a WasmPlugin that has none":     {"bookinfo.wp", "febce647", unrelated},
		"a filter without a name":                {"@14643ae8", "@febce647", otherRevision},
		"characters that stay":                   {"azAZ09_.x", "azAZ09__x", same},
		"characters beside those":                {"`{@[/:", "______", same},
	} {
		t.Run(name, func(t *testing.T) {
			if got := relate(c.wanted, c.shown); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestOnlyALoadedPluginIsProven(t *testing.T) {
	for state, want := range map[State]bool{
		StateUnknown: false, StateLoaded: true, StateDraining: true,
		StateOtherRevision: false, StateNotLoaded: false, StateUnreachable: false,
	} {
		if got := (Verdict{State: state}).Proven(); got != want {
			t.Errorf("%q: got %v", state, got)
		}
	}
}

func TestStatesOfRows(t *testing.T) {
	other := "wasm_filter.bookinfo/details-v1/other@14643ae8"
	untagged := "wasm_filter_bookinfo_details_v1_greeting_14643ae8"
	for name, c := range map[string]struct {
		shown []string
		want  State
	}{
		"nothing":                  {nil, StateNotLoaded},
		"other filters":            {[]string{other}, StateNotLoaded},
		"the plugin":               {[]string{greeting, other}, StateLoaded},
		"the plugin, sanitised":    {[]string{untagged}, StateLoaded},
		"the plugin under both":    {[]string{untagged, greeting}, StateLoaded},
		"another revision":         {[]string{greetingOld}, StateOtherRevision},
		"both":                     {[]string{greetingOld, greeting}, StateDraining},
		"more than can be":         {[]string{greeting, greeting + "0", greeting + "1", greeting + "2", greeting + "3"}, StateDraining},
		"many of another revision": {[]string{greeting + "0", greeting + "1", greeting + "2", greeting + "3", greeting + "4"}, StateOtherRevision},
		"the plugin after many":    {[]string{"wasm_filter.bookinfo/details-v1/greeting@0", "wasm_filter.bookinfo/details-v1/greeting@00", "wasm_filter.bookinfo/details-v1/greeting@01", "wasm_filter.bookinfo/details-v1/greeting@02", greeting}, StateDraining},
	} {
		t.Run(name, func(t *testing.T) {
			plugins := map[string]reloads{}
			for _, plugin := range c.shown {
				plugins[plugin] = reloads{}
			}
			w := &watch{plugin: greeting}
			w.see(plugins, time.Now())
			once := map[State]State{StateLoaded: StateNotLoaded, StateDraining: StateOtherRevision}
			if got, want := classify(greeting, w.rows), cmp.Or(once[c.want], c.want); got != want {
				t.Errorf("at first got %q, want %q", got, want)
			}
			w.see(plugins, time.Now())
			if got := classify(greeting, w.rows); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestCrashesCountForAWhile(t *testing.T) {
	now := time.Now()
	just, longAgo := now.Add(-maxPeriod), now.Add(-crashMemory)
	for name, c := range map[string]struct {
		rows []row
		want bool
	}{
		"never":                                 {[]row{{plugin: greeting}}, false},
		"just now":                              {[]row{{plugin: greeting, crashed: just}}, true},
		"long ago":                              {[]row{{plugin: greeting, crashed: longAgo}}, false},
		"what drains":                           {[]row{{plugin: greeting}, {plugin: greetingOld, crashed: just}}, false},
		"what still runs instead of the plugin": {[]row{{plugin: greetingOld, crashed: just}}, true},
		"nothing runs":                          {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := crashing(greeting, c.rows, now); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestWhatFailedFetchesMean(t *testing.T) {
	for name, c := range map[string]struct {
		counts []uint64
		want   Fetch
	}{
		"not asked":                    {nil, FetchUnknown},
		"none ever":                    {[]uint64{0, 0}, FetchClean},
		"before":                       {[]uint64{2, 2}, FetchFailedBefore},
		"the first since":              {[]uint64{0, 1}, FetchFailed},
		"another since":                {[]uint64{2, 2, 3}, FetchFailed},
		"one since, then quiet":        {[]uint64{2, 3, 3}, FetchFailed},
		"pilot-agent anew":             {[]uint64{2, 0}, FetchClean},
		"pilot-agent anew and failing": {[]uint64{2, 1}, FetchFailed},
	} {
		t.Run(name, func(t *testing.T) {
			var f fetches
			for _, count := range c.counts {
				f.see(&agentCounts{failedFetches: count}, time.Now())
				f.see(nil, time.Now())
			}
			if got := f.verdict(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestWhenListenersAreStale(t *testing.T) {
	none := listenerCounts{}
	counts := func(accepted, refused uint64) listenerCounts { return listenerCounts{true, accepted, refused} }
	for name, c := range map[string]struct {
		seen []listenerCounts
		want listeners
	}{
		"not shown":                          {[]listenerCounts{none}, listeners{}},
		"none was refused":                   {[]listenerCounts{counts(1, 0), counts(2, 0)}, listeners{}},
		"one was refused":                    {[]listenerCounts{counts(1, 0), counts(1, 1)}, listeners{stale: true}},
		"one was refused a while ago":        {[]listenerCounts{counts(1, 0), counts(1, 1), none, counts(1, 1)}, listeners{stale: true}},
		"another was refused":                {[]listenerCounts{counts(1, 0), counts(1, 1), counts(1, 2)}, listeners{stale: true}},
		"one was refused, then one accepted": {[]listenerCounts{counts(1, 0), counts(1, 1), counts(2, 1)}, listeners{}},
		"both, in an order that is not seen": {[]listenerCounts{counts(1, 0), counts(2, 1)}, listeners{stale: true}},
		"before the first look":              {[]listenerCounts{counts(1, 3), counts(1, 3)}, listeners{doubtful: true}},
		"accepted after the first look":      {[]listenerCounts{counts(1, 3), counts(2, 3)}, listeners{}},
		"refused before and after it":        {[]listenerCounts{counts(1, 3), counts(1, 4)}, listeners{stale: true, doubtful: true}},
		"Envoy started again":                {[]listenerCounts{counts(1, 0), counts(1, 1), counts(1, 0)}, listeners{}},
		"Envoy started again, and refused":   {[]listenerCounts{counts(5, 3), counts(1, 1)}, listeners{doubtful: true}},
	} {
		t.Run(name, func(t *testing.T) {
			var l listeners
			for _, seen := range c.seen {
				l.see(seen)
			}
			if l.stale != c.want.stale || l.doubtful != c.want.doubtful {
				t.Errorf("got %+v", l)
			}
		})
	}
}
