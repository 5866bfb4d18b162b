package workload

import (
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
)

// injected is a Ready pod of Deployment details-v1, as injection and the kubelet leave it.
func injected() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "n", Name: "details-v1-5d8-x", UID: "u", ResourceVersion: "7",
			Labels:          map[string]string{"app": "details", appsv1.DefaultDeploymentUniqueLabelKey: "5d8"},
			Annotations:     map[string]string{AgentPortAnnotation: "15000", "note": "long"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "details-v1-5d8", UID: "r", Controller: new(true)}},
		},
		Spec: corev1.PodSpec{
			NodeName: "node",
			InitContainers: []corev1.Container{
				{Name: "istio-init"},
				{Name: SidecarContainer, Image: "proxyv2", Ports: []corev1.ContainerPort{{Name: "http-envoy-prom", ContainerPort: 15099}, {Name: "other", ContainerPort: 1}}},
			},
			Containers: []corev1.Container{{Name: "app"}},
		},
		Status: corev1.PodStatus{
			PodIP: "10.0.0.7",
			Conditions: []corev1.PodCondition{
				{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
				{Type: corev1.PodReady, Status: corev1.ConditionTrue, Message: "long"},
			},
		},
	}
}

func TestTheCacheKeepsOfAPodWhatItTakesToAskItsSidecar(t *testing.T) {
	g := NewWithT(t)
	item, err := TrimPod(injected())
	g.Expect(err).NotTo(HaveOccurred())
	pod := item.(*corev1.Pod)
	g.Expect(pod.Labels).To(BeNil())
	g.Expect(pod.OwnerReferences).To(Equal([]metav1.OwnerReference{{Kind: "Deployment", Name: "details-v1", Controller: new(true)}}))
	g.Expect(pod.Annotations).To(Equal(map[string]string{AgentPortAnnotation: "15000"}))
	g.Expect(pod.Spec).To(Equal(corev1.PodSpec{Containers: []corev1.Container{{Name: SidecarContainer, Ports: []corev1.ContainerPort{{Name: "http-envoy-prom", ContainerPort: 15099}}}}}))
	g.Expect(pod.Status.Conditions).To(Equal([]corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}))
	g.Expect(Owners(pod)).To(Equal([]Target{{Kind: "Deployment", Namespace: "n", Name: "details-v1"}}))
	g.Expect(IsReady(pod)).To(BeTrue())
	at := SidecarAddress(pod)
	g.Expect([]any{at.UID, at.Address.String(), at.StatsPort, at.AgentPort}).To(Equal([]any{pod.UID, "10.0.0.7", uint16(15099), uint16(15000)}))
	g.Expect(TrimPod(pod)).To(Equal(pod), "a transform may be given its own result")
	g.Expect(TrimPod("tombstone")).To(Equal("tombstone"))
	g.Expect([]string{pod.Namespace, pod.Name, pod.ResourceVersion}).To(Equal([]string{"n", "details-v1-5d8-x", "7"}))
}

func TestWhatIsNoAddressIsTheZeroValue(t *testing.T) {
	pod := injected()
	pod.Status.PodIP, pod.Annotations[AgentPortAnnotation] = "nowhere", "70000"
	at := SidecarAddress(pod)
	NewWithT(t).Expect([]any{at.Address.IsValid(), at.AgentPort}).To(Equal([]any{false, uint16(0)}))
}

func TestPodsInTheCacheShareTheSidecarWithTheUsualStatsPort(t *testing.T) {
	g := NewWithT(t)
	trimmed := func(ports ...corev1.ContainerPort) *corev1.Container {
		pod := injected()
		pod.Spec.InitContainers[1].Ports = ports
		item, err := TrimPod(pod)
		g.Expect(err).NotTo(HaveOccurred())
		return Sidecar(item.(*corev1.Pod))
	}
	usual := trimmed(corev1.ContainerPort{Name: StatsPortName, ContainerPort: 15090})
	g.Expect(trimmed(corev1.ContainerPort{Name: StatsPortName, ContainerPort: 15090})).To(BeIdenticalTo(usual))
	g.Expect(trimmed()).To(BeIdenticalTo(usual), "where it is when it has no name")
	g.Expect(trimmed(corev1.ContainerPort{Name: StatsPortName, ContainerPort: 15091}).Ports).To(Equal([]corev1.ContainerPort{{Name: StatsPortName, ContainerPort: 15091}}))
}

func TestToWhomAPodBelongs(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*corev1.Pod)
		want   []string
	}{
		"to its Deployment":                      {func(*corev1.Pod) {}, []string{"Deployment/details-v1"}},
		"to its StatefulSet":                     {func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "StatefulSet" }, []string{"StatefulSet/details-v1-5d8"}},
		"to its DaemonSet":                       {func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "DaemonSet" }, []string{"DaemonSet/details-v1-5d8"}},
		"to a gateway, too":                      {func(p *corev1.Pod) { p.Labels[GatewayLabel] = "waypoint" }, []string{"Deployment/details-v1", "Gateway/waypoint"}},
		"to nobody when its ReplicaSet is alone": {func(p *corev1.Pod) { delete(p.Labels, appsv1.DefaultDeploymentUniqueLabelKey) }, nil},
		"to nobody without owner":                {func(p *corev1.Pod) { p.OwnerReferences = nil }, nil},
		"to nobody that is known as a Job's":     {func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "Job" }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			pod := injected()
			tc.change(pod)
			var got []string
			for _, owner := range Owners(pod) {
				NewWithT(t).Expect(owner.Namespace).To(Equal("n"))
				got = append(got, owner.Kind+"/"+owner.Name)
			}
			NewWithT(t).Expect(got).To(Equal(tc.want))
		})
	}
}

func TestAPodThatIsDeletedOrNotReadyIsNotAsked(t *testing.T) {
	g := NewWithT(t)
	pod := injected()
	pod.DeletionTimestamp = new(metav1.Now())
	g.Expect(IsReady(pod)).To(BeFalse())
	pod = injected()
	pod.Status.Conditions[1].Status = corev1.ConditionFalse
	g.Expect(IsReady(pod)).To(BeFalse())
	g.Expect(PodChanged(pod, injected())).To(BeTrue())
	pod.Status.Conditions = nil
	g.Expect(IsReady(pod)).To(BeFalse())
	moved := injected()
	moved.Status.PodIP = "10.0.0.8"
	g.Expect(PodChanged(injected(), moved)).To(BeTrue())
	g.Expect(PodChanged(injected(), injected())).To(BeFalse())
}

// of returns a workload of a kind with everything that a cache need not keep.
func of(kind Kind) Object {
	object := kind.New()
	object.SetNamespace("n")
	object.SetName("a")
	object.SetUID("u")
	object.SetResourceVersion("1")
	object.SetLabels(map[string]string{"app": "a"})
	*kind.template(object) = corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "a", "version": "v1"}},
	}
	return object
}

func TestTheCacheKeepsOfAWorkload(t *testing.T) {
	for _, kind := range Kinds {
		t.Run(kind.Name, func(t *testing.T) {
			g := NewWithT(t)
			full := of(kind)
			full.SetAnnotations(map[string]string{"large": "text"})
			full.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "m"}})
			kind.template(full).Spec.Containers = []corev1.Container{{Name: "app"}}
			kind.template(full).Annotations = map[string]string{"large": "text"}
			selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}
			switch object := full.(type) {
			case *appsv1.Deployment:
				object.Spec.Selector, object.Status.Replicas = selector, 3
			case *appsv1.DaemonSet:
				object.Spec.Selector, object.Status.NumberReady = selector, 3
			case *appsv1.StatefulSet:
				object.Spec.Selector, object.Status.Replicas = selector, 3
			}
			for range 2 { // a transform may be given its own result
				trimmed, err := Trim(full)
				g.Expect(err).NotTo(HaveOccurred())
				known, is := KindOf(trimmed)
				g.Expect([]any{known.Name, is}).To(Equal([]any{kind.Name, true}))
				g.Expect(PodLabels(trimmed)).To(Equal(map[string]string{"app": "a", "version": "v1"}))
				g.Expect(trimmed).To(Equal(of(kind)))
			}
			g.Expect(TargetOf(of(kind))).To(Equal(Target{Kind: kind.Name, Namespace: "n", Name: "a", PodLabels: map[string]string{"app": "a", "version": "v1"}}))
			g.Expect(kind.NewList().GetResourceVersion()).To(BeEmpty())
		})
	}
	g := NewWithT(t)
	item, err := Trim("tombstone")
	g.Expect([]any{item, err}).To(Equal([]any{"tombstone", nil}))
	deployment := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: new(int32(0))}}
	_, _ = Trim(deployment)
	g.Expect(deployment.Spec.Replicas).To(Equal(new(int32(0))), "which says that wasme's operator is stopped")
	g.Expect(PodLabels(&batchv1.Job{})).To(BeNil())
}

func TestWhichChangesOfAWorkloadMatter(t *testing.T) {
	for name, tc := range map[string]struct {
		want   bool
		change func(*appsv1.Deployment)
	}{
		"its labels":          {true, func(d *appsv1.Deployment) { d.Labels["team"] = "x" }},
		"its pods' labels":    {true, func(d *appsv1.Deployment) { delete(d.Spec.Template.Labels, "version") }},
		"not its status":      {false, func(d *appsv1.Deployment) { d.Status.ReadyReplicas = 3 }},
		"not its annotations": {false, func(d *appsv1.Deployment) { d.Annotations = map[string]string{"a": "b"} }},
	} {
		t.Run(name, func(t *testing.T) {
			before := of(Kinds[0]).(*appsv1.Deployment)
			after := before.DeepCopy()
			tc.change(after)
			NewWithT(t).Expect(Changed(before, after)).To(Equal(tc.want))
		})
	}
}

func filterDeployment(istio *wasmev1.IstioDeploymentSpec) *wasmev1.FilterDeployment {
	return &wasmev1.FilterDeployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "f"},
		Spec:       wasmev1.FilterDeploymentSpec{Deployment: wasmev1.DeploymentSpec{Istio: istio}},
	}
}

func TestWhatAFilterDeploymentSelects(t *testing.T) {
	labelled := of(Kinds[0])
	labelled.SetLabels(map[string]string{"team": "x", "more": "z"})
	elsewhere := of(Kinds[0])
	elsewhere.SetNamespace("m")
	for name, tc := range map[string]struct {
		istio  *wasmev1.IstioDeploymentSpec
		object Object
		want   bool
	}{
		"Deployments by default":       {nil, labelled, true},
		"no StatefulSets by default":   {nil, of(Kinds[2]), false},
		"a kind in any letter case":    {&wasmev1.IstioDeploymentSpec{Kind: "statefulSET"}, of(Kinds[2]), true},
		"labels":                       {&wasmev1.IstioDeploymentSpec{Labels: map[string]wasmev1.LabelValue{"team": "x"}}, labelled, true},
		"not other labels":             {&wasmev1.IstioDeploymentSpec{Labels: map[string]wasmev1.LabelValue{"team": "y"}}, labelled, false},
		"a selector":                   {&wasmev1.IstioDeploymentSpec{Selector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: "Exists"}}}}, labelled, true},
		"nothing of another namespace": {nil, elsewhere, false},
		"no workload by targetRefs":    {&wasmev1.IstioDeploymentSpec{TargetRefs: []wasmev1.TargetRef{{Kind: "Gateway", Name: "a"}}}, labelled, false},
		"no pod":                       {nil, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			selection, err := SelectionOf(filterDeployment(tc.istio))
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(selection.Selects(tc.object)).To(Equal(tc.want))
		})
	}
}

func TestSelectionsThatCannotBeReadNameTheField(t *testing.T) {
	g := NewWithT(t)
	_, err := SelectionOf(filterDeployment(&wasmev1.IstioDeploymentSpec{Kind: "Pod"}))
	g.Expect(err).To(MatchError(`spec.deployment.istio.kind is "Pod": use Deployment, DaemonSet or StatefulSet`))
	_, err = SelectionOf(filterDeployment(&wasmev1.IstioDeploymentSpec{Selector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Odd"}}}}))
	g.Expect(err).To(MatchError(ContainSubstring("spec.deployment.istio.selector: ")))
}

func TestTargetRefsAreTargetsInOrder(t *testing.T) {
	g := NewWithT(t)
	selection, err := SelectionOf(filterDeployment(&wasmev1.IstioDeploymentSpec{TargetRefs: []wasmev1.TargetRef{{Kind: "Service", Name: "b"}, {Kind: "Gateway", Name: "a"}}}))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(selection.References).To(Equal([]Target{{Kind: "Gateway", Namespace: "n", Name: "a"}, {Kind: "Service", Namespace: "n", Name: "b"}}))
	g.Expect(selection.ByReference()).To(BeTrue())
	g.Expect(selection.SelectsTarget(Target{Kind: "Gateway", Namespace: "n", Name: "a"})).To(BeTrue())
	for _, other := range []Target{{Kind: "Service", Namespace: "n", Name: "a"}, {Kind: "Gateway", Namespace: "m", Name: "a"}, {Kind: "Gateway", Namespace: "n", Name: "b"}} {
		g.Expect(selection.SelectsTarget(other)).To(BeFalse())
	}
	g.Expect(selection.Verdict(2)).To(HaveField("Message", "2 targetRefs"))
	g.Expect(selection.CheckNamespace("n", wasmev1.PatchContextInbound)).To(Succeed())
}

func TestWhatWorkloadsSelectedSays(t *testing.T) {
	g := NewWithT(t)
	all, err := SelectionOf(filterDeployment(nil))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(all.Verdict(3)).To(And(HaveField("Reason", wasmev1.ReasonSelected), HaveField("Message", "3 of kind Deployment")))
	g.Expect(all.Verdict(0)).To(And(HaveField("Status", metav1.ConditionTrue), HaveField("Reason", wasmev1.ReasonNoWorkloads), HaveField("Message", ContainSubstring("(none: all are selected)"))))
	some, err := SelectionOf(filterDeployment(&wasmev1.IstioDeploymentSpec{Labels: map[string]wasmev1.LabelValue{"team": "x"}}))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(some.Verdict(0).Message).To(HavePrefix("no Deployment in namespace n has the labels of spec.deployment.istio (team=x)"))
	g.Expect(some.ByReference()).To(BeFalse())

	g.Expect(all.CheckNamespace("istio-system", wasmev1.PatchContextInbound)).To(Succeed())
	g.Expect(some.CheckNamespace("n", wasmev1.PatchContextGateway)).To(Succeed())
	g.Expect(some.CheckNamespace("n", wasmev1.PatchContextInbound)).To(MatchError(ContainSubstring("is the mesh's root namespace")))
	g.Expect(all.CheckNamespace("n", wasmev1.PatchContextGateway)).To(MatchError(ContainSubstring("--allow-root-namespace")))
}

func TestKeysOfTargets(t *testing.T) {
	g := NewWithT(t)
	g.Expect(Target{Kind: "Deployment", Name: "a"}.Key()).To(Equal("a"))
	gateway := Target{Kind: "Gateway", Name: "a"}
	g.Expect([]any{gateway.Key(), gateway.IsReference(), gateway.ReferenceGroup()}).To(Equal([]any{"Gateway/a", true, "gateway.networking.k8s.io"}))
	service := Target{Kind: "Service", Name: "a"}
	g.Expect([]any{service.Key(), service.IsReference(), service.ReferenceGroup()}).To(Equal([]any{"Service/a", true, ""}))
	for name, want := range map[string]string{"deployment": "deployments", "DaemonSet": "daemonsets", "STATEFULSET": "statefulsets"} {
		kind, known := KindNamed(name)
		g.Expect([]any{kind.Resource, known}).To(Equal([]any{want, true}))
	}
	_, known := KindNamed("Pod")
	g.Expect(known).To(BeFalse())
}
