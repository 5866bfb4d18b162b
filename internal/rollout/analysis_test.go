package rollout

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
)

// requests are so many, of which some failed, and took this long on average. Half of them
// took half as long, and half of them longer.
func requests(count, failed int, mean float64) dataplane.Traffic {
	t := dataplane.Traffic{Requests: count, Failed: failed, Timed: count, Milliseconds: mean * float64(count)}
	t.Spread(count/2, 0, mean)
	t.Spread(count/2, mean, 2*mean)
	return t
}

var limits = Analysis{MaxErrorRatioIncrease: new(0.01), MaxLatencyIncrease: new(0.2), MinRequests: 100}

func TestAnAnalysisComparesCanariesWithOthers(t *testing.T) {
	errors, latency := limits, limits
	errors.MaxLatencyIncrease, latency.MaxErrorRatioIncrease = nil, nil
	tooFew := finding{waits: "spec.rollout.analysis waits until the canaries and the other pods have had 100 requests each"}
	maybeErrors := finding{waits: "more requests to the canaries failed than to the other pods, which may be chance: spec.rollout.analysis waits for more requests"}
	maybeSlow := finding{waits: "requests to the canaries take longer than to the other pods, which may be chance: spec.rollout.analysis waits for more requests"}
	var none dataplane.Traffic
	for _, row := range []struct {
		what     string
		analysis Analysis
		traffic  traffic
		want     finding
	}{
		{"no requests", limits, traffic{}, tooFew},
		{"too few to the canaries", limits, traffic{none, requests(99, 99, 9), requests(900, 0, 9)}, tooFew},
		{"too few to the others", limits, traffic{none, requests(900, 900, 9), requests(99, 0, 9)}, tooFew},
		{"the same", limits, traffic{none, requests(100, 0, 9), requests(100, 0, 9)}, finding{}},
		{"as many errors as allowed", limits, traffic{none, requests(1000, 10, 9), requests(1000, 0, 9)}, finding{}},
		{"more errors, by chance", limits, traffic{none, requests(100, 3, 9), requests(1000, 5, 9)}, maybeErrors},
		{"more errors", limits, traffic{none, requests(200, 20, 9), requests(1000, 5, 9)}, finding{reason: wasmev1.ReasonErrorRatioIncreased, bad: "10.00% of 200 requests failed, and 0.50% of 1000 to the other pods"}},
		{"all fail, and all failed before", limits, traffic{none, requests(200, 200, 9), requests(200, 200, 9)}, finding{}},
		{"fewer errors", limits, traffic{none, requests(200, 0, 9), requests(200, 100, 9)}, finding{}},
		{"errors that nobody asked for", latency, traffic{none, requests(200, 200, 9), requests(200, 0, 9)}, finding{}},
		{"as slow as allowed", limits, traffic{none, requests(1e6, 0, 12), requests(1e6, 0, 10)}, finding{}},
		{"slower, by chance", limits, traffic{none, requests(100, 0, 13), requests(100, 0, 10)}, maybeSlow},
		{"slower", limits, traffic{none, requests(1000, 0, 13), requests(1000, 0, 10)}, finding{reason: wasmev1.ReasonLatencyIncreased, bad: "1000 requests took 13.0 ms on average, and 1000 to the other pods 10.0 ms"}},
		{"slower, but it was as slow before", limits, traffic{requests(1000, 0, 12), requests(1000, 0, 13), requests(1000, 0, 10)}, finding{}},
		{"slower than before, too", limits, traffic{requests(1000, 0, 10), requests(1000, 0, 13), requests(1000, 0, 10)}, finding{reason: wasmev1.ReasonLatencyIncreased, bad: "1000 requests took 13.0 ms on average, and 1000 to the other pods 10.0 ms"}},
		{"slower, and hardly used before", limits, traffic{requests(99, 0, 99), requests(1000, 0, 13), requests(1000, 0, 10)}, finding{reason: wasmev1.ReasonLatencyIncreased, bad: "1000 requests took 13.0 ms on average, and 1000 to the other pods 10.0 ms"}},
		{"slowness that nobody asked for", errors, traffic{none, requests(1000, 0, 99), requests(1000, 0, 10)}, finding{}},
		{"no durations yet", latency, traffic{none, dataplane.Traffic{Requests: 100, Timed: 1, Milliseconds: 9}, dataplane.Traffic{Requests: 100}}, maybeSlow},
		{"errors by chance, and slow", limits, traffic{none, requests(1000, 20, 13), requests(1000, 5, 10)}, finding{reason: wasmev1.ReasonLatencyIncreased, bad: "1000 requests took 13.0 ms on average, and 1000 to the other pods 10.0 ms"}},
		{"errors and slow", limits, traffic{none, requests(1000, 90, 13), requests(1000, 5, 10)}, finding{reason: wasmev1.ReasonErrorRatioIncreased, bad: "9.00% of 1000 requests failed, and 0.50% of 1000 to the other pods"}},
		{"errors and slow, both by chance", limits, traffic{none, requests(100, 3, 13), requests(100, 1, 10)}, maybeErrors},
	} {
		t.Run(row.what, func(t *testing.T) {
			NewWithT(t).Expect(row.analysis.judge(row.traffic)).To(Equal(row.want))
		})
	}
}

// One false alarm is worse than none: 2,000 rollouts of something against itself, each judged
// a minute long every second. A third of the requests is of slow clients, some pods are
// slower than others, and errors come in bursts.
func TestAnAnalysisOfTheSameFindsNothing(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	bad, passed := 0, 0
	for range 2000 {
		slowness, usual := 0.7+0.6*random.Float64(), 0.002*random.Float64()
		pods := []pod{{slowness, usual}, {1, usual}, {1, usual}, {1, usual}}
		var before dataplane.Traffic
		for range 60 {
			before = before.Add(pods[0].second(random, 20))
		}
		t := traffic{before: before}
		last := finding{}
		for range 60 {
			t.canaries = t.canaries.Add(pods[0].second(random, 20))
			for _, other := range pods[1:] {
				t.others = t.others.Add(other.second(random, 20))
			}
			if last = limits.judge(t); last.bad != "" {
				bad++
				break
			}
		}
		if last == (finding{}) {
			passed++
		}
	}
	if bad > 0 || passed < 1900 {
		t.Errorf("%d of 2000 were rolled back, and %d passed in a minute", bad, passed)
	}
}

func TestAnAnalysisFindsWhatIsWorse(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, flawed := range map[string]pod{"errors": {1, 0.05}, "latency": {2, 0.001}} {
		t.Run(name, func(t *testing.T) {
			found := 0
			for range 200 {
				var traffic traffic
				for range 60 {
					traffic.canaries = traffic.canaries.Add(flawed.second(random, 20))
					traffic.others = traffic.others.Add(pod{1, 0.001}.second(random, 60))
					if limits.judge(traffic).bad != "" {
						found++
						break
					}
				}
			}
			if found < 199 {
				t.Errorf("%d of 200 were found in a minute", found)
			}
		})
	}
}

// pod answers with a slowness, 1 being usual, and a ratio of errors.
type pod struct{ slowness, errors float64 }

// buckets are those of Istio, in milliseconds.
var buckets = []float64{0, 0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000}

// second returns what a pod counts in one.
func (p pod) second(random *rand.Rand, count int) dataplane.Traffic {
	var t dataplane.Traffic
	burst := 1.0
	if random.IntN(20) == 0 {
		burst = 3
	}
	for range count {
		took := p.slowness * math.Exp(1.5+0.8*random.NormFloat64())
		if random.IntN(3) == 0 {
			took *= 10
		}
		t.Requests, t.Timed, t.Milliseconds = t.Requests+1, t.Timed+1, t.Milliseconds+took
		for i, to := range buckets[1:] {
			if took <= to {
				t.Spread(1, buckets[i], to)
				break
			}
		}
		if random.Float64() < burst*p.errors {
			t.Failed++
		}
	}
	return t
}

// serves has the pods of a workload count requests since the canaries run the revision.
func (s *story) serves(canary, each dataplane.Traffic) {
	for i := range s.state.Targets[0].Pods {
		seen := &s.state.Targets[0].Pods[i].Seen
		if i == 0 {
			seen.Window = dataplane.Window{Since: canary}
		} else {
			seen.Other.Window = dataplane.Window{Since: each}
		}
	}
}

func TestCanariesAreAnalysed(t *testing.T) {
	begin := func(s *story) {
		s.complete()
		s.state.Strategy.CanaryPods, s.state.Strategy.Analysis = 1, &limits
		s.state.Targets = s.state.Targets[:1]
		s.later(LoadTimeout)
		s.happens("one workload is left")
		s.everywhere(runs)
		s.asks("bb", small, "world")
		s.happens("its pods try another module")
		s.tries("a", 3, runs)
		s.happens("one is to run it")
		s.see("a", 1, runs)
		s.happens("it runs it, and had no requests")
	}
	for name, tell := range map[string]func(*story){
		"analysed": func(s *story) {
			begin(s)
			s.later(time.Hour)
			s.serves(requests(99, 0, 9), requests(400, 0, 9))
			s.happens("too few requests never pass")
			s.serves(requests(100, 0, 9), requests(400, 0, 9))
			s.happens("enough do")
		},
		"analysed and slow": func(s *story) {
			begin(s)
			s.later(time.Second)
			s.serves(requests(400, 0, 99), requests(400, 0, 9))
			s.happens("they take longer")
			s.happens("it goes back")
		},
		"analysed and failing": func(s *story) {
			begin(s)
			s.serves(requests(400, 100, 9), requests(400, 0, 9))
			s.happens("they fail")
			s.happens("it goes back")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t)
			tell(s)
			s.end()
		})
	}
}

func TestRequestsAreCountedWhileThereAreCanaries(t *testing.T) {
	g := NewWithT(t)
	s := newStory(t)
	s.complete()
	s.state.Strategy.CanaryPods, s.state.Strategy.Analysis = 2, &limits
	s.state.Targets = []Target{target("many", 2+maxCompared+5)}
	s.later(LoadTimeout)
	s.happens("another workload")
	s.everywhere(runs)
	counted := func() int {
		pods := sets.New[types.UID]()
		for _, e := range s.plan.Expectations() {
			if e.Count.Window != "" {
				pods.Insert(e.Pod.UID)
			}
		}
		return pods.Len()
	}
	s.asks("bb", small, "world")
	s.happens("its pods try another module")
	g.Expect(counted()).To(BeZero())
	s.tries("many", len(s.state.Targets[0].Pods), runs)
	s.happens("two are to run it")
	g.Expect(counted()).To(Equal(2 + maxCompared))
}

func TestWhichRequestsAreCounted(t *testing.T) {
	canary := Canary{Revision: "12345678", Since: time.Unix(0, 0), Pods: []string{"a"}}
	for context, want := range map[wasmev1.PatchContext]dataplane.Count{
		wasmev1.PatchContextInbound:  {Window: canary.Annotation(), Inbound: true},
		wasmev1.PatchContextOutbound: {Window: canary.Annotation(), Outbound: true},
		wasmev1.PatchContextGateway:  {Window: canary.Annotation(), Outbound: true},
		wasmev1.PatchContextAny:      {Window: canary.Annotation(), Inbound: true, Outbound: true},
	} {
		NewWithT(t).Expect(limits.counts(canary, context)).To(Equal(want), string(context))
	}
	NewWithT(t).Expect((*Analysis)(nil).counts(canary, wasmev1.PatchContextAny)).To(Equal(dataplane.Count{}))
}
