package controllers

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/cli"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/test/registry"
)

var _ = Describe("A registry", func() {
	It("that limits requests is left alone until the time in the condition", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a")
		good := w.filterDeployment(ctx, "good", w.push(ctx, "good:v1", "good"), filterID("good"))
		Expect(w.settle(ctx, good)).To(Succeed())
		late := w.push(ctx, "late:v1", "late")
		w.registry.Inject(registry.Limit("1200"))

		fd := w.filterDeployment(ctx, "f", late, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(notReady(wasmev1.ReasonRegistryUnavailable, w.registry.Host()+" limits requests (status 429): it is asked again at 20"))
		Expect(fd).To(haveCondition(wasmev1.ConditionReconciling, metav1.ConditionTrue, wasmev1.ReasonProgressingWithRetry))
		w.registry.Heal()
		w.registry.ResetRequests()
		w.askAgain(ctx, fd) // ten minutes later
		Expect(w.settle(ctx, good)).To(Succeed())
		Expect(good).To(beReady("1/1"))
		Expect(w.registry.Requests("", "")).To(BeZero())

		Eventually(ctx, func(g Gomega) {
			w.clock.Step(pollInterval)
			g.Expect(w.settle(ctx, fd)).To(Succeed())
			g.Expect(fd).To(beReady("1/1"))
		}).WithTimeout(bound).Should(Succeed())
	})

	It("whose passwords are rotated takes the one that the Secret has then, and the last good revision stays", func(ctx context.Context) {
		w := newWorld(ctx, registry.WithBearerAuth(map[string]string{"ann": "first"}))
		w.deployments(ctx, "a")
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "s", Annotations: map[string]string{pull.RegistryAnnotation: w.registry.Host()}},
			StringData: map[string]string{"username": "ann", "password": "first"},
		}
		Expect(user.Create(ctx, secret)).To(Succeed())
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "private:v1", "hello"), pullSecret("s"), filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		revision, output := fd.Status.Revision, w.output(ctx, "a-f").ResourceVersion
		w.written()
		head := "/v2/private/manifests/v1"

		By("renewing a token that has expired")
		w.registry.ExpireTokens()
		w.registry.ResetRequests()
		w.askAgain(ctx, fd)
		Eventually(ctx, func() int { return w.registry.Requests(http.MethodHead, head) }).WithTimeout(bound).Should(Equal(2), "the first with the old token")
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		Expect(w.written()).To(BeEmpty())

		By("saying that the old password is denied")
		w.registry.SetPassword("ann", "second")
		w.registry.ExpireTokens()
		Expect(w.answer(ctx, fd)).NotTo(Succeed(), "only an error has the queue's backoff, after which the Secret is read again")
		Expect(fd).To(notReady(wasmev1.ReasonUnauthorized, "denies access (status 401)", "pullSecret"))
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionFalse, wasmev1.ReasonLastGoodRevision, "revision "+revision+" stays in force"))
		Expect(w.held(ctx)).To(Equal(map[string]string{"a-f": revision}))

		By("taking the new one from the Secret, with no touch of the FilterDeployment")
		edit(ctx, secret, func(s *corev1.Secret) { s.Data["password"] = []byte("second") })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		Expect(fd.Status.Revision).To(Equal(revision))
		Expect(w.output(ctx, "a-f").ResourceVersion).To(Equal(output))

		By("noticing nothing of a Secret that is rotated in time")
		w.registry.SetPassword("ann", "third")
		w.registry.ExpireTokens()
		edit(ctx, secret, func(s *corev1.Secret) { s.Data["password"] = []byte("third") })
		w.written()
		Expect(w.settle(ctx, fd)).To(Succeed())
		w.awaitAnswer(ctx, fd)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		Expect(w.written()).To(BeEmpty())
	})
})

var _ = Describe("An image with the pull policy IfNotPresent", func() {
	pinned := func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.ImagePullPolicy = wasmev1.PullIfNotPresent }

	It("does not follow its tag, also not when the operator starts again with nothing, until the tag or the policy changes", func(ctx context.Context) {
		w := newWorld(ctx)
		w.deployments(ctx, "a")
		fd := w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "first"), pinned, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		first, revision := *fd.Status.Module, fd.Status.Revision
		w.written()
		w.push(ctx, "hello:v1", "moved")

		By("polling nothing")
		Expect(w.settle(ctx, fd)).To(Succeed())
		w.registry.ResetRequests()
		for range 3 {
			w.askAgain(ctx, fd)
			Expect(w.settle(ctx, fd)).To(Succeed())
		}
		Expect(w.registry.Requests("", "")).To(BeZero())

		By("pulling the digest that its revision has")
		w.store = GinkgoT().TempDir()
		w.restart(ctx)
		Expect(w.settle(ctx, fd)).To(Succeed())
		w.awaitAnswer(ctx, fd)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(w.Store.Has(first.SHA256)).To(BeTrue())
		Expect(w.registry.Requests("", "/v2/hello/manifests/v1")).To(BeZero())
		Expect(fd).To(beReady("1/1"))
		Expect(*fd.Status.Module).To(Equal(first))
		Expect(fd.Status.Revision).To(Equal(revision))
		Expect(w.written()).To(BeEmpty())

		By("keeping it across a change of the configuration")
		edit(ctx, fd, config("other"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		Expect(*fd.Status.Module).To(Equal(first))

		By("looking the tag up with the policy Always")
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.ImagePullPolicy = wasmev1.PullAlways })
		Expect(w.settle(ctx, fd)).To(Succeed())
		w.awaitAnswer(ctx, fd)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		moved := fd.Status.Module.SHA256
		Expect(moved).NotTo(Equal(first.SHA256))

		By("keeping what it had last when the policy comes back")
		edit(ctx, fd, pinned)
		w.push(ctx, "hello:v1", "moved again")
		Expect(w.settle(ctx, fd)).To(Succeed())
		w.awaitAnswer(ctx, fd)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd.Status.Module.SHA256).To(Equal(moved))

		By("looking up another tag")
		edit(ctx, fd, image(w.push(ctx, "hello:v2", "second")))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		Expect(fd.Status.Module.SHA256).NotTo(BeElementOf(first.SHA256, moved))
	})
})

var _ = Describe("A preloaded image", func() {
	It("that wasme saved is resolved without a registry, in every namespace, also when another one has failed", func(ctx context.Context) {
		w := newWorld(ctx, registry.WithBasicAuth(map[string]string{"ann": "right"}))
		w.deployments(ctx, "a")
		reference := w.push(ctx, "hello:v1", "hello")
		folder, local := GinkgoT().TempDir(), GinkgoT().TempDir()
		archive := filepath.Join(local, "hello.tar")
		wasme("pull", reference, "--plain-http", "-u", "ann", "-p", "right", "--store", local)
		wasme("save", reference, "--store", local, "-o", archive)
		Expect(exec.CommandContext(ctx, "tar", "-xf", archive, "-C", folder).Run()).To(Succeed())

		w.registry.Down()
		w.stop()
		w.store = GinkgoT().TempDir()
		w.operator = startOperator(ctx, w.clock, w.store, preloadedImages(folder))
		missing := w.filterDeployment(ctx, "missing", w.registry.Host()+"/other:v1", filterID("missing"))
		for range 6 {
			Expect(w.settle(ctx, missing)).To(Succeed())
			w.clock.Step(10 * time.Minute)
		}
		Expect(missing).To(notReady(wasmev1.ReasonRegistryUnavailable, "the connection was refused; --preloaded-images does not have it either"))

		fd := w.filterDeployment(ctx, "f", reference, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		Expect(fd.Status.Module.Reference).To(Equal(reference))
		Expect(fd.Status.Module.RootIDs).To(ConsistOf(rootID))

		By("keeping it when the folder is damaged")
		Expect(os.WriteFile(filepath.Join(folder, "index.json"), []byte("damaged"), 0o600)).To(Succeed())
		w.written()
		w.askAgain(ctx, fd)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(beReady("1/1"))
		Expect(w.written()).To(BeEmpty())
	})
})

// wasme runs a command of wasme.
func wasme(arguments ...string) {
	GinkgoHelper()
	streams, _, _, errOut := genericiooptions.NewTestIOStreams()
	Expect(cli.Run(context.Background(), arguments, streams)).To(BeZero(), errOut.String)
}
