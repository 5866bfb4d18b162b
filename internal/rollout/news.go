package rollout

import (
	"cmp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
)

// Reasons of the events about workloads: their pods run the filter for the first
// time or again, do not run it (any more), or begin to crash. A new revision that
// loads is no such change.
const (
	EventLoaded    = "WorkloadLoaded"
	EventNotLoaded = "WorkloadNotLoaded"
	EventCrashing  = "WorkloadCrashing"
)

// activity is what the pods of a workload do.
type activity int

const (
	// unseen: nothing is known of them yet.
	unseen activity = iota
	running
	notRunning
	crashing
	// failing: the status says that something is wrong, and not which of the two.
	failing
)

var activityByState = map[wasmev1.WorkloadState]activity{
	wasmev1.WorkloadSucceeded: running,
	wasmev1.WorkloadFailed:    failing,
}

// Reported remembers what events last reported of the workloads of a
// FilterDeployment.
type Reported struct {
	// byWorkload is by the workloads' keys; others is for all that are not in it.
	byWorkload map[string]activity
	others     activity
}

// ReportedBy returns what a status reports: a restart of the operator is no
// news. The workloads that the status left out were fine.
func ReportedBy(status *wasmev1.FilterDeploymentStatus) *Reported {
	r := &Reported{byWorkload: map[string]activity{}}
	for key, workload := range status.Workloads {
		r.byWorkload[key] = activityByState[workload.State]
	}
	if status.Summary != nil && status.Summary.WorkloadsOmitted != nil {
		r.others = running
	}
	return r
}

// News is what events are to report.
type News []news

// news is a workload whose pods do something else than was reported last.
type news struct {
	workload string
	now      activity
	message  string
}

func (n news) event() string {
	switch n.now {
	case running:
		return EventLoaded
	case crashing:
		return EventCrashing
	default:
		return EventNotLoaded
	}
}

// Compare returns what a plan found that was not reported yet. It takes over what
// needs no event, and drops workloads that are gone.
func (r *Reported) Compare(p *Plan) News {
	if p.Workloads == nil || p.InForce == nil || !p.verifyPods {
		return nil
	}
	var found News
	reported := make(map[string]activity, len(p.Workloads))
	for i := range p.Workloads {
		w := &p.Workloads[i]
		before, known := r.byWorkload[w.Key()]
		if !known {
			before = r.others
		}
		now, message := w.activity()
		switch {
		case now == unseen || now == before || before == failing && now != running:
			reported[w.Key()] = cmp.Or(now, before)
		default:
			found = append(found, news{w.Key(), now, message})
			reported[w.Key()] = before // until it is reported
		}
	}
	r.byWorkload, r.others = reported, unseen
	return found
}

// Keep remembers that events reported the news.
func (r *Reported) Keep(reported News) {
	for _, n := range reported {
		r.byWorkload[n.workload] = n.now
	}
}

// activity returns what a workload's pods do; unseen while they load, there are
// none that count, or they do not answer: then what was reported stays.
func (w *Workload) activity() (activity, string) {
	v := loadedVerdict(w.Proofs, w.shape().OutputKind())
	switch {
	case v.Status == metav1.ConditionTrue && v.Reason == wasmev1.ReasonLoaded:
		return running, ""
	case v.Reason == wasmev1.ReasonCrashing:
		return crashing, v.Message
	case v.Status == metav1.ConditionFalse:
		return notRunning, v.Message
	default:
		return unseen, ""
	}
}

// Event is one event about workloads.
type Event struct{ Reason, Note string }

// Events returns one event for each reason, however many workloads there are:
// the problems first.
func (n News) Events() []Event {
	var events []Event
	for _, reason := range []string{EventCrashing, EventNotLoaded, EventLoaded} {
		changed := filtered(n, func(one news) bool { return one.event() == reason })
		if len(changed) == 0 {
			continue
		}
		note := condition.Enumerate(changed, "; ", func(one news) string { return strings.TrimSuffix(one.workload+": "+one.message, ": ") })
		if reason == EventLoaded {
			note = "the pods run the filter: " + note
		}
		events = append(events, Event{reason, note})
	}
	return events
}

// Renewals returns the keys of the workloads whose pods the plan tells to fetch
// the module again for the first time.
func (p *Plan) Renewals() []string {
	var keys []string
	for i := range p.Workloads {
		if w := &p.Workloads[i]; w.Renewed && w.Phase != Failed && w.Fetch.Renewals == 1 {
			keys = append(keys, w.Key())
		}
	}
	return keys
}
