package upgrade

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	wasmev1 "github.com/wasme-io/wasme-operator/api/v1"
	"github.com/wasme-io/wasme-operator/test/filters"
	"github.com/wasme-io/wasme-operator/test/mesh"
	"github.com/wasme-io/wasme-operator/test/mesh/meshtest"
	"github.com/wasme-io/wasme-operator/test/mesh/service"
	"github.com/wasme-io/wasme-operator/test/registry"
)

var (
	theMesh *mesh.Mesh
	admin   client.WithWatch
	// former is the folder with the former version's source, and formerBinary its manager.
	former, formerBinary string
)

func TestUpgrade(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Upgrades")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	var err error
	former = GinkgoT().TempDir()
	Expect(unpackFormer(former)).To(Succeed())
	formerBinary, err = buildFormer(ctx, former)
	Expect(err).NotTo(HaveOccurred())
	theMesh = meshtest.Start(ctx, "")
	admin = theMesh.Client()
}, NodeTimeout(meshtest.StartTimeout))

// installation is two replicas of the operator behind a Service, as config/manager runs them.
type installation struct {
	modules *service.Service
	places  []string // addresses (host:port) of module servers, and so of peers
	next    int
	running []*mesh.Operator
}

// mostReplicas is how many replicas a spec starts, one after another.
const mostReplicas = 8

func newInstallation() *installation {
	GinkgoHelper()
	i := &installation{}
	for range mostReplicas {
		i.places = append(i.places, freeAddress())
	}
	var err error
	i.modules, err = service.Start(freeAddress())
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(i.modules.Stop()).To(Succeed()) })
	return i
}

func freeAddress() string {
	GinkgoHelper()
	address, err := theMesh.FreeAddress()
	Expect(err).NotTo(HaveOccurred())
	return address
}

// start starts a replica of a binary; of this source for an empty one.
func (i *installation) start(ctx context.Context, binary string) *mesh.Operator {
	GinkgoHelper()
	peers := make([]string, 0, len(i.places))
	for _, place := range i.places {
		peers = append(peers, "http://"+place)
	}
	replica, err := theMesh.StartOperator(ctx, mesh.OperatorOptions{
		Name: fmt.Sprint("replica-", i.next), ModuleServer: i.places[i.next], Binary: binary, Preflight: wasmev1.PreflightEnforce,
		Args: []string{
			"--leader-elect", "--image-poll-interval=2s", "--module-server-url=" + i.modules.URL(), "--peers=" + strings.Join(peers, ","),
		},
	})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(replica.Stop()).To(Succeed()) })
	i.next++
	i.running = append(i.running, replica)
	i.serve()
	return replica
}

// serve has sidecars sent to the replicas that run.
func (i *installation) serve() {
	var endpoints []string
	for _, replica := range i.running {
		endpoints = append(endpoints, strings.TrimPrefix(replica.ModuleServerURL, "http://"))
	}
	i.modules.SetEndpoints(endpoints...)
}

// stopOldest ends the oldest replica as a Deployment's controller does: it gets no requests
// any more before it ends.
func (i *installation) stopOldest() {
	GinkgoHelper()
	oldest := i.running[0]
	i.running = i.running[1:]
	i.serve()
	Expect(oldest.Stop()).To(Succeed())
}

// replace replaces the replicas by others, one after the other, and calls between when there
// is one of each.
func (i *installation) replace(ctx context.Context, binary string, between func()) {
	GinkgoHelper()
	i.start(ctx, binary)
	i.stopOldest()
	between()
	i.start(ctx, binary)
	i.stopOldest()
}

func push(ctx context.Context) string {
	GinkgoHelper()
	reference := theMesh.Registry() + "/filters/hello:v1"
	image, err := registry.Image(registry.WasmeArtifact, registry.Module{Bytes: meshtest.Build(ctx, filters.Hello), RootIDs: []string{filters.RootID}})
	Expect(err).NotTo(HaveOccurred())
	Expect(registry.Push(ctx, reference, image)).To(Succeed())
	return reference
}

// run starts a pod of a workload whose object has the label filter.
func run(ctx context.Context, namespace, name, filter string, replica int) *mesh.Running {
	GinkgoHelper()
	return meshtest.Run(ctx, theMesh, mesh.Workload{
		Namespace: namespace, Name: name, Labels: map[string]string{"app": name}, ObjectLabels: map[string]string{"filter": filter},
		Port: 9080, Replica: replica, NativeSidecar: true, AgentMetrics: true,
	})
}

// create creates a FilterDeployment for the workloads with its name in the label filter.
func create(ctx context.Context, namespace, name, image string, output wasmev1.Output) *wasmev1.FilterDeployment {
	GinkgoHelper()
	fd := &wasmev1.FilterDeployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: wasmev1.FilterDeploymentSpec{
			Deployment: wasmev1.DeploymentSpec{Istio: &wasmev1.IstioDeploymentSpec{
				Output: output, Labels: map[string]wasmev1.LabelValue{"filter": wasmev1.LabelValue(name)},
			}},
			Filter:  wasmev1.FilterSpec{Image: image, ImagePullOptions: &wasmev1.ImagePullOptions{PlainHTTP: true}, Config: object("first")},
			Rollout: &wasmev1.RolloutSpec{BakeTime: &metav1.Duration{Duration: 2 * time.Second}},
		},
	}
	Expect(admin.Create(ctx, fd)).To(Succeed())
	return fd
}

// object is a configuration that each kind of output can carry, and answer what the filter says
// with it.
func object(value string) *wasmev1.Configuration {
	return &wasmev1.Configuration{Raw: []byte(answer(value))}
}

func answer(value string) string { return fmt.Sprintf(`{"value":%q}`, value) }

func configure(ctx context.Context, fd *wasmev1.FilterDeployment, value string) {
	GinkgoHelper()
	Eventually(func() error {
		now := live(ctx, fd)
		now.Spec.Filter.Config = object(value)
		return admin.Update(ctx, now)
	}).Should(Succeed())
}

func live(ctx context.Context, fd *wasmev1.FilterDeployment) *wasmev1.FilterDeployment {
	GinkgoHelper()
	var now wasmev1.FilterDeployment
	Expect(admin.Get(ctx, client.ObjectKeyFromObject(fd), &now)).To(Succeed())
	return &now
}

// condition is the status of one of the newest spec; empty: there is none.
func condition(ctx context.Context, fd *wasmev1.FilterDeployment, name string) func() string {
	return func() string {
		now := live(ctx, fd)
		found := apimeta.FindStatusCondition(now.Status.Conditions, name)
		if found == nil || found.ObservedGeneration != now.Generation {
			return ""
		}
		return string(found.Status)
	}
}

// What is reported helps to see why a spec has failed.
var _ = AfterEach(func(ctx SpecContext) {
	if CurrentSpecReport().Failed() {
		status, err := theMesh.Kubectl(ctx, "get", "filterdeployments", "-A", "-o", "yaml")
		GinkgoWriter.Println(status, err)
	}
})
