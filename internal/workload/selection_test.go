package workload_test

import (
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
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
			selection := selectionOf(t, row.spec)
			selection.Traffic = row.traffic
			err := selection.CheckNamespace(row.root)
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
		name            string
		spec            *wasmev1.IstioDeploymentSpec
		found, gateways int
		want            condition.Verdict
	}{
		{"workloads", nil, 2, 0, condition.True(wasmev1.ReasonSelected, "2 of kind Deployment")},
		{"one workload", &wasmev1.IstioDeploymentSpec{Kind: "StatefulSet"}, 1, 0, condition.True(wasmev1.ReasonSelected, "1 of kind StatefulSet")},
		{"none of all", nil, 0, 0, condition.True(wasmev1.ReasonNoWorkloads, "no Deployment in namespace n has the labels of spec.deployment.istio (none: all are selected) itself, whatever labels its pods have; one that comes gets the filter")},
		{"none with the labels", &wasmev1.IstioDeploymentSpec{Labels: appA}, 0, 0, condition.True(wasmev1.ReasonNoWorkloads, "no Deployment in namespace n has the labels of spec.deployment.istio (app=a) itself, whatever labels its pods have; one that comes gets the filter")},
		{"gateways left out", nil, 2, 1, condition.True(wasmev1.ReasonSelected, "2 of kind Deployment; 1 more are gateways, which have no inbound traffic: set spec.filter.patchContext to gateway for a filter that is to run on them")},
		{"nothing but gateways", nil, 0, 2, condition.True(wasmev1.ReasonNoWorkloads, "0 of kind Deployment; 2 more are gateways, which have no inbound traffic: set spec.filter.patchContext to gateway for a filter that is to run on them")},
	} {
		t.Run(row.name, func(t *testing.T) {
			NewWithT(t).Expect(selectionOf(t, row.spec).Verdict(row.found, row.gateways)).To(Equal(row.want))
		})
	}
}

func TestSidecarsTrafficLeavesGatewaysOut(t *testing.T) {
	for _, kind := range []struct {
		name   string
		change func(*appsv1.Deployment)
		is     bool
	}{
		{"a workload", func(*appsv1.Deployment) {}, false},
		{"a workload with an injection template of its own", func(d *appsv1.Deployment) { d.Spec.Template.Annotations["inject.istio.io/templates"] = "sidecar,own" }, false},
		{"a gateway of the Gateway API", func(d *appsv1.Deployment) { d.Spec.Template.Labels[workload.GatewayLabel] = "g" }, true},
		{"a gateway that is injected", func(d *appsv1.Deployment) { d.Spec.Template.Annotations["inject.istio.io/templates"] = "gateway" }, true},
	} {
		for traffic, leavesOut := range map[wasmev1.PatchContext]bool{
			"": true, wasmev1.PatchContextInbound: true, wasmev1.PatchContextOutbound: true,
			wasmev1.PatchContextGateway: false, wasmev1.PatchContextAny: false,
		} {
			t.Run(kind.name+" "+string(traffic), func(t *testing.T) {
				g := NewWithT(t)
				object := workloadOf("Deployment", "a", nil).(*appsv1.Deployment)
				kind.change(object)
				fd := selecting(nil)
				fd.Spec.Filter.PatchContext = traffic
				selection, err := workload.SelectionOf(fd)
				g.Expect(err).NotTo(HaveOccurred())
				for range 2 { // as it is, and in the cache
					g.Expect(selection.Selects(object)).To(Equal(!leavesOut || !kind.is))
					g.Expect(selection.LeavesOut(object)).To(Equal(leavesOut && kind.is))
					_, err = workload.Trim(object)
					g.Expect(err).NotTo(HaveOccurred())
				}
			})
		}
	}
}
