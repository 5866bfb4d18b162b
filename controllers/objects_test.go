package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	gomegatypes "github.com/onsi/gomega/types"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/revision"
)

// filterDeployment is one like the predecessor's sample, with an image of the
// spec's registry. It is created when all changes are made.
func (w *world) filterDeployment(ctx context.Context, name, image string, changes ...func(*wasmev1.FilterDeployment)) *wasmev1.FilterDeployment {
	GinkgoHelper()
	fd := &wasmev1.FilterDeployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name},
		Spec: wasmev1.FilterDeploymentSpec{
			Deployment: wasmev1.DeploymentSpec{Istio: &wasmev1.IstioDeploymentSpec{Kind: "Deployment"}},
			Rollout:    &wasmev1.RolloutSpec{Strategy: wasmev1.RolloutImmediate},
			Filter: wasmev1.FilterSpec{
				Image:            image,
				Config:           &wasmev1.Configuration{Raw: []byte(`{"@type":"type.googleapis.com/google.protobuf.StringValue","value":"world"}`)},
				ImagePullOptions: &wasmev1.ImagePullOptions{PlainHTTP: true},
			},
		},
	}
	for _, change := range changes {
		change(fd)
	}
	Expect(user.Create(ctx, fd)).To(Succeed())
	return fd
}

// edit changes the newest version of an object, and reads it into object.
func edit[T client.Object](ctx context.Context, object T, change func(T)) {
	GinkgoHelper()
	Expect(user.Get(ctx, client.ObjectKeyFromObject(object), object)).To(Succeed())
	change(object)
	Expect(user.Update(ctx, object)).To(Succeed())
}

// The operator's documented numbers.
const (
	// historyLimit is the number of revisions that are kept.
	historyLimit = 3
	// repairInterval and contestMemory are for a status that something else overwrites.
	repairInterval = time.Minute
	contestMemory  = 5 * time.Minute
	// configMapInterval is how soon a change of a ConfigMap is noticed.
	configMapInterval = 30 * time.Second
)

// cachedHashAnnotation is on outputs in the cache only.
const cachedHashAnnotation = "wasme.io/cached-spec-hash"

func config(text string) func(*wasmev1.FilterDeployment) {
	return func(fd *wasmev1.FilterDeployment) {
		fd.Spec.Filter.Config = &wasmev1.Configuration{Raw: fmt.Appendf(nil, "%q", text)}
	}
}

func image(reference string) func(*wasmev1.FilterDeployment) {
	return func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.Image = reference }
}

func filterID(id string) func(*wasmev1.FilterDeployment) {
	return func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.ID = id }
}

func pullSecret(name string) func(*wasmev1.FilterDeployment) {
	return func(fd *wasmev1.FilterDeployment) { fd.Spec.Filter.ImagePullOptions.PullSecret = name }
}

func selecting(kind string, labels map[string]wasmev1.LabelValue) func(*wasmev1.FilterDeployment) {
	return func(fd *wasmev1.FilterDeployment) {
		fd.Spec.Deployment.Istio = &wasmev1.IstioDeploymentSpec{Kind: kind, Labels: labels}
	}
}

// podTemplate is one of pods that carry the workload's name in their label app.
func podTemplate(name string) (*metav1.LabelSelector, corev1.PodTemplateSpec) {
	labels := map[string]string{"app": name}
	return &metav1.LabelSelector{MatchLabels: labels}, corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name, "version": "v1"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}
}

// deployments creates Deployments with a label of their name.
func (w *world) deployments(ctx context.Context, names ...string) {
	GinkgoHelper()
	for _, name := range names {
		w.deployment(ctx, name, map[string]string{"app": name})
	}
}

func (w *world) deployment(ctx context.Context, name string, labels map[string]string) *appsv1.Deployment {
	GinkgoHelper()
	app := name[:min(len(name), 63)]
	selector, template := podTemplate(app)
	object := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name, Labels: labels},
		Spec:       appsv1.DeploymentSpec{Selector: selector, Template: template},
	}
	Expect(user.Create(ctx, object)).To(Succeed())
	return object
}

// output reads the output of that name.
func (w *world) output(ctx context.Context, name string) *networking.EnvoyFilter {
	GinkgoHelper()
	var object networking.EnvoyFilter
	Expect(user.Get(ctx, client.ObjectKey{Namespace: w.namespace, Name: name}, &object)).To(Succeed())
	return &object
}

// outputs are the names of all EnvoyFilters in the namespace, in their order.
func (w *world) outputs(ctx context.Context) []string {
	GinkgoHelper()
	var list networking.EnvoyFilterList
	Expect(user.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
	names := []string{}
	for _, object := range list.Items {
		names = append(names, object.Name)
	}
	slices.Sort(names)
	return names
}

// revisions are the ControllerRevisions of a FilterDeployment, the oldest first.
func (w *world) revisions(ctx context.Context, fd *wasmev1.FilterDeployment) []appsv1.ControllerRevision {
	GinkgoHelper()
	var list appsv1.ControllerRevisionList
	Expect(user.List(ctx, &list, client.InNamespace(w.namespace), client.MatchingLabels(ownership.Labels(fd)))).To(Succeed())
	slices.SortFunc(list.Items, func(a, b appsv1.ControllerRevision) int { return int(a.Revision - b.Revision) })
	return list.Items
}

// held are the revisions that all EnvoyFilters in the namespace hold, by name.
func (w *world) held(ctx context.Context) map[string]string {
	GinkgoHelper()
	held := map[string]string{}
	for _, name := range w.outputs(ctx) {
		held[name] = w.output(ctx, name).Annotations[revision.HashAnnotation]
	}
	return held
}

// controllerRevision is the one that keeps what a FilterDeployment asks for.
func controllerRevision(fd *wasmev1.FilterDeployment, resolved wasmev1.ModuleStatus) *appsv1.ControllerRevision {
	GinkgoHelper()
	asked, err := revision.New(client.ObjectKeyFromObject(fd), revision.Content{Filter: fd.Spec.Filter, Module: resolved})
	Expect(err).NotTo(HaveOccurred())
	object, err := revision.Desired(fd, asked, nil)
	Expect(err).NotTo(HaveOccurred())
	return object
}

// ownersFor are the owner references of what is made for a FilterDeployment.
func ownersFor(fd *wasmev1.FilterDeployment) []metav1.OwnerReference {
	var object metav1.ObjectMeta
	ownership.Claim(&object, fd, nil)
	return object.OwnerReferences
}

func reasonOf(fd *wasmev1.FilterDeployment, kind string) string {
	if found := apimeta.FindStatusCondition(fd.Status.Conditions, kind); found != nil {
		return found.Reason
	}
	return ""
}

// haveCondition matches a FilterDeployment with a condition of that status and
// reason, whose message holds all these texts.
func haveCondition(kind string, status metav1.ConditionStatus, reason string, texts ...string) gomegatypes.GomegaMatcher {
	matchers := []gomegatypes.GomegaMatcher{HaveField("Status", status), HaveField("Reason", reason)}
	for _, text := range texts {
		matchers = append(matchers, HaveField("Message", ContainSubstring(text)))
	}
	return WithTransform(func(fd *wasmev1.FilterDeployment) metav1.Condition {
		if found := apimeta.FindStatusCondition(fd.Status.Conditions, kind); found != nil {
			return *found
		}
		return metav1.Condition{}
	}, And(matchers...))
}

// conditionTypes are the types of the conditions that stand on a FilterDeployment.
func conditionTypes(fd *wasmev1.FilterDeployment) []string {
	types := map[string]bool{}
	for _, condition := range fd.Status.Conditions {
		types[condition.Type] = true
	}
	return slices.Sorted(maps.Keys(types))
}

// beReady matches a FilterDeployment that is Ready in its present form, on so
// many workloads, such as 2/2.
func beReady(workloads string) gomegatypes.GomegaMatcher {
	return And(
		haveCondition(wasmev1.ConditionReady, metav1.ConditionTrue, wasmev1.ReasonReady),
		WithTransform(conditionTypes, ConsistOf(wasmev1.ConditionLoaded, wasmev1.ConditionModuleResolved, wasmev1.ConditionPreflighted, wasmev1.ConditionProgrammed, wasmev1.ConditionReady, wasmev1.ConditionWorkloadsSelected)),
		WithTransform(func(fd *wasmev1.FilterDeployment) bool { return *fd.Status.ObservedGeneration == fd.Generation }, BeTrue()),
		HaveField("Status.Summary.WorkloadsReady", workloads),
		HaveField("Status.Reason", BeEmpty()),
	)
}

// notReady matches a FilterDeployment that is not Ready for that reason, with
// its message in status.reason too.
func notReady(reason string, texts ...string) gomegatypes.GomegaMatcher {
	matchers := []gomegatypes.GomegaMatcher{haveCondition(wasmev1.ConditionReady, metav1.ConditionFalse, reason, texts...)}
	for _, text := range texts {
		matchers = append(matchers, HaveField("Status.Reason", ContainSubstring(text)))
	}
	return And(matchers...)
}
