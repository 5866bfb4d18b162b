package rollout

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// story is a rollout, told by the plans that follow each other: each golden file
// holds what happens and the plan after it.
type story struct {
	*testing.T
	state State
	plan  Plan
	text  strings.Builder
	// failures are the errors of the next writes, by the outputs' names.
	failures map[string]error
}

func newStory(t *testing.T, targets ...Target) *story {
	t.Helper()
	s := &story{T: t, state: State{
		Owner: types.NamespacedName{Namespace: "ns", Name: "hello"}, Generation: 1, Distributed: true, Rendering: "v1",
		Outputs: Outputs{}, Targets: targets, Now: noon,
	}}
	return s
}

// target is a Deployment with so many Ready pods that have a sidecar.
func target(name string, pods int) Target {
	t := Target{Target: workload.Target{Kind: "Deployment", Namespace: "ns", Name: name, Selector: map[string]string{"app": name}}}
	for i := range pods {
		address := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		t.Pods = append(t.Pods, Pod{
			Name: fmt.Sprintf("%s-%d", name, i), ReadySince: noon.Add(-time.Hour), Sidecar: true,
			Address: dataplane.Pod{UID: types.UID(fmt.Sprintf("%s-%d", name, i)), Address: address},
		})
	}
	return t
}

// asks has the spec ask for a module of that size, and a configuration.
func (s *story) asks(module string, bytes int64, configuration string, changes ...func(*revision.Content)) *revision.Revision {
	s.Helper()
	content := revision.Content{
		Filter: wasmev1.FilterSpec{ID: "f", RootID: "root", Config: &wasmev1.Configuration{Raw: fmt.Appendf(nil, "%q", configuration)}},
		Module: wasmev1.ModuleStatus{SHA256: strings.Repeat(module, 64/len(module)), SizeBytes: &bytes},
	}
	for _, change := range changes {
		change(&content)
	}
	asked, err := revision.New(s.state.Owner, content)
	if err != nil {
		s.Fatal(err)
	}
	s.state.Asked = &asked
	s.state.History = append([]revision.Revision{asked}, s.state.History...)
	return &asked
}

// bars has policies refuse the revision that the spec asks for, and returns it.
func (s *story) bars() *revision.Revision {
	asked := s.state.Asked
	s.state.Asked, s.state.Barred = nil, asked.Hash
	return asked
}

// happens decides and writes until nothing is due, has the outputs of waiting workloads stay
// what the plan says, keeps what was written and the status, and tells the plan.
func (s *story) happens(what string) {
	fmt.Fprintf(&s.text, "## %s: %s\n", s.state.Now.Format(time.TimeOnly), what)
	for i := range s.state.Targets {
		s.state.Targets[i].Attempt = nil
	}
	s.plan = Decide(s.state)
	for due := s.plan.Due(s.state); len(due) > 0; due = s.plan.Due(s.state) {
		for _, place := range due {
			s.state.Targets[place].Attempt = s.write(&s.plan.Workloads[place])
		}
		s.plan = Decide(s.state)
	}
	for _, place := range s.plan.Waiting() {
		if w := &s.plan.Workloads[place]; !reflect.DeepEqual(s.written(w), s.state.Outputs[w.Output]) {
			s.write(w)
			s.state.Outputs[w.Output] = s.written(w)
		}
	}
	s.text.WriteString(s.plan.String())
	if obsolete := s.plan.Obsolete(s.state.Outputs); len(obsolete) > 0 {
		fmt.Fprintln(&s.text, "obsolete:", obsolete)
		for _, key := range obsolete {
			delete(s.state.Outputs, key)
		}
	}
	if renewals := s.plan.Renewals(); len(renewals) > 0 {
		fmt.Fprintln(&s.text, "renewed for the first time:", strings.Join(renewals, ", "))
	}
	s.text.WriteString("\n")
	for i := range s.plan.Workloads {
		s.keep(&s.plan.Workloads[i])
	}
	for i := range s.state.Targets {
		s.expect(i)
	}
	report := Report{Module: condition.True("Resolved", "resolved"), Selection: condition.True("Selected", "selected"), Plan: s.plan}
	report.SetStatus(&s.state.Status, s.state.Generation, s.state.Now)
	s.tellStatus()
}

// tellStatus tells what the status says, conditions without their messages.
func (s *story) tellStatus() {
	status := s.state.Status.DeepCopy()
	for _, c := range status.Conditions {
		fmt.Fprintf(&s.text, "%s %s %s, observed %d, since %s\n", c.Type, c.Status, c.Reason, c.ObservedGeneration, c.LastTransitionTime.UTC().Format(time.TimeOnly))
	}
	status.Conditions, status.Module = nil, nil
	text, err := yaml.Marshal(status)
	if err != nil {
		s.Fatal(err)
	}
	fmt.Fprintf(&s.text, "%s\n", text)
}

func (s *story) write(w *Workload) *Attempt {
	attempt := &Attempt{Output: w.Output, Fetch: w.Fetch}
	fmt.Fprintf(&s.text, "write %s %v\n", w.Output, w.Annotations())
	if err := s.failures[w.Output.Name]; err != nil {
		attempt.Reason, attempt.Err = wasmev1.ReasonWriteFailed, err
	}
	return attempt
}

// keep leaves the output that was written.
func (s *story) keep(w *Workload) {
	if w.Phase == Programmed {
		s.state.Outputs[w.Output] = s.written(w)
	}
}

// written returns what the output of a workload says of itself once it is written.
func (s *story) written(w *Workload) Output {
	object := metav1.ObjectMeta{Annotations: w.Annotations(), Generation: s.state.Outputs[w.Output].Generation}
	if s.state.Outputs[w.Output].Revision != w.serving() {
		object.Generation++
	}
	return OutputOf(&object)
}

// expect leaves what the prober is told to expect of a workload's pods.
func (s *story) expect(place int) {
	w := &s.plan.Workloads[place]
	for i := range s.state.Targets[place].Pods {
		pod := &s.state.Targets[place].Pods[i]
		var now *dataplane.Seen
		for _, e := range slices.Backward(s.plan.pluginsOf(w, *pod, s.plan.plugins(w))) {
			now = &dataplane.Seen{Plugin: e.Plugin, Verdict: pod.Seen.On(e.Plugin), Other: now}
		}
		if now != nil {
			pod.Seen = *now
		}
	}
}

// see has so many pods of a workload answer.
func (s *story) see(name string, pods int, verdict dataplane.Verdict) {
	for i := range s.state.Targets {
		if s.state.Targets[i].Name != name {
			continue
		}
		for j := range s.state.Targets[i].Pods[:pods] {
			s.state.Targets[i].Pods[j].Seen.Verdict = verdict
		}
	}
}

// tries has so many pods of a workload say what is in their staging slot.
func (s *story) tries(name string, pods int, verdict dataplane.Verdict) {
	for i := range s.state.Targets {
		if s.state.Targets[i].Name != name {
			continue
		}
		for j := range s.state.Targets[i].Pods[:pods] {
			seen := &s.state.Targets[i].Pods[j].Seen
			cmp.Or(seen.Other, seen).Verdict = verdict // one that runs none yet only tries
		}
	}
}

func (s *story) later(wait time.Duration) { s.state.Now = s.state.Now.Add(wait) }

// end holds the story to its golden file.
func (s *story) end() {
	s.Helper()
	path := filepath.Join("testdata", filepath.Base(s.Name())+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(s.text.String()), 0o644); err != nil {
			s.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		s.Fatal(err)
	}
	if got := s.text.String(); got != string(want) {
		s.Errorf("the plans differ from %s (-update rewrites it):\n%s", path, got)
	}
}

var (
	runs       = dataplane.Verdict{State: dataplane.StateLoaded}
	runsOther  = dataplane.Verdict{State: dataplane.StateOtherRevision, Fetch: dataplane.FetchClean}
	runsNone   = dataplane.Verdict{State: dataplane.StateNotLoaded, Fetch: dataplane.FetchClean, Delivered: true}
	noListener = dataplane.Verdict{State: dataplane.StateNotLoaded, Fetch: dataplane.FetchClean, Untried: true}
	cannotLoad = dataplane.Verdict{State: dataplane.StateNotLoaded, Fetch: dataplane.FetchFailed}
)

const (
	small = 1 << 20
	// large is a module that 4 pods may fetch at one time.
	large = 128 << 20
)

func TestDecide(t *testing.T) {
	for name, tell := range map[string]func(*story){
		"refused while it is distributed": func(s *story) {
			s.state.Targets = []Target{target("a", 2), target("b", 2)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.everywhere(runs)
			s.happens("pods run it")
			s.asks("bb", small, "world")
			s.state.Distributed = false
			s.happens("another module is kept, and not distributed yet")
			s.bars()
			s.happens("a policy refuses it: the first one stays in force")
		},
		"a first revision refused while it is distributed": func(s *story) {
			s.state.Targets = []Target{target("a", 2)}
			s.asks("aa", small, "world")
			s.state.Distributed = false
			s.happens("it is kept, and not distributed yet")
			s.bars()
			s.happens("a policy refuses it: nothing is in force")
		},
		"waves": func(s *story) {
			s.state.Targets = []Target{target("a", 3), target("b", 3), target("c", 3), target("empty", 0)}
			s.asks("aa", large, "world")
			s.happens("a first apply of a large module: those without pods need not wait")
			s.see("a", 2, runs)
			s.happens("two of three pods of a run it")
			s.see("a", 3, runs)
			s.see("b", 3, runs)
			s.happens("a and b run it")
			s.see("c", 3, runs)
			s.happens("all run it")
			s.asks("aa", large, "goodbye")
			s.happens("a new configuration goes everywhere at once")
		},
		"a deleted workload keeps its output for its pods": func(s *story) {
			s.state.Targets = []Target{target("a", 1), target("b", 2)}
			s.asks("aa", small, "world")
			s.happens("a first apply to two workloads")
			s.see("a", 1, runs)
			s.see("b", 2, runs)
			s.happens("their pods run it")
			s.state.Targets, s.state.Deleted = s.state.Targets[:1], []Deleted{{Workload: "Deployment/b", Pods: 2}}
			s.happens("b is deleted without its pods")
			s.asks("aa", small, "goodbye")
			s.happens("the configuration changes")
			s.see("a", 1, runs)
			s.state.Targets = []Target{}
			s.state.Deleted = []Deleted{{Workload: "Deployment/a", Pods: 1}, {Workload: "Deployment/b", Pods: 1}}
			s.happens("a is deleted, and one of the pods of b")
			s.state.Deleted = nil
			s.happens("the last pods are gone")
		},
		"waves end with the time": func(s *story) {
			s.state.Targets = []Target{target("a", 4), target("b", 4)}
			s.asks("aa", large, "world")
			s.happens("a first apply")
			s.later(LoadTimeout - time.Second)
			s.happens("a second before the pods of a are late")
			s.later(time.Second)
			s.happens("the pods of a are late")
		},
		"a workload larger than a wave": func(s *story) {
			s.state.Targets = []Target{target("a", 9), target("b", 1)}
			s.asks("aa", large, "world")
			s.happens("a first apply")
		},
		"a failed write leaves its room": func(s *story) {
			s.state.Targets = []Target{target("a", 3), target("b", 3), target("c", 3), target("d", 1)}
			s.failures = map[string]error{"a-f": errors.New("injected")}
			s.asks("aa", large, "world")
			s.happens("a cannot be written")
			s.failures = nil
			s.happens("it can")
		},
		"one fetch at a time": func(s *story) {
			s.state.Targets = []Target{target("a", 1), target("b", 1)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.see("b", 1, runs)
			s.asks("bb", small, "world")
			s.happens("another module before a has loaded the first")
			s.later(10 * time.Second)
			s.see("a", 1, runs)
			s.happens("a has loaded the first")
			s.asks("bb", small, "next")
			s.happens("another configuration while both load")
			s.later(LoadTimeout)
			s.happens("nothing waits forever")
		},
		"distribution": func(s *story) {
			s.state.Targets = []Target{target("a", 1)}
			s.state.Distributed = false
			s.asks("aa", small, "world")
			s.happens("the first module is copied to the other replicas")
			s.state.Distributed = true
			s.happens("they have it")
			s.see("a", 1, runs)
			s.state.Distributed = false
			s.asks("bb", small, "world")
			s.state.Targets = append(s.state.Targets, target("b", 0))
			s.happens("another module is copied, and a workload comes")
		},
		"last good": func(s *story) {
			s.state.Targets = []Target{target("a", 1)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.see("a", 1, runs)
			s.state.Asked = nil
			s.state.Targets = append(s.state.Targets, target("b", 1))
			s.happens("the spec cannot be resolved any more, and a workload comes")
		},
		"nothing resolved": func(s *story) {
			s.state.Targets = []Target{target("a", 1)}
			s.happens("the spec cannot be resolved")
		},
		"blocked": func(s *story) {
			s.state.Targets = []Target{target("a", 1)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.see("a", 1, runs)
			s.state.Blocked = condition.False(wasmev1.ReasonOutputKindMissing, "the API server does not serve EnvoyFilter")
			s.happens("the kind is gone")
			s.state.Blocked = condition.FalseAndRetried(wasmev1.ReasonWriteFailed, errors.New("keeping the revision: injected"))
			s.happens("the revision cannot be kept")
			s.state.Targets, s.state.Blocked = nil, condition.False(wasmev1.ReasonInvalidSpec, "outputs stay as they are")
			s.plan = Decide(s.state)
			fmt.Fprintf(&s.text, "the workloads are not known\n%s", s.plan.String())
		},
		"renewals": func(s *story) {
			s.state.Targets = []Target{target("a", 3), target("b", 3)}
			s.asks("aa", large, "world")
			s.happens("a first apply")
			s.see("a", 3, cannotLoad)
			s.later(LoadTimeout)
			s.happens("the pods of a could not fetch it: new modules come first")
			s.see("b", 3, runs)
			s.happens("b runs it: a is told to fetch again")
			s.later(20 * time.Second)
			s.happens("too soon for the next renewal")
			s.later(10 * time.Second)
			s.happens("the second renewal")
			s.later(time.Minute)
			s.happens("the third")
			s.see("a", 3, runs)
			s.happens("a runs it")
		},
		"renewals of what is refused end": func(s *story) {
			s.state.Targets = []Target{target("a", 1)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.see("a", 1, runs)
			s.happens("a runs it")
			s.asks("aa", small, "refused")
			s.happens("a configuration that Envoy refuses")
			s.see("a", 1, runsOther)
			for range maxRefused + 2 {
				s.later(10 * time.Minute)
				s.happens("it still runs the older revision")
			}
			s.asks("aa", small, "fixed")
			s.happens("a configuration that holds nothing up")
		},
		"renewals wait for each other": func(s *story) {
			s.state.Targets = []Target{target("a", 3), target("b", 3)}
			s.asks("aa", large, "world")
			s.happens("a first apply")
			s.later(LoadTimeout)
			s.happens("b follows")
			s.see("a", 3, cannotLoad)
			s.see("b", 3, cannotLoad)
			s.later(LoadTimeout)
			s.happens("neither could fetch it: one is told first")
			s.later(LoadTimeout)
			s.happens("it is due again")
			s.later(LoadTimeout)
			s.happens("now it waits longer: the other is told")
		},
		"a renewal that cannot be written": func(s *story) {
			s.state.Targets = []Target{target("a", 3), target("b", 3)}
			s.asks("aa", 64<<20, "world")
			s.happens("a first apply")
			s.see("a", 3, cannotLoad)
			s.see("b", 3, cannotLoad)
			s.later(LoadTimeout)
			s.failures = map[string]error{"a-f": errors.New("injected")}
			s.happens("a cannot be written")
		},
		"pods that have no place for it": func(s *story) {
			s.state.Targets = []Target{target("a", 1)}
			s.asks("aa", small, "world", func(c *revision.Content) {
				c.Filter.Position = &wasmev1.Position{Before: "envoy.filters.http.cors"}
			})
			s.happens("a first apply beside another filter")
			s.see("a", 1, dataplane.Verdict{State: dataplane.StateNotLoaded, Fetch: dataplane.FetchClean, Untried: true})
			s.later(LoadTimeout)
			s.happens("it is not there")
			s.asks("aa", small, "world", func(c *revision.Content) {
				c.Filter.Position = &wasmev1.Position{After: "envoy.filters.http.cors"}
			})
			s.happens("behind it")
			s.see("a", 1, dataplane.Verdict{State: dataplane.StateNotLoaded, Fetch: dataplane.FetchClean, Untried: true})
			s.later(LoadTimeout)
			s.happens("it is not there either")
			s.asks("aa", small, "world")
			s.happens("before the router")
			s.see("a", 1, dataplane.Verdict{State: dataplane.StateNotLoaded, Fetch: dataplane.FetchClean, Untried: true})
			s.later(LoadTimeout)
			s.happens("there is no listener")
		},
		"what is refused stays so after a restart": func(s *story) {
			s.state.Targets = []Target{target("a", 1)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.see("a", 1, runsNone)
			for range maxRefused + 1 {
				s.later(10 * time.Minute)
				s.happens("Envoy refuses it")
			}
			s.state.Targets[0].Pods[0].Seen = dataplane.Seen{}
			s.happens("a restart: stalled stays so")
			s.state.Generation = 2
			s.happens("a spec that was not observed yet")
		},
		"more workloads than a status holds": func(s *story) {
			for i := range wasmev1.MaxWorkloadsInStatus {
				s.state.Targets = append(s.state.Targets, target(fmt.Sprintf("w%03d", i), 0))
			}
			s.asks("aa", small, "world")
			if s.plan = Decide(s.state); len(s.plan.Due(s.state)) != wasmev1.MaxWorkloadsInStatus {
				s.Errorf("%d are due", len(s.plan.Due(s.state)))
			}
			var status wasmev1.FilterDeploymentStatus
			s.plan.setWorkloads(&status)
			fmt.Fprintf(&s.text, "%d workloads, %v omitted\n", len(status.Workloads), status.Summary.WorkloadsOmitted)
			s.state.Targets = append(s.state.Targets, target("x", 0), target("y", 0))
			s.state.Targets[501].Attempt = &Attempt{Err: errors.New("injected"), Reason: wasmev1.ReasonWriteFailed}
			s.plan = Decide(s.state)
			s.plan.setWorkloads(&status)
			fmt.Fprintf(&s.text, "%d workloads, %d omitted, y: %+v\n", len(status.Workloads), *status.Summary.WorkloadsOmitted, status.Workloads["y"])
		},
		"a restart": func(s *story) {
			s.state.Targets = []Target{target("a", 2)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.see("a", 2, runs)
			s.happens("a runs it")
			for i := range s.state.Targets[0].Pods {
				s.state.Targets[0].Pods[i].Seen = dataplane.Seen{}
			}
			s.later(time.Hour)
			s.happens("nobody has answered this process: the status stays")
			s.see("a", 2, runsNone)
			s.happens("they run nothing")
		},
		"pods that start": func(s *story) {
			s.state.Targets = []Target{target("a", 2)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.see("a", 2, runs)
			s.happens("a runs it")
			s.later(time.Hour)
			s.state.Targets[0].Pods[1].ReadySince = s.state.Now.Add(-10 * time.Second)
			s.see("a", 2, runsNone)
			s.see("a", 1, runs)
			s.happens("a pod is new: it does not count yet")
			s.later(25 * time.Second)
			s.happens("it counts")
			s.state.Targets[0].Pods[1].Sidecar = false
			s.happens("it has no sidecar")
		},
		"outputs without a revision": func(s *story) {
			plugin := func(c *revision.Content) { c.Output = wasmev1.OutputWasmPlugin }
			s.state.Targets = []Target{target("a", 1)}
			s.asks("aa", small, "world", plugin)
			s.happens("a first apply of a WasmPlugin")
			s.see("a", 1, runs)
			s.asks("bb", small, "world", plugin)
			s.happens("the first one is proven: another module")
			s.asks("cc", small, "world", plugin)
			s.happens("the second is not: a third one waits")
			s.later(LoadTimeout)
			s.happens("nothing waits forever")
			s.see("a", 1, cannotLoad)
			s.later(LoadTimeout)
			s.happens("it could not be fetched")
		},
		"another kind of output": func(s *story) {
			s.state.Targets = []Target{target("a", 0), target("b", 0)}
			s.asks("aa", small, "world")
			s.happens("EnvoyFilters")
			s.failures = map[string]error{"b-f": errors.New("injected")}
			s.asks("aa", small, "world", func(c *revision.Content) { c.Output = wasmev1.OutputTrafficExtension })
			s.happens("TrafficExtensions: b keeps its EnvoyFilter until the new one is written")
			s.failures = nil
			s.state.Targets = s.state.Targets[1:]
			s.happens("a is gone")
		},
		"a clock was wrong": func(s *story) {
			s.state.Targets = []Target{target("a", 1)}
			s.asks("aa", small, "world")
			s.happens("a first apply")
			for key, output := range s.state.Outputs {
				output.Fetch.At = noon.Add(time.Hour)
				s.state.Outputs[key] = output
			}
			s.asks("bb", small, "world")
			s.happens("a fetch from the future holds nothing up")
		},
		"pods are not verified": func(s *story) {
			s.state.Targets = []Target{target("a", 1)}
			s.state.Unverified = "the operator runs with --verify-pods=false"
			s.asks("aa", small, "world")
			s.happens("a first apply")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t)
			tell(s)
			s.end()
		})
	}
}

func TestASuspendedStatusKeepsWhatWasSaid(t *testing.T) {
	var status wasmev1.FilterDeploymentStatus
	holds := func(what string, generation int64, ready metav1.ConditionStatus, reason string, others ...string) {
		t.Helper()
		var kinds []string
		for _, c := range status.Conditions {
			if kinds = append(kinds, c.Type); c.Type == wasmev1.ConditionReady && (c.Status != ready || c.Reason != wasmev1.ReasonSuspended || c.ObservedGeneration != generation) {
				t.Errorf("%s: %+v", what, c)
			}
		}
		if want := append([]string{wasmev1.ConditionReady}, others...); !slices.Equal(kinds, want) || *status.ObservedGeneration != generation || status.Reason != reason {
			t.Errorf("%s: %v, %+v", what, kinds, status)
		}
	}
	SetSuspended(&status, 3, noon, "")
	holds("from the start", 3, metav1.ConditionUnknown, "")

	condition.Set(&status.Conditions, wasmev1.ConditionReady, condition.False("Refused", "refused"), 4, noon)
	condition.Set(&status.Conditions, wasmev1.ConditionReconciling, condition.True("Progressing", "m"), 4, noon)
	condition.Set(&status.Conditions, wasmev1.ConditionStalled, condition.True("Refused", "m"), 4, noon)
	status.Reason = "refused"
	SetSuspended(&status, 5, noon, metav1.ConditionFalse)
	holds("a spec that was applied", 5, metav1.ConditionFalse, "refused", wasmev1.ConditionStalled)
	SetSuspended(&status, 5, noon, "")
	holds("after a restart", 5, metav1.ConditionFalse, "refused", wasmev1.ConditionStalled)
	SetSuspended(&status, 6, noon, "")
	holds("a spec that was not", 6, metav1.ConditionUnknown, "")
	SetSuspended(&status, 7, noon, metav1.ConditionTrue)
	holds("the former spec again", 7, metav1.ConditionTrue, "")
}

func TestWhatContestsTheStatusIsAProblemToo(t *testing.T) {
	fine := condition.True("Fine", "fine")
	report := Report{Module: fine, Selection: fine, Plan: Plan{Programmed: fine, Loaded: fine}, Contested: condition.False(wasmev1.ReasonStatusOverwritten, "overwritten")}
	if got := report.ready().Reason; got != wasmev1.ReasonStatusOverwritten {
		t.Error(got)
	}
	report.Contested = condition.True(wasmev1.ReasonRevisionLabel, "runs")
	if got := report.ready(); got.Reason != wasmev1.ReasonReady || got.Message != "fine; fine" {
		t.Errorf("%+v", got)
	}
}

func TestEachKindOfOutputHasASpecOfItsOwn(t *testing.T) {
	mesh := render.Mesh{ClusterID: "Kubernetes", RootNamespace: "istio-system", ModuleServerURL: "http://modules"}
	for kind, field := range map[wasmev1.Output]string{
		wasmev1.OutputEnvoyFilter: "configPatches", wasmev1.OutputWasmPlugin: "pluginName", wasmev1.OutputTrafficExtension: "wasm",
	} {
		s := newStory(t, target("a", 0))
		s.asks("aa", small, "world", func(c *revision.Content) {
			c.Output = kind
			c.Filter.Config = &wasmev1.Configuration{Raw: []byte(`{"greeting":"world"}`)}
		})
		plan := Decide(s.state)
		spec, err := plan.Workloads[0].Spec(mesh)
		if err != nil || !strings.Contains(string(spec), fmt.Sprintf("%q", field)) {
			t.Errorf("%s: %s, %v", kind, spec, err)
		}
		plan.Workloads[0].Selector = nil
		if spec, err := plan.Workloads[0].Spec(mesh); kind != wasmev1.OutputEnvoyFilter && (err == nil || spec != nil) {
			t.Errorf("%s of a workload that selects its pods by no label: %s", kind, spec)
		}
	}
}

func TestALongNameIsHashed(t *testing.T) {
	s := newStory(t, target(strings.Repeat("w", 253), 0))
	s.asks("aa", small, "world")
	plan := Decide(s.state)
	if got := plan.Workloads[0].Output.Name; len(got) > 253 {
		t.Errorf("%d characters", len(got))
	}
}

func TestANameThatIsTakenHasAFallback(t *testing.T) {
	s := newStory(t, target("a", 0))
	s.asks("aa", small, "world")
	plan := Decide(s.state)
	fallback, exists := plan.Workloads[0].Fallback()
	if !exists || fallback == plan.Workloads[0].Output || !strings.HasPrefix(fallback.Name, "a-f-") {
		t.Fatalf("%v, %v", fallback, exists)
	}
	s.state.Outputs[fallback] = Output{}
	plan = Decide(s.state)
	if got := plan.Workloads[0].Output; got != fallback {
		t.Errorf("%v is not found again, but %v", fallback, got)
	}
	if _, exists := plan.Workloads[0].Fallback(); exists {
		t.Error("the fallback has a fallback")
	}
}

func TestProxiesThatHaveTheModuleNeedNoDistribution(t *testing.T) {
	s := newStory(t)
	if s.state.NeedsDistribution() {
		t.Error("nothing is asked for")
	}
	first := s.asks("aa", small, "world")
	if !s.state.NeedsDistribution() {
		t.Error("a new module is not distributed")
	}
	s.state.Status.Revision = first.Hash
	if s.state.NeedsDistribution() {
		t.Error("what was in force is distributed")
	}
	s.asks("aa", small, "other")
	if s.state.NeedsDistribution() {
		t.Error("a configuration of a module that proxies have is distributed")
	}
	s.asks("bb", small, "other")
	if !s.state.NeedsDistribution() {
		t.Error("another module is not distributed")
	}
	s.state.Status.Revision = ""
	s.state.Outputs[OutputKey{wasmev1.OutputEnvoyFilter, "a-f"}] = Output{Revision: s.state.Asked.Hash}
	if s.state.NeedsDistribution() {
		t.Error("what an output holds is distributed")
	}
}

func TestPodsAreExpectedToRunWhatTheirOutputHolds(t *testing.T) {
	s := newStory(t, target("a", 1), target("b", 2))
	s.state.Targets[1].Pods[1].Sidecar = false
	first := s.asks("aa", small, "world")
	s.happens("a first apply")
	s.see("b", 1, runs)
	next := s.asks("bb", small, "world")
	s.happens("another module: a waits")
	want := []string{"ns/a/hello@" + first.Hash, "ns/b/hello@" + next.Hash}
	var got []string
	for _, expectation := range s.plan.Expectations() {
		got = append(got, strings.TrimPrefix(expectation.Plugin, "wasm_filter."))
		if !expectation.Explain {
			t.Errorf("%s is not to be explained", expectation.Plugin)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, not %v", got, want)
	}
	s.state.Unverified = "the operator runs with --verify-pods=false"
	plan := Decide(s.state)
	if got := plan.Expectations(); len(got) > 0 {
		t.Errorf("%v is expected although pods are not verified", got)
	}
}
