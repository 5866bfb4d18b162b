// Package e2e runs the operator as its users do: as a process under its own
// service account, against a real API server, with a real istiod and real
// Envoys, and looks at what the Envoys answer.
package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	networking "istio.io/client-go/pkg/apis/networking/v1alpha3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/registry"
)

const (
	// patience bounds the wait for a change to arrive at a proxy.
	patience = 30 * time.Second
	poll     = 20 * time.Millisecond
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

var _ = BeforeSuite(func(ctx SpecContext) {
	var err error
	theMesh, err = mesh.Start(ctx, mesh.Options{Log: GinkgoWriter, Audited: mesh.OperatorUser})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(theMesh.Stop()).To(Succeed()) })
	admin, err = client.NewWithWatch(theMesh.Admin(), client.Options{Scheme: scheme()})
	Expect(err).NotTo(HaveOccurred())
	Expect(theMesh.InstallOperator(ctx)).To(Succeed())
	startOperator(ctx)
	DeferCleanup(func() { Expect(operator.Stop()).To(Succeed()) })
	DeferCleanup(checkRights)
}, NodeTimeout(30*time.Minute))

func scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, networking.AddToScheme, wasmev1.AddToScheme} {
		Expect(add(s)).To(Succeed())
	}
	return s
}

// startOperator runs the one operator that most specs share.
func startOperator(ctx context.Context) {
	GinkgoHelper()
	var err error
	operator, err = theMesh.StartOperator(ctx, mesh.OperatorOptions{Args: []string{"--image-poll-interval=2s"}})
	Expect(err).NotTo(HaveOccurred())
}

// newNamespace is a namespace of the spec's own.
func newNamespace(ctx context.Context) string {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}}
	Expect(admin.Create(ctx, namespace)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) { Expect(client.IgnoreNotFound(admin.Delete(ctx, namespace))).To(Succeed()) })
	return namespace.Name
}

// run starts a workload that ends with the spec.
func run(ctx context.Context, workload mesh.Workload) *mesh.Running {
	GinkgoHelper()
	running, err := theMesh.StartWorkload(ctx, workload)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func(ctx SpecContext) { Expect(running.Stop(ctx)).To(Succeed()) })
	return running
}

func workload(namespace, name string, labels map[string]string) mesh.Workload {
	return mesh.Workload{Namespace: namespace, Name: name, Labels: labels, Port: 9080, Service: name, NativeSidecar: true}
}

// push stores a test filter in the mesh's registry, in the form that wasme made.
func push(ctx context.Context, filter string) string {
	GinkgoHelper()
	reference := fmt.Sprintf("%s/filters/%s:v1", theMesh.Registry(), filter)
	Expect(registry.Push(ctx, reference, imageOf(build(ctx, filter)))).To(Succeed())
	return reference
}

func build(ctx context.Context, filter string) []byte {
	GinkgoHelper()
	module, err := filters.Build(ctx, filter)
	Expect(err).NotTo(HaveOccurred())
	return module
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
		Spec: wasmev1.FilterDeploymentSpec{Filter: wasmev1.FilterSpec{
			Image:            image,
			ImagePullOptions: &wasmev1.ImagePullOptions{PlainHTTP: true},
		}},
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
	}, patience, poll).Should(Succeed())
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

// answer is what a workload's Envoy answered.
type answer struct {
	Status int
	Hello  string
}

// ask sends one request; the answer is empty when none came.
func ask(ctx context.Context, url string, headers ...string) answer {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return answer{}
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
		if headers[i] == "Host" {
			request.Host = headers[i+1]
		}
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{}
	}
	defer func() { _ = response.Body.Close() }()
	return answer{response.StatusCode, response.Header.Get("hello")}
}

func eventuallyAnswers(ctx context.Context, running *mesh.Running, want answer) {
	GinkgoHelper()
	Eventually(func() answer { return ask(ctx, running.URL) }, patience, poll).Should(Equal(want), running.Workload.Name)
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
