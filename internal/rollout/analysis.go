package rollout

import (
	"fmt"
	"strings"
	"time"

	"github.com/aclements/go-moremath/stats"
	"k8s.io/utils/ptr"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/render"
)

// An analysis compares the requests of canaries with those of other pods of their workload,
// in the same window: the canaries run the revision for all of it, and the others what was
// before. A difference counts if it is larger than the spec allows and, by a test of its
// significance, unlikely to be chance. One that is only the former makes the rollout wait
// for more requests, and so does a lack of requests.

const (
	// maxCompared is with how many other pods canaries are compared at most. Their metrics
	// are read each second.
	maxCompared = 16
	// chance is how likely a difference may be without a cause. Each second of a rollout is
	// another chance.
	chance = 1e-7
	// analysisPeriod is the time from one comparison to the next.
	analysisPeriod = time.Second
)

// Analysis says by how much the canaries' requests may be worse than those of other pods.
type Analysis struct {
	// MaxErrorRatioIncrease is the difference of two ratios, from 0 to 1, and
	// MaxLatencyIncrease that of two means, relative to the lower one; nil for any.
	MaxErrorRatioIncrease, MaxLatencyIncrease *float64
	// MinRequests is how many requests the canaries, and the others, must have had.
	MinRequests int
}

// defaultMinRequests is Analysis.MinRequests unless the spec says otherwise.
const defaultMinRequests = 100

func analysisOf(spec *wasmev1.RolloutAnalysis) *Analysis {
	if spec == nil {
		return nil
	}
	return &Analysis{
		MaxErrorRatioIncrease: spec.MaxErrorRatioIncrease.Fraction(),
		MaxLatencyIncrease:    spec.MaxLatencyIncrease.Fraction(),
		MinRequests:           int(ptr.Deref(spec.MinRequests, defaultMinRequests)),
	}
}

// traffic is what passed canaries, before and in the window, and the others in the window.
type traffic struct{ before, canaries, others dataplane.Traffic }

// finding is what an analysis says: the revision is bad, for a reason, or has to wait; or
// neither, if both messages are empty.
type finding struct{ reason, bad, waits string }

// judge compares.
func (a *Analysis) judge(t traffic) finding {
	if t.canaries.Requests < a.MinRequests || t.others.Requests < a.MinRequests {
		return finding{waits: fmt.Sprintf("spec.rollout.analysis waits until the canaries and the other pods have had %d requests each", a.MinRequests)}
	}
	errors := a.judgeErrors(t)
	if latency := a.judgeLatency(t); errors.bad == "" && (latency.bad != "" || errors.waits == "") {
		return latency
	}
	return errors
}

func (a *Analysis) judgeErrors(t traffic) finding {
	canaries, others := t.canaries.FailedRatio(), t.others.FailedRatio()
	if a.MaxErrorRatioIncrease == nil || canaries-others <= *a.MaxErrorRatioIncrease {
		return finding{}
	}
	all := t.canaries.Add(t.others)
	failures := stats.HypergeometicDist{N: all.Requests, K: all.Failed, Draws: t.canaries.Requests}
	if 1-failures.CDF(float64(t.canaries.Failed)-1) > chance {
		return finding{waits: "more requests to the canaries failed than to the other pods, which may be chance: spec.rollout.analysis waits for more requests"}
	}
	return finding{wasmev1.ReasonErrorRatioIncreased, fmt.Sprintf("%.2f%% of %d requests failed, and %.2f%% of %d to the other pods", 100*canaries, t.canaries.Requests, 100*others, t.others.Requests), ""}
}

// judgeLatency does not blame the revision for a pod that was as slow before.
func (a *Analysis) judgeLatency(t traffic) finding {
	canaries, others, before := t.canaries.Mean(), t.others.Mean(), t.before.Mean()
	exceeds := func(mean float64) bool { return canaries > mean*(1+*a.MaxLatencyIncrease) }
	if a.MaxLatencyIncrease == nil || !exceeds(others) || t.before.Timed >= a.MinRequests && !exceeds(before) {
		return finding{}
	}
	// An error says that too few are timed.
	if test, err := stats.TwoSampleWelchTTest(t.canaries, t.others, stats.LocationGreater); err != nil || test.P > chance {
		return finding{waits: "requests to the canaries take longer than to the other pods, which may be chance: spec.rollout.analysis waits for more requests"}
	}
	return finding{wasmev1.ReasonLatencyIncreased, fmt.Sprintf("%d requests took %.1f ms on average, and %d to the other pods %.1f ms", t.canaries.Timed, canaries, t.others.Timed, others), ""}
}

// judgeTraffic compares the canaries of a workload with its other pods.
func (p *Plan) judgeTraffic(s *State, w *Workload, canary Canary, found *judgement) {
	if s.Strategy.Analysis == nil {
		return
	}
	p.Again = soonest(p.Again, analysisPeriod)
	var t traffic
	plugin, staged := render.CanaryPluginName(w.owner, w.Target, p.InForce.Hash), render.StagedPluginName(w.owner, w.Target, p.InForce.Hash)
	for _, pod := range w.pods {
		if canary.runs(pod.Name) {
			window := pod.Seen.Beside(plugin)
			t.before, t.canaries = t.before.Add(window.Before), t.canaries.Add(window.Since)
		} else {
			t.others = t.others.Add(pod.Seen.Beside(staged).Since)
		}
	}
	switch f := s.Strategy.Analysis.judge(t); {
	case f.bad != "":
		found.blame(f.reason, inCanaries, w.Key(), strings.Join(canary.Pods, ", "), f.bad)
	case f.waits != "":
		found.waits = fmt.Sprintf("%s: %s", w.Key(), f.waits)
	}
}

// counted returns a function that says which requests of each of a workload's pods are
// counted: those of the canaries, and of some others.
func (w *Workload) counted() func(pod Pod) dataplane.Count {
	others := 0
	return func(pod Pod) dataplane.Count {
		if w.canary.runs(pod.Name) {
			return w.counts
		}
		if others++; others > maxCompared {
			return dataplane.Count{}
		}
		return w.counts
	}
}

// counts returns which requests of a workload's pods are counted while it has canaries.
func (a *Analysis) counts(canary Canary, context wasmev1.PatchContext) dataplane.Count {
	if a == nil {
		return dataplane.Count{}
	}
	return dataplane.Count{
		Window:   canary.Annotation(),
		Inbound:  context == wasmev1.PatchContextInbound || context == wasmev1.PatchContextAny,
		Outbound: context != wasmev1.PatchContextInbound,
	}
}
