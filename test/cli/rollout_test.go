package cli_test

import (
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gbytes"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli"
	"github.com/wasme-io/wasme-operator/internal/revision"
)

var _ = Describe("wasme rollout", func() {
	var (
		namespace string
		fd        *wasmev1.FilterDeployment
	)

	BeforeEach(func(ctx context.Context) {
		namespace = newNamespace(ctx)
		fd = createFilterDeployment(ctx, namespace, "hello", "first")
	})

	// rollout runs one of its commands on hello.
	rollout := func(ctx context.Context, command string, args ...string) result {
		return wasme(ctx, append([]string{"rollout", command, "hello", "-n", namespace}, args...)...)
	}
	live := func(ctx context.Context) *wasmev1.FilterDeployment {
		GinkgoHelper()
		Expect(user.Get(ctx, client.ObjectKeyFromObject(fd), fd)).To(Succeed())
		return fd
	}
	fails := func(ctx context.Context, phase wasmev1.RolloutPhase) {
		GinkgoHelper()
		setStatus(ctx, fd, func(status *wasmev1.FilterDeploymentStatus) {
			status.Conditions = ready(metav1.ConditionFalse, wasmev1.ReasonRolledBack, "revision bbbbbbbb was rolled back to aaaaaaaa")
			status.Rollout = &wasmev1.RolloutStatus{Phase: phase, From: "aaaaaaaa", To: "bbbbbbbb", Step: new(int32(1))}
		})
	}

	Describe("status", func() {
		It("follows a rollout until it is complete", func(ctx context.Context) {
			out := gbytes.NewBuffer()
			ended := make(chan int)
			go func() {
				ended <- cli.Run(ctx, []string{"rollout", "status", "hello", "-n", namespace, "--timeout=1m", "--kubeconfig", kubeconfig}, genericiooptions.IOStreams{Out: out, ErrOut: GinkgoWriter})
			}()
			Eventually(out).WithTimeout(10 * time.Second).Should(gbytes.Say("Waiting for the operator to look at the newest spec...\n"))
			setStatus(ctx, fd, func(status *wasmev1.FilterDeploymentStatus) {
				status.Conditions = ready(metav1.ConditionUnknown, wasmev1.ReasonSpreading, "revision bbbbbbbb on 1 of 6 workloads")
			})
			Eventually(out).WithTimeout(10 * time.Second).Should(gbytes.Say("Waiting for rollout to finish: revision bbbbbbbb on 1 of 6 workloads...\n"))
			Consistently(ended).WithTimeout(200 * time.Millisecond).ShouldNot(Receive())
			setStatus(ctx, fd, complete)
			Eventually(ended).WithTimeout(10 * time.Second).Should(Receive(BeZero()))
			Expect(out).To(gbytes.Say("filterdeployment \"hello\" successfully rolled out\n"))
		})

		It("refuses a rollout that went back", func(ctx context.Context) {
			fails(ctx, wasmev1.RolloutRolledBack)
			for _, watch := range []string{"--watch", "--watch=false"} {
				Expect(rollout(ctx, "status", watch)).To(Equal(result{Code: 3, ErrOut: "Error: rollout of \"hello\": revision bbbbbbbb was rolled back to aaaaaaaa\n"}))
			}
		})

		It("does not wait if it shall not", func(ctx context.Context) {
			Expect(rollout(ctx, "status", "--watch=false")).To(Equal(result{Out: "Waiting for the operator to look at the newest spec...\n"}))
		})

		DescribeTable("fails at once without the right to", func(ctx context.Context, says string, verbs ...string) {
			path := guest(ctx, namespace, verbs...)
			Eventually(func() result { return wasmeWith(ctx, path, "", "rollout", "status", "hello", "--timeout=1m") }).WithTimeout(waiting).Should(And(
				HaveField("Code", 1), HaveField("ErrOut", And(HavePrefix("Error: "+says), HaveSuffix("ask for that right, or choose another --context\n"))),
			))
		},
			Entry("list", "listing the FilterDeployments: ", "get", "watch"),
			Entry("watch", "watching the FilterDeployments: ", "get", "list"),
		)

		It("fails after its timeout", func(ctx context.Context) {
			got := rollout(ctx, "status", "--timeout=200ms")
			Expect(got.Code).To(Equal(1))
			Expect(got.ErrOut).To(Equal("Error: waiting for hello: not complete within 200ms: see wasme status hello, or wait longer with --timeout\n"))
		})

		It("fails when the FilterDeployment is deleted", func(ctx context.Context) {
			ended := make(chan result)
			go func() { ended <- rollout(ctx, "status") }()
			Consistently(ended).WithTimeout(200 * time.Millisecond).ShouldNot(Receive())
			Expect(user.Delete(ctx, fd)).To(Succeed())
			Eventually(ended).WithTimeout(10 * time.Second).Should(Receive(And(HaveField("Code", 1), HaveField("ErrOut", ContainSubstring("it was deleted")))))
		})
	})

	It("pauses and resumes", func(ctx context.Context) {
		Expect(rollout(ctx, "resume").ErrOut).To(Equal("Error: resuming hello: it is not paused\n"))
		Expect(rollout(ctx, "pause")).To(Equal(result{Out: "filterdeployment.wasme.io/hello paused\n"}))
		Expect(live(ctx).Spec.Rollout.Paused).To(BeTrue())
		Expect(rollout(ctx, "pause").ErrOut).To(Equal("Error: pausing hello: it is paused already\n"))
		Expect(rollout(ctx, "resume")).To(Equal(result{Out: "filterdeployment.wasme.io/hello resumed\n"}))
		Expect(live(ctx).Spec.Rollout.Paused).To(BeFalse())
		Expect(fd.ManagedFields).To(ContainElement(HaveField("Manager", "wasme")))
	})

	It("pauses no rollout without steps", func(ctx context.Context) {
		fd.Spec.Rollout = &wasmev1.RolloutSpec{Strategy: wasmev1.RolloutImmediate}
		Expect(user.Update(ctx, fd)).To(Succeed())
		Expect(rollout(ctx, "pause").ErrOut).To(ContainSubstring("its strategy is Immediate, which has no steps: set spec.rollout.strategy to Staged"))
	})

	It("retries what failed, again and again", func(ctx context.Context) {
		Expect(rollout(ctx, "retry").ErrOut).To(ContainSubstring("no rollout of it has failed"))
		fails(ctx, wasmev1.RolloutRolledBack)
		Expect(rollout(ctx, "retry")).To(Equal(result{Out: "filterdeployment.wasme.io/hello retries revision bbbbbbbb\n"}))
		Expect(live(ctx).Annotations).To(HaveKeyWithValue(wasmev1.RetryAnnotation, "bbbbbbbb"))
		setStatus(ctx, fd, func(status *wasmev1.FilterDeploymentStatus) { status.Rollout.Retried = "bbbbbbbb" })
		Expect(rollout(ctx, "retry").Code).To(BeZero())
		Expect(live(ctx).Annotations).To(HaveKeyWithValue(wasmev1.RetryAnnotation, "bbbbbbbb/2"))
	})

	It("changes nothing that is suspended", func(ctx context.Context) {
		fails(ctx, wasmev1.RolloutRolledBack)
		fd.Spec.Suspend = true
		Expect(user.Update(ctx, fd)).To(Succeed())
		for _, command := range []string{"retry", "undo", "resume"} {
			got := rollout(ctx, command)
			Expect(got.Code).To(Equal(1))
			Expect(got.ErrOut).To(ContainSubstring("spec.suspend keeps everything as it is: set it to false"))
		}
	})

	Describe("with revisions", func() {
		var first, second revision.Revision
		digest := func(digit string) string { return strings.Repeat(digit, 64) }

		BeforeEach(func(ctx context.Context) {
			first = keepRevision(ctx, fd, digest("1"))
			createOutput(ctx, fd, "details", first.Hash)
			fd.Spec.Filter.Config, fd.Spec.Filter.Preflight = text("second"), wasmev1.PreflightWarn
			fd.Spec.Filter.VM = &wasmev1.VMSpec{Env: []wasmev1.EnvVar{{Name: "A", Value: new("b")}}}
			Expect(user.Update(ctx, fd)).To(Succeed())
			second = keepRevision(ctx, fd, digest("2"), first)
			createOutput(ctx, fd, "ratings", second.Hash)
		})

		It("lists them", func(ctx context.Context) {
			got := rollout(ctx, "history")
			Expect(got.Code).To(BeZero(), got.ErrOut)
			Expect(lines(got.Out)).To(HaveExactElements(
				"REVISION HASH STATE MODULE DIGEST AGE",
				MatchRegexp("^2 "+second.Hash+" live on 1/2 registry.test/hello:v1 222222222222 [0-9]+s$"),
				MatchRegexp("^1 "+first.Hash+" live on 1/2 registry.test/hello:v1 111111111111 [0-9]+s$"),
			))
		})

		It("goes back to the one before, with its very module", func(ctx context.Context) {
			got := rollout(ctx, "undo")
			Expect(got.Code).To(BeZero(), got.ErrOut)
			Expect(got.Out).To(Equal("filterdeployment.wasme.io/hello rolled back to revision 1 (" + first.Hash + ")\n"))
			Expect(got.ErrOut).To(Equal("note: the tag of registry.test/hello:v1 has another image since: spec.filter.image references the former one by its digest\n"))
			filter := live(ctx).Spec.Filter
			Expect(filter.Config).To(Equal(text("first")))
			Expect(filter.VM).To(BeNil())
			Expect(filter.Preflight).To(Equal(wasmev1.PreflightWarn))
			Expect(filter.Image).To(Equal("registry.test/hello@sha256:" + digest("1")))
		})

		It("goes to any of them, by number or hash", func(ctx context.Context) {
			Expect(rollout(ctx, "undo", "--to-revision", first.Hash).Code).To(BeZero())
			Expect(live(ctx).Spec.Filter.Config).To(Equal(text("first")))
			Expect(rollout(ctx, "undo", "--to-revision=2").Code).To(BeZero())
			Expect(live(ctx).Spec.Filter.Config).To(Equal(text("second")))
			Expect(rollout(ctx, "undo", "--to-revision=2").Out).To(Equal("filterdeployment.wasme.io/hello skipped rollback (the spec asks for revision 2 (" + second.Hash + ") already)\n"))
			Expect(rollout(ctx, "undo", "--to-revision=9").ErrOut).To(Equal("Error: finding revision 9: it was not kept: choose one of 2, 1\n"))
		})

		It("goes back to another kind of output", func(ctx context.Context) {
			fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Output: wasmev1.OutputWasmPlugin, Labels: map[string]wasmev1.LabelValue{"app": "a"}, Distribution: wasmev1.DistributionRegistry}
			fd.Spec.Filter.Config = &wasmev1.Configuration{Raw: []byte(`{"a":1}`)}
			Expect(user.Update(ctx, fd)).To(Succeed())
			third := keepRevision(ctx, fd, digest("3"), second, first)
			Expect(rollout(ctx, "undo", "--to-revision=1").ErrOut).To(HavePrefix("note: "))
			Expect(live(ctx).Spec.Deployment.Istio.Output).To(BeEmpty())
			Expect(fd.Spec.Deployment.Istio.Distribution).To(BeEmpty())
			Expect(fd.Spec.Deployment.Istio.Labels).To(HaveLen(1))
			Expect(rollout(ctx, "undo", "--to-revision", third.Hash).Code).To(BeZero())
			Expect(live(ctx).Spec.Deployment.Istio.Output).To(Equal(wasmev1.OutputWasmPlugin))
		})
	})

	It("has nothing to go back to, or to list, before the operator keeps revisions", func(ctx context.Context) {
		Expect(rollout(ctx, "undo").ErrOut).To(ContainSubstring("change the spec yourself"))
		Expect(rollout(ctx, "history")).To(Equal(result{ErrOut: "The operator has kept no revision of hello yet.\n"}))
	})
})
