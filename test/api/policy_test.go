package api

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	gomegatypes "github.com/onsi/gomega/types"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/test/mesh/binaries"
)

// refusedBy matches the error of a write that a policy refuses with this message.
func refusedBy(policy, message string) gomegatypes.GomegaMatcher {
	return And(
		WithTransform(apierrors.IsForbidden, BeTrue()),
		MatchError(ContainSubstring("ValidatingAdmissionPolicy '%s' with binding '%s' denied request: %s", policy, policy, message)),
	)
}

// expectTyped waits until the API server has checked the policies' expressions
// against the types that they read, and expects that it found nothing.
func expectTyped(ctx context.Context, names ...string) {
	GinkgoHelper()
	for _, name := range names {
		var policy admissionregistrationv1.ValidatingAdmissionPolicy
		Eventually(func() error {
			return k8s.Get(ctx, client.ObjectKey{Name: name}, &policy)
		}).Should(Succeed())
		Eventually(func() int64 {
			Expect(k8s.Get(ctx, client.ObjectKey{Name: name}, &policy)).To(Succeed())
			return policy.Status.ObservedGeneration
		}).Should(Equal(policy.Generation))
		Expect(policy.Status.TypeChecking.ExpressionWarnings).To(BeEmpty(), name)
	}
}

var _ = Describe("the guard of the operator's own account", Ordered, func() {
	const namespace = "guarded"
	var operator client.Client
	var owner *wasmev1.FilterDeployment

	BeforeAll(func(ctx context.Context) {
		crds, err := binaries.IstioFile(ctx, "manifests/charts/base/files/crd-all.gen.yaml")
		Expect(err).NotTo(HaveOccurred())
		Expect(controlPlane.InstallCRDs(crds)).To(Succeed())
		install(ctx)
		account, err := controlPlane.As(ctx, "wasme-system", "wasme-operator")
		Expect(err).NotTo(HaveOccurred())
		operator, err = client.New(account, client.Options{})
		Expect(err).NotTo(HaveOccurred())

		ensureNamespace(ctx, namespace)
		owner = &wasmev1.FilterDeployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "owner"},
			Spec:       wasmev1.FilterDeploymentSpec{Filter: wasmev1.FilterSpec{Image: "i"}},
		}
		Expect(k8s.Create(ctx, owner)).To(Succeed())
		bare := written("EnvoyFilter", namespace)
		Eventually(func() error { return operator.Create(ctx, bare.DeepCopy(), client.DryRunAll) }).Should(refusedBy("wasme-operator", ""))
		expectTyped(ctx, "wasme-operator")
	})

	// made is an object as the operator makes it, but for what edits change.
	made := func(kind string, edits ...func(*unstructured.Unstructured)) *unstructured.Unstructured {
		object := written(kind, namespace)
		ownership.Claim(object, owner, nil)
		for _, edit := range edits {
			edit(object)
		}
		return object
	}
	// stored is such an object in the cluster, made by an administrator.
	stored := func(ctx context.Context, kind string, edits ...func(*unstructured.Unstructured)) *unstructured.Unstructured {
		GinkgoHelper()
		object := made(kind, edits...)
		Expect(k8s.Create(ctx, object)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(k8s.Delete(ctx, object)).To(Succeed()) })
		return object
	}
	const (
		unlabelled = "the operator's service account wrote an object without its label"
		unowned    = "the operator's service account wrote an object that no FilterDeployment owns"
		foreign    = "the operator's service account changed or deleted an object of others"
	)

	It("covers all that the operator may change everywhere, but for its reports", func(ctx context.Context) {
		var role rbacv1.ClusterRole
		Expect(k8s.Get(ctx, client.ObjectKey{Name: "wasme-operator-manager"}, &role)).To(Succeed())
		writable := sets.New[string]()
		for _, rule := range role.Rules {
			if sets.New(rule.Verbs...).HasAny("create", "update", "patch", "delete") {
				writable.Insert(rule.Resources...)
			}
		}
		var policy admissionregistrationv1.ValidatingAdmissionPolicy
		Expect(k8s.Get(ctx, client.ObjectKey{Name: "wasme-operator"}, &policy)).To(Succeed())
		guarded := sets.New("events", "filterdeployments/status", "filterdeployments/finalizers")
		for _, rule := range policy.Spec.MatchConstraints.ResourceRules {
			guarded.Insert(rule.Resources...)
		}
		Expect(sets.List(guarded)).To(Equal(sets.List(writable)))
	})

	for _, kind := range []string{"EnvoyFilter", "WasmPlugin", "TrafficExtension", "ControllerRevision"} {
		DescribeTable("on the creation of a "+kind, func(ctx context.Context, edit func(*unstructured.Unstructured), expected gomegatypes.GomegaMatcher) {
			Expect(operator.Create(ctx, made(kind, edit), client.DryRunAll)).To(expected)
			Expect(k8s.Create(ctx, made(kind, edit), client.DryRunAll)).To(Succeed(), "others may")
		},
			Entry("admits one with label and owner", asMade, Succeed()),
			Entry("refuses one without label", withoutLabels, refusedBy("wasme-operator", unlabelled)),
			Entry("refuses one with the label of something else", managedBy("helm"), refusedBy("wasme-operator", unlabelled)),
			Entry("refuses one without owner", withoutOwners, refusedBy("wasme-operator", unowned)),
			Entry("refuses one of an owner of another kind", ownedBy("v1", "ConfigMap", true), refusedBy("wasme-operator", unowned)),
			Entry("refuses one of an owner of another group", ownedBy("example.com/v1", "FilterDeployment", true), refusedBy("wasme-operator", unowned)),
			Entry("refuses one of an owner that is not the controller", ownedBy("wasme.io/v1", "FilterDeployment", false), refusedBy("wasme-operator", unowned)),
		)

		DescribeTable("on the update of a "+kind, func(ctx context.Context, before, edit func(*unstructured.Unstructured), expected gomegatypes.GomegaMatcher) {
			object := stored(ctx, kind, before)
			ownership.Claim(object, owner, map[string]string{"changed": "yes"})
			edit(object)
			Expect(operator.Update(ctx, object, client.DryRunAll)).To(expected)
		},
			Entry("admits one of its own", asMade, asMade, Succeed()),
			Entry("admits the repair of one that lost its labels", withoutLabels, asMade, Succeed()),
			Entry("admits the repair of one that lost its owner in a restore", withoutOwners, asMade, Succeed()),
			Entry("refuses to take the label off", asMade, withoutLabels, refusedBy("wasme-operator", unlabelled)),
			Entry("refuses to take the owner off", asMade, withoutOwners, refusedBy("wasme-operator", unowned)),
			Entry("refuses to take over one of others", ofOthers, asMade, refusedBy("wasme-operator", foreign)),
			Entry("refuses to take over one that has the label alone", and(ofOthers, managedBy("wasme-operator")), asMade, refusedBy("wasme-operator", foreign)),
		)

		DescribeTable("on the deletion of a "+kind, func(ctx context.Context, before func(*unstructured.Unstructured), expected gomegatypes.GomegaMatcher) {
			Expect(operator.Delete(ctx, stored(ctx, kind, before), client.DryRunAll)).To(expected)
		},
			Entry("admits one of its own", asMade, Succeed()),
			Entry("admits one that lost its owner in a restore", withoutOwners, Succeed()),
			Entry("refuses one of others", ofOthers, refusedBy("wasme-operator", foreign)),
			Entry("refuses one that has the label alone", and(ofOthers, managedBy("wasme-operator")), refusedBy("wasme-operator", foreign)),
		)
	}
})

// written is the least object of a kind of those that the operator writes.
func written(kind, namespace string) *unstructured.Unstructured {
	GinkgoHelper()
	return object(map[string]string{
		"EnvoyFilter":        `{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, spec: {configPatches: []}`,
		"WasmPlugin":         `{apiVersion: extensions.istio.io/v1alpha1, kind: WasmPlugin, spec: {url: "oci://i"}`,
		"TrafficExtension":   `{apiVersion: extensions.istio.io/v1alpha1, kind: TrafficExtension, spec: {wasm: {url: "oci://i"}}`,
		"ControllerRevision": `{apiVersion: apps/v1, kind: ControllerRevision, revision: 1, data: {}`,
	}[kind] + `, metadata: {name: example, namespace: ` + namespace + `}}`)
}

func asMade(*unstructured.Unstructured) {}

func withoutLabels(object *unstructured.Unstructured) { object.SetLabels(nil) }

func withoutOwners(object *unstructured.Unstructured) { object.SetOwnerReferences(nil) }

// ofOthers takes everything off that the operator puts on an object.
func ofOthers(object *unstructured.Unstructured) {
	object.SetLabels(nil)
	object.SetAnnotations(nil)
	object.SetOwnerReferences(nil)
}

func managedBy(value string) func(*unstructured.Unstructured) {
	return func(object *unstructured.Unstructured) {
		object.SetLabels(map[string]string{ownership.ManagedByLabel: value})
	}
}

// ownedBy gives an object another owner, of the UID of the one that it had.
func ownedBy(apiVersion, kind string, controller bool) func(*unstructured.Unstructured) {
	return func(object *unstructured.Unstructured) {
		owners := object.GetOwnerReferences()
		owners[0].APIVersion, owners[0].Kind, owners[0].Controller, owners[0].BlockOwnerDeletion = apiVersion, kind, &controller, nil
		object.SetOwnerReferences(owners)
	}
}

func and(edits ...func(*unstructured.Unstructured)) func(*unstructured.Unstructured) {
	return func(object *unstructured.Unstructured) {
		for _, edit := range edits {
			edit(object)
		}
	}
}

var _ = Describe("the limits on what teams may ask for", Ordered, func() {
	const namespace = "limited"
	inNamespace := func(name, spec string) *unstructured.Unstructured {
		GinkgoHelper()
		fd := filterDeployment(spec)
		fd.SetNamespace(name)
		return fd
	}
	// old is of the time before the limits.
	old := func() *unstructured.Unstructured {
		fd := inNamespace(namespace, `{filter: {`+moduleURL+`}}`)
		fd.SetName("old")
		return fd
	}

	BeforeAll(func(ctx context.Context) {
		for _, name := range []string{namespace, "istio-ingress", "unlimited"} {
			ensureNamespace(ctx, name)
		}
		free := &unstructured.Unstructured{}
		free.SetAPIVersion("v1")
		free.SetKind("Namespace")
		free.SetName("unlimited")
		Expect(k8s.Patch(ctx, free, client.RawPatch("application/merge-patch+json", []byte(`{"metadata": {"labels": {"wasme.io/limits": "none"}}}`)))).To(Succeed())
		Expect(k8s.Create(ctx, old())).To(Succeed())

		_, err := controlPlane.Kubectl(ctx, "apply", "--server-side", "-k", "../../config/policy/limits")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func(ctx context.Context) {
			_, err := controlPlane.Kubectl(ctx, "delete", "-k", "../../config/policy/limits")
			Expect(err).NotTo(HaveOccurred())
			for _, limit := range limits {
				Eventually(create).WithArguments(ctx, limit.refused).Should(Succeed(), "other specs have no limits")
			}
		})
		for _, limit := range limits {
			Eventually(create).WithArguments(ctx, limit.refused).Should(refusedBy(limit.policy, limit.message))
			expectTyped(ctx, limit.policy)
		}
	})

	for _, limit := range limits {
		It("hold for "+strings.TrimPrefix(limit.policy, "wasme-")+": "+limit.refused, func(ctx context.Context) {
			Expect(k8s.Create(ctx, inNamespace(namespace, limit.refused), client.DryRunAll)).To(refusedBy(limit.policy, limit.message))
			Expect(k8s.Create(ctx, inNamespace(namespace, limit.accepted), client.DryRunAll)).To(Succeed())
			Expect(k8s.Create(ctx, inNamespace("unlimited", limit.refused), client.DryRunAll)).To(Succeed(), "the namespace has the label")
		})
	}

	It("leave gateways to the namespace for them", func(ctx context.Context) {
		for _, patchContext := range []string{"gateway", "any"} {
			Expect(k8s.Create(ctx, inNamespace("istio-ingress", limited("patchContext: "+patchContext)), client.DryRunAll)).To(Succeed())
		}
	})

	It("leave what is older alone until its spec changes", func(ctx context.Context) {
		fd := old()
		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(fd), fd)).To(Succeed())
		fd.SetFinalizers([]string{"example.com/last-words"})
		Expect(k8s.Update(ctx, fd, client.DryRunAll)).To(Succeed(), "collectors write finalizers")
		Expect(k8s.Get(ctx, client.ObjectKeyFromObject(fd), fd)).To(Succeed())
		Expect(unstructured.SetNestedField(fd.Object, int64(1), "spec", "filter", "priority")).To(Succeed())
		Expect(k8s.Update(ctx, fd, client.DryRunAll)).To(refusedBy("wasme-sources", ""))
		Expect(unstructured.SetNestedField(fd.Object, object(limited("priority: 1")).Object, "spec")).To(Succeed())
		Expect(k8s.Update(ctx, fd, client.DryRunAll)).To(Succeed())
	})

	It("have room for the largest configuration", func(ctx context.Context) {
		fd := inNamespace(namespace, limited("config: "+strings.Repeat("x", 256<<10)))
		fd.SetName("large")
		Expect(k8s.Create(ctx, fd)).To(Succeed())
		Expect(unstructured.SetNestedField(fd.Object, strings.Repeat("x", 256<<10-1)+"y", "spec", "filter", "config")).To(Succeed())
		Expect(k8s.Update(ctx, fd, client.DryRunAll)).To(Succeed())
	})
})

// limited is a spec that all limits admit, with further fields of the filter.
func limited(fields string) string {
	return `{filter: {image: "registry.example.com/filters/hello:v1", ` + fields + `}}`
}

// limits has, for each rule of config/policy/limits, a spec that it refuses, and
// one like it that it admits.
var limits = []struct{ policy, refused, message, accepted string }{
	{"wasme-images", `{filter: {image: "ghcr.io/acme/hello:v1"}}`, "spec.filter.image is not allowed here: use an image from registry.example.com/filters/", limited("")},
	{"wasme-images", `{filter: {image: "registry.example.com/filters/../hello:v1"}}`, "spec.filter.image is not allowed here", limited("")},
	{"wasme-sources", `{filter: {` + moduleURL + `}}`, "spec.filter.url and spec.filter.configMap are not allowed here", limited("sha256: " + digest)},
	{"wasme-sources", `{filter: {configMap: {name: a, key: b}}}`, "spec.filter.url and spec.filter.configMap are not allowed here", limited("configFrom: {configMapKeyRef: {name: a, key: b}}")},
	{"wasme-gateways", limited("patchContext: gateway"), "spec.filter.patchContext is not allowed here: use inbound or outbound, or the namespace istio-ingress", limited("patchContext: inbound")},
	{"wasme-gateways", limited("patchContext: any"), "spec.filter.patchContext is not allowed here", limited("patchContext: outbound")},
	{
		"wasme-distribution", `{filter: {image: "registry.example.com/filters/hello:v1"}, deployment: {istio: {labels: {app: a}, output: WasmPlugin, distribution: Registry}}}`,
		"spec.deployment.istio.distribution Registry is not allowed here", `{filter: {image: "registry.example.com/filters/hello:v1"}, deployment: {istio: {labels: {app: a}, output: WasmPlugin, distribution: Served}}}`,
	},
}

var _ = Describe("Kubernetes' own roles", Ordered, func() {
	const namespace = "roles"
	all := []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}
	BeforeAll(func(ctx context.Context) {
		install(ctx)
		ensureNamespace(ctx, namespace)
		for _, role := range []string{"view", "edit", "admin"} {
			Expect(k8s.Create(ctx, &rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: role},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
				Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: role + "er"}},
			})).To(Succeed())
		}
	})
	// may returns the verbs that a user may use on FilterDeployments.
	may := func(ctx context.Context, user string) func() []string {
		return func() []string {
			var verbs []string
			for _, verb := range all {
				review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
					User:               user,
					ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Group: wasmev1.GroupVersion.Group, Resource: "filterdeployments", Verb: verb},
				}}
				Expect(k8s.Create(ctx, review)).To(Succeed())
				if review.Status.Allowed {
					verbs = append(verbs, verb)
				}
			}
			return verbs
		}
	}

	It("let their users see FilterDeployments, and no more", func(ctx context.Context) {
		for _, user := range []string{"viewer", "editer", "adminer"} {
			Eventually(may(ctx, user)).Should(Equal([]string{"get", "list", "watch"}), user)
		}
	})

	It("let editors and admins write them if an administrator wants that", func(ctx context.Context) {
		_, err := controlPlane.Kubectl(ctx, "apply", "--server-side", "-k", "../../config/policy/roles")
		Expect(err).NotTo(HaveOccurred())
		for _, user := range []string{"editer", "adminer"} {
			Eventually(may(ctx, user)).Should(Equal(all), user)
		}
		Expect(may(ctx, "viewer")()).To(Equal([]string{"get", "list", "watch"}))
	})
})
