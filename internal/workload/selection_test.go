package workload_test

import (
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/condition"
	"github.com/wasme-io/wasme-operator/internal/workload"
)

func selecting(istio *wasmev1.IstioDeploymentSpec) *wasmev1.FilterDeployment {
	return &wasmev1.FilterDeployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "f"},
		Spec:       wasmev1.FilterDeploymentSpec{Deployment: wasmev1.DeploymentSpec{Istio: istio}},
	}
}

func selectionOf(t *testing.T, istio *wasmev1.IstioDeploymentSpec) workload.Selection {
	t.Helper()
	selection, err := workload.SelectionOf(selecting(istio))
	if err != nil {
		t.Fatal(err)
	}
	return selection
}

var (
	appA     = map[string]wasmev1.LabelValue{"app": "a"}
	wrongOne = metav1.LabelSelectorRequirement{Key: "app", Operator: "Wrong"}
	notAppA  = metav1.LabelSelectorRequirement{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"a"}}
	gatewayG = wasmev1.TargetRef{Kind: "Gateway", Name: "g"}
	serviceS = wasmev1.TargetRef{Kind: "Service", Name: "s"}
	gatewayA = wasmev1.TargetRef{Kind: "Gateway", Name: "a"}
)

func TestSelects(t *testing.T) {
	labelled := map[string]string{"app": "a", "team": "x"}
	for _, row := range []struct {
		name   string
		spec   *wasmev1.IstioDeploymentSpec
		object workload.Object
		want   bool
	}{
		{"all Deployments by default", nil, workloadOf("Deployment", "a", nil), true},
		{"no DaemonSet by default", nil, workloadOf("DaemonSet", "a", nil), false},
		{"those of the kind", &wasmev1.IstioDeploymentSpec{Kind: "daemonset"}, workloadOf("DaemonSet", "a", nil), true},
		{"none of another kind", &wasmev1.IstioDeploymentSpec{Kind: "daemonset"}, workloadOf("Deployment", "a", nil), false},
		{"those with the labels", &wasmev1.IstioDeploymentSpec{Labels: appA}, workloadOf("Deployment", "x", labelled), true},
		{"none with another value", &wasmev1.IstioDeploymentSpec{Labels: appA}, workloadOf("Deployment", "a", map[string]string{"app": "b"}), false},
		{"none whose pods alone have the labels", &wasmev1.IstioDeploymentSpec{Labels: appA}, workloadOf("Deployment", "a", nil), false},
		{"by the selector before the labels", &wasmev1.IstioDeploymentSpec{Labels: appA, Selector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{notAppA}}}, workloadOf("Deployment", "a", labelled), false},
		{"what the selector does not exclude", &wasmev1.IstioDeploymentSpec{Selector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{notAppA}}}, workloadOf("Deployment", "a", nil), true},
		{"no workload where there are targetRefs", &wasmev1.IstioDeploymentSpec{TargetRefs: []wasmev1.TargetRef{gatewayG}}, workloadOf("Deployment", "a", nil), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := selectionOf(t, row.spec).Selects(row.object); got != row.want {
				t.Errorf("got %t, want %t", got, row.want)
			}
		})
	}
	t.Run("none of another namespace", func(t *testing.T) {
		object := workloadOf("Deployment", "a", nil)
		object.SetNamespace("m")
		if selectionOf(t, nil).Selects(object) {
			t.Error("it selects one")
		}
	})
}

func TestSelectionThatIsWrong(t *testing.T) {
	for _, row := range []struct {
		name string
		spec wasmev1.IstioDeploymentSpec
		want string
	}{
		{"in its kind", wasmev1.IstioDeploymentSpec{Kind: "Job"}, `spec.deployment.istio.kind is "Job": use Deployment, DaemonSet or StatefulSet`},
		{"in its selector", wasmev1.IstioDeploymentSpec{Selector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{wrongOne}}}, `spec.deployment.istio.selector: "Wrong" is not a valid label selector operator`},
	} {
		t.Run(row.name, func(t *testing.T) {
			selection, err := workload.SelectionOf(selecting(&row.spec))
			g := NewWithT(t)
			g.Expect(err).To(MatchError(row.want))
			g.Expect(selection).To(Equal(workload.Selection{}))
		})
	}
}

func TestTargetRefsAreReferences(t *testing.T) {
	g := NewWithT(t)
	selection := selectionOf(t, &wasmev1.IstioDeploymentSpec{TargetRefs: []wasmev1.TargetRef{serviceS, gatewayG, gatewayA}})
	g.Expect(selection).To(Equal(workload.Selection{Namespace: "n", References: []workload.Target{
		{Kind: "Gateway", Namespace: "n", Name: "a"},
		{Kind: "Gateway", Namespace: "n", Name: "g"},
		{Kind: "Service", Namespace: "n", Name: "s"},
	}}))
	g.Expect(selection.ByReference()).To(BeTrue())
	g.Expect(selectionOf(t, nil).ByReference()).To(BeFalse())
	for _, row := range []struct {
		target workload.Target
		want   bool
	}{
		{workload.Target{Kind: "Gateway", Namespace: "n", Name: "g", PodLabels: map[string]string{"a": "b"}}, true},
		{workload.Target{Kind: "Service", Namespace: "n", Name: "g"}, false},
		{workload.Target{Kind: "Gateway", Namespace: "n", Name: "s"}, false},
		{workload.Target{Kind: "Gateway", Namespace: "m", Name: "g"}, false},
	} {
		g.Expect(selection.SelectsTarget(row.target)).To(Equal(row.want), "%v", row.target)
	}
}

func TestRootNamespace(t *testing.T) {
	byLabels := &wasmev1.IstioDeploymentSpec{Labels: appA}
	for _, row := range []struct {
		name    string
		root    string
		spec    *wasmev1.IstioDeploymentSpec
		traffic wasmev1.PatchContext
		allowed bool
	}{
		{"allows everything elsewhere", "istio-system", nil, wasmev1.PatchContextInbound, true},
		{"allows no filter of sidecars", "n", byLabels, wasmev1.PatchContextInbound, false},
		{"allows no filter of all gateways", "n", nil, wasmev1.PatchContextGateway, false},
		{"allows a filter of selected gateways", "n", byLabels, wasmev1.PatchContextGateway, true},
		{"allows targetRefs", "n", &wasmev1.IstioDeploymentSpec{TargetRefs: []wasmev1.TargetRef{gatewayG}}, wasmev1.PatchContextInbound, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := selectionOf(t, row.spec).CheckNamespace(row.root, row.traffic)
			if row.allowed {
				NewWithT(t).Expect(err).NotTo(HaveOccurred())
				return
			}
			NewWithT(t).Expect(err).To(MatchError(And(
				HavePrefix("namespace n is the mesh's root namespace, whose filters reach every namespace:"), ContainSubstring("--allow-root-namespace"))))
		})
	}
}

func TestMissingTargetsAreReported(t *testing.T) {
	g := NewWithT(t)
	selection := selectionOf(t, &wasmev1.IstioDeploymentSpec{TargetRefs: []wasmev1.TargetRef{gatewayG, serviceS, gatewayA}})
	g.Expect(selection.ReferencesVerdict(nil)).To(Equal(condition.True(wasmev1.ReasonSelected, "3 targetRefs")))
	missing := []workload.Target{
		{Kind: "Gateway", Name: "g", Proxies: workload.Proxies{Missing: "the API server does not serve Gateways"}},
		{Kind: "Service", Name: "s", Proxies: workload.Proxies{Missing: workload.NotThere}},
	}
	got := selection.ReferencesVerdict(missing)
	g.Expect(got).To(Equal(condition.False(wasmev1.ReasonTargetNotFound, "2 of 3 targetRefs do not exist in namespace n (Gateway g, because the API server does not serve Gateways, Service s): create what is missing, or correct spec.deployment.istio.targetRefs")))
	g.Expect(got.Stalled).To(BeFalse(), "they may come yet")
}

func TestWhatIsSelectedIsReported(t *testing.T) {
	for _, row := range []struct {
		name  string
		spec  *wasmev1.IstioDeploymentSpec
		found int
		want  condition.Verdict
	}{
		{"workloads", nil, 2, condition.True(wasmev1.ReasonSelected, "2 of kind Deployment")},
		{"one workload", &wasmev1.IstioDeploymentSpec{Kind: "StatefulSet"}, 1, condition.True(wasmev1.ReasonSelected, "1 of kind StatefulSet")},
		{"none of all", nil, 0, condition.True(wasmev1.ReasonNoWorkloads, "no Deployment in namespace n has the labels of spec.deployment.istio (none: all are selected) itself, whatever labels its pods have; one that comes gets the filter")},
		{"none with the labels", &wasmev1.IstioDeploymentSpec{Labels: appA}, 0, condition.True(wasmev1.ReasonNoWorkloads, "no Deployment in namespace n has the labels of spec.deployment.istio (app=a) itself, whatever labels its pods have; one that comes gets the filter")},
	} {
		t.Run(row.name, func(t *testing.T) {
			NewWithT(t).Expect(selectionOf(t, row.spec).Verdict(row.found)).To(Equal(row.want))
		})
	}
}
