package controllers

import (
	"fmt"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/dataplane"
	"github.com/wasme-io/wasme-operator/internal/render"
)

var _ = DescribeTable("Of what pods run",
	func(pods []podProof, waited time.Duration, status metav1.ConditionStatus, reason, text string) {
		for i := range pods {
			pods[i].name = fmt.Sprintf("p%d", i)
		}
		v := loadedVerdict(waitedFor(waited, pods), wasmev1.OutputEnvoyFilter)
		Expect([]any{v.Status, v.Reason}).To(Equal([]any{status, reason}))
		Expect(v.Message).To(ContainSubstring(text))
		Expect(v.Err).NotTo(HaveOccurred(), "the prober wakes the controller")
	},
	Entry("no Ready pod", proofs(), time.Duration(0), metav1.ConditionTrue, wasmev1.ReasonNoPods, "no Ready pods"),
	Entry("no sidecar", proofs(bare, bare), loadTimeout, metav1.ConditionFalse, wasmev1.ReasonNoSidecar, "none of 2 Ready pods has a sidecar"),
	Entry("only young pods", proofs(bare, young(missing)), loadTimeout, metav1.ConditionTrue, wasmev1.ReasonNoPods, "the pods have just come"),
	Entry("young pods that run it", proofs(young(loaded), young(missing)), loadTimeout, metav1.ConditionTrue, wasmev1.ReasonLoaded, "1 of 1 pods"),
	Entry("all run it", proofs(loaded, loaded, bare), loadTimeout, metav1.ConditionTrue, wasmev1.ReasonLoaded, "2 of 2 pods run the filter in this revision"),
	Entry("one drains an older revision", proofs(loaded, draining), loadTimeout, metav1.ConditionTrue, wasmev1.ReasonLoaded, "2 of 2 pods"),
	Entry("some do not yet", proofs(loaded, missing, unknown), loadTimeout-1, metav1.ConditionUnknown, wasmev1.ReasonLoading, "1 of 3 pods run the revision"),
	Entry("some wait for their turn", proofs(loaded, isWaiting(loaded)), loadTimeout, metav1.ConditionUnknown, wasmev1.ReasonLoading, "1 of 2 pods run the revision"),
	Entry("one never did while others wait", proofs(missing, isWaiting(loaded)), loadTimeout, metav1.ConditionFalse, wasmev1.ReasonRefused, "1 of 2 pods do not run the revision; 1 of them (p0)"),
	Entry("one never did", proofs(loaded, missing), loadTimeout, metav1.ConditionFalse, wasmev1.ReasonRefused, "1 of 2 pods do not run the revision; 1 of them (p1) do not run the filter"),
	Entry("one goes on with an older one", proofs(older, loaded), loadTimeout, metav1.ConditionFalse, wasmev1.ReasonOlderRevision, "1 of them (p0) go on with an older revision: Envoy refused the new one (its configuration, root id or module), or istiod has not sent it"),
	Entry("one could not fetch it", proofs(loaded, fetchFailed), loadTimeout, metav1.ConditionFalse, wasmev1.ReasonFetchFailed, "NetworkPolicy"),
	Entry("one could not fetch a new one and has an older", proofs(loaded, withFetch(older, dataplane.FetchFailed)), loadTimeout, metav1.ConditionFalse, wasmev1.ReasonFetchFailed, ""),
	Entry("one failed a fetch long ago and has an older one", proofs(withFetch(older, dataplane.FetchFailedBefore)), loadTimeout, metav1.ConditionFalse, wasmev1.ReasonOlderRevision, ""),
	Entry("one failed a fetch long ago and has none", proofs(withFetch(missing, dataplane.FetchFailedBefore)), loadTimeout, metav1.ConditionFalse, wasmev1.ReasonFetchFailed, ""),
	Entry("one was never brought a module", proofs(loaded, untried), loadTimeout, metav1.ConditionFalse, wasmev1.ReasonNoListener, "1 of them (p1) have no HTTP listener"),
	Entry("one was never brought a module, nor can be asked why", proofs(withFetch(untried, dataplane.FetchUnknown)), loadTimeout, metav1.ConditionFalse, wasmev1.ReasonRefused, ""),
	Entry("one could not fetch its first module", proofs(withFetch(untried, dataplane.FetchFailed)), loadTimeout, metav1.ConditionFalse, wasmev1.ReasonFetchFailed, ""),
	Entry("one has no place for it", proofs(isAnchored(untried), isAnchored(loaded)), loadTimeout, metav1.ConditionFalse, wasmev1.ReasonAnchorMissing, "spec.filter.position"),
	Entry("one refuses it at its place", proofs(isAnchored(missing)), loadTimeout, metav1.ConditionFalse, wasmev1.ReasonRefused, ""),
	Entry("the most frequent cause", proofs(missing, fetchFailed, fetchFailed, fetchFailed, fetchFailed, fetchFailed), loadTimeout, metav1.ConditionFalse, wasmev1.ReasonFetchFailed, "6 of 6 pods do not run the revision; 5 of them (p1, p2, p3, and 2 more)"),
	Entry("a cause beside pods that do not answer", proofs(unreachable, unreachable, missing), loadTimeout, metav1.ConditionFalse, wasmev1.ReasonRefused, "3 of 3 pods do not run the revision; 1 of them (p2)"),
	Entry("one does not answer", proofs(loaded, unreachable), loadTimeout, metav1.ConditionUnknown, wasmev1.ReasonUnreachable, "1 of 2 pods do not answer at their sidecar's metrics port (p1)"),
	Entry("one was never asked", proofs(unknown), loadTimeout, metav1.ConditionUnknown, wasmev1.ReasonUnreachable, "1 of 1 pods"),
	Entry("one goes on with an older one that crashes", proofs(loaded, olderCrashing), loadTimeout, metav1.ConditionFalse, wasmev1.ReasonOlderRevision, ""),
	Entry("one crashes", proofs(loaded, crashing, missing), time.Duration(0), metav1.ConditionFalse, wasmev1.ReasonCrashing, "crashes on requests in 1 of 3 pods (p1)"),
)

var _ = DescribeTable("The state of a workload whose output is in place is that of its pods:",
	func(pods []podProof, waited time.Duration, want wasmev1.WorkloadState, text string) {
		p := pass{inForce: &revision{}, targets: []target{
			{workload: render.Target{Kind: "Deployment", Name: "fine"}, pods: proofs(loaded)},
			{workload: render.Target{Kind: "Deployment", Name: "asked"}, pods: waitedFor(waited, pods)},
		}}
		var status wasmev1.FilterDeploymentStatus
		setWorkloads(&status, p)
		Expect(status.Workloads["fine"]).To(Equal(wasmev1.WorkloadStatus{State: wasmev1.WorkloadSucceeded}))
		Expect(status.Workloads["asked"].State).To(Equal(want))
		Expect(status.Workloads["asked"].Reason).To(ContainSubstring(text))
		Expect(status.Summary.WorkloadsReady).To(Equal("2/2"), "both are programmed")
	},
	Entry("they run it", proofs(loaded, loaded), time.Duration(0), wasmev1.WorkloadSucceeded, ""),
	Entry("there are none", proofs(), loadTimeout, wasmev1.WorkloadSucceeded, ""),
	Entry("they load it", proofs(missing), time.Duration(0), wasmev1.WorkloadPending, "0 of 1 pods run the revision"),
	Entry("they could not fetch it", proofs(fetchFailed), loadTimeout, wasmev1.WorkloadFailed, "could not fetch the module"),
	Entry("they have no sidecar", proofs(bare), loadTimeout, wasmev1.WorkloadFailed, "has a sidecar"),
)

// The states of a pod that was Ready for long, and of one without sidecar.
var (
	bare          = podProof{age: time.Hour}
	unknown       = podProof{age: time.Hour, sidecar: true}
	loaded        = proven(dataplane.Verdict{State: dataplane.StateLoaded})
	draining      = proven(dataplane.Verdict{State: dataplane.StateDraining})
	crashing      = proven(dataplane.Verdict{State: dataplane.StateLoaded, Crashing: true})
	older         = proven(dataplane.Verdict{State: dataplane.StateOtherRevision})
	olderCrashing = proven(dataplane.Verdict{State: dataplane.StateOtherRevision, Crashing: true})
	missing       = proven(dataplane.Verdict{State: dataplane.StateNotLoaded, Fetch: dataplane.FetchClean})
	untried       = proven(dataplane.Verdict{State: dataplane.StateNotLoaded, Fetch: dataplane.FetchClean, Untried: true})
	fetchFailed   = withFetch(missing, dataplane.FetchFailed)
	unreachable   = proven(dataplane.Verdict{State: dataplane.StateUnreachable})
)

func proofs(of ...podProof) []podProof { return of }

func proven(verdict dataplane.Verdict) podProof {
	return podProof{age: time.Hour, sidecar: true, verdict: verdict}
}

func young(of podProof) podProof {
	of.young = true
	return of
}

func isSpent(of podProof) podProof {
	of.spent = true
	return of
}

func isAnchored(of podProof) podProof {
	of.anchored = true
	return of
}

func isWaiting(of podProof) podProof {
	of.waiting = true
	return of
}

// waitedFor are the pods after they were waited for so long.
func waitedFor(waited time.Duration, pods []podProof) []podProof {
	out := slices.Clone(pods)
	for i := range out {
		out[i].waited = waited
	}
	return out
}

func withFetch(of podProof, fetch dataplane.Fetch) podProof {
	of.verdict.Fetch = fetch
	return of
}

var _ = DescribeTable("Where no pod counts",
	func(kind string, pods []podProof, wasLoaded bool, status metav1.ConditionStatus, reason, text string) {
		p := pass{inForce: &revision{}, targets: []target{{workload: render.Target{Kind: kind, Name: "a"}, pods: pods}}}
		v := p.podsVerdict(wasLoaded)
		Expect([]any{v.Status, v.Reason}).To(Equal([]any{status, reason}))
		Expect(v.Message).To(ContainSubstring(text))
	},
	Entry("new ones do not make it flap", "Deployment", proofs(young(missing)), true, metav1.ConditionTrue, wasmev1.ReasonNoPods, "have just come"),
	Entry("new ones do not mend it", "Deployment", proofs(young(missing)), false, metav1.ConditionUnknown, wasmev1.ReasonLoading, "have just come"),
	Entry("there are none", "Deployment", proofs(), false, metav1.ConditionTrue, wasmev1.ReasonNoPods, "no Ready pods"),
	Entry("a Gateway has none", wasmev1.TargetKindGateway, proofs(), false, metav1.ConditionTrue, wasmev1.ReasonNoPods, "gateway.networking.k8s.io/gateway-name"),
	Entry("a Service's waypoint is not known", wasmev1.TargetKindService, proofs(), false, metav1.ConditionTrue, wasmev1.ReasonUnproven, "waypoint"),
	Entry("those that run it do", "Deployment", proofs(young(loaded)), false, metav1.ConditionTrue, wasmev1.ReasonLoaded, ""),
)

var _ = DescribeTable("A change of the spec is all that helps",
	func(pods []podProof, want bool) {
		Expect(loadedVerdict(waitedFor(loadTimeout, pods), wasmev1.OutputEnvoyFilter).Stalled).To(Equal(want))
	},
	Entry("pods that refuse it after each renewal", proofs(isSpent(missing), isSpent(missing), loaded), true),
	Entry("pods that go on with an older one after each renewal", proofs(isSpent(older)), true),
	Entry("not those that a renewal may help", proofs(isSpent(older), older), false),
	Entry("not those that could not fetch it", proofs(isSpent(fetchFailed)), false),
	Entry("not those that have no place for it", proofs(isSpent(untried)), false),
)

var _ = It("The message for other outputs does not claim a revision", func() {
	v := loadedVerdict(proofs(loaded), wasmev1.OutputWasmPlugin)
	Expect(v.Message).To(Equal("1 of 1 pods run the filter; of a WasmPlugin they do not show the revision"))
})

var _ = DescribeTable("Pods are waited for",
	func(change func(*wasmev1.FilterDeployment), want time.Duration, isSettled bool) {
		fd := &wasmev1.FilterDeployment{Status: wasmev1.FilterDeploymentStatus{
			Revision: "r",
			Conditions: []metav1.Condition{{
				Type: wasmev1.ConditionLoaded, Status: metav1.ConditionUnknown, LastTransitionTime: metav1.NewTime(time.Now().Add(-time.Hour)),
			}},
		}}
		change(fd)
		since, settled := waited(fd, "r")
		Expect(since).To(BeNumerically("~", want, time.Minute/2))
		Expect(settled).To(Equal(isSettled))
	},
	Entry("since they load", func(*wasmev1.FilterDeployment) {}, time.Hour, false),
	Entry("anew with a new revision", func(fd *wasmev1.FilterDeployment) { fd.Status.Revision = "q" }, time.Duration(0), false),
	Entry("anew after all had it", func(fd *wasmev1.FilterDeployment) { fd.Status.Conditions[0].Status = metav1.ConditionTrue }, time.Duration(0), true),
	Entry("from the start", func(fd *wasmev1.FilterDeployment) { fd.Status.Conditions = nil }, time.Duration(0), false),
)

var _ = It("Pods that failed are not waited for again", func() {
	fd := &wasmev1.FilterDeployment{Status: wasmev1.FilterDeploymentStatus{
		Revision:   "r",
		Conditions: []metav1.Condition{{Type: wasmev1.ConditionLoaded, Status: metav1.ConditionFalse, LastTransitionTime: metav1.Now()}},
	}}
	since, settled := waited(fd, "r")
	Expect(since).To(Equal(loadTimeout))
	Expect(settled).To(BeTrue())
})

// injected is a Ready pod of Deployment details-v1, as injection and the kubelet leave it.
func injected() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "n", Name: "details-v1-5d8-x", UID: "u", ResourceVersion: "7",
			Labels:          map[string]string{"app": "details", appsv1.DefaultDeploymentUniqueLabelKey: "5d8"},
			Annotations:     map[string]string{agentPortAnnotation: "15000", "note": "long"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "details-v1-5d8", UID: "r", Controller: new(true)}},
		},
		Spec: corev1.PodSpec{
			NodeName: "node",
			InitContainers: []corev1.Container{
				{Name: "istio-init"},
				{Name: sidecarContainer, Image: "proxyv2", Ports: []corev1.ContainerPort{{Name: "http-envoy-prom", ContainerPort: 15099}, {Name: "other", ContainerPort: 1}}},
			},
			Containers: []corev1.Container{{Name: "app"}},
		},
		Status: corev1.PodStatus{
			PodIP: "10.0.0.7",
			Conditions: []corev1.PodCondition{
				{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
				{Type: corev1.PodReady, Status: corev1.ConditionTrue, Message: "long"},
			},
		},
	}
}

var _ = It("The cache keeps of a pod what it takes to ask its sidecar", func() {
	item, err := trimPod(injected())
	Expect(err).NotTo(HaveOccurred())
	pod := item.(*corev1.Pod)
	Expect(pod.Labels).To(BeNil())
	Expect(pod.OwnerReferences).To(Equal([]metav1.OwnerReference{{Kind: "Deployment", Name: "details-v1", Controller: new(true)}}))
	Expect(pod.Annotations).To(Equal(map[string]string{agentPortAnnotation: "15000"}))
	Expect(pod.Spec).To(Equal(corev1.PodSpec{Containers: []corev1.Container{{Name: sidecarContainer, Ports: []corev1.ContainerPort{{Name: "http-envoy-prom", ContainerPort: 15099}}}}}))
	Expect(pod.Status.Conditions).To(Equal([]corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}))
	Expect(podTargets(pod)).To(Equal([]render.Target{{Kind: "Deployment", Namespace: "n", Name: "details-v1"}}))
	Expect(isReady(pod)).To(BeTrue())
	at := probed(pod)
	Expect([]any{at.UID, at.Address.String(), at.StatsPort, at.AgentPort}).To(Equal([]any{pod.UID, "10.0.0.7", uint16(15099), uint16(15000)}))
	Expect(trimPod(pod)).To(Equal(pod), "a transform may be given its own result")
	Expect(trimPod("tombstone")).To(Equal("tombstone"))
})

var _ = It("Pods in the cache share the sidecar with the usual stats port", func() {
	trimmed := func(ports ...corev1.ContainerPort) *corev1.Container {
		pod := injected()
		pod.Spec.InitContainers[1].Ports = ports
		item, err := trimPod(pod)
		Expect(err).NotTo(HaveOccurred())
		return sidecarOf(item.(*corev1.Pod))
	}
	usual := trimmed(corev1.ContainerPort{Name: statsPortName, ContainerPort: 15090})
	Expect(trimmed(corev1.ContainerPort{Name: statsPortName, ContainerPort: 15090})).To(BeIdenticalTo(usual))
	Expect(trimmed()).To(BeIdenticalTo(usual), "where it is when it has no name")
	Expect(trimmed(corev1.ContainerPort{Name: statsPortName, ContainerPort: 15091}).Ports).To(Equal([]corev1.ContainerPort{{Name: statsPortName, ContainerPort: 15091}}))
})

var _ = DescribeTable("A pod belongs",
	func(change func(*corev1.Pod), want ...string) {
		pod := injected()
		change(pod)
		var got []string
		for _, target := range podTargets(pod) {
			got = append(got, target.Kind+"/"+target.Name)
		}
		Expect(strings.Join(got, " ")).To(Equal(strings.Join(want, " ")))
	},
	Entry("to its Deployment", func(*corev1.Pod) {}, "Deployment/details-v1"),
	Entry("to its StatefulSet", func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "StatefulSet" }, "StatefulSet/details-v1-5d8"),
	Entry("to its DaemonSet", func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "DaemonSet" }, "DaemonSet/details-v1-5d8"),
	Entry("to a gateway, too", func(p *corev1.Pod) { p.Labels[gatewayLabel] = "waypoint" }, "Deployment/details-v1", "Gateway/waypoint"),
	Entry("to nobody when its ReplicaSet stands alone", func(p *corev1.Pod) { delete(p.Labels, appsv1.DefaultDeploymentUniqueLabelKey) }),
	Entry("to nobody without owner", func(p *corev1.Pod) { p.OwnerReferences = nil }),
	Entry("to nobody that is known as a Job's", func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "Job" }),
)

var _ = It("A pod that is being deleted or is not Ready is not asked", func() {
	pod := injected()
	pod.DeletionTimestamp = new(metav1.Now())
	Expect(isReady(pod)).To(BeFalse())
	pod = injected()
	pod.Status.Conditions[1].Status = corev1.ConditionFalse
	Expect(isReady(pod)).To(BeFalse())
	pod.Status.Conditions = nil
	Expect(isReady(pod)).To(BeFalse())
})
