package controllers

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/moduletest"
	"github.com/wasme-io/wasme-operator/test/registry"
	"github.com/wasme-io/wasme-operator/test/signing"
)

const (
	signerIdentity = "https://github.com/acme/filters/.github/workflows/release.yaml@refs/heads/main"
	signerIssuer   = "https://token.actions.githubusercontent.com"
)

// attachments are the ways in which a signature gets to an image.
var attachments = map[string]struct {
	attach func(ctx context.Context, r *registry.Registry, image v1.Descriptor, by signing.Signer) error
	form   wasmev1.SignatureForm
}{
	"the tag": {func(ctx context.Context, r *registry.Registry, image v1.Descriptor, by signing.Signer) error {
		layer, err := by.SimpleSigning(image.Digest)
		if err != nil {
			return err
		}
		return signing.PushTag(ctx, r, "f", image.Digest, layer)
	}, wasmev1.SignatureTag},
	"a referrer": {func(ctx context.Context, r *registry.Registry, image v1.Descriptor, by signing.Signer) error {
		_, err := refer(ctx, r, image, by, signing.Signed)
		return err
	}, wasmev1.SignatureBundle},
	"the fallback tag": {func(ctx context.Context, r *registry.Registry, image v1.Descriptor, by signing.Signer) error {
		referrer, err := refer(ctx, r, image, by, signing.Signed)
		if err != nil {
			return err
		}
		referrer.ArtifactType = ""
		r.Inject(signing.WithoutReferrers)
		return signing.PushFallback(ctx, r, "f", image.Digest, referrer)
	}, wasmev1.SignatureBundle},
	"an attestation": {func(ctx context.Context, r *registry.Registry, image v1.Descriptor, by signing.Signer) error {
		_, err := refer(ctx, r, image, by, signing.Provenance)
		return err
	}, wasmev1.SignatureAttestation},
}

func refer(ctx context.Context, r *registry.Registry, image v1.Descriptor, by signing.Signer, predicate string) (v1.Descriptor, error) {
	layer, err := by.Bundle(image.Digest, predicate)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return signing.PushReferrer(ctx, r, "f", image, layer)
}

var _ = Describe("Policies", func() {
	var (
		w        *world
		sigstore *signing.Instance
		byKey    signing.Signer
		keyPEM   string
	)
	BeforeEach(func(ctx context.Context) {
		w = newWorld(ctx)
		w.deployments(ctx, "a")
		DeferCleanup(w.registry.Heal)
		var err error
		sigstore, err = signing.NewInstance()
		Expect(err).NotTo(HaveOccurred())
		byKey, keyPEM, err = signing.NewKey()
		Expect(err).NotTo(HaveOccurred())
	})

	// pushed stores an image of its own, and returns its reference and what signatures refer to.
	pushed := func(ctx context.Context, text string) (string, v1.Descriptor) {
		GinkgoHelper()
		image, err := registry.Image(registry.WasmeArtifact, registry.Module{Bytes: wasmModule(text), RootIDs: []string{rootID}})
		Expect(err).NotTo(HaveOccurred())
		digest, err := image.Digest()
		Expect(err).NotTo(HaveOccurred())
		size, err := image.Size()
		Expect(err).NotTo(HaveOccurred())
		return w.push(ctx, "f:"+text, text), v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: digest, Size: size}
	}
	online := func(ctx context.Context, lifetime time.Duration) {
		GinkgoHelper()
		repository, err := sigstore.NewRepository(lifetime)
		Expect(err).NotTo(HaveOccurred())
		server := httptest.NewServer(repository)
		DeferCleanup(server.Close)
		w.stop()
		w.operator = startOperator(ctx, w.clock, w.store, trusting(server.URL, repository.Anchor))
	}
	trustedRoot := func() *wasmev1.TrustedRoot {
		GinkgoHelper()
		text, err := sigstore.TrustedRoot(false)
		Expect(err).NotTo(HaveOccurred())
		return &wasmev1.TrustedRoot{Inline: string(text)}
	}
	keyless := func() wasmev1.Signer {
		return wasmev1.Signer{Name: "ci", Keyless: &wasmev1.SignerIdentity{Issuer: signerIssuer, Subject: signerIdentity}}
	}
	key := func() wasmev1.Signer { return wasmev1.Signer{Name: "ci", Key: &wasmev1.SignerKey{PEM: keyPEM}} }
	requiring := func(signer wasmev1.Signer) wasmev1.FilterPolicySpec {
		return wasmev1.FilterPolicySpec{Images: []wasmev1.ImageRule{{Patterns: []string{"**"}, Signers: &wasmev1.Signers{AllOf: []wasmev1.Signer{signer}}}}}
	}
	policy := func(ctx context.Context, spec wasmev1.FilterPolicySpec) *wasmev1.FilterPolicy {
		GinkgoHelper()
		made := &wasmev1.FilterPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "p"}, Spec: spec}
		Expect(user.Create(ctx, made)).To(Succeed())
		return made
	}

	for attachment, row := range attachments {
		for _, root := range []string{"online", "offline"} {
			It(fmt.Sprintf("admit what is signed keyless in %s, with the trusted root %s", attachment, root), func(ctx SpecContext) {
				spec := requiring(keyless())
				if root == "online" {
					online(ctx, time.Hour)
				} else {
					spec.TrustedRoot = trustedRoot()
				}
				policy(ctx, spec)
				reference, image := pushed(ctx, "signed")
				Expect(row.attach(ctx, w.registry, image, sigstore.Keyless(signerIdentity, signerIssuer))).To(Succeed())
				fd := w.filterDeployment(ctx, "f", reference, filterID("f"))
				Expect(w.settle(ctx, fd)).To(Succeed())
				Expect(fd).To(haveCondition(wasmev1.ConditionAdmitted, metav1.ConditionTrue, wasmev1.ReasonAdmitted, "signed by ci"))
				Expect(fd.Status.Module.Signature).To(HaveValue(And(HaveField("By", []string{"ci"}), HaveField("Form", row.form))))
				Expect(w.held(ctx)).To(HaveLen(1))
			})
			It(fmt.Sprintf("admit what is signed by key in %s, with the trusted root %s", attachment, root), func(ctx SpecContext) {
				spec := requiring(key())
				if root == "online" {
					online(ctx, time.Hour)
				} else {
					spec.TrustedRoot = trustedRoot()
				}
				policy(ctx, spec)
				reference, image := pushed(ctx, "signed")
				Expect(row.attach(ctx, w.registry, image, byKey)).To(Succeed())
				fd := w.filterDeployment(ctx, "f", reference, filterID("f"))
				Expect(w.settle(ctx, fd)).To(Succeed())
				Expect(fd).To(haveCondition(wasmev1.ConditionAdmitted, metav1.ConditionTrue, wasmev1.ReasonAdmitted, "signed by ci"))
				Expect(fd.Status.Module.Signature).To(HaveValue(HaveField("Form", row.form)))
			})
		}

		It("admit nothing that is signed badly in "+attachment, func(ctx SpecContext) {
			_, other := pushed(ctx, "other")
			stranger, err := signing.NewInstance()
			Expect(err).NotTo(HaveOccurred())
			otherKey, _, err := signing.NewKey()
			Expect(err).NotTo(HaveOccurred())
			spec := requiring(keyless())
			spec.TrustedRoot = trustedRoot()
			policy(ctx, spec)
			ours := sigstore.Keyless(signerIdentity, signerIssuer)
			var fds []*wasmev1.FilterDeployment
			for fault, attack := range map[string]func(v1.Descriptor) error{
				"unsigned": func(v1.Descriptor) error { return nil },
				"wrong-identity": func(image v1.Descriptor) error {
					return row.attach(ctx, w.registry, image, sigstore.Keyless("https://github.com/mallory/filters", signerIssuer))
				},
				"wrong-issuer": func(image v1.Descriptor) error {
					return row.attach(ctx, w.registry, image, sigstore.Keyless(signerIdentity, "https://issuer.example"))
				},
				"wrong-root": func(image v1.Descriptor) error {
					return row.attach(ctx, w.registry, image, stranger.Keyless(signerIdentity, signerIssuer))
				},
				"wrong-key": func(image v1.Descriptor) error { return row.attach(ctx, w.registry, image, otherKey) },
				"expired": func(image v1.Descriptor) error {
					return row.attach(ctx, w.registry, image, ours.At(time.Now().Add(20*time.Minute)))
				},
				"replayed": func(image v1.Descriptor) error { // the signature of another image, at the place of this one's
					layer, err := ours.SimpleSigning(other.Digest)
					if err != nil {
						return err
					}
					return signing.PushTag(ctx, w.registry, "f", image.Digest, layer)
				},
				"tampered": func(image v1.Descriptor) error {
					layer, err := ours.SimpleSigning(image.Digest)
					if err != nil {
						return err
					}
					layer.Content = append(layer.Content, ' ')
					return signing.PushTag(ctx, w.registry, "f", image.Digest, layer)
				},
			} {
				reference, image := pushed(ctx, fault)
				Expect(attack(image)).To(Succeed(), fault)
				fds = append(fds, w.filterDeployment(ctx, fault, reference, filterID(fault)))
			}
			for _, fd := range fds {
				Expect(w.settle(ctx, fd)).To(Succeed())
				Expect(fd).To(haveCondition(wasmev1.ConditionAdmitted, metav1.ConditionFalse, wasmev1.ReasonNotSigned, "FilterPolicy p: ci has not signed the image sha256:"), fd.Name)
				Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionFalse, wasmev1.ReasonNotSigned), fd.Name)
				Expect(fd.Status.Module).To(BeNil(), fd.Name)
			}
			Expect(w.held(ctx)).To(BeEmpty())
		})
	}

	It("admit an image once it is signed, without a change of any object", func(ctx SpecContext) {
		policy(ctx, requiring(key()))
		reference, image := pushed(ctx, "late")
		fd := w.filterDeployment(ctx, "f", reference, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionAdmitted, metav1.ConditionFalse, wasmev1.ReasonNotSigned, "the registry has no signature of it: sign it with cosign"))
		Expect(conditionTypes(fd)).NotTo(ContainElement(wasmev1.ConditionStalled))
		Expect(attachments["a referrer"].attach(ctx, w.registry, image, byKey)).To(Succeed())
		Eventually(ctx, func(g Gomega) {
			_, err := w.reconcile(ctx, fd)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(fd).To(haveCondition(wasmev1.ConditionAdmitted, metav1.ConditionTrue, wasmev1.ReasonAdmitted))
		}).WithTimeout(bound).Should(Succeed())
		Expect(w.held(ctx)).To(HaveLen(1))
	})

	It("keep the last good revision while the next one is not signed, and what is in force when a policy comes later", func(ctx SpecContext) {
		first, _ := pushed(ctx, "first")
		fd := w.filterDeployment(ctx, "f", first, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(conditionTypes(fd)).NotTo(ContainElement(wasmev1.ConditionAdmitted))
		good := fd.Status.Revision

		By("creating a policy that the revision in force breaks")
		policy(ctx, requiring(key()))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionAdmitted, metav1.ConditionFalse, wasmev1.ReasonNotSigned, "the revision stays in force, because policies hold new revisions only"))
		Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionFalse, wasmev1.ReasonNotSigned))
		Expect(w.held(ctx)).To(HaveKeyWithValue("a-f", good))

		By("changing the image to another one without a signature")
		second, image := pushed(ctx, "second")
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.Image = second })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionProgrammed, metav1.ConditionFalse, wasmev1.ReasonLastGoodRevision, good))
		Expect(w.held(ctx)).To(HaveKeyWithValue("a-f", good))

		By("signing it")
		Expect(attachments["the tag"].attach(ctx, w.registry, image, byKey)).To(Succeed())
		Eventually(ctx, func(g Gomega) {
			_, err := w.reconcile(ctx, fd)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(fd.Status.Revision).NotTo(Equal(good))
		}).WithTimeout(bound).Should(Succeed())

		By("staying Ready after a restart while the registry is away, and nobody can tell")
		w.registry.Down()
		w.restart(ctx)
		Eventually(ctx, func(g Gomega) {
			_, err := w.reconcile(ctx, fd)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(fd).To(haveCondition(wasmev1.ConditionAdmitted, metav1.ConditionUnknown, wasmev1.ReasonSignaturesUnavailable, "FilterPolicy p: "))
		}).WithTimeout(bound).Should(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionTrue, wasmev1.ReasonReady))
		Expect(fd.Status.Module.Signature).NotTo(BeNil())
		Expect(w.registry.Up()).To(Succeed())
	})

	It("hold in all their namespaces, and only warn where they say so", func(ctx SpecContext) {
		elsewhere := &wasmev1.ClusterFilterPolicy{ObjectMeta: metav1.ObjectMeta{Name: w.namespace + "-elsewhere"}, Spec: wasmev1.ClusterFilterPolicySpec{
			FilterPolicySpec:  wasmev1.FilterPolicySpec{Sources: []wasmev1.ModuleSource{wasmev1.SourceURL}},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "elsewhere"}},
		}}
		here := elsewhere.DeepCopy()
		here.Name, here.Spec.Mode = w.namespace+"-here", wasmev1.PolicyWarn
		here.Spec.NamespaceSelector.MatchLabels["kubernetes.io/metadata.name"] = w.namespace
		for _, one := range []client.Object{elsewhere, here} {
			Expect(user.Create(ctx, one)).To(Succeed())
			DeferCleanup(func(ctx context.Context) { Expect(user.Delete(ctx, one)).To(Succeed()) })
		}
		reference, _ := pushed(ctx, "image")
		fd := w.filterDeployment(ctx, "f", reference, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		result, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(result.RequeueAfter).To(BeNumerically("<=", configMapInterval+configMapInterval/10), "labels of namespaces are read again")
		Expect(fd).To(haveCondition(wasmev1.ConditionAdmitted, metav1.ConditionTrue, wasmev1.ReasonWarned, "ClusterFilterPolicy "+here.Name+": modules must not come from spec.filter.image: use url", "proxies get it all the same"))
		Expect(fd).To(haveCondition(wasmev1.ConditionReady, metav1.ConditionTrue, wasmev1.ReasonReady))

		By("adding a stricter one in the namespace")
		policy(ctx, wasmev1.FilterPolicySpec{FailStrategies: []wasmev1.FailStrategy{wasmev1.FailClosed}, DeniedCapabilities: []wasmev1.Capability{wasmev1.CapabilityHTTPCalls}})
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionAdmitted, metav1.ConditionFalse, wasmev1.ReasonFailStrategyDenied, "spec.filter.failStrategy must not be FailReload: use FailClosed"))
		Expect(conditionTypes(fd)).To(ContainElement(wasmev1.ConditionStalled))
		calling := moduletest.Assembly{Imports: []moduletest.Import{{Name: "proxy_http_call", Params: "wwwwwwwwww", Results: "w"}}, Data: "calls"}
		denied := w.pushModule(ctx, "f:calls", registry.Module{Bytes: calling.Assemble(), RootIDs: []string{rootID}})
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) {
			fd.Spec.Filter.FailStrategy, fd.Spec.Filter.Image = wasmev1.FailClosed, denied
		})
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionAdmitted, metav1.ConditionFalse, wasmev1.ReasonCapabilityDenied, "the module imports functions for HTTPCalls"))
		edit(ctx, fd, func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.Image = reference })
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionAdmitted, metav1.ConditionTrue, wasmev1.ReasonWarned))
	})

	It("say which policy is broken, and admit nothing meanwhile", func(ctx SpecContext) {
		spec := requiring(keyless())
		spec.TrustedRoot = &wasmev1.TrustedRoot{Inline: "<html>"}
		made := policy(ctx, spec)
		reference, image := pushed(ctx, "signed")
		Expect(attachments["the tag"].attach(ctx, w.registry, image, sigstore.Keyless(signerIdentity, signerIssuer))).To(Succeed())
		fd := w.filterDeployment(ctx, "f", reference, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionAdmitted, metav1.ConditionFalse, wasmev1.ReasonPolicyInvalid, "FilterPolicy p: spec.trustedRoot.inline: it is not JSON"))
		Expect(w.held(ctx)).To(BeEmpty())
		made.Spec = requiring(wasmev1.Signer{Name: "ci", Key: &wasmev1.SignerKey{PEM: "my key"}})
		Expect(user.Update(ctx, made)).To(Succeed())
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionAdmitted, metav1.ConditionFalse, wasmev1.ReasonPolicyInvalid, "spec.images[0].signers.allOf[0].key.pem: it is not one key in PEM"))
		Expect(w.held(ctx)).To(BeEmpty())

		By("only warning")
		made.Spec = spec
		made.Spec.Mode = wasmev1.PolicyWarn
		Expect(user.Update(ctx, made)).To(Succeed())
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionAdmitted, metav1.ConditionTrue, wasmev1.ReasonWarned, "FilterPolicy p: spec.trustedRoot.inline: ", "it is not JSON", "proxies get it all the same"))
		Expect(w.held(ctx)).To(HaveKeyWithValue("a-f", fd.Status.Revision))
	})

	It("hold however an image is written, and do not have it looked at more often", func(ctx SpecContext) {
		spec := requiring(key())
		spec.Images[0].Patterns = []string{w.registry.Host() + "/*"}
		spec.Images = append(spec.Images, wasmev1.ImageRule{Patterns: []string{"**"}})
		policy(ctx, spec)
		reference, _ := pushed(ctx, "image")
		fd := w.filterDeployment(ctx, "f", strings.Replace(reference, ":", ":0", 1), filterID("f")) // the port
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionAdmitted, metav1.ConditionFalse, wasmev1.ReasonNotSigned))
		Expect(w.held(ctx)).To(BeEmpty())
		result, err := w.reconcile(ctx, fd)
		Expect(err).NotTo(HaveOccurred())
		Expect(result.RequeueAfter).To(BeNumerically(">=", w.RecheckInterval))
	})

	It("admit nothing while the trusted root cannot be fetched, and what is signed once it can", func(ctx SpecContext) {
		online(ctx, -time.Hour)
		policy(ctx, requiring(keyless()))
		reference, image := pushed(ctx, "signed")
		Expect(attachments["a referrer"].attach(ctx, w.registry, image, sigstore.Keyless(signerIdentity, signerIssuer))).To(Succeed())
		fd := w.filterDeployment(ctx, "f", reference, filterID("f"))
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionAdmitted, metav1.ConditionUnknown, wasmev1.ReasonSignaturesUnavailable, "fetching the trusted root of Sigstore from http://127.0.0.1"))
		Expect(w.held(ctx)).To(BeEmpty())
		online(ctx, time.Hour)
		Expect(w.settle(ctx, fd)).To(Succeed())
		Expect(fd).To(haveCondition(wasmev1.ConditionAdmitted, metav1.ConditionTrue, wasmev1.ReasonAdmitted))
	})
})
