package e2e

import (
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
)

// These Envoys are built without Istio's extension istio.stats. A test filter replaces it: its
// metrics have the same names, buckets and labels, and real Envoys serve them.
var _ = Describe("An analysis, with a stand-in for istio.stats", Serial, func() {
	It("takes back what fails requests or slows them down, waits for requests, and lets the rest pass", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		pods := runReplicas(ctx, namespace, 3)
		stats := filterDeployment(namespace, push(ctx, filters.Telemetry), "")
		stats.Name = "stats"
		Expect(admin.Create(ctx, stats)).To(Succeed())
		Eventually(readyReason(ctx, stats)).WithTimeout(loadTime).Should(Equal(wasmev1.ReasonReady))
		fd := stagedOn(ctx, namespace, "app", 0, push(ctx, filters.Hello))
		for _, pod := range pods {
			meshtest.EventuallyAnswers(ctx, pod, "one")
		}
		Eventually(func() error {
			current := live(ctx, fd)
			current.Spec.Rollout = &wasmev1.RolloutSpec{
				CanaryPods: new(int32(1)), BakeTime: &metav1.Duration{Duration: 2 * time.Second},
				Analysis: &wasmev1.RolloutAnalysis{MaxErrorRatioIncrease: "1%", MaxLatencyIncrease: "50%"},
			}
			return admin.Update(ctx, current)
		}).Should(Succeed())
		var requests []*stream
		begin := func() {
			for _, pod := range pods {
				requests = append(requests, startStreamEvery(ctx, 20*time.Millisecond, pod.URL))
			}
		}
		flawed := func(configuration string) {
			GinkgoHelper()
			change(ctx, fd, func(f *wasmev1.FilterSpec) {
				f.Image, f.Config = push(ctx, filters.Flawed), &wasmev1.Configuration{Raw: []byte(configuration)}
			})
		}
		begin()
		canaries := map[int]bool{}
		for configuration, reason := range map[string]string{
			`{"fail": 5}`:    wasmev1.ReasonErrorRatioIncreased,
			`{"delay": 100}`: wasmev1.ReasonLatencyIncreased,
		} {
			By(reason)
			flawed(configuration)
			Eventually(phase(ctx, fd)).WithTimeout(loadTime).Should(Equal(wasmev1.RolloutRolledBack))
			rejected := live(ctx, fd).Status.Rollout.Rejected
			Expect(rejected.Reason).To(Equal(reason))
			canary := slices.IndexFunc(pods, func(pod *mesh.Running) bool {
				return strings.HasPrefix(rejected.Message, "app, in the pods that ran it first ("+pod.Pod+"): ")
			})
			Expect(canary).To(BeNumerically(">=", 0), rejected.Message)
			canaries[canary] = true
			meshtest.EventuallyAnswers(ctx, pods[canary], "one")
		}
		for i, sent := range requests {
			if canaries[i] {
				sent.stop()
			} else {
				sent.answersNothingElse()
			}
		}

		By("too few requests")
		flawed(`{}`)
		Eventually(phase(ctx, fd)).WithTimeout(loadTime).Should(Equal(wasmev1.RolloutBaking))
		Consistently(phase(ctx, fd), 5*time.Second, time.Second).Should(Equal(wasmev1.RolloutBaking))
		Expect(message(ctx, fd)).To(ContainSubstring("until the canaries and the other pods have had 100 requests each"))

		By("enough requests")
		begin()
		Eventually(phase(ctx, fd)).WithTimeout(loadTime).Should(Equal(wasmev1.RolloutComplete))
		for _, all := range requests[len(pods):] {
			all.answersNothingElse()
		}
	})
})
