package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/module/pull"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
)

const roleName = "wasme-operator-manager"

// guard is what the API server says when config/policy/guard refuses a write.
const guard = "ValidatingAdmissionPolicy 'wasme-operator'"

// checkedOnAdmission is a right that is never asked for by a request: the API
// server looks for it when an owner reference blocks its owner's deletion.
const checkedOnAdmission = "wasme.io filterdeployments/finalizers update"

// askedForAtTimes is a right that a run needs or not, as it happens: an event is
// counted by a patch when it is repeated before the FilterDeployment has changed.
const askedForAtTimes = "events.k8s.io events patch"

// rightsFolder is where each of the parallel processes leaves what its operator
// asked for.
var rightsFolder string

// makeRightsFolder makes it, once for all processes.
func makeRightsFolder(SpecContext) []byte {
	folder, err := os.MkdirTemp("", "rights-")
	Expect(err).NotTo(HaveOccurred())
	return []byte(folder)
}

// askedFor are rights that operators asked for, and the writes that the guard
// (config/policy) refused them.
type askedFor struct{ Used, Forbidden, Guarded sets.Set[string] }

func newAskedFor() askedFor {
	return askedFor{sets.New[string](), sets.New[string](), sets.New[string]()}
}

var _ = SynchronizedAfterSuite(leaveRights, checkRights)

// leaveRights leaves them for checkRights, which one process calls when the
// others have ended.
func leaveRights() {
	if operator == nil {
		return // it did not start
	}
	Expect(operator.Stop()).To(Succeed(), "a watch is recorded when it ends")
	text, err := json.Marshal(requested(theMesh.AuditLog()))
	Expect(err).NotTo(HaveOccurred())
	Expect(os.WriteFile(filepath.Join(rightsFolder, fmt.Sprint(GinkgoParallelProcess())), text, 0o600)).To(Succeed())
}

// checkRights holds what the operators asked for in the whole run against what
// they may: nothing was forbidden, and nothing may be done that no spec needs.
func checkRights(ctx SpecContext) {
	asked := leftRights()
	Expect(sets.List(asked.Guarded)).To(BeEmpty(), "the guard is in the operator's way")
	if suite, _ := GinkgoConfiguration(); len(suite.FocusStrings)+len(suite.SkipStrings) > 0 || operator == nil {
		return // some specs alone need less
	}
	// Refused once and granted another time: the namespace was being deleted, or
	// the API server had just started and did not know its roles yet.
	Expect(sets.List(asked.Forbidden.Difference(asked.Used))).To(BeEmpty(), "the role lacks a right")
	unused := rights(ctx).Difference(asked.Used).Delete(checkedOnAdmission, askedForAtTimes)
	Expect(sets.List(unused)).To(BeEmpty(), "the role has rights that no spec needs")
}

// withLists adds a list to each watch. An API server that can stream lists sends
// it in the watch and is asked for a list only when that watch fails; others are
// asked for both.
func withLists(used sets.Set[string]) sets.Set[string] {
	all := used.Clone()
	for right := range used {
		if watched, isWatch := strings.CutSuffix(right, " watch"); isWatch {
			all.Insert(watched + " list")
		}
	}
	return all
}

// leftRights are those that all processes left, taken together. It removes the folder.
func leftRights() askedFor {
	GinkgoHelper()
	all := newAskedFor()
	files, err := filepath.Glob(filepath.Join(rightsFolder, "*"))
	Expect(err).NotTo(HaveOccurred())
	for _, file := range files {
		text, err := os.ReadFile(file)
		Expect(err).NotTo(HaveOccurred())
		var one askedFor
		Expect(json.Unmarshal(text, &one)).To(Succeed())
		all.Used, all.Forbidden, all.Guarded = all.Used.Union(one.Used), all.Forbidden.Union(one.Forbidden), all.Guarded.Union(one.Guarded)
	}
	Expect(os.RemoveAll(rightsFolder)).To(Succeed())
	all.Used = withLists(all.Used)
	return all
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

func requested(path string) askedFor {
	GinkgoHelper()
	all := newAskedFor()
	for event := range audited(path) {
		if event.ResponseStatus != nil && event.ResponseStatus.Code == http.StatusForbidden {
			if strings.Contains(event.ResponseStatus.Message, guard) {
				all.Guarded.Insert(event.right() + ": " + event.ResponseStatus.Message)
			}
			all.Forbidden.Insert(event.right())
			continue
		}
		all.Used.Insert(event.right())
	}
	return all
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
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonNoWorkloads))
		change(ctx, fd, func(f *wasmev1.FilterSpec) { f.ImagePullOptions.PullSecret = "none" })
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonSecretNotFound))
	})

	It("reads a ConfigMap by its name", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		pod := run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		settings := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "settings"}, Data: map[string]string{"greeting": "from a ConfigMap"}}
		Expect(admin.Create(ctx, settings)).To(Succeed())
		fd := filterDeployment(namespace, push(ctx, "hello"), "")
		fd.Spec.Filter.ConfigFrom = &wasmev1.ConfigurationSource{ConfigMapKeyRef: wasmev1.ConfigMapKey{Name: "settings", Key: "greeting"}}
		Expect(admin.Create(ctx, fd)).To(Succeed())
		meshtest.EventuallyAnswers(ctx, pod, "from a ConfigMap")
	})

	It("takes back an output and a revision that lost their labels", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		run(ctx, workload(namespace, "app", map[string]string{"app": "app"}))
		fd := filterDeployment(namespace, push(ctx, "hello"), "")
		Expect(admin.Create(ctx, fd)).To(Succeed())
		Eventually(readyReason(ctx, fd)).Should(Equal(wasmev1.ReasonReady))
		bare := client.RawPatch("application/merge-patch+json", []byte(`{"metadata": {"labels": null}}`))

		output := &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "app-hello." + namespace}}
		Expect(admin.Patch(ctx, output, bare)).To(Succeed())
		Eventually(func() map[string]string {
			Expect(admin.Get(ctx, client.ObjectKeyFromObject(output), output)).To(Succeed())
			return output.Labels
		}).ShouldNot(BeEmpty())

		revision := revisionsOf(ctx, namespace)[0]
		Expect(admin.Patch(ctx, &revision, bare)).To(Succeed())
		Eventually(func() map[string]string {
			Expect(admin.Get(ctx, client.ObjectKeyFromObject(&revision), &revision)).To(Succeed())
			return revision.Labels
		}).ShouldNot(BeEmpty())
	})
})

var _ = Describe("The rights of the operator's account", func() {
	It("end at what others made", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		foreign := &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "foreign"}}
		Expect(admin.Create(ctx, foreign)).To(Succeed())
		// Impersonated, it is no request of the operator's to checkRights.
		config := theMesh.Admin()
		config.Impersonate = rest.ImpersonationConfig{UserName: mesh.OperatorUser}
		account, err := client.New(config, client.Options{Scheme: admin.Scheme()})
		Expect(err).NotTo(HaveOccurred())
		refused := MatchError(ContainSubstring(guard))
		Eventually(func() error { return account.Delete(ctx, foreign, client.DryRunAll) }).Should(refused)
		Expect(account.Update(ctx, foreign.DeepCopy(), client.DryRunAll)).To(refused)
		another := &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "another"}}
		Expect(account.Create(ctx, another, client.DryRunAll)).To(refused)
	})
})
