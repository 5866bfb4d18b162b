package rollout

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/version"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/render"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

// The states of a pod that was Ready for long, and of one without a sidecar.
var (
	bare          = Proof{age: time.Hour, workload: "w"}
	unknown       = Proof{age: time.Hour, workload: "w", sidecar: true}
	loaded        = shows(dataplane.Verdict{State: dataplane.StateLoaded})
	draining      = shows(dataplane.Verdict{State: dataplane.StateDraining})
	crashes       = shows(dataplane.Verdict{State: dataplane.StateLoaded, Crashing: true})
	older         = shows(dataplane.Verdict{State: dataplane.StateOtherRevision})
	olderCrashing = shows(dataplane.Verdict{State: dataplane.StateOtherRevision, Crashing: true})
	missing       = shows(dataplane.Verdict{State: dataplane.StateNotLoaded, Fetch: dataplane.FetchClean})
	untried       = shows(dataplane.Verdict{State: dataplane.StateNotLoaded, Fetch: dataplane.FetchClean, Untried: true})
	stale         = shows(dataplane.Verdict{State: dataplane.StateLoaded, StaleListeners: true})
	unexplained   = withFetch(missing, dataplane.FetchUnknown)
	fetchFailed   = withFetch(missing, dataplane.FetchFailed)
	unreachable   = shows(dataplane.Verdict{State: dataplane.StateUnreachable})
)

func proofs(of ...Proof) []Proof { return of }

func shows(verdict dataplane.Verdict) Proof {
	return Proof{age: time.Hour, workload: "w", sidecar: true, verdict: verdict}
}

// in returns the pods as those of one workload.
func in(workload string, pods ...Proof) []Proof {
	for i := range pods {
		pods[i].workload = workload
	}
	return pods
}

// all returns the pods of several workloads.
func all(workloads ...[]Proof) []Proof { return slices.Concat(workloads...) }

func young(of Proof) Proof {
	of.young = true
	return of
}

func isSpent(of Proof) Proof {
	of.spent = true
	return of
}

func isAnchored(of Proof) Proof {
	of.anchored = true
	return of
}

func isWaiting(of Proof) Proof {
	of.waiting = true
	return of
}

func withFetch(of Proof, fetch dataplane.Fetch) Proof {
	of.verdict.Fetch = fetch
	return of
}

// after returns the pods after they were waited for so long.
func after(waited time.Duration, pods []Proof) []Proof {
	out := slices.Clone(pods)
	for i := range out {
		out[i].waited = waited
	}
	return out
}

// named names the pods p0, p1 ….
func named(pods []Proof) []Proof {
	for i := range pods {
		pods[i].name = fmt.Sprintf("p%d", i)
	}
	return pods
}

func TestLoadedIsTheTableInItsComment(t *testing.T) {
	for _, tc := range []struct {
		name   string
		pods   []Proof
		waited time.Duration
		status metav1.ConditionStatus
		reason string
		text   string
	}{
		{"no Ready pod", proofs(), time.Duration(0), metav1.ConditionTrue, wasmev1.ReasonNoPods, "no Ready pods"},
		{"no sidecar", proofs(bare, bare), 0, metav1.ConditionFalse, wasmev1.ReasonNoSidecar, "none of 2 Ready pods has a sidecar"},
		{"no sidecar in one of three workloads", all(in("a", loaded, loaded), in("b", bare, bare), in("c", loaded)), 0, metav1.ConditionFalse, wasmev1.ReasonNoSidecar, "1 of 3 workloads have no Ready pod with a sidecar that could run the filter (b): "},
		{"no sidecar in one workload, and young pods in another", all(in("a", young(missing)), in("b", bare)), 0, metav1.ConditionFalse, wasmev1.ReasonNoSidecar, "1 of 2 workloads"},
		{"no sidecar in one workload, and a crash in another", all(in("a", crashes), in("b", bare)), 0, metav1.ConditionFalse, wasmev1.ReasonCrashing, ""},
		{"no sidecar in one workload while another loads", all(in("a", missing), in("b", bare)), LoadTimeout - 1, metav1.ConditionUnknown, wasmev1.ReasonLoading, "0 of 1 pods"},
		{"no sidecar in one workload, and another refuses it", all(in("a", missing), in("b", bare)), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonRefused, ""},
		{"no sidecar in one workload, and another does not answer", all(in("a", unreachable), in("b", bare)), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonNoSidecar, ""},
		{"no sidecar in some pods", all(in("a", loaded, bare, bare), in("b", loaded), in("c", bare, loaded)), 0, metav1.ConditionTrue, wasmev1.ReasonLoaded, "3 of 3 pods run the filter in this revision; Ready pods without a sidecar run nothing (a: 2 of 3, c: 1 of 2)"},
		{"only young pods", proofs(bare, young(missing)), LoadTimeout, metav1.ConditionTrue, wasmev1.ReasonNoPods, "all pods have just started, and get the filter; Ready pods without a sidecar run nothing (w: 1 of 2)"},
		{"young pods that run it", proofs(young(loaded), young(missing)), LoadTimeout, metav1.ConditionTrue, wasmev1.ReasonLoaded, "1 of 1 pods"},
		{"all run it", proofs(loaded, loaded, bare), LoadTimeout, metav1.ConditionTrue, wasmev1.ReasonLoaded, "2 of 2 pods run the filter in this revision"},
		{"one drains an older revision", proofs(loaded, draining), LoadTimeout, metav1.ConditionTrue, wasmev1.ReasonLoaded, "2 of 2 pods"},
		{"some do not yet", proofs(loaded, missing, unknown), LoadTimeout - 1, metav1.ConditionUnknown, wasmev1.ReasonLoading, "1 of 3 pods run the revision"},
		{"some wait for their turn", proofs(loaded, isWaiting(loaded)), LoadTimeout, metav1.ConditionUnknown, wasmev1.ReasonLoading, "1 of 2 pods run the revision"},
		{"one never did while others wait", proofs(missing, isWaiting(loaded)), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonRefused, "1 of 2 pods do not run the revision; 1 of them (p0)"},
		{"one never did", proofs(loaded, missing), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonRefused, "1 of 2 pods do not run the revision; 1 of them (p1) do not run the filter"},
		{"one keeps running an older one", proofs(older, loaded), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonOlderRevision, "1 of them (p0) keep running an older revision, because Envoy refused the new one (its configuration, root id or module) or istiod has not sent it"},
		{"one could not fetch it", proofs(loaded, fetchFailed), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonFetchFailed, "NetworkPolicy"},
		{"one could not fetch a new one and has an older", proofs(loaded, withFetch(older, dataplane.FetchFailed)), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonFetchFailed, ""},
		{"one failed a fetch long ago and has an older one", proofs(withFetch(older, dataplane.FetchFailedBefore)), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonOlderRevision, ""},
		{"one failed a fetch long ago and has none", proofs(withFetch(missing, dataplane.FetchFailedBefore)), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonFetchFailed, ""},
		{"one was never brought a module", proofs(loaded, untried), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonNoListener, "1 of them (p1) have no HTTP listener"},
		{"one does not run it, and its agent does not say why", proofs(loaded, unexplained), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonNotLoaded, "1 of them (p1) do not run the filter, and their pilot-agents do not answer why: let the operator reach port 15020"},
		{"one keeps running an older one, and its agent does not say why", proofs(withFetch(older, dataplane.FetchUnknown)), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonOlderRevision, ""},
		{"one could not fetch its first module", proofs(withFetch(untried, dataplane.FetchFailed)), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonFetchFailed, ""},
		{"one has no place for it", proofs(isAnchored(untried), isAnchored(loaded)), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonAnchorMissing, "spec.filter.position"},
		{"one refuses it at its place", proofs(isAnchored(missing)), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonRefused, ""},
		{"the most frequent cause", proofs(missing, fetchFailed, fetchFailed, fetchFailed, fetchFailed, fetchFailed), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonFetchFailed, "6 of 6 pods do not run the revision; 5 of them (p1, p2, p3, and 2 more)"},
		{"a cause beside pods that do not answer", proofs(unreachable, unreachable, missing), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonRefused, "3 of 3 pods do not run the revision; 1 of them (p2)"},
		{"none answers", proofs(unreachable, unreachable), LoadTimeout, metav1.ConditionUnknown, wasmev1.ReasonUnreachable, "2 of 2 pods do not answer at their sidecar's metrics port (p0, p1): let the operator reach it, or turn verification off (--unverified-namespaces, or the annotation wasme.io/verify-pods=false)"},
		{"the only one does not answer", proofs(bare, unreachable), LoadTimeout, metav1.ConditionUnknown, wasmev1.ReasonUnreachable, "1 of 1 pods"},
		{"one of several does not answer", proofs(loaded, unreachable), 0, metav1.ConditionTrue, wasmev1.ReasonLoaded, "1 of 2 pods run the filter in this revision; 1 (p1) gave no answer at their sidecar's metrics port, which is tolerated for so few"},
		{"two of several do not answer", proofs(loaded, unreachable, unreachable), LoadTimeout, metav1.ConditionUnknown, wasmev1.ReasonUnreachable, "2 of 3 pods do not answer"},
		{"one of several does not answer, and others load", proofs(loaded, unreachable, missing), 0, metav1.ConditionUnknown, wasmev1.ReasonLoading, "1 of 3 pods run the revision"},
		{"one of several does not answer, and another refuses it", proofs(loaded, unreachable, missing), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonRefused, "1 of 3 pods do not run the revision; 1 of them (p2)"},
		{"a percent does not answer", append(slices.Repeat(proofs(loaded), 297), unreachable, unreachable, unreachable), 0, metav1.ConditionTrue, wasmev1.ReasonLoaded, "297 of 300 pods run the filter in this revision; 3 (p297, p298, p299) gave no answer"},
		{"more than a percent does not answer", append(slices.Repeat(proofs(loaded), 296), unreachable, unreachable, unreachable, unreachable), LoadTimeout, metav1.ConditionUnknown, wasmev1.ReasonUnreachable, "4 of 300 pods do not answer"},
		{"one was never asked", proofs(unknown), LoadTimeout, metav1.ConditionUnknown, wasmev1.ReasonUnreachable, "1 of 1 pods"},
		{"one keeps former listeners", proofs(loaded, stale), LoadTimeout - 1, metav1.ConditionUnknown, wasmev1.ReasonLoading, "1 of 2 pods run the revision"},
		{"one keeps former listeners, and no new ones are accepted", proofs(loaded, stale), LoadTimeout, metav1.ConditionUnknown, wasmev1.ReasonListenerRefused, "1 of 2 pods run the revision, but Envoy refused their newest listeners and keeps former ones (p1)"},
		{"one keeps former listeners, and another refuses the filter", proofs(missing, stale), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonRefused, "2 of 2 pods do not run the revision; 1 of them (p0)"},
		{"one keeps former listeners, and others do not answer", proofs(unreachable, unreachable, stale), LoadTimeout, metav1.ConditionUnknown, wasmev1.ReasonListenerRefused, "1 of 3 pods"},
		{"one keeps running an older one that crashes", proofs(loaded, olderCrashing), LoadTimeout, metav1.ConditionFalse, wasmev1.ReasonOlderRevision, ""},
		{"one crashes", proofs(loaded, crashes, missing), time.Duration(0), metav1.ConditionFalse, wasmev1.ReasonCrashing, "crashes on requests in 1 of 3 pods (p1)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := loadedVerdict(named(after(tc.waited, tc.pods)), wasmev1.OutputEnvoyFilter)
			if v.Status != tc.status || v.Reason != tc.reason || !strings.Contains(v.Message, tc.text) {
				t.Errorf("%s %s: %s", v.Status, v.Reason, v.Message)
			}
			if v.Err != nil {
				t.Errorf("%v is retried, although the prober wakes the controller", v.Err)
			}
		})
	}
}

func TestWithAnotherOutputLoadedDoesNotClaimARevision(t *testing.T) {
	v := loadedVerdict(proofs(loaded), wasmev1.OutputWasmPlugin)
	if want := "1 of 1 pods run the filter; a WasmPlugin does not show in which revision"; v.Message != want {
		t.Errorf("%q, not %q", v.Message, want)
	}
}

func TestOnlyAChangeHelpsWhatWasRenewedInVain(t *testing.T) {
	for _, tc := range []struct {
		name string
		pods []Proof
		want bool
	}{
		{"pods that refuse it after each renewal", proofs(isSpent(missing), isSpent(missing), loaded), true},
		{"pods that go on with an older one after each renewal", proofs(isSpent(older)), true},
		{"not those that a renewal may help", proofs(isSpent(older), older), false},
		{"not those that could not fetch it", proofs(isSpent(fetchFailed)), false},
		{"not those that may not have fetched it", proofs(isSpent(unexplained)), false},
		{"not those that have no place for it", proofs(isSpent(untried)), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := loadedVerdict(after(LoadTimeout, tc.pods), wasmev1.OutputEnvoyFilter).Stalled; got != tc.want {
				t.Errorf("Stalled is %v", got)
			}
		})
	}
}

func TestARenewalHelpsStuckPods(t *testing.T) {
	for _, tc := range []struct {
		name     string
		pods     []Proof
		renewals int
		want     bool
	}{
		{"no pod", proofs(), 0, false},
		{"not pods that run it", proofs(loaded, draining), 0, false},
		{"not pods without sidecar", proofs(bare), 0, false},
		{"not young pods", proofs(young(missing)), 0, false},
		{"not pods that do not answer", proofs(unreachable, unknown), 0, false},
		{"not pods without a place for it", proofs(untried, isAnchored(untried)), 0, false},
		{"a fetch that failed", proofs(loaded, fetchFailed), 0, true},
		{"a fetch that failed, forever", proofs(fetchFailed), 1_000, true},
		{"listeners that were refused, some times", proofs(stale), maxRefused - 1, true},
		{"listeners that were refused, not forever", proofs(stale), maxRefused, false},
		{"what may be a fetch that failed, forever", proofs(unexplained), 1_000, true},
		{"an older revision, some times", proofs(older), maxRefused - 1, true},
		{"an older revision, not forever", proofs(older), maxRefused, false},
		{"what seems refused, some times", proofs(missing), maxRefused - 1, true},
		{"what seems refused, not forever", proofs(missing), maxRefused, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := len(stuck(after(LoadTimeout, tc.pods), tc.renewals)); (got == 1) != tc.want || got > 1 {
				t.Errorf("%d pods are stuck", got)
			}
			if got := stuck(after(LoadTimeout-1, tc.pods), tc.renewals); len(got) > 0 {
				t.Errorf("%d pods are stuck although they have time left", len(got))
			}
		})
	}
}

// planOf is a plan with these workloads whose outputs are in place.
func planOf(workloads ...Workload) *Plan {
	p := &Plan{InForce: &revision.Revision{Hash: "r"}, Workloads: workloads, verifyPods: true}
	for i := range workloads {
		workloads[i].inForce = p.InForce
		p.proofs = append(p.proofs, workloads[i].Proofs...)
		if workloads[i].Phase == NoRevision {
			workloads[i].Phase = Programmed
		}
	}
	return p
}

func deployment(name string, pods ...Proof) Workload {
	return Workload{Target: workload.Target{Kind: "Deployment", Name: name}, Proofs: pods}
}

func TestTheStateOfAWorkloadInPlaceIsThatOfItsPods(t *testing.T) {
	for _, tc := range []struct {
		name   string
		pods   []Proof
		waited time.Duration
		want   wasmev1.WorkloadState
		text   string
	}{
		{"they run it", proofs(loaded, loaded), time.Duration(0), wasmev1.WorkloadSucceeded, ""},
		{"there are none", proofs(), LoadTimeout, wasmev1.WorkloadSucceeded, ""},
		{"they load it", proofs(missing), time.Duration(0), wasmev1.WorkloadPending, "0 of 1 pods run the revision"},
		{"they could not fetch it", proofs(fetchFailed), LoadTimeout, wasmev1.WorkloadFailed, "could not fetch the module"},
		{"they have no sidecar", proofs(bare), LoadTimeout, wasmev1.WorkloadFailed, "has a sidecar"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var status wasmev1.FilterDeploymentStatus
			planOf(deployment("fine", loaded), deployment("asked", after(tc.waited, tc.pods)...)).setWorkloads(&status)
			if got := status.Workloads["fine"]; got != (wasmev1.WorkloadStatus{State: wasmev1.WorkloadSucceeded}) {
				t.Errorf("fine: %+v", got)
			}
			if got := status.Workloads["asked"]; got.State != tc.want || !strings.Contains(got.Reason, tc.text) {
				t.Errorf("asked: %+v", got)
			}
			if got := status.Summary.WorkloadsReady; got != "2/2" {
				t.Errorf("%s are programmed", got)
			}
		})
	}
}

func TestWhereNoPodCounts(t *testing.T) {
	for _, tc := range []struct {
		name      string
		kind      string
		pods      []Proof
		wasLoaded bool
		status    metav1.ConditionStatus
		reason    string
		text      string
	}{
		{"new ones do not make it flap", "Deployment", proofs(young(missing)), true, metav1.ConditionTrue, wasmev1.ReasonNoPods, "have just started"},
		{"new ones do not fix it", "Deployment", proofs(young(missing)), false, metav1.ConditionUnknown, wasmev1.ReasonLoading, "have just started"},
		{"there are none", "Deployment", proofs(), false, metav1.ConditionTrue, wasmev1.ReasonNoPods, "no Ready pods"},
		{"those that run it do", "Deployment", proofs(young(loaded)), false, metav1.ConditionTrue, wasmev1.ReasonLoaded, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := deployment("a", tc.pods...)
			w.Kind = tc.kind
			v := planOf(w).podsVerdict(tc.wasLoaded)
			if v.Status != tc.status || v.Reason != tc.reason || !strings.Contains(v.Message, tc.text) {
				t.Errorf("%s %s: %s", v.Status, v.Reason, v.Message)
			}
		})
	}
}

func TestTargetsWhoseProxiesAreNotKnownAreUnproven(t *testing.T) {
	reference := func(kind, name string, missing string, pods int) Target {
		of := target(name, pods)
		of.Target = workload.Target{Kind: kind, Namespace: "ns", Name: name, Proxies: workload.Proxies{Missing: missing}}
		if missing == "" {
			of.Proxies.Gateway = types.NamespacedName{Namespace: "mesh", Name: "waypoint"}
		}
		return of
	}
	edge, shop := reference("Gateway", "edge", "", 1), reference("Service", "shop", "it has no waypoint", 0)
	idle := reference("Service", "idle", "", 0)
	for _, tc := range []struct {
		name         string
		verification wasmev1.Verification
		targets      []Target
		status       metav1.ConditionStatus
		reason       string
		texts        []string
		states       map[string]wasmev1.WorkloadState
	}{
		{
			"one of two", "", []Target{edge, shop}, metav1.ConditionUnknown, wasmev1.ReasonUnproven,
			[]string{"1 of 2 targetRefs", "Service shop, because it has no waypoint", "set spec.deployment.istio.verification to NotRequired"},
			map[string]wasmev1.WorkloadState{"Gateway/edge": wasmev1.WorkloadSucceeded, "Service/shop": wasmev1.WorkloadPending},
		},
		{
			"one without pods", wasmev1.VerificationRequired, []Target{idle}, metav1.ConditionUnknown, wasmev1.ReasonUnproven,
			[]string{"no Ready pod in namespace mesh has the label gateway.networking.k8s.io/gateway-name: waypoint"},
			map[string]wasmev1.WorkloadState{"Service/idle": wasmev1.WorkloadPending},
		},
		{
			"one that need not be proven", wasmev1.VerificationNotRequired, []Target{edge, shop}, metav1.ConditionTrue, wasmev1.ReasonLoaded,
			[]string{"1 of 1 pods"},
			map[string]wasmev1.WorkloadState{"Gateway/edge": wasmev1.WorkloadSucceeded, "Service/shop": wasmev1.WorkloadSucceeded},
		},
		{
			"none that need be proven", wasmev1.VerificationNotRequired, []Target{idle, shop}, metav1.ConditionTrue, wasmev1.ReasonNoPods, nil,
			map[string]wasmev1.WorkloadState{"Service/idle": wasmev1.WorkloadSucceeded, "Service/shop": wasmev1.WorkloadSucceeded},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStory(t, tc.targets...)
			s.state.Verification = tc.verification
			s.asks("aa", small, "world")
			s.happens("a first apply")
			s.see("edge", 1, runs)
			s.happens("the pods run it")
			v := s.plan.Loaded
			if v.Status != tc.status || v.Reason != tc.reason {
				t.Errorf("%s %s: %s", v.Status, v.Reason, v.Message)
			}
			for _, text := range tc.texts {
				if !strings.Contains(v.Message, text) {
					t.Errorf("no %q in %q", text, v.Message)
				}
			}
			states := map[string]wasmev1.WorkloadState{}
			for key, of := range s.state.Status.Workloads {
				states[key] = of.State
			}
			if !maps.Equal(states, tc.states) {
				t.Errorf("the states are %v", states)
			}
		})
	}
}

func TestPodsThatDoNotAnswerNeedNot(t *testing.T) {
	for verification, want := range map[wasmev1.Verification]string{
		wasmev1.VerificationRequired:    wasmev1.ReasonUnreachable,
		wasmev1.VerificationNotRequired: wasmev1.ReasonUnproven,
	} {
		s := newStory(t, target("a", 1))
		s.state.Verification = verification
		s.asks("aa", small, "world")
		s.happens("a first apply")
		s.see("a", 1, dataplane.Verdict{State: dataplane.StateUnreachable})
		s.later(2 * LoadTimeout)
		for range 3 {
			s.happens("nobody answers in time")
			if v := s.plan.Loaded; v.Reason != want || (v.Status == metav1.ConditionTrue) != (want == wasmev1.ReasonUnproven) {
				t.Errorf("%s: %s %s: %s", verification, v.Status, v.Reason, v.Message)
			}
			s.later(LoadTimeout)
		}
	}
}

func TestHowLongPodsAreWaitedFor(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name    string
		change  func(*wasmev1.FilterDeploymentStatus)
		want    time.Duration
		settled bool
	}{
		{"since they load", func(*wasmev1.FilterDeploymentStatus) {}, time.Hour, false},
		{"anew with a new revision", func(s *wasmev1.FilterDeploymentStatus) { s.Revision = "q" }, 0, false},
		{"anew after all had it", func(s *wasmev1.FilterDeploymentStatus) { s.Conditions[0].Status = metav1.ConditionTrue }, 0, true},
		{"from the start", func(s *wasmev1.FilterDeploymentStatus) { s.Conditions = nil }, 0, false},
		{"no longer once they failed", func(s *wasmev1.FilterDeploymentStatus) { s.Conditions[0].Status = metav1.ConditionFalse }, LoadTimeout, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			status := wasmev1.FilterDeploymentStatus{Revision: "r", Conditions: []metav1.Condition{{
				Type: wasmev1.ConditionLoaded, Status: metav1.ConditionUnknown, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour)),
			}}}
			tc.change(&status)
			if waited, settled := waitedFor(&status, "r", now); waited != tc.want || settled != tc.settled {
				t.Errorf("%v, settled %v", waited, settled)
			}
		})
	}
}

func TestNewsOfOneWorkload(t *testing.T) {
	for _, tc := range []struct {
		name   string
		before wasmev1.WorkloadState
		steps  []Proof
		want   []string
	}{
		{"that they run it, once", "", proofs(unknown, missing, loaded, loaded, draining), []string{EventNotLoaded, EventLoaded}},
		{"nothing while they come, go, or do not answer", "", proofs(loaded, unreachable, young(missing), loaded), []string{EventLoaded}},
		{"that they stop running it", "", proofs(loaded, older, older, fetchFailed, loaded), []string{EventLoaded, EventNotLoaded, EventLoaded}},
		{"that they begin to crash", "", proofs(loaded, crashes, unreachable, crashes, loaded), []string{EventLoaded, EventCrashing, EventLoaded}},
		{"that they crash and then run nothing", "", proofs(crashes, missing), []string{EventCrashing, EventNotLoaded}},
		{"that they have no sidecar", "", proofs(bare, bare), []string{EventNotLoaded}},
		{"nothing after a restart when they run it", wasmev1.WorkloadSucceeded, proofs(unknown, loaded, loaded), nil},
		{"nothing after a restart when they still fail", wasmev1.WorkloadFailed, proofs(unknown, missing, missing), nil},
		{"nothing after a restart when they still crash", wasmev1.WorkloadFailed, proofs(unknown, crashes, crashes), nil},
		{"what changed during a restart", wasmev1.WorkloadSucceeded, proofs(unknown, missing), []string{EventNotLoaded}},
		{"what changes after one", wasmev1.WorkloadFailed, proofs(missing, loaded, crashes), []string{EventLoaded, EventCrashing}},
		{"that they run it when a restart came before", wasmev1.WorkloadPending, proofs(unknown, loaded), []string{EventLoaded}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var status wasmev1.FilterDeploymentStatus
			if tc.before != "" {
				status.Workloads = map[string]wasmev1.WorkloadStatus{"w0": {State: tc.before}}
			}
			reported := ReportedBy(&status)
			var got []string
			for _, step := range tc.steps {
				news := reported.Compare(planOf(deployment("w0", after(LoadTimeout, proofs(step))...)))
				for _, event := range news.Events() {
					got = append(got, event.Reason)
				}
				reported.Keep(news)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("%v, not %v", got, tc.want)
			}
		})
	}
}

func TestEventsAboutWorkloadsAreOneForEachReason(t *testing.T) {
	news := ReportedBy(&wasmev1.FilterDeploymentStatus{}).Compare(planOf(
		deployment("a", loaded), deployment("b", loaded), deployment("c", crashes), deployment("d", after(LoadTimeout, proofs(missing))...),
	))
	events := news.Events()
	if len(events) != 3 || events[0].Reason != EventCrashing || events[1].Reason != EventNotLoaded || events[2].Reason != EventLoaded {
		t.Fatalf("%+v", events)
	}
	if want := "the pods run the filter: a; b"; events[2].Note != want {
		t.Errorf("%q, not %q", events[2].Note, want)
	}
	if want := "c: the module crashes on requests in 1 of 1 pods"; !strings.HasPrefix(events[0].Note, want) {
		t.Errorf("%q, not %q", events[0].Note, want)
	}
	if !strings.HasPrefix(events[1].Note, "d: 1 of 1 pods do not run the revision") {
		t.Errorf("%q", events[1].Note)
	}
}

func TestWhatAStatusLeftOutWasFine(t *testing.T) {
	reported := ReportedBy(&wasmev1.FilterDeploymentStatus{Summary: &wasmev1.WorkloadSummary{WorkloadsOmitted: new(int64(1))}})
	plan := planOf(deployment("a", loaded), deployment("b", crashes))
	if news := reported.Compare(plan); len(news) != 1 || news[0].workload != "b" {
		t.Errorf("%+v", news)
	}
	if news := reported.Compare(plan); len(news) != 1 {
		t.Errorf("what no event reported is forgotten: %+v", news)
	}
	if news := ReportedBy(&wasmev1.FilterDeploymentStatus{Summary: &wasmev1.WorkloadSummary{}}).Compare(plan); len(news) != 2 {
		t.Errorf("%+v", news)
	}
	unverified := *plan
	unverified.verifyPods = false
	none := *plan
	none.InForce = nil
	unknown := *plan
	unknown.Workloads = nil
	for _, p := range []Plan{unverified, none, unknown} {
		if news := ReportedBy(&wasmev1.FilterDeploymentStatus{}).Compare(&p); news != nil {
			t.Errorf("%+v", news)
		}
	}
}

// outcomes are those of workloads w0, w1 …: failures where the text is not empty.
func outcomes(failures ...string) []Workload {
	workloads := []Workload{}
	for i, failure := range failures {
		w := Workload{Target: workload.Target{Name: fmt.Sprintf("w%d", i)}, Phase: Programmed}
		if failure != "" {
			w.Phase, w.Reason, w.Err = Failed, "Reason-"+failure, fmt.Errorf("%s", failure)
		}
		workloads = append(workloads, w)
	}
	return workloads
}

func TestProgrammedSumsUpTheWorkloads(t *testing.T) {
	r, waits := &revision.Revision{Hash: "r"}, Workload{Phase: AwaitingRoom}
	for _, tc := range []struct {
		name      string
		workloads []Workload
		inForce   *revision.Revision
		standing  Standing
		status    metav1.ConditionStatus
		reason    string
		message   string
	}{
		{"all in place", outcomes("", "", ""), r, Current, metav1.ConditionTrue, wasmev1.ReasonProgrammed, "revision r on 3 of 3 workloads"},
		{"none there", outcomes(), r, Current, metav1.ConditionTrue, wasmev1.ReasonProgrammed, "revision r on 0 of 0 workloads"},
		{"some have to wait", append(outcomes("", ""), waits), r, Current, metav1.ConditionUnknown, wasmev1.ReasonSpreading, "revision r on 2 of 3 workloads; the others follow once pods have loaded it"},
		{"some have to wait for an earlier revision", append(outcomes("", ""), waits), r, LastGood, metav1.ConditionFalse, wasmev1.ReasonLastGoodRevision, "revision r stays in force on 2 workloads until the spec can be applied"},
		{"nothing in force", outcomes(""), nil, LastGood, metav1.ConditionFalse, wasmev1.ReasonNothingResolved, "there is no module to run yet"},
		{"an earlier revision in force", outcomes("", ""), r, LastGood, metav1.ConditionFalse, wasmev1.ReasonLastGoodRevision, "revision r stays in force on 2 workloads until the spec can be applied"},
		{"the module under way to the replicas", outcomes(""), nil, Distributing, metav1.ConditionUnknown, wasmev1.ReasonDistributing, "waiting until every replica of the operator serves the new module"},
		{"some failed", outcomes("", "b", "", "d"), r, Current, metav1.ConditionFalse, "Reason-b", "2 of 4 workloads failed: w1: b; w3: d"},
		{"many failed", outcomes("a", "b", "c", "d", "e"), r, LastGood, metav1.ConditionFalse, "Reason-a", "5 of 5 workloads failed: w0: a; w1: b; w2: c; and 2 more"},
		{"some wait for their own pods", append(outcomes(""), Workload{Phase: AwaitingPods}), r, Current, metav1.ConditionUnknown, wasmev1.ReasonSpreading, "revision r on 1 of 2 workloads; the others follow once pods have loaded it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plan := Plan{InForce: tc.inForce, Standing: tc.standing, Workloads: tc.workloads}
			v := plan.programmedVerdict(condition.Verdict{})
			if v.Status != tc.status || v.Reason != tc.reason || v.Message != tc.message {
				t.Errorf("%s %s: %s", v.Status, v.Reason, v.Message)
			}
			failures := slices.ContainsFunc(tc.workloads, func(w Workload) bool { return w.Phase == Failed })
			if v.Stalled || (v.Err != nil) != failures {
				t.Errorf("stalled %v, retried %v: only failed writes are tried again with backoff", v.Stalled, v.Err)
			}
		})
	}
}

func TestReadyIsTheFirstProblem(t *testing.T) {
	yes := func(reason string) condition.Verdict { return condition.True(reason, "%s", "") }
	no := func(reason string) condition.Verdict { return condition.False(reason, "%s", "") }
	open := func(reason string) condition.Verdict { return condition.Unknown(reason, "%s", "") }
	stuck := func(reason string) condition.Verdict {
		return condition.FalseUntilChanged(reason, fmt.Errorf("%s", reason))
	}
	failed := func(reason string) condition.Verdict {
		return condition.FalseAndRetried(reason, fmt.Errorf("%s", reason))
	}
	for _, tc := range []struct {
		name                                 string
		module, selected, programmed, loaded condition.Verdict
		ready, reconciling, stalled          string
	}{
		{"all true", yes("A"), yes("B"), yes("C"), yes("D"), "True Ready", "", ""},
		{"no workloads", yes("A"), yes(wasmev1.ReasonNoWorkloads), yes("C"), yes("D"), "True NoWorkloads", "", ""},
		{"the module pending", open("A"), yes("B"), no("C"), condition.Verdict{}, "Unknown A", wasmev1.ReasonProgressing, ""},
		{"the module refused", no("A"), yes("B"), no("C"), condition.Verdict{}, "False A", wasmev1.ReasonProgressingWithRetry, ""},
		{"the module stalled", stuck("A"), yes("B"), no("C"), condition.Verdict{}, "False A", "", "A"},
		{"the selection stalled", open("A"), stuck("B"), no("C"), condition.Verdict{}, "False B", "", "B"},
		{"pods loading", yes("A"), yes("B"), yes("C"), open("D"), "Unknown D", wasmev1.ReasonProgressing, ""},
		{"pods failing", yes("A"), yes("B"), yes("C"), no("D"), "False D", wasmev1.ReasonProgressingWithRetry, ""},
		{"a write failed", yes("A"), yes("B"), failed("C"), condition.Verdict{}, "False C", wasmev1.ReasonProgressingWithRetry, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			report := Report{Module: tc.module, Selection: tc.selected, Plan: Plan{Programmed: tc.programmed, Loaded: tc.loaded}}
			ready := report.ready()
			if got := string(ready.Status) + " " + ready.Reason; got != tc.ready {
				t.Errorf("Ready is %s, not %s", got, tc.ready)
			}
			if got := condition.Reconciling(ready).Reason; got != tc.reconciling {
				t.Errorf("Reconciling is %q, not %q", got, tc.reconciling)
			}
			if got := condition.Stalled(ready).Reason; got != tc.stalled {
				t.Errorf("Stalled is %q, not %q", got, tc.stalled)
			}
		})
	}
}

func TestInputsAreAllThatASpecIsRenderedFrom(t *testing.T) {
	planned := func(change func(*Workload)) Inputs {
		w := deployment("a")
		w.Namespace, w.Selector = "n", map[string]string{"app": "a"}
		w.inForce = &revision.Revision{Hash: "r"}
		w.Fetch = Fetch{Revision: "r", Renewals: 1}
		if change != nil {
			change(&w)
		}
		return w.Inputs()
	}
	base := planned(nil)
	if planned(func(w *Workload) { w.PodLabels = map[string]string{"version": "v2"} }) != base {
		t.Error("labels that nothing is rendered from change them")
	}
	for name, change := range map[string]func(*Workload){
		"the revision":   func(w *Workload) { w.inForce = &revision.Revision{Hash: "s"} },
		"the kind":       func(w *Workload) { w.inForce.Output = wasmev1.OutputWasmPlugin },
		"a renewal":      func(w *Workload) { w.Fetch.Renewals = 2 },
		"the workload":   func(w *Workload) { w.Name = "b" },
		"its kind":       func(w *Workload) { w.Kind = "DaemonSet" },
		"its namespace":  func(w *Workload) { w.Namespace = "m" },
		"its selector":   func(w *Workload) { w.Selector = map[string]string{"app": "b"} },
		"the Gateway":    func(w *Workload) { w.Proxies.Gateway.Name = "g" },
		"its Deployment": func(w *Workload) { w.Proxies.Deployment = "g" },
		"their version":  func(w *Workload) { w.Proxies.Istio = version.MustParseSemantic("1.31.0") },
	} {
		if planned(change) == base {
			t.Errorf("%s does not change them", name)
		}
	}
}

func TestConfigurationsAreBounded(t *testing.T) {
	of := func(size int) *revision.Revision {
		return &revision.Revision{Rendered: render.Filter{Configuration: make([]byte, size)}}
	}
	for _, row := range []struct {
		size, workloads int
		want            string
	}{
		{0, 1 << 40, ""},
		{256 << 10, 256, ""},
		{256 << 10, 257, "spec.filter.config has 262144 bytes, and each of 257 outputs would have them: at most 256 workloads can have one so large: make it smaller, select fewer workloads, or let the module fetch it"},
		{1, 64 << 20, ""},
		{1, 64<<20 + 1, "at most 67108864 workloads"},
	} {
		err := CheckSize(of(row.size), row.workloads)
		if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
			t.Errorf("%d bytes on %d workloads: %v", row.size, row.workloads, err)
		}
	}
}
