package cli_test

import (
	"context"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/internal/ownership"
	"github.com/wasme-io/wasme-operator/internal/revision"
	"github.com/wasme-io/wasme-operator/internal/rollout"
)

// What follows stands for what an operator leaves in a cluster: these specs run none.

// createFilterDeployment creates one that asks for a configuration.
func createFilterDeployment(ctx context.Context, namespace, name, config string, changes ...func(*wasmev1.FilterDeployment)) *wasmev1.FilterDeployment {
	GinkgoHelper()
	fd := &wasmev1.FilterDeployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: wasmev1.FilterDeploymentSpec{Filter: wasmev1.FilterSpec{
			Image: "registry.test/hello:v1", RootID: "root", Config: text(config),
		}},
	}
	for _, change := range changes {
		change(fd)
	}
	Expect(user.Create(ctx, fd)).To(Succeed())
	return fd
}

func text(value string) *wasmev1.Configuration {
	return &wasmev1.Configuration{Raw: fmt.Appendf(nil, "%q", value)}
}

// setStatus writes a status as the operator does, about the newest spec.
func setStatus(ctx context.Context, fd *wasmev1.FilterDeployment, change func(*wasmev1.FilterDeploymentStatus)) {
	GinkgoHelper()
	Expect(user.Get(ctx, client.ObjectKeyFromObject(fd), fd)).To(Succeed())
	fd.Status.ObservedGeneration = &fd.Generation
	change(&fd.Status)
	Expect(user.Status().Update(ctx, fd)).To(Succeed())
}

// ready is the condition Ready.
func ready(status metav1.ConditionStatus, reason, message string) []metav1.Condition {
	return []metav1.Condition{{Type: wasmev1.ConditionReady, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.Now()}}
}

// complete is the status of a rollout that is complete.
func complete(status *wasmev1.FilterDeploymentStatus) {
	status.Conditions = ready(metav1.ConditionTrue, wasmev1.ReasonReady, "1 of 1 pods run the filter in this revision")
	status.Rollout = &wasmev1.RolloutStatus{Phase: wasmev1.RolloutComplete, To: "bbbbbbbb", Step: new(int32(1))}
	status.Summary = &wasmev1.WorkloadSummary{Workloads: new(int64(1)), Programmed: new(int64(1)), WorkloadsReady: "1/1", PodsReady: "1/1"}
}

// keepRevision keeps the revision that a FilterDeployment asks for now.
func keepRevision(ctx context.Context, fd *wasmev1.FilterDeployment, digest string, history ...revision.Revision) revision.Revision {
	GinkgoHelper()
	istio := wasmev1.IstioDeploymentSpec{}
	if fd.Spec.Deployment.Istio != nil {
		istio = *fd.Spec.Deployment.Istio
	}
	known, err := revision.New(client.ObjectKeyFromObject(fd), revision.Content{
		Filter: fd.Spec.Filter, Output: istio.Output, Distribution: istio.Distribution,
		Module: wasmev1.ModuleStatus{Reference: fd.Spec.Filter.Image, ManifestDigest: "sha256:" + digest, SHA256: digest, SizeBytes: new(int64(1 << 20))},
	})
	Expect(err).NotTo(HaveOccurred())
	known.Object, err = revision.Desired(fd, known, history)
	Expect(err).NotTo(HaveOccurred())
	Expect(user.Create(ctx, known.Object)).To(Succeed())
	return known
}

// createDeployment creates a Deployment with so many Ready pods that have a sidecar.
func createDeployment(ctx context.Context, namespace, name string, pods int) {
	GinkgoHelper()
	labels := map[string]string{"app": name}
	// The garbage collector would delete pods whose ReplicaSet does not exist, so what
	// injection writes into the sidecar says whose they are.
	owner := corev1.EnvVar{Name: "ISTIO_META_OWNER", Value: "kubernetes://apis/apps/v1/namespaces/" + namespace + "/deployments/" + name}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{
		{Name: "app", Image: "app"}, {Name: "istio-proxy", Image: "istio/proxyv2:1.31.0", Env: []corev1.EnvVar{owner}},
	}}}
	Expect(user.Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template},
	})).To(Succeed())
	for i := range pods {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s-%d", name, i), Labels: labels}, Spec: template.Spec}
		Expect(user.Create(ctx, pod)).To(Succeed())
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
		Expect(user.Status().Update(ctx, pod)).To(Succeed())
	}
}

// createOutput creates the EnvoyFilter of a Deployment that holds a revision.
func createOutput(ctx context.Context, fd *wasmev1.FilterDeployment, workload, hash string) {
	GinkgoHelper()
	output := &networking.EnvoyFilter{ObjectMeta: metav1.ObjectMeta{Namespace: fd.Namespace, Name: workload + "-" + fd.Name + "." + fd.Namespace}}
	ownership.Claim(output, fd, map[string]string{revision.HashAnnotation: hash, rollout.WorkloadAnnotation: "Deployment/" + workload})
	Expect(user.Create(ctx, output)).To(Succeed())
}
