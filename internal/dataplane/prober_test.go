package dataplane

import (
	"fmt"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

var loaded = Verdict{State: StateLoaded}

func TestAChangeIsProvenFromTheOldRevisionToTheNew(t *testing.T) {
	inBubble(t, func(s *sidecars, f *proberTest) {
		target := Expectation{Pod: s.pod(1, plugins(greetingOld)), Plugin: greetingOld}
		if got := f.Expect(owner("greeting"), []Expectation{target}); got[0] != (Verdict{}) {
			f.Fatalf("before any answer: %+v", got)
		}
		f.becomes(owner("greeting"), target, loaded)

		target.Plugin = greeting
		if got := f.Expect(owner("greeting"), []Expectation{target}); got[0] != (Verdict{State: StateOtherRevision}) {
			f.Errorf("the old revision is known to run, but: %+v", got)
		}
		s.pod(1, plugins(greeting, greetingOld))
		f.becomes(owner("greeting"), target, Verdict{State: StateDraining})
		s.pod(1, plugins(greeting))
		f.becomes(owner("greeting"), target, loaded)
		s.pod(1, plugins())
		f.becomes(owner("greeting"), target, Verdict{State: StateNotLoaded})
	})
}

func TestAProofIsThatOfOnePluginOnePodAndOneOwner(t *testing.T) {
	inBubble(t, func(s *sidecars, f *proberTest) {
		target := Expectation{Pod: s.pod(1, plugins(greeting, greetingOld)), Plugin: greeting}
		if f.proven(owner("greeting"), target) {
			f.Error("a pod that nobody expects anything of is proven")
		}
		f.Expect(owner("greeting"), []Expectation{target})
		if f.proven(owner("greeting"), target) {
			f.Error("a pod that has not answered is proven")
		}
		f.becomes(owner("greeting"), target, Verdict{State: StateDraining})
		if !f.proven(owner("greeting"), target) {
			f.Error("the plugin is loaded, but not proven")
		}
		for name, other := range map[string]Expectation{
			"another revision": {Pod: target.Pod, Plugin: greetingOld},
			"another filter":   {Pod: target.Pod, Plugin: otherFilter},
			"another pod":      {Pod: s.pod(2, plugins(greeting)), Plugin: greeting},
		} {
			if f.proven(owner("greeting"), other) {
				f.Errorf("%s is proven", name)
			}
		}
		if f.proven(owner("other"), target) {
			f.Error("another owner has the proof")
		}
		target.Plugin = otherFilter
		f.Expect(owner("greeting"), []Expectation{target})
		if f.proven(owner("greeting"), target) {
			f.Error("the proof of one plugin is that of another")
		}
	})
}

func TestAPodCanRunSeveralFiltersOfOneOwner(t *testing.T) {
	inBubble(t, func(s *sidecars, f *proberTest) {
		names := []string{"wasm_filter.bookinfo/details/greeting@1", "wasm_filter.bookinfo/ratings/greeting@1", "wasm_filter.bookinfo/reviews/greeting@1"}
		pod := s.pod(1, plugins(names[:2]...))
		targets := make([]Expectation, len(names))
		for i, name := range names {
			targets[i] = Expectation{Pod: pod, Plugin: name}
		}
		f.Expect(owner("greeting"), targets)
		pass(minPeriod)
		for i, want := range []bool{true, true, false} {
			if got := f.proven(owner("greeting"), targets[i]); got != want {
				f.Errorf("%s is proven: %t", names[i], got)
			}
		}
		f.Expect(owner("greeting"), targets[1:])
		if f.proven(owner("greeting"), targets[0]) || !f.proven(owner("greeting"), targets[1]) {
			f.Error("what is no longer expected is still known, or the rest is not")
		}
	})
}

// proven reports whether what is known of a pod proves the target.
func (f *proberTest) proven(owner types.NamespacedName, target Expectation) bool {
	return f.Seen(owner, []Pod{target.Pod})[0].On(target.Plugin).Proven()
}

func TestAPodAtAnotherAddressIsNotKnown(t *testing.T) {
	inBubble(t, func(s *sidecars, f *proberTest) {
		target := Expectation{Pod: s.pod(1, plugins(greeting)), Plugin: greeting}
		f.Expect(owner("greeting"), []Expectation{target})
		f.becomes(owner("greeting"), target, loaded)
		moved := target
		moved.Pod.Address = s.pod(2, plugins()).Address
		if f.proven(owner("greeting"), moved) {
			f.Error("the proof is that of the former address")
		}
		if got := f.Seen(owner("greeting"), []Pod{moved.Pod, target.Pod}); got[0] != (Seen{}) || got[1].Plugin != greeting {
			f.Errorf("%+v", got)
		}
	})
}

func TestARowInOneAnswerOnlyIsNoProof(t *testing.T) {
	inBubble(t, func(s *sidecars, f *proberTest) {
		refused := "wasm_filter.bookinfo/details-v1/refused@a0719d45"
		target := Expectation{Pod: s.pod(1, text(recorded(f, "envoy-refusing"))), Plugin: refused}
		f.Expect(owner("refused"), []Expectation{target})
		for s.requests(target.Pod) == 0 {
			pass(minRetry)
		}
		asked := s.requests(target.Pod)
		if got := f.Expect(owner("refused"), []Expectation{target})[0]; got != (Verdict{}) {
			f.Errorf("after %d answers: %+v", asked, got)
		}
		s.pod(1, text(recorded(f, "envoy-refused")))
		pass(2 * minRetry)
		if s.requests(target.Pod) == asked {
			f.Error("what may be a proof is not looked at again at once")
		}
		if got := f.Expect(owner("refused"), []Expectation{target})[0]; got != (Verdict{State: StateNotLoaded}) {
			f.Errorf("after it is gone: %+v", got)
		}
	})
}

func TestAPodIsAskedOnceForAllItsFilters(t *testing.T) {
	inBubble(t, func(s *sidecars, f *proberTest) {
		var names []string
		for i := range 20 {
			names = append(names, fmt.Sprintf("wasm_filter.bookinfo/details-v1/f%d@1", i))
		}
		var expected atomic.Bool
		answer := plugins(names...)
		pod := s.pod(1, func(rw http.ResponseWriter, req *http.Request) {
			for !expected.Load() {
				runtime.Gosched() // outside the bubble
			}
			answer(rw, req)
		})
		for i, name := range names {
			f.Expect(owner(fmt.Sprint(i)), []Expectation{{Pod: pod, Plugin: name}})
		}
		expected.Store(true)
		pass(3 * minRetry)
		if got := s.requests(pod); got > 2 { // one for those that came before it was sent, and one for the others
			f.Errorf("%d requests", got)
		}
		if got := f.woken(); len(got) != len(names) {
			f.Errorf("woken: %v", got)
		}
	})
}

func TestOnlyThoseForWhomSomethingChangedAreWoken(t *testing.T) {
	inBubble(t, func(s *sidecars, f *proberTest) {
		other := "wasm_filter.bookinfo/details-v1/other@1"
		pod := s.pod(1, plugins(greeting, other))
		f.Expect(owner("greeting"), []Expectation{{Pod: pod, Plugin: greeting}})
		f.Expect(owner("other"), []Expectation{{Pod: pod, Plugin: other}})
		pass(minPeriod)
		f.woken()

		s.pod(1, plugins(greeting, other, "wasm_filter.bookinfo/details-v1/third@1"))
		pass(2 * minPeriod)
		if got := f.woken(); len(got) > 0 {
			f.Errorf("a filter that nobody expects wakes %v", got)
		}
		s.pod(1, plugins(other))
		pass(2 * minPeriod)
		if got, want := f.woken(), []types.NamespacedName{owner("greeting")}; !slices.Equal(got, want) {
			f.Errorf("woken: %v", got)
		}
		before := s.requests(pod)
		pass(2 * minPeriod)
		if got := f.woken(); len(got) > 0 || s.requests(pod) == before {
			f.Errorf("%d requests without news wake %v", s.requests(pod)-before, got)
		}
	})
}

func TestWhatIsProvenIsAskedOncePerPeriod(t *testing.T) {
	inBubble(t, func(s *sidecars, f *proberTest) {
		var targets []Expectation
		for i := range 50 {
			targets = append(targets, Expectation{Pod: s.pod(i, plugins(greeting)), Plugin: greeting})
		}
		f.Expect(owner("greeting"), targets)
		pass(2 * minRetry)
		const periods = 4
		moments := map[time.Duration]int{}
		begin, total := time.Now(), len(targets)
		for time.Since(begin) < periods*minPeriod {
			pass(minPeriod / 10)
			all := 0
			for _, target := range targets {
				all += s.requests(target.Pod)
			}
			moments[time.Since(begin)%minPeriod] += all - total
			total = all
		}
		for _, target := range targets {
			if got := s.requests(target.Pod) - 1; got < periods-1 || got > periods+1 {
				f.Errorf("%s: %d requests in %d periods", target.Pod.UID, got, periods)
			}
		}
		for moment, got := range moments {
			if got > total/2 {
				f.Errorf("%d of %d requests come %s after the begin of a period", got, total, moment)
			}
		}
	})
}

func TestWhatIsOpenIsAskedPromptlyAndThenLessOften(t *testing.T) {
	inBubble(t, func(s *sidecars, f *proberTest) {
		target := Expectation{Pod: s.pod(1, plugins(greetingOld)), Plugin: greeting}
		f.Expect(owner("greeting"), []Expectation{target})
		pass(2 * time.Second)
		if got := s.requests(target.Pod); got < 3 || got > 5 {
			f.Errorf("%d requests in the first 2 s", got)
		}
		pass(time.Minute)
		before := s.requests(target.Pod)
		pass(10 * maxRetry)
		if got := s.requests(target.Pod) - before; got < 8 || got > 10 {
			f.Errorf("%d requests in %s", got, 10*maxRetry)
		}

		before = s.requests(target.Pod)
		target.Plugin = greeting + "0"
		f.Expect(owner("greeting"), []Expectation{target})
		pass(2 * time.Second)
		if got := s.requests(target.Pod) - before; got < 3 {
			f.Errorf("%d requests in the first 2 s after a change", got)
		}
	})
}

func TestAPodIsUnreachableOnlyAfterSeveralFailures(t *testing.T) {
	broken := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	inBubble(t, func(s *sidecars, f *proberTest) {
		target := Expectation{Pod: s.pod(1, plugins(greeting)), Plugin: greeting}
		f.becomes(owner("greeting"), target, loaded)
		f.woken()

		failures := s.requests(target.Pod) + maxFailures - 1
		s.pod(1, func(w http.ResponseWriter, r *http.Request) {
			if s.requests(target.Pod) <= failures {
				broken(w, r)
				return
			}
			plugins(greeting)(w, r)
		})
		pass(2 * minPeriod)
		if got := f.woken(); len(got) > 0 || s.requests(target.Pod) <= failures {
			f.Errorf("%d failures wake %v", maxFailures-1, got)
		}
		pass(10 * minPeriod)
		s.pod(1, broken)
		for before := s.requests(target.Pod); s.requests(target.Pod) == before; {
			pass(minRetry)
		}
		begin := time.Now()
		f.becomes(owner("greeting"), target, Verdict{State: StateUnreachable, Failure: FailureStatus})
		if took := time.Since(begin); took > 3*time.Second {
			f.Errorf("%s after the first failure", took)
		}
		f.woken()
		pass(longSilence + maxRetry + time.Minute)
		f.becomes(owner("greeting"), target, Verdict{State: StateUnreachable, Failure: FailureStatus, Silent: true})
		if got := f.woken(); len(got) != 1 {
			f.Errorf("what is silent for long wakes %v", got)
		}
		pass(time.Minute)
		if got := f.woken(); len(got) > 0 {
			f.Errorf("what stays unreachable wakes %v", got)
		}
		s.pod(1, plugins(greeting))
		f.becomes(owner("greeting"), target, loaded)
	})
}

func TestACrashingFilterIsSeen(t *testing.T) {
	inBubble(t, func(s *sidecars, f *proberTest) {
		crashed := func(times uint64) http.HandlerFunc { return text(rows(reloads{success: times}, greeting)) }
		target := Expectation{Pod: s.pod(1, crashed(7)), Plugin: greeting}
		f.becomes(owner("greeting"), target, loaded) // when those crashes were cannot be told
		pass(2 * minPeriod)
		if got := f.Expect(owner("greeting"), []Expectation{target})[0]; got != loaded {
			f.Errorf("without another crash: %+v", got)
		}
		s.pod(1, crashed(8))
		f.becomes(owner("greeting"), target, Verdict{State: StateLoaded, Crashing: true})
		pass(maxPeriod)
		if got := f.Expect(owner("greeting"), []Expectation{target})[0]; !got.Crashing {
			f.Errorf("%s later: %+v", maxPeriod, got)
		}
		f.becomes(owner("greeting"), target, loaded)
	})
}

func TestRefusedListenersAreSeenUntilNewOnesAreAccepted(t *testing.T) {
	inBubble(t, func(s *sidecars, f *proberTest) {
		shows := func(accepted, refused int) http.HandlerFunc {
			return text(rows(reloads{}, greeting) + listenerRows(accepted, refused))
		}
		target := Expectation{Pod: s.pod(1, shows(1, 7)), Plugin: greeting}
		f.becomes(owner("greeting"), target, Verdict{State: StateLoaded, StaleListeners: true})
		target.ProvedBefore = true
		f.becomes(owner("greeting"), target, loaded)
		s.pod(1, shows(1, 8))
		f.becomes(owner("greeting"), target, Verdict{State: StateLoaded, StaleListeners: true})
		f.woken()
		s.pod(1, shows(2, 8))
		pass(2 * maxRetry)
		if got, want := f.woken(), []types.NamespacedName{owner("greeting")}; !slices.Equal(got, want) {
			f.Errorf("it is not asked again soon: woken %v", got)
		}
		f.becomes(owner("greeting"), target, loaded)
	})
}

func TestANewRevisionIsNotBlamedForTheOldOne(t *testing.T) {
	inBubble(t, func(s *sidecars, f *proberTest) {
		target := Expectation{Pod: s.pod(1, plugins(greetingOld)), Plugin: greetingOld}
		f.becomes(owner("greeting"), target, loaded)
		s.pod(1, text(rows(reloads{backoff: 3}, greetingOld)))
		f.becomes(owner("greeting"), target, Verdict{State: StateLoaded, Crashing: true})
		target.Plugin = greeting
		if got := f.Expect(owner("greeting"), []Expectation{target})[0]; got != (Verdict{State: StateOtherRevision, Crashing: true}) {
			f.Errorf("%+v", got)
		}
		s.pod(1, text(rows(reloads{}, greeting)+rows(reloads{backoff: 9}, greetingOld)))
		f.becomes(owner("greeting"), target, Verdict{State: StateDraining})
	})
}

func TestPilotAgentIsAskedOnlyForWhatIsMissingAndToBeExplained(t *testing.T) {
	agents := startSidecars(t)
	inBubble(t, func(s *sidecars, f *proberTest) {
		agent := agents.pod(1, text(recorded(f, "agent-loaded")))
		target := Expectation{Pod: s.pod(1, plugins()), Plugin: greeting}
		target.Pod.AgentPort = agent.AgentPort
		f.becomes(owner("greeting"), target, Verdict{State: StateNotLoaded})
		pass(time.Minute)
		if got := agents.requests(agent); got > 0 {
			f.Errorf("%d requests for an explanation that nobody asked for", got)
		}
		target.Explain = true
		f.becomes(owner("greeting"), target, Verdict{State: StateNotLoaded, Fetch: FetchClean})
		agents.pod(1, text(recorded(f, "agent-failed")))
		f.becomes(owner("greeting"), target, Verdict{State: StateNotLoaded, Fetch: FetchFailed})
		agents.pod(1, text("app_requests 1\n"))
		pass(time.Minute)
		if got := f.Expect(owner("greeting"), []Expectation{target})[0]; got.Fetch != FetchFailed {
			f.Errorf("an agent that does not answer any more: %+v", got)
		}
		s.pod(1, plugins(greeting))
		f.becomes(owner("greeting"), target, loaded)
		before := agents.requests(agent)
		pass(2 * minPeriod)
		if got := agents.requests(agent) - before; got > 0 {
			f.Errorf("%d requests for an explanation of what is there", got)
		}
	})
}

func TestPilotAgentIsAskedForAnEnvoyThatDoesNotAnswer(t *testing.T) {
	agents := startSidecars(t)
	inBubble(t, func(s *sidecars, f *proberTest) {
		agent := agents.pod(1, text(recorded(f, "agent-loaded")+envoyPage(greeting)))
		target := Expectation{Pod: s.pod(1, hijacked("", "")), Plugin: greeting, Explain: true}
		target.Pod.AgentPort = agent.AgentPort
		f.becomes(owner("greeting"), target, loaded)
		for _, moment := range []string{"right after", "later"} {
			pass(2 * minPeriod)
			if got := f.Expect(owner("greeting"), []Expectation{target})[0]; got != loaded {
				f.Errorf("%s: %+v", moment, got)
			}
		}
		before := s.requests(target.Pod)
		pass(10 * minPeriod)
		if got := s.requests(target.Pod) - before; got > 0 {
			f.Errorf("%d requests to what does not answer, while its pilot-agent does", got)
		}

		agents.pod(1, text(recorded(f, "agent-failed")+envoyPage()))
		f.becomes(owner("greeting"), target, Verdict{State: StateNotLoaded, Fetch: FetchFailed})

		agents.pod(1, text(recorded(f, "agent-failed")))
		f.becomes(owner("greeting"), target, Verdict{State: StateUnreachable, Failure: FailureConnection})
		s.pod(1, plugins(greeting))
		f.becomes(owner("greeting"), target, loaded)
	})
}

func TestWhatIsNotExpectedAnyMoreIsForgotten(t *testing.T) {
	inBubble(t, func(s *sidecars, f *proberTest) {
		first, second := s.pod(1, plugins(greeting)), s.pod(2, plugins(greeting))
		targets := []Expectation{{Pod: first, Plugin: greeting}, {Pod: second, Plugin: greeting}}
		f.Expect(owner("a"), targets)
		f.Expect(owner("b"), targets)
		pass(minPeriod)
		f.Expect(owner("a"), nil)
		f.Expect(owner("b"), targets[:1])
		f.woken()
		kept, dropped := s.requests(first), s.requests(second)
		s.pod(1, plugins())
		pass(2 * minPeriod)
		if s.requests(first) == kept || s.requests(second) != dropped {
			f.Errorf("%d and %d requests", s.requests(first)-kept, s.requests(second)-dropped)
		}
		if got, want := f.woken(), []types.NamespacedName{owner("b")}; !slices.Equal(got, want) {
			f.Errorf("woken: %v", got)
		}
		f.Expect(owner("b"), nil)
		if len(f.pods) > 0 || len(f.owners) > 0 {
			f.Errorf("%d pods and %d owners stay", len(f.pods), len(f.owners))
		}
		if got := f.Expect(owner("a"), targets[:1])[0]; got != (Verdict{}) {
			f.Errorf("of a pod that was forgotten is known %+v", got)
		}
	})
}

// A pod that stops to wait for an explanation changes lanes between two probes.
func TestAPodThatChangesLanesIsNotLost(t *testing.T) {
	inBubble(t, func(s *sidecars, f *proberTest) {
		pod := s.pod(1, plugins(greeting))
		missing := Expectation{Pod: pod, Plugin: "wasm_filter.bookinfo/details-v1/missing@1", Explain: true}
		f.Expect(owner("greeting"), []Expectation{{Pod: pod, Plugin: greeting}})
		f.becomes(owner("missing"), missing, Verdict{State: StateNotLoaded})
		pass(minRetry)
		f.Expect(owner("missing"), nil)
		s.pod(1, plugins())
		f.becomes(owner("greeting"), Expectation{Pod: pod, Plugin: greeting}, Verdict{State: StateNotLoaded})
	})
}

func TestAPodThatMovedIsAskedAnew(t *testing.T) {
	inBubble(t, func(s *sidecars, f *proberTest) {
		target := Expectation{Pod: s.pod(1, plugins(greeting)), Plugin: greeting}
		f.becomes(owner("greeting"), target, loaded)
		target.Pod.Address = s.pod(2, plugins(greetingOld)).Address
		if got := f.Expect(owner("greeting"), []Expectation{target})[0]; got != (Verdict{}) {
			f.Errorf("of its new address is known %+v", got)
		}
		f.becomes(owner("greeting"), target, Verdict{State: StateOtherRevision})
	})
}

// An answer that was on its way when the pod moved is about another sidecar.
func TestAnAnswerFromAFormerAddressIsNotCounted(t *testing.T) {
	t.Parallel()
	s := startSidecars(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	target := Expectation{Plugin: greeting, Pod: s.pod(1, func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-answer
		plugins(greeting)(w, r)
	})}
	p := New(func(types.NamespacedName) {})
	p.quick.patience = time.Hour
	start(t, p)
	p.Expect(owner("greeting"), []Expectation{target})
	<-asked
	target.Pod.Address = s.pod(2, plugins()).Address
	p.Expect(owner("greeting"), []Expectation{target})
	close(answer)
	until(t, "an answer from the new address", func() bool {
		got := p.Expect(owner("greeting"), []Expectation{target})[0]
		if got == loaded {
			t.Fatal("the answer of another sidecar counts")
		}
		return got.State == StateNotLoaded
	})
}

func TestIPv6Pods(t *testing.T) {
	server := startOn(t, "[::1]:0", plugins(greeting))
	inBubble(t, func(s *sidecars, f *proberTest) {
		for name, pod := range map[string]Pod{
			"v6":           {UID: "v6", Address: server.Addr(), StatsPort: server.Port()},
			"v4 inside v6": {UID: "mapped", Address: netip.AddrFrom16(s.pod(1, plugins(greeting)).Address.As16()), StatsPort: s.port},
		} {
			f.becomes(owner(name), Expectation{Pod: pod, Plugin: greeting}, loaded)
		}
	})
}

func TestDeadPodsDoNotHoldUpOthers(t *testing.T) {
	s := startSidecars(t)
	var live, dead []Expectation
	for i := range 4 * quickWorkers {
		dead = append(dead, Expectation{Pod: s.pod(2*i, silence), Plugin: greeting})
		live = append(live, Expectation{Pod: s.pod(2*i+1, plugins(greeting)), Plugin: greeting})
	}
	p := New(func(types.NamespacedName) {})
	p.patient.patience = time.Hour
	p.patient.workers = len(dead) + len(live) // a busy machine may be slow for one that is alive
	start(t, p)
	p.Expect(owner("dead"), dead)
	until(t, "proof", func() bool { return proven(p, "live", live) == len(live) })
	for _, verdict := range p.Expect(owner("dead"), dead) {
		if verdict != (Verdict{}) {
			t.Fatalf("a pod that has not answered yet: %+v", verdict)
		}
	}
	for _, target := range live {
		// The second confirms the first, the third is its turn in the period that has begun.
		if got := s.requests(target.Pod); got > 3 {
			t.Errorf("%d requests for a pod that answers", got)
		}
	}
}

func TestWhatNeedsPatienceGetsIt(t *testing.T) {
	t.Parallel()
	s := startSidecars(t)
	slow := func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(2 * quickTime):
			plugins(greeting)(w, r)
		case <-r.Context().Done():
		}
	}
	targets := []Expectation{{Pod: s.pod(1, slow), Plugin: greeting}}
	p := New(func(types.NamespacedName) {})
	start(t, p)
	until(t, "proof", func() bool { return proven(p, "slow", targets) == 1 })
	targets[0].Plugin = greetingOld
	asked := s.requests(targets[0].Pod)
	until(t, "another look", func() bool {
		return p.Expect(owner("slow"), targets)[0].State == StateOtherRevision && s.requests(targets[0].Pod) > asked
	})
}

// proven counts the targets that are.
func proven(p *Prober, name string, targets []Expectation) int {
	count := 0
	for _, verdict := range p.Expect(owner(name), targets) {
		if verdict.Proven() {
			count++
		}
	}
	return count
}

func TestDelays(t *testing.T) {
	for _, c := range []struct {
		attempts int
		want     time.Duration
	}{{0, minRetry}, {1, 2 * minRetry}, {3, 2 * time.Second}, {6, maxRetry}, {1e6, maxRetry}} {
		if got := retryDelay(c.attempts); got < c.want || got > c.want*12/10 {
			t.Errorf("after %d probes: %s, not %s and up to a fifth more", c.attempts, got, c.want)
		}
	}
	for pods, want := range map[int]time.Duration{0: minPeriod, 1000: minPeriod, 2400: time.Minute, 10_000: 250 * time.Second, 100_000: maxPeriod} {
		if got := period(pods); got != want {
			t.Errorf("%d pods: a period of %s, not %s", pods, got, want)
		}
	}
	now := time.Unix(0, int64(100*time.Minute+time.Second))
	for turn, want := range map[float64]time.Duration{0: 59 * time.Second, 1. / 60: time.Minute, .5: 29 * time.Second} {
		if got := untilTurn(now, time.Minute, turn).Round(time.Millisecond); got != want {
			t.Errorf("turn %f: %s, not %s", turn, got, want)
		}
	}
}

func TestMetricsCountProbes(t *testing.T) {
	inBubble(t, func(s *sidecars, f *proberTest) {
		before := probeCounts(f.T)
		f.becomes(owner("good"), Expectation{Pod: s.pod(1, plugins(greeting)), Plugin: greeting}, loaded)
		f.becomes(owner("bad"), Expectation{Pod: s.pod(2, text("<html>")), Plugin: greeting}, Verdict{State: StateUnreachable, Failure: FailureMalformed})
		got := map[string]int{}
		for key, count := range probeCounts(f.T) {
			if count > before[key] {
				got[key] = count - before[key]
			}
		}
		if got["envoy success"] < 1 {
			f.Errorf("%v", got)
		}
		delete(got, "envoy success")
		if diff := cmp.Diff(map[string]int{"envoy malformed": s.requests(s.pod(2, silence))}, got); diff != "" {
			f.Error(diff)
		}
		for key := range probeCounts(f.T) {
			if strings.Contains(key, "127.") {
				f.Errorf("an address in a metric: %s", key)
			}
		}
	})
}
