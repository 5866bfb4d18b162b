package main

import (
	"slices"
	"time"
)

// symptom is how a request failed.
type symptom string

// The symptoms.
const (
	noAnswer   symptom = "no answer"           // refused, reset or cut
	denied     symptom = "403"                 // the sidecar has no module
	broken     symptom = "not 200"             // another status, such as 500 and 503 of a filter
	unfiltered symptom = "unfiltered"          // 200, past a filter that the workload has
	outdated   symptom = "older configuration" // than one that pods have proved, or one that nobody asked for
	misplaced  symptom = "filtered by another" // by a filter that the workload does not have
)

// symptoms lists all.
var symptoms = []symptom{noAnswer, denied, broken, unfiltered, outdated, misplaced}

// failure is a request that failed.
type failure struct {
	Began, Ended time.Time
	Pod          string
	Workload     string
	Symptom      symptom
	Detail       string
}

// Causes that are no faults, but follow from them.
const (
	// unservedStart is a sidecar that started while a replica did not serve modules. Its agent
	// may have given up.
	unservedStart kind = "sidecar started without modules"
	// refusedStart is a sidecar that started while its filter had a revision in the staging
	// slot that Envoy refuses.
	refusedStart kind = "sidecar started with a refused revision"
	// earlyStart is a sidecar that started while there was no FilterDeployment.
	earlyStart kind = "sidecar started before its filter"
	// unreached is a workload that is new, until its filter has reached it.
	unreached kind = "workload not reached yet"
)

// cause is a fault that began, as far as requests and rollouts may suffer from it.
type cause struct {
	Kind kind
	// Of are the names of what is hit: pods, workloads or filters; none: everything.
	Of []string
	// Begin and End; the zero End: it is under way.
	Begin, End time.Time
}

// rule says which symptoms a kind of cause explains, on what it hits, and for how long
// after its end.
type rule struct {
	kind     kind
	symptoms []symptom
	after    time.Duration
}

// rules is the whole table: what is not in it fails the run.
//
// No outage of the registry, the operator, the API server or istiod explains a failed
// request on a pod that runs: sidecars keep what they have. Nor does anything that a user
// asks for, be it good or refused. Nothing explains a status other than 200 or 403.
//
//   - A sidecar that is killed refuses connections until it answers again.
//   - One that starts while a replica is down or hangs may get no module: FailReload denies
//     requests until the operator has renewed the fetch.
//   - One that starts with a revision in its staging slot that Envoy refuses denies requests until
//     istiod has sent the revision that serves on its own: FailReload knows no last good one yet.
//   - An output that is edited or deleted by hand takes the filter off its workload. The cause
//     ends when the operator has repaired it, which repairTime bounds; istiod and Envoy need a
//     moment after that.
//   - A workload that is new has no filter until its output is there, which repairTime bounds, too.
//   - Without a FilterDeployment there is no filter. The cause ends when the new one is Ready; all
//     threads of a busy Envoy need a moment after that. A sidecar that started meanwhile goes on
//     without a filter until it has the module.
var rules = []rule{
	{sidecarKilled, []symptom{noAnswer}, time.Second},
	{unservedStart, []symptom{denied}, time.Second},
	{refusedStart, []symptom{denied}, time.Second},
	{outputEdited, []symptom{unfiltered}, 10 * time.Second},
	{outputDeleted, []symptom{unfiltered}, 10 * time.Second},
	{unreached, []symptom{unfiltered}, time.Second},
	{filterRecreated, []symptom{unfiltered}, 10 * time.Second},
	{earlyStart, []symptom{unfiltered}, time.Second},
}

// explain returns the first cause that explains a failure by the rules; nil for none. A request
// that began before a cause, and ended during it, may have suffered from it.
func explain(f failure, causes []cause) *cause {
	for i, c := range causes {
		for _, r := range rules {
			if r.kind == c.Kind && slices.Contains(r.symptoms, f.Symptom) && c.hits(f.Pod, f.Workload) && c.overlaps(f.Began, f.Ended, r.after) {
				return &causes[i]
			}
		}
	}
	return nil
}

// hits reports whether one of the names is what the cause is about.
func (c cause) hits(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return slices.Contains(c.Of, name) })
}

// overlaps reports whether the cause, and so long a time after it, has a moment in common with
// another time.
func (c cause) overlaps(from, to time.Time, after time.Duration) bool {
	return !to.Before(c.Begin) && (c.End.IsZero() || !from.After(c.End.Add(after)))
}

// underWay returns the causes that were under way at a time.
func underWay(causes []cause, at time.Time) []cause {
	var found []cause
	for _, c := range causes {
		if c.overlaps(at, at, 0) {
			found = append(found, c)
		}
	}
	return found
}

// impairments are the faults that keep a good revision from its pods, or the operator from its
// work, and for how long after their end: replicas elect a leader and fill their caches, sidecars
// reconnect to istiod, and watches come back a minute after an outage of the API server.
var impairments = map[kind]time.Duration{
	replicaKilled: 30 * time.Second, replicaStopped: 30 * time.Second, replicaPaused: 30 * time.Second, replicaHung: 30 * time.Second,
	clockAhead:   30 * time.Second,
	istiodKilled: 30 * time.Second, istiodPaused: 30 * time.Second,
	apiServerKilled: time.Minute, apiServerPaused: time.Minute, apiServerAway: time.Minute, apiServerHung: time.Minute,
}

// disturbances are the faults that hit a rollout in the pods and workloads that try it: they are
// away, come or go, or lose their output.
var disturbances = map[kind]time.Duration{
	sidecarKilled: 10 * time.Second, unservedStart: 10 * time.Second, refusedStart: 10 * time.Second, podAdded: 10 * time.Second, workloadAdded: 10 * time.Second,
	outputEdited: 10 * time.Second, outputUnlabeled: 10 * time.Second, outputDeleted: 10 * time.Second,
}

// impaired reports whether a fault may have kept the operator, or what it depends on, from its
// work at some moment of this time.
func impaired(causes []cause, from, to time.Time) bool {
	return slices.ContainsFunc(causes, func(c cause) bool {
		after, found := impairments[c.Kind]
		return found && c.overlaps(from, to, after)
	})
}

// explainsRollback reports whether a fault explains that a good revision was rolled back which
// was asked for and rejected at these times, from pods and workloads with these names.
func explainsRollback(causes []cause, names []string, asked, rejected time.Time) bool {
	return impaired(causes, asked, rejected) || slices.ContainsFunc(causes, func(c cause) bool {
		after, found := disturbances[c.Kind]
		return found && c.hits(names...) && c.overlaps(asked, rejected, after)
	})
}
