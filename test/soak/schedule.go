package main

import (
	"math/rand/v2"
	"slices"
	"time"
)

// kind of fault.
type kind string

// The kinds of fault.
const (
	registryDown  kind = "registry down"
	registrySlow  kind = "registry slow"
	registryBusy  kind = "registry answers 429"
	registryFails kind = "registry answers 500"

	replicaKilled  kind = "replica killed"
	replicaStopped kind = "replica stopped"
	replicaPaused  kind = "replica paused"
	replicaHung    kind = "replica hung" // for longer than it may lead without renewing its lease
	clockAhead     kind = "clock ahead"

	apiServerKilled kind = "API server killed"
	apiServerPaused kind = "API server paused"
	apiServerAway   kind = "API server away" // for longer than a leader waits for it
	apiServerHung   kind = "API server hung" // the same, with its connections open
	istiodKilled    kind = "istiod killed"
	istiodPaused    kind = "istiod paused"

	sidecarKilled   kind = "sidecar killed"
	podAdded        kind = "pod added"
	workloadAdded   kind = "workload added"
	outputEdited    kind = "output edited"
	outputUnlabeled kind = "output unlabelled"
	outputDeleted   kind = "output deleted"

	configurationChanged kind = "configuration changed"
	configurationRefused kind = "configuration refused"
	revisionRefused      kind = "revision refused" // by pods, past the preflight
	imageChanged         kind = "image changed"
	tagMoved             kind = "tag moved"
	tagBroken            kind = "tag broken"
	filterSuspended      kind = "filter suspended"
	filterRecreated      kind = "filter recreated"
)

// fault is something that goes wrong, or that a user does, on one target. It
// begins some time after the round does.
type fault struct {
	Kind   kind
	Target string
	At     time.Duration
	For    time.Duration
	// Lasts keeps it under way until the next round begins: the checkpoint finds it.
	Lasts bool
}

// recipe says how faults of a kind are drawn.
type recipe struct {
	kind kind
	// weight is how likely it is beside the others.
	weight int
	// targets are those that it can have, of which it gets one.
	targets []string
	// busy are further targets that nothing else may happen to in the meantime.
	busy []string
	// least and most bound how long it takes.
	least, most time.Duration
	// ends is whether a replica of the operator may end by it.
	ends bool
	// lasts is whether it may outlast the round.
	lasts bool
}

// The targets that there is one of.
const (
	theRegistry  = "registry"
	theAPIServer = "API server"
	theIstiod    = "istiod"
	leader       = "leader"
	follower     = "follower"
	skewed       = "replica-1" // the one whose clock can be wrong
	extra        = "extra"     // a workload that comes and goes
	wide         = "wide"      // a workload with several pods
)

const (
	// roundTime is how long faults begin and end, before all that was done has to come to rest.
	roundTime = 40 * time.Second
	// mostFaults and leastFaults bound the number of faults of a round, and attempts how
	// often one is drawn that has no place beside the others.
	leastFaults, mostFaults, attempts = 3, 7, 100
)

// recipes are the faults that can happen to these pods and filters. A leader ends when it was
// without the API server for 8 s, which takes longer than that to start on a busy machine, and
// when it did not renew its lease for 12 s.
func recipes(pods, filters, pulled []string) []recipe {
	const s = time.Second
	replicas := []string{leader, follower}
	cluster := []string{theAPIServer, theIstiod}         // what a new pod cannot do without
	reached := slices.Concat(cluster, []string{ofExtra}) // nor a new workload, which a suspended filter does not reach
	return []recipe{
		{kind: registryDown, weight: 2, targets: []string{theRegistry}, least: 3 * s, most: 20 * s},
		{kind: registrySlow, weight: 2, targets: []string{theRegistry}, least: 5 * s, most: 20 * s},
		{kind: registryBusy, weight: 2, targets: []string{theRegistry}, least: 3 * s, most: 20 * s},
		{kind: registryFails, weight: 2, targets: []string{theRegistry}, least: 3 * s, most: 20 * s},
		{kind: replicaKilled, weight: 6, targets: replicas, least: s, most: 12 * s, ends: true},
		{kind: replicaStopped, weight: 4, targets: replicas, least: s, most: 12 * s, ends: true},
		{kind: replicaPaused, weight: 4, targets: replicas, least: s, most: 6 * s},
		{kind: replicaHung, weight: 3, targets: replicas, least: 14 * s, most: 25 * s, ends: true},
		{kind: clockAhead, weight: 2, targets: []string{skewed}, busy: replicas, least: 10 * s, most: 20 * s, ends: true},
		{kind: apiServerKilled, weight: 2, targets: []string{theAPIServer}, least: s, most: 4 * s, ends: true},
		{kind: apiServerPaused, weight: 2, targets: []string{theAPIServer}, least: s, most: 5 * s},
		{kind: apiServerAway, weight: 2, targets: []string{theAPIServer}, least: 10 * s, most: 20 * s, ends: true},
		{kind: apiServerHung, weight: 2, targets: []string{theAPIServer}, least: 10 * s, most: 20 * s, ends: true},
		{kind: istiodKilled, weight: 3, targets: []string{theIstiod}, least: s, most: 15 * s},
		{kind: istiodPaused, weight: 3, targets: []string{theIstiod}, least: s, most: 15 * s},
		{kind: sidecarKilled, weight: 6, targets: pods, least: s, most: 8 * s},
		{kind: podAdded, weight: 4, targets: []string{wide}, busy: cluster, least: 10 * s, most: 25 * s},
		{kind: workloadAdded, weight: 3, targets: []string{extra}, busy: reached, least: 10 * s, most: 25 * s},
		{kind: outputEdited, weight: 3, targets: filters},
		{kind: outputUnlabeled, weight: 2, targets: filters},
		{kind: outputDeleted, weight: 3, targets: filters},
		{kind: configurationChanged, weight: 8, targets: filters},
		{kind: configurationRefused, weight: 4, targets: pulled, least: 5 * s, most: 25 * s, lasts: true},
		{kind: revisionRefused, weight: 5, targets: pulled, least: 2 * s, most: 15 * s, lasts: true},
		{kind: imageChanged, weight: 4, targets: pulled},
		{kind: tagMoved, weight: 3, targets: pulled},
		{kind: tagBroken, weight: 3, targets: pulled, least: 8 * s, most: 25 * s, lasts: true},
		{kind: filterSuspended, weight: 2, targets: filters, least: 5 * s, most: 20 * s, lasts: true},
		{kind: filterRecreated, weight: 2, targets: filters, least: s, most: 5 * s},
	}
}

// plan returns the faults of a round, in the order in which they begin. It depends on
// nothing but its arguments. Nothing happens twice at one time to one target. With
// spare, no fault ends a replica of the operator: growth shows in a process that lives.
func plan(seed uint64, round int, spare bool, of []recipe) []fault {
	random := rand.New(rand.NewPCG(seed, uint64(round)))
	of = slices.DeleteFunc(slices.Clone(of), func(r recipe) bool { return spare && r.ends })
	var faults []fault
	taken := map[string][]span{}
	for count := leastFaults + random.IntN(mostFaults-leastFaults+1); len(faults) < count; {
		f, found := place(random, of, taken)
		if !found {
			break
		}
		faults = append(faults, f)
	}
	slices.SortStableFunc(faults, func(a, b fault) int { return int(a.At - b.At) })
	return faults
}

// span is a part of a round.
type span struct{ from, to time.Duration }

func (s span) meets(other span) bool { return s.from <= other.to && other.from <= s.to }

// apart is the least time between two things that happen to one target.
const apart = 2 * time.Second

// place draws a fault, and a time at which its targets are free, and takes it.
func place(random *rand.Rand, of []recipe, taken map[string][]span) (fault, bool) {
	for range attempts {
		r := draw(random, of)
		f := fault{Kind: r.kind, Target: r.targets[random.IntN(len(r.targets))], For: between(random, r.least, r.most)}
		f.At = between(random, 0, roundTime-f.For)
		f.Lasts = r.lasts && random.IntN(2) == 0
		when := span{f.At, f.At + f.For + apart}
		if f.Lasts {
			when.to = roundTime + apart
		}
		targets := append([]string{f.Target}, r.busy...)
		if slices.ContainsFunc(targets, func(t string) bool { return slices.ContainsFunc(taken[t], when.meets) }) {
			continue
		}
		for _, t := range targets {
			taken[t] = append(taken[t], when)
		}
		return f, true
	}
	return fault{}, false
}

// locked returns what nothing else may happen to during a fault, in order.
func (f fault) locked(of []recipe) []string {
	names := []string{f.Target}
	for _, r := range of {
		if r.kind == f.Kind {
			names = append(names, r.busy...)
		}
	}
	slices.Sort(names)
	return names
}

// draw returns one of the recipes, by their weights.
func draw(random *rand.Rand, of []recipe) recipe {
	sum := 0
	for _, r := range of {
		sum += r.weight
	}
	n := random.IntN(sum)
	for _, r := range of {
		if n -= r.weight; n < 0 {
			return r
		}
	}
	panic("the weights do not add up")
}

// between is a time of so many whole milliseconds at random.
func between(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N((most-least).Milliseconds()+1))*time.Millisecond
}
