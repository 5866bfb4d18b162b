package rollout

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/revision"
)

// FuzzRollouts has something happen in each pass: each pair of bytes says what, and where. Then
// nothing more does, and the rollout must end: with the revision that the spec asks for, or, if
// proxies refuse that, with the one before. On the way, proxies refuse a revision beside the
// one that they run, and only in the first workload that tries it.
func FuzzRollouts(f *testing.F) {
	for seed := range uint64(100) {
		random := rand.New(rand.NewPCG(seed, 0))
		happenings := make([]byte, 2*(5+random.IntN(40)))
		for i := range happenings {
			happenings[i] = byte(random.Uint32())
		}
		f.Add(happenings)
	}
	f.Fuzz(func(t *testing.T, happenings []byte) {
		s := newTrial(t)
		for pair := range slices.Chunk(happenings[:min(len(happenings), 400)], 2) {
			s.happening(pair[0], pair[len(pair)-1])
		}
		s.ends()
	})
}

// trial is a story with proxies: they refuse some revisions, and take all others.
type trial struct {
	*story
	revisions int
	// refused are the hashes of the revisions that proxies refuse, but for those that
	// were complete when no pod could refuse them. firsts are the workloads that tried them.
	refused sets.Set[string]
	firsts  map[string]string
	// complete are the hashes of the revisions that all workloads ran once.
	complete sets.Set[string]
	retried  string
	// barred is the revision that the spec asks for while a policy refuses it.
	barred *revision.Revision
	// silent are the names of the pods that do not answer. Once there were some, or the strategy
	// was Immediate, a revision may go live that proxies refuse. Once writes failed, more
	// workloads may try one.
	silent                                 sets.Set[string]
	everSilent, everImmediate, everFailing bool
	// ahead is by how much the clock of the replica that leads is ahead.
	ahead time.Duration
}

func newTrial(t *testing.T) *trial {
	t.Helper()
	s := &trial{story: newStory(t, target("a", 3), target("b", 1), target("c", 2)), refused: sets.New[string](), complete: sets.New[string](), firsts: map[string]string{}, silent: sets.New[string]()}
	s.failures = map[string]error{}
	s.state.Strategy = Strategy{Staged: true, BakeTime: defaultBakeTime, MaxPods: MaxLoadingPods}
	s.asksNew(false)
	s.passes("a first apply", true)
	return s
}

func (s *trial) asksNew(bad bool) {
	s.revisions++
	s.state.Generation++
	s.state.Barred, s.barred = "", nil
	asked := s.asks("aa", small, strings.Repeat("x", s.revisions))
	if bad {
		s.refused.Insert(asked.Hash)
	}
}

// happening makes what the first byte says happen, where the second one says, and then a pass.
func (s *trial) happening(kind, where byte) {
	what, lost, answers := "", false, where%4 != 0
	state, undo := s.state, func() {}
	place := int(where>>2) % len(s.state.Targets)
	t := &s.state.Targets[place]
	switch kind % 25 {
	case 0, 1, 2:
		s.later([]time.Duration{time.Second, defaultBakeTime, LoadTimeout + time.Second}[kind%25])
		what = "time passes"
	case 3:
		s.asksNew(false)
		what = "another revision"
	case 4, 5:
		s.asksNew(true)
		what = "a revision that proxies refuse"
	case 6:
		what = "pods are not Ready any more: " + t.Name
		for _, pod := range t.Pods {
			t.Unready = append(t.Unready, Unready{Name: pod.Name, Created: noon.Add(-time.Hour), Since: s.state.Now.Add(-s.ahead)})
		}
		t.Pods = nil
	case 7:
		what = "pods are Ready: " + t.Name
		s.becomeReady(t)
	case 8:
		what = "a pod is gone: " + t.Name
		t.Pods = t.Pods[:max(0, len(t.Pods)-1)]
	case 9:
		what = "a workload comes or goes"
		if len(s.state.Targets) > 3 {
			s.state.Targets = s.state.Targets[:3]
		} else {
			s.state.Targets = append(s.state.Targets, target("d", place))
		}
	case 10:
		what = "writes fail, or no more: " + t.Name
		s.everFailing = true
		if name := t.Name + "-f"; s.failures[name] != nil {
			delete(s.failures, name)
		} else {
			s.failures[name] = errors.New("injected")
		}
	case 11:
		what = "another replica takes over"
		s.takeOver()
	case 12:
		what = "a replica takes over whose clock is ahead"
		s.takeOver()
		s.ahead = 6 * time.Hour
		s.later(s.ahead)
	case 13:
		what, lost = "the status is not written", true
	case 14:
		what = "pods are silent, or no more: " + t.Name
		s.everSilent = true
		for _, pod := range t.Pods {
			if s.silent.Has(pod.Name) {
				s.silent.Delete(pod.Name)
			} else {
				s.silent.Insert(pod.Name)
			}
		}
	case 15:
		what = "the rollout is paused, or goes on"
		s.state.Strategy.Paused = !s.state.Strategy.Paused
	case 16:
		what = "the revision is tried again"
		s.retry()
	case 17:
		what = "the module is copied, or was"
		s.state.Distributed = !s.state.Distributed
	case 18:
		what = "a policy refuses the revision, or no more"
		s.bars()
	case 19:
		what = "another version of the operator"
		s.state.Rendering += "'"
	case 20:
		what = "another strategy"
		s.state.Strategy.CanaryPods = place
		s.state.Strategy.Hold = where%8 == 0
		s.state.Strategy.BakeTime = time.Duration(where%3) * defaultBakeTime
		s.state.Strategy.Staged = where%16 != 1
		s.everImmediate = s.everImmediate || !s.state.Strategy.Staged
	case 21:
		what = "the spec cannot be resolved now"
		s.state.Asked, undo = nil, func() { s.state.Asked = state.Asked }
	case 22:
		what = "policies cannot be asked now"
		s.state.Asked, s.state.Barred = nil, ""
		undo = func() { s.state.Asked, s.state.Barred = state.Asked, state.Barred }
	case 23, 24:
		what = "no output can be written now"
		s.state.Blocked, s.state.Outputs = condition.False(wasmev1.ReasonOutputKindMissing, "blocked"), nil
		if kind%25 == 24 {
			s.state.Targets = nil
		}
		undo = func() {
			s.state.Blocked, s.state.Outputs, s.state.Targets = state.Blocked, state.Outputs, state.Targets
		}
	}
	before := *s.state.Status.DeepCopy()
	s.passes(what, answers)
	if lost {
		s.state.Status = before
	}
	undo()
}

// takeOver has another replica lead: it has not heard of any pod.
func (s *trial) takeOver() {
	s.later(-s.ahead)
	s.ahead = 0
	for i := range s.state.Targets {
		for j := range s.state.Targets[i].Pods {
			s.state.Targets[i].Pods[j].Seen = dataplane.Seen{}
		}
	}
}

// becomeReady has all pods of a workload that there ever were be Ready.
func (s *trial) becomeReady(t *Target) {
	t.Unready = nil
	whole := target(t.Name, max(3, len(t.Pods)))
	for i := range whole.Pods {
		whole.Pods[i].ReadySince = s.state.Now.Add(-s.ahead)
	}
	copy(whole.Pods, t.Pods)
	t.Pods = whole.Pods
}

// bars has a policy refuse the revision that the spec asks for, or no policy any more.
func (s *trial) bars() {
	clear(s.firsts)
	if s.barred != nil {
		s.state.Asked, s.state.Barred, s.barred = s.barred, "", nil
		return
	}
	s.barred = s.state.Asked
	s.story.bars()
}

func (s *trial) retry() {
	if r := s.state.Status.Rollout; r != nil && failed(r) {
		s.state.Strategy.Retry = nextRetry(r)
	}
}

// passes makes a pass, and has pods answer what they run and try then.
func (s *trial) passes(what string, answers bool) {
	s.Helper()
	before := maps.Clone(s.state.Outputs)
	s.happens(what)
	if r := s.state.Status.Rollout; r != nil && r.Retried != s.retried {
		s.retried = r.Retried
		clear(s.firsts)
	}
	for key, output := range s.state.Outputs {
		s.judges(key, before[key].Revision, output)
		s.wants(key, before[key], output)
	}
	for tried := range s.firsts {
		if !s.state.Outputs.have(tried) {
			delete(s.firsts, tried) // it was taken back
		}
	}
	for key, output := range before {
		if s.complete.Has(output.Revision) && s.state.Outputs[key].Revision == "" && s.podsOf(output) > 0 {
			s.stop("%s served revision %s, which was complete, and serves none now", key, output.Revision)
		}
	}
	switch r := s.state.Status.Rollout; {
	case r == nil:
	case r.Phase == wasmev1.RolloutComplete:
		s.refused.Delete(r.To)
		s.complete.Insert(r.To)
	case s.state.runsEverywhere(r):
		s.refused.Delete(r.To)
	}
	if answers {
		s.answer()
	}
}

// judges looks at what an output holds now.
func (s *trial) judges(key OutputKey, served string, output Output) {
	s.Helper()
	if s.refused.Has(output.Revision) && served != output.Revision && s.podsOf(output) > 0 && !s.everSilent && !s.everImmediate {
		s.stop("%s serves revision %s, which its proxies refuse", key, output.Revision)
	}
	tried := output.Staged.Revision
	if !s.refused.Has(tried) {
		return
	}
	first, found := s.firsts[tried]
	if !found || s.gone(first) {
		s.firsts[tried] = output.Workload
	} else if first != output.Workload && !s.everSilent && !s.everImmediate && !s.everFailing {
		s.stop("%s tries revision %s, which %s refuses", key, tried, first)
	}
}

// wants looks at whether an output newly holds or tries what it must not: what a policy refuses,
// or a rollout has rejected.
func (s *trial) wants(key OutputKey, before, output Output) {
	s.Helper()
	barred, rejected := "", ""
	if s.barred != nil {
		barred = s.barred.Hash
	}
	if r := s.state.Status.Rollout; r != nil && failed(r) {
		rejected = r.To
	}
	for _, one := range []struct{ before, now string }{{before.Revision, output.Revision}, {before.Staged.Revision, output.Staged.Revision}} {
		if one.now != one.before && one.now != "" && (one.now == barred && !s.complete.Has(barred) || one.now == rejected) {
			s.stop("%s newly has revision %s, which is barred or rejected", key, one.now)
		}
	}
}

// podsOf returns the number of Ready pods of an output's workload.
func (s *trial) podsOf(output Output) int {
	for _, t := range s.state.Targets {
		if workloadNote(t.Target) == output.Workload {
			return len(t.Pods)
		}
	}
	return 0
}

// gone reports whether nothing is left of a workload that could refuse a revision.
func (s *trial) gone(workload string) bool {
	return !slices.ContainsFunc(s.state.Targets, func(t Target) bool {
		return workloadNote(t.Target) == workload && len(t.Pods)+len(t.Unready) > 0
	})
}

// answer has the pods say what they run and try.
func (s *trial) answer() {
	for i := range s.state.Targets {
		t := &s.state.Targets[i]
		for j := range t.Pods {
			for seen := &t.Pods[j].Seen; seen != nil && seen.Plugin != ""; seen = seen.Other {
				seen.Verdict = s.verdict(t, t.Pods[j].Name, seen.Plugin)
			}
		}
	}
}

func (s *trial) verdict(t *Target, pod, plugin string) dataplane.Verdict {
	_, hash, _ := strings.Cut(plugin, "@")
	switch {
	case s.silent.Has(pod):
		return silent
	case !s.refused.Has(hash):
		return runs
	case plugin == render.PluginName(s.state.Owner, t.Target, hash):
		return runsOther
	}
	return runsNone
}

// ends has nothing more happen, and expects the rollout to end.
func (s *trial) ends() {
	s.Helper()
	s.takeOver()
	clear(s.failures)
	s.silent.Clear()
	s.state.Strategy.Staged, s.state.Strategy.Paused, s.state.Strategy.Hold, s.state.Distributed = true, false, false, true
	if s.barred != nil {
		s.bars()
	}
	for i := range s.state.Targets {
		s.becomeReady(&s.state.Targets[i])
	}
	for range 200 {
		s.passes("nothing more happens", true)
		r := s.state.Status.Rollout
		switch ended := s.plan.Again == 0 && !s.plan.Unanswered; {
		case ended && r.Phase == wasmev1.RolloutHeld:
			s.asksNew(false)
		case ended && r.Phase == wasmev1.RolloutRolledBack && !s.refused.Has(s.state.Asked.Hash):
			s.retry() // pods were not Ready, or a clock was wrong
		case ended && (r.Phase == wasmev1.RolloutComplete || r.Phase == wasmev1.RolloutRolledBack):
			s.hasEnded(r)
			return
		}
		s.later(max(time.Second, min(s.plan.Again, defaultBakeTime)))
	}
	s.stop("the rollout does not end")
}

func (s *trial) hasEnded(r *wasmev1.RolloutStatus) {
	s.Helper()
	want := s.state.Asked.Hash
	if r.Phase == wasmev1.RolloutRolledBack {
		want = r.From
	}
	if s.refused.Has(want) && !s.everImmediate {
		s.stop("revision %s is in force, which proxies refuse", want)
	}
	for key, output := range s.state.Outputs {
		if output.Revision != want && want != "" || output.Revision == s.state.Asked.Hash && want == "" || output.Staged.Revision != "" {
			s.stop("%s holds %q and tries %q instead of %q", key, output.Revision, output.Staged.Revision, want)
		}
	}
	if len(s.state.Outputs) != len(s.state.Targets) && want != "" {
		s.stop("there are %d outputs for %d workloads", len(s.state.Outputs), len(s.state.Targets))
	}
	if ready := s.plan.Loaded; ready.Reason != wasmev1.ReasonLoaded && want != "" && !s.refused.Has(want) {
		s.stop("Loaded is %s", condition.Cut(ready.Message))
	}
}

// stop fails the test, with the last passes.
func (s *trial) stop(format string, args ...any) {
	s.Helper()
	text := s.text.String()
	s.Logf("%s", text[max(0, len(text)-20_000):])
	s.Fatalf(format, args...)
}
