package dataplane

import (
	"slices"
	"strings"
	"time"
)

// State says what a pod runs of a filter.
type State string

const (
	// StateUnknown says that the pod has not answered yet.
	StateUnknown State = ""
	// StateLoaded says that it runs the plugin.
	StateLoaded State = "Loaded"
	// StateDraining says that it runs the plugin, and also another revision of the filter
	// until the connections of a former listener have ended, which takes 45 s at most.
	StateDraining State = "Draining"
	// StateOtherRevision says that it runs the filter, but only in another revision.
	StateOtherRevision State = "OtherRevision"
	// StateNotLoaded says that it does not run the filter in any revision.
	StateNotLoaded State = "NotLoaded"
	// StateUnreachable says that it did not answer several times in a row.
	StateUnreachable State = "Unreachable"
)

// Fetch says whether a plugin is missing because its module could not be fetched.
// pilot-agent has one count for all plugins of its pod.
type Fetch string

const (
	// FetchUnknown says that pilot-agent was not asked, or did not answer.
	FetchUnknown Fetch = ""
	// FetchClean says that no fetch has failed since the pod started. So Envoy refused
	// the plugin, or has no listener for it.
	FetchClean Fetch = "Clean"
	// FetchFailedBefore says that a fetch has failed, for this plugin or another, at some
	// time before pilot-agent was asked for the first time.
	FetchFailedBefore Fetch = "FailedBefore"
	// FetchFailed says that a fetch has failed since this plugin is expected.
	FetchFailed Fetch = "Failed"
)

// Verdict is what is known of a target. Verdicts can be compared with ==.
type Verdict struct {
	// State says what the pod runs of the filter.
	State State
	// Crashing says that the plugin's VM has crashed in the last minutes. Envoy shows this
	// only for plugins that it reloads (FAIL_RELOAD). While the plugin is not loaded, it
	// is another revision of the filter that crashes.
	Crashing bool
	// Failure says why a pod is unreachable.
	Failure Failure
	// Silent says that a pod that is unreachable has not answered for 30 s.
	Silent bool
	// Fetch is set for a target with Explain whose plugin is not loaded.
	Fetch Fetch
	// Untried says that the plugin is not loaded, and that pilot-agent has passed no
	// plugin on since it started, nor has Envoy refused any listener. So this Envoy has
	// no HTTP listener for the plugin, or istiod has not sent it the plugin. If it had
	// refused the plugin, it would have received it. It is set for a target with Explain
	// only.
	Untried bool
	// Delivered says that the plugin is not loaded, although pilot-agent passed plugins on
	// after it was asked about this one for the first time, and Envoy had some seconds for
	// them. What istiod sent before that does not show. It is set for a target with Explain
	// only.
	Delivered bool
	// StaleListeners says that the plugin is loaded, and that Envoy has refused its
	// newest listeners, or may have: before it was asked for the first time, without
	// ProvedBefore. Its former ones may have filters that were deleted. istiod does not
	// send the new ones again before the next change.
	StaleListeners bool
}

// Proven reports whether the pod runs the plugin.
func (v Verdict) Proven() bool {
	return v.State == StateLoaded || v.State == StateDraining
}

// classify returns the state that follows from the rows of a filter, for the plugin that
// is expected.
func classify(plugin string, rows []row) State {
	others := slices.ContainsFunc(rows, func(r row) bool { return r.plugin != plugin })
	switch loaded := slices.ContainsFunc(rows, func(r row) bool { return r.plugin == plugin && r.lasts }); {
	case loaded && others:
		return StateDraining
	case loaded:
		return StateLoaded
	case others:
		return StateOtherRevision
	default:
		return StateNotLoaded
	}
}

func shows(plugin string, rows []row) bool {
	return slices.ContainsFunc(rows, func(r row) bool { return r.plugin == plugin })
}

// crashing reports whether the plugin that is expected crashes. Once it is there, crashes
// of a revision that is draining do not count.
func crashing(plugin string, rows []row, now time.Time) bool {
	loaded := shows(plugin, rows)
	return slices.ContainsFunc(rows, func(r row) bool {
		return (r.plugin == plugin || !loaded) && now.Sub(r.crashed) < crashMemory // that it never crashed is long ago
	})
}

// relation is how a row is related to a plugin that is expected.
type relation int

const (
	unrelated relation = iota
	same
	otherRevision
)

// translatedMarker ends the names of the plugins of WasmPlugins that Istio, since 1.30,
// turns into TrafficExtensions.
const translatedMarker = "~istio-translated-wasmplugin"

// maxRevision is the longest revision in a plugin's name, in hexadecimal digits.
const maxRevision = 64

// relate returns how a plugin that a pod shows is related to the one that it should run.
// The shown name is sanitised where Istio's rule for wasm_filter did not apply.
func relate(wanted, shown string) relation {
	switch shown {
	case wanted, sanitised(wanted), sanitised(wanted + translatedMarker):
		return same
	}
	at := strings.LastIndexByte(wanted, '@')
	if at < 0 {
		return unrelated
	}
	base := wanted[:at+1]
	for _, prefix := range []string{base, sanitised(base)} {
		if revision, found := strings.CutPrefix(shown, prefix); found && isRevision(revision) {
			return otherRevision
		}
	}
	return unrelated
}

func isRevision(s string) bool {
	return s != "" && len(s) <= maxRevision && strings.Trim(s, "0123456789abcdef") == ""
}

// sanitised returns a name as Envoy writes it into the name of a Prometheus metric.
func sanitised(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, name)
}

// fetches follows pilot-agent's count of failed fetches while a plugin is missing.
type fetches struct {
	asked       bool
	first, last uint64
	// passed is how many plugins it had passed on when it was asked first, and all the last
	// time. Since is when there were more than at first.
	passed, all uint64
	since       time.Time
}

// deliveryTime is how long an Envoy may take for plugins whose modules its agent has fetched.
const deliveryTime = 5 * time.Second

func (f *fetches) see(agent *agentCounts, now time.Time) {
	switch {
	case agent == nil:
		return
	case !f.asked:
		f.first, f.passed = agent.failedFetches, agent.plugins
	case agent.failedFetches < f.last, agent.plugins < f.all:
		// pilot-agent has restarted and counts from zero.
		f.first, f.passed = 0, 0
	}
	f.asked, f.last, f.all = true, agent.failedFetches, agent.plugins
	if f.since.IsZero() && f.all > f.passed {
		f.since = now
	}
}

// none reports whether no plugin was fetched or passed on.
func (f *fetches) none() bool { return f.all == 0 }

// delivered reports whether plugins were passed on between two questions, some time ago.
func (f *fetches) delivered(now time.Time) bool {
	return !f.since.IsZero() && now.Sub(f.since) >= deliveryTime
}

func (f *fetches) verdict() Fetch {
	switch {
	case !f.asked:
		return FetchUnknown
	case f.last == 0:
		return FetchClean
	case f.last > f.first:
		return FetchFailed
	}
	return FetchFailedBefore
}

// listeners follows an Envoy's updates of listeners.
type listeners struct {
	listenerCounts
	// stale says that the last update was refused, and doubtful that some were refused
	// before the first look, after which none was accepted.
	stale, doubtful bool
}

// see takes over what a page shows. Of updates between two looks, some accepted and
// some refused, the order is not known: the last one counts as refused, which ends when
// istiod is made to send them again.
func (l *listeners) see(now listenerCounts) {
	if !now.shown {
		return
	}
	switch before := l.listenerCounts; {
	case !before.shown, now.refused < before.refused:
		l.stale, l.doubtful = false, now.refused > 0
	case now.refused > before.refused:
		l.stale = true
	case now.accepted != before.accepted:
		l.stale, l.doubtful = false, false
	}
	l.listenerCounts = now
}
