package dataplane

import (
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
)

const (
	// maxFailures in a row make a pod unreachable.
	maxFailures = 4
	// maxRows of one filter are remembered: what it should run and what drains.
	maxRows = 4
	// crashMemory is how long after its last crash a plugin counts as crashing:
	// as long as the time between two probes can be.
	crashMemory = maxPeriod + minPeriod
)

// pod is what is known of a pod, and who wants to know.
type pod struct {
	Pod
	watches []*watch
	// failures in a row, and what the last one was.
	failures int
	failure  Failure
	// slow: it needs more time than the quick lane gives.
	slow bool
	// running: a worker asks it. Otherwise it is in a queue, until due.
	running bool
	due     time.Time
	// attempts since something changed.
	attempts int
	// tried: its Envoy was brought a plugin, of whomever, at some time.
	tried bool
}

// watch is what one owner wants to know of a pod.
type watch struct {
	owner   types.NamespacedName
	plugin  string
	explain bool
	verdict Verdict
	// looked: rows are those of the last answer.
	looked bool
	rows   []row
	fetch  fetches
	// round of Expect that last wanted it.
	round uint64
}

// row is a plugin that a pod shows.
type row struct {
	plugin  string
	reloads reloads
	crashed time.Time
	// lasts: it was in two answers, one after the other. The row of a plugin that
	// Envoy refuses is in one: Envoy clears it away as it is asked.
	lasts bool
}

// sight is what a worker saw of a pod.
type sight struct {
	// failure is empty when the pod answered; plugins is what it runs then.
	failure Failure
	page
	// agent is nil unless pilot-agent was asked and answered.
	agent *agentCounts
	// took is how long the answer took.
	took time.Duration
}

func (p *pod) watchOf(owner types.NamespacedName) *watch {
	for _, w := range p.watches {
		if w.owner == owner {
			return w
		}
	}
	return nil
}

// moveTo says whether the pod is somewhere else than before: then nothing is
// known of it.
func (p *pod) moveTo(place Pod) bool {
	if p.Pod == place {
		return false
	}
	p.Pod = place
	p.failures, p.failure, p.slow, p.tried = 0, "", false, false
	for _, w := range p.watches {
		w.looked, w.rows, w.fetch = false, nil, fetches{}
	}
	return true
}

// want says whether the target asks for more than before. What is known of a
// filter stays known when another revision of it is wanted.
func (w *watch) want(target Target) bool {
	news := w.plugin != target.Plugin || target.Explain && !w.explain
	if w.plugin != target.Plugin {
		w.fetch, w.verdict = fetches{}, Verdict{}
		w.looked = w.looked && relate(target.Plugin, w.plugin) != unrelated
		w.plugin = target.Plugin
	}
	w.explain = target.Explain
	return news
}

// unexplained are the plugins whose absence pilot-agent is to explain.
func (p *pod) unexplained() []string {
	var plugins []string
	for _, w := range p.watches {
		if w.explain && w.looked && !w.verdict.Proven() {
			plugins = append(plugins, w.plugin)
		}
	}
	return plugins
}

// settled: nothing more is to be found out.
func (p *pod) settled() bool {
	return p.failures == 0 && !slices.ContainsFunc(p.watches, func(w *watch) bool {
		return w.verdict.State != StateLoaded
	})
}

// see takes over what a worker saw.
func (p *pod) see(s sight, now time.Time) {
	if p.failure = s.failure; s.failure != "" {
		p.failures++
		return
	}
	p.failures, p.tried = 0, s.tried
	for _, w := range p.watches {
		w.see(s.plugins, now)
		w.fetch.see(s.agent)
	}
}

// judge brings the verdicts up to date and returns the owners for whom one is new.
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

func (p *pod) verdictOn(w *watch, now time.Time) Verdict {
	switch {
	case p.failures >= maxFailures:
		return Verdict{State: StateUnreachable, Failure: p.failure}
	case !w.looked:
		return Verdict{}
	case w.unsure():
		return w.verdict
	}
	verdict := Verdict{State: classify(w.plugin, w.rows), Crashing: crashing(w.plugin, w.rows, now)}
	if !verdict.Proven() {
		verdict.Fetch = w.fetch.verdict()
		verdict.Untried = verdict.State == StateNotLoaded && !p.tried
	}
	return verdict
}

// unsure: a plugin that is wanted was in the last answer, and not in the one before.
func (p *pod) unsure() bool { return slices.ContainsFunc(p.watches, (*watch).unsure) }

func (w *watch) unsure() bool {
	return slices.ContainsFunc(w.rows, func(r row) bool { return r.plugin == w.plugin && !r.lasts })
}

// see picks the rows of this filter, whatever the revision, and notices which
// of them have crashed since the last look. At the first look nobody can tell.
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

// in finds the row of the same plugin.
func (r row) in(rows []row) row {
	if i := slices.IndexFunc(rows, func(other row) bool { return other.plugin == r.plugin }); i >= 0 {
		return rows[i]
	}
	return row{}
}

// rowsOf are the rows of the filter that a plugin belongs to: the plugin's own
// and, in order, those of other revisions, no more than a mesh can show.
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
