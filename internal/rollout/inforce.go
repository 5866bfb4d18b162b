package rollout

import (
	"cmp"
	"slices"
	"strings"

	apimeta "k8s.io/apimachinery/pkg/api/meta"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/revision"
)

// Standing says whether the revision in force is the one that the spec asks for.
type Standing int

const (
	// Current means that it is.
	Current Standing = iota
	// LastGood means that the spec cannot be resolved.
	LastGood
	// Distributing means that the replicas of the operator are copying the module
	// of the revision that the spec asks for.
	Distributing
	// RolledBack means that the rollout of the revision that the spec asks for failed.
	RolledBack
	// Withdrawn means that the revision that the spec asks for was barred while its rollout was
	// under way.
	Withdrawn
)

// NeedsDistribution reports whether every replica of the operator has to serve
// the module of Asked before proxies may ask for it. Proxies that have the
// module already need not wait, unless outputs are to name another URL, nor does
// what was in force before, which the history may lack: the cache has not seen its
// revision yet.
func (s *State) NeedsDistribution() bool {
	if s.Asked == nil {
		return false
	}
	if s.rendersElsewhere() {
		return true
	}
	held := s.held()
	return !held(s.Asked.Hash) && !slices.ContainsFunc(s.History, func(known revision.Revision) bool {
		return known.Module.SHA256 == s.Asked.Module.SHA256 && held(known.Hash)
	})
}

// rendersElsewhere reports whether outputs are to be rendered anew: they may name another URL.
func (s *State) rendersElsewhere() bool {
	if !s.staged() {
		return false
	}
	for _, output := range s.Outputs {
		fingerprint, _, _ := strings.Cut(output.Rendering.Fingerprint, "+")
		if fingerprint != "" && fingerprint != s.Rendering {
			return true
		}
	}
	return false
}

// withdraws reports whether the revision of a rollout that is under way is barred.
func (s *State) withdraws() bool {
	rollout := s.Status.Rollout
	return rollout != nil && rollout.To == s.Barred && underWay(rollout)
}

// underWay reports whether proxies may still be told to go back from the revision of a rollout.
func underWay(r *wasmev1.RolloutStatus) bool {
	return r.From != r.To && r.Phase != wasmev1.RolloutComplete
}

// failed reports whether a rollout ended because a step was bad.
func failed(r *wasmev1.RolloutStatus) bool {
	return r.Phase == wasmev1.RolloutRolledBack || r.Phase == wasmev1.RolloutHeld
}

// supersedes reports whether the spec asks for another revision than that of a rollout that
// failed. While the revision is not known, the status tells by what it says of this generation.
func (s *State) supersedes(last *wasmev1.RolloutStatus) bool {
	switch {
	case last == nil || !failed(last):
		return false
	case s.Barred != "":
		return s.Barred != last.To
	case s.Asked != nil:
		return s.Asked.Hash != last.To
	}
	said := apimeta.FindStatusCondition(s.Status.Conditions, wasmev1.ConditionProgrammed)
	return said == nil || said.ObservedGeneration != s.Generation || said.Reason != wasmev1.ReasonRolledBack && said.Reason != wasmev1.ReasonRolloutHeld
}

// lastGood returns the revision that was in force before the one that the spec asks for, and is
// not barred; nil for none. A revision that outputs hold from an incomplete rollout does not
// count: proxies may refuse it.
func (s *State) lastGood() *revision.Revision {
	if !s.unfinished() {
		return s.newestHeld()
	}
	if base := s.base(); base != nil && base.Hash != s.Barred {
		return base
	}
	return nil
}

// ongoing returns the revision of a first rollout that outputs hold or try: it stays where it is,
// and begins nowhere else, while the spec cannot be resolved. It is nil for none, and when the
// rollout has failed or is barred.
func (s *State) ongoing() *revision.Revision {
	r := s.Status.Rollout
	if !s.unfinished() || failed(r) || r.To == s.Barred || !s.Outputs.have(r.To) {
		return nil
	}
	return s.kept(r.To)
}

// newestHeld returns the newest revision of the history that was in force before, and is not
// barred; nil for none. A revision is kept in the history before proxies may have it, so the
// newest one of all may be one that no proxy has ever had.
func (s *State) newestHeld() *revision.Revision {
	held := s.held()
	for i := range s.History {
		if hash := s.History[i].Hash; held(hash) && hash != s.Barred {
			return &s.History[i]
		}
	}
	return nil
}

// held returns whether a revision was in force before, by its hash.
func (s *State) held() func(hash string) bool {
	held := s.Outputs.Revisions().Insert(s.Status.Revision)
	return held.Has
}

// inForce returns the revision that the outputs are to hold; nil for none. Until
// every replica can serve the module of a new one, it is what they held so far,
// which is still repaired and still reaches new workloads.
func (s *State) inForce(rollout *wasmev1.RolloutStatus) (*revision.Revision, Standing) {
	switch {
	case s.Blocked.Reason != "":
		return s.lastGood(), Current
	case rollout != nil && rollout.Phase == wasmev1.RolloutRolledBack:
		return s.kept(rollout.From), RolledBack
	case s.withdraws() && rollout != nil:
		return s.kept(rollout.From), Withdrawn
	case s.withdraws():
		return cmp.Or(s.kept(s.Status.Rollout.From), s.newestHeld()), LastGood
	case s.Asked == nil:
		return cmp.Or(s.lastGood(), s.ongoing()), LastGood
	case s.Distributed:
		return s.Asked, Current
	}
	return s.lastGood(), Distributing
}
