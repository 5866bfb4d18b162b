package filterdeployment

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// What a pod runs, that was Ready for long. unprobed has no sidecar.
var (
	loaded   = &dataplane.Verdict{State: dataplane.StateLoaded}
	crashing = &dataplane.Verdict{State: dataplane.StateLoaded, Crashing: true}
	older    = &dataplane.Verdict{State: dataplane.StateOtherRevision}
	missing  = &dataplane.Verdict{State: dataplane.StateNotLoaded, Fetch: dataplane.FetchClean}
	unprobed *dataplane.Verdict
)

// reporter records events about the workloads of one FilterDeployment.
type reporter struct {
	*Reconciler
	fd       *wasmev1.FilterDeployment
	clock    *clocktesting.FakeClock
	recorded chan string
	inForce  revision.Revision
	passes   int
}

func newReporter(t *testing.T) *reporter {
	t.Helper()
	fd := &wasmev1.FilterDeployment{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "f", UID: "u"}}
	inForce, err := revision.New(client.ObjectKeyFromObject(fd), revision.Content{
		Filter: wasmev1.FilterSpec{ID: "f", Image: "registry/f:v1", RootID: "r"},
		Module: wasmev1.ModuleStatus{SHA256: strings.Repeat("1", 64), SizeBytes: new(int64(7))},
	})
	if err != nil {
		t.Fatal(err)
	}
	clock := clocktesting.NewFakeClock(time.Unix(1_000_000, 0))
	recorder := events.NewFakeRecorder(1000)
	return &reporter{
		Reconciler: &Reconciler{Recorder: recorder, Clock: clock},
		fd:         fd, clock: clock, recorded: recorder.Events, inForce: inForce,
	}
}

// plan returns the plan for workloads w0, w1 … whose outputs are in place, with
// one pod each, p0, p1 …, that had its time to load the revision.
func (r *reporter) plan(verifyPods bool, pods []*dataplane.Verdict) *rollout.Plan {
	owner := types.NamespacedName{Namespace: r.fd.Namespace, Name: r.fd.Name}
	state := rollout.State{
		Owner: owner, Asked: &r.inForce, Distributed: true, Outputs: rollout.Outputs{}, Targets: []rollout.Target{},
		Status: wasmev1.FilterDeploymentStatus{
			Revision:   r.inForce.Hash,
			Conditions: []metav1.Condition{{Type: wasmev1.ConditionLoaded, Status: metav1.ConditionFalse}},
		},
		Now: r.clock.Now(),
	}
	if !verifyPods {
		state.Unverified = "the operator runs with --verify-pods=false"
	}
	for i, verdict := range pods {
		target := workload.Target{Kind: "Deployment", Namespace: owner.Namespace, Name: fmt.Sprintf("w%d", i)}
		pod := rollout.Pod{Name: fmt.Sprintf("p%d", i), ReadySince: r.clock.Now().Add(-time.Hour), Sidecar: verdict != nil}
		if verdict != nil {
			pod.Seen = dataplane.Seen{Plugin: render.PluginName(owner, target, r.inForce.Hash), Verdict: *verdict}
		}
		output := rollout.OutputKey{Kind: wasmev1.OutputEnvoyFilter, Name: render.Name(target, r.inForce.Rendered.ID)}
		state.Outputs[output] = rollout.Output{Revision: r.inForce.Hash}
		state.Targets = append(state.Targets, rollout.Target{
			Target: target, Pods: []rollout.Pod{pod}, Attempt: &rollout.Attempt{Output: output},
		})
	}
	plan := rollout.Decide(state)
	return &plan
}

// record records what a pass found, of which each has another version of the object.
func (r *reporter) record(verifyPods bool, pods ...*dataplane.Verdict) {
	r.passes++
	r.fd.ResourceVersion = fmt.Sprint(r.passes)
	r.recordWorkloads(r.fd, r.reported.of(r.fd), r.plan(verifyPods, pods))
}

// news returns the events since it was asked last.
func (r *reporter) news() []string {
	var news []string
	for len(r.recorded) > 0 {
		news = append(news, <-r.recorded)
	}
	return news
}

func TestWorkloadEventsAreOneForEachReasonHoweverManyThereAre(t *testing.T) {
	g := NewWithT(t)
	r := newReporter(t)
	many := func(verdict *dataplane.Verdict) []*dataplane.Verdict {
		return append(slices.Repeat([]*dataplane.Verdict{verdict}, 1000), crashing, missing)
	}
	r.record(true, many(loaded)...)
	g.Expect(r.news()).To(ConsistOf(
		"Normal WorkloadLoaded the pods run the filter: w0; w1; w2; and 997 more",
		"Warning WorkloadCrashing w1000: the module crashes on requests in 1 of 1 pods (p1000): see the logs of their sidecars",
		HavePrefix("Warning WorkloadNotLoaded w1001: 1 of 1 pods do not run the revision"),
	))

	r.record(true, many(loaded)...)
	g.Expect(r.news()).To(BeEmpty(), "nothing is reported twice")

	r.reported.forget(client.ObjectKeyFromObject(r.fd))
	r.fd.Status.Workloads = map[string]wasmev1.WorkloadStatus{"w1000": {State: wasmev1.WorkloadFailed}, "w1001": {State: wasmev1.WorkloadFailed}}
	r.fd.Status.Summary = &wasmev1.WorkloadSummary{WorkloadsOmitted: new(int64(1000))}
	r.record(true, many(loaded)...)
	g.Expect(r.news()).To(BeEmpty(), "nothing is reported again after a restart")

	r.record(true, many(older)...)
	g.Expect(r.news()).To(ConsistOf(And(HavePrefix("Warning WorkloadNotLoaded w0: "), HaveSuffix("and 997 more"))))
}

func TestWorkloadEventsAreBoundedInTimeAndTheLastStateIsReportedInTheEnd(t *testing.T) {
	g := NewWithT(t)
	r := newReporter(t)
	for range 50 {
		r.record(true, loaded, loaded)
		r.record(true, crashing, loaded)
	}
	g.Expect(r.news()).To(HaveLen(workloadEvents))
	r.record(true, loaded, missing)
	g.Expect(r.news()).To(BeEmpty(), "there were enough")
	r.clock.Step(time.Minute)
	r.record(true, crashing, missing)
	g.Expect(r.news()).To(ConsistOf(HavePrefix("Warning WorkloadCrashing w0: "), HavePrefix("Warning WorkloadNotLoaded w1: ")))
}

func TestWorkloadEventsAreNoneWhilePodsAreNotVerified(t *testing.T) {
	g := NewWithT(t)
	r := newReporter(t)
	r.record(false, unprobed)
	g.Expect(r.news()).To(BeEmpty())
	r.record(true, loaded)
	g.Expect(r.news()).To(ConsistOf("Normal WorkloadLoaded the pods run the filter: w0"))
}

func TestWorkloadEventsOfAnotherObjectOfTheNameBeginAnew(t *testing.T) {
	g := NewWithT(t)
	r := newReporter(t)
	r.record(true, loaded)
	g.Expect(r.news()).To(HaveLen(1))
	r.fd.UID = "another"
	r.record(true, loaded)
	g.Expect(r.news()).To(HaveLen(1))
}
