package dataplane

import (
	"slices"
	"strings"
	"time"
)

// State says what a pod runs of a filter.
type State string

const (
	// StateUnknown means: the pod has not answered yet.
	StateUnknown State = ""
	// StateLoaded means: it runs the plugin.
	StateLoaded State = "Loaded"
	// StateDraining means: it runs the plugin, and another revision of the filter until
	// the connections of a former listener have ended, which takes 45 s at most.
	StateDraining State = "Draining"
	// StateOtherRevision means: it runs the filter, but only in another revision.
	StateOtherRevision State = "OtherRevision"
	// StateNotLoaded means: it does not run the filter in any revision.
	StateNotLoaded State = "NotLoaded"
	// StateUnreachable means: it could not be asked several times in a row.
	StateUnreachable State = "Unreachable"
)

// Fetch says whether it is the module's download that keeps a plugin away.
// pilot-agent counts for all plugins of its pod in one.
type Fetch string

const (
	// FetchUnknown means: pilot-agent was not asked, or did not answer.
	FetchUnknown Fetch = ""
	// FetchClean means: none has failed since the pod started. So Envoy refused the
	// plugin, or has no listener for it.
	FetchClean Fetch = "Clean"
	// FetchFailedBefore means: one has failed, for this plugin or another, at some time
	// before pilot-agent was asked for the first time.
	FetchFailedBefore Fetch = "FailedBefore"
	// FetchFailed means: one has failed while this plugin was awaited.
	FetchFailed Fetch = "Failed"
)

// Verdict is what is known of a target. Verdicts can be compared with ==.
type Verdict struct {
	// State says what the pod runs of the filter.
	State State
	// Crashing: the plugin's VM has crashed in the last minutes. Envoy shows that
	// only of plugins that it reloads (FAIL_RELOAD). While the plugin is not
	// loaded, it is another revision of the filter that crashes.
	Crashing bool
	// Failure says why a pod is unreachable.
	Failure Failure
	// Fetch is for a target with Explain whose plugin is not loaded.
	Fetch Fetch
	// Untried: the plugin is not loaded, and no other was ever brought to this
	// Envoy. So it has no HTTP listener that the plugin could stand in, or was
	// not told of it; what it refused it would have tried.
	Untried bool
}

// Proven says that the pod runs the plugin.
func (v Verdict) Proven() bool {
	return v.State == StateLoaded || v.State == StateDraining
}

// classify compares the rows of a filter with the plugin that is wanted.
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

// crashing is about the plugin that is wanted, once it is there: what drains
// may crash.
func crashing(plugin string, rows []row, now time.Time) bool {
	loaded := shows(plugin, rows)
	return slices.ContainsFunc(rows, func(r row) bool {
		return (r.plugin == plugin || !loaded) && !r.crashed.IsZero() && now.Sub(r.crashed) < crashMemory
	})
}

// relation of a row to a plugin that is wanted.
type relation int

const (
	unrelated relation = iota
	same
	otherRevision
)

// translatedMarker ends the names of the plugins that Istio, from 1.30, makes of
// WasmPlugins by way of a TrafficExtension.
const translatedMarker = "~istio-translated-wasmplugin"

// maxRevision is the longest revision in a plugin's name, in hexadecimal digits.
const maxRevision = 64

// relate tells how a plugin that a pod shows stands to one that it should run.
// The shown name may be sanitised, where Istio's rule for wasm_filter did not
// apply.
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

// sanitised is a name as Envoy writes it into the name of a Prometheus metric.
func sanitised(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '_':
			return r
		}
		return '_'
	}, name)
}

// fetches follow pilot-agent's count of failed fetches while a plugin is awaited.
type fetches struct {
	asked       bool
	first, last uint64
}

func (f *fetches) see(agent *agentCounts) {
	switch {
	case agent == nil:
		return
	case !f.asked:
		f.first = agent.failedFetches
	case agent.failedFetches < f.last:
		// pilot-agent started again, and counts from zero.
		f.first = 0
	}
	f.asked, f.last = true, agent.failedFetches
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
