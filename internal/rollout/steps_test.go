package rollout

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/revision"
)

var (
	runsAndCrashes = dataplane.Verdict{State: dataplane.StateLoaded, Crashing: true}
	busy           = dataplane.Verdict{State: dataplane.StateUnreachable}
	silent         = dataplane.Verdict{State: dataplane.StateUnreachable, Silent: true}
)

// everywhere has all pods answer.
func (s *story) everywhere(verdict dataplane.Verdict) {
	for _, t := range s.state.Targets {
		s.see(t.Name, len(t.Pods), verdict)
	}
}

// goesLive has the pods of a workload run the revision in their staging slots, and then
// live.
func (s *story) goesLive(name string, pods int) {
	s.tries(name, pods, runs)
	s.happens(name + " tries it, and is to run it")
	s.see(name, pods, runs)
}

// complete brings a first revision to three workloads with pods, and one without.
func (s *story) complete() *revision.Revision {
	s.Helper()
	s.state.Strategy = Strategy{Staged: true, BakeTime: defaultBakeTime, MaxPods: MaxLoadingPods}
	s.state.Targets = []Target{target("a", 3), target("b", 1), target("c", 2), target("empty", 0)}
	first := s.asks("aa", small, "world")
	for range 3 {
		for range 3 {
			s.happens("") // tried, live, and baking
			s.everywhere(runs)
		}
		s.later(defaultBakeTime)
	}
	s.happens("")
	if r := s.state.Status.Rollout; r.Phase != wasmev1.RolloutComplete || r.To != first.Hash {
		s.Fatalf("%+v", r)
	}
	s.text.Reset()
	return first
}

func TestStagedRollouts(t *testing.T) {
	for name, tell := range map[string]func(*story){
		"staged": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to the workload with the fewest pods")
			s.goesLive("b", 1)
			s.later(time.Second)
			s.happens("its pod runs it, and is watched")
			s.later(defaultBakeTime - time.Second)
			s.happens("a second is left")
			s.later(time.Second)
			s.happens("the others follow")
			s.tries("a", 3, runs)
			s.happens("c is late")
			s.tries("c", 2, runs)
			s.happens("both try it, and are to run it")
			s.see("a", 3, runs)
			s.see("c", 2, runs)
			s.happens("all run it")
			s.later(defaultBakeTime)
			s.happens("it is complete")
		},
		"another revision asked for after one that failed": func(s *story) {
			s.complete()
			s.asks("aa", small, "refused")
			s.happens("a configuration goes to one workload")
			s.tries("b", 1, runsNone)
			s.later(LoadTimeout)
			s.happens("its pod refuses it")
			s.happens("it is rolled back")
			s.state.Asked = nil
			s.happens("the operator has restarted and looks the image up: it stays rolled back")
			s.state.Generation++
			s.happens("the spec asks for another image, which is looked up: nothing failed yet")
			s.happens("it is still looked up")
			s.asks("bb", small, "world")
			s.bars()
			s.happens("its module is run before any proxy does")
		},
		"staged with a refused configuration": func(s *story) {
			s.complete()
			s.asks("aa", small, "refused")
			s.happens("a new configuration goes to one workload")
			s.tries("b", 1, runsNone)
			s.later(LoadTimeout - time.Second)
			s.happens("its pod does not load it beside the last one")
			s.later(time.Second)
			s.happens("it is late: the status has to remember that before anything is written")
			s.happens("the workloads go back")
			s.see("b", 1, runs)
			s.see("empty", 0, runs)
			s.later(time.Hour)
			s.happens("the revision does not come back")
			s.state.Strategy.Retry = s.state.Asked.Hash + strings.Repeat("!", wasmev1.MaxRetryLength)
			s.happens("an annotation that is too long for the status changes nothing")
			s.state.Strategy.Retry = s.state.Asked.Hash
			s.happens("unless it is wanted")
			s.tries("b", 1, runsNone)
			s.later(LoadTimeout)
			s.happens("it is refused again")
			s.happens("the same annotation does not begin it once more")
			s.asks("aa", small, "accepted")
			s.happens("a new spec begins at the first step")
		},
		"staged again before the last try is taken back": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.tries("b", 1, cannotLoad)
			s.later(LoadTimeout)
			s.happens("its pod cannot fetch it")
			s.state.Strategy.Retry = s.state.Asked.Hash
			s.happens("the staging slot is emptied first")
			s.happens("then it is tried again")
			s.tries("b", 1, cannotLoad)
			s.later(LoadTimeout - time.Second)
			s.happens("it has as much time as before")
		},
		"staged with a module that cannot be fetched": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.tries("b", 1, cannotLoad)
			s.later(LoadTimeout)
			s.happens("its pod cannot fetch it, and runs what it ran")
			s.happens("the staging slot is emptied")
		},
		"staged with a refusal that only the live slot shows": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.tries("b", 1, runs)
			s.happens("b tries it, and is to run it")
			s.see("b", 1, runsOther)
			s.later(LoadTimeout)
			s.happens("its pod does not")
			s.happens("it goes back")
		},
		"staged with a crash while it is watched": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.goesLive("b", 1)
			s.happens("its pod runs it")
			s.later(time.Second)
			s.see("b", 1, runsAndCrashes)
			s.happens("it crashes")
			s.happens("the workloads go back at once")
		},
		"staged and held": func(s *story) {
			s.complete()
			s.state.Strategy.Hold = true
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.goesLive("b", 1)
			s.see("b", 1, runsAndCrashes)
			s.happens("it crashes")
			s.see("b", 1, runs)
			s.later(time.Hour)
			s.happens("it stays so")
		},
		"staged and held in the staging slot": func(s *story) {
			s.complete()
			s.state.Strategy.Hold = true
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.tries("b", 1, runsNone)
			s.later(LoadTimeout)
			s.happens("its pod refuses it")
			s.happens("the slot is emptied, and the others wait")
			s.happens("it stays so")
		},
		"staged and paused": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.state.Strategy.Paused = true
			s.goesLive("b", 1)
			s.happens("its pod runs it")
			s.later(defaultBakeTime)
			s.happens("the next step waits")
			s.later(time.Hour)
			s.happens("and waits")
			s.state.Strategy.Paused = false
			s.happens("it goes on")
		},
		"staged for the first time": func(s *story) {
			s.state.Strategy = Strategy{Staged: true, BakeTime: defaultBakeTime, MaxPods: MaxLoadingPods}
			s.state.Targets = []Target{target("a", 2), target("b", 1)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.tries("b", 1, runs)
			s.happens("the pod tries it, and is to run it")
			s.see("b", 1, runs)
			s.happens("it runs it")
			s.later(defaultBakeTime)
			s.happens("the other follows")
		},
		"staged for the first time and refused": func(s *story) {
			s.state.Strategy = Strategy{Staged: true, BakeTime: defaultBakeTime, MaxPods: MaxLoadingPods}
			s.state.Targets = []Target{target("a", 2), target("b", 1), target("empty", 0)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.tries("b", 1, runsNone)
			s.later(LoadTimeout)
			s.happens("the pod refuses it, before any request passed it")
			s.happens("its output is taken back")
			s.happens("nothing runs")
		},
		"staged for the first time and held": func(s *story) {
			s.state.Strategy = Strategy{Staged: true, Hold: true, MaxPods: MaxLoadingPods}
			s.state.Targets = []Target{target("a", 2), target("b", 1)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.tries("b", 1, runsNone)
			s.later(LoadTimeout)
			s.happens("the pod refuses it")
			s.happens("its slot goes")
			s.happens("nothing runs")
		},
		"staged for the first time where there is no listener": func(s *story) {
			s.state.Strategy = Strategy{Staged: true, MaxPods: MaxLoadingPods}
			s.state.Targets = []Target{target("a", 1)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.tries("a", 1, noListener)
			s.later(LoadTimeout)
			s.happens("no other revision would help")
			s.see("a", 1, noListener)
			s.later(LoadTimeout)
			s.happens("the status says so")
		},
		"staged with canaries": func(s *story) {
			s.complete()
			s.state.Strategy.CanaryPods = 2
			s.state.Targets = []Target{target("a", 3), target("b", 4)}
			s.later(LoadTimeout)
			s.happens("other workloads are selected")
			s.everywhere(runs)
			s.asks("bb", small, "world")
			s.happens("all pods of one workload try it")
			s.tries("a", 3, runs)
			s.happens("two of them are to run it")
			output := s.state.Outputs[s.plan.Workloads[0].Output]
			output.Fetch.At = s.state.Now
			s.state.Outputs[s.plan.Workloads[0].Output] = output // the last fetch was a moment ago
			s.see("a", 2, runsNone)
			s.happens("they do not yet")
			s.see("a", 2, runs)
			s.happens("they run it, and are watched")
			s.later(defaultBakeTime - time.Second)
			s.tries("a", 3, dataplane.Verdict{})
			s.happens("another process has not heard of what is tried")
			s.tries("a", 3, runs)
			s.later(time.Second)
			s.happens("they are watched again")
			s.later(defaultBakeTime)
			s.happens("all pods of the workload are to run it")
			s.see("a", 3, runs)
			s.happens("they are watched")
			s.later(defaultBakeTime)
			s.happens("the others have no canaries")
		},
		"staged with a canary that crashes": func(s *story) {
			s.state.Strategy = Strategy{Staged: true, CanaryPods: 1, BakeTime: defaultBakeTime, MaxPods: MaxLoadingPods}
			s.state.Targets = []Target{target("a", 3)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.tries("a", 3, runs)
			s.happens("one is to run it, where none runs")
			s.see("a", 1, runs)
			s.happens("it runs it")
			s.see("a", 1, runsAndCrashes)
			s.happens("and crashes")
			s.happens("all is as before")
		},
		"staged with a canary that is gone": func(s *story) {
			s.complete()
			s.state.Strategy.CanaryPods = 1
			s.state.Targets = s.state.Targets[2:3]
			s.later(LoadTimeout)
			s.happens("another workload is the first")
			s.asks("bb", small, "world")
			s.happens("its pods try it")
			s.tries("c", 2, runs)
			s.happens("one is to run it")
			s.state.Targets[0].Pods = s.state.Targets[0].Pods[1:]
			s.happens("it is gone, and the last one needs no canary")
		},
		"staged while others load": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.state.Share = Share{limit: Load{Pods: 10, Bytes: 1 << 30}, elsewhere: Load{Pods: 10}}
			s.happens("pods of others load another module")
			s.state.Share.elsewhere.Pods = 9
			s.happens("there is room for one")
			s.tries("b", 1, cannotLoad)
			s.later(LoadTimeout)
			s.state.Share.elsewhere.Pods = 10
			s.happens("it cannot be fetched")
			s.happens("what goes back waits for nobody")
		},
		"staged over what ran before": func(s *story) {
			s.state.Targets = []Target{target("a", 2), target("b", 1)}
			s.asks("aa", small, "world")
			s.happens("a first apply, at once")
			s.everywhere(runs)
			s.happens("all run it")
			s.state.Strategy = Strategy{Staged: true, BakeTime: defaultBakeTime, MaxPods: MaxLoadingPods}
			s.happens("the strategy changes, and nothing else")
			s.asks("bb", small, "world")
			s.happens("the next revision is staged")
		},
		"staged with a new workload": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.state.Targets = append(s.state.Targets, target("new", 1), target("new-without-pods", 0))
			s.happens("workloads come")
			s.see("new", 1, runs)
			s.goesLive("b", 1)
			s.happens("their pods answer")
			s.later(defaultBakeTime)
			s.happens("the new one follows with the others")
		},
		"staged twice in quick succession": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.goesLive("b", 1)
			s.happens("its pod runs it")
			s.asks("cc", small, "world")
			s.happens("a third one begins at the first step, from the first one")
		},
		"staged once more while the last step is watched": func(s *story) {
			s.complete()
			s.state.Targets = s.state.Targets[1:2]
			s.later(LoadTimeout)
			s.happens("one workload is left")
			second := s.asks("bb", small, "world")
			s.happens("it tries another module")
			s.goesLive("b", 1)
			s.happens("its pod runs it, and is watched")
			s.state.Asked = nil
			s.happens("the spec is not resolved yet")
			s.asks("cc", small, "world")
			s.happens("a third one begins, from the second one")
			s.tries("b", 1, runsNone)
			s.later(LoadTimeout)
			s.happens("it is refused")
			s.happens("the second one stays")
			if r := s.state.Status.Rollout; r.From != second.Hash {
				s.Errorf("from %s", r.From)
			}
		},
		"staged and taken back by the user": func(s *story) {
			first := s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.state.Asked = first
			s.happens("the spec is what it was")
		},
		"staged over a restart": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.goesLive("b", 1)
			s.happens("its pod runs it")
			s.everywhere(dataplane.Verdict{})
			s.later(time.Hour)
			s.happens("another process has not heard of any pod")
			s.everywhere(runs)
			s.happens("they answer")
		},
		"staged over a restart before it runs": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.tries("b", 1, dataplane.Verdict{})
			s.later(time.Hour)
			s.happens("another process has not heard of the pod")
			s.tries("b", 1, runsNone)
			s.happens("it answers")
		},
		"staged by a replica whose clock is ahead": func(s *story) {
			const ahead = 6 * time.Hour
			s.complete()
			s.later(ahead)
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.later(-ahead)
			s.happens("another replica takes over: its pod has as long as any other")
			s.later(LoadTimeout - time.Second)
			s.happens("a second is left")
			s.tries("b", 1, runs)
			s.later(ahead)
			s.happens("the first replica again: its pod tries it, and is to run it")
			s.see("b", 1, runs)
			s.happens("its pod runs it, and is watched")
			s.later(-ahead)
			s.happens("another replica takes over: it watches it as long as any other")
			s.later(defaultBakeTime - time.Second)
			s.happens("a second is left")
			s.later(time.Second)
			s.happens("the others follow")
		},
		"run by a canary of a replica whose clock is ahead": func(s *story) {
			const ahead = 6 * time.Hour
			s.complete()
			s.state.Strategy.CanaryPods = 1
			s.state.Targets = s.state.Targets[:1]
			s.later(ahead)
			s.happens("one workload is left")
			s.asks("bb", small, "world")
			s.happens("its pods try another module")
			s.tries("a", 3, runs)
			s.happens("one is to run it")
			s.later(-ahead)
			s.happens("another replica takes over")
			s.see("a", 1, runsNone)
			s.later(LoadTimeout)
			s.happens("the canary refuses it")
		},
		"refused where a replica staged it whose clock is ahead": func(s *story) {
			const ahead = 6 * time.Hour
			s.complete()
			s.later(ahead)
			s.asks("aa", small, "refused")
			s.happens("a configuration goes to one workload")
			s.later(-ahead)
			s.happens("another replica takes over")
			s.tries("b", 1, runsNone)
			s.later(LoadTimeout)
			s.happens("its pod refuses it")
		},
		"refused where no agent tells what it was sent": func(s *story) {
			s.complete()
			s.asks("aa", small, "refused")
			s.happens("a configuration goes to one workload")
			s.tries("b", 1, dataplane.Verdict{State: dataplane.StateOtherRevision})
			s.later(LoadTimeout)
			s.happens("its pod keeps an older one: istiod is not made to send it again")
		},
		"a first revision that cannot be resolved any more": func(s *story) {
			s.state.Strategy = Strategy{Staged: true, BakeTime: defaultBakeTime, MaxPods: MaxLoadingPods}
			s.state.Targets = []Target{target("a", 1), target("b", 2)}
			asked := s.asks("aa", small, "world")
			s.state.Distributed, s.state.Asked = false, nil
			s.happens("it is not resolved")
			s.state.Asked = asked
			s.happens("its module is copied")
			s.state.Asked = nil
			s.happens("it is not resolved meanwhile: no proxy is asked for it")
			s.state.Distributed, s.state.Asked = true, asked
			s.happens("one workload tries it")
			s.tries("a", 1, runs)
			s.state.Targets = append(s.state.Targets, target("empty", 0))
			s.state.Asked = nil
			s.happens("it is not resolved: it stays where it is tried, and begins nowhere else")
			s.state.Asked = asked
			s.happens("it goes on")
			s.bars()
			s.happens("a policy refuses it")
			s.state.Barred = ""
			s.happens("policies cannot be asked: it does not come back")
		},
		"a first revision rolled back, and then no output can be written": func(s *story) {
			s.state.Strategy = Strategy{Staged: true, MaxPods: MaxLoadingPods}
			s.state.Targets = []Target{target("a", 1)}
			s.asks("aa", small, "refused")
			s.happens("a first apply")
			s.tries("a", 1, runsNone)
			s.later(LoadTimeout)
			s.happens("it is refused")
			s.happens("it is taken back")
			outputs, targets := s.state.Outputs, s.state.Targets
			s.state.Outputs, s.state.Targets = nil, nil
			s.state.Blocked = condition.False(wasmev1.ReasonInvalidSpec, "nothing is selected")
			s.happens("nothing is selected")
			s.state.Outputs, s.state.Targets, s.state.Blocked = outputs, targets, condition.Verdict{}
			s.happens("its workload is selected again: it stays rolled back")
		},
		"held where it failed": func(s *story) {
			s.complete()
			s.state.Strategy.Hold = true
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.goesLive("b", 1)
			s.see("b", 1, runsAndCrashes)
			s.happens("it crashes there")
			s.happens("everything stays as it is")
			s.state.Asked = nil
			s.state.Generation++
			s.happens("the spec asks for another image, which is looked up: it goes back")
			s.everywhere(runs)
			s.asks("aa", small, "refused")
			s.happens("a configuration goes to one workload")
			s.tries("b", 1, runsNone)
			s.later(LoadTimeout)
			s.happens("it is refused there")
			s.happens("nothing is tried any more")
			s.state.Strategy.Retry = s.state.Asked.Hash
			s.happens("it is tried again")
		},
		"live where its pods fall silent": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.goesLive("b", 1)
			s.see("b", 1, silent)
			s.later(LoadTimeout - time.Second)
			s.happens("a second is left")
			s.later(time.Second)
			s.happens("it has kept its pod from answering")
		},
		"staged where its pod is replaced meanwhile": func(s *story) {
			s.complete()
			s.asks("aa", small, "refused")
			s.happens("a configuration goes to one workload")
			s.later(LoadTimeout - 5*time.Second)
			pod := &s.state.Targets[1].Pods[0]
			pod.Name, pod.ReadySince = "b-1", s.state.Now
			s.later(10 * time.Second)
			s.tries("b", 1, runsNone)
			s.happens("its new pod has had little time: it neither goes live nor fails")
			s.later(LoadTimeout)
			s.happens("it is refused")
		},
		"a fix for a first revision that is refused": func(s *story) {
			s.state.Strategy = Strategy{Staged: true, BakeTime: defaultBakeTime, MaxPods: MaxLoadingPods}
			s.state.Targets = []Target{target("a", 1), target("b", 2), target("empty", 0)}
			s.asks("aa", small, "refused")
			s.happens("a first apply")
			s.tries("a", 1, runsNone)
			s.asks("bb", small, "world")
			s.state.Distributed = false
			s.happens("its module is copied: the one that is refused goes nowhere else")
			s.happens("it is still copied")
			s.state.Distributed = true
			s.happens("it is there")
			s.tries("a", 1, runsNone)
			s.later(LoadTimeout)
			s.happens("it is refused, too")
			s.happens("nothing is left, not in the workload without pods either")
		},
		"refused by pods of a node whose clock is ahead": func(s *story) {
			s.complete()
			s.asks("aa", small, "refused")
			s.happens("a configuration goes to one workload")
			s.state.Targets[1].Pods[0].ReadySince = s.state.Now.Add(6 * time.Hour)
			s.tries("b", 1, runsNone)
			s.later(LoadTimeout)
			s.happens("its pod refuses it, and counts")
		},
		"tried again while pods of a deleted workload serve": func(s *story) {
			s.complete()
			s.asks("aa", small, "refused")
			s.happens("a configuration goes to one workload")
			s.tries("b", 1, runsNone)
			s.later(LoadTimeout)
			s.happens("it is refused")
			s.state.Targets = slices.Delete(s.state.Targets, 1, 2)
			s.state.Deleted = []Deleted{{Workload: "Deployment/b", Pods: 1}}
			s.happens("the workload is deleted, and its pod still serves")
			s.state.Strategy.Retry = s.state.Asked.Hash
			s.happens("it is tried again elsewhere")
		},
		"staged with pods that are not Ready any more": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.state.Targets[1].Pods, s.state.Targets[1].Unready = nil, []Unready{{Name: "b-0"}}
			s.later(time.Second)
			s.happens("its pod is not Ready, and no other workload gets it")
			s.later(LoadTimeout)
			s.happens("it is not Ready for long")
			s.happens("the last good revision is all that is left")
		},
		"live with pods that are not Ready any more": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.goesLive("b", 1)
			s.later(5 * time.Second)
			s.state.Targets[1].Pods, s.state.Targets[1].Unready = nil, []Unready{{Name: "b-0", Created: noon.Add(-time.Hour), Since: s.state.Now}}
			s.happens("its pod is not Ready, and no other workload gets it")
			s.later(LoadTimeout)
			s.happens("it is not Ready for long")
		},
		"live where its pod is replaced meanwhile": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.goesLive("b", 1)
			s.happens("it is watched")
			s.later(5 * time.Second)
			pods := s.state.Targets[1].Pods
			s.state.Targets[1].Pods, s.state.Targets[1].Unready = nil, []Unready{{Name: "b-1", Created: s.state.Now, Since: s.state.Now}}
			s.later(5 * time.Second)
			s.happens("its new pod starts, and no other workload gets it")
			pods[0].Name, pods[0].ReadySince = "b-1", s.state.Now
			s.state.Targets[1].Pods, s.state.Targets[1].Unready = pods, nil
			s.see("b", 1, runs)
			s.happens("it runs it, and is watched as long as any other")
			s.state.Targets[1].Pods, s.state.Targets[1].Unready = nil, []Unready{{Name: "b-2", Created: s.state.Now, Since: s.state.Now}}
			s.later(LoadTimeout)
			s.happens("another one starts slowly: the others follow")
		},
		"staged with a canary that is not Ready for a moment": func(s *story) {
			s.complete()
			s.state.Strategy.CanaryPods, s.state.Strategy.BakeTime = 1, time.Hour
			s.state.Targets = s.state.Targets[:1]
			s.asks("bb", small, "world")
			s.happens("its pods try another module")
			s.tries("a", 3, runs)
			s.happens("one is to run it")
			s.everywhere(runs)
			s.later(time.Minute)
			s.happens("it does")
			s.later(30 * time.Minute)
			pods := s.state.Targets[0].Pods
			s.state.Targets[0].Pods, s.state.Targets[0].Unready = pods[1:], []Unready{{Name: "a-0", Created: noon.Add(-time.Hour), Since: s.state.Now}}
			s.later(time.Second)
			s.happens("it is not Ready: it has some time")
			s.later(LoadTimeout)
			s.happens("it is not Ready for long")
		},
		"staged for the first time with pods that are not Ready any more": func(s *story) {
			s.state.Strategy = Strategy{Staged: true, MaxPods: MaxLoadingPods}
			s.state.Targets = []Target{target("a", 1), target("b", 1)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.state.Targets[0].Pods, s.state.Targets[0].Unready = nil, []Unready{{Name: "a-0"}}
			s.happens("its pod is not Ready, and does not get it live")
			s.later(LoadTimeout)
			s.happens("it is not Ready for long")
			s.happens("all is as before")
		},
		"staged with a canary that is not Ready any more": func(s *story) {
			s.complete()
			s.state.Strategy.CanaryPods = 1
			s.state.Targets = s.state.Targets[:1]
			s.later(LoadTimeout)
			s.happens("one workload is left")
			s.asks("bb", small, "world")
			s.happens("its pods try another module")
			s.tries("a", 3, runs)
			s.happens("one is to run it")
			s.state.Targets[0].Pods, s.state.Targets[0].Unready = s.state.Targets[0].Pods[1:], []Unready{{Name: "a-0"}}
			s.later(time.Second)
			s.happens("it is not Ready, and no other one is chosen")
			s.later(LoadTimeout)
			s.happens("it is not Ready for long")
		},
		"staged under another id": func(s *story) {
			s.complete()
			s.asks("aa", small, "world", func(c *revision.Content) { c.Filter.ID = "other" })
			s.happens("one workload tries it in another EnvoyFilter, beside the one that serves")
			s.tries("b", 1, runs)
			s.happens("it is to run it")
			s.see("b", 1, runs)
			s.happens("it runs it, and the former EnvoyFilter is gone")
			s.later(defaultBakeTime)
			s.happens("the others follow")
		},
		"staged after a first revision that failed": func(s *story) {
			s.state.Strategy = Strategy{Staged: true, Hold: true, MaxPods: MaxLoadingPods}
			s.state.Targets = []Target{target("a", 1), target("b", 1), target("empty", 0)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.tries("a", 1, runs)
			s.happens("it is tried")
			s.see("a", 1, runsAndCrashes)
			s.happens("and crashes")
			s.state.Targets = append(s.state.Targets, target("new", 0))
			s.happens("a new workload does not get it")
			s.asks("bb", small, "world")
			s.happens("the next one begins at the first step, and nobody gets the one that crashes")
		},
		"staged and all is silent": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.everywhere(silent)
			s.tries("b", 1, silent)
			s.later(LoadTimeout)
			s.happens("no pod answers: the operator cannot reach them")
			s.see("c", 2, runs)
			s.happens("another one answers: it is the revision")
		},
		"staged and sent again": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			unsent := runsNone
			unsent.Delivered = false
			s.tries("b", 1, unsent)
			s.later(LoadTimeout)
			s.happens("nothing shows that its pod was sent it")
			s.later(time.Hour)
			s.happens("istiod is away")
			s.tries("b", 1, runsNone)
			s.happens("it is back, and the pod refuses it")
			s.happens("the slot is emptied")
			s.asks("cc", small, "world")
			s.happens("a third one")
			s.tries("b", 1, unsent)
			s.later(LoadTimeout)
			s.happens("it is sent again")
			s.tries("b", 1, runs)
			s.happens("and now the pod loads it")
		},
		"staged and refused where no agent answers": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.tries("b", 1, dataplane.Verdict{State: dataplane.StateNotLoaded})
			s.later(LoadTimeout)
			s.happens("its pod does not load it")
		},
		"staged without a word of istiod": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.tries("b", 1, noListener)
			s.later(time.Hour)
			s.happens("the pod runs what it ran, and was sent nothing: istiod is away")
			s.tries("b", 1, runs)
			s.happens("istiod is back")
		},
		"staged while the spec cannot be resolved": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.state.Asked = nil
			s.happens("access is denied")
		},
		"staged while the next module is copied": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.asks("cc", small, "world")
			s.state.Distributed = false
			s.happens("the last good revision runs meanwhile")
		},
		"staged with what cannot be written": func(s *story) {
			s.complete()
			s.failures = map[string]error{"b-f": fmt.Errorf("injected")}
			s.asks("bb", small, "world")
			s.happens("another workload is the first")
		},
		"staged with a pod that does not answer": func(s *story) {
			s.complete()
			s.state.Targets = []Target{target("a", 3), target("b", 4)}
			s.later(LoadTimeout)
			s.happens("other workloads are selected")
			s.everywhere(runs)
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.tries("a", 3, silent)
			s.tries("a", 1, runs)
			s.happens("two of three are waited for")
			s.later(LoadTimeout)
			s.happens("and skipped")
			s.see("a", 3, silent)
			s.see("a", 1, runs)
			s.later(LoadTimeout)
			s.happens("and once more")
		},
		"staged with pods that fall silent": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.asks("cc", small, "world")
			s.happens("and a third one")
			s.tries("b", 1, busy)
			s.see("b", 1, busy)
			s.later(LoadTimeout)
			s.happens("its pod does not answer for a moment")
			s.tries("b", 1, silent)
			s.see("b", 1, silent)
			s.happens("its pod does not answer any more")
			s.happens("the slot is emptied")
		},
		"staged with pods that never answered": func(s *story) {
			s.state.Strategy = Strategy{Staged: true, MaxPods: MaxLoadingPods}
			s.state.Targets = []Target{target("a", 1)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.tries("a", 1, silent)
			s.later(LoadTimeout)
			s.happens("they are waited for, and it goes on")
			s.see("a", 1, silent)
			s.later(LoadTimeout)
			s.happens("it is complete, and nobody knows")
		},
		"staged without pods": func(s *story) {
			s.complete()
			s.state.Targets = []Target{target("a", 0), target("b", 0)}
			s.asks("bb", small, "world")
			s.happens("all pods are gone: no step can be judged")
			s.happens("it is complete")
		},
		"withdrawn": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to the workload with the fewest pods")
			s.goesLive("b", 1)
			s.happens("its pod runs it, and is watched")
			asked := s.bars()
			s.happens("a policy refuses it: what runs it goes back")
			s.happens("the others keep what they run")
			s.state.Asked, s.state.Barred = asked, ""
			s.happens("it is signed: its rollout begins again")
		},
		"a first revision withdrawn": func(s *story) {
			s.state.Strategy = Strategy{Staged: true, BakeTime: defaultBakeTime, MaxPods: MaxLoadingPods}
			s.state.Targets = []Target{target("a", 1), target("b", 2)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.goesLive("a", 1)
			s.bars()
			s.happens("a policy refuses it: nothing runs it any more")
			s.happens("it stays so")
		},
		"withdrawn after a first revision that was never complete": func(s *story) {
			s.state.Strategy = Strategy{Staged: true, BakeTime: defaultBakeTime, MaxPods: MaxLoadingPods}
			s.state.Targets = []Target{target("a", 1), target("b", 2)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.goesLive("a", 1)
			s.happens("one workload runs it")
			s.asks("bb", small, "world")
			s.happens("another module comes before it is complete")
			s.bars()
			s.happens("a policy refuses that: the first one stays where it is")
		},
		"the last good revision barred": func(s *story) {
			s.state.Strategy = Strategy{Staged: true, MaxPods: MaxLoadingPods}
			s.state.Targets = []Target{target("a", 1), target("b", 2)}
			first := s.asks("aa", small, "world")
			for range 8 {
				s.happens("")
				s.everywhere(runs)
				s.tries("a", 1, runs)
				s.tries("b", 2, runs)
			}
			s.text.Reset()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.goesLive("a", 1)
			s.state.Asked = first
			s.bars()
			s.happens("the spec asks for the first one again, which a policy refuses now: what is in force stays")
		},
		"withdrawn, and at once": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to the workload with the fewest pods")
			s.goesLive("b", 1)
			s.bars()
			s.state.Strategy = Strategy{}
			s.happens("a policy refuses it, and the strategy is Immediate now: the last good one comes back")
		},
		"staged and at once again": func(s *story) {
			s.complete()
			s.asks("bb", small, "world")
			s.happens("another module goes to one workload")
			s.state.Strategy = Strategy{}
			s.happens("the strategy is Immediate")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t)
			tell(s)
			s.end()
		})
	}
}

func TestOutputsThatAreRenderedAnew(t *testing.T) {
	for name, tell := range map[string]func(*story){
		"rendered anew": func(s *story) {
			s.complete()
			s.state.Rendering = "v2"
			s.everywhere(dataplane.Verdict{})
			s.happens("another version of the operator has not heard of any pod")
			s.everywhere(runs)
			s.happens("it begins with one workload")
			s.later(time.Second)
			s.happens("that one is watched")
			s.later(defaultBakeTime - time.Second)
			s.happens("the others follow")
			s.later(defaultBakeTime)
			s.happens("that was all")
		},
		"rendered anew and not loaded": func(s *story) {
			s.complete()
			s.see("a", 3, runsNone)
			s.later(LoadTimeout)
			s.happens("one does not run it anyway")
			s.later(LoadTimeout)
			s.happens("")
			s.state.Rendering = "v2"
			s.happens("another version begins with one that does")
			s.see("b", 1, cannotLoad)
			s.later(defaultBakeTime)
			s.happens("its pod cannot load it any more")
			s.later(LoadTimeout)
			s.happens("the others stay as they are")
			s.see("b", 1, runs)
			s.happens("it can again")
			s.later(defaultBakeTime)
			s.happens("what does not run it anyway comes last")
		},
		"rendered anew with another revision": func(s *story) {
			s.complete()
			s.state.Rendering = "v2"
			s.asks("bb", small, "world")
			s.happens("one workload tries it")
			s.goesLive("b", 1)
			s.later(defaultBakeTime)
			s.happens("and runs it, and the others are rendered anew when they get it")
			s.happens("")
		},
		"rendered anew at once": func(s *story) {
			s.state.Targets = []Target{target("a", 3), target("b", 1)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.everywhere(runs)
			s.later(time.Minute)
			s.state.Rendering = "v2"
			s.happens("the strategy is Immediate")
		},
		"rendered anew without pods": func(s *story) {
			s.complete()
			s.state.Targets = []Target{target("a", 0), target("b", 0)}
			s.later(LoadTimeout)
			s.happens("")
			s.state.Rendering = "v2"
			s.happens("nobody could tell anything")
		},
		"rendered anew in steps that grow": func(s *story) {
			s.complete()
			s.state.Strategy.MaxPods = 2
			s.state.Rendering = "v2"
			for range 4 {
				s.happens("")
				s.later(defaultBakeTime)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t)
			tell(s)
			s.end()
		})
	}
}

func TestPodsOfAStepAreWatched(t *testing.T) {
	g := NewWithT(t)
	s := newStory(t)
	s.complete()
	watched := func() map[string]int {
		counts := map[string]int{}
		for _, expectation := range s.plan.Expectations() {
			if expectation.Watch {
				counts[expectation.Plugin]++
			}
		}
		return counts
	}
	g.Expect(watched()).To(BeEmpty(), "nothing is rolled out")
	s.state.Targets = append(s.state.Targets, target("d", 2*MaxLoadingPods))
	s.happens("a workload comes")
	s.see("d", 2*MaxLoadingPods, runs)
	next := s.asks("bb", small, "world")
	s.happens("another module")
	g.Expect(watched()).To(BeEmpty(), "nothing runs it yet")
	s.goesLive("b", 1)
	g.Expect(watched()).To(Equal(map[string]int{"wasm_filter.ns/b/hello@" + next.Hash: 1}))
	s.happens("it is watched")
	g.Expect(watched()).To(HaveLen(1))
	s.later(defaultBakeTime)
	s.happens("the others follow")
	s.tries("a", 3, runs)
	s.tries("c", 2, runs)
	s.happens("they try it")
	s.see("a", 3, runs)
	s.see("c", 2, runs)
	s.happens("they run it")
	s.later(defaultBakeTime)
	s.happens("the large one tries it")
	s.tries("d", 2*MaxLoadingPods, runs)
	s.happens("and is to run it")
	all := 0
	for _, pods := range watched() {
		all += pods
	}
	g.Expect(all).To(Equal(MaxLoadingPods), "not thousands of pods each second")
}

func TestWhatPodsRefusedBeforeTheyWereAskedCountsUntilTheyProveTheRevision(t *testing.T) {
	g := NewWithT(t)
	s := newStory(t)
	proved := func() []bool {
		var all []bool
		for _, expectation := range s.plan.Expectations() {
			all = append(all, expectation.ProvedBefore)
		}
		return all
	}
	s.state.Targets = []Target{target("a", 2)}
	s.asks("aa", small, "world")
	s.happens("a first apply")
	g.Expect(proved()).To(Equal([]bool{false, false}))
	s.everywhere(runs)
	s.happens("they run it")
	s.happens("the status says so")
	g.Expect(proved()).To(Equal([]bool{true, true}))
	s.asks("aa", small, "goodbye")
	s.happens("another configuration")
	g.Expect(proved()).To(Equal([]bool{false, false}))
}

func TestStrategyIsThatOfTheSpec(t *testing.T) {
	g := NewWithT(t)
	fd := &wasmev1.FilterDeployment{}
	defaults := Strategy{Staged: true, BakeTime: 10 * time.Second, MaxPods: 256}
	g.Expect(StrategyOf(fd)).To(Equal(defaults))
	fd.Spec.Rollout = &wasmev1.RolloutSpec{Strategy: wasmev1.RolloutImmediate}
	g.Expect(StrategyOf(fd)).To(Equal(Strategy{}))
	fd.Spec.Rollout.Strategy = wasmev1.RolloutStaged
	g.Expect(StrategyOf(fd)).To(Equal(defaults))
	fd.Annotations = map[string]string{wasmev1.RetryAnnotation: "12345678"}
	fd.Spec.Rollout.BakeTime, fd.Spec.Rollout.MaxPods = &metav1.Duration{}, new(int32(7))
	fd.Spec.Rollout.OnFailure, fd.Spec.Rollout.Paused = wasmev1.RolloutHold, true
	g.Expect(StrategyOf(fd)).To(Equal(Strategy{Staged: true, MaxPods: 7, Hold: true, Paused: true, Retry: "12345678"}))
	fd.Spec.Rollout = &wasmev1.RolloutSpec{CanaryPods: new(int32(2)), Analysis: &wasmev1.RolloutAnalysis{MaxErrorRatioIncrease: "0.5%"}}
	g.Expect(*StrategyOf(fd).Analysis).To(Equal(Analysis{MaxErrorRatioIncrease: new(0.005), MinRequests: 100}))
	fd.Spec.Rollout.Analysis = &wasmev1.RolloutAnalysis{MaxLatencyIncrease: "150%", MinRequests: new(int32(10))}
	g.Expect(*StrategyOf(fd).Analysis).To(Equal(Analysis{MaxLatencyIncrease: new(1.5), MinRequests: 10}))
}

func TestWhatARevisionIsToBlameFor(t *testing.T) {
	for _, row := range []struct {
		reason string
		from   string
		step   int32
		bad    bool
	}{
		{wasmev1.ReasonCrashing, "", 9, true},
		{wasmev1.ReasonRefused, "", 9, true},
		{wasmev1.ReasonOlderRevision, "", 9, true},
		{wasmev1.ReasonFetchFailed, "", 9, true},
		{wasmev1.ReasonNotLoaded, "", 9, true},
		{wasmev1.ReasonNoSidecar, "12345678", 1, false},
		{wasmev1.ReasonUnreachable, "12345678", 1, false},
		{wasmev1.ReasonLoaded, "12345678", 1, false},
		{wasmev1.ReasonNoListener, "12345678", 1, true},
		{wasmev1.ReasonAnchorMissing, "12345678", 1, true},
		{wasmev1.ReasonNoListener, "12345678", 2, false},
		{wasmev1.ReasonNoListener, "", 1, false},
	} {
		t.Run(row.reason, func(t *testing.T) {
			p := Plan{Rollout: &wasmev1.RolloutStatus{From: row.from, Step: &row.step}}
			NewWithT(t).Expect(p.isBad(condition.Verdict{Reason: row.reason})).To(Equal(row.bad))
		})
	}
}

// TestSpecsHaveTheSlotsOfTheirWorkloads goes through a rollout with canaries, and looks for the
// plugins in what is rendered.
func TestSpecsHaveTheSlotsOfTheirWorkloads(t *testing.T) {
	s := newStory(t)
	s.state.Strategy = Strategy{Staged: true, BakeTime: defaultBakeTime, MaxPods: MaxLoadingPods, CanaryPods: 1}
	s.state.Targets = []Target{target("a", 2)}
	var first, second *revision.Revision
	owner, a := s.state.Owner, s.state.Targets[0].Target
	plugins := func() map[string]string {
		return map[string]string{
			"first":  render.PluginName(owner, a, first.Hash),
			"tried":  render.StagedPluginName(owner, a, cmp.Or(second, first).Hash),
			"canary": render.CanaryPluginName(owner, a, cmp.Or(second, first).Hash),
			"second": render.PluginName(owner, a, cmp.Or(second, &revision.Revision{}).Hash),
		}
	}
	rendered := func() []byte {
		t.Helper()
		spec, err := s.plan.Workloads[0].Spec(render.Mesh{ClusterID: "Kubernetes", RootNamespace: "istio-system", ModuleServerURL: "http://modules"})
		if err != nil {
			t.Fatal(err)
		}
		return spec
	}
	patches := func() int { return bytes.Count(rendered(), []byte(`"applyTo"`)) }
	has := func(step string, want ...string) {
		t.Helper()
		spec := rendered()
		for name, plugin := range plugins() {
			if got := bytes.Contains(spec, []byte(`"`+plugin+`"`)); got != slices.Contains(want, name) {
				t.Errorf("%s: the spec has the plugin %s: %t", step, name, got)
			}
		}
	}
	first = s.asks("aa", small, "world")
	s.happens("")
	has("a first revision is tried", "tried")
	for range 3 {
		s.tries("a", 2, runs)
		s.happens("")
		s.everywhere(runs)
		s.later(defaultBakeTime)
	}
	s.happens("")
	has("it is complete", "first")
	second = s.asks("bb", small, "world")
	s.happens("")
	has("another one is tried", "first", "tried")
	s.tries("a", 2, runs)
	s.happens("")
	has("a canary runs it", "first", "tried", "canary")
	s.everywhere(runs)
	s.tries("a", 2, runs)
	s.happens("")
	s.later(defaultBakeTime)
	s.happens("")
	has("all pods run it", "second")
	idle := patches()
	s.state.Strategy.Staged = false
	s.happens("")
	if immediate := patches(); immediate >= idle {
		t.Errorf("without a staging slot there are %d patches, with one that is idle %d", immediate, idle)
	}
}
