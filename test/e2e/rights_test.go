package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"os"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
)

const roleName = "wasme-operator-manager"

// checkedOnAdmission is a right that is never asked for by a request: the API
// server looks for it when an owner reference blocks its owner's deletion.
const checkedOnAdmission = "wasme.io filterdeployments/finalizers update"

// checkRights holds what the operator asked for in the whole run against what
// it may: nothing was forbidden, and nothing may be done that no spec needs.
func checkRights(ctx SpecContext) {
	if focused, _ := GinkgoConfiguration(); len(focused.FocusStrings) > 0 {
		return // some specs alone need less
	}
	used, forbidden := requested(theMesh.AuditLog())
	// Refused once and granted another time: the namespace was being deleted, or
	// the API server had just started and did not know its roles yet.
	Expect(sets.List(forbidden.Difference(used))).To(BeEmpty(), "the role lacks a right")
	unused := rights(ctx).Difference(used).Delete(checkedOnAdmission)
	for asked := range used {
		// A watch brings the list with it from an API server that can do that
		// (streaming lists); others are asked for both.
		if watched, isWatch := strings.CutSuffix(asked, " watch"); isWatch {
			unused.Delete(watched + " list")
		}
	}
	Expect(sets.List(unused)).To(BeEmpty(), "the role has rights that no spec needs")
}

func rights(ctx context.Context) sets.Set[string] {
	GinkgoHelper()
	var cluster rbacv1.ClusterRole
	Expect(admin.Get(ctx, client.ObjectKey{Name: roleName}, &cluster)).To(Succeed())
	var own rbacv1.Role
	Expect(admin.Get(ctx, client.ObjectKey{Namespace: "wasme-system", Name: roleName}, &own)).To(Succeed())
	granted := sets.New[string]()
	for _, rule := range append(cluster.Rules, own.Rules...) {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					granted.Insert(right(group, resource, verb))
				}
			}
		}
	}
	return granted
}

func right(group, resource, verb string) string {
	return strings.TrimSpace(group + " " + resource + " " + verb)
}

// auditEvent is what is read here of an audit.k8s.io/v1 Event.
type auditEvent struct {
	Verb      string `json:"verb"`
	ObjectRef *struct {
		APIGroup    string `json:"apiGroup"`
		Resource    string `json:"resource"`
		Subresource string `json:"subresource"`
		Namespace   string `json:"namespace"`
	} `json:"objectRef"`
	ResponseStatus *metav1.Status `json:"responseStatus"`
}

func (e auditEvent) right() string {
	resource := strings.TrimSuffix(e.ObjectRef.Resource+"/"+e.ObjectRef.Subresource, "/")
	return right(e.ObjectRef.APIGroup, resource, e.Verb)
}

func requested(path string) (used, forbidden sets.Set[string]) {
	GinkgoHelper()
	used, forbidden = sets.New[string](), sets.New[string]()
	for event := range audited(path) {
		if event.ResponseStatus != nil && event.ResponseStatus.Code == http.StatusForbidden {
			forbidden.Insert(event.right())
			continue
		}
		used.Insert(event.right())
	}
	return used, forbidden
}

// writesTo are the writes of the operator that changed a namespace so far, in
// their order, as rights; events aside.
func writesTo(namespace string) []string {
	GinkgoHelper()
	var writes []string
	for event := range audited(theMesh.AuditLog()) {
		about, response := event.ObjectRef, event.ResponseStatus
		if about.Namespace != namespace || about.Resource == "events" || reading.Has(event.Verb) {
			continue
		}
		if response != nil && response.Code < http.StatusMultipleChoices {
			writes = append(writes, event.right())
		}
	}
	return writes
}

var reading = sets.New("get", "list", "watch")

// audited are the requests so far that were about objects.
func audited(path string) iter.Seq[auditEvent] {
	return func(yield func(auditEvent) bool) {
		GinkgoHelper()
		file, err := os.Open(path)
		Expect(err).NotTo(HaveOccurred())
		defer func() { _ = file.Close() }()
		lines := bufio.NewScanner(file)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var event auditEvent
			Expect(json.Unmarshal(lines.Bytes(), &event)).To(Succeed())
			if event.ObjectRef != nil && !yield(event) {
				return
			}
		}
		Expect(lines.Err()).NotTo(HaveOccurred())
	}
}

var _ = Describe("Rights that are seldom needed", func() {
	It("reads a pull Secret by its name", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		image := push(ctx, "hello")
		registry, _, _ := strings.Cut(image, "/")
		Expect(admin.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "pull", Annotations: map[string]string{pull.RegistryAnnotation: registry}},
			StringData: map[string]string{"username": "u", "password": "p"},
		})).To(Succeed())
		fd := filterDeployment(namespace, image, "")
		fd.Spec.Filter.ImagePullOptions.PullSecret = "pull"
		Expect(admin.Create(ctx, fd)).To(Succeed())
		Eventually(readyReason(ctx, fd), patience, poll).Should(Equal(wasmev1.ReasonNoWorkloads))
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.ImagePullOptions.PullSecret = "none" })
		Eventually(readyReason(ctx, fd), patience, poll).Should(Equal(wasmev1.ReasonSecretNotFound))
	})

	It("reads a ConfigMap by its name", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		pod := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		settings := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "settings"}, Data: map[string]string{"greeting": "from a ConfigMap"}}
		Expect(admin.Create(ctx, settings)).To(Succeed())
		fd := filterDeployment(namespace, push(ctx, "hello"), "")
		fd.Spec.Filter.ConfigFrom = &wasmev1.ConfigurationSource{ConfigMapKeyRef: wasmev1.ConfigMapKey{Name: "settings", Key: "greeting"}}
		Expect(admin.Create(ctx, fd)).To(Succeed())
		eventuallyAnswers(ctx, pod, answer{200, "from a ConfigMap"})
	})

	It("takes back an output and a revision that lost their labels", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		fd := filterDeployment(namespace, push(ctx, "hello"), "")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		Eventually(readyReason(ctx, fd), patience, poll).Should(Equal(wasmev1.ReasonReady))
		bare := client.RawPatch("application/merge-patch+json", []byte(`{"metadata": {"labels": null}}`))

		output := &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "app-hello." + namespace}}
		Expect(admin.Patch(ctx, output, bare)).To(Succeed())
		Eventually(func() map[string]string {
			Expect(admin.Get(ctx, client.ObjectKeyFromObject(output), output)).To(Succeed())
			return output.Labels
		}, patience, poll).ShouldNot(BeEmpty())

		revision := revisionsOf(ctx, namespace)[0]
		Expect(admin.Patch(ctx, &revision, bare)).To(Succeed())
		Eventually(func() map[string]string {
			Expect(admin.Get(ctx, client.ObjectKeyFromObject(&revision), &revision)).To(Succeed())
			return revision.Labels
		}, patience, poll).ShouldNot(BeEmpty())
	})
})
