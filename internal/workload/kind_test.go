package workload_test

import (
	"fmt"
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/wasme-io/wasme-operator/internal/workload"
)

// podTemplate returns a pod template and the selector of its pods.
func podTemplate(name string) (*metav1.LabelSelector, corev1.PodTemplateSpec) {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name, "version": "v1"}, Annotations: map[string]string{"note": "long"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}
}

// workloadOf returns a workload in namespace n.
func workloadOf(kind, name string, labels map[string]string) workload.Object {
	meta := metav1.ObjectMeta{Namespace: "n", Name: name, Labels: labels}
	selector, template := podTemplate(name)
	switch kind {
	case "DaemonSet":
		return &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}, Status: appsv1.DaemonSetStatus{NumberReady: 1}}
	case "StatefulSet":
		return &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Selector: selector, Template: template, Replicas: new(int32(2))}, Status: appsv1.StatefulSetStatus{ReadyReplicas: 1}}
	default:
		return &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template, Replicas: new(int32(2))}, Status: appsv1.DeploymentStatus{ReadyReplicas: 1}}
	}
}

func TestChangeOfAWorkload(t *testing.T) {
	for _, row := range []struct {
		name   string
		want   bool
		change func(*appsv1.Deployment)
	}{
		{"matters in its labels", true, func(d *appsv1.Deployment) { d.Labels["team"] = "x" }},
		{"matters in its pods' labels", true, func(d *appsv1.Deployment) { delete(d.Spec.Template.Labels, "version") }},
		{"does not matter in its replicas", false, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(5)) }},
		{"does not matter in its status", false, func(d *appsv1.Deployment) { d.Status.ReadyReplicas = 3 }},
		{"does not matter in its annotations", false, func(d *appsv1.Deployment) { d.Annotations = map[string]string{"a": "b"} }},
	} {
		t.Run(row.name, func(t *testing.T) {
			before := workloadOf("Deployment", "a", map[string]string{"app": "a"}).(*appsv1.Deployment)
			after := before.DeepCopy()
			row.change(after)
			if got := workload.Changed(before, after); got != row.want {
				t.Errorf("got %t, want %t", got, row.want)
			}
		})
	}
}

func TestCacheKeepsOfAWorkload(t *testing.T) {
	for _, kind := range []string{"Deployment", "DaemonSet", "StatefulSet"} {
		t.Run("a "+kind, func(t *testing.T) {
			g := NewWithT(t)
			full := workloadOf(kind, "a", map[string]string{"app": "a"})
			full.SetUID("u")
			full.SetResourceVersion("1")
			full.SetAnnotations(map[string]string{"large": "text"})
			full.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "m"}})
			meta := metav1.ObjectMeta{Namespace: "n", Name: "a", UID: "u", ResourceVersion: "1", Labels: map[string]string{"app": "a"}}
			selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}
			template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "a", "version": "v1"}}}
			want := map[string]workload.Object{
				"Deployment":  &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template, Replicas: new(int32(2))}},
				"DaemonSet":   &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}},
				"StatefulSet": &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Selector: selector, Template: template}},
			}[kind]
			for range 2 { // a transform may be given its own result
				item, err := workload.Trim(full)
				g.Expect(err).NotTo(HaveOccurred())
				trimmed := item.(workload.Object)
				found, known := workload.KindOf(trimmed)
				g.Expect(known).To(BeTrue())
				g.Expect(found.Name).To(Equal(kind))
				g.Expect(trimmed).To(Equal(want))
			}
		})
	}
	t.Run("nothing else", func(t *testing.T) {
		NewWithT(t).Expect(workload.Trim("tombstone")).To(Equal("tombstone"))
	})
}

func TestKinds(t *testing.T) {
	g := NewWithT(t)
	names := sets.New[string]()
	for _, kind := range workload.Kinds {
		names.Insert(kind.Name)
		object := workloadOf(kind.Name, "a", nil)
		g.Expect(kind.New()).To(BeAssignableToTypeOf(object))
		g.Expect(kind.New().GetName()).To(BeEmpty())
		g.Expect(fmt.Sprintf("%T", kind.NewList())).To(Equal("*v1." + kind.Name + "List"))
		g.Expect(workload.TargetOf(object)).To(Equal(workload.Target{
			Kind: kind.Name, Namespace: "n", Name: "a", Selector: map[string]string{"app": "a"}, PodLabels: map[string]string{"app": "a", "version": "v1"},
		}))
	}
	g.Expect(sets.List(names)).To(Equal([]string{"DaemonSet", "Deployment", "StatefulSet"}))
	g.Expect(workload.Kinds[0].Name).To(Equal("Deployment"), "the default")
}

func TestKindIsFound(t *testing.T) {
	for _, row := range []struct{ name, want string }{
		{"StatefulSet", "StatefulSet"}, {"daemonset", "DaemonSet"}, {"DEPLOYMENT", "Deployment"}, {"Job", ""}, {"", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			kind, known := workload.KindNamed(row.name)
			if kind.Name != row.want || known != (row.want != "") {
				t.Errorf("got %q, %t, want %q", kind.Name, known, row.want)
			}
		})
	}
}

func TestWhatIsNoWorkload(t *testing.T) {
	g := NewWithT(t)
	pod := injected()
	kind, known := workload.KindOf(pod)
	g.Expect(known).To(BeFalse())
	g.Expect(kind.Name).To(BeEmpty())
}

func TestTargetDoesNotShareItsLabels(t *testing.T) {
	g := NewWithT(t)
	object := workloadOf("Deployment", "a", nil).(*appsv1.Deployment)
	target := workload.TargetOf(object)
	target.PodLabels["app"], target.Selector["app"] = "changed", "changed"
	g.Expect(object.Spec.Template.Labels).To(HaveKeyWithValue("app", "a"))
	g.Expect(object.Spec.Selector.MatchLabels).To(HaveKeyWithValue("app", "a"))
}

func TestSelectorHasWhatAllPodsHave(t *testing.T) {
	in := func(key string, values ...string) metav1.LabelSelectorRequirement {
		return metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOpIn, Values: values}
	}
	for _, row := range []struct {
		name     string
		selector *metav1.LabelSelector
		want     map[string]string
	}{
		{"in matchLabels", &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a", "tier": "b"}}, map[string]string{"app": "a", "tier": "b"}},
		{"in an expression with one value", &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{in("app", "a")}}, map[string]string{"app": "a"}},
		{"not in one with several values", &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{in("app", "a", "b")}}, nil},
		{"not in one that excludes a value", &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"b"}}}}, nil},
		{"in both", &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}, MatchExpressions: []metav1.LabelSelectorRequirement{in("tier", "b")}}, map[string]string{"app": "a", "tier": "b"}},
		{"in none", nil, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			object := workloadOf("Deployment", "a", nil).(*appsv1.Deployment)
			object.Spec.Selector = row.selector
			g.Expect(workload.TargetOf(object).Selector).To(Equal(row.want))
			g.Expect(object.Spec.Selector).To(Equal(row.selector), "the workload is as it was")
		})
	}
}

func TestCacheKeepsTheSameLabelsOnce(t *testing.T) {
	g := NewWithT(t)
	object := workloadOf("Deployment", "a", nil).(*appsv1.Deployment)
	object.Spec.Selector.MatchLabels["version"] = "v1"
	_, err := workload.Trim(object)
	g.Expect(err).NotTo(HaveOccurred())
	object.Spec.Template.Labels["seen"] = "twice"
	g.Expect(object.Spec.Selector.MatchLabels).To(HaveKey("seen"))
}
