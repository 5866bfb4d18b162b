// Package e2e runs the operator as its users do: as a process under its own
// service account, against a real API server, with a real istiod and real
// Envoys, and looks at what the Envoys answer.
package e2e

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
	"github.com/wasme-io/wasme-operator/test/registry"
)

var (
	theMesh  *mesh.Mesh
	operator *mesh.Operator
	admin    client.WithWatch
)

func TestE2E(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Operator on a real mesh")
}

// long has specs begin before all others: they take a minute or more, and short
// ones fill up the time of the processes that end first. Specs that are Serial
// need the machine to themselves: what a step is judged by depends on the time
// that sidecars take to answer.
const long = SpecPriority(1)

// Each of Ginkgo's parallel processes has a mesh and an operator of its own, so
// that a spec may stop istiod, the API server or the operator whatever runs
// beside it. They share a folder, for what they look at together in the end.
var _ = SynchronizedBeforeSuite(makeRightsFolder, func(ctx SpecContext, folder []byte) {
	rightsFolder = string(folder)
	theMesh = meshtest.Start(ctx, mesh.OperatorUser)
	admin = theMesh.Client()
	Expect(theMesh.InstallOperator(ctx)).To(Succeed())
	startOperator(ctx)
	DeferCleanup(func() { Expect(operator.Stop()).To(Succeed()) })
}, NodeTimeout(meshtest.StartTimeout))

// startOperator runs the one operator that most specs share.
func startOperator(ctx context.Context) {
	GinkgoHelper()
	var err error
	operator, err = theMesh.StartOperator(ctx, mesh.OperatorOptions{Args: []string{"--image-poll-interval=2s"}})
	Expect(err).NotTo(HaveOccurred())
}

// newNamespace creates a namespace that ends with the spec.
func newNamespace(ctx context.Context) string {
	GinkgoHelper()
	return meshtest.NewNamespace(ctx, admin)
}

// run starts a workload that ends with the spec.
func run(ctx context.Context, workload mesh.Workload) *mesh.Running {
	GinkgoHelper()
	return meshtest.Run(ctx, theMesh, workload)
}

func workload(namespace, name string, labels map[string]string) mesh.Workload {
	return mesh.Workload{Namespace: namespace, Name: name, Labels: labels, Port: 9080, Service: name, NativeSidecar: true}
}

// push stores a test filter in the mesh's registry, in the form that wasme made.
func push(ctx context.Context, filter string) string {
	GinkgoHelper()
	reference := fmt.Sprintf("%s/filters/%s:v1", theMesh.Registry(), filter)
	Expect(registry.Push(ctx, reference, imageOf(meshtest.Build(ctx, filter)))).To(Succeed())
	return reference
}

func imageOf(module []byte) remote.Taggable {
	GinkgoHelper()
	image, err := registry.Image(registry.WasmeArtifact, registry.Module{Bytes: module, RootIDs: []string{filters.RootID}})
	Expect(err).NotTo(HaveOccurred())
	return image
}

func filterDeployment(namespace, image, configuration string) *wasmev1.FilterDeployment {
	fd := &wasmev1.FilterDeployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "hello"},
		Spec: wasmev1.FilterDeploymentSpec{
			Filter: wasmev1.FilterSpec{
				Image:            image,
				ImagePullOptions: &wasmev1.ImagePullOptions{PlainHTTP: true},
			},
			Rollout: &wasmev1.RolloutSpec{Strategy: wasmev1.RolloutImmediate},
		},
	}
	if configuration != "" {
		fd.Spec.Filter.Config = text(configuration)
	}
	return fd
}

func text(value string) *wasmev1.Configuration {
	return &wasmev1.Configuration{Raw: fmt.Appendf(nil, "%q", value)}
}

// change updates the spec of a FilterDeployment.
func change(ctx context.Context, fd *wasmev1.FilterDeployment, edit func(*wasmev1.FilterSpec)) {
	GinkgoHelper()
	Eventually(func() error {
		if err := admin.Get(ctx, client.ObjectKeyFromObject(fd), fd); err != nil {
			return err
		}
		edit(&fd.Spec.Filter)
		return admin.Update(ctx, fd)
	}).Should(Succeed())
}

// readyReason is the reason of Ready for the newest spec.
func readyReason(ctx context.Context, fd *wasmev1.FilterDeployment) func() string {
	return func() string {
		var live wasmev1.FilterDeployment
		if err := admin.Get(ctx, client.ObjectKeyFromObject(fd), &live); err != nil {
			return err.Error()
		}
		ready := apimeta.FindStatusCondition(live.Status.Conditions, wasmev1.ConditionReady)
		if ready == nil || ready.ObservedGeneration != live.Generation {
			return ""
		}
		return ready.Reason
	}
}

// refusals counts the updates of filters that a workload's Envoy has refused.
func refusals(ctx context.Context, running *mesh.Running) func() (int, error) {
	return func() (int, error) { return running.RefusedUpdates(ctx) }
}

func outputsOf(ctx context.Context, namespace string) []string {
	GinkgoHelper()
	var list networking.EnvoyFilterList
	Expect(admin.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
	names := []string{}
	for _, object := range list.Items {
		names = append(names, object.Name)
	}
	return names
}

func revisionsOf(ctx context.Context, namespace string) []appsv1.ControllerRevision {
	GinkgoHelper()
	var list appsv1.ControllerRevisionList
	Expect(admin.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
	return list.Items
}
