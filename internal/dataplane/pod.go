package dataplane

import (
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
)

const (
	// maxFailures is how many failures in a row make a pod unreachable.
	maxFailures = 4
	// maxRows is how many rows of one filter are remembered, for the plugin that should
	// run and those that are draining.
	maxRows = 4
	// longSilence is how long a pod must not answer before it is more than busy.
	longSilence = 30 * time.Second
	// crashMemory is how long a plugin counts as crashing after its last crash. It is
	// as long as the time between two probes can be.
	crashMemory = maxPeriod + minPeriod
)

// pod is what is known of a pod, and who wants to know.
type pod struct {
	Pod
	watches []*watch
	// failures is how many probes failed in a row, and failure why the last one did.
	failures int
	failure  Failure
	// silentSince is when the first of them failed.
	silentSince time.Time
	// slow says that it needs more time than the quick lane gives.
	slow bool
	// running says that a worker is asking it. Otherwise it is in a queue until due.
	running bool
	due     time.Time
	// attempts counts the probes since something changed.
	attempts int
	// viaAgent says that its pilot-agent answers for its Envoy, which does not answer.
	viaAgent bool
	// listeners are those of its Envoy.
	listeners listeners
}

// watch is what one owner wants to know of a pod.
type watch struct {
	owner   types.NamespacedName
	plugin  string
	explain bool
	watched bool
	proved  bool
	attempt int
	verdict Verdict
	// looked says that rows holds those of the last answer.
	looked bool
	rows   []row
	fetch  fetches
	window window
	// round is that of the last Expect that had it.
	round uint64
}

// row is a plugin that a pod's metrics show.
type row struct {
	plugin  string
	reloads reloads
	crashed time.Time
	// lasts says that two answers in a row had it. The row of a plugin that Envoy
	// refuses is in one answer only, because Envoy removes it when it is asked.
	lasts bool
}

// sight is what a worker saw of a pod.
type sight struct {
	// failure is empty when the pod answered. Then plugins is what it runs.
	failure Failure
	page
	// agent is nil unless pilot-agent was asked and answered.
	agent *agentCounts
	// traffic is nil unless the requests are counted.
	traffic *traffic
	// viaAgent says that it answered for Envoy, too.
	viaAgent bool
	// took is how long the answer took.
	took time.Duration
}

// watchOf returns the owner's watch on a plugin, or on another revision of its filter;
// nil for none.
func (p *pod) watchOf(owner types.NamespacedName, plugin string) *watch {
	for _, w := range p.watches {
		if w.owner == owner && relate(plugin, w.plugin) != unrelated {
			return w
		}
	}
	return nil
}

// seenBy returns what an owner gets to know of the pod.
func (p *pod) seenBy(owner types.NamespacedName) Seen {
	var seen Seen
	for _, w := range p.watches {
		if w.owner != owner {
			continue
		}
		if seen.Plugin == "" {
			seen.Plugin, seen.Verdict, seen.Window = w.plugin, w.verdict, w.window.seen()
		} else {
			seen.Other = &Seen{Plugin: w.plugin, Verdict: w.verdict, Window: w.window.seen(), Other: seen.Other}
		}
	}
	return seen
}

// moveTo takes over where the pod is, and reports whether that is somewhere else than
// before. If so, it forgets everything that was known of the pod.
func (p *pod) moveTo(place Pod) bool {
	if p.Pod == place {
		return false
	}
	p.Pod = place
	p.silentSince = time.Time{}
	p.failures, p.failure, p.slow, p.viaAgent, p.listeners = 0, "", false, false, listeners{}
	for _, w := range p.watches {
		w.looked, w.rows, w.fetch, w.window = false, nil, fetches{}, window{Count: w.window.Count}
	}
	return true
}

// want takes over an expectation, and reports whether it asks for more than before. What is
// known of a filter stays known when another revision of it is expected.
func (w *watch) want(expected Expectation) bool {
	news := w.plugin != expected.Plugin || expected.Explain && !w.explain || expected.Watch && !w.watched || expected.Attempt > w.attempt
	if w.plugin != expected.Plugin {
		w.fetch, w.verdict = fetches{}, Verdict{}
		w.looked = w.looked && relate(expected.Plugin, w.plugin) != unrelated
		w.plugin = expected.Plugin
	}
	news = w.window.want(expected.Count) || news
	w.explain, w.watched, w.proved, w.attempt = expected.Explain, expected.Watch, expected.ProvedBefore, expected.Attempt
	return news
}

// unexplained returns the plugins whose absence pilot-agent can explain.
func (p *pod) unexplained() []string {
	var plugins []string
	for _, w := range p.watches {
		if w.explain && w.looked && !w.verdict.Proven() {
			plugins = append(plugins, w.plugin)
		}
	}
	return plugins
}

// settled reports whether there is nothing more to find out.
func (p *pod) settled() bool {
	return p.failures == 0 && !slices.ContainsFunc(p.watches, func(w *watch) bool {
		return w.verdict.State != StateLoaded || w.verdict.StaleListeners
	})
}

// watched reports whether the pod is asked each second.
func (p *pod) watched() bool {
	return p.counts() || slices.ContainsFunc(p.watches, func(w *watch) bool { return w.watched })
}

// counts reports whether the pod's requests are counted.
func (p *pod) counts() bool {
	return slices.ContainsFunc(p.watches, func(w *watch) bool { return w.window.Window != "" })
}

// see takes over what a worker saw of the pod.
func (p *pod) see(s sight, now time.Time) {
	if p.failure = s.failure; s.failure != "" {
		if p.failures++; p.failures == 1 {
			p.silentSince = now
		}
		return
	}
	p.failures, p.viaAgent = 0, s.viaAgent
	p.listeners.see(s.listeners)
	for _, w := range p.watches {
		w.see(s.plugins, now)
		w.fetch.see(s.agent, now)
	}
}

// judge updates the verdicts and returns the owners of those that have changed.
func (p *pod) judge(now time.Time) sets.Set[types.NamespacedName] {
	changed := sets.New[types.NamespacedName]()
	for _, w := range p.watches {
		verdict := p.verdictOn(w, now)
		if verdict != w.verdict {
			changed.Insert(w.owner)
		}
		w.verdict = verdict
	}
	return changed
}

// count takes over the pod's traffic, after judge.
func (p *pod) count(seen *traffic) {
	for _, w := range p.watches {
		w.window.see(seen, w.verdict.Proven())
	}
}

func (p *pod) verdictOn(w *watch, now time.Time) Verdict {
	switch {
	case p.failures >= maxFailures:
		return Verdict{State: StateUnreachable, Failure: p.failure, Silent: now.Sub(p.silentSince) >= longSilence}
	case !w.looked:
		return Verdict{}
	case w.unsure():
		return w.verdict
	}
	verdict := Verdict{State: classify(w.plugin, w.rows), Crashing: crashing(w.plugin, w.rows, now)}
	if verdict.Proven() {
		verdict.StaleListeners = p.listeners.stale || p.listeners.doubtful && !w.proved
		return verdict
	}
	verdict.Fetch = w.fetch.verdict()
	verdict.Delivered = w.fetch.delivered(now)
	verdict.Untried = verdict.State == StateNotLoaded && w.fetch.asked && w.fetch.none() && p.listeners.refused == 0
	return verdict
}

// unsure reports whether the last answer had a plugin that is expected, and the one
// before did not.
func (p *pod) unsure() bool { return slices.ContainsFunc(p.watches, (*watch).unsure) }

func (w *watch) unsure() bool {
	return slices.ContainsFunc(w.rows, func(r row) bool { return r.plugin == w.plugin && !r.lasts })
}

// see picks the rows of this filter, in any revision, and notes which plugins have
// crashed since the last look. The first look cannot show that.
func (w *watch) see(plugins map[string]reloads, now time.Time) {
	rows := rowsOf(w.plugin, plugins)
	for i := range rows {
		before := rows[i].in(w.rows)
		rows[i].crashed, rows[i].lasts = before.crashed, before.plugin != ""
		if w.looked && rows[i].reloads.roseFrom(before.reloads) {
			rows[i].crashed = now
		}
	}
	w.rows, w.looked = rows, true
}

// in returns the row of the same plugin.
func (r row) in(rows []row) row {
	if i := slices.IndexFunc(rows, func(other row) bool { return other.plugin == r.plugin }); i >= 0 {
		return rows[i]
	}
	return row{}
}

// rowsOf returns the rows of the filter that a plugin belongs to: the plugin's own
// and, in order, those of other revisions. It returns maxRows at most.
func rowsOf(plugin string, plugins map[string]reloads) []row {
	var own, others []row
	for name, reloads := range plugins {
		switch relate(plugin, name) {
		case same:
			own = []row{{plugin: plugin, reloads: reloads}}
		case otherRevision:
			others = append(others, row{plugin: name, reloads: reloads})
		case unrelated:
		}
	}
	slices.SortFunc(others, func(a, b row) int { return strings.Compare(a.plugin, b.plugin) })
	rows := slices.Concat(own, others)
	return rows[:min(len(rows), maxRows)]
}
