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
)

// symptoms lists all.
var symptoms = []symptom{noAnswer, denied, broken, unfiltered, outdated}

// failure is a request that failed.
type failure struct {
	At       time.Time
	Pod      string
	Workload string
	Symptom  symptom
	Detail   string
}

// Causes that are no faults, but follow from them.
const (
	// unservedStart is a sidecar that started while a replica did not serve modules. Its agent
	// may have given up.
	unservedStart kind = "sidecar started without modules"
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
//   - An output that is edited or deleted by hand takes the filter off its workload. The cause
//     ends when the operator has repaired it; istiod and Envoy need a moment after that.
//   - Without a FilterDeployment there is no filter. The cause ends when the new one is Ready.
var rules = []rule{
	{sidecarKilled, []symptom{noAnswer}, time.Second},
	{unservedStart, []symptom{denied}, time.Second},
	{outputEdited, []symptom{unfiltered}, 10 * time.Second},
	{outputUnlabeled, []symptom{unfiltered}, 10 * time.Second},
	{outputDeleted, []symptom{unfiltered}, 10 * time.Second},
	{filterRecreated, []symptom{unfiltered}, time.Second},
}

// explain returns the first cause that explains a failure by the rules; nil for none.
func explain(f failure, causes []cause) *cause {
	for i, c := range causes {
		for _, r := range rules {
			if r.kind == c.Kind && slices.Contains(r.symptoms, f.Symptom) && c.hits(f) && c.covers(f.At, r.after) {
				return &causes[i]
			}
		}
	}
	return nil
}

// hits reports whether the pod of a failure, or its workload, is what the cause is about.
func (c cause) hits(f failure) bool {
	return slices.Contains(c.Of, f.Pod) || slices.Contains(c.Of, f.Workload)
}

func (c cause) covers(at time.Time, after time.Duration) bool {
	return !at.Before(c.Begin) && (c.End.IsZero() || !at.After(c.End.Add(after)))
}

// underWay are the causes that were under way at a time.
func underWay(causes []cause, at time.Time) []cause {
	var found []cause
	for _, c := range causes {
		if c.covers(at, 0) {
			found = append(found, c)
		}
	}
	return found
}

// rollbackCauses are the faults after which a good revision may be rolled back: pods
// cannot fetch its module in time, cannot be told of it, or go while they try it. A user
// would try it again, as the status says, and so does the soak.
var rollbackCauses = []kind{
	replicaKilled, replicaStopped, replicaPaused, replicaHung, clockAhead, apiServerAway, apiServerHung,
	istiodKilled, istiodPaused, sidecarKilled, podAdded, outputEdited, outputUnlabeled, outputDeleted,
}

// explainsRollback reports whether one of the causes does.
func explainsRollback(causes []cause) bool {
	return slices.ContainsFunc(causes, func(c cause) bool { return slices.Contains(rollbackCauses, c.Kind) })
}
