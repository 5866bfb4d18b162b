package controllers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/go-logr/logr/funcr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/internal/module/store"
	"github.com/wasme-io/wasme-operator/test/registry"
)

var _ = Describe("The module keeper", func() {
	var w *world
	var fd *wasmev1.FilterDeployment
	var key types.NamespacedName
	// replica is one that never led: its store is empty.
	var replica *operator

	// keep makes one pass over the ControllerRevision.
	keep := func(ctx context.Context) (ctrl.Result, error) {
		GinkgoHelper()
		replica.catchUp(ctx, w.namespace)
		return replica.keeper.Reconcile(ctx, ctrl.Request{NamespacedName: key})
	}
	kept := func(ctx context.Context) {
		GinkgoHelper()
		result, err := keep(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(result.RequeueAfter).To(BeNumerically(">=", replica.keeper.RecheckInterval))
	}
	await := func(ctx context.Context) {
		GinkgoHelper()
		Eventually(ctx, replica.keeperWoken).WithTimeout(bound).Should(Receive(Equal(key)))
	}
	// served reports whether the replica would serve the module at once.
	served := func(ctx context.Context) bool {
		ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		file, err := replica.Store.Await(ctx, fd.Status.Module.SHA256)
		if err == nil {
			Expect(file.Close()).To(Succeed())
		}
		return err == nil
	}

	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx, registry.WithBearerAuth(map[string]string{"ann": "right"}))
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "s", Annotations: map[string]string{pull.RegistryAnnotation: w.registry.Host()}},
			StringData: map[string]string{"username": "ann", "password": "right"},
		}
		Expect(user.Create(ctx, secret)).To(Succeed())
		w.deployments(ctx, "a")
		fd = w.filterDeployment(ctx, "f", w.push(ctx, "hello:v1", "hello"), pullSecret("s"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		key = types.NamespacedName{Namespace: w.namespace, Name: w.revisions(ctx, fd)[0].Name}
		replica = startOperator(ctx, w.clock, GinkgoT().TempDir())
	})

	It("keeps the modules of older revisions only while there is room", func(ctx context.Context) {
		another := strings.Repeat("0", 64)
		share := int64(store.DefaultBytes / 2)
		older := *fd.Status.Module.SizeBytes
		edit(ctx, fd, image(w.push(ctx, "hello:v2", "goodbye")))
		Expect(w.settle(ctx, fd)).To(Succeed())
		newer := *fd.Status.Module.SizeBytes
		both := []types.NamespacedName{key, {Namespace: w.namespace, Name: w.revisions(ctx, fd)[1].Name}}
		for _, key = range both {
			kept(ctx)
			await(ctx)
		}
		needed := func(size int64) {
			GinkgoHelper()
			for _, key = range both {
				kept(ctx)
			}
			Expect(replica.Store.CheckShare(w.namespace, another, share-size)).To(Succeed())
			Expect(replica.Store.CheckShare(w.namespace, another, share-size+1)).NotTo(Succeed())
		}
		needed(newer)
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.RootID = "changed" })
		needed(older + newer)
		Expect(w.settle(ctx, fd)).To(Succeed())
	})

	It("logs that a module is missing, and no key that is in its URL", func(ctx context.Context) {
		content := wasmModule("behind a key")
		sum := sha256.Sum256(content)
		behind := w.filterDeployment(ctx, "g", "", func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Filter = wasmev1.FilterSpec{URL: w.registry.PutFile("/f.wasm", content) + "?key=hush", SHA256: hex.EncodeToString(sum[:]), RootID: rootID}
		})
		Expect(w.settle(ctx, behind)).To(Succeed())
		w.registry.Down()
		key.Name = w.revisions(ctx, behind)[0].Name
		kept(ctx)
		await(ctx)
		var logged strings.Builder
		kept(log.IntoContext(ctx, funcr.New(func(_, line string) { logged.WriteString(line) }, funcr.Options{})))
		Expect(logged.String()).To(And(ContainSubstring("A module is missing"), ContainSubstring(hex.EncodeToString(sum[:])), Not(ContainSubstring("hush"))))
	})

	It("fetches a module from its URL with the key that only the spec has", func(ctx context.Context) {
		content := wasmModule("behind a key")
		sum := sha256.Sum256(content)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("key") != "hush" {
				http.Error(w, "no", http.StatusForbidden)
				return
			}
			_, _ = w.Write(content)
		}))
		DeferCleanup(server.Close)
		behind := w.filterDeployment(ctx, "g", "", func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Filter = wasmev1.FilterSpec{URL: server.URL + "/f.wasm?key=hush", SHA256: hex.EncodeToString(sum[:]), RootID: rootID}
		})
		Expect(w.settle(ctx, behind)).To(Succeed())
		object := w.revisions(ctx, behind)[0]
		Expect(string(object.Data.Raw)).To(And(ContainSubstring(server.URL+"/f.wasm"), Not(ContainSubstring("hush"))))
		key.Name = object.Name
		kept(ctx)
		await(ctx)
		kept(ctx)
		Expect(replica.Store.Has(hex.EncodeToString(sum[:]))).To(BeTrue())
	})

	It("pulls a module that is missing, by its digest even when the tag has moved", func(ctx context.Context) {
		w.push(ctx, "hello:v1", "moved")
		w.registry.ResetRequests()
		kept(ctx)
		Expect(served(ctx)).To(BeFalse())
		await(ctx)
		kept(ctx)
		Expect(served(ctx)).To(BeTrue())
		Expect(w.registry.Requests("", "/v2/hello/manifests/v1")).To(BeZero())
		Expect(w.registry.Requests(http.MethodHead, "/v2/hello/manifests/"+fd.Status.Module.ManifestDigest)).To(Equal(1))
		Expect(replica.written()).To(BeEmpty())

		By("asking no more once it is there")
		w.clock.Step(time.Hour)
		w.registry.ResetRequests()
		kept(ctx)
		Expect(w.registry.Requests("", "")).To(BeZero())
	})

	It("pulls it when the registry is back", func(ctx context.Context) {
		w.registry.Down()
		kept(ctx)
		await(ctx)
		kept(ctx)
		Expect(served(ctx)).To(BeFalse())
		Expect(w.registry.Up()).To(Succeed())
		w.clock.Step(10 * time.Minute)
		await(ctx)
		kept(ctx)
		Expect(served(ctx)).To(BeTrue())
	})

	It("tries again when the pull Secret is there", func(ctx context.Context) {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "s"}}
		Expect(user.Get(ctx, types.NamespacedName{Namespace: w.namespace, Name: "s"}, secret)).To(Succeed())
		Expect(user.Delete(ctx, secret)).To(Succeed())
		result, err := keep(ctx)
		Expect(err).To(MatchError(ContainSubstring("create it, or fix the name")))
		Expect(result.IsZero()).To(BeTrue(), "the queue's backoff decides")
		secret.ResourceVersion = ""
		Expect(user.Create(ctx, secret)).To(Succeed())
		kept(ctx)
		await(ctx)
		kept(ctx)
		Expect(served(ctx)).To(BeTrue())
	})

	It("has a module served for as long as a revision names it, and an hour beyond", func(ctx context.Context) {
		w.restart(ctx)
		replica = w.operator
		w.clock.Step(2 * store.ServedAfterRelease)
		Expect(served(ctx)).To(BeFalse(), "it is held, and nobody names it")
		kept(ctx)
		Expect(served(ctx)).To(BeTrue())
		w.clock.Step(2 * store.ServedAfterRelease)
		Expect(served(ctx)).To(BeTrue())

		Expect(user.Delete(ctx, &w.revisions(ctx, fd)[0])).To(Succeed())
		result, err := keep(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(result.IsZero()).To(BeTrue())
		w.clock.Step(store.ServedAfterRelease - time.Second)
		Expect(served(ctx)).To(BeTrue())
		w.clock.Step(2 * time.Second)
		Expect(served(ctx)).To(BeFalse())
	})

	It("ignores a revision that cannot be read", func(ctx context.Context) {
		odd := w.revisions(ctx, fd)[0].DeepCopy()
		odd.ObjectMeta = metav1.ObjectMeta{Namespace: odd.Namespace, Name: "odd", Labels: odd.Labels}
		odd.Data.Raw = []byte(strings.Replace(string(odd.Data.Raw), `"inbound"`, `"sideways"`, 1))
		Expect(user.Create(ctx, odd)).To(Succeed())
		replica.catchUp(ctx, w.namespace)
		_, err := replica.keeper.Reconcile(ctx, ctrl.Request{NamespacedName: types.NamespacedName{Namespace: odd.Namespace, Name: odd.Name}})
		Expect(err).NotTo(HaveOccurred())
		Expect(served(ctx)).To(BeFalse())
	})
})
