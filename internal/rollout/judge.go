package rollout

import (
	"slices"
	"time"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// judgement is what the pods of the workloads that hold the new revision say of it.
type judgement struct {
	// pods is their number, loading says that some are not known to run it yet.
	pods    int
	loading bool
	// waits says what else has to be known before they count as good; empty for nothing.
	waits string
	// bad is what is wrong; without a reason nothing is.
	bad condition.Verdict
}

// blame notes what is wrong, unless something is already.
func (j *judgement) blame(reason, format string, args ...any) {
	if j.bad.Reason == "" {
		j.bad = condition.False(reason, format, args...)
	}
}

// undecided reports whether a workload's pods do not tell yet what becomes of the revision:
// they may all have just started.
func (p *Plan) undecided(v condition.Verdict, proofs []Proof) bool {
	return v.Reason == wasmev1.ReasonLoading || v.Reason == wasmev1.ReasonNoPods || slices.ContainsFunc(proofs, Proof.unanswered) || p.blind(v, proofs)
}

// judge looks at the workloads that hold the revision since an earlier pass.
func (p *Plan) judge(s *State) judgement {
	var found judgement
	for i := range p.Workloads {
		w := &p.Workloads[i]
		if w.Holds != p.InForce {
			continue
		}
		if w.sidecars() == 0 {
			p.judgeFallen(s, w, &found)
			continue
		}
		found.pods += w.sidecars()
		proofs := p.appendProofs(nil, w, s)
		v := loadedVerdict(proofs, p.InForce.OutputKind())
		switch {
		case p.undecided(v, proofs):
			found.loading = true
		case p.isBad(v) || p.silenced(v, proofs):
			found.blame(v.Reason, "%s: %s", w.Key(), v.Message)
		}
	}
	return found
}

// judgeStaged looks at the workloads that have the revision in their staging slots since an
// earlier pass.
func (p *Plan) judgeStaged(s *State) judgement {
	var found judgement
	for i := range p.Workloads {
		w := &p.Workloads[i]
		if p.broke(w) {
			p.judgeUnready(s, w, w.was.Staged.At, w.unready, ", where it was tried "+p.besides(w), &found)
			continue
		}
		if !p.isStaged(s, w) {
			continue
		}
		found.pods += w.sidecars()
		plugin := render.StagedPluginName(w.owner, w.Target, p.InForce.Hash)
		staged := w.was.Staged
		waited := s.Now.Sub(staged.At) + time.Duration(min(staged.Renewals, 1))*LoadTimeout
		proofs := w.proofsOf(plugin, waited, s.Now)
		for j := range proofs {
			proofs[j].tried = true
		}
		v := loadedVerdict(proofs, p.InForce.OutputKind())
		untried := v.Reason == wasmev1.ReasonNoListener || v.Reason == wasmev1.ReasonAnchorMissing
		switch {
		case p.undecided(v, proofs), untried && w.Holds != nil && w.rank() == 0, w.undelivered(s, v, proofs): // istiod has not sent it
			found.loading = true
		case !untried && slices.Contains(BadReasons, v.Reason) || p.silenced(v, proofs):
			found.blame(v.Reason, "%s, where it was tried %s: %s", w.Key(), p.besides(w), v.Message)
		}
	}
	return found
}

// patience returns how long it is until more is known of what is staged without the proxies'
// saying so; zero for never.
func (f Fetch) patience(now time.Time) time.Duration {
	if f.Renewals > 0 {
		return max(f.renewalDue(f.Revision, now), time.Second)
	}
	return max(LoadTimeout-now.Sub(f.At), time.Second)
}

// undelivered reports whether nothing shows that proxies which do not run the staged revision
// were sent it: istiod may be away. Pilot-agents show only what is sent between two questions,
// so istiod is made to send it again.
func (w *Workload) undelivered(s *State, v condition.Verdict, proofs []Proof) bool {
	if v.Reason != wasmev1.ReasonRefused && v.Reason != wasmev1.ReasonOlderRevision {
		return false
	}
	answered := filtered(proofs, func(p Proof) bool { return p.overdue() && p.verdict.Fetch != dataplane.FetchUnknown })
	if len(answered) == 0 || slices.ContainsFunc(answered, func(p Proof) bool { return p.verdict.Delivered }) {
		return false
	}
	staged := w.was.Staged
	w.sendsAgain = staged.renewalDue(staged.Revision, s.Now) == 0
	return true
}

// silenced reports whether all pods of a workload fell silent with the revision, although
// pods answered before: a module that loops as it starts keeps a proxy from answering.
func (p *Plan) silenced(v condition.Verdict, proofs []Proof) bool {
	return p.unheard(v, proofs) && !slices.ContainsFunc(proofs, func(p Proof) bool { return p.silent() && !p.verdict.Silent })
}

// unheard reports whether none of a workload's pods answers, although pods answered before.
func (p *Plan) unheard(v condition.Verdict, proofs []Proof) bool {
	return p.Rollout.Verified && v.Reason == wasmev1.ReasonUnreachable && !slices.ContainsFunc(proofs, Proof.Verified)
}

// blind reports whether silent pods tell nothing: some may only be busy, or all pods of the
// FilterDeployment are silent, of several workloads, and the operator cannot reach them.
func (p *Plan) blind(v condition.Verdict, proofs []Proof) bool {
	switch {
	case !p.unheard(v, proofs):
		return false
	case !p.silenced(v, proofs):
		return true
	}
	with := filtered(p.Workloads, func(w Workload) bool { return w.Holds != nil && w.sidecars() > 0 })
	return len(with) > 1 && !slices.ContainsFunc(with, func(w Workload) bool { return w.rank() == 0 })
}

// broke reports whether none of a workload's pods is Ready any more while they try the
// revision.
func (p *Plan) broke(w *Workload) bool {
	return w.sidecars() == 0 && len(w.unready) > 0 && w.Holds != p.InForce && w.was.Staged.Revision == p.InForce.Hash
}

// judgeFallen looks at the first workload while none of its pods is Ready: those that were when
// they got the revision may be so because of it. Others that start are waited for.
func (p *Plan) judgeFallen(s *State, w *Workload, found *judgement) {
	live := w.was.Fetch.At
	if *p.Rollout.Step > 1 || w.was.Fetch.Revision != p.InForce.Hash {
		return
	}
	fallen := filtered(w.unready, func(pod Unready) bool { return pod.Created.Before(live) && !pod.Since.Before(live) })
	starting := slices.ContainsFunc(w.unready, func(pod Unready) bool {
		return !pod.Created.Before(live) && s.Now.Sub(pod.Created) < LoadTimeout
	})
	switch {
	case len(fallen) > 0:
		p.judgeUnready(s, w, live, fallen, "", found)
	case starting:
		found.loading = true
		p.Again = soonest(p.Again, LoadTimeout)
	}
}

// judgeUnready gives pods that are not Ready some time: since they are not, or since they got
// the revision.
func (p *Plan) judgeUnready(s *State, w *Workload, since time.Time, pods []Unready, where string, found *judgement) {
	for _, pod := range pods {
		if pod.Since.After(since) && !pod.Since.After(s.Now) {
			since = pod.Since
		}
	}
	if waited := s.Now.Sub(since); waited < LoadTimeout {
		found.loading = true
		p.Again = soonest(p.Again, LoadTimeout-waited)
		return
	}
	found.blame(wasmev1.ReasonPodsNotReady, "%s%s: its pods are not Ready any more (%s): see their logs and events", w.Key(), where, condition.Enumerate(pods, ", ", func(pod Unready) string { return pod.Name }))
}

// besides says what serves while a workload's proxies try a revision.
func (p *Plan) besides(w *Workload) string {
	switch {
	case w.Holds == nil:
		return "before any request passed it"
	case p.Rollout.From == "":
		return "beside the revision that it ran"
	}
	return "beside the last good revision"
}

// proofsOf returns what the Ready pods say of a plugin for which they had some time. Pods
// that were started since have less.
func (w *Workload) proofsOf(plugin string, waited time.Duration, now time.Time) []Proof {
	var proofs []Proof
	for _, pod := range w.pods {
		age := pod.age(now)
		proof := Proof{name: pod.Name, workload: w.Key(), sidecar: pod.Sidecar, age: age, young: age < LoadTimeout && age < waited, waited: waited}
		if pod.Sidecar {
			proof.verdict = pod.Seen.On(plugin)
		}
		proofs = append(proofs, proof)
	}
	return proofs
}

// BadReasons are the reasons of Loaded for which a revision is to blame. For the last two
// it is only where the first workload of a rollout ran the last good revision: then it took
// the filter's place away. What else a workload lacks (a sidecar, a listener, an answer)
// keeps no others waiting, since no other revision would help.
var BadReasons = []string{
	wasmev1.ReasonCrashing, wasmev1.ReasonRefused, wasmev1.ReasonOlderRevision, wasmev1.ReasonFetchFailed,
	wasmev1.ReasonNotLoaded, wasmev1.ReasonNoListener, wasmev1.ReasonAnchorMissing,
}

// RejectedReasons are all reasons with which a rollout fails.
var RejectedReasons = append([]string{wasmev1.ReasonUnreachable, wasmev1.ReasonPodsNotReady, wasmev1.ReasonErrorRatioIncreased, wasmev1.ReasonLatencyIncreased}, BadReasons...)

// isBad reports whether the revision is to blame.
func (p *Plan) isBad(v condition.Verdict) bool {
	if v.Reason == wasmev1.ReasonNoListener || v.Reason == wasmev1.ReasonAnchorMissing {
		return p.Rollout.From != "" && *p.Rollout.Step <= 1
	}
	return slices.Contains(BadReasons, v.Reason)
}
